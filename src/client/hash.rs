//! From a client to its slot.
//!
//! The algorithm, so that another program with the same key gets the same slot (the kernel does, by
//! [a program](crate::primary::kernel::program) that we give it):
//!
//! 1. [`HalfSipHash`-2-4](super::half_sip) (32 bits) under the first 8 bytes of the key, over the address after
//!    [`canonical`](super::address::canonical) as its one (IPv4) or four (IPv6) words of 32 bits, the first one first,
//!    the bytes of each in reverse. A client without an address (a peer on a unix socket) is the empty
//!    message; one that a header names by anything but an address is that name after 17 zero bytes, so that it is never
//!    an address.
//! 2. A jump consistent hash in integers, after Lamping and Veach (2014): the hash is the seed of a linear congruential
//!    generator modulo 2^32, and the client begins in slot 0. For each further slot `j` the next number is drawn, and
//!    the client moves to that slot if it is below 2^32 / (j + 1). So when the count goes from n to n + 1, one client
//!    in n + 1 moves, and only to the new slot.

use std::net::IpAddr;

use super::address::{Ipv6Prefix, canonical};
use super::half_sip;

/// A client as a uniformly distributed number. Without the key nobody can tell or choose it.
pub type ClientHash = u32;

/// The generator: a multiplier that L'Ecuyer (1999) found good for this modulus, and any odd increment.
pub const MULTIPLIER: u32 = 1_597_334_677;
/// See [`MULTIPLIER`].
pub const INCREMENT: u32 = 2_891_336_453;

/// Hashes clients under a secret key.
#[derive(Clone)]
pub struct ClientHasher {
    key: [u32; 2],
    prefix: Ipv6Prefix,
}

impl ClientHasher {
    /// A hasher that tells IPv6 clients apart by the first `prefix` bits.
    pub fn new(key: [u8; 8], prefix: Ipv6Prefix) -> Self {
        Self { key: half_sip::key_words(key), prefix }
    }

    /// The client at `peer`; `None` is a peer without an address.
    pub fn hash(&self, peer: Option<IpAddr>) -> ClientHash {
        match peer.map(|address| canonical(address, self.prefix)) {
            Some(IpAddr::V4(v4)) => half_sip::hash_words(self.key, &[v4.to_bits()]),
            Some(IpAddr::V6(v6)) => half_sip::hash_words(self.key, &words(v6.to_bits())),
            None => half_sip::hash_words(self.key, &[]),
        }
    }

    /// The client of this name, which is no address.
    pub fn hash_name(&self, name: &[u8]) -> ClientHash {
        half_sip::hash_bytes(self.key, &[&[0; 17], name].concat())
    }

    /// The key's words.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// What remains of each word of an IPv6 address.
    pub fn masks(&self) -> [u32; 4] {
        words(self.prefix.mask())
    }
}

/// The four words of an IPv6 address.
#[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]
fn words(address: u128) -> [u32; 4] {
    [96, 64, 32, 0].map(|shift| (address >> shift) as u32)
}

/// The slot, below `slots`, that serves the client; `None` when there are no slots.
pub fn slot(client: ClientHash, slots: u32) -> Option<u32> {
    let mut chosen = (slots > 0).then_some(0);
    let mut drawn = client;
    for slot in 1..slots {
        drawn = drawn.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        if drawn < threshold(slot) {
            chosen = Some(slot);
        }
    }
    chosen
}

