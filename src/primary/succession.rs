//! The tasks of a primary that lets another take over, and of one that [takes over](super::takeover), around their
//! [`Core`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::core::Core;
use super::takeover::offer;
use super::workers::channel::{End, WorkerChannel};
use super::workers::channel_watch::Stage;
use super::workers::table::Channel;
use crate::sys::readiness;
use crate::worker::intake::{Intake, Message};

/// How long successors wait where there are no descriptors to let them in.
const WELCOME_RETRY: Duration = Duration::from_millis(100);

/// How long a successor may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// Lets in who comes to take over.
pub(super) async fn welcome_successors(
    core: Arc<Core>,
    listener: AsyncFd<Arc<OwnedFd>>,
) -> io::Result<()> {
    loop {
        let mut ready = listener.readable().await?;
        match offer::accept(listener.get_ref()) {
            Ok(Some(successor)) => {
                let channel = WorkerChannel::new(successor);
                let (socket, _) = channel.watched();
                // No descriptors: it finds the end of the stream, and may come again.
                let Ok(watched) = readiness::register(socket, Interest::READABLE) else { continue };
                core.add_channel(channel, true, |channel| {
                    let watching = watch_successor(Arc::clone(&core), channel, watched);
                    tokio::spawn(watching).abort_handle()
                });
            }
            // Of another user.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(_) => tokio::time::sleep(WELCOME_RETRY).await,
        }
    }
}

/// Hears what a successor says, whenever it does.
async fn watch_successor(core: Arc<Core>, channel: Channel, socket: AsyncFd<Arc<OwnedFd>>) {
    let hello_by = tokio::time::Instant::now() + HELLO_TIME;
    let mut greeted = false;
    let end = loop {
        let readable = tokio::time::timeout_at(hello_by, socket.readable());
        let ready = if greeted { Ok(socket.readable().await) } else { readable.await };
        let Ok(ready) = ready else { break End::Silent };
        let Ok(mut ready) = ready else { break End::Broken };
        ready.clear_ready();
        match core.on_readable(channel) {
            Stage::Ended(end) => break end,
            Stage::Open => greeted = true,
            Stage::Offered => {}
        }
    };
    core.on_end(channel, end);
}

/// Takes over when it was told to, or the predecessor is gone; and then what that delivers.
pub(super) async fn follow_predecessor(
    core: Arc<Core>,
    channel: Intake,
    socket: AsyncFd<Arc<OwnedFd>>,
) {
    match hear_predecessor(&core, channel, socket).await {
        Heard::Outrun => core.outrun(),
        Heard::End { told } => core.serve(told).await,
    }
}

/// How a predecessor has ended.
enum Heard {
    /// It is gone.
    End {
        /// Whether it was told that this one serves.
        told: bool,
    },
    /// It has given its place to another one.
    Outrun,
}

async fn hear_predecessor(
    core: &Arc<Core>,
    mut channel: Intake,
    socket: AsyncFd<Arc<OwnedFd>>,
) -> Heard {
    let mut inherited = Vec::new();
    let mut told = false;
    loop {
        let ready = tokio::select! {
            () = core.taken_over(), if !told => {
                told = true;
                if channel.take_over().is_err() {
                    return Heard::End { told };
                }
                continue;
            }
            ready = socket.readable() => ready,
        };
        let Ok(mut ready) = ready else { return Heard::End { told } };
        match channel.receive() {
            Ok(Some(Message::Inherited { sockets, left })) => {
                inherited.extend(sockets);
                if left == 0 {
                    core.inherit(std::mem::take(&mut inherited));
                    core.serve(true).await;
                }
            }
            Ok(Some(Message::Connections(delivery))) => {
                if channel.acknowledge().is_err() {
                    return Heard::End { told };
                }
                core.take_in(delivery);
            }
            Ok(Some(Message::Outrun)) => return Heard::Outrun,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Ok(_) | Err(_) => return Heard::End { told },
        }
    }
}
