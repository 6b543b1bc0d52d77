//! `sendmsg` and `recvmsg` with `SCM_RIGHTS`: descriptors that travel between processes.
//!
//! Safe crates exist, but drop what was received when the message was truncated; here what fitted
//! is kept, and owned from its first moment.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::libc;

use crate::channel::frame::MAX_BATCH;

/// Bytes of a descriptor. (The cast is exact; `try_from` is not for constants.)
#[expect(clippy::cast_possible_truncation)]
const FD_LEN: u32 = mem::size_of::<RawFd>() as u32;

/// Send: a closed peer is an error to handle, not a signal. macOS has no such flag; there Node
/// itself ignores SIGPIPE. Receive: a descriptor must not leak into a child that is being spawned.
#[cfg(target_os = "linux")]
const FLAGS: (libc::c_int, libc::c_int) =
    (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
#[cfg(not(target_os = "linux"))]
const FLAGS: (libc::c_int, libc::c_int) = (libc::MSG_DONTWAIT, libc::MSG_DONTWAIT);

/// Room for the control message of a full batch, aligned as a `cmsghdr` must be.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; Self::LEN as usize],
}

impl Control {
    // SAFETY: `CMSG_SPACE` only computes a length.
    const LEN: u32 = unsafe { libc::CMSG_SPACE(MAX_BATCH as u32 * FD_LEN) };

    fn new() -> Self {
        Self { bytes: [0; _] }
    }
}

/// A `msghdr` over one buffer. `msg_iov` points at `iov`, so both must stay where they are while it
/// is used.
fn message(iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: all zeroes is a valid `msghdr`: no name, no buffers, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = iov;
    message.msg_iovlen = 1;
    message
}

/// Sends `bytes` with copies of `fds` (at most [`MAX_BATCH`]); returns how many bytes were taken.
///
/// # Panics
/// On more descriptors than that.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(fds.len() <= usize::from(MAX_BATCH), "more descriptors than a batch holds");
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = message(&mut iov);
    let mut control = Control::new();
    if !fds.is_empty() {
        let length = u32::try_from(fds.len()).map_or(u32::MAX, |n| n * FD_LEN);
        message.msg_control = (&raw mut control).cast();
        // SAFETY: `control` is at least `CMSG_SPACE(length)` bytes, since `fds` fits a batch, and
        // aligned for a `cmsghdr`; so `CMSG_FIRSTHDR` is not null and `CMSG_DATA` has room for
        // `length` bytes. The data may be unaligned, hence `write_unaligned`.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(length) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            #[allow(clippy::cast_ptr_alignment, reason = "written unaligned")]
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (n, fd) in fds.iter().enumerate() {
                data.add(n).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: `message` and all it points at (`iov`, `bytes`, `control`) live until the call ends,
    // and the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, FLAGS.0) };
    // A negative count is the error case.
    usize::try_from(sent).map_err(|_| match io::Error::last_os_error() {
        // "Full" on macOS, when descriptors are passed.
        #[cfg(target_os = "macos")]
        error if error.raw_os_error() == Some(libc::EMSGSIZE) => io::ErrorKind::WouldBlock.into(),
        error => error,
    })
}

/// Reads into `bytes`, and appends the descriptors that came along to `fds`; returns how many bytes
/// were read, 0 at the end of the stream. Never blocks. Descriptors for which this process has no
/// room are lost without a trace here: the caller must know how many to expect.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = message(&mut iov);
    let mut control = Control::new();
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = Control::LEN as _;
    // SAFETY: `message` and all it points at live until the call ends; the kernel writes at most
    // the lengths given.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, FLAGS.1) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel filled `control` with whole control messages and set `msg_controllen` to
    // their length, which is what the CMSG macros walk by; `cmsg_len` tells how much data follows a
    // header. Each descriptor in an SCM_RIGHTS message was made for this call alone, so owning it
    // is right.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(cmsg) = header.as_ref() {
            if cmsg.cmsg_level == libc::SOL_SOCKET && cmsg.cmsg_type == libc::SCM_RIGHTS {
                #[allow(clippy::cast_ptr_alignment, reason = "read unaligned")]
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                // `cmsg_len` has another type on each system.
                #[allow(clippy::unnecessary_cast)]
                let length = cmsg.cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for n in 0..length / FD_LEN as usize {
                    let fd = OwnedFd::from_raw_fd(data.add(n).read_unaligned());
                    #[cfg(not(target_os = "linux"))]
                    libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
                    fds.push(fd);
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(read)
}
