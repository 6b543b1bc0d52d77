//! Groups of sockets that listen at one address, of which a program in the kernel chooses one for each connection.

use std::io;
use std::os::fd::BorrowedFd;

/// One instruction of a program, as the system takes it (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip when a comparison is true.
    pub jump_true: u8,
    /// The same when it is false.
    pub jump_false: u8,
    /// The operand.
    pub k: u32,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem;
    use std::os::fd::AsRawFd as _;

    use nix::libc;

    use super::{BorrowedFd, Instruction, io};
    use crate::sys::size_of;

    /// The instructions must be as the system takes them.
    const _: () = assert!(mem::size_of::<Instruction>() == mem::size_of::<libc::sock_filter>());

    /// Has the kernel choose by this program among all sockets of the group that `socket` is in, from now on: the
    /// program returns its number in the order in which they began to listen.
    pub fn attach(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
        let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let filter = program.as_ptr().cast_mut().cast();
        let program = libc::sock_fprog { len: length, filter };
        // SAFETY: the kernel reads `len` instructions, which have the layout of its own, and copies them.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(target_os = "linux")]
pub use linux::attach;

/// Where there are no such groups.
#[cfg(not(target_os = "linux"))]
pub fn attach(_socket: BorrowedFd<'_>, _program: &[Instruction]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
