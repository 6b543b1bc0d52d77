//! Connections whose first bytes say who the client is: looks at them without taking them off (but for a
//! PROXY header, which is not the worker's), and waits where too few are there.
//!
//! Who waits costs a descriptor and an entry in one set that the system watches: no task, no buffer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::client::identify::{Client, Identifier, Look, Stage};
use crate::primary::workers::channel::Connection;
use crate::sys::socket::Accepted;

/// Most heads are shorter, and what follows them need not be copied.
const FIRST_LOOK: usize = 2048;

/// A head that comes in more pieces than these is looked at ever less often, so that a client that sends
/// it byte by byte costs little more than others: not before a rest, which doubles with each look.
const EAGER_LOOKS: u8 = 8;
const REST: Duration = Duration::from_millis(10);
const REST_DOUBLINGS: u8 = 4;

/// How many go on by what is known of them when there are no descriptors left.
const GIVEN_UP: usize = 64;

/// How far and how long to look.
#[derive(Clone, Copy, Debug)]
pub struct LookLimits {
    /// From the arrival on.
    pub time: Duration,
    /// Bytes, of each: the PROXY header and the head of the request.
    pub bytes: usize,
}

/// What became of a connection.
#[derive(Debug)]
pub enum Outcome {
    /// Its client is known.
    Client(Client, Connection),
    /// The client left before it said anything.
    Gone,
    /// It lacks the PROXY header that it must begin with.
    Invalid,
}

struct Entry {
    fd: OwnedFd,
    /// As the PROXY header has it, once that was read.
    peer: Option<IpAddr>,
    source: Option<Box<SocketAddr>>,
    stage: Stage,
    /// Whether the client sends nothing more.
    ended: bool,
    looks: u8,
    resting: bool,
    /// Whether something has come while it rested.
    news: bool,
    deadline: Instant,
}

/// The connections that wait to be identified.
pub struct Identify {
    rules: Identifier,
    limits: LookLimits,
    registry: Registry,
    /// By their number, and so in the order of their deadlines too.
    entries: BTreeMap<usize, Entry>,
    next: usize,
    /// Those that are not looked at before then.
    resting: BTreeSet<(Instant, usize)>,
}

