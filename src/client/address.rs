//! One spelling for each client address, so that one client always hashes alike.

use std::net::{IpAddr, Ipv6Addr};

/// How many leading bits of an IPv6 address tell clients apart: 1 to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Prefix(u8);

impl Ipv6Prefix {
    /// The whole address.
    pub const FULL: Self = Self(128);

    /// `None` unless `bits` is 1 to 128.
    pub fn new(bits: u8) -> Option<Self> {
        (1..=128).contains(&bits).then_some(Self(bits))
    }

    /// Ones for the bits that count.
    pub fn mask(self) -> u128 {
        // There is at least one, so the shift stays below the width.
        u128::MAX << (128 - u32::from(self.0))
    }
}

/// The canonical form of a client's address: IPv4-mapped IPv6 becomes IPv4, and IPv6 keeps its
/// first `prefix` bits. A zone (`%eth0`) is no part of an [`IpAddr`] and so never counts.
pub fn canonical(address: IpAddr, prefix: Ipv6Prefix) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & prefix.mask())),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mapped: IpAddr = "::ffff:1.2.3.4".parse().unwrap();
        let plain: IpAddr = "1.2.3.4".parse().unwrap();
        for bits in 1..=128 {
            let prefix = Ipv6Prefix::new(bits).unwrap();
            assert_eq!(canonical(mapped, prefix), plain);
        }
    }

    #[test]
    fn a_prefix_has_1_to_128_bits() {
        assert_eq!(Ipv6Prefix::new(0), None);
        assert_eq!(Ipv6Prefix::new(129), None);
        assert_eq!(Ipv6Prefix::new(128), Some(Ipv6Prefix::FULL));
    }

    proptest! {
        #[test]
        fn addresses_of_one_prefix_are_one_client(base: u128, noise: u128, bits in 1_u8..=128) {
            let keep = u128::MAX << (128 - u32::from(bits));
            let prefix = Ipv6Prefix::new(bits).unwrap();
            let other = (base & keep) | (noise & !keep);
            let [a, b] = [base, other].map(|n| IpAddr::V6(Ipv6Addr::from_bits(n)));
            // A mapped address is IPv4, whose every bit counts.
            prop_assume!(a.to_canonical().is_ipv6() && b.to_canonical().is_ipv6());
            prop_assert_eq!(canonical(a, prefix), canonical(b, prefix));
        }

        #[test]
        fn different_full_addresses_stay_different(a: u128, b: u128) {
            prop_assume!(a != b);
            let [a, b] = [a, b].map(|n| canonical(IpAddr::V6(Ipv6Addr::from_bits(n)), Ipv6Prefix::FULL));
            prop_assert_ne!(a, b);
        }
    }
}
