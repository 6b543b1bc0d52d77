//! How clients are told apart, for JavaScript: the options of a balancer, and the same rules in its
//! workers.

use std::net::IpAddr;

use napi::bindgen_prelude::{Buffer, Error, Result, Uint8Array};
use napi_derive::napi;

use crate::client::address::Ipv6Prefix;
use crate::client::hash::{self, ClientHasher};
use crate::client::identify::{Identifier as Native, NamingHeader};
use crate::client::sessions::Sessions as NativeSessions;
use crate::client::token::Tokens;
use crate::client::trust::{self, Trust};

/// Validated options that say who a client is.
#[napi(object)]
pub struct Identity {
    /// 8 bytes.
    pub key: Uint8Array,
    /// 1 to 128.
    pub ipv6_prefix: u8,
    /// The header that names clients, if one does.
    pub header: Option<String>,
    /// How many hops are trusted.
    pub hops: Option<u32>,
    /// Or which networks.
    pub networks: Option<Vec<String>>,
    /// Where requests show their session, if they do.
    pub sessions: Option<Sessions>,
}

/// Validated options that say where requests show their session.
#[napi(object)]
pub struct Sessions {
    /// 16 bytes.
    pub key: Uint8Array,
    /// A parameter of the query.
    pub query: Option<String>,
    /// The name of a cookie.
    pub cookie: Option<String>,
    /// Whether who shows none is told apart by address.
    pub fall_back_to_address: bool,
}

impl Sessions {
    fn rules(&self) -> Result<NativeSessions> {
        let key = self.key.as_ref().try_into().map_err(|_| invalid("affinity"))?;
        Ok(NativeSessions {
            tokens: Tokens::new(key),
            query: self.query.clone(),
            cookie: self.cookie.clone(),
            fall_back_to_address: self.fall_back_to_address,
            slots: u32::MAX,
        })
    }
}

impl Identity {
    /// The rules that these options stand for.
    pub fn rules(&self, proxy_protocol: bool) -> Result<Native> {
        let key: &[u8; 8] = self.key.as_ref().try_into().map_err(|_| invalid("key"))?;
        let prefix = Ipv6Prefix::new(self.ipv6_prefix).ok_or_else(|| invalid("ipv6Prefix"))?;
        let trust = match (&self.networks, self.hops) {
            (Some(words), _) => {
                let networks = words.iter().map(|word| trust::networks(word));
                let networks: Option<Vec<_>> = networks.collect();
                Trust::Networks(networks.ok_or_else(|| invalid("trustProxy"))?.concat())
            }
            (None, Some(hops)) => Trust::Hops(hops as usize),
            (None, None) => Trust::All,
        };
        Ok(Native {
            hasher: ClientHasher::new(*key, prefix),
            header: self.header.as_deref().map(NamingHeader::new),
            trust,
            proxy_protocol,
            sessions: self.sessions.as_ref().map(Sessions::rules).transpose()?,
        })
    }
}

/// The balancer's rules, in a worker.
#[napi]
pub struct Identifier {
    rules: Native,
}

#[napi]
impl Identifier {
    /// Rules for requests.
    #[napi(constructor)]
    pub fn new(identity: Identity) -> Result<Self> {
        Ok(Self { rules: identity.rules(false)? })
    }

    /// The slot of the client of a request that came from `peer` (an address, or nothing for a unix
    /// socket) with these lines of the header, or -1 when there are no slots.
    #[napi]
    pub fn slot(&self, peer: Option<String>, lines: Vec<Buffer>, slots: u32) -> i64 {
        let peer = peer.and_then(|peer| peer.parse::<IpAddr>().ok());
        let lines: Vec<&[u8]> = lines.iter().map(AsRef::as_ref).collect();
        hash::slot(self.rules.named(peer, &lines), slots).map_or(-1, i64::from)
    }

    /// The slot of the session that a request shows, one of so many slots, or -1 if it shows none.
    #[napi]
    pub fn session(&mut self, target: String, cookies: Option<String>, slots: u32) -> i64 {
        let Some(sessions) = &mut self.rules.sessions else { return -1 };
        sessions.slots = slots;
        let cookies = cookies.as_deref().map(str::as_bytes);
        sessions.slot(&target, cookies).map_or(-1, i64::from)
    }

    /// The token of a slot, where there are sessions.
    #[napi]
    pub fn token(&self, slot: u32) -> Option<String> {
        self.rules.sessions.as_ref().map(|sessions| sessions.tokens.token(slot))
    }
}

/// Whether a word can stand in the option `trustProxy`.
#[napi]
pub fn is_network(word: String) -> bool {
    trust::networks(&word).is_some()
}

/// JavaScript has checked what comes here.
pub(super) fn invalid(option: &str) -> Error {
    Error::from_reason(format!("invalid {option}"))
}