thread_local! {
    /// What is looked at, for the moment of the look.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Identify {
    /// Events for `registry` are to be passed to [`ready`](Self::ready).
    pub fn new(rules: Identifier, limits: LookLimits, registry: Registry) -> Self {
        Self {
            rules,
            limits,
            registry,
            entries: BTreeMap::new(),
            next: 0,
            resting: BTreeSet::new(),
        }
    }

    /// Whether there are clients for whom any slot will do.
    pub fn needs_room(&self) -> bool {
        self.rules.sessions.as_ref().is_some_and(|sessions| !sessions.fall_back_to_address)
    }

    /// There are so many slots from now on.
    pub fn set_slots(&mut self, slots: u32) {
        if let Some(sessions) = &mut self.rules.sessions {
            // Before there are any, all that there can be.
            sessions.slots = if slots == 0 { u32::MAX } else { slots };
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a connection in; returns what became of it, unless it has to wait.
    pub fn take(&mut self, Accepted { fd, peer }: Accepted, now: Instant) -> Option<Outcome> {
        self.begin(fd, peer, None, self.rules.first_stage(), now)
    }

    /// The same of one from which a predecessor has taken the PROXY header, if there was one.
    pub fn take_again(
        &mut self,
        fd: OwnedFd,
        peer: Option<IpAddr>,
        source: Option<SocketAddr>,
        now: Instant,
    ) -> Option<Outcome> {
        self.begin(fd, peer, source.map(Box::new), Stage::Request, now)
    }

    fn begin(
        &mut self,
        fd: OwnedFd,
        peer: Option<IpAddr>,
        source: Option<Box<SocketAddr>>,
        stage: Stage,
        now: Instant,
    ) -> Option<Outcome> {
        let mut entry = Entry {
            fd,
            peer,
            source,
            stage,
            ended: false,
            looks: 1,
            resting: false,
            news: false,
            deadline: now + self.limits.time,
        };
        let mut found = self.look(&mut entry, false);
        if found.is_none() && self.watch(&entry).is_err() {
            // The system watches no more of them: nobody would say when there is more to see.
            found = self.look(&mut entry, true);
        }
        if let Some(found) = found {
            return Some(found.into_outcome(entry));
        }
        self.entries.insert(self.next, entry);
        self.next += 1;
        None
    }

    /// Looks again at those of which there is news.
    pub fn ready(&mut self, events: &Events, now: Instant) -> Vec<Outcome> {
        events.iter().filter_map(|event| self.on_event(event, now)).collect()
    }

    /// Looks again at those whose rest is over, and for the last time at those whose time is up.
    pub fn due(&mut self, now: Instant) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(&(until, number)) = self.resting.first()
            && until <= now
        {
            self.resting.pop_first();
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.resting = false;
            if std::mem::take(&mut entry.news) {
                outcomes.extend(self.look_at(number, false, now));
            }
        }
        while let Some((&number, entry)) = self.entries.first_key_value()
            && entry.deadline <= now
        {
            outcomes.extend(self.look_at(number, true, now));
        }
        outcomes
    }

    /// Looks for the last time at those that wait longest.
    pub fn give_up_oldest(&mut self, now: Instant) -> Vec<Outcome> {
        let oldest: Vec<_> = self.entries.keys().copied().take(GIVEN_UP).collect();
        oldest.into_iter().filter_map(|number| self.look_at(number, true, now)).collect()
    }

    /// When [`due`](Self::due) has something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let deadline = self.entries.first_key_value().map(|(_, entry)| entry.deadline);
        let rest = self.resting.first().map(|&(until, _)| until);
        deadline.into_iter().chain(rest).min()
    }

    /// Gives up all that wait.
    pub fn clear(&mut self) -> Vec<OwnedFd> {
        self.resting.clear();
        let entries = std::mem::take(&mut self.entries);
        let entries = entries.into_values().inspect(|entry| self.unwatch(entry));
        entries.map(|entry| entry.fd).collect()
    }

    fn on_event(&mut self, event: &Event, now: Instant) -> Option<Outcome> {
        let Token(number) = event.token();
        let entry = self.entries.get_mut(&number)?;
        entry.ended |= event.is_read_closed();
        entry.news = entry.resting;
        if entry.resting { None } else { self.look_at(number, false, now) }
    }

    fn look_at(&mut self, number: usize, last: bool, now: Instant) -> Option<Outcome> {
        let mut entry = self.entries.remove(&number)?;
        if let Some(found) = self.look(&mut entry, last) {
            self.unwatch(&entry);
            return Some(found.into_outcome(entry));
        }
        entry.looks = entry.looks.saturating_add(1);
        if entry.looks > EAGER_LOOKS {
            entry.resting = true;
            let doublings = (entry.looks - EAGER_LOOKS - 1).min(REST_DOUBLINGS);
            self.resting.insert((now + REST * (1 << doublings), number));
        }
        self.entries.insert(number, entry);
        None
    }

    /// Looks at what is there; `None` if that is too little. `last`: however little it is.
    fn look(&self, entry: &mut Entry, last: bool) -> Option<Found> {
        BYTES.with_borrow_mut(|bytes| {
            bytes.resize(self.limits.bytes.max(bytes.len()), 0);
            loop {
                // Perhaps nothing need be seen.
                let mut look = self.rules.look(entry.stage, entry.peer, &[], false);
                if look == Look::More {
                    look = match self.peek(entry, bytes, last) {
                        Ok(look) => look,
                        Err(_) => return Some(Found::Gone),
                    };
                }
                match look {
                    Look::More => return None,
                    Look::Client(client) => return Some(Found::Client(client)),
                    Look::Invalid => return Some(Found::Invalid),
                    Look::ProxyHeader { length, source } => {
                        // They are there, as they were seen a moment ago.
                        let taken = receive(&entry.fd, &mut bytes[..length], MsgFlags::empty());
                        if taken != Ok(length) {
                            return Some(Found::Gone);
                        }
                        entry.stage = Stage::Request;
                        entry.peer = source.map(|source| source.ip()).or(entry.peer);
                        entry.source = source.map(Box::new);
                    }
                }
            }
        })
    }

    /// An error means that the client has gone, or is to go, without a word at this stage.
    fn peek(&self, entry: &Entry, bytes: &mut [u8], last: bool) -> Result<Look, Errno> {
        let limit = self.limits.bytes;
        let mut room = FIRST_LOOK.min(limit);
        loop {
            let seen = match receive(&entry.fd, &mut bytes[..room], MsgFlags::MSG_PEEK) {
                Ok(0) => return Err(Errno::ECONNRESET),
                Err(Errno::EAGAIN) if entry.ended => return Err(Errno::ECONNRESET),
                Err(Errno::EAGAIN) => 0,
                seen => seen?,
            };
            if last && seen == 0 && self.rules.sessions.is_some() {
                // A connection that a browser has opened in advance. What it will be used for is not known, and its first
                // request may be of a session: better that it has to open another.
                return Err(Errno::ETIMEDOUT);
            }
            let more_is_there = seen == room && room < limit;
            let last = (last || entry.ended || seen == limit) && !more_is_there;
            let look = self.rules.look(entry.stage, entry.peer, &bytes[..seen], last);
            if look != Look::More || !more_is_there {
                return Ok(look);
            }
            room = limit;
        }
    }

    fn watch(&self, entry: &Entry) -> io::Result<()> {
        let fd = entry.fd.as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), Token(self.next), Interest::READABLE)
    }

    /// Before the connection is passed on: the system would go on watching it for as long as the worker
    /// has it.
    fn unwatch(&self, entry: &Entry) {
        let _ = self.registry.deregister(&mut SourceFd(&entry.fd.as_raw_fd()));
    }
}

