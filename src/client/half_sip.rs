//! `HalfSipHash`-2-4 of Aumasson and Bernstein, the variant of `SipHash` with words of 32 bits, which even the kernel's
//! packet filters can compute: a keyed hash of 32 bits under a key of 64.

/// The constants with which the state begins, beside the key.
pub const INITIAL: [u32; 4] = [0, 0, 0x6c79_6765, 0x7465_6462];

/// Rounds after each word.
pub const WORD_ROUNDS: usize = 2;

/// Rounds at the end.
pub const FINAL_ROUNDS: usize = 4;

/// What marks the end.
pub const FINAL_MARK: u32 = 0xff;

/// The key's two words, each little-endian.
pub fn key_words(key: [u8; 8]) -> [u32; 2] {
    let (words, _) = key.as_chunks();
    [u32::from_le_bytes(words[0]), u32::from_le_bytes(words[1])]
}

/// The last word of a message: its length modulo 256, and the up to three bytes that fill no word.
pub fn last_word(length: usize, tail: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes[..tail.len()].copy_from_slice(tail);
    bytes[3] = length.to_le_bytes()[0];
    u32::from_le_bytes(bytes)
}

/// The hash of a message that is whole words.
pub fn hash_words(key: [u32; 2], words: &[u32]) -> u32 {
    let mut state = State::new(key);
    for &word in words {
        state.absorb(word);
    }
    state.absorb(last_word(words.len() * 4, &[]));
    state.finish()
}

/// The hash of any message.
pub fn hash_bytes(key: [u32; 2], message: &[u8]) -> u32 {
    let mut state = State::new(key);
    let (words, tail) = message.as_chunks();
    for &word in words {
        state.absorb(u32::from_le_bytes(word));
    }
    state.absorb(last_word(message.len(), tail));
    state.finish()
}

struct State([u32; 4]);

impl State {
    fn new([k0, k1]: [u32; 2]) -> Self {
        let [a, b, c, d] = INITIAL;
        Self([a ^ k0, b ^ k1, c ^ k0, d ^ k1])
    }

    fn absorb(&mut self, word: u32) {
        self.0[3] ^= word;
        self.rounds(WORD_ROUNDS);
        self.0[0] ^= word;
    }

    fn finish(mut self) -> u32 {
        self.0[2] ^= FINAL_MARK;
        self.rounds(FINAL_ROUNDS);
        self.0[1] ^ self.0[3]
    }

    fn rounds(&mut self, count: usize) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        for _ in 0..count {
            v0 = v0.wrapping_add(v1);
            v1 = v1.rotate_left(5) ^ v0;
            v0 = v0.rotate_left(16);
            v2 = v2.wrapping_add(v3);
            v3 = v3.rotate_left(8) ^ v2;
            v0 = v0.wrapping_add(v3);
            v3 = v3.rotate_left(7) ^ v0;
            v2 = v2.wrapping_add(v1);
            v1 = v1.rotate_left(13) ^ v2;
            v2 = v2.rotate_left(16);
        }
        self.0 = [v0, v1, v2, v3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_implementations_vectors() {
        // Key 00 to 07; messages empty, 00, 00 01, and so on.
        let key = key_words([0, 1, 2, 3, 4, 5, 6, 7]);
        let message = [0, 1, 2, 3];
        let expected = [
            [0xa9, 0x35, 0x9f, 0x5b],
            [0x27, 0x47, 0x5a, 0xb8],
            [0xfa, 0x62, 0xa6, 0x03],
            [0x8a, 0xfe, 0xe7, 0x04],
            [0x2a, 0x6e, 0x46, 0x89],
        ];
        for (length, expected) in expected.into_iter().enumerate() {
            assert_eq!(hash_bytes(key, &message[..length]).to_le_bytes(), expected, "{length}");
        }
    }

    #[test]
    fn whole_words_are_bytes_in_little_endian_order() {
        let key = key_words(*b"test key");
        let bytes: [u8; 16] = std::array::from_fn(|n| n.to_le_bytes()[0]);
        let words = [0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c];
        assert_eq!(hash_words(key, &words), hash_bytes(key, &bytes));
        assert_eq!(hash_words(key, &[]), hash_bytes(key, &[]));
    }
}
