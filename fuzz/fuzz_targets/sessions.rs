//! Arbitrary bytes as a request that shows a session, in two pieces: never a panic; what the first piece says for sure the
//! rest does not change; and a slot is never found without its token.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sticky_listen::client::address::Ipv6Prefix;
use sticky_listen::client::hash::ClientHasher;
use sticky_listen::client::identify::{Identifier, Look, Stage};
use sticky_listen::client::sessions::Sessions;
use sticky_listen::client::token::Tokens;
use sticky_listen::client::trust::Trust;

const SLOT: u32 = 7;

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    let tokens = Tokens::new(b"0123456789abcdef");
    let token = tokens.token(SLOT);
    // No fuzzer finds a token by itself.
    let parts: Vec<&[u8]> = bytes.split(|&byte| byte == b'#').collect();
    let with_tokens = parts.join(token.as_bytes());
    assert!(tokens.slot(bytes).is_none());
    let sessions = Sessions {
        tokens,
        query: Some("sid".to_owned()),
        cookie: Some("sticky".to_owned()),
        fall_back_to_address: cut % 2 == 0,
        slots: SLOT + 1,
    };
    let rules = Identifier {
        hasher: ClientHasher::new(*b"fuzz key", Ipv6Prefix::FULL),
        header: None,
        trust: Trust::All,
        proxy_protocol: false,
        sessions: Some(sessions),
    };
    let look = |bytes: &[u8], last| rules.look(Stage::Request, None, bytes, last);
    let whole = look(&with_tokens, true);
    let early = look(&with_tokens[..cut % (with_tokens.len() + 1)], false);
    assert!(early == Look::More || early == whole);
    let Look::Client(client) = whole else { panic!("{whole:?}") };
    assert!(client.session.is_none_or(|slot| slot == SLOT && parts.len() > 1));
    let Look::Client(without) = look(bytes, true) else { panic!() };
    assert_eq!(without.session, None);
});
