//! Arbitrary bytes as the start of a connection, in two pieces: never a panic, what the first piece says for
//! sure the rest does not change, and no more is taken off than is there.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use sticky_listen::client::address::Ipv6Prefix;
use sticky_listen::client::hash::ClientHasher;
use sticky_listen::client::identify::{Client, Identifier, Look, NamingHeader, Stage};
use sticky_listen::client::proxy_protocol::{Found, read};
use sticky_listen::client::trust::{Trust, networks};

/// Bytes of a header of version 2 before its addresses.
const V2_HEAD: usize = 16;

/// The client and how many bytes are not for the worker; `None` where it is turned away.
type End = Option<(Client, Option<SocketAddr>, usize)>;

/// Follows a connection of which so many bytes are there, and then all.
fn follow(rules: &Identifier, bytes: &[u8], there: &[usize]) -> End {
    let mut peer = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (mut stage, mut from, mut client) = (rules.first_stage(), 0, None);
    for (n, &to) in there.iter().enumerate() {
        loop {
            match rules.look(stage, peer, &bytes[from.min(to)..to], n + 1 == there.len()) {
                Look::More => break,
                Look::Client(found) => return Some((found, client, from)),
                Look::Invalid => return None,
                Look::ProxyHeader { length, source } => {
                    assert_eq!(stage, Stage::ProxyHeader);
                    assert!(length > 0 && from + length <= to);
                    from += length;
                    peer = source.map(|source| source.ip()).or(peer);
                    client = source;
                    stage = Stage::Request;
                }
            }
        }
    }
    unreachable!("the last look decides")
}

fuzz_target!(|input: (usize, u8, &[u8])| {
    let (cut, way, bytes) = input;
    let cut = cut % (bytes.len() + 1);
    let whole = read(bytes);
    let early = read(&bytes[..cut]);
    assert!(early == Found::Incomplete || early == whole);
    if let Found::Header { length, .. } = whole {
        assert!(length <= bytes.len());
        if bytes[0] == b'P' {
            assert!(bytes[..length].ends_with(b"\r\n") && length <= 107);
        } else {
            let says = u16::from_be_bytes([bytes[14], bytes[15]]);
            assert_eq!(length, V2_HEAD + usize::from(says));
        }
        // The header alone says the same, and its part nothing.
        assert_eq!(read(&bytes[..length]), whole);
        assert_eq!(read(&bytes[..length - 1]), Found::Incomplete);
    }
    let trust = match way % 4 {
        0 => Trust::All,
        1 => Trust::Hops(usize::from(way >> 4)),
        2 => Trust::Networks(networks("127.0.0.1").unwrap()),
        _ => Trust::Networks(networks("uniquelocal").unwrap()),
    };
    let header = match way >> 2 & 3 {
        0 => None,
        1 => Some("forwarded"),
        _ => Some("x-forwarded-for"),
    };
    for proxy_protocol in [false, true] {
        let rules = Identifier {
            hasher: ClientHasher::new(*b"test key", Ipv6Prefix::FULL),
            header: header.map(NamingHeader::new),
            trust: trust.clone(),
            proxy_protocol,
            sessions: None,
        };
        let end = follow(&rules, bytes, &[bytes.len()]);
        assert_eq!(follow(&rules, bytes, &[cut, bytes.len()]), end);
    }
});
