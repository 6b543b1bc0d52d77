//! What the system knows of a TCP socket.

use std::io;
use std::os::fd::BorrowedFd;

/// The state of a listening socket's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Connections that nobody has accepted yet.
    pub queued: u32,
    /// How many there may be.
    pub limit: u32,
}

/// The queue of a listening socket.
pub fn backlog(listener: BorrowedFd<'_>) -> io::Result<Backlog> {
    // Fields that mean this for a socket that listens.
    let info = tcp_info(listener)?;
    Ok(Backlog { queued: info.tcpi_unacked, limit: info.tcpi_sacked })
}

/// For how many milliseconds the other side of a connection has sent nothing; of one that was just accepted, since it was
/// made, or since the last that it sent.
pub fn quiet_for(connection: BorrowedFd<'_>) -> Option<u32> {
    tcp_info(connection).ok().map(|info| info.tcpi_last_ack_recv)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem;
    use std::os::fd::AsRawFd as _;

    use nix::libc;

    use super::{BorrowedFd, io};
    use crate::sys::size_of;

    pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
        // SAFETY: all zeroes is a valid `tcp_info`.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>();
        // SAFETY: the pointer and the length describe `info`, which outlives the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(target_os = "linux")]
use linux::tcp_info;

/// What is asked for here, of a system that does not tell.
#[cfg(not(target_os = "linux"))]
struct Info {
    tcpi_unacked: u32,
    tcpi_sacked: u32,
    tcpi_last_ack_recv: u32,
}

#[cfg(not(target_os = "linux"))]
fn tcp_info(_socket: BorrowedFd<'_>) -> io::Result<Info> {
    Err(io::ErrorKind::Unsupported.into())
}
