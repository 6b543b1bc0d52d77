//! The primary's end of a worker's channel: sends connections, reads what became of them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::answers::{Answer, AnswerReader, Fault};
use crate::channel::passing;
use crate::sys::{readiness, socket};

/// How long a worker may take from being offered a channel to its hello. A worker that starts up
/// may be busy for seconds; after this the offer is withdrawn and can be made again.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub fd: OwnedFd,
    /// Where it comes from, when the peer is a proxy that said so. Few are proxied, and many may wait.
    pub source: Option<Box<SocketAddr>>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// When to try again to send where nothing can say that there is room.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// What to do after an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// The socket is full; it will say when it has room.
    Full,
    /// The system has no room for more descriptors in flight; nothing will say when it has.
    Exhausted,
}

/// A channel's socket, shared by the sending and the reading side.
pub struct Line {
    socket: AsyncFd<OwnedFd>,
    /// Wakes the reading side to wait for room as well.
    full: Notify,
    /// Sending failed in a way that says nothing about the worker.
    broken: AtomicBool,
}

/// How a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The worker closed it: it died, or stopped taking connections.
    Closed,
    /// The worker said no hello in time.
    Silent,
    /// The worker said what cannot be.
    Fault(Fault),
    /// The system refused to send.
    Broken,
}

/// What the reading side reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The worker said something.
    Answer(Answer),
    /// There is room again after [`Sent::Full`].
    Room,
}

impl Line {
    /// Must be called on the runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            // Not for writing: each message that the worker takes would wake this thread.
            socket: readiness::register(socket, Interest::READABLE)?,
            full: Notify::new(),
            broken: AtomicBool::new(false),
        })
    }

    /// Sends a batch of connections, whose first has the number `first`.
    pub fn send(&self, first: u64, connections: &[&Connection]) -> Sent {
        let fds: Vec<_> = connections.iter().map(|connection| connection.as_fd()).collect();
        let sources: Vec<_> = if connections.iter().any(|connection| connection.source.is_some()) {
            connections.iter().map(|connection| connection.source.as_deref().copied()).collect()
        } else {
            Vec::new()
        };
        let sent = passing::deliver(self.socket.as_fd(), first, &fds, &sources);
        let Err(error) = sent else { return Sent::Yes };
        if error.kind() == io::ErrorKind::WouldBlock {
            self.full.notify_one();
            return Sent::Full;
        }
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR => Sent::Exhausted,
            // The worker is gone. The reading side finds the end of the stream, after the
            // acknowledgements that are still in it, and reports it.
            Errno::EPIPE | Errno::ECONNRESET => Sent::Full,
            _ => {
                self.broken.store(true, Ordering::Relaxed);
                let _ = socket::shutdown(self.socket.as_fd());
                Sent::Full
            }
        }
    }

    /// Waits until the socket has room.
    async fn room(&self) {
        let watched = self.socket.as_fd().try_clone_to_owned();
        match watched.and_then(|fd| readiness::register(fd, Interest::WRITABLE)) {
            Ok(watched) => drop(watched.writable().await),
            // No descriptors left. Trying again does no harm.
            Err(_) => tokio::time::sleep(ROOM_RETRY).await,
        }
    }

    /// Reads until the channel ends. `on_event` says whether what was reported can be.
    pub async fn read(&self, mut on_event: impl FnMut(Event) -> bool) -> End {
        let mut answers = AnswerReader::default();
        let hello_by = tokio::time::sleep(HELLO_TIME);
        tokio::pin!(hello_by);
        let mut full = false;
        loop {
            tokio::select! {
                () = &mut hello_by, if !answers.greeted() => return End::Silent,
                () = self.full.notified(), if !full => full = true,
                () = self.room(), if full => {
                    full = false;
                    on_event(Event::Room);
                }
                ready = self.socket.readable() => {
                    let Ok(mut ready) = ready else { return End::Closed };
                    let mut bytes = [0; 1024];
                    let read = match ready.try_io(|fd| Ok(nix::unistd::read(fd, &mut bytes)?)) {
                        Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Ok(Ok(0) | Err(_)) if self.broken.load(Ordering::Relaxed) => return End::Broken,
                        Ok(Ok(0) | Err(_)) => return End::Closed,
                        Ok(Ok(read)) => read,
                        Err(_would_block) => continue,
                    };
                    // That was all there is; what comes next is news.
                    if read < bytes.len() {
                        ready.clear_ready();
                    }
                    let mut input = &bytes[..read];
                    loop {
                        match answers.next(&mut input) {
                            Ok(None) => break,
                            Ok(Some(answer)) if on_event(Event::Answer(answer)) => {}
                            Ok(Some(_)) => return End::Fault(Fault::Garbage),
                            Err(fault) => return End::Fault(fault),
                        }
                    }
                }
            }
        }
    }
}
