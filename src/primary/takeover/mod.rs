//! A primary that takes over from another one, which goes on until then: another version of the same program, say.
//!
//! The one that listens [`offer`]s itself at a path. Who comes there is its successor, and speaks the
//! [`channel`](crate::channel) to it as a worker does. It [`inherit`]s the listening sockets and the secrets, and waits until
//! its own workers are ready. Then it serves all slots of the other's table: what still waits there is delivered to it.

pub mod inherit;
pub mod offer;

use std::os::fd::BorrowedFd;
use std::{io, mem};

use nix::unistd::Uid;

/// The keys under which clients are hashed and tokens made.
pub type Secrets = [u64; SECRETS];

/// Words of the secrets.
pub const SECRETS: usize = 3;

/// The secrets of these bytes.
pub fn secrets(bytes: &[u8; SECRETS * mem::size_of::<u64>()]) -> Secrets {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|word| u64::from_le_bytes(words[word]))
}

/// Whether the other end of a unix socket is of the same user, or of the system's. The file's permissions say who may
/// connect; this holds where they do not count.
fn is_ours(peer: BorrowedFd<'_>) -> io::Result<bool> {
    let peer = owner(peer)?;
    Ok(peer == Uid::effective() || peer.is_root())
}

#[cfg(target_os = "linux")]
fn owner(peer: BorrowedFd<'_>) -> io::Result<Uid> {
    use nix::sys::socket::{getsockopt, sockopt};
    Ok(Uid::from_raw(getsockopt(&peer, sockopt::PeerCredentials)?.uid()))
}

#[cfg(not(target_os = "linux"))]
fn owner(peer: BorrowedFd<'_>) -> io::Result<Uid> {
    Ok(nix::unistd::getpeereid(peer)?.0)
}
