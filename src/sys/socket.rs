//! Socket calls that the standard library does not offer on a bare descriptor.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{self, AddressFamily, Shutdown, SockFlag, SockType};

/// A connection as `accept` returns it.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, non-blocking and close-on-exec.
    pub fd: OwnedFd,
    /// The peer's address; `None` on a unix socket.
    pub peer: Option<IpAddr>,
}

/// Bytes of a `sockaddr_storage`. (The cast is exact; `try_from` is not for constants.)
#[expect(clippy::cast_possible_truncation)]
const STORAGE_LEN: libc::socklen_t = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;

/// Takes one waiting connection of a non-blocking listening socket.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
    // SAFETY: all zeroes is a valid `sockaddr_storage` (family AF_UNSPEC).
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = STORAGE_LEN;
    let address = (&raw mut storage).cast();
    // SAFETY: `address` and `length` describe `storage`, which outlives the call; a descriptor that
    // was returned is new and nobody else's.
    let fd = unsafe {
        #[cfg(target_os = "linux")]
        let fd = libc::accept4(
            listener.as_raw_fd(),
            address,
            &raw mut length,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        );
        #[cfg(not(target_os = "linux"))]
        let fd = libc::accept(listener.as_raw_fd(), address, &raw mut length);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    #[cfg(not(target_os = "linux"))]
    set_flags(&fd)?;
    Ok(Accepted { fd, peer: ip(&storage)? })
}

/// Whether a listening socket takes connections of IPv6 alone.
pub fn is_ipv6_only(listener: BorrowedFd<'_>) -> bool {
    socket::getsockopt(&listener, socket::sockopt::Ipv6V6Only).unwrap_or(false)
}

/// What `accept4` does in the same call elsewhere.
#[cfg(not(target_os = "linux"))]
fn set_flags(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The address of a connection's peer; `None` on a unix socket. An error if the peer is gone already.
pub fn peer(connection: BorrowedFd<'_>) -> io::Result<Option<IpAddr>> {
    // SAFETY: as in `accept`.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut length = STORAGE_LEN;
    // SAFETY: the pointer and the length describe `storage`, which outlives the call.
    let result = unsafe {
        libc::getpeername(connection.as_raw_fd(), (&raw mut storage).cast(), &raw mut length)
    };
    if result == 0 { ip(&storage) } else { Err(io::Error::last_os_error()) }
}

/// An address is not to be taken for none: only on a unix socket there is none.
fn ip(storage: &libc::sockaddr_storage) -> io::Result<Option<IpAddr>> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a `sockaddr_in`, as the family says; the storage is larger
            // and at least as aligned.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            Ok(Some(IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for a `sockaddr_in6`.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            Ok(Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr))))
        }
        libc::AF_UNIX => Ok(None),
        // macOS says nothing of a peer that has reset the connection.
        _ => Err(io::Error::from_raw_os_error(libc::ECONNABORTED)),
    }
}

/// For each connection, whether its peer has closed it (or its sending half: from here the two look
/// alike) or reset it. On macOS only some of these are noticed.
pub fn hung_up(connections: &[BorrowedFd<'_>]) -> Vec<bool> {
    #[cfg(target_os = "linux")]
    const INTEREST: libc::c_short = libc::POLLRDHUP;
    #[cfg(not(target_os = "linux"))]
    const INTEREST: libc::c_short = 0;
    let mut polled: Vec<_> = connections
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: INTEREST, revents: 0 })
        .collect();
    let count = libc::nfds_t::try_from(polled.len()).unwrap_or(0);
    // SAFETY: the pointer and the count describe `polled`; a wait of 0 returns at once. When the call
    // fails it has changed nothing, and nobody has hung up.
    unsafe { libc::poll(polled.as_mut_ptr(), count, 0) };
    polled.iter().map(|polled| polled.revents != 0).collect()
}

/// Marks a bound socket as listening.
pub fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: takes no pointers. Not nix's, which refuses a backlog over SOMAXCONN where the
    // kernel, and so Node, lowers it.
    let result = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A copy of a descriptor that somebody else owns, or `EBADF` when it is not open.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the borrow ends with this statement, and a number that is not open only makes the
    // call fail.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

/// Gives a descriptor away as the number that JavaScript will open a handle on.
pub fn release(fd: OwnedFd) -> RawFd {
    fd.into_raw_fd()
}

/// Non-blocking and close-on-exec, where a new socket can be so at once; elsewhere `set_flags` follows.
#[cfg(target_os = "linux")]
const NEW: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);
#[cfg(not(target_os = "linux"))]
const NEW: SockFlag = SockFlag::empty();

/// A stream socket, non-blocking and close-on-exec.
pub fn stream(family: AddressFamily) -> io::Result<OwnedFd> {
    let fd = socket::socket(family, SockType::Stream, NEW, None)?;
    #[cfg(not(target_os = "linux"))]
    set_flags(&fd)?;
    Ok(fd)
}

/// The two ends of an anonymous channel, non-blocking and close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let ends = socket::socketpair(AddressFamily::Unix, SockType::Stream, None, NEW)?;
    #[cfg(not(target_os = "linux"))]
    for end in [&ends.0, &ends.1] {
        set_flags(end)?;
    }
    Ok(ends)
}

/// Sends the end of the stream, so that the peer reads all that was written before.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(socket::shutdown(socket.as_raw_fd(), Shutdown::Write)?)
}

/// Ends both directions. A reader of this socket, here or at the peer, finds the end of the stream.
pub fn shutdown(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(socket::shutdown(socket.as_raw_fd(), Shutdown::Both)?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    #[test]
    fn only_a_peer_on_a_unix_socket_has_no_address() {
        let (near, _far) = pair().unwrap();
        assert_eq!(peer(near.as_fd()).unwrap(), None);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, address) = listener.accept().unwrap();
        assert_eq!(peer(connection.as_fd()).unwrap(), Some(address.ip()));
        // A reset, which loses the address.
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&client, sockopt::Linger, &at_once).unwrap();
        drop(client);
        assert!(peer(connection.as_fd()).is_err());
    }
}
