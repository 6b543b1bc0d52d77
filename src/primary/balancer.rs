//! One listening balancer: the tasks that accept, follow the workers' channels and keep time around its
//! [`Core`], on the runtime's thread. JavaScript's thread calls in; it holds the lock for microseconds and is
//! never waited for.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::config::{Config, Way};
use super::core::Core;
use super::handover::accept::Turn;
use super::handover::identify::Identify;
use super::report::{Refused, Report, Stats};
use super::runtime::Runtime;
use super::takeover::inherit::Inheritance;
use super::takeover::offer;
use super::workers::channel::{End, WorkerChannel};
use super::workers::channel_watch::{ChannelWatch, Stage};
use super::workers::table::{Channel, Entry};
use crate::sys::readiness;
use crate::sys::socket::{self, Accepted};
use crate::worker::intake::{Intake, Message};

/// A balancer from `listen` to `close`. Dropping it ends everything at once.
pub struct Balancer {
    core: Arc<Core>,
    /// The clock, and what watches connections that are not identified yet.
    tasks: Vec<AbortHandle>,
    /// What lets successors in.
    offer: Option<AbortHandle>,
    runtime: Runtime,
}

impl Balancer {
    /// A balancer that accepts nothing yet. `report` is called under the
    /// lock, mostly on the runtime's thread, and must not wait.
    pub fn start(
        config: Config,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = Runtime::start()?;
        let poll = if config.identifier.by_address_alone() { None } else { Some(Poll::new()?) };
        let identify = poll.as_ref().map(|poll| {
            let registry = poll.registry().try_clone()?;
            Ok::<_, io::Error>(Identify::new(config.identifier.clone(), config.look, registry))
        });
        let core = Core::new(config, identify.transpose()?, runtime.handle().clone(), report);
        let core = Arc::new(core);
        let mut tasks = vec![runtime.handle().spawn(keep_time(Arc::clone(&core))).abort_handle()];
        if let Some(poll) = poll {
            let watching = runtime.handle().spawn(watch(Arc::clone(&core), poll));
            tasks.push(watching.abort_handle());
        }
        Ok(Self { core, tasks, offer: None, runtime })
    }

    /// Makes a bound socket listen, and takes its connections in until [`close`](Self::close).
    pub fn listen(&mut self, socket: OwnedFd, backlog: i32, way: Way) -> io::Result<()> {
        match way {
            Way::HandOver => self.core.hand_over(socket, backlog),
            Way::Kernel => self.core.steer(socket, backlog),
        }
    }

    /// Keeps the sockets of another primary, which serves until [`take_over`](Self::take_over).
    pub fn stand_by(&mut self, inheritance: Inheritance, way: Way) -> io::Result<()> {
        let Inheritance { sockets, backlog, channel, .. } = inheritance;
        let socket = {
            let _runtime = self.runtime.handle().enter();
            let socket = channel.as_fd().try_clone_to_owned()?;
            readiness::register(socket, Interest::READABLE)?
        };
        self.core.stand_by(sockets, backlog, way);
        let following = follow_predecessor(Arc::clone(&self.core), channel, socket);
        self.tasks.push(self.runtime.handle().spawn(following).abort_handle());
        Ok(())
    }

    /// Tells the other primary that this one serves from now on.
    pub fn take_over(&self) {
        self.core.take_over();
    }

    /// Lets another primary take over that comes to this path.
    pub fn offer(&mut self, path: &Path) -> io::Result<()> {
        let listener = {
            let _runtime = self.runtime.handle().enter();
            readiness::register(offer::listen(path)?, Interest::READABLE)?
        };
        let welcoming = welcome_successors(Arc::clone(&self.core), listener);
        self.offer = Some(self.runtime.handle().spawn(welcoming).abort_handle());
        Ok(())
    }

    /// Takes in a connection that somebody else accepted.
    pub fn inject(&self, fd: OwnedFd) {
        let Ok(peer) = socket::peer(fd.as_fd()) else {
            self.core.count_gone();
            return;
        };
        self.core.inject(&mut Turn { accepted: &mut vec![Accepted { fd, peer }], shed: 0 });
    }

    /// Follows the manager's table of workers.
    pub fn set_table(&self, table: &[Entry]) {
        self.core.set_table(table);
    }

    /// Refuses new clients from now on, where they can be told apart from others, or does not any more.
    pub fn drain(&self, draining: bool) {
        self.core.drain(draining);
    }

