//! From a client to its slot.
//!
//! The algorithm, so that another program with the same key gets the same slot:
//!
//! 1. `SipHash-2-4` (64 bits) under a 128-bit key, over the 4 bytes of an IPv4 address or the 16
//!    bytes of an IPv6 address in network order, after [`canonical`](super::address::canonical). A
//!    client without an address (a peer on a unix socket) is the empty message; one that a header names
//!    by anything but an address is that name after 17 zero bytes, so that it is never an address.
//! 2. The jump consistent hash of Lamping and Veach (2014) over that number and the slot count:
//!    when the count goes from n to n + 1, one client in n + 1 moves, and only to the new slot.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::address::{Ipv6Prefix, canonical};

/// A client as a uniformly distributed number. Without the key nobody can tell or choose it.
pub type ClientHash = u64;

/// Hashes clients under a secret key.
#[derive(Clone)]
pub struct ClientHasher {
    keyed: SipHasher24,
    prefix: Ipv6Prefix,
}

impl ClientHasher {
    /// A hasher that tells IPv6 clients apart by the first `prefix` bits.
    pub fn new(key: &[u8; 16], prefix: Ipv6Prefix) -> Self {
        Self { keyed: SipHasher24::new_with_key(key), prefix }
    }

    /// The client at `peer`; `None` is a peer without an address.
    pub fn hash(&self, peer: Option<IpAddr>) -> ClientHash {
        let mut hasher = self.keyed;
        match peer.map(|address| canonical(address, self.prefix)) {
            Some(IpAddr::V4(v4)) => hasher.write(&v4.octets()),
            Some(IpAddr::V6(v6)) => hasher.write(&v6.octets()),
            None => {}
        }
        hasher.finish()
    }

    /// The client of this name, which is no address.
    pub fn hash_name(&self, name: &[u8]) -> ClientHash {
        let mut hasher = self.keyed;
        hasher.write(&[0; 17]);
        hasher.write(name);
        hasher.finish()
    }
}

/// The slot, below `slots`, that serves the client; `None` when there are no slots.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the published algorithm divides in floating point; the quotient is never negative"
)]
pub fn slot(client: ClientHash, slots: u32) -> Option<u32> {
    let mut state = client;
    let mut chosen = None;
    let mut next: u64 = 0;
    while next < u64::from(slots) {
        chosen = Some(next as u32);
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let draw = ((state >> 33) + 1) as f64;
        next = ((next + 1) as f64 * ((1_u64 << 31) as f64 / draw)) as u64;
    }
    chosen
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

    const KEY: [u8; 16] = *b"a key for tests!";

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
        let hasher = ClientHasher::new(&KEY, Ipv6Prefix::FULL);
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
        let hasher = ClientHasher::new(&KEY, Ipv6Prefix::FULL);
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
        let hasher = ClientHasher::new(&KEY, Ipv6Prefix::new(56).unwrap());
        for n in random(1).take(1000) {
            let v4 = Ipv4Addr::from_bits(n as u32);
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            assert_eq!(hasher.hash(Some(IpAddr::V4(v4))), hasher.hash(Some(mapped)));
        }
    }

    #[test]
    fn guarantee_3_keyed_another_key_gives_other_slots() {
        let [a, b] =
            [&KEY, b"another test key"].map(|key| ClientHasher::new(key, Ipv6Prefix::FULL));
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
        // Reference values: SipHash-2-4's own test vector (key 00..0f, empty message), and the
        // slots of the published jump hash.
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let hasher = ClientHasher::new(&key, Ipv6Prefix::FULL);
        assert_eq!(hasher.hash(None), 0x726f_db47_dd0e_0e31);
        // 4-byte message 00 01 02 03: the fifth vector of the same table.
        assert_eq!(hasher.hash(Some(IpAddr::V4(Ipv4Addr::new(0, 1, 2, 3)))), 0xcf27_94e0_2771_87b7);
        assert_eq!(slot(1, 1), Some(0));
        assert_eq!(slot(42, 57), Some(43));
        assert_eq!(slot(0xdead_10cc, 1), Some(0));
        assert_eq!(slot(0xdead_10cc, 666), Some(361));
        assert_eq!(slot(256, 1024), Some(520));
        assert_eq!(slot(7, 0), None);
    }
}