/// Below which a number moves a client to `slot`, which is not 0.
pub fn threshold(slot: u32) -> u32 {
    u32::try_from((1_u64 << 32) / (u64::from(slot) + 1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts and samples are small, or cut on purpose"
)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const KEY: [u8; 8] = *b"test key";

    /// The upper 0.1 % point of chi-square with `df` degrees of freedom (Wilson and Hilferty).
    fn chi_square_limit(df: u32) -> f64 {
        let df = f64::from(df);
        let spread = 2.0 / (9.0 * df);
        df * (1.0 - spread + 3.0902 * spread.sqrt()).powi(3)
    }

    fn chi_square(counts: &[u32]) -> f64 {
        let total: u32 = counts.iter().sum();
        let expected = f64::from(total) / counts.len() as f64;
        counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
    }

    /// A fixed pseudo-random sequence (splitmix64), so that a failure repeats.
    fn random(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    fn populations() -> Vec<(&'static str, Vec<IpAddr>)> {
        const CLIENTS: usize = 20_000;
        let sequential =
            (0..CLIENTS as u32).map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)));
        let random_v4 = random(4).map(|n| IpAddr::V4(Ipv4Addr::from_bits(n as u32))).take(CLIENTS);
        let halves: Vec<u64> = random(6).take(2 * CLIENTS).collect();
        let random_v6 = halves
            .chunks(2)
            .map(|half| u128::from(half[0]) << 64 | u128::from(half[1]))
            .map(|n| IpAddr::V6(Ipv6Addr::from_bits(n)));
        vec![
            ("sequential IPv4", sequential.collect()),
            ("random IPv4", random_v4.collect()),
            ("random full-length IPv6", random_v6.collect()),
        ]
    }

    #[test]
    fn guarantee_2_even_chi_square_passes_for_2_to_64_slots() {
        let hasher = ClientHasher::new(KEY, Ipv6Prefix::FULL);
        for (name, clients) in populations() {
            for slots in 2..=64 {
                let mut counts = vec![0; slots as usize];
                for &client in &clients {
                    counts[slot(hasher.hash(Some(client)), slots).unwrap() as usize] += 1;
                }
                let (value, limit) = (chi_square(&counts), chi_square_limit(slots - 1));
                assert!(value < limit, "{name}, {slots} slots: chi-square {value} over {limit}");
            }
        }
    }

    #[test]
    fn guarantee_2_even_one_more_slot_moves_few_clients_and_only_to_itself() {
        let hasher = ClientHasher::new(KEY, Ipv6Prefix::FULL);
        for (name, clients) in populations() {
            for slots in 1..=63 {
                let mut moved = 0_u32;
                for &client in &clients {
                    let hash = hasher.hash(Some(client));
                    let (before, after) =
                        (slot(hash, slots).unwrap(), slot(hash, slots + 1).unwrap());
                    if before != after {
                        assert_eq!(after, slots, "{name}: a client moved between old slots");
                        moved += 1;
                    }
                }
                let share = f64::from(moved) / clients.len() as f64;
                let limit = 1.3 / f64::from(slots + 1);
                assert!(share <= limit, "{name}, {slots} slots: {share} moved, over {limit}");
            }
        }
    }

    #[test]
    fn guarantee_1_sticky_a_mapped_address_is_the_same_client() {
        let hasher = ClientHasher::new(KEY, Ipv6Prefix::new(56).unwrap());
        for n in random(1).take(1000) {
            let v4 = Ipv4Addr::from_bits(n as u32);
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            assert_eq!(hasher.hash(Some(IpAddr::V4(v4))), hasher.hash(Some(mapped)));
        }
    }

    #[test]
    fn guarantee_3_keyed_another_key_gives_other_slots() {
        let [a, b] = [KEY, *b"2nd key."].map(|key| ClientHasher::new(key, Ipv6Prefix::FULL));
        let clients = &populations()[0].1;
        let same = clients
            .iter()
            .filter(|&&client| slot(a.hash(Some(client)), 4) == slot(b.hash(Some(client)), 4))
            .count();
        // Two unrelated keys agree on about a quarter.
        assert!((4000..6000).contains(&same), "{same} of {} agree", clients.len());
    }

    #[test]
    fn the_algorithm_stays_what_the_documentation_says() {
        // Two vectors of HalfSipHash-2-4's reference implementation: key 00 to 07; empty, and 00 01 02 03.
        let hasher = ClientHasher::new([0, 1, 2, 3, 4, 5, 6, 7], Ipv6Prefix::FULL);
        assert_eq!(hasher.hash(None), 0x5b9f_35a9);
        assert_eq!(hasher.hash(Some(IpAddr::V4(Ipv4Addr::new(3, 2, 1, 0)))), 0x8946_6e2a);
        let v6 = Ipv6Addr::from_bits(0x0302_0100_0706_0504_0b0a_0908_0f0e_0d0c);
        let bytes: [u8; 16] = std::array::from_fn(|n| n as u8);
        assert_eq!(hasher.hash(Some(v6.into())), half_sip::hash_bytes(hasher.key, &bytes));
        assert_eq!(slot(7, 0), None);
        assert_eq!(slot(7, 1), Some(0));
        // 7 * 1597334677 + 2891336453 is 1187777304 modulo 2^32, which is below a half of that.
        assert_eq!(slot(7, 2), Some(1));
    }
}
