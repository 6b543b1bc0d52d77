//! What a successor gets from the primary that it takes over from, and how the two go on.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, UnixAddr, connect};

use super::{SECRETS, Secrets, is_ours, offer};
use crate::channel::frame::{Frame, VERSION};
use crate::channel::passing::Received;
use crate::sys::socket;
use crate::worker::intake::Intake;

/// The thread that answers does nothing for longer than some milliseconds.
const TIME: Duration = Duration::from_secs(5);

/// For how long there may be nobody between one version and the next. After a crash it costs the next one this time.
const ABSENCE: Duration = Duration::from_millis(250);

/// When to ask again where the one that answers is just being replaced, or has no room.
const RETRY: Duration = Duration::from_millis(20);

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
    /// How many slots it has.
    pub slots: u32,
    /// The channel to it.
    pub channel: Intake,
}

/// Asks whoever offers itself at this path. `None`: nobody does.
pub fn inherit(path: &Path) -> io::Result<Option<Inheritance>> {
    let began = Instant::now();
    let path = offer::place(path)?;
    loop {
        let (error, time) = match ask(&path, began + TIME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Nobody, or one that has just been replaced, and not at its place yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => (None, ABSENCE),
            // Somebody with no room for one more, or one that is just being replaced.
            Err(error) if may_change(&error) => (Some(error), TIME),
            inherited => return inherited.map(Some),
        };
        if began.elapsed() >= time {
            return error.map_or(Ok(None), Err);
        }
        thread::sleep(RETRY);
    }
}

fn ask(path: &Path, by: Instant) -> io::Result<Inheritance> {
    let stream = socket::stream(AddressFamily::Unix)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    if !is_ours(stream.as_fd())? {
        return Err(io::Error::other("another user listens there"));
    }
    let mut channel = Intake::open(stream)?;
    let mut secrets = [0; SECRETS];
    let mut sockets = Vec::new();
    loop {
        let Some(Received { frame, fds, .. }) = next(&mut channel, by)? else {
            // It ended in that very moment.
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        match frame {
            Frame::Hello { version } if version != VERSION => {
                let reason =
                    format!("it speaks version {version} of the protocol, this one {VERSION}");
                return Err(io::Error::other(reason));
            }
            // Another one has just taken over, and will be there.
            Frame::TakeOver => return Err(io::ErrorKind::UnexpectedEof.into()),
            Frame::Secret { index, word } if usize::from(index) < SECRETS => {
                secrets[usize::from(index)] = word;
            }
            Frame::Inherit { steered, count, backlog, left, slots } => {
                if fds.len() != usize::from(count) {
                    return Err(Errno::EMFILE.into());
                }
                sockets.extend(fds);
                if left == 0 {
                    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
                    return Ok(Inheritance { secrets, sockets, steered, backlog, slots, channel });
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn may_change(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionReset, UnexpectedEof, WouldBlock};
    matches!(error.kind(), ConnectionReset | UnexpectedEof | WouldBlock)
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
