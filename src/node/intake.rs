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

use napi::bindgen_prelude::{Error, FnArgs, Function, FunctionRef, Result};
use napi::{Env, Status};
use napi_derive::napi;

use crate::sys::callback_scope::{CallbackContext, EventLoop};
use crate::sys::poll::Poll;
use crate::sys::socket;
use crate::worker::intake::{Arrived, Intake as Native};

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

/// Descriptors to acknowledge and adopt, or nothing at the end of the channel; and where they come
/// from, unless no proxy said so of any.
type Connections = (Option<Vec<i32>>, Option<Vec<Option<Source>>>);

type OnConnections = FunctionRef<FnArgs<Connections>, ()>;

/// Dropped as a whole: the function refers to JavaScript objects that refer to this one, and while
/// it is held none of them can be collected.
struct Open {
    // Before the channel that it polls: fields drop in this order.
    _poll: Poll,
    native: Native,
    on_connections: OnConnections,
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
    /// Takes over a copy of the channel `fd` and says hello to the primary.
    #[napi(constructor)]
    #[allow(clippy::type_complexity, reason = "the generated types cannot look into an alias")]
    pub fn new(
        env: Env,
        fd: i32,
        on_connections: Function<'_, FnArgs<(Option<Vec<i32>>, Option<Vec<Option<Source>>>)>, ()>,
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
        shared.open.replace(Some(Open { _poll: poll, native, on_connections }));
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

    /// Ends the channel: what was not adopted goes elsewhere.
    #[napi]
    pub fn close(&self) {
        self.shared.open.take();
    }
}

impl Shared {
    fn on_readable(&self) {
        let mut taken = 0;
        while taken < CONNECTIONS_PER_TURN {
            // The borrow ends before JavaScript runs, which may close the intake.
            let received = match self.open.borrow_mut().as_mut() {
                Some(open) => open.native.receive(),
                None => return,
            };
            let connections = match received {
                Ok(connections) => connections,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => None,
            };
            let ended = if connections.is_none() { self.open.take() } else { None };
            taken += connections.as_ref().map_or(0, Vec::len);
            let connections = connections.map(to_javascript).unwrap_or_default();
            let entered = self.context.enter(|env| {
                let open = self.open.borrow();
                let Some(function) = ended.as_ref().or(open.as_ref()) else { return };
                let function = function.on_connections.borrow_back(env);
                // JavaScript may close the intake.
                drop(open);
                if let Err(error) = function.and_then(|function| function.call(connections.into()))
                {
                    env.fatal_exception(error);
                }
            });
            // Or JavaScript cannot be entered any more: the environment ends.
            if ended.is_some() || entered.is_err() {
                return;
            }
        }
    }
}

fn to_javascript(connections: Vec<Arrived>) -> Connections {
    let proxied = connections.iter().any(|one| one.source.is_some());
    let sources = || connections.iter().map(|one| one.source.map(Source::from)).collect();
    let sources = proxied.then(sources);
    (Some(connections.into_iter().map(|one| socket::release(one.fd)).collect()), sources)
}

fn failed(error: io::Error) -> Error {
    Error::new(Status::GenericFailure, error.to_string())
}
