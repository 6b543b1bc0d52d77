//! `Intake` for JavaScript: the worker's end of a channel on Node's own event loop. No thread: a
//! worker whose event loop is stuck receives nothing, and so acknowledges nothing.
//!
//! Ends in `close`, at the end of the channel, or with its environment, always on that
//! environment's thread.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use napi::bindgen_prelude::{
    Error, Float64Array, FnArgs, Function, FunctionRef, JsValuesTupleIntoVec, Result,
};
use napi::{Env, Status};
use napi_derive::napi;

use crate::channel::counters;
use crate::channel::frame::Loan;
use crate::sys::callback_scope::{CallbackContext, EventLoop};
use crate::sys::page::Page;
use crate::sys::poll::Poll;
use crate::sys::{socket, tcp_info};
use crate::worker::intake::{Arrived, Delivery, Intake as Native, Message};
use crate::worker::room;

/// Connections taken in one turn of the event loop, so that others have theirs.
const CONNECTIONS_PER_TURN: usize = 64;

/// Where a connection comes from that a proxy speaks for.
#[napi(object)]
pub struct Source {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// `IPv4` or `IPv6`.
    pub family: String,
}

impl From<SocketAddr> for Source {
    fn from(source: SocketAddr) -> Self {
        let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
        Self { address: source.ip().to_string(), port: source.port(), family: family.to_owned() }
    }
}

/// Descriptors to acknowledge and adopt, or nothing at the end of the channel; where they come
/// from, unless no proxy said so of any; and their slots.
type Connections = (Option<Vec<i32>>, Option<Vec<Option<Source>>>, Vec<u32>);

type OnConnections = FunctionRef<FnArgs<Connections>, ()>;

/// A slot, the number of a loan of its socket, and the socket's descriptor and backlog; no descriptor when the socket is
/// to be closed.
type Listening = (u32, u32, Option<i32>, u32);

type OnListening = FunctionRef<FnArgs<Listening>, ()>;

type OnCounters = FunctionRef<FnArgs<(Float64Array,)>, ()>;

/// Connections that came together, each with its slot.
type Batch = Vec<(u32, Arrived)>;

/// Dropped as a whole: the function refers to JavaScript objects that refer to this one, and while
/// it is held none of them can be collected.
struct Open {
    // Before the channel that it polls: fields drop in this order.
    _poll: Poll,
    native: Native,
    on_connections: OnConnections,
    on_listening: OnListening,
    on_counters: OnCounters,
}

struct Shared {
    open: RefCell<Option<Open>>,
    context: CallbackContext,
}

/// See [`Native`].
#[napi]
pub struct Intake {
    shared: Rc<Shared>,
}

#[napi]
impl Intake {
    /// Takes over a copy of the channel `fd` and says hello to the primary. `on_counters` gets, once, what this process
    /// counts in for the primary, before it is to count.
    #[napi(constructor)]
    #[allow(clippy::type_complexity, reason = "the generated types cannot look into an alias")]
    pub fn new(
        env: Env,
        fd: i32,
        on_connections: Function<
            '_,
            FnArgs<(Option<Vec<i32>>, Option<Vec<Option<Source>>>, Vec<u32>)>,
            (),
        >,
        on_listening: Function<'_, FnArgs<(u32, u32, Option<i32>, u32)>, ()>,
        on_counters: Function<'_, FnArgs<(Float64Array,)>, ()>,
    ) -> Result<Self> {
        let native = socket::duplicate(fd).and_then(Native::open).map_err(failed)?;
        let shared = Rc::new(Shared {
            open: RefCell::new(None),
            context: CallbackContext::new(&env, "StickyListenIntake")?,
        });
        // Weak: libuv frees this closure in a later turn, when the environment may be gone.
        let weak = Rc::downgrade(&shared);
        let on_ready = move || {
            if let Some(shared) = weak.upgrade() {
                shared.on_readable();
            }
        };
        let event_loop = EventLoop::of(&env)?;
        let poll = Poll::start(&event_loop, native.as_fd(), Box::new(on_ready)).map_err(failed)?;
        let on_connections = on_connections.create_ref()?;
        let on_listening = on_listening.create_ref()?;
        let on_counters = on_counters.create_ref()?;
        let open = Open { _poll: poll, native, on_connections, on_listening, on_counters };
        shared.open.replace(Some(open));
        Ok(Self { shared })
    }

    /// Takes over what the callback was called with, which none may touch before. `false`: the
    /// channel has ended, and it must be closed untouched.
    #[napi]
    pub fn acknowledge(&self) -> bool {
        let mut open = self.shared.open.borrow_mut();
        let acknowledged = open.as_mut().is_some_and(|open| open.native.acknowledge().is_ok());
        if !acknowledged {
            open.take();
        }
        acknowledged
    }

