//! One listening balancer: the accept loop, the state machine, the workers' channels and the clock,
//! tied together on the runtime's thread. JavaScript's thread calls in; it holds the lock for
//! microseconds and is never waited for.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::accept::{self, Turn};
use super::answers::Answer;
use super::deliver::{Connection, End, Event, Line, Sent};
use super::dispatch::{Channel, Dispatch, Ending, Entry, Limits, SlotStats, Totals};
use super::identify::{Identify, LookLimits, Outcome};
use super::refuse::{self, Refusal};
use super::runtime::Runtime;
use crate::channel::frame::MAX_BATCH;
use crate::client::identify::Identifier;
use crate::sys::readiness;
use crate::sys::socket::{self, Accepted};

/// How long a channel rests after its worker, or the system, had no room for descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// Refusals that may wait at a time for their client to read the answer; further ones are cut short.
const MAX_REFUSING: usize = 1024;

/// How long closing waits for workers when patience has no end.
const MAX_SETTLE: Duration = Duration::from_secs(5);

/// How long JavaScript waits for the accept loop to let go of the port. It lets go within a turn.
const RELEASE_TIME: Duration = Duration::from_secs(1);

/// How often those who wait are looked at, to let go of clients that have gone.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Being woken costs more than accepting a connection. When every worker takes this long to notice what it is
/// sent, connections are accepted and sent together every half of that time, and no later than the maximum:
/// they would wait anyway.
const PACED_FROM: Duration = Duration::from_micros(500);
const MAX_PACE: Duration = Duration::from_micros(500);

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

/// A channel's line, and how quick its worker is.
struct OpenLine {
    line: Arc<Line>,
    reading: AbortHandle,
    /// When it was sent the first connection that it has not taken.
    sent: Option<Instant>,
    /// How long it took lately to take what it was sent.
    delay: Duration,
}

impl OpenLine {
    fn taken(&mut self, now: Instant, more_in_flight: bool) {
        if let Some(sent) = self.sent {
            self.delay = (self.delay * 3 + now.duration_since(sent)) / 4;
        }
        self.sent = more_in_flight.then_some(now);
    }
}

struct State {
    /// Where the peer's address is not enough.
    identify: Option<Identify>,
    dispatch: Dispatch<Connection>,
    lines: HashMap<Channel, OpenLine>,
    next_channel: Channel,
    accepted: u64,
    refused: u64,
    gone: u64,
    rejected: u64,
    refusing: usize,
    /// When those who wait are looked at next, while any do.
    next_sweep: Option<Instant>,
    /// When the clock looks again at connections that are not identified yet.
    next_look: Option<Instant>,
    /// When starving was last reported, while it lasts.
    starving_since: Option<Instant>,
    /// Set by `close`: when what still waits is given up.
    settle_by: Option<Instant>,
    settled: bool,
}

