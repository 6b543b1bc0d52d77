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
use tokio::task::AbortHandle;

use super::config::{Config, Way};
use super::core::Core;
use super::handover::accept::Turn;
use super::handover::identify::Identify;
use super::report::{Refused, Report, Stats};
use super::runtime::Runtime;
use super::succession::{follow_predecessor, welcome_successors};
use super::takeover::inherit::Inheritance;
use super::takeover::offer;
use super::workers::channel::WorkerChannel;
use super::workers::channel_watch::ChannelWatch;
use super::workers::table::{Channel, Entry};
use crate::sys::readiness;
use crate::sys::socket::{self, Accepted};

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

    /// Leaves connections in the queue of the socket until there is a worker, from the next [`listen`](Self::listen) on.
    pub fn hold(&self) {
        self.core.hold();
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
