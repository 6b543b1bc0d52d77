//! The accept loops of a balancer, one for each socket that this process accepts from, and the alarms on sockets that
//! workers accept from while nobody else looks.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

/// How long JavaScript waits for accept loops to let go of the port. They let go within a turn.
const RELEASE_TIME: Duration = Duration::from_secs(1);

/// An accept loop.
pub struct AcceptLoop {
    /// Runs it.
    pub task: AbortHandle,
    /// Disconnected once the loop and its share of the socket are gone.
    pub released: Receiver<()>,
}

/// What runs for a socket.
#[derive(Default)]
struct Socket {
    accepting: Option<AcceptLoop>,
    /// Since when an accept loop is wanted in vain.
    wanted_since: Option<Instant>,
    alarm: Option<AbortHandle>,
}

/// What runs for each socket.
#[derive(Default)]
pub struct AcceptLoops {
    sockets: Vec<Socket>,
    /// Loops that were told to end.
    ending: Vec<Receiver<()>>,
}

impl AcceptLoops {
    /// Has an accept loop run for a socket. Returns since when that is wanted in vain, if it is.
    pub fn start(
        &mut self,
        index: usize,
        now: Instant,
        start: impl FnOnce() -> io::Result<AcceptLoop>,
    ) -> Option<Instant> {
        let socket = self.socket(index);
        if socket.accepting.is_none() {
            socket.accepting = start().ok();
        }
        let vain = socket.accepting.is_none();
        socket.wanted_since = vain.then(|| socket.wanted_since.unwrap_or(now));
        socket.wanted_since
    }

    /// Has none run for a socket.
    pub fn stop(&mut self, index: usize) {
        let socket = self.socket(index);
        socket.wanted_since = None;
        if let Some(accepting) = socket.accepting.take() {
            accepting.task.abort();
            self.ending.retain(|released| !is_gone(released));
            self.ending.push(accepting.released);
        }
    }

    /// Has an alarm set on a socket.
    pub fn set_alarm(&mut self, index: usize, set: impl FnOnce() -> AbortHandle) {
        let alarm = &mut self.socket(index).alarm;
        if alarm.as_ref().is_none_or(AbortHandle::is_finished) {
            *alarm = Some(set());
        }
    }

    /// Ends the alarm on a socket.
    pub fn clear_alarm(&mut self, index: usize) {
        if let Some(alarm) = self.socket(index).alarm.take() {
            alarm.abort();
        }
    }

    /// Ends all; returns what to wait for.
    pub fn close(&mut self) -> Ending {
        for socket in std::mem::take(&mut self.sockets) {
            if let Some(alarm) = socket.alarm {
                alarm.abort();
            }
            if let Some(accepting) = socket.accepting {
                accepting.task.abort();
                self.ending.push(accepting.released);
            }
        }
        Ending(std::mem::take(&mut self.ending))
    }

    fn socket(&mut self, index: usize) -> &mut Socket {
        if self.sockets.len() <= index {
            self.sockets.resize_with(index + 1, Socket::default);
        }
        &mut self.sockets[index]
    }
}

/// Accept loops that end.
pub struct Ending(Vec<Receiver<()>>);

impl Ending {
    /// Waits until they are gone, and the port is free. Not under the lock, which they take.
    pub fn wait(self) {
        for released in self.0 {
            let result = released.recv_timeout(RELEASE_TIME);
            debug_assert_eq!(result, Err(RecvTimeoutError::Disconnected));
        }
    }
}

fn is_gone(released: &Receiver<()>) -> bool {
    released.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected)
}
