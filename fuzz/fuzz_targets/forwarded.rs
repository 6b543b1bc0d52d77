//! Arbitrary bytes as the lines of a header, in both syntaxes, and every kind of trust in them: never a panic,
//! and whom they name is in them.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use sticky_listen::client::forwarded::{Node, Syntax};
use sticky_listen::client::trust::{Named, Trust, networks};

fuzz_target!(|input: (Option<u32>, u8, &[u8])| {
    let (peer, hops, bytes) = input;
    let peer = peer.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let lines: Vec<_> = bytes.split(|&byte| byte == b'\n').collect();
    let trusted = ["loopback", "uniquelocal", "2001:db8::/32"];
    let trusted = Trust::Networks(trusted.into_iter().filter_map(networks).flatten().collect());
    for syntax in [Syntax::List, Syntax::Forwarded] {
        let way = syntax.nodes(&lines);
        // Lines are one list, wherever they are cut.
        let each = lines.iter().flat_map(|line| syntax.nodes(&[line]));
        assert!(way.iter().copied().eq(each));
        for trust in [Trust::All, Trust::Hops(usize::from(hops)), trusted.clone()] {
            let named = trust.choose(peer, &way);
            match named {
                Named::Address(address) => assert!(way.contains(&Node::Address(address))),
                Named::Other(name) => assert!(way.contains(&Node::Other(name))),
                Named::Whole => assert!(trust == Trust::All && !way.is_empty()),
                Named::Peer => {
                    assert!(way.is_empty() || way.contains(&Node::Unnamed) || !trust.includes(peer));
                }
            }
            // Before the client, nobody's word counts.
            if let (Trust::Networks(_), Named::Address(address)) = (&trust, named) {
                assert!(!trust.includes(Some(address)) || way[0] == Node::Address(address));
            }
        }
    }
});
