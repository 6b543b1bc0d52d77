//! Decides who the client of a connection is, from the peer's address and the connection's first bytes,
//! however many of them are there yet.

use std::net::{IpAddr, SocketAddr};

use super::forwarded::Syntax;
use super::hash::{self, ClientHash, ClientHasher};
use super::http_head::{self, Head};
use super::proxy_protocol;
use super::sessions::Sessions;
use super::trust::{Named, Trust};

/// A header that names clients.
#[derive(Clone, Debug)]
pub struct NamingHeader {
    /// In lower case.
    name: String,
    syntax: Syntax,
}

impl NamingHeader {
    /// The header of this name, in any case.
    pub fn new(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        Self { syntax: Syntax::of(&name), name }
    }
}

/// Whose a connection is, as far as it has to do with slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The slot of its session, which it has shown the token of. It may exist no more.
    pub session: Option<u32>,
    /// What chooses its slot without such a session.
    pub otherwise: Choice,
}

/// How a slot is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// By who the client is.
    Hash(ClientHash),
    /// Any slot will do: where there is room.
    Room,
}

impl Client {
    /// The one of so many slots that alone will do; `None` where there is none, or any will do.
    pub fn slot(self, slots: u32) -> Option<u32> {
        let by_hash = || match self.otherwise {
            Choice::Hash(client) => hash::slot(client, slots),
            Choice::Room => None,
        };
        self.session.filter(|&slot| slot < slots).or_else(by_hash)
    }
}

impl From<ClientHash> for Client {
    /// The client with this hash, which has no session.
    fn from(hash: ClientHash) -> Self {
        Self { session: None, otherwise: Choice::Hash(hash) }
    }
}

/// The rules by which clients are told apart.
#[derive(Clone)]
pub struct Identifier {
    /// Turns clients into numbers.
    pub hasher: ClientHasher,
    /// Where requests name their client.
    pub header: Option<NamingHeader>,
    /// Whose word counts.
    pub trust: Trust,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// How requests show their session, if they do.
    pub sessions: Option<Sessions>,
}

/// What a connection's next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A PROXY header.
    ProxyHeader,
    /// What the client sends.
    Request,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Too little; ask again when more has come.
    More,
    /// Its client.
    Client(Client),
    /// It begins with a PROXY header, which is not for the worker.
    ProxyHeader {
        /// Its bytes, to be taken off the connection.
        length: usize,
        /// Where the proxied connection comes from, if the header says so.
        source: Option<SocketAddr>,
    },
    /// It lacks the PROXY header that it must begin with, or comes from where none may.
    Invalid,
}

impl Identifier {
    /// Whether the peer's address is all that counts.
    pub fn by_address_alone(&self) -> bool {
        self.header.is_none() && !self.proxy_protocol && self.sessions.is_none()
    }

    /// What a connection begins with.
    pub fn first_stage(&self) -> Stage {
        if self.proxy_protocol { Stage::ProxyHeader } else { Stage::Request }
    }

    /// Looks at the first bytes of a stage. `peer` is where the connection comes from, in the second
    /// stage as the PROXY header has it. `last`: these are all bytes that will be looked at.
    pub fn look(&self, stage: Stage, peer: Option<IpAddr>, bytes: &[u8], last: bool) -> Look {
        match stage {
            Stage::ProxyHeader if !self.trust_to_speak(peer) => Look::Invalid,
            Stage::ProxyHeader => match proxy_protocol::read(bytes) {
                proxy_protocol::Found::Header { length, source } => {
                    Look::ProxyHeader { length, source }
                }
                proxy_protocol::Found::Incomplete if !last => Look::More,
                proxy_protocol::Found::Incomplete | proxy_protocol::Found::Invalid => Look::Invalid,
            },
            Stage::Request => {
                // Where no head is to be read no session can be shown, so the address has to do.
                let by_peer = || Look::Client(self.hasher.hash(peer).into());
                // Whose word does not count is not listened to. (A token speaks for itself.)
                let header = self.header.as_ref().filter(|_| self.trust.includes(peer));
                if header.is_none() && self.sessions.is_none() {
                    return by_peer();
                }
                match http_head::read(bytes, |head| self.client(peer, header, head)) {
                    http_head::Found::Whole(client) => Look::Client(client),
                    http_head::Found::Incomplete if !last => Look::More,
                    http_head::Found::Incomplete | http_head::Found::NotHttp => by_peer(),
                }
            }
        }
    }

