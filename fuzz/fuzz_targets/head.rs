//! Arbitrary bytes as the head of a request, in two pieces: never a panic, and what the first piece says for
//! sure the rest does not change.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sticky_listen::client::http_head::{Found, find};

const NAME: &str = "x-forwarded-for";

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    let whole = find(bytes, NAME);
    assert_eq!(whole, find(bytes, "X-Forwarded-For"));
    let part = &bytes[..cut % (bytes.len() + 1)];
    let early = find(part, NAME);
    if early != Found::Incomplete {
        assert_eq!(early, whole);
    }
    if let Found::Lines(lines) = whole {
        for line in lines {
            assert!(bytes.as_ptr_range().contains(&line.as_ptr()) || line.is_empty());
            assert!(!line.contains(&b'\n'));
        }
    }
});
