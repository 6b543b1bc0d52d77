//! The background thread that does a balancer's work, from its first `listen` to its end. Each balancer has its own, as
//! it sleeps between turns under load.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::sys::scheduling;

/// How long ending may take. The thread blocks for a millisecond at most, so this is never reached on a machine
/// that runs at all; without it a fault here would hang the process at its exit.
const END_TIME: Duration = Duration::from_secs(1);

/// The thread and its tokio runtime. Dropping it ends both: running tasks are dropped where they stand. Only
/// JavaScript threads hold it, never a task, so that the thread does not wait for itself.
pub struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// For spawning tasks onto the thread.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = channel();
        let thread = thread::Builder::new().name("sticky-listen".into()).spawn(move || {
            // It works for microseconds at a time, and somebody waits for each of them.
            scheduling::prefer_latency();
            // Dropping the sender stops it as well.
            let _ = runtime.block_on(stopped);
            drop(runtime);
            drop(ending);
        })?;
        Ok(Self { handle, stop: Some(stop), ended, thread: Some(thread) })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Nothing is ever sent: the end of the channel is the answer.
        let in_time = self.ended.recv_timeout(END_TIME)
            == Err(std::sync::mpsc::RecvTimeoutError::Disconnected);
        if let Some(thread) = self.thread.take().filter(|_| in_time) {
            let _ = thread.join();
        }
    }
}
