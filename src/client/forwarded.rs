//! What a header says about the way of a request: the client first, then each proxy that passed it on.
//!
//! A header that has several lines is one list, in their order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One hop of the request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// An address, without the port that may have come with it.
    Address(IpAddr),
    /// Anything else, as it stands.
    Other(&'a [u8]),
    /// A hop that is mentioned and not named.
    Unnamed,
}

/// How a header's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Elements between commas, as in `X-Forwarded-For`.
    List,
    /// RFC 7239: the `for` parameters of the elements.
    Forwarded,
}

impl Syntax {
    /// The syntax of the header of this name, in lower case.
    pub fn of(header: &str) -> Self {
        if header == "forwarded" { Self::Forwarded } else { Self::List }
    }

    /// The hops that the lines of a header name, the first one first.
    pub fn nodes<'a>(self, lines: &[&'a [u8]]) -> Vec<Node<'a>> {
        match self {
            Self::List => lines
                .iter()
                .flat_map(|line| line.split(|&byte| byte == b','))
                .map(<[u8]>::trim_ascii)
                .filter(|element| !element.is_empty())
                .map(node)
                .collect(),
            Self::Forwarded => lines
                .iter()
                .flat_map(|line| split(line, b','))
                .filter(|element| !element.is_empty())
                .map(|element| {
                    split(element, b';').find_map(for_parameter).map_or(Node::Unnamed, node)
                })
                .collect(),
        }
    }
}

/// The value of `for=value`; `None` for other parameters.
fn for_parameter(pair: &[u8]) -> Option<&[u8]> {
    let (name, value) = pair.split_at_checked(4)?;
    name.eq_ignore_ascii_case(b"for=").then_some(value)
}

/// What stands between separators that are in no quotation, trimmed. A quotation that does not end is none: a
/// client that opens one would otherwise swallow what the proxies add to its line.
fn split(line: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut quotation = Quotation::default();
    for &byte in line {
        quotation.read(byte);
    }
    let quotes = !quotation.open;
    let mut quotation = Quotation::default();
    let outside = move |&byte: &u8| {
        if quotes {
            quotation.read(byte);
        }
        byte == separator && !quotation.open
    };
    line.split(outside).map(<[u8]>::trim_ascii)
}

/// Whether what is read stands in quotation marks.
#[derive(Default)]
struct Quotation {
    open: bool,
    escaped: bool,
}

impl Quotation {
    fn read(&mut self, byte: u8) {
        match byte {
            _ if std::mem::take(&mut self.escaped) => {}
            b'\\' if self.open => self.escaped = true,
            b'"' => self.open = !self.open,
            _ => {}
        }
    }
}

/// Takes `addr`, `addr:port`, `[v6]`, `[v6]:port` for an address, each in quotation marks or not.
fn node(element: &[u8]) -> Node<'_> {
    let bare = element.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let bare = bare.unwrap_or(element);
    address(bare.trim_ascii()).map_or(Node::Other(bare), Node::Address)
}

fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (v6, port) = rest.split_once(']')?;
        if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
            return None;
        }
        IpAddr::V6(ipv6(v6)?)
    } else if let Some((v4, port)) = text.split_once(':').filter(|(v4, _)| v4.contains('.')) {
        IpAddr::V4(v4.parse::<Ipv4Addr>().ok().filter(|_| is_port(port))?)
    } else {
        text.parse().ok().or_else(|| ipv6(text).map(IpAddr::V6))?
    };
    Some(address.to_canonical())
}

/// An IPv6 address, whose zone (`%eth0`) says nothing to anybody else.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    text.split_once('%').map_or(text, |(address, _zone)| address).parse().ok()
}