struct Core {
    config: Config,
    state: Mutex<State>,
    /// Wakes the clock: something may be due earlier than it thinks.
    rescheduled: Notify,
    report: Box<dyn Fn(Report) + Send + Sync>,
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
    /// A balancer that accepts nothing yet. `report` is called on the runtime's thread.
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
        let state = State {
            identify: identify.transpose()?,
            dispatch: Dispatch::new(config.limits),
            lines: HashMap::new(),
            next_channel: 1,
            accepted: 0,
            refused: 0,
            gone: 0,
            rejected: 0,
            refusing: 0,
            next_sweep: None,
            next_look: None,
            starving_since: None,
            settle_by: None,
            settled: false,
        };
        let core = Arc::new(Core {
            config,
            state: Mutex::new(state),
            rescheduled: Notify::new(),
            report: Box::new(report),
        });
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
            let mut state = self.core.lock();
            state.accepted += 1;
            state.gone += 1;
            return;
        };
        let _runtime = self.runtime.handle().enter();
        self.core.admit(&mut Turn { accepted: &mut vec![Accepted { fd, peer }], shed: 0 });
    }

    /// Follows the manager's table of workers.
    pub fn set_table(&self, table: &[Entry]) {
        let mut state = self.core.lock();
        state.dispatch.set_table(table, Instant::now());
        self.core.pump(&mut state);
    }

    /// Opens a channel; returns its number and the end to hand to the worker.
    pub fn open_channel(&self) -> io::Result<(Channel, OwnedFd)> {
        let (near, far) = socket::pair()?;
        let line = {
            let _runtime = self.runtime.handle().enter();
            Arc::new(Line::new(near)?)
        };
        let mut state = self.core.lock();
        let channel = state.next_channel;
        state.next_channel += 1;
        let reading = self.runtime.handle().spawn(read_line(
            Arc::clone(&self.core),
            channel,
            Arc::clone(&line),
        ));
        let reading = reading.abort_handle();
        let open = OpenLine { line, reading, sent: None, delay: Duration::ZERO };
        state.lines.insert(channel, open);
        Ok((channel, far))
    }

    /// Stops accepting and frees the port before it returns. What waits still finds its worker or
    /// its end, within the patience; then [`Report::Settled`]. Returns how many wait, and never
    /// reports when it is none.
    pub fn close(&mut self) -> usize {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        let mut state = self.core.lock();
        let unsettled = state.unsettled();
        if unsettled == 0 {
            state.settled = true;
            state.close_lines();
        } else {
            let patience = self.core.config.limits.patience.unwrap_or(MAX_SETTLE);
            state.settle_by = Some(Instant::now() + patience);
            self.core.rescheduled.notify_one();
        }
        unsettled
    }

    /// The counters as they are.
    pub fn stats(&self) -> Stats {
        let state = self.core.lock();
        let totals = state.dispatch.totals();
        Stats {
            accepted: state.accepted,
            refused: state.refused,
            gone: state.gone,
            rejected: state.rejected,
            identifying: state.identifying(),
            totals,
            waiting: state.dispatch.waiting(),
            slots: state.dispatch.slot_stats().collect(),
        }
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
        let mut state = self.core.lock();
        state.close_lines();
        state.identify = None;
    }
}

impl State {
    fn unsettled(&self) -> usize {
        self.identifying() + self.dispatch.unsettled() + self.refusing
    }

    fn identifying(&self) -> usize {
        self.identify.as_ref().map_or(0, Identify::len)
    }

    /// Lets go of connections whose client has left while they waited.
    fn sweep(&mut self) {
        let waiting: Vec<_> = self.dispatch.iter_waiting().map(|one| one.as_fd()).collect();
        let mut hung_up = socket::hung_up(&waiting).into_iter();
        self.gone += self.dispatch.remove_waiting(|_| hung_up.next() == Some(true)).len() as u64;
    }

    fn close_lines(&mut self) {
        for (_, open) in self.lines.drain() {
            open.reading.abort();
        }
    }

    /// How long to leave new connections alone, for all workers being slow to take them.
    fn pace(&self) -> Duration {
        let serving = self.dispatch.serving().filter_map(|channel| self.lines.get(&channel));
        let quickest = serving.map(|open| open.delay).min().unwrap_or_default();
        if quickest < PACED_FROM { Duration::ZERO } else { (quickest / 2).min(MAX_PACE) }
    }
}

impl Core {
    /// A poisoned lock is taken all the same: no panic may end the balancer, and each change of the
    /// state is whole before the next call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way of every connection: identify, queue, deliver. Returns for how long others may wait.
    fn admit(self: &Arc<Self>, turn: &mut Turn<'_>) -> Duration {
        let now = Instant::now();
        let mut state = self.lock();
        state.accepted += turn.accepted.len() as u64 + turn.shed;
        state.refused += turn.shed;
        let mut outcomes = Vec::with_capacity(turn.accepted.len());
        if let Some(identify) = &mut state.identify {
            outcomes.extend(turn.accepted.drain(..).filter_map(|one| identify.take(one, now)));
        } else {
            outcomes.extend(turn.accepted.drain(..).map(|Accepted { fd, peer }| {
                let client = self.config.identifier.hasher.hash(peer);
                Outcome::Client(client, Connection { fd, source: None })
            }));
        }
        self.place(&mut state, outcomes, now);
        state.pace()
    }

