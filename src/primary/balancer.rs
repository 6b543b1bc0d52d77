//! One listening balancer: the tasks that accept, follow the workers' channels and keep time around its
//! [`Core`], on the runtime's thread. JavaScript's thread calls in; it holds the lock for microseconds and is
//! never waited for.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use mio::{Events, Poll};
use tokio::io::Interest;
use tokio::task::AbortHandle;

use super::accept::{self, Turn};
use super::attend::Attended;
use super::core::Core;
use super::deliver::{End, Line};
use super::dispatch::{Channel, Entry, Limits, SlotStats, Totals};
use super::identify::{Identify, LookLimits};
use super::runtime::Runtime;
use crate::client::identify::Identifier;
use crate::sys::readiness;
use crate::sys::socket::{self, Accepted};

/// How long JavaScript waits for the accept loop to let go of the port. It lets go within a turn.
const RELEASE_TIME: Duration = Duration::from_secs(1);

/// What JavaScript is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Connections wait where there is no worker: look at the table again.
    Starving,
    /// The worker of this channel has shaken hands.
    Opened(Channel),
    /// This channel is at its end.
    Ended(Channel, End),
    /// After [`Balancer::close`]: nothing waits any more, all channels are closed.
    Settled,
}

/// How to balance.
pub struct Config {
    /// Tells clients apart.
    pub identifier: Identifier,
    /// How far and how long to look, where the peer's address is not enough for that.
    pub look: LookLimits,
    /// How much may wait, and how long.
    pub limits: Limits,
    /// How often to ask for a table with a worker in it while connections wait for one.
    pub retry_delay: Duration,
}

/// Counters of a balancer.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Connections that came in.
    pub accepted: u64,
    /// Connections answered with 502 or 503, or closed for lack of descriptors.
    pub refused: u64,
    /// Connections whose client left before a worker took them.
    pub gone: u64,
    /// Connections closed for want of a PROXY header.
    pub rejected: u64,
    /// Connections whose client is not known yet.
    pub identifying: usize,
    /// Sent, sent again, adopted.
    pub totals: Totals,
    /// Connections neither sent nor refused yet.
    pub waiting: usize,
    /// The same for each slot.
    pub slots: Vec<SlotStats>,
}

/// The accept loop as JavaScript's thread sees it.
struct Acceptor {
    task: AbortHandle,
    /// Disconnected once the loop and its descriptor are gone.
    released: Receiver<()>,
}

impl Acceptor {
    /// Ends the loop and waits until the port is free.
    fn stop(self) {
        self.task.abort();
        let result = self.released.recv_timeout(RELEASE_TIME);
        debug_assert_eq!(result, Err(RecvTimeoutError::Disconnected));
    }
}

/// A balancer from `listen` to `close`. Dropping it ends everything at once.
pub struct Balancer {
    core: Arc<Core>,
    acceptor: Option<Acceptor>,
    /// The clock, and what watches connections that are not identified yet.
    tasks: Vec<AbortHandle>,
    runtime: Rc<Runtime>,
}

impl Balancer {
    /// A balancer that accepts nothing yet. `report` is called under the
    /// lock, mostly on the runtime's thread, and must not wait.
    pub fn start(
        config: Config,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let runtime = Runtime::current()?;
        let poll = if config.identifier.by_address_alone() { None } else { Some(Poll::new()?) };
        let identify = poll.as_ref().map(|poll| {
            let registry = poll.registry().try_clone()?;
            Ok::<_, io::Error>(Identify::new(config.identifier.clone(), config.look, registry))
        });
        let core = Arc::new(Core::new(config, identify.transpose()?, report));
        let mut tasks = vec![runtime.handle().spawn(keep_time(Arc::clone(&core))).abort_handle()];
        if let Some(poll) = poll {
            let watching = runtime.handle().spawn(watch(Arc::clone(&core), poll));
            tasks.push(watching.abort_handle());
        }
        Ok(Self { core, acceptor: None, tasks, runtime })
    }

    /// Makes a bound socket listen, and accepts from it until [`close`](Self::close).
    pub fn listen(&mut self, socket: OwnedFd, backlog: i32) -> io::Result<()> {
        socket::listen(socket.as_fd(), backlog)?;
        let listener = {
            let _runtime = self.runtime.handle().enter();
            readiness::register(socket, Interest::READABLE)?
        };
        let core = Arc::clone(&self.core);
        let (release, released) = channel();
        let task = self.runtime.handle().spawn(async move {
            let admit = |mut turn: Turn<'_>| core.admit(&mut turn);
            let relieve = || core.relieve();
            // Dropped after the loop's future, and with it after the listening socket.
            let _release: Sender<()> = release;
            let _ = accept::run(listener, admit, relieve).await;
        });
        self.acceptor = Some(Acceptor { task: task.abort_handle(), released });
        Ok(())
    }

    /// Takes in a connection that somebody else accepted.
    pub fn inject(&self, fd: OwnedFd) {
        let Ok(peer) = socket::peer(fd.as_fd()) else {
            self.core.count_gone();
            return;
        };
        let _runtime = self.runtime.handle().enter();
        self.core.admit(&mut Turn { accepted: &mut vec![Accepted { fd, peer }], shed: 0 });
    }

    /// Follows the manager's table of workers.
    pub fn set_table(&self, table: &[Entry]) {
        self.core.set_table(table);
    }

    /// Opens a channel; returns its number and the end to hand to the worker.
    pub fn open_channel(&self) -> io::Result<(Channel, OwnedFd)> {
        let (near, far) = socket::pair()?;
        let line = Line::new(near);
        let attended = {
            let _runtime = self.runtime.handle().enter();
            let (socket, full) = line.watched();
            Attended::new(socket, full)?
        };
        let channel = self.core.add_line(line, |channel| {
            let attending = attend(Arc::clone(&self.core), channel, attended);
            self.runtime.handle().spawn(attending).abort_handle()
        });
        Ok((channel, far))
    }

    /// Stops accepting and frees the port before it returns. What waits still finds its worker or
    /// its end, within the patience; then [`Report::Settled`]. Returns how many wait, and never
    /// reports when it is none.
    pub fn close(&mut self) -> usize {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        self.core.close()
    }

    /// The counters as they are.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        for task in &self.tasks {
            task.abort();
        }
        self.core.end();
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

async fn attend(core: Arc<Core>, channel: Channel, attended: Attended) {
    let end = attended.run(|| core.on_said(channel), || core.on_room(channel)).await;
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
        core.on_ready(&events);
        if !all {
            // Others have their turn first.
            tokio::task::yield_now().await;
        }
    }
}
