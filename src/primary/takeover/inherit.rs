//! What a successor gets from the primary that it takes over from, and how the two go on.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{SECRETS, Secrets, is_ours};
use crate::channel::frame::Frame;
use crate::channel::passing::Received;
use crate::worker::intake::Intake;

/// The thread that answers does nothing for longer than some milliseconds.
const TIME: Duration = Duration::from_secs(5);

/// What the predecessor leaves.
pub struct Inheritance {
    /// Its secrets.
    pub secrets: Secrets,
    /// Its listening sockets. They go on listening.
    pub sockets: Vec<OwnedFd>,
    /// Whether the kernel chooses among them, in this order.
    pub steered: bool,
    /// Their backlog.
    pub backlog: i32,
    /// The channel to it.
    pub channel: Intake,
}

/// Asks whoever offers itself at this path. `None`: nobody does.
pub fn inherit(path: &Path) -> io::Result<Option<Inheritance>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !is_ours(stream.as_fd())? {
        return Err(io::Error::other("another user listens there"));
    }
    stream.set_nonblocking(true)?;
    let mut channel = Intake::open(stream.into())?;
    let by = Instant::now() + TIME;
    let mut secrets = [0; SECRETS];
    let mut sockets = Vec::new();
    loop {
        let Some(Received { frame, fds, .. }) = next(&mut channel, by)? else {
            // It ended in that very moment, or speaks another version.
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        match frame {
            Frame::Secret { index, word } if usize::from(index) < SECRETS => {
                secrets[usize::from(index)] = word;
            }
            Frame::Inherit { steered, count, backlog, left } => {
                if fds.len() != usize::from(count) {
                    return Err(Errno::EMFILE.into());
                }
                sockets.extend(fds);
                if left == 0 {
                    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
                    return Ok(Some(Inheritance { secrets, sockets, steered, backlog, channel }));
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn next(channel: &mut Intake, by: Instant) -> io::Result<Option<Received>> {
    loop {
        match channel.receive_frame() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
        let left = by.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
