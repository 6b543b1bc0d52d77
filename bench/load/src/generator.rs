//! The loop that starts connections and follows them. One thread, one epoll.
//!
//! Closed loop: as many connections at a time as asked for, each replaced when it ends. Open loop: a
//! connection at each tick of the rate, whatever became of those before; its latency counts from the
//! tick, also when it could only be started later, so that no stall of the server is left out.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::arguments::{Arguments, Mode};
use crate::clients::{self, Stickiness};
use crate::connection::{Connection, Failure, Progress, Stage};
use crate::outcome::Outcome;

/// How long connections may take to end after the last was started.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long an open loop sleeps when its next tick is not what wakes it.
const PATIENCE_MS: u16 = 100;
/// The most connections an open loop has under way; the rest start late, which counts.
const MAX_UNDER_WAY: usize = 10_000;
/// The key of the timer among those of the connections.
const TIMER: u64 = u64::MAX;

const READ: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);

struct Requests {
    keep: Vec<u8>,
    last: Vec<u8>,
    /// Whether they have a cookie.
    cookie: bool,
}

/// A place for a connection. Its number and its age make the key of its events, so that an event
/// of a connection that is gone is not taken for one of its successor.
#[derive(Default)]
struct Place {
    age: u32,
    connection: Option<Connection>,
}

/// See the module.
pub struct Generator {
    arguments: Arguments,
    sources: Vec<Ipv4Addr>,
    requests: Vec<Requests>,
    epoll: Epoll,
    timer: Option<TimerFd>,
    places: Vec<Place>,
    free: Vec<u32>,
    under_way: usize,
    started: u64,
    begin: Instant,
    /// When nothing more is started.
    stop: Instant,
    /// When something last came to an end.
    last: Instant,
    held: Vec<OwnedFd>,
    buffer: Vec<u8>,
    outcome: Outcome,
    stickiness: Stickiness,
}

impl Generator {
    /// Ready to run.
    pub fn new(arguments: Arguments) -> io::Result<Self> {
        let sources = if arguments.sources.is_empty() {
            (0..arguments.clients).map(clients::loopback).collect()
        } else {
            arguments.sources.clone()
        };
        let requests = |client| requests(&arguments, client, None);
        let requests = (0..arguments.clients).map(requests).collect();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = arguments.rate.map(|rate| ticking(&epoll, rate)).transpose()?;
        Ok(Self {
            sources,
            requests,
            epoll,
            timer,
            places: Vec::new(),
            free: Vec::new(),
            under_way: 0,
            started: 0,
            begin: Instant::now(),
            stop: Instant::now(),
            last: Instant::now(),
            held: Vec::new(),
            buffer: vec![0; 128 * 1024],
            outcome: Outcome::new(),
            stickiness: Stickiness::new(arguments.clients),
            arguments,
        })
    }

