//! Registration of a descriptor with tokio.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the runtime that the caller is on, and owns it.
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and `AsyncFd` gives it out by shared reference only, through
    // which it cannot be closed or replaced; it is deregistered before it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
