//! Arbitrary bytes as the head of a request, in two pieces: never a panic, and what the first piece says for
//! sure the rest does not change.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sticky_listen::client::http_head::{Found, read};

/// The target, and the lines of a header.
fn find(bytes: &[u8], name: &str) -> Found<(String, Vec<Vec<u8>>)> {
    read(bytes, |head| (head.target.to_owned(), head.lines(name).map(<[u8]>::to_vec).collect()))
}

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    let whole = find(bytes, "x-forwarded-for");
    assert_eq!(whole, find(bytes, "X-Forwarded-For"));
    let part = &bytes[..cut % (bytes.len() + 1)];
    let early = find(part, "x-forwarded-for");
    if early != Found::Incomplete {
        assert_eq!(early, whole);
    }
    if let Found::Whole((target, lines)) = whole {
        assert!(!target.contains([' ', '\r', '\n']));
        assert!(lines.iter().all(|line| !line.contains(&b'\n')));
    }
});