/// Digits, or a name for a hidden port (RFC 7239, 6.3).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(hidden) => !hidden.is_empty() && hidden.bytes().all(is_obfuscation),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn is_obfuscation(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(line: &str) -> Vec<Node<'_>> {
        Syntax::List.nodes(&[line.as_bytes()])
    }

    fn forwarded(line: &str) -> Vec<Node<'_>> {
        Syntax::Forwarded.nodes(&[line.as_bytes()])
    }

    fn at(address: &str) -> Node<'static> {
        Node::Address(address.parse().unwrap())
    }

    fn other(text: &str) -> Node<'_> {
        Node::Other(text.as_bytes())
    }

    #[test]
    fn an_address_has_many_spellings() {
        for spelling in ["1.2.3.4", "1.2.3.4:80", " 1.2.3.4\t", "\"1.2.3.4\"", "\"1.2.3.4:65535\""]
        {
            assert_eq!(list(spelling), [at("1.2.3.4")], "{spelling}");
        }
        for spelling in ["::ffff:1.2.3.4", "[::ffff:1.2.3.4]:80", "::FFFF:102:304"] {
            assert_eq!(list(spelling), [at("1.2.3.4")], "{spelling}");
        }
        for spelling in [
            "2001:db8::a",
            "2001:DB8::A",
            "[2001:db8:0:0:0:0:0:a]",
            "[2001:db8::a]:443",
            "\"[2001:Db8::a]:_x\"",
            "2001:db8::a%eth0",
        ] {
            assert_eq!(list(spelling), [at("2001:db8::a")], "{spelling}");
        }
    }

    #[test]
    fn a_quotation_that_does_not_end_hides_nothing_behind_it() {
        for open in ["\"", "\"x", "1.2.3.4, \"", "a\"b", "\"x\\\"", "\"x\\"] {
            for added in ["5.6.7.8", "\"[2001:db8::a]\""] {
                let line = format!("{open}, {added}");
                assert_eq!(list(&line).last(), list(added).first(), "{line}");
                let line = format!("for={open}, for={added};proto=http");
                assert_eq!(forwarded(&line).last(), list(added).first(), "{line}");
            }
        }
    }

    #[test]
    fn what_is_no_address_stays_as_it_stands() {
        for text in [
            "unknown",
            "alice",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:http",
            "1.2.3.4:123456",
            "01.2.3.4",
            "[1.2.3.4]",
            "[2001:db8::a",
            "[2001:db8::a]443",
            "[::1]:",
            "0x7f.1",
            "2001:db8::g",
            "1.2.3.4:_",
        ] {
            assert_eq!(list(text), [other(text)], "{text}");
        }
        assert_eq!(Syntax::List.nodes(&[b"\xff\xfe"]), [Node::Other(b"\xff\xfe")]);
    }

    #[test]
    fn several_lines_are_one_list_and_empty_elements_are_none() {
        let lines: [&[u8]; 3] = [b"1.2.3.4, ,", b"", b"bob,  5.6.7.8:9"];
        assert_eq!(Syntax::List.nodes(&lines), [at("1.2.3.4"), other("bob"), at("5.6.7.8")]);
        assert_eq!(list(""), []);
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        // The examples of its sections 4 and 7.1.
        assert_eq!(forwarded("for=\"_gazonk\""), [other("_gazonk")]);
        assert_eq!(forwarded("For=\"[2001:db8:cafe::17]:4711\""), [at("2001:db8:cafe::17")]);
        assert_eq!(forwarded("for=192.0.2.60;proto=http;by=203.0.113.43"), [at("192.0.2.60")]);
        let three = "for=192.0.2.43, for=\"[2001:db8:cafe::17]\", for=unknown";
        assert_eq!(forwarded(three), [at("192.0.2.43"), at("2001:db8:cafe::17"), other("unknown")]);
        assert_eq!(forwarded("proto=https;by=1.2.3.4, ,for=::1"), [Node::Unnamed, at("::1")]);
        // A comma or semicolon in quotation marks separates nothing.
        assert_eq!(
            forwarded("host=\"a,for=9.9.9.9;\\\"for=8.8.8.8\"; FOR=1.2.3.4"),
            [at("1.2.3.4")]
        );
    }

    proptest! {
        #[test]
        fn every_address_is_itself_in_every_spelling(bits: u128, short: u32, port: u16) {
            let v6 = Ipv6Addr::from_bits(bits);
            let v4 = Ipv4Addr::from_bits(short);
            let (six, four) = (IpAddr::V6(v6).to_canonical(), IpAddr::V4(v4));
            let upper = v6.to_string().to_uppercase();
            for text in [format!("{v6}"), format!("[{v6}]"), format!("[{v6}]:{port}"), format!("\"[{upper}]:{port}\"")] {
                prop_assert_eq!(list(&text), [Node::Address(six)]);
                let parameter = format!("by=9.9.9.9;for={text}");
                prop_assert_eq!(forwarded(&parameter), [Node::Address(six)]);
            }
            for text in [format!("{v4}"), format!("{v4}:{port}"), format!("\"{v4}\""), format!("::ffff:{v4}")] {
                prop_assert_eq!(list(&text), [Node::Address(four)]);
            }
        }

        #[test]
        fn where_a_list_is_cut_into_lines_changes_nothing(
            elements in prop::collection::vec("[ -+.-~]{0,12}", 0..8), cut in 0..8_usize,
        ) {
            let whole = elements.join(",");
            let (a, b) = elements.split_at(cut.min(elements.len()));
            let (a, b) = (a.join(","), b.join(","));
            for syntax in [Syntax::List, Syntax::Forwarded] {
                // A quotation does not go on in the next line.
                prop_assume!(!whole.contains('"'));
                prop_assert_eq!(syntax.nodes(&[whole.as_bytes()]), syntax.nodes(&[a.as_bytes(), b.as_bytes()]));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(line in prop::collection::vec(any::<u8>(), 0..64)) {
            Syntax::List.nodes(&[&line]);
            Syntax::Forwarded.nodes(&[&line]);
        }
    }
}
