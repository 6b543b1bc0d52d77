//! Reads one HTTP response from bytes that arrive in pieces.

use crate::clients::Worker;

const MAX_HEADERS: usize = 32;
/// Longer heads than any contender sends.
const MAX_HEAD: usize = 8192;
/// How much of the body is looked at for the worker's number, which is in front.
const NUMBER_LEN: usize = 16;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The number at the start of the body.
    pub worker: Option<Worker>,
    /// The server ends the connection after this response.
    pub closing: bool,
    /// The name and value of the cookie that it sets.
    pub cookie: Option<String>,
}

/// Not a response, or one without a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

struct Head {
    len: usize,
    status: u16,
    content_length: usize,
    closing: bool,
    cookie: Option<String>,
}

/// Puts one response after another together.
#[derive(Default)]
pub struct ResponseReader {
    /// The head, and the start of the body.
    kept: Vec<u8>,
    /// All bytes of the response so far.
    received: usize,
    head: Option<Head>,
}

impl ResponseReader {
    /// Takes what was read; returns the response when it is complete, and is then ready for the next.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Response>, Malformed> {
        self.received += bytes.len();
        let keep = self.head.as_ref().map_or(MAX_HEAD, |head| head.len + NUMBER_LEN);
        let room = keep.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        if self.head.is_none() {
            self.head = parse(&self.kept)?;
        }
        let Some(head) = &self.head else { return Ok(None) };
        let whole = head.len + head.content_length;
        if self.received < whole {
            return Ok(None);
        }
        if self.received > whole {
            return Err(Malformed);
        }
        let worker = number(&self.kept[head.len..]);
        self.kept.clear();
        self.received = 0;
        let response = self.head.take();
        Ok(response.map(|Head { status, closing, cookie, .. }| Response {
            status,
            worker,
            closing,
            cookie,
        }))
    }

    /// Whether nothing of a response has arrived yet.
    pub fn is_empty(&self) -> bool {
        self.received == 0
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(Malformed),
    };
    let status = response.code.ok_or(Malformed)?;
    let value = |name: &str| {
        let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let content_length = match value("content-length") {
        Some(length) => length.parse().map_err(|_| Malformed)?,
        None if status == 101 => 0,
        None => return Err(Malformed),
    };
    let closing = value("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let cookie = value("set-cookie").and_then(|cookie| cookie.split(';').next());
    let cookie = cookie.map(str::to_owned);
    Ok(Some(Head { len, status, content_length, closing, cookie }))
}

fn number(body: &[u8]) -> Option<Worker> {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&body[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n1234";
    const LAST: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nSet-Cookie: a=b; Path=/\r\nConnection: close\r\n\r\n42\nabc";

    #[test]
    fn two_responses_cut_anywhere() {
        for cut in 0..KEPT.len() {
            let mut reader = ResponseReader::default();
            assert_eq!(reader.feed(&KEPT[..cut]), Ok(None));
            let first = Response { status: 200, worker: Some(1234), closing: false, cookie: None };
            assert_eq!(reader.feed(&KEPT[cut..]), Ok(Some(first)));
            assert!(reader.is_empty());
            let cookie = Some("a=b".to_owned());
            let second = Response { status: 200, worker: Some(42), closing: true, cookie };
            assert_eq!(reader.feed(LAST), Ok(Some(second)));
        }
    }

    #[test]
    fn nonsense_is_malformed() {
        let mut long = KEPT.to_vec();
        long.push(b'!');
        for bytes in [&b"SSH-2.0"[..], b"HTTP/1.1 200 OK\r\n\r\n", &long] {
            assert_eq!(ResponseReader::default().feed(bytes), Err(Malformed));
        }
    }
}