    /// Lets go of descriptors: those that were looked at longest go on by what is known of them. Returns
    /// whether there were any.
    fn relieve(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let outcomes =
            state.identify.as_mut().map(|identify| identify.hurry(now)).unwrap_or_default();
        let any = !outcomes.is_empty();
        self.place(&mut state, outcomes, now);
        any
    }

    /// Looks at connections that were not identified yet and of which there is news.
    fn on_ready(self: &Arc<Self>, events: &Events) {
        let now = Instant::now();
        let mut state = self.lock();
        // None: the balancer is being dropped.
        let Some(identify) = &mut state.identify else { return };
        let outcomes = identify.ready(events, now);
        self.place(&mut state, outcomes, now);
    }

    /// Queues what is identified, and sends it.
    fn place(self: &Arc<Self>, state: &mut State, outcomes: Vec<Outcome>, now: Instant) {
        let mut overflow = Vec::new();
        for outcome in outcomes {
            match outcome {
                Outcome::Client(client, connection) => {
                    overflow.extend(state.dispatch.push(client, connection, now).err());
                }
                Outcome::Gone => state.gone += 1,
                Outcome::Invalid => state.rejected += 1,
            }
        }
        self.pump(state);
        self.refuse(state, overflow.into_iter().map(|one| one.fd), Refusal::Overload);
    }

    /// Sends all that can be sent.
    fn pump(&self, state: &mut State) {
        while let Some(offer) = state.dispatch.offer(MAX_BATCH) {
            let Some(open) = state.lines.get_mut(&offer.channel) else {
                // Its end is about to be reported to the state machine.
                state.dispatch.block(offer.channel);
                continue;
            };
            let batch: Vec<_> = state.dispatch.offered(&offer).collect();
            match open.line.send(offer.first, &batch) {
                Sent::Yes => {
                    open.sent.get_or_insert_with(Instant::now);
                    state.dispatch.commit(&offer);
                }
                Sent::Full => state.dispatch.block(offer.channel),
                Sent::Exhausted => self.pause(state, offer.channel),
            }
        }
        self.reschedule(state);
    }

    fn pause(&self, state: &mut State, channel: Channel) {
        state.dispatch.pause(channel, Instant::now() + EXHAUSTED_PAUSE);
        self.rescheduled.notify_one();
    }

    /// Has the clock look again if something new is due, and JavaScript if somebody starves.
    fn reschedule(&self, state: &mut State) {
        let starving = state.dispatch.is_starving();
        if starving && state.starving_since.is_none() {
            state.starving_since = Some(Instant::now());
            (self.report)(Report::Starving);
            self.rescheduled.notify_one();
        } else if !starving {
            state.starving_since = None;
        }
        if state.next_sweep.is_none() && state.dispatch.waiting() > 0 {
            state.next_sweep = Some(Instant::now() + SWEEP_INTERVAL);
            self.rescheduled.notify_one();
        }
        let due = state.identify.as_ref().and_then(Identify::next_due);
        if due.is_some_and(|due| state.next_look.is_none_or(|next| due < next)) {
            state.next_look = due;
            self.rescheduled.notify_one();
        }
        if state.settle_by.is_some() && !state.settled && state.unsettled() == 0 {
            self.rescheduled.notify_one();
        }
    }

    fn refuse(
        self: &Arc<Self>,
        state: &mut State,
        connections: impl IntoIterator<Item = OwnedFd>,
        refusal: Refusal,
    ) {
        for connection in connections {
            state.refused += 1;
            if state.refusing >= MAX_REFUSING {
                let _ = refuse::answer(&connection, refusal);
                continue;
            }
            state.refusing += 1;
            let core = Arc::clone(self);
            tokio::spawn(async move {
                refuse::refuse(connection, refusal).await;
                let mut state = core.lock();
                state.refusing -= 1;
                // It may have been the last thing to settle.
                if state.refusing == 0 && state.settle_by.is_some() {
                    core.rescheduled.notify_one();
                }
            });
        }
    }