    /// Opens a channel; returns its number and the end to hand to the worker.
    pub fn open_channel(&self) -> io::Result<(Channel, OwnedFd)> {
        let (near, far) = socket::pair()?;
        let channel = WorkerChannel::new(near);
        let watch = {
            let _runtime = self.runtime.handle().enter();
            let (socket, full) = channel.watched();
            ChannelWatch::new(socket, full)?
        };
        let channel = self.core.add_channel(channel, false, |channel| {
            let watching = watch_channel(Arc::clone(&self.core), channel, watch);
            self.runtime.handle().spawn(watching).abort_handle()
        });
        Ok((channel, far))
    }

    /// Stops accepting and frees the port before it returns. What waits still finds its worker or
    /// its end, within the patience; then [`Report::Settled`]. Returns how many wait, and never
    /// reports when it is none.
    pub fn close(&mut self) -> usize {
        if let Some(offer) = self.offer.take() {
            offer.abort();
        }
        self.core.stop_accepting().wait();
        self.core.close()
    }

    /// Why the kernel does not know the slots that there are, if so: connections are handed over meanwhile.
    pub fn steering_failure(&self) -> Option<String> {
        self.core.steering_failure()
    }

    /// What was refused since the last time.
    pub fn take_refusals(&self) -> Vec<Refused> {
        self.core.take_refusals()
    }

    /// The slot of the client at an address, of one that a header names otherwise, or of one without an address; `None`
    /// when there are no slots.
    pub fn slot_of(&self, client: Option<&str>) -> Option<u32> {
        self.core.slot_of(client)
    }

    /// The counters as they are.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for task in self.tasks.iter().chain(&self.offer) {
            task.abort();
        }
        self.core.end().wait();
    }
}

async fn keep_time(core: Arc<Core>) {
    loop {
        let due = core.tick();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = core.rescheduled() => {}
        }
    }
}

async fn watch_channel(core: Arc<Core>, channel: Channel, watch: ChannelWatch) {
    let end = watch.run(|| core.on_readable(channel), || core.on_room(channel)).await;
    core.on_end(channel, end);
}

/// How long successors wait where there are no descriptors to let them in.
const WELCOME_RETRY: Duration = Duration::from_millis(100);

/// How long a successor may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// When to try again to accept, where there were no descriptors for that.
const SERVE_RETRY: Duration = Duration::from_millis(100);

/// Lets in who comes to take over.
async fn welcome_successors(core: Arc<Core>, listener: AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
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
async fn follow_predecessor(core: Arc<Core>, channel: Intake, socket: AsyncFd<Arc<OwnedFd>>) {
    if hear_predecessor(&core, channel, socket).await == Heard::Outrun {
        core.outrun();
        return;
    }
    // Without descriptors for that: there is no other to do it.
    while core.serve().is_err() {
        tokio::time::sleep(SERVE_RETRY).await;
    }
}

/// How a predecessor has ended.
#[derive(PartialEq, Eq)]
enum Heard {
    /// It is gone.
    End,
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
                    return Heard::End;
                }
                continue;
            }
            ready = socket.readable() => ready,
        };
        let Ok(mut ready) = ready else { return Heard::End };
        match channel.receive() {
            Ok(Some(Message::Inherited { sockets, left })) => {
                inherited.extend(sockets);
                if left == 0 {
                    core.inherit(std::mem::take(&mut inherited));
                    while core.serve().is_err() {
                        tokio::time::sleep(SERVE_RETRY).await;
                    }
                }
            }
            Ok(Some(Message::Connections(delivery))) => {
                if channel.acknowledge().is_err() {
                    return Heard::End;
                }
                core.take_in(delivery);
            }
            Ok(Some(Message::Outrun)) => return Heard::Outrun,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Ok(_) | Err(_) => return Heard::End,
        }
    }
}

/// How many connections there may be news of at once.
const EVENTS: usize = 256;

/// Follows what the system says of connections that are not identified yet.
async fn watch(core: Arc<Core>, mut poll: Poll) -> io::Result<()> {
    // A set of watched descriptors is one itself.
    let set = readiness::register(socket::duplicate(poll.as_raw_fd())?, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    loop {
        let mut ready = set.readable().await?;
        match poll.poll(&mut events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        let all = events.iter().count() < EVENTS;
        if all {
            ready.clear_ready();
        }
        core.look_at(&events);
        if !all {
            // Others have their turn first.
            tokio::task::yield_now().await;
        }
    }
}