    /// The client of a request with this head.
    fn client(
        &self,
        peer: Option<IpAddr>,
        header: Option<&NamingHeader>,
        head: &Head<'_, '_>,
    ) -> Client {
        let sessions = self.sessions.as_ref();
        let session =
            sessions.and_then(|sessions| sessions.slot(head.target, head.lines("cookie")));
        let otherwise = if sessions.is_some_and(|sessions| !sessions.fall_back_to_address) {
            Choice::Room
        } else {
            let lines: Vec<_> = header.iter().flat_map(|header| head.lines(&header.name)).collect();
            Choice::Hash(self.named(peer, &lines))
        };
        Client { session, otherwise }
    }

    /// The client of a request that came from `peer` with these lines of the header, but for its session.
    pub fn named(&self, peer: Option<IpAddr>, lines: &[&[u8]]) -> ClientHash {
        let Some(header) = &self.header else { return self.hasher.hash(peer) };
        match self.trust.choose(peer, &header.syntax.nodes(lines)) {
            Named::Address(address) => self.hasher.hash(Some(address)),
            Named::Other(name) => self.hasher.hash_name(name),
            Named::Whole => self.hasher.hash_name(&lines.join(&b", "[..])),
            Named::Peer => self.hasher.hash(peer),
        }
    }