    /// Returns whether the event can be.
    fn on_event(&self, channel: Channel, event: Event) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let mut done = Vec::new();
        let valid = match event {
            Event::Answer(Answer::Hello) => {
                state.dispatch.attach(channel, now);
                (self.report)(Report::Opened(channel));
                true
            }
            Event::Room => {
                state.dispatch.unblock(channel);
                true
            }
            Event::Answer(Answer::Adopted(through)) => {
                match state.dispatch.adopted(channel, through) {
                    Ok(adopted) => {
                        done = adopted;
                        let more = state.dispatch.in_flight(channel) > 0;
                        if let Some(open) = state.lines.get_mut(&channel) {
                            open.taken(now, more);
                        }
                        true
                    }
                    Err(_) => false,
                }
            }
            Event::Answer(Answer::Returned(first, count)) => {
                // The worker has no descriptors: at once it would have none again.
                self.pause(&mut state, channel);
                state.dispatch.returned(channel, first, count, now).is_ok()
            }
        };
        self.pump(&mut state);
        drop(state);
        // Closing our copies takes a while; not under the lock.
        drop(done);
        valid
    }

    fn on_end(&self, channel: Channel, end: End) {
        let ending = match end {
            End::Closed | End::Silent => Ending::ByWorker,
            End::Fault(_) | End::Broken => Ending::ByPrimary,
        };
        let mut state = self.lock();
        state.lines.remove(&channel);
        let released = state.dispatch.detach(channel, ending, Instant::now());
        (self.report)(Report::Ended(channel, end));
        self.pump(&mut state);
        drop(state);
        drop(released);
    }

    /// Does what is due; says when to come again.
    fn tick(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.lock();
        let looked = state.identify.as_mut().map(|identify| identify.due(now)).unwrap_or_default();
        state.next_look = state.identify.as_ref().and_then(Identify::next_due);
        let expired = state.dispatch.expire(now);
        self.refuse(&mut state, expired.into_iter().map(|one| one.fd), Refusal::NoWorker);
        self.place(&mut state, looked, now);
        if state.next_sweep.is_some_and(|sweep| sweep <= now) {
            state.sweep();
            state.next_sweep = (state.dispatch.waiting() > 0).then_some(now + SWEEP_INTERVAL);
        }
        let again = state.starving_since.map(|since| since + self.config.retry_delay);
        let again = again.map(|again| {
            if again > now {
                return again;
            }
            (self.report)(Report::Starving);
            state.starving_since = Some(now);
            // A delay of zero must not keep the thread busy.
            now + self.config.retry_delay.max(Duration::from_millis(1))
        });
        if let Some(settle_by) = state.settle_by.filter(|_| !state.settled) {
            if now >= settle_by {
                let waiting = state.dispatch.remove_waiting(|_| true);
                let unknown = state.identify.as_mut().map(Identify::clear).unwrap_or_default();
                let all = waiting.into_iter().map(|one| one.fd).chain(unknown);
                self.refuse(&mut state, all, Refusal::NoWorker);
            }
            // In flight then is with workers that do not answer: theirs to adopt, if they ever do.
            if state.unsettled() == 0 || (now >= settle_by && state.refusing == 0) {
                state.settled = true;
                state.close_lines();
                (self.report)(Report::Settled);
            }
        }
        let settle_by = state.settle_by.filter(|&by| by > now);
        let deadline = state.dispatch.next_deadline();
        let deadlines = [again, state.next_sweep, state.next_look, deadline, settle_by];
        deadlines.into_iter().flatten().min()
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
            () = core.rescheduled.notified() => {}
        }
    }
}

async fn read_line(core: Arc<Core>, channel: Channel, line: Arc<Line>) {
    let end = line.read(|event| core.on_event(channel, event)).await;
    drop(line);
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
