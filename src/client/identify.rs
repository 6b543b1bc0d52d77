//! Decides who the client of a connection is, from the peer's address and the connection's first bytes,
//! however many of them are there yet.

use std::net::{IpAddr, SocketAddr};

use super::forwarded::Syntax;
use super::hash::{ClientHash, ClientHasher};
use super::trust::{Named, Trust};
use super::{http_head, proxy_protocol};

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
    Client(ClientHash),
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
        self.header.is_none() && !self.proxy_protocol
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
                // Whose word does not count is not listened to.
                let Some(header) = self.header.as_ref().filter(|_| self.trust.includes(peer))
                else {
                    return Look::Client(self.hasher.hash(peer));
                };
                match http_head::find(bytes, &header.name) {
                    http_head::Found::Lines(lines) => Look::Client(self.named(peer, &lines)),
                    http_head::Found::Incomplete if !last => Look::More,
                    http_head::Found::Incomplete | http_head::Found::NotHttp => {
                        Look::Client(self.hasher.hash(peer))
                    }
                }
            }
        }
    }

    /// The client of a request that came from `peer` with these lines of the header.
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
    use crate::client::trust::networks;
    use proptest::prelude::*;

    fn identifier(header: Option<&str>, trust: Trust, proxy_protocol: bool) -> Identifier {
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::FULL);
        Identifier { hasher, header: header.map(NamingHeader::new), trust, proxy_protocol }
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
        let expected = Look::Client(rules.hasher.hash(ip("1.2.3.4")));
        assert_eq!(client(&request("X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\n")), expected);
        assert_eq!(
            client(&request("x-forwarded-for: junk\r\nX-Forwarded-For:1.2.3.4:99\r\n")),
            expected
        );
        let peer = Look::Client(rules.hasher.hash(ip("10.0.0.1")));
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
    fn follow(rules: &Identifier, bytes: &[u8], cuts: &[usize]) -> (Option<ClientHash>, usize) {
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
            lines in "(X-Forwarded-For: [0-9a-z., ]{0,20}\r\n){0,2}|[ -~]{0,20}",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            proxied: bool,
        ) {
            let bytes = [header.as_bytes(), &request(&lines)].concat();
            let rules = identifier(Some("x-forwarded-for"), Trust::All, proxied);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            prop_assert_eq!(follow(&rules, &bytes, &cuts), follow(&rules, &bytes, &[bytes.len()]));
        }
    }
}