/// What a look found.
enum Found {
    Client(Client),
    Gone,
    Invalid,
}

impl Found {
    fn into_outcome(self, Entry { fd, source, .. }: Entry) -> Outcome {
        match self {
            Self::Client(client) => Outcome::Client(client, Connection { fd, source }),
            Self::Gone => Outcome::Gone,
            Self::Invalid => Outcome::Invalid,
        }
    }
}

/// Never blocks, whatever the descriptor's own flags are.
fn receive(fd: &OwnedFd, bytes: &mut [u8], flags: MsgFlags) -> Result<usize, Errno> {
    loop {
        match recv(fd.as_raw_fd(), bytes, flags | MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use mio::Poll;

    use super::*;
    use crate::client::address::Ipv6Prefix;
    use crate::client::hash::ClientHasher;
    use crate::client::identify::NamingHeader;
    use crate::client::trust::Trust;

    const LIMITS: LookLimits = LookLimits { time: Duration::from_secs(10), bytes: 4096 };

    fn identify() -> (Poll, Identify) {
        let poll = Poll::new().unwrap();
        let rules = Identifier {
            hasher: ClientHasher::new(*b"test key", Ipv6Prefix::FULL),
            header: Some(NamingHeader::new("x-forwarded-for")),
            trust: Trust::All,
            proxy_protocol: false,
            sessions: None,
        };
        let registry = poll.registry().try_clone().unwrap();
        (poll, Identify::new(rules, LIMITS, registry))
    }

    fn connect(identify: &mut Identify, now: Instant) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        assert!(identify.take(Accepted { fd: near.into(), peer: None }, now).is_none());
        far
    }

    fn news(poll: &mut Poll, identify: &mut Identify, now: Instant) -> Vec<Outcome> {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        identify.ready(&events, now)
    }

    #[test]
    fn who_falls_silent_amid_a_head_is_not_looked_at_again_before_the_deadline() {
        let now = Instant::now();
        let (mut poll, mut identify) = identify();
        let mut client = connect(&mut identify, now);
        for byte in b"GET / HTTP/1.1\r\n" {
            client.write_all(&[*byte]).unwrap();
            assert!(news(&mut poll, &mut identify, now).is_empty());
        }
        // The first pieces were looked at as they came; the rest is looked at once after it.
        assert_eq!(identify.next_due(), Some(now + REST));
        assert!(identify.due(now + REST).is_empty());
        assert_eq!(identify.next_due(), Some(now + REST * 3));
        assert!(identify.due(now + REST * 3).is_empty());
        assert_eq!(identify.next_due(), Some(now + LIMITS.time));
        assert_eq!(identify.due(now + LIMITS.time).len(), 1);
        assert!(identify.is_empty());
    }

    #[test]
    fn what_comes_during_a_rest_is_seen_after_it() {
        let now = Instant::now();
        let (mut poll, mut identify) = identify();
        let mut client = connect(&mut identify, now);
        for byte in b"GET / HTTP/1.1\r\n\r\n" {
            client.write_all(&[*byte]).unwrap();
            assert!(news(&mut poll, &mut identify, now).is_empty());
        }
        assert!(matches!(identify.due(now + REST)[..], [Outcome::Client(..)]));
    }

    #[test]
    fn guarantee_8_bounded_the_longest_waiting_go_on_when_told() {
        let now = Instant::now();
        let (_poll, mut identify) = identify();
        let clients: Vec<_> = (0..=GIVEN_UP).map(|_| connect(&mut identify, now)).collect();
        assert_eq!(identify.give_up_oldest(now).len(), GIVEN_UP);
        assert_eq!(identify.len(), 1);
        assert_eq!(identify.clear().len(), 1);
        drop(clients);
    }

    #[test]
    fn who_leaves_without_a_word_is_gone() {
        let now = Instant::now();
        let (mut poll, mut identify) = identify();
        drop(connect(&mut identify, now));
        assert!(matches!(news(&mut poll, &mut identify, now)[..], [Outcome::Gone]));
    }
}
