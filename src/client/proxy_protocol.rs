//! Reads the PROXY protocol header, version 1 or 2, with which a connection begins.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult as _, v1, v2};

/// Bytes of the longest header of version 1, with the end of its line.
const V1_MAX: usize = 107;

/// What the connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The header is not whole yet.
    Incomplete,
    /// This is no header, and nothing that follows can make it one.
    Invalid,
    /// A header.
    Header {
        /// Its bytes, all of them.
        length: usize,
        /// Where the proxied connection comes from. `None` where the proxy speaks for itself (`LOCAL`),
        /// does not know (`UNKNOWN`), or means no IP address (unix): then the connection's own peer
        /// counts, as the protocol has it.
        source: Option<SocketAddr>,
    },
}

/// Reads the header at the start of `bytes`.
pub fn read(bytes: &[u8]) -> Found {
    if begins(bytes, v2::PROTOCOL_PREFIX) {
        read_v2(bytes)
    } else if begins(bytes, b"PROXY ") {
        read_v1(bytes)
    } else {
        Found::Invalid
    }
}

/// Whether `bytes` begins with `prefix`, as far as it goes.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(a, b)| a == b)
}

/// The parser is given whole lines only: it takes some partial ones for wrong.
fn read_v1(bytes: &[u8]) -> Found {
    let within = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < V1_MAX { Found::Incomplete } else { Found::Invalid };
    };
    let line = &bytes[..=end];
    // The parser wants no CR after a trailing space of some lines.
    if !line.ends_with(b"\r\n") {
        return Found::Invalid;
    }
    // What else may stand in such a line is to be ignored; the parser counts its words.
    if line.starts_with(b"PROXY UNKNOWN ") {
        return Found::Header { length: line.len(), source: None };
    }
    let Ok(header) = v1::Header::try_from(line) else { return Found::Invalid };
    let source = match header.addresses {
        v1::Addresses::Tcp4(v4) => Some((IpAddr::V4(v4.source_address), v4.source_port)),
        v1::Addresses::Tcp6(v6) => Some((IpAddr::V6(v6.source_address), v6.source_port)),
        v1::Addresses::Unknown => None,
    };
    // It takes the first CR for the end of the line, and a sign for part of a number.
    if header.header.len() != line.len() || (source.is_some() && line.contains(&b'+')) {
        return Found::Invalid;
    }
    Found::Header { length: line.len(), source: source.map(SocketAddr::from) }
}

fn read_v2(bytes: &[u8]) -> Found {
    let result = v2::Header::try_from(bytes);
    let incomplete = result.is_incomplete();
    let Ok(header) = result else {
        return if incomplete { Found::Incomplete } else { Found::Invalid };
    };
    let source = match header.addresses {
        _ if header.command == v2::Command::Local => None,
        v2::Addresses::IPv4(v4) => Some((IpAddr::V4(v4.source_address), v4.source_port)),
        v2::Addresses::IPv6(v6) => Some((IpAddr::V6(v6.source_address), v6.source_port)),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    Found::Header { length: header.len(), source: source.map(SocketAddr::from) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(length: usize, source: Option<&str>) -> Found {
        Found::Header { length, source: source.map(|source| source.parse().unwrap()) }
    }

    fn v2_header(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, payload].concat()
    }

    fn v4_payload() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x34, 0x01, 0xbb]
    }

    #[test]
    fn version_1_names_its_client() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.7 4660 443\r\n", Some("192.0.2.1:4660")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 65535 0\r\n", Some("[2001:db8::1]:65535")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:f::1 whatever + it says\r\n", None),
        ] {
            let bytes = format!("{line}GET / HTTP/1.1\r\n\r\n");
            assert_eq!(read(bytes.as_bytes()), header(line.len(), source), "{line}");
        }
    }

    #[test]
    fn a_wrong_version_1_header_is_invalid() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWN ffff::1 ffff::2 65535 \n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Found::Invalid, "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(93));
        assert_eq!(endless.len(), V1_MAX);
        assert_eq!(read(endless.as_bytes()), Found::Invalid);
        assert_eq!(read(&endless.as_bytes()[..V1_MAX - 1]), Found::Incomplete);
    }

    #[test]
    fn version_2_names_its_client() {
        let tlvs = [v4_payload(), vec![0x04, 0, 3, 1, 2, 3], vec![0xea, 0, 1, 9]].concat();
        let v6 = [[0x20, 1, 0xd, 0xb8].as_slice(), &[0; 11], &[1], &[0; 16], &[0xff, 0xff, 0, 80]]
            .concat();
        for (bytes, source) in [
            (v2_header(1, 0x11, &v4_payload()), Some("192.0.2.1:4660")),
            (v2_header(1, 0x12, &v4_payload()), Some("192.0.2.1:4660")),
            (v2_header(1, 0x11, &tlvs), Some("192.0.2.1:4660")),
            (v2_header(1, 0x21, &v6), Some("[2001:db8::1]:65535")),
            (v2_header(1, 0x31, &[b'/'; 216]), None),
            (v2_header(1, 0x00, &[1, 2, 3]), None),
            (v2_header(0, 0x00, &[]), None),
            (v2_header(0, 0x11, &v4_payload()), None),
        ] {
            let length = bytes.len();
            assert_eq!(read(&[bytes, b"GET /".to_vec()].concat()), header(length, source));
        }
    }

    #[test]
    fn a_wrong_version_2_header_is_invalid() {
        let mut version = v2_header(1, 0x11, &v4_payload());
        version[12] = 0x31;
        for bytes in [
            version,
            v2_header(2, 0x11, &v4_payload()),
            v2_header(1, 0x41, &v4_payload()),
            v2_header(1, 0x13, &v4_payload()),
            v2_header(1, 0x11, &[1, 2, 3]),
        ] {
            assert_eq!(read(&bytes), Found::Invalid, "{}", bytes.escape_ascii());
        }
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<(u32, u32, u16, u16)>().prop_map(|(a, b, c, d)| {
                let [a, b] = [a, b].map(std::net::Ipv4Addr::from_bits);
                format!("PROXY TCP4 {a} {b} {c} {d}\r\n").into_bytes()
            }),
            any::<(u128, u128, u16, u16)>().prop_map(|(a, b, c, d)| {
                let [a, b] = [a, b].map(std::net::Ipv6Addr::from_bits);
                format!("PROXY TCP6 {a} {b} {c} {d}\r\n").into_bytes()
            }),
            "PROXY UNKNOWN[ -~]{0,40}\r\n".prop_map(String::into_bytes),
            (0..=3_u8, 0..0x34_u8, prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(command, family, payload)| v2_header(command, family, &payload)),
        ]
    }

    proptest! {
        #[test]
        fn splitting_a_header_anywhere_never_changes_the_answer(header in headers(), rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = [header, rest].concat();
            let whole = read(&bytes);
            for cut in 0..bytes.len() {
                let part = read(&bytes[..cut]);
                prop_assert!(part == Found::Incomplete || part == whole, "at {}: {:?}, {:?}", cut, part, whole);
            }
        }

        #[test]
        fn near_misses_and_arbitrary_bytes_never_panic(header in headers(), at: prop::sample::Index, byte: u8) {
            let mut bytes = header;
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let whole = read(&bytes);
            for cut in 0..bytes.len() {
                let part = read(&bytes[..cut]);
                prop_assert!(part == Found::Incomplete || part == whole, "at {}: {:?}, {:?}", cut, part, whole);
            }
            if let Found::Header { length, .. } = whole {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
