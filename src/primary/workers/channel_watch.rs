//! Waits for what a channel's socket has to say of itself: the worker's hello, room after it was full, and
//! its end. One task for each channel; it decides nothing.
//!
//! Acknowledgements are not waited for. Each would wake the thread, in the very moment in which the worker
//! begins with the connection: they are read when there is something else to do, and by the clock.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::channel::End;
use crate::sys::readiness;

/// How long a worker may take from being offered a channel to its hello. A worker that starts up
/// may be busy for seconds; after this the offer is withdrawn and can be made again.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// When to try again to send where nothing can say that there is room.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// What a channel has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The worker has not said hello yet.
    Offered,
    /// It has.
    Open,
    /// Nothing more comes.
    Ended(End),
}

/// A channel that was just made, watched from now on.
pub struct ChannelWatch {
    greeting: AsyncFd<Arc<OwnedFd>>,
    full: Arc<Notify>,
}

impl ChannelWatch {
    /// Must be called on the runtime.
    pub fn new(socket: Arc<OwnedFd>, full: Arc<Notify>) -> io::Result<Self> {
        Ok(Self { greeting: readiness::register(socket, Interest::READABLE)?, full })
    }

    /// Waits until the channel has ended. `read` reads what was said, and says what it came to; `room`
    /// is called when there is room again.
    pub async fn run(self, mut read: impl FnMut() -> Stage, mut room: impl FnMut()) -> End {
        let Self { greeting, full } = self;
        let hello_by = tokio::time::sleep(HELLO_TIME);
        tokio::pin!(hello_by);
        let greeted = loop {
            tokio::select! {
                () = &mut hello_by => match read() {
                    Stage::Offered => return End::Silent,
                    // In the last moment.
                    Stage::Open => break greeting,
                    Stage::Ended(end) => return end,
                },
                ready = greeting.readable() => {
                    let Ok(mut ready) = ready else { return End::Broken };
                    // First, so that nothing that comes meanwhile is missed.
                    ready.clear_ready();
                    match read() {
                        Stage::Offered => {}
                        Stage::Open => break greeting,
                        Stage::Ended(end) => return end,
                    }
                }
            }
        };
        let socket = Arc::clone(greeted.get_ref());
        let ending = readiness::for_end(greeted);
        let mut is_full = false;
        loop {
            tokio::select! {
                () = full.notified(), if !is_full => is_full = true,
                () = has_room(&socket), if is_full => {
                    is_full = false;
                    room();
                }
                ready = ending.readable() => {
                    let Ok(mut ready) = ready else { return End::Broken };
                    ready.clear_ready();
                    if let Stage::Ended(end) = read() {
                        return end;
                    }
                }
            }
        }
    }
}

/// Waits until the socket has room. (Not watched for that all the time: each message that the worker takes
/// would wake this thread.)
async fn has_room(socket: &OwnedFd) {
    let watched = socket.as_fd().try_clone_to_owned();
    match watched.and_then(|fd| readiness::register(fd, Interest::WRITABLE)) {
        Ok(watched) => drop(watched.writable().await),
        // No descriptors left. Trying again does no harm.
        Err(_) => tokio::time::sleep(ROOM_RETRY).await,
    }
}