    /// Runs to the end and prints the outcome. When connections are held, it ends with stdin.
    pub fn run(mut self) -> io::Result<()> {
        self.begin = Instant::now();
        self.stop = self.begin + self.arguments.duration;
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let now = Instant::now();
            let starting = self.may_start() && (self.holds() || now < self.stop);
            if starting {
                self.start(now);
            } else if self.under_way == 0 || now > self.stop + DRAIN_TIME {
                break;
            }
            let ready = match self.epoll.wait(&mut events, PATIENCE_MS) {
                Err(nix::errno::Errno::EINTR) => 0,
                ready => ready?,
            };
            for event in &events[..ready] {
                if event.data() == TIMER {
                    if let Some(timer) = &self.timer {
                        timer.wait()?;
                    }
                } else {
                    self.handle(event.data(), event.events());
                }
            }
        }
        // Connections that hang must not make the others look slow: they are counted as errors.
        self.outcome.elapsed = self.last - self.begin;
        self.outcome.hung(self.under_way);
        println!("{}", self.outcome.to_json(&self.stickiness));
        io::stdout().flush()?;
        if self.holds() {
            io::copy(&mut io::stdin(), &mut io::sink())?;
        }
        Ok(())
    }

    fn holds(&self) -> bool {
        matches!(self.arguments.mode, Mode::WebSocket | Mode::Hold)
    }

    fn may_start(&self) -> bool {
        self.arguments.connections.is_none_or(|most| self.started < most)
    }

    /// Starts what is due.
    fn start(&mut self, now: Instant) {
        if let Some(rate) = self.arguments.rate {
            while self.under_way < MAX_UNDER_WAY && self.may_start() {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let due = self.begin + Duration::from_secs_f64(self.started as f64 / rate);
                if due > now {
                    break;
                }
                self.outcome.latest_start = self.outcome.latest_start.max(now - due);
                self.open(due);
            }
        } else {
            while self.under_way < self.arguments.concurrency && self.may_start() {
                let before = self.under_way;
                self.open(Instant::now());
                // The server is gone, or this machine is out of something: others will end first.
                if self.under_way == before {
                    break;
                }
            }
        }
    }

    fn open(&mut self, since: Instant) {
        let nth = usize::try_from(self.started).unwrap_or(0);
        let client = clients::turn(self.started, self.arguments.clients);
        self.started += 1;
        let source =
            if self.arguments.forwarded { clients::proxy(nth) } else { self.sources[client] };
        let remaining = match self.arguments.mode {
            Mode::KeepAlive => self.arguments.per_connection,
            Mode::Connect | Mode::WebSocket => 1,
            Mode::Hold | Mode::Accept => 0,
        };
        self.connect(source, client, since, remaining);
    }

    fn connect(&mut self, source: Ipv4Addr, client: usize, since: Instant, remaining: u32) {
        let opened = Connection::open(source, self.arguments.port, client, since, remaining);
        let mut connection = match opened {
            Ok(connection) => connection,
            Err(errno) => return self.outcome.failed(crate::connection::name(errno)),
        };
        // On the loopback interface it mostly is connected by now, which saves a turn.
        let interest = match self.begin_with(&mut connection) {
            Ok(true) => READ,
            Ok(false) => EpollFlags::EPOLLOUT,
            Err(why) => return self.outcome.failed(why),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("fewer connections than 2^32")
        });
        let place = &mut self.places[index as usize];
        place.age = place.age.wrapping_add(1);
        let key = u64::from(place.age) << 32 | u64::from(index);
        match self.epoll.add(&connection, EpollEvent::new(interest, key)) {
            Ok(()) => {
                place.connection = Some(connection);
                self.under_way += 1;
            }
            Err(errno) => {
                self.free.push(index);
                self.outcome.failed(crate::connection::name(errno));
            }
        }
    }

    /// Sends the first request, if it can be sent already.
    fn begin_with(&self, connection: &mut Connection) -> Result<bool, Failure> {
        match self.arguments.mode {
            Mode::Hold => Ok(false),
            Mode::Accept => {
                connection.stage = Stage::Ending;
                Ok(true)
            }
            _ => self.ask(connection),
        }
    }

    fn ask(&self, connection: &mut Connection) -> Result<bool, Failure> {
        let requests = &self.requests[connection.client];
        let request = if connection.remaining > 1 { &requests.keep } else { &requests.last };
        connection.ask(request)
    }

    fn handle(&mut self, key: u64, flags: EpollFlags) {
        let index = u32::try_from(key & 0xffff_ffff).unwrap_or(0);
        let place = &mut self.places[index as usize];
        if u64::from(place.age) != key >> 32 {
            return;
        }
        let Some(mut connection) = place.connection.take() else { return };
        match self.follow(&mut connection, key, flags) {
            Ok(true) => self.places[index as usize].connection = Some(connection),
            Ok(false) => {
                self.free.push(index);
                self.under_way -= 1;
                self.end(connection);
            }
            Err(why) => {
                self.free.push(index);
                self.under_way -= 1;
                self.outcome.failed(why);
            }
        }
    }

    /// `false`: the connection has done what it was for.
    fn follow(
        &mut self,
        connection: &mut Connection,
        key: u64,
        flags: EpollFlags,
    ) -> Result<bool, Failure> {
        if connection.stage == Stage::Connecting {
            if let Some(why) = connection.failure() {
                return Err(why);
            }
            if self.arguments.mode == Mode::Hold {
                return Ok(false);
            }
            if !self.ask(connection)? {
                return Err("not connected");
            }
            self.epoll
                .modify(connection.as_fd(), &mut EpollEvent::new(READ, key))
                .map_err(crate::connection::name)?;
            return Ok(true);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let progress = connection.read(&mut buffer);
        self.buffer = buffer;
        match progress? {
            Progress::None => Ok(true),
            Progress::End => Ok(false),
            Progress::Response(response) => {
                let expected = if self.arguments.mode == Mode::WebSocket { 101 } else { 200 };
                if response.status != expected {
                    return Err("wrong status");
                }
                let now = Instant::now();
                self.last = now;
                self.outcome.answered(now - connection.since);
                match (response.worker, response.cookie) {
                    (Some(worker), None) => self.stickiness.note(connection.client, worker),
                    (Some(worker), Some(cookie)) => {
                        self.stickiness.welcome(worker);
                        self.keep_cookie(connection.client, &cookie);
                    }
                    (None, _) => {}
                }
                if self.arguments.mode == Mode::WebSocket {
                    return Ok(false);
                }
                if connection.remaining == 0 || response.closing {
                    connection.stage = Stage::Ending;
                    // The end has come with the response: it need not be read.
                    return Ok(!flags.contains(EpollFlags::EPOLLRDHUP));
                }
                if now >= self.stop {
                    connection.remaining = 1;
                }
                connection.since = now;
                self.ask(connection)
            }
        }
    }

    /// A client that was given a cookie was new. From now on it is known by that, also where others of its requests, which
    /// were under way, get it another.
    fn keep_cookie(&mut self, client: usize, cookie: &str) {
        if !self.requests[client].cookie {
            self.requests[client] = requests(&self.arguments, client, Some(cookie));
        }
    }

    fn end(&mut self, connection: Connection) {
        self.last = Instant::now();
        self.outcome.connections += 1;
        if self.holds() {
            let _ = self.epoll.delete(&connection);
            self.held.push(connection.into());
        } else if connection.remaining > 0 && self.last < self.stop {
            // Some servers close after each response: what is left goes on another connection.
            self.outcome.early_closes += 1;
            let (client, remaining) = (connection.client, connection.remaining);
            drop(connection);
            let source = if self.arguments.forwarded {
                clients::proxy(client)
            } else {
                self.sources[client]
            };
            self.connect(source, client, Instant::now(), remaining);
        }
    }
}

/// A timer that wakes the loop at every tick: epoll alone sleeps for whole milliseconds.
fn ticking(epoll: &Epoll, rate: f64) -> io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    let interval = TimeSpec::from_duration(Duration::from_secs_f64(1.0 / rate));
    timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty())?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
    Ok(timer)
}

fn requests(arguments: &Arguments, client: usize, cookie: Option<&str>) -> Requests {
    let xff = if arguments.forwarded {
        format!("X-Forwarded-For: {}\r\n", clients::forwarded(client))
    } else {
        String::new()
    };
    let kept = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let head = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n{xff}{kept}", arguments.path);
    let last = if arguments.mode == Mode::WebSocket {
        // The example of RFC 6455; that all are alike harms nobody here.
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    } else {
        "Connection: close\r\n"
    };
    Requests {
        keep: format!("{head}\r\n").into_bytes(),
        last: format!("{head}{last}\r\n").into_bytes(),
        cookie: cookie.is_some(),
    }
}
