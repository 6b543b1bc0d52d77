//! The accept loops of a balancer, one for each socket that this process accepts from, and the alarms on sockets that
//! workers accept from while nobody else looks.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::task::AbortHandle;

/// How long JavaScript waits for accept loops to let go of the port. They let go within a turn.
const RELEASE_TIME: Duration = Duration::from_secs(1);

/// An accept loop.
pub struct Acceptor {
    /// Runs it.
    pub task: AbortHandle,
    /// Disconnected once the loop and its share of the socket are gone.
    pub released: Receiver<()>,
}

/// What runs for a socket.
#[derive(Default)]
struct Listener {
    acceptor: Option<Acceptor>,
    alarm: Option<AbortHandle>,
}

/// What runs for each socket.
#[derive(Default)]
pub struct Listeners {
    listeners: Vec<Listener>,
    /// Loops that were told to end.
    ending: Vec<Receiver<()>>,
}

impl Listeners {
    /// Has an accept loop run for a socket, or none. Returns whether that is so now.
    pub fn accept(
        &mut self,
        index: usize,
        wanted: bool,
        start: impl FnOnce() -> Option<Acceptor>,
    ) -> bool {
        let acceptor = &mut self.listener(index).acceptor;
        if wanted && acceptor.is_none() {
            *acceptor = start();
        }
        let running = acceptor.is_some();
        if !wanted && let Some(acceptor) = acceptor.take() {
            acceptor.task.abort();
            self.ending.retain(|released| !is_gone(released));
            self.ending.push(acceptor.released);
        }
        running || !wanted
    }

    /// Has an alarm set on a socket.
    pub fn set_alarm(&mut self, index: usize, set: impl FnOnce() -> AbortHandle) {
        let alarm = &mut self.listener(index).alarm;
        if alarm.as_ref().is_none_or(AbortHandle::is_finished) {
            *alarm = Some(set());
        }
    }

    /// Ends the alarm on a socket.
    pub fn clear_alarm(&mut self, index: usize) {
        if let Some(alarm) = self.listener(index).alarm.take() {
            alarm.abort();
        }
    }

    /// Ends all; returns what to wait for.
    pub fn close(&mut self) -> Released {
        for listener in std::mem::take(&mut self.listeners) {
            if let Some(alarm) = listener.alarm {
                alarm.abort();
            }
            if let Some(acceptor) = listener.acceptor {
                acceptor.task.abort();
                self.ending.push(acceptor.released);
            }
        }
        Released(std::mem::take(&mut self.ending))
    }

    fn listener(&mut self, index: usize) -> &mut Listener {
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, Listener::default);
        }
        &mut self.listeners[index]
    }
}

/// Accept loops that end.
pub struct Released(Vec<Receiver<()>>);

impl Released {
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