    /// The socket of a loan is closed. (Where that cannot be said the channel ends, which says it as well.)
    #[napi]
    pub fn released(&self, slot: u32, number: u32) {
        let loan = Loan { slot, number };
        let mut open = self.shared.open.borrow_mut();
        if open.as_mut().is_some_and(|open| open.native.released(loan).is_err()) {
            open.take();
        }
    }

    /// Ends the channel: what was not adopted goes elsewhere.
    #[napi]
    pub fn close(&self) {
        self.shared.open.take();
    }
}

impl Shared {
    /// All that has come is taken at once: one call of JavaScript and one acknowledgement for it, which is for all that was
    /// received. Other messages keep their place between the connections.
    fn on_readable(&self) {
        let mut arrived = Batch::new();
        let mut ended = false;
        while arrived.len() < CONNECTIONS_PER_TURN && !ended {
            let received = match self.open.borrow_mut().as_mut() {
                Some(open) => open.native.receive(),
                None => return,
            };
            match received {
                Ok(Some(Message::Connections(Delivery { slot, connections }))) => {
                    arrived.extend(connections.into_iter().map(|connection| (slot, connection)));
                }
                Ok(Some(Message::Listen { loan: Loan { slot, number }, socket, backlog })) => {
                    self.take_over(&mut arrived);
                    self.give_counters();
                    self.call(
                        |open| &open.on_listening,
                        || (slot, number, Some(socket::release(socket)), backlog).into(),
                    );
                }
                Ok(Some(Message::Release(Loan { slot, number }))) => {
                    self.take_over(&mut arrived);
                    self.call(|open| &open.on_listening, || (slot, number, None, 0).into());
                }
                Ok(Some(Message::Counters)) => self.give_counters(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The rest is for primaries.
                Ok(None | Some(Message::Inherited { .. } | Message::Outrun)) | Err(_) => {
                    ended = true;
                }
            }
        }
        self.take_over(&mut arrived);
        if ended {
            self.call(|open| &open.on_connections, || Connections::default().into());
            self.open.take();
        }
    }

    fn take_over(&self, arrived: &mut Batch) {
        if !arrived.is_empty() {
            let arrived = std::mem::take(arrived);
            self.call(|open| &open.on_connections, || to_javascript(arrived).into());
        }
    }

    fn give_counters(&self) {
        let page = self.open.borrow_mut().as_mut().and_then(|open| open.native.take_counters());
        if let Some(page) = page {
            self.call(|open| &open.on_counters, || (Page::array(page),).into());
        }
    }

    /// Calls a function, with arguments that own descriptors from the moment in which it is called, and not before.
    fn call<Args: JsValuesTupleIntoVec>(
        &self,
        which: impl FnOnce(&Open) -> &FunctionRef<Args, ()>,
        args: impl FnOnce() -> Args,
    ) {
        // That JavaScript cannot be entered any more is the end of the environment.
        let _ = self.context.enter(|env| {
            // The borrow ends before JavaScript runs, which may close the intake, or have closed it.
            let function = self.open.borrow().as_ref().map(|open| which(open).borrow_back(env));
            let Some(function) = function else { return };
            if let Err(error) = function.and_then(|function| function.call(args())) {
                env.fatal_exception(error);
            }
        });
    }
}

/// How many connections this process may accept from sockets before it is to ask again. 0: none, for lack of descriptors.
#[napi]
pub fn room() -> u32 {
    room::grant()
}

/// Which of the counters has the milliseconds that all connections of the sample have waited.
#[napi]
#[expect(clippy::cast_possible_truncation, reason = "a constant far below")]
pub const WAITED: u32 = counters::WAITED as u32;

/// Which of them has the number of connections that this process's server has open.
#[napi]
#[expect(clippy::cast_possible_truncation, reason = "a constant far below")]
pub const OPEN: u32 = counters::OPEN as u32;

/// How long a connection has waited.
#[napi(object)]
pub struct Waited {
    /// In milliseconds.
    pub milliseconds: u32,
    /// Which of the counters counts those that have waited so long.
    pub counter: u32,
}

/// How long a connection has waited that was just accepted, or nothing where the system does not tell. What its client
/// has sent meanwhile makes it less.
#[napi]
pub fn waited(fd: i32) -> Option<Waited> {
    let connection = socket::duplicate(fd).ok()?;
    let milliseconds = tcp_info::quiet_for(connection.as_fd())?;
    let counter = counters::of_wait(Duration::from_millis(milliseconds.into()));
    Some(Waited { milliseconds, counter: u32::try_from(counter).ok()? })
}

fn to_javascript(arrived: Batch) -> Connections {
    let proxied = arrived.iter().any(|(_, one)| one.source.is_some());
    let sources = || arrived.iter().map(|(_, one)| one.source.map(Source::from)).collect();
    let sources = proxied.then(sources);
    let (slots, fds) =
        arrived.into_iter().map(|(slot, one)| (slot, socket::release(one.fd))).unzip();
    (Some(fds), sources, slots)
}

fn failed(error: io::Error) -> Error {
    Error::new(Status::GenericFailure, error.to_string())
}