    /// Networks limit who may speak the PROXY protocol; a number of hops says nothing about it, as it
    /// counts the hops of a request.
    fn trust_to_speak(&self, peer: Option<IpAddr>) -> bool {
        !matches!(self.trust, Trust::Networks(_)) || self.trust.includes(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::address::Ipv6Prefix;
    use crate::client::token::Tokens;
    use crate::client::trust::networks;
    use proptest::prelude::*;

    fn identifier(header: Option<&str>, trust: Trust, proxy_protocol: bool) -> Identifier {
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::FULL);
        Identifier {
            hasher,
            header: header.map(NamingHeader::new),
            trust,
            proxy_protocol,
            sessions: None,
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }

    fn request(lines: &str) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n").into_bytes()
    }

    #[test]
    fn a_request_is_of_the_client_that_its_header_names() {
        let rules = identifier(Some("X-Forwarded-For"), Trust::All, false);
        let client = |bytes: &[u8]| rules.look(Stage::Request, ip("10.0.0.1"), bytes, false);
        let expected = Look::Client(rules.hasher.hash(ip("1.2.3.4")).into());
        assert_eq!(client(&request("X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\n")), expected);
        assert_eq!(
            client(&request("x-forwarded-for: junk\r\nX-Forwarded-For:1.2.3.4:99\r\n")),
            expected
        );
        let peer = Look::Client(rules.hasher.hash(ip("10.0.0.1")).into());
        assert_eq!(client(&request("")), peer);
        assert_eq!(client(&request("X-Forwarded-For:\r\n")), peer);
        assert_eq!(client(b"\x16\x03\x01"), peer);
        assert_eq!(client(b"GET / HT"), Look::More);
        assert_eq!(rules.look(Stage::Request, ip("10.0.0.1"), b"GET / HT", true), peer);
    }

    #[test]
    fn a_value_that_is_no_address_is_hashed_as_it_stands() {
        let rules = identifier(Some("x-user"), Trust::All, false);
        let client = |lines: &[&[u8]]| rules.named(ip("10.0.0.1"), lines);
        assert_eq!(client(&[b"alice"]), rules.hasher.hash_name(b"alice"));
        assert_ne!(client(&[b"alice"]), client(&[b"bob"]));
        assert_eq!(client(&[b"a", b"b"]), rules.hasher.hash_name(b"a, b"));
        assert_eq!(client(&[b"a, b"]), client(&[b"a", b"b"]));
    }

    fn with_sessions(fall_back_to_address: bool) -> Identifier {
        let sessions = Sessions {
            tokens: Tokens::new(b"0123456789abcdef"),
            query: Some("sid".to_owned()),
            cookie: Some("sticky".to_owned()),
            fall_back_to_address,
            slots: 8,
        };
        Identifier { sessions: Some(sessions), ..identifier(None, Trust::All, false) }
    }

    #[test]
    fn a_request_is_of_the_session_whose_token_it_shows() {
        let rules = with_sessions(false);
        let peer = ip("10.0.0.1");
        let token = rules.sessions.as_ref().unwrap().tokens.token(3);
        let look = |bytes: &[u8]| rules.look(Stage::Request, peer, bytes, false);
        let session = Look::Client(Client { session: Some(3), otherwise: Choice::Room });
        let new = Look::Client(Client { session: None, otherwise: Choice::Room });
        let by_query = format!("GET /?sid=x.{token} HTTP/1.1\r\n\r\n");
        assert_eq!(look(by_query.as_bytes()), session);
        assert_eq!(look(&request(&format!("COOKIE: a=b; sticky={token}\r\n"))), session);
        assert_eq!(look(&request("cookie: sticky=stale\r\n")), new);
        assert_eq!(look(&request("")), new);
        // Nothing can be shown where nothing can be read.
        let by_address = Look::Client(rules.hasher.hash(peer).into());
        assert_eq!(look(b"\x16\x03\x01"), by_address);
        assert_eq!(rules.look(Stage::Request, peer, b"GET /?sid=", true), by_address);
    }

    #[test]
    fn who_shows_no_session_can_be_told_apart_by_address() {
        let rules = Identifier {
            header: Some(NamingHeader::new("x-forwarded-for")),
            ..with_sessions(true)
        };
        let token = rules.sessions.as_ref().unwrap().tokens.token(3);
        let named = Choice::Hash(rules.hasher.hash(ip("1.2.3.4")));
        for (cookie, session) in [(token.as_str(), Some(3)), ("stale", None)] {
            let head = request(&format!("Cookie: sticky={cookie}\r\nX-Forwarded-For: 1.2.3.4\r\n"));
            let found = rules.look(Stage::Request, ip("10.0.0.1"), &head, false);
            assert_eq!(found, Look::Client(Client { session, otherwise: named }));
        }
    }

    #[test]
    fn only_networks_limit_who_may_speak_the_proxy_protocol() {
        let header = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n";
        let found = Look::ProxyHeader { length: 33, source: Some("1.2.3.4:9".parse().unwrap()) };
        let trusted = Trust::Networks(networks("10.0.0.0/8").unwrap());
        for (trust, peer, look) in [
            (Trust::All, "9.9.9.9", found),
            (Trust::Hops(0), "9.9.9.9", found),
            (trusted.clone(), "10.9.9.9", found),
            (trusted, "9.9.9.9", Look::Invalid),
        ] {
            let rules = identifier(None, trust, true);
            assert_eq!(rules.look(Stage::ProxyHeader, ip(peer), header, false), look);
        }
        let rules = identifier(None, Trust::All, true);
        assert_eq!(rules.look(Stage::ProxyHeader, None, b"PROXY", false), Look::More);
        assert_eq!(rules.look(Stage::ProxyHeader, None, b"PROXY", true), Look::Invalid);
        assert_eq!(rules.look(Stage::ProxyHeader, None, b"GET /", false), Look::Invalid);
    }

    /// Follows a connection whose bytes come in pieces; returns its client and what is left for the worker.
    fn follow(rules: &Identifier, bytes: &[u8], cuts: &[usize]) -> (Option<Client>, usize) {
        let (mut stage, mut peer, mut from) = (rules.first_stage(), ip("10.0.0.1"), 0);
        for (n, &to) in cuts.iter().enumerate() {
            loop {
                match rules.look(stage, peer, &bytes[from.min(to)..to], n + 1 == cuts.len()) {
                    Look::More => break,
                    Look::Client(client) => return (Some(client), from),
                    Look::Invalid => return (None, from),
                    Look::ProxyHeader { length, source } => {
                        from += length;
                        peer = source.map(|source| source.ip()).or(peer);
                        stage = Stage::Request;
                    }
                }
            }
        }
        unreachable!("the last look decides")
    }

    proptest! {
        #[test]
        fn splitting_a_connection_anywhere_never_changes_the_answer(
            header in prop_oneof![
                Just("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n"), Just("PROXY UNKNOWN\r\n"), Just("PROXY TCP4 1.2\r\n"), Just(""),
            ],
            query in "[?&=.a-z]{0,8}(sid=#|sid=x.#){0,2}[&=a-z]{0,4}",
            lines in "(X-Forwarded-For: [0-9a-z., ]{0,20}\r\n|Cookie: [a-z;= ]{0,8}sticky=(#|x)[; ]{0,2}\r\n){0,3}|[ -~]{0,20}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            proxied: bool,
            address: bool,
        ) {
            let rules = Identifier {
                header: Some(NamingHeader::new("x-forwarded-for")),
                proxy_protocol: proxied,
                ..with_sessions(address)
            };
            let token = rules.sessions.as_ref().unwrap().tokens.token(3);
            let request = format!("GET /{query} HTTP/1.1\r\nHost: x\r\n{lines}\r\n").replace('#', &token);
            let bytes = [header.as_bytes(), request.as_bytes()].concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            prop_assert_eq!(follow(&rules, &bytes, &cuts), follow(&rules, &bytes, &[bytes.len()]));
        }
    }
}
