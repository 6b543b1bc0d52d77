//! One connection, from its start to its end.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, setsockopt, sockopt,
};

use crate::response::{Response, ResponseReader};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits to be connected.
    Connecting,
    /// Waits for a response.
    Asking,
    /// Waits for the server to close.
    Ending,
}

/// What an event on a connection meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing whole.
    None,
    /// A whole response.
    Response(Response),
    /// The server closed.
    End,
}

/// A connection that failed: a short name of why.
pub type Failure = &'static str;

/// A connection of a client.
pub struct Connection {
    fd: OwnedFd,
    /// Whose it is.
    pub client: usize,
    /// Where it stands.
    pub stage: Stage,
    /// From when the latency of the present request counts.
    pub since: Instant,
    /// Requests still to be sent.
    pub remaining: u32,
    reader: ResponseReader,
}

impl Connection {
    /// Starts to connect.
    ///
    /// The port is chosen at `connect`, where only the pair of addresses must be unique, not at
    /// `bind`: so the ports of a source address cannot run out, and `SO_REUSEADDR` has nothing to do.
    pub fn open(
        source: Ipv4Addr,
        port: u16,
        client: usize,
        since: Instant,
        remaining: u32,
    ) -> nix::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
        let [a, b, c, d] = source.octets();
        socket::bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0))?;
        match socket::connect(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let reader = ResponseReader::default();
        Ok(Self { fd, client, stage: Stage::Connecting, since, remaining, reader })
    }

    /// Sends a request, or nothing. `false`: not connected yet.
    pub fn ask(&mut self, request: &[u8]) -> Result<bool, Failure> {
        match socket::send(self.fd.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL) {
            // Requests are small, and one is under way at a time: they always fit.
            Ok(sent) if sent == request.len() => {
                self.stage = Stage::Asking;
                self.remaining = self.remaining.saturating_sub(1);
                Ok(true)
            }
            Ok(_) => Err("short write"),
            Err(Errno::EAGAIN | Errno::ENOTCONN) => Ok(false),
            Err(errno) => Err(name(errno)),
        }
    }

    /// Whether connecting has failed; asked when the socket says that it has ended.
    pub fn failure(&self) -> Option<Failure> {
        match socket::getsockopt(&self.fd, sockopt::SocketError) {
            Ok(0) => None,
            Ok(errno) => Some(name(Errno::from_raw(errno))),
            Err(errno) => Some(name(errno)),
        }
    }

    /// Reads what has arrived, once.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Progress, Failure> {
        match socket::recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(0) if self.stage == Stage::Ending => Ok(Progress::End),
            Ok(0) if self.reader.is_empty() => Err("closed without a response"),
            Ok(0) => Err("closed amid a response"),
            Ok(_) if self.stage != Stage::Asking => Err("unasked bytes"),
            Ok(read) => match self.reader.feed(&buffer[..read]) {
                Ok(None) => Ok(Progress::None),
                Ok(Some(response)) => Ok(Progress::Response(response)),
                Err(_) => Err("malformed response"),
            },
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Progress::None),
            Err(errno) => Err(name(errno)),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.fd
    }
}

/// An error's short name.
pub fn name(errno: Errno) -> Failure {
    match errno {
        Errno::ECONNREFUSED => "ECONNREFUSED",
        Errno::ECONNRESET => "ECONNRESET",
        Errno::EPIPE => "EPIPE",
        Errno::ETIMEDOUT => "ETIMEDOUT",
        Errno::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::EMFILE => "EMFILE",
        other => other.desc(),
    }
}
