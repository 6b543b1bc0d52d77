//! The listening sockets of one address, one for each slot, and the program by which the kernel chooses among them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{
    AddressFamily, SockaddrLike as _, SockaddrStorage, bind, getsockname, getsockopt, setsockopt,
    sockopt,
};

use super::program::{MAX_SLOTS, program};
use crate::client::hash::ClientHasher;
use crate::sys::{reuseport, socket as system};

/// The sockets. They stay open for as long as the group exists: were one closed, the kernel would move the last one to
/// its place. So the group never shrinks; the program just leads to fewer of them.
pub struct Group {
    hasher: ClientHasher,
    backlog: i32,
    sockets: Vec<Arc<OwnedFd>>,
    /// The slots that the program tells apart.
    slots: u32,
}

impl Group {
    /// Makes a bound socket listen, as the first and only one. It must be bound without `SO_REUSEPORT`, so that nobody
    /// else is at its address; nobody who binds as usual comes to it later either.
    pub fn listen(first: OwnedFd, hasher: ClientHasher, backlog: i32) -> io::Result<Self> {
        setsockopt(&first, sockopt::ReusePort, &true)?;
        reuseport::attach(first.as_fd(), &program(&hasher, 1))?;
        system::listen(first.as_fd(), backlog)?;
        Ok(Self { hasher, backlog, sockets: vec![Arc::new(first)], slots: 1 })
    }

    /// The sockets of another group, in the same order, which chooses nothing until it is resized.
    pub fn adopt(sockets: Vec<Arc<OwnedFd>>, hasher: ClientHasher, backlog: i32) -> Self {
        Self { hasher, backlog, sockets, slots: 0 }
    }

    /// The sockets in the order of their slots. Those beyond the number of slots get no new connections.
    pub fn sockets(&self) -> &[Arc<OwnedFd>] {
        &self.sockets
    }

    /// The backlog of each socket, as it was asked for.
    pub fn backlog(&self) -> i32 {
        self.backlog
    }

    /// Has the kernel choose among this many slots. After an error it chooses as before.
    pub fn resize(&mut self, slots: u32) -> io::Result<()> {
        if slots > MAX_SLOTS {
            return Err(io::Error::other(format!("more than {MAX_SLOTS} slots")));
        }
        while self.sockets.len() < slots as usize {
            self.sockets.push(Arc::new(self.join()?));
        }
        // Without slots everything goes to the first socket.
        let slots = slots.max(1);
        if slots != self.slots {
            reuseport::attach(self.sockets[0].as_fd(), &program(&self.hasher, slots))?;
            self.slots = slots;
        }
        Ok(())
    }

    /// One more socket at the address, which listens.
    fn join(&self) -> io::Result<OwnedFd> {
        let first = &self.sockets[0];
        let address: SockaddrStorage = getsockname(first.as_raw_fd())?;
        let family = address.family().unwrap_or(AddressFamily::Inet);
        let joining = system::stream(family)?;
        if family == AddressFamily::Inet6 {
            let only = getsockopt(first, sockopt::Ipv6V6Only)?;
            setsockopt(&joining, sockopt::Ipv6V6Only, &only)?;
        }
        // As the first one: connections of the address's last owner that are still winding down are no hindrance.
        setsockopt(&joining, sockopt::ReuseAddr, &true)?;
        setsockopt(&joining, sockopt::ReusePort, &true)?;
        bind(joining.as_raw_fd(), &address)?;
        system::listen(joining.as_fd(), self.backlog)?;
        Ok(joining)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use super::super::probe::{bound, connect_from};
    use super::*;
    use crate::client::address::Ipv6Prefix;
    use crate::client::hash::slot;
    use crate::sys::tcp_info;

    fn hasher() -> ClientHasher {
        ClientHasher::new(*b"test key", Ipv6Prefix::FULL)
    }

    fn source(n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x7f01_0000 + n)
    }

    /// Connects from many addresses, and counts those that are not found where they belong.
    fn misrouted(group: &Group, address: SocketAddr, slots: u32) -> usize {
        let misrouted = (0..200).map(source).filter(|&from| {
            let _client = connect_from(from.into(), address).unwrap();
            let expected = slot(hasher().hash(Some(from.into())), slots).unwrap();
            let found = system::accept(group.sockets()[expected as usize].as_fd());
            found.is_err()
        });
        misrouted.count()
    }

    #[test]
    fn guarantee_1_sticky_the_kernel_finds_every_clients_slot_also_when_their_number_changes() {
        let (first, address) = bound(Ipv4Addr::LOCALHOST.into()).unwrap();
        let mut group = Group::listen(first, hasher(), 511).unwrap();
        for slots in [1, 4, 64, 3, 5, 2] {
            group.resize(slots).unwrap();
            assert_eq!(misrouted(&group, address, slots), 0, "{slots} slots");
        }
    }

    #[test]
    fn a_second_program_cannot_bind_the_address() {
        let (first, address) = bound(Ipv4Addr::LOCALHOST.into()).unwrap();
        let mut group = Group::listen(first, hasher(), 511).unwrap();
        group.resize(3).unwrap();
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn too_many_slots_are_refused_and_change_nothing() {
        let (first, address) = bound(Ipv4Addr::LOCALHOST.into()).unwrap();
        let mut group = Group::listen(first, hasher(), 511).unwrap();
        group.resize(2).unwrap();
        assert!(group.resize(MAX_SLOTS + 1).is_err());
        assert_eq!(misrouted(&group, address, 2), 0);
    }

    #[test]
    fn a_queue_tells_its_length_and_its_limit() {
        let (first, address) = bound(Ipv4Addr::LOCALHOST.into()).unwrap();
        let group = Group::listen(first, hasher(), 77).unwrap();
        let _clients: Vec<_> =
            (0..5).map(|n| connect_from(source(n).into(), address).unwrap()).collect();
        let backlog = tcp_info::backlog(group.sockets()[0].as_fd()).unwrap();
        assert_eq!((backlog.queued, backlog.limit), (5, 77));
    }
}
