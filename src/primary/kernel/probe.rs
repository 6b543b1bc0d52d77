//! Whether this kernel steers connections as it says: some take the program and ignore it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockaddrStorage, bind, connect, getsockname};

use super::group::Group;
use crate::client::address::Ipv6Prefix;
use crate::client::hash::{ClientHasher, slot};
use crate::sys::page::Page;
use crate::sys::socket as system;

const SLOTS: u32 = 4;

/// Connections that are tried of each family. Where the kernel ignores the program, one in 4 arrives as expected by chance.
const CONNECTIONS: u8 = 8;

/// How long one may take on loopback, in milliseconds.
const ARRIVAL_TIME: u16 = 200;

/// Why the kernel cannot steer, or `None` if it can. Tried until it is known, for the process.
pub fn obstacle() -> Option<String> {
    static STEERS: OnceLock<bool> = OnceLock::new();
    if !cfg!(target_os = "linux") {
        return Some("only Linux can".to_owned());
    }
    let steers = STEERS.get().copied().map_or_else(try_out, Ok);
    match steers {
        // That it failed may pass, as a lack of descriptors does.
        Err(error) => Some(format!("the kernel refuses: {error}")),
        Ok(steers) => {
            let known = STEERS.get_or_init(|| steers);
            (!known).then(|| "the kernel ignores the program that chooses a slot".to_owned())
        }
    }
}

fn try_out() -> io::Result<bool> {
    // What workers count in.
    Page::new()?;
    Ok(ipv4()? && ipv6()?)
}

/// Tries several addresses of the loopback network.
fn ipv4() -> io::Result<bool> {
    let hasher = ClientHasher::new(*b"probe v4", Ipv6Prefix::FULL);
    let (group, address) = group(&hasher, Ipv4Addr::LOCALHOST.into())?;
    for n in 1..=CONNECTIONS {
        if !arrives(&group, &hasher, Ipv4Addr::new(127, 0, n, 1).into(), address)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tries several keys, as there is but one address. A system without IPv6 has no such clients.
fn ipv6() -> io::Result<bool> {
    for n in 1..=CONNECTIONS {
        let hasher = ClientHasher::new([n; 8], Ipv6Prefix::FULL);
        let (group, address) = match group(&hasher, Ipv6Addr::LOCALHOST.into()) {
            Err(error) if is_absent(&error) => return Ok(true),
            result => result?,
        };
        if !arrives(&group, &hasher, Ipv6Addr::LOCALHOST.into(), address)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| absent.contains(&Errno::from_raw(code)))
}

fn group(hasher: &ClientHasher, at: IpAddr) -> io::Result<(Group, SocketAddr)> {
    let (first, address) = bound(at)?;
    let mut group = Group::listen(first, hasher.clone(), i32::from(CONNECTIONS))?;
    group.resize(SLOTS)?;
    Ok((group, address))
}

/// Whether a connection from `from` arrives in its slot.
fn arrives(group: &Group, hasher: &ClientHasher, from: IpAddr, to: SocketAddr) -> io::Result<bool> {
    let _client = connect_from(from, to)?;
    let slot = slot(hasher.hash(Some(from)), SLOTS).unwrap_or_default();
    let sockets = group.sockets();
    let mut polled: Vec<_> =
        sockets.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    while poll(&mut polled, PollTimeout::from(ARRIVAL_TIME)) == Err(Errno::EINTR) {}
    Ok(system::accept(sockets[slot as usize].as_fd()).is_ok())
}

/// A socket bound to any port of an address, and where that is.
pub(super) fn bound(at: IpAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let bound = tcp(SocketAddr::new(at, 0))?;
    let address: SockaddrStorage = getsockname(bound.as_raw_fd())?;
    let v4 = address.as_sockaddr_in().map(|&v4| SocketAddr::V4(v4.into()));
    let v6 = address.as_sockaddr_in6().map(|&v6| SocketAddr::V6(v6.into()));
    let address = v4.or(v6).ok_or(io::ErrorKind::InvalidData)?;
    Ok((bound, address))
}

/// A connection that begins; on loopback it is complete a moment later.
pub(super) fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let client = tcp(SocketAddr::new(from, 0))?;
    match connect(client.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(client),
        Err(error) => Err(error.into()),
    }
}

fn tcp(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = system::stream(family)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(socket)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_steers() {
        assert_eq!(obstacle(), None);
    }

    #[test]
    fn a_kernel_that_ignores_the_program_is_found_out() {
        // As if it did: the group is told another key than the one that is expected.
        let other = ClientHasher::new(*b"another.", Ipv6Prefix::FULL);
        let hasher = ClientHasher::new(*b"probe v4", Ipv6Prefix::FULL);
        let (group, address) = group(&other, Ipv4Addr::LOCALHOST.into()).unwrap();
        let arrive = (1..=CONNECTIONS).all(|n| {
            arrives(&group, &hasher, Ipv4Addr::new(127, 0, n, 1).into(), address).unwrap()
        });
        assert!(!arrive);
    }
}
