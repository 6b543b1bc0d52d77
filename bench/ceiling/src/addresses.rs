//! Loopback addresses of clients that fall into slots of choice.

use std::net::{IpAddr, Ipv4Addr};

use sticky_listen::client::address::Ipv6Prefix;
use sticky_listen::client::hash::{self, ClientHasher};

/// Any key: the addresses are chosen with it.
pub fn hasher() -> ClientHasher {
    ClientHasher::new(*b"a bench!", Ipv6Prefix::FULL)
}

/// The first `count` addresses whose slot, of `slots`, is one that `wanted` says.
pub fn in_slots(count: usize, slots: u32, wanted: impl Fn(u32) -> bool) -> Vec<Ipv4Addr> {
    let hasher = hasher();
    (1_u32..)
        .map(|n| Ipv4Addr::from(0x7f00_0000 | (n.wrapping_mul(0x9e_3779) & 0xff_ffff)))
        .filter(|&ip| hash::slot(hasher.hash(Some(IpAddr::V4(ip))), slots).is_some_and(&wanted))
        .take(count)
        .collect()
}
