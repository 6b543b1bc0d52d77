//! Reads the head of an HTTP/1 request of which more may be to come.

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};

/// Headers that a head may have before the search takes room from the heap.
const FEW: usize = 64;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// The head is not whole yet.
    Incomplete,
    /// This is no head of HTTP/1, and nothing that follows can make it one.
    NotHttp,
    /// The head is whole; what was to be found in it.
    Whole(T),
}

/// A head.
pub struct Head<'h, 'a> {
    /// What is requested: a path with its query, mostly.
    pub target: &'a str,
    headers: &'h [Header<'a>],
}

impl<'a> Head<'_, 'a> {
    /// The values of all lines with the header `name`, in any case: in order, and without the spaces around them.
    pub fn lines(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        lines.map(|line| line.value)
    }
}

/// Has `look` look at a head, once it is whole.
pub fn read<T>(head: &[u8], look: impl Fn(&Head<'_, '_>) -> T) -> Found<T> {
    let mut few = [MaybeUninit::<Header<'_>>::uninit(); FEW];
    match parse(head, &look, &mut few) {
        Err(httparse::Error::TooManyHeaders) => {
            // A header is 4 bytes at least: `a:` and the end of its line, which may lack its CR.
            let mut many = vec![MaybeUninit::uninit(); head.len() / 3 + 1];
            parse(head, &look, &mut many).unwrap_or(Found::NotHttp)
        }
        found => found.unwrap_or(Found::NotHttp),
    }
}

fn parse<'a, T>(
    head: &'a [u8],
    look: impl Fn(&Head<'_, 'a>) -> T,
    room: &mut [MaybeUninit<Header<'a>>],
) -> Result<Found<T>, httparse::Error> {
    let mut request = Request::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_request_with_uninit_headers(&mut request, head, room)? {
        Status::Partial => Ok(Found::Incomplete),
        Status::Complete(_) => {
            let target = request.path.unwrap_or_default();
            Ok(Found::Whole(look(&Head { target, headers: request.headers })))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "x-forwarded-for";

    /// The target, and the lines of one header.
    fn find(bytes: &[u8]) -> Found<(String, Vec<Vec<u8>>)> {
        read(bytes, |head| (head.target.to_owned(), head.lines(NAME).map(<[u8]>::to_vec).collect()))
    }

    fn lines(head: &str) -> Vec<String> {
        match find(head.as_bytes()) {
            Found::Whole((_, lines)) => {
                lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
            }
            other => panic!("{other:?}: {head:?}"),
        }
    }

    #[test]
    fn the_header_is_found_in_any_case_and_spacing() {
        for line in [
            "X-Forwarded-For: 1.2.3.4",
            "x-forwarded-for:1.2.3.4",
            "X-FORWARDED-FOR:  \t1.2.3.4 \t",
        ] {
            assert_eq!(lines(&format!("GET / HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n")), ["1.2.3.4"]);
            assert_eq!(
                lines(&format!("\r\nGET / HTTP/1.0\r\n{line}\r\nHost: x\r\n\r\nbody")),
                ["1.2.3.4"]
            );
        }
    }

    #[test]
    fn the_target_is_as_the_client_sent_it() {
        for target in ["/", "/a?b=c&d", "*", "http://host:8081/x?y"] {
            match find(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()) {
                Found::Whole((found, _)) => assert_eq!(found, target),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn only_that_header_counts_and_only_in_the_head() {
        let head = "POST / HTTP/1.1\r\nX-Forwarded-For-Foo: 9.9.9.9\r\nForwarded: x\r\n\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n";
        assert_eq!(lines(head), [""; 0]);
    }

    #[test]
    fn several_lines_stay_in_order() {
        let head =
            "GET / HTTP/1.1\r\nX-Forwarded-For: a\r\nHost: x\r\nx-forwarded-for: b, c\r\n\r\n";
        assert_eq!(lines(head), ["a", "b, c"]);
    }

    #[test]
    fn a_head_may_have_very_many_headers() {
        let many = (0..1500).map(|n| format!("a{n}:\r\n")).collect::<Vec<_>>().concat();
        let head = format!("GET / HTTP/1.1\r\n{many}X-Forwarded-For: 1.2.3.4\r\n\r\n");
        assert_eq!(lines(&head), ["1.2.3.4"]);
        let shortest = format!("GET / HTTP/1.1\n{}x-forwarded-for:1\n\n", "a:\n".repeat(1500));
        assert_eq!(lines(&shortest), ["1"]);
    }

    #[test]
    fn other_protocols_are_no_http() {
        let tls = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let cases: [&[u8]; 6] = [
            &tls,
            preface,
            b"\0\0\0",
            b"HELO example.org\r\n",
            b"GET / HTTP/1.1\r\nX-Forwarded-For : 1.2.3.4\r\n\r\n",
            b"hello\r\n",
        ];
        for bytes in cases {
            assert_eq!(find(bytes), Found::NotHttp, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn splitting_a_head_anywhere_never_changes_the_answer(
            headers in prop::collection::vec(("[a-zA-Z-]{1,16}|(?i)x-forwarded-for", "[ -~]{0,24}"), 0..8),
            body in "[ -~\r\n]{0,40}",
        ) {
            let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let headers = headers.concat();
            let bytes = format!("GET /path HTTP/1.1\r\n{headers}\r\n{body}").into_bytes();
            let whole = find(&bytes);
            for cut in 0..bytes.len() {
                let part = find(&bytes[..cut]);
                prop_assert!(part == Found::Incomplete || part == whole, "at {}: {:?}", cut, part);
            }
        }

        #[test]
        fn splitting_arbitrary_bytes_anywhere_never_changes_the_answer(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let whole = find(&bytes);
            for cut in 0..bytes.len() {
                let part = find(&bytes[..cut]);
                prop_assert!(part == Found::Incomplete || part == whole, "at {}: {:?}", cut, part);
            }
        }
    }
}
