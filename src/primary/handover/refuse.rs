//! Says no in HTTP to a client that nobody can serve, so that it learns of it: an answer followed
//! at once by `close` becomes a reset when unread input remains, and the client never sees it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;

use crate::sys::{descriptors, readiness, socket};

/// How long and how far a client may go on sending after the answer.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 1 << 20;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No worker came for it in time.
    NoWorker,
    /// Too many wait for its worker.
    Overload,
    /// Its client is new, and none are taken any more.
    Draining,
    /// This process has no descriptors left, so that it cannot even answer.
    NoDescriptors,
}

impl Refusal {
    /// The status of the answer, if there is one.
    pub fn status(self) -> Option<u16> {
        match self {
            Self::NoWorker => Some(502),
            Self::Overload | Self::Draining => Some(503),
            Self::NoDescriptors => None,
        }
    }

    /// The body is for whoever finds it in a log: it tells this answer from those of proxies and applications.
    fn response(self) -> Vec<u8> {
        let (status, more, body) = match self {
            Self::NoWorker => {
                ("502 Bad Gateway", "", "502 Bad Gateway: no worker took the connection in time\n")
            }
            // It takes a moment until fewer wait; a client that comes back at once makes it worse.
            Self::Overload => (
                "503 Service Unavailable",
                "Retry-After: 1\r\n",
                "503 Service Unavailable: too many connections wait for a worker\n",
            ),
            // The proxy in front has others to try.
            Self::Draining => (
                "503 Service Unavailable",
                "Retry-After: 1\r\n",
                "503 Service Unavailable: no new clients are taken here\n",
            ),
            Self::NoDescriptors => return Vec::new(),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.0 {status}\r\n{more}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
        );
        (head + body).into_bytes()
    }
}

/// Answers, then reads and forgets what the client still sends, within limits, and closes.
pub async fn refuse(connection: OwnedFd, refusal: Refusal) {
    // A client that is gone, or takes not even one segment, is not waited for.
    if answer(&connection, refusal).is_ok() {
        let _ = tokio::time::timeout(DRAIN_TIME, drain(connection)).await;
    }
}

/// Answers without waiting for the client to stop sending.
pub fn answer(connection: &OwnedFd, refusal: Refusal) -> io::Result<()> {
    descriptors::send(connection.as_fd(), &refusal.response(), &[])?;
    socket::shutdown_write(connection.as_fd())
}

async fn drain(connection: OwnedFd) -> io::Result<()> {
    let connection = readiness::register(connection, Interest::READABLE)?;
    let mut left = DRAIN_BYTES;
    let mut scratch = [0; 2048];
    while left > 0 {
        let mut ready = connection.readable().await?;
        match ready.try_io(|fd| Ok(nix::unistd::read(fd, &mut scratch)?)) {
            Ok(Ok(0)) => break,
            Ok(Ok(read)) => left = left.saturating_sub(read),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}
