//! Where a proxied connection comes from, in the record that travels beside its descriptor. Pure.
//!
//! A record is 20 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | address in network order; an IPv4 address takes the first 4, the rest is zero |
//! | 16 | 2 | port, little-endian |
//! | 18 | 1 | family: 0 not proxied (all else is zero then), 4, 6 |
//! | 19 | 1 | zero |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::frame::Malformed;

/// Bytes of a record.
pub const SOURCE_LEN: usize = 20;

/// The record as bytes.
pub fn encode(source: Option<SocketAddr>) -> [u8; SOURCE_LEN] {
    let mut bytes = [0; SOURCE_LEN];
    if let Some(source) = source {
        match source.ip() {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                bytes[18] = 4;
            }
            IpAddr::V6(v6) => {
                bytes[..16].copy_from_slice(&v6.octets());
                bytes[18] = 6;
            }
        }
        bytes[16..18].copy_from_slice(&source.port().to_le_bytes());
    }
    bytes
}

/// What these bytes say.
pub fn decode(bytes: &[u8; SOURCE_LEN]) -> Result<Option<SocketAddr>, Malformed> {
    let [address @ .., p0, p1, family, 0] = *bytes else { return Err(Malformed) };
    let port = u16::from_le_bytes([p0, p1]);
    match (family, address) {
        (0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) if port == 0 => Ok(None),
        (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => {
            Ok(Some((Ipv4Addr::new(a, b, c, d), port).into()))
        }
        (6, octets) => Ok(Some((Ipv6Addr::from(octets), port).into())),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(v6: u128, v4: u32, port: u16) {
            for address in [IpAddr::V6(Ipv6Addr::from_bits(v6)), IpAddr::V4(Ipv4Addr::from_bits(v4))] {
                let source = Some(SocketAddr::new(address, port));
                prop_assert_eq!(decode(&encode(source)), Ok(source));
            }
            prop_assert_eq!(decode(&encode(None)), Ok(None));
        }

        #[test]
        fn arbitrary_bytes_are_a_record_or_malformed_and_a_record_has_one_spelling(
            mut bytes: [u8; SOURCE_LEN], family in 0..8_u8, short: bool,
        ) {
            bytes[18] = family;
            bytes[19] &= 1;
            if short {
                bytes[4..16].fill(0);
            }
            if let Ok(source) = decode(&bytes) {
                prop_assert_eq!(encode(source), bytes);
            }
        }
    }
}
