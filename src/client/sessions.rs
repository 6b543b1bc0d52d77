//! Where requests show the token of their session: in a parameter of the query, or in a cookie.

use super::token::Tokens;

/// The rules by which sessions are told apart.
#[derive(Clone)]
pub struct Sessions {
    /// Reads the tokens.
    pub tokens: Tokens,
    /// The parameter of the query that may hold one.
    pub query: Option<String>,
    /// The cookie that may hold one.
    pub cookie: Option<String>,
    /// Whether who shows none is told apart by address; else any slot will do.
    pub fall_back_to_address: bool,
    /// How many slots there are. Tokens of others count for nothing.
    pub slots: u32,
}

impl Sessions {
    /// The slot of the session of a request for this target with these `Cookie` lines. The query goes first: it is about
    /// one session, while a browser sends its cookies with everything.
    pub fn slot<'a>(
        &self,
        target: &str,
        cookies: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<u32> {
        let in_query = || self.slot_in_query(target, self.query.as_deref()?);
        let in_cookies = || {
            let name = self.cookie.as_deref()?.as_bytes();
            cookies.into_iter().find_map(|line| self.slot_in_cookies(line, name))
        };
        in_query().or_else(in_cookies)
    }

    fn slot_in_query(&self, target: &str, name: &str) -> Option<u32> {
        let (_, query) = target.split_once('?')?;
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        parameters.find_map(
            |(parameter, value)| {
                if parameter == name { self.slot_of(value.as_bytes()) } else { None }
            },
        )
    }

    /// A line may hold several of one name, for instance of several paths: the first that is a token counts.
    fn slot_in_cookies(&self, line: &[u8], name: &[u8]) -> Option<u32> {
        line.split(|&byte| byte == b';').find_map(|cookie| {
            let cookie = cookie.trim_ascii();
            let value = cookie.strip_prefix(name)?.strip_prefix(b"=")?;
            let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            self.slot_of(quoted.unwrap_or(value))
        })
    }

    fn slot_of(&self, value: &[u8]) -> Option<u32> {
        self.tokens.slot(value).filter(|&slot| slot < self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(query: Option<&str>, cookie: Option<&str>) -> Sessions {
        Sessions {
            tokens: Tokens::new(b"0123456789abcdef"),
            query: query.map(str::to_owned),
            cookie: cookie.map(str::to_owned),
            fall_back_to_address: false,
            slots: 8,
        }
    }

    #[test]
    fn a_parameter_of_the_query_holds_a_token() {
        let sessions = sessions(Some("sid"), None);
        let token = sessions.tokens.token(5);
        let slot = |target: &str| sessions.slot(&target.replace('T', &token), []);
        for target in [
            "/socket.io/?EIO=4&transport=polling&sid=abc.T",
            "/?sid=T",
            "?sid=T&sid=x",
            "/?sid=x&sid=T",
            "/?sid=abc%2ET",
            "/?s%69d=T",
            "http://host/?sid=T",
        ] {
            assert_eq!(slot(target), Some(5), "{target}");
        }
        for target in [
            "",
            "/",
            "*",
            "/sid=T",
            "/?SID=T",
            "/?asid=T",
            "/?sid",
            "/?sid=",
            "/?sid=T%20",
            "/?x?sid=T",
        ] {
            assert_eq!(slot(target), None, "{target}");
        }
    }

    #[test]
    fn a_cookie_holds_a_token() {
        let sessions = sessions(None, Some("sticky"));
        let token = sessions.tokens.token(5);
        let slot = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| line.replace('T', &token)).collect();
            sessions.slot("/?sticky=T", lines.iter().map(String::as_bytes))
        };
        for lines in [
            &["sticky=T"][..],
            &["a=b; sticky=T; c=d"],
            &["a=b;sticky=\"T\""],
            &["a=b", "sticky=id.T"],
            &["sticky=old; sticky=T"],
            &[" sticky=T ;"],
        ] {
            assert_eq!(slot(lines), Some(5), "{lines:?}");
        }
        for lines in [
            &[][..],
            &["sticky"],
            &["sticky="],
            &["Sticky=T"],
            &["sticky =T"],
            &["xsticky=T"],
            &["stickyx=T"],
            &["a=sticky=T"],
            &["sticky=\"T"],
            &["sticky=T,"],
        ] {
            assert_eq!(slot(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn the_query_goes_before_the_cookie() {
        let sessions = sessions(Some("sid"), Some("sticky"));
        let cookie = format!("sticky={}", sessions.tokens.token(1));
        let query = format!("/?sid={}", sessions.tokens.token(2));
        assert_eq!(sessions.slot(&query, [cookie.as_bytes()]), Some(2));
        assert_eq!(sessions.slot("/?sid=junk", [cookie.as_bytes()]), Some(1));
        assert_eq!(sessions.slot("/?sid=junk", []), None);
    }

    #[test]
    fn a_token_of_a_slot_that_is_gone_hides_no_other() {
        let sessions = sessions(Some("sid"), Some("sticky"));
        let [gone, good] = [8, 3].map(|slot| sessions.tokens.token(slot));
        let both = format!("sticky={gone}; sticky={good}");
        assert_eq!(sessions.slot("/", [both.as_bytes()]), Some(3));
        let (query, cookie) = (format!("/?sid={gone}"), format!("sticky={good}"));
        assert_eq!(sessions.slot(&query, [cookie.as_bytes()]), Some(3));
        assert_eq!(sessions.slot(&query, []), None);
    }
}
