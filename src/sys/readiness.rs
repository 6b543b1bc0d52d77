//! Registration of a descriptor with tokio.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the runtime that the caller is on, and owns it, alone or with
/// others.
pub fn register(
    fd: impl Into<Arc<OwnedFd>>,
    interest: Interest,
) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `OwnedFd` is open, and `Arc` and `AsyncFd` give it out by shared reference only, through
    // which it cannot be closed or replaced; it is deregistered before this share of it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd.into(), interest) }?)
}

/// From a socket that is watched for all that comes to one that is watched for its end alone, as the readability of
/// what is returned: not for what the peer says before that, which would wake the runtime. The socket must stay
/// open. Where that cannot be told apart, or there are no descriptors for it, it stays as it was.
pub fn for_end(socket: AsyncFd<Arc<OwnedFd>>) -> AsyncFd<Arc<OwnedFd>> {
    #[cfg(target_os = "linux")]
    if let Ok(end) = register_end(socket.get_ref()) {
        return end;
    }
    socket
}

/// Within a set of its own, as tokio asks the system for more at the least.
#[cfg(target_os = "linux")]
fn register_end(socket: &Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(socket, EpollEvent::new(EpollFlags::EPOLLRDHUP, 0))?;
    register(set.0, Interest::READABLE)
}
