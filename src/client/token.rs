//! Tokens that name slots. A session keeps the token of its slot and shows it with each request.
//!
//! The format, so that another program with the same key reads them: 12 bytes as 16 characters of base64 for URLs
//! (RFC 4648, 5). The first 8 bytes are the tag, [`SipHash`](SipHasher24)-2-4 of the slot's 4 bytes, little-endian. The
//! other 4 are the slot, under a mask that is the first half of the hash of the tag. So a token is one slot's, always the
//! same, says nothing without the key, and a guess is right once in 2^64 times.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher24;

/// Bytes of the key.
pub const KEY_LEN: usize = 16;

/// Characters of a token.
pub const TOKEN_LEN: usize = 16;

const TAG_LEN: usize = 8;
const BYTES: usize = TAG_LEN + 4;

/// Makes tokens and reads them, under a secret key.
#[derive(Clone)]
pub struct Tokens {
    hasher: SipHasher24,
}

impl Tokens {
    /// With this key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self { hasher: SipHasher24::new_with_key(key) }
    }

    /// The token of a slot.
    pub fn token(&self, slot: u32) -> String {
        let tag = self.tag(slot);
        let mut bytes = [0; BYTES];
        bytes[..TAG_LEN].copy_from_slice(&tag);
        bytes[TAG_LEN..].copy_from_slice(&self.masked(slot, tag).to_le_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The slot of a token that is the whole of `value`, or what follows its last dot; `None` if that is no token of this
    /// key.
    pub fn slot(&self, value: &[u8]) -> Option<u32> {
        let start = value.iter().rposition(|&byte| byte == b'.').map_or(0, |dot| dot + 1);
        let token = &value[start..];
        if token.len() != TOKEN_LEN {
            return None;
        }
        let mut bytes = [0; BYTES];
        URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
        let (tag, masked) = bytes.split_first_chunk::<TAG_LEN>()?;
        let slot = self.masked(u32::from_le_bytes(masked.try_into().ok()?), *tag);
        (self.tag(slot) == *tag).then_some(slot)
    }

    fn tag(&self, slot: u32) -> [u8; TAG_LEN] {
        self.hasher.hash(&slot.to_le_bytes()).to_le_bytes()
    }

    /// Masks a slot, or unmasks it. The tag's hash never is another tag: messages of other lengths have other hashes.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    fn masked(&self, slot: u32, tag: [u8; TAG_LEN]) -> u32 {
        slot ^ self.hasher.hash(&tag) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> Tokens {
        Tokens::new(b"0123456789abcdef")
    }

    #[test]
    fn the_format_stays_what_the_documentation_says() {
        // A vector of SipHash-2-4's reference implementation: key 00 to 0f, message 00 01 02 03.
        let tokens = Tokens::new(&std::array::from_fn(|n| n.to_le_bytes()[0]));
        let tag = [0xb7, 0x87, 0x71, 0x27, 0xe0, 0x94, 0x27, 0xcf];
        let slot = 0x0302_0100;
        assert_eq!(tokens.tag(slot), tag);
        let token = tokens.token(slot);
        assert_eq!(token.len(), TOKEN_LEN);
        assert_eq!(URL_SAFE_NO_PAD.decode(&token).unwrap()[..TAG_LEN], tag);
    }

    #[test]
    fn a_token_is_the_whole_value_or_follows_its_last_dot() {
        let tokens = tokens();
        let token = tokens.token(3);
        for value in
            [token.clone(), format!("id.{token}"), format!("a.b.{token}"), format!(".{token}")]
        {
            assert_eq!(tokens.slot(value.as_bytes()), Some(3), "{value}");
        }
        for value in [
            String::new(),
            ".".to_owned(),
            format!("{token}."),
            format!("{token}.id"),
            format!("x{token}"),
            format!(" {token}"),
            format!("{token}="),
            token[1..].to_owned(),
        ] {
            assert_eq!(tokens.slot(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn a_token_of_another_key_counts_for_nothing() {
        let other = Tokens::new(b"another key here");
        for slot in 0..1000 {
            assert_eq!(tokens().slot(other.token(slot).as_bytes()), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_made_is_read(slot: u32) {
            prop_assert_eq!(tokens().slot(tokens().token(slot).as_bytes()), Some(slot));
        }

        #[test]
        fn a_token_has_one_spelling(slot: u32, at in 0..TOKEN_LEN, with in 1_u8..=255) {
            let mut token = tokens().token(slot).into_bytes();
            token[at] ^= with;
            prop_assert_eq!(tokens().slot(&token), None);
        }

        #[test]
        fn arbitrary_bytes_are_no_token(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(tokens().slot(&bytes), None);
        }
    }
}
