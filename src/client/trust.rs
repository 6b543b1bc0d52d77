//! Which hops of a request's way are proxies whose word counts. The meaning is that of Express's
//! `trust proxy`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::forwarded::Node;

/// Whom to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everybody: the left-most address is the client.
    All,
    /// The nearest hops, this many, of which the peer is the first.
    Hops(usize),
    /// Hops with an address in these networks.
    Networks(Vec<IpNet>),
}

/// Whom a header names, in the light of that trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// The client at this address.
    Address(IpAddr),
    /// The client of this name, which a proxy gave it.
    Other(&'a [u8]),
    /// The client that the whole header names, as it stands: no address is in it.
    Whole,
    /// Nobody whose word counts said anything: the peer is its own client.
    Peer,
}

impl Trust {
    /// Whether what this peer says counts. A peer without an address is on a unix socket, where the
    /// file's permissions say who may connect.
    pub fn includes(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (Self::All, _) | (Self::Networks(_), None) => true,
            (Self::Hops(hops), _) => *hops > 0,
            (Self::Networks(networks), Some(peer)) => {
                let peer = peer.to_canonical();
                networks.iter().any(|network| network.contains(&peer))
            }
        }
    }

    /// The client of a request that came from `peer`, by way of these hops.
    pub fn choose<'a>(&self, peer: Option<IpAddr>, way: &[Node<'a>]) -> Named<'a> {
        if way.is_empty() || !self.includes(peer) {
            return Named::Peer;
        }
        let chosen = match self {
            Self::All => {
                let address = way.iter().find(|node| matches!(node, Node::Address(_)));
                let unnamed = way.iter().all(|node| *node == Node::Unnamed);
                let otherwise = if unnamed { Named::Peer } else { Named::Whole };
                return address.map_or(otherwise, |&node| named(node));
            }
            // The peer is the first hop.
            Self::Hops(hops) => way.iter().rev().nth(hops - 1),
            Self::Networks(_) => way.iter().rev().find(|node| match node {
                Node::Address(address) => !self.includes(Some(*address)),
                Node::Other(_) | Node::Unnamed => true,
            }),
        };
        // Where all are trusted, the first hop is the client.
        named(*chosen.unwrap_or(&way[0]))
    }
}

