//! Which process has said something on a unix socket, as the system tells it: a process cannot pretend to be another, nor
//! another user than it was when it said so.

use nix::unistd::Uid;

/// Who has said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The id of the process.
    pub pid: u32,
    /// Its real user, which stays the same where it runs a program with the rights of another one.
    pub user: Uid,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::IoSliceMut;
    use std::os::fd::{AsRawFd as _, BorrowedFd};

    use nix::cmsg_space;
    use nix::sys::socket::{
        ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
    };
    use nix::unistd::Uid;

    use super::Speaker;

    /// Has the system tell who says what comes from now on, or not any more.
    pub fn ask(socket: BorrowedFd<'_>, on: bool) -> nix::Result<()> {
        setsockopt(&socket, sockopt::PassCred, &on)
    }

    /// Reads what one process has said; returns how many bytes that is, and which process. Only where it was
    /// [asked](ask) for.
    pub fn read(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Option<Speaker>)> {
        let mut control = cmsg_space!(UnixCredentials);
        let mut into = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut control), flags)?;
        // There is room for nothing else. Descriptors that come along are closed, and then it is not told who said this.
        let speaker = received.cmsgs().into_iter().flatten().find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(said_by) => {
                let pid = u32::try_from(said_by.pid()).ok()?;
                Some(Speaker { pid, user: Uid::from_raw(said_by.uid()) })
            }
            _ => None,
        });
        Ok((received.bytes, speaker))
    }
}

#[cfg(target_os = "linux")]
pub use linux::{ask, read};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::os::fd::BorrowedFd;

    use nix::errno::Errno;

    use super::Speaker;

    /// Who says what is not asked for here.
    pub fn ask(_socket: BorrowedFd<'_>, _on: bool) -> nix::Result<()> {
        Err(Errno::ENOTSUP)
    }

    /// Reads; returns how many bytes that is.
    pub fn read(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Option<Speaker>)> {
        Ok((nix::unistd::read(socket, bytes)?, None))
    }
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{ask, read};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::process::CommandExt as _;
    use std::process::{self, Command};

    use nix::unistd::getuid;

    use super::*;
    use crate::sys::{descriptors, socket};

    #[test]
    fn who_has_said_something_is_told() {
        let (near, far) = socket::pair().unwrap();
        let near = near.as_fd();
        let mut bytes = [0; 8];
        ask(near, true).unwrap();
        nix::unistd::write(&far, b"hello").unwrap();
        let user = getuid();
        assert_eq!(read(near, &mut bytes), Ok((5, Some(Speaker { pid: process::id(), user }))));

        // Another process is another one, though it has the socket from here; and as another user, if it can be one.
        let users = if user.is_root() { vec![user, Uid::from_raw(65_534)] } else { vec![user] };
        for user in users {
            let mut echo = Command::new("echo");
            let echo = echo.uid(user.as_raw()).stdout(far.try_clone().unwrap());
            let mut echo = echo.spawn().unwrap();
            echo.wait().unwrap();
            assert_eq!(read(near, &mut bytes), Ok((1, Some(Speaker { pid: echo.id(), user }))));
        }
    }

    #[test]
    fn descriptors_that_come_along_are_closed() {
        let (near, far) = socket::pair().unwrap();
        let (sent, other_end) = socket::pair().unwrap();
        ask(near.as_fd(), true).unwrap();
        descriptors::send(far.as_fd(), b"!", &[sent.as_fd()]).unwrap();
        assert_eq!(read(near.as_fd(), &mut [0; 8]), Ok((1, None)));
        drop(sent);
        // Nobody has it any more.
        assert_eq!(nix::unistd::read(&other_end, &mut [0]), Ok(0));
    }
}
