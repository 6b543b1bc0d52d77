//! The accept loop: takes connections off a listening socket in batches, for as long as it is not
//! dropped. Knows nothing of what becomes of them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tokio::io::unix::AsyncFd;

use crate::sys::socket::{self, Accepted};

/// Connections taken in one turn before they are passed on: enough to share the cost of a delivery,
/// few enough that the first does not wait for the last.
const BATCH: usize = 64;

/// The pause after the system ran out of something, doubled up to the maximum while it stays so.
const BACK_OFF: Duration = Duration::from_millis(10);
const MAX_BACK_OFF: Duration = Duration::from_millis(100);

/// A descriptor held back, so that a connection can be taken and closed when there are no others.
#[derive(Default)]
pub struct Spare(Option<OwnedFd>);

impl Spare {
    /// Holds one.
    pub fn new() -> io::Result<Self> {
        let spare = open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self(Some(spare)))
    }

    /// Holds one, unless there is none: the last may have been lost to another thread in the moment that it was free.
    pub fn renew(&mut self) {
        if self.0.is_none()
            && let Ok(spare) = Self::new()
        {
            *self = spare;
        }
    }

    /// Closes up to [`BATCH`] waiting connections, whose clients would otherwise hang. Returns how many.
    pub fn shed(&mut self, listener: &OwnedFd) -> u64 {
        self.renew();
        let mut shed = 0;
        while shed < BATCH as u64 && self.0.take().is_some() {
            let taken = socket::accept(listener.as_fd());
            let over = taken.is_err();
            drop(taken);
            self.renew();
            if over {
                break;
            }
            shed += 1;
        }
        shed
    }
}

/// What came in during a turn.
pub struct Turn<'a> {
    /// Connections, in the order of arrival; to be taken out.
    pub accepted: &'a mut Vec<Accepted>,
    /// Connections that were closed at once for lack of descriptors.
    pub shed: u64,
}

/// Accepts until dropped. `listener` must be listening and non-blocking, and registered for reading. `spare` is for
/// when there are no descriptors. `admit` says for how long a turn after this one would be in vain.
/// `free_descriptors` is called when there are none, and says whether it could do something about it soon. Ends by
/// itself only with the runtime.
pub async fn run(
    listener: AsyncFd<Arc<OwnedFd>>,
    mut spare: Spare,
    mut admit: impl FnMut(Turn<'_>) -> Duration,
    mut free_descriptors: impl FnMut() -> bool,
) -> io::Result<()> {
    let mut back_off = BACK_OFF;
    let mut accepted = Vec::with_capacity(BATCH);
    loop {
        let mut ready = listener.readable().await?;
        let end = take_batch(ready.get_inner(), &mut accepted);
        let full = accepted.len() == BATCH;
        let mut shed = 0;
        match end {
            // More may wait; others have their turn first.
            Ok(()) => {}
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(_) if free_descriptors() => {}
            Err(_) => shed = spare.shed(listener.get_ref()),
        }
        let pause = admit(Turn { accepted: &mut accepted, shed });
        accepted.clear();
        match end {
            Ok(()) | Err(Errno::EAGAIN) => {
                back_off = BACK_OFF;
                spare.renew();
                if full {
                    tokio::task::yield_now().await;
                } else if !pause.is_zero() {
                    // The balancer's whole thread, as all that it would do meanwhile can wait as well; the runtime's
                    // timer counts in milliseconds, and each new connection would wake it.
                    std::thread::sleep(pause);
                }
            }
            // Out of descriptors or memory, or something unknown: never spin.
            Err(_) => {
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
        }
    }
}

/// Takes all that waits.
pub fn drain(listener: &OwnedFd) -> Vec<Accepted> {
    let mut all = Vec::new();
    let mut accepted = Vec::with_capacity(BATCH);
    loop {
        let end = take_batch(listener, &mut accepted);
        all.append(&mut accepted);
        if end.is_err() {
            return all;
        }
    }
}

/// Fills `accepted`; says why it stopped before it was full.
fn take_batch(listener: &OwnedFd, accepted: &mut Vec<Accepted>) -> Result<(), Errno> {
    while accepted.len() < BATCH {
        match socket::accept(listener.as_fd()) {
            Ok(connection) => accepted.push(connection),
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                // That one connection is gone; those behind it are not. The list is accept(2)'s.
                Errno::EINTR
                | Errno::ECONNABORTED
                | Errno::EPROTO
                | Errno::EPERM
                | Errno::ENETDOWN
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::EHOSTUNREACH
                | Errno::EOPNOTSUPP
                | Errno::ENETUNREACH => {}
                errno => return Err(errno),
            },
        }
    }
    Ok(())
}