fn named(node: Node<'_>) -> Named<'_> {
    match node {
        Node::Address(address) => Named::Address(address),
        Node::Other(other) => Named::Other(other),
        Node::Unnamed => Named::Peer,
    }
}

/// The networks that a word of the option stands for: a CIDR, an address, or a name that Express knows.
pub fn networks(word: &str) -> Option<Vec<IpNet>> {
    let named: &[&str] = match word {
        "loopback" => &["127.0.0.0/8", "::1/128"],
        "linklocal" => &["169.254.0.0/16", "fe80::/10"],
        "uniquelocal" => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
        _ => return network(word).map(|network| vec![network]),
    };
    named.iter().map(|word| network(word)).collect()
}

fn network(word: &str) -> Option<IpNet> {
    let network = match word.split_once('/') {
        None => IpNet::from(word.parse::<IpAddr>().ok()?),
        Some((address, mask)) if mask.contains('.') => {
            IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?
        }
        Some(_) => word.parse().ok()?,
    };
    Some(canonical(network))
}

/// A network of IPv4-mapped addresses is one of IPv4, as the addresses are before they are looked up.
fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = Ipv6Net::trunc(&v6).addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4);
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::forwarded::Syntax;

    fn choose<'a>(trust: &Trust, peer: &str, header: &'a str) -> Named<'a> {
        trust.choose(Some(peer.parse().unwrap()), &Syntax::List.nodes(&[header.as_bytes()]))
    }

    fn at(address: &str) -> Named<'static> {
        Named::Address(address.parse().unwrap())
    }

    fn trusted(words: &[&str]) -> Trust {
        Trust::Networks(words.iter().flat_map(|word| networks(word).unwrap()).collect())
    }

    const WAY: &str = "spoofed, 1.1.1.1, 2.2.2.2, 10.0.0.3";

    #[test]
    fn without_trust_proxy_the_left_most_address_is_the_client() {
        assert_eq!(choose(&Trust::All, "10.0.0.4", WAY), at("1.1.1.1"));
        assert_eq!(choose(&Trust::All, "10.0.0.4", "alice"), Named::Whole);
        assert_eq!(choose(&Trust::All, "10.0.0.4", ""), Named::Peer);
    }

    #[test]
    fn hops_are_counted_from_the_peer() {
        let by = |hops| choose(&Trust::Hops(hops), "10.0.0.4", WAY);
        assert_eq!(by(0), Named::Peer);
        assert_eq!(by(1), at("10.0.0.3"));
        assert_eq!(by(2), at("2.2.2.2"));
        assert_eq!(by(4), Named::Other(b"spoofed"));
        // Fewer hops than are trusted: the first of them.
        assert_eq!(by(9), Named::Other(b"spoofed"));
        assert_eq!(choose(&Trust::Hops(1), "10.0.0.4", ""), Named::Peer);
    }

    #[test]
    fn with_networks_the_right_most_address_outside_them_is_the_client() {
        let trust = trusted(&["uniquelocal"]);
        assert_eq!(choose(&trust, "10.0.0.4", WAY), at("2.2.2.2"));
        assert_eq!(choose(&trust, "10.0.0.4", "9.9.9.9, 1.1.1.1"), at("1.1.1.1"));
        // What an unknown hop says about those before it counts for nothing.
        assert_eq!(
            choose(&trust, "10.0.0.4", "1.1.1.1, unknown, 10.0.0.3"),
            Named::Other(b"unknown")
        );
        assert_eq!(choose(&trust, "10.0.0.4", "10.0.0.1, 10.0.0.2"), at("10.0.0.1"));
        assert_eq!(choose(&trust, "10.0.0.4", ""), Named::Peer);
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_its_own_client_whatever_it_says() {
        let trust = trusted(&["loopback", "192.0.2.1"]);
        assert_eq!(choose(&trust, "8.8.8.8", WAY), Named::Peer);
        assert_eq!(choose(&trust, "192.0.2.1", "1.1.1.1"), at("1.1.1.1"));
        assert_eq!(choose(&trust, "::ffff:127.0.0.1", "1.1.1.1"), at("1.1.1.1"));
        // A unix socket has its own way to say who may connect.
        assert_eq!(trust.choose(None, &Syntax::List.nodes(&[b"1.1.1.1"])), at("1.1.1.1"));
    }

    #[test]
    fn a_hop_without_a_name_hides_those_before_it() {
        let way = Syntax::Forwarded.nodes(&[b"for=1.1.1.1, proto=https, for=10.0.0.3"]);
        let choose = |trust: &Trust| trust.choose("10.0.0.4".parse().ok(), &way);
        assert_eq!(choose(&Trust::Hops(1)), at("10.0.0.3"));
        assert_eq!(choose(&Trust::Hops(2)), Named::Peer);
        assert_eq!(choose(&trusted(&["uniquelocal"])), Named::Peer);
        assert_eq!(choose(&Trust::All), at("1.1.1.1"));
        let nameless = Syntax::Forwarded.nodes(&[b"proto=https"]);
        assert_eq!(Trust::All.choose(None, &nameless), Named::Peer);
    }

    #[test]
    fn networks_have_the_spellings_that_express_knows() {
        let one = |word: &str| {
            networks(word)
                .map(|networks| networks.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(one("10.0.0.0/8"), Some(vec!["10.0.0.0/8".into()]));
        assert_eq!(one("10.0.0.0/255.0.0.0"), Some(vec!["10.0.0.0/8".into()]));
        assert_eq!(one("192.0.2.1"), Some(vec!["192.0.2.1/32".into()]));
        assert_eq!(one("2001:DB8::/32"), Some(vec!["2001:db8::/32".into()]));
        assert_eq!(one("::ffff:10.0.0.0/104"), Some(vec!["10.0.0.0/8".into()]));
        assert_eq!(one("::/0"), Some(vec!["::/0".into()]));
        assert_eq!(networks("loopback").unwrap().len(), 2);
        for word in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "Loopback",
            "10.0.0.0/255.0.255.0",
            "::/129",
            "1.2.3.4/",
            "all",
        ] {
            assert_eq!(networks(word), None, "{word}");
        }
    }
}
