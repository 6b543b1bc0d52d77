//! The accept loops of a balancer, one for each socket that this process accepts from, and the alarms on sockets that
//! workers accept from while nobody else looks.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

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
    /// Has an accept loop run for a socket, or none. Returns whether that is so now.
    pub fn run(
        &mut self,
        index: usize,
        wanted: bool,
        start: impl FnOnce() -> Option<AcceptLoop>,
    ) -> bool {
        let accepting = &mut self.socket(index).accepting;
        if wanted && accepting.is_none() {
            *accepting = start();
        }
        let running = accepting.is_some();
        if !wanted && let Some(accepting) = accepting.take() {
            accepting.task.abort();
            self.ending.retain(|released| !is_gone(released));
            self.ending.push(accepting.released);
        }
        running || !wanted
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
