//! What happens to the connections and channels of one balancer, under one lock: the state machine, what it sends
//! and hears, and what is due when. Every task of the runtime and JavaScript's thread call in; none is waited for.

mod due;
mod hear;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::accept::Turn;
use super::balancer::{Config, Report, Stats};
use super::deliver::{Connection, Line, Sent};
use super::dispatch::{Channel, Dispatch, Entry};
use super::identify::{Identify, Outcome};
use super::pace::{self, Arrivals, Promptness};
use super::refuse::{self, Refusal};
use crate::channel::frame::MAX_BATCH;
use crate::sys::socket::Accepted;

/// How long closing waits for workers when patience has no end.
const MAX_SETTLE: Duration = Duration::from_secs(5);

/// How long a channel rests after its worker, or the system, had no room for descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// Refusals that may wait at a time for their client to read the answer; further ones are cut short.
const MAX_REFUSING: usize = 1024;

/// A channel as it is used.
struct OpenLine {
    line: Line,
    attending: AbortHandle,
    promptness: Promptness,
}

struct State {
    /// Where the peer's address is not enough.
    identify: Option<Identify>,
    dispatch: Dispatch<Connection>,
    arrivals: Arrivals,
    lines: HashMap<Channel, OpenLine>,
    next_channel: Channel,
    accepted: u64,
    refused: u64,
    gone: u64,
    rejected: u64,
    refusing: usize,
    /// When the clock looks for acknowledgements, while any are owed.
    next_collect: Option<Instant>,
    /// When all channels that are open are read next.
    next_audit: Instant,
    /// When those who wait are looked at next, while any do.
    next_sweep: Option<Instant>,
    /// When the clock looks again at connections that are not identified yet.
    next_look: Option<Instant>,
    /// When starving was last reported, while it lasts.
    starving_since: Option<Instant>,
    /// Our copies of connections that workers have taken over, to be closed without the lock: that takes a while.
    taken: Vec<Connection>,
    /// Set by `close`: when what still waits is given up.
    settle_by: Option<Instant>,
    settled: bool,
}

pub(super) struct Core {
    config: Config,
    state: Mutex<State>,
    /// Wakes the clock: something may be due earlier than it thinks.
    rescheduled: Notify,
    report: Box<dyn Fn(Report) + Send + Sync>,
}

impl State {
    fn unsettled(&self) -> usize {
        self.identifying() + self.dispatch.unsettled() + self.refusing
    }

    fn identifying(&self) -> usize {
        self.identify.as_ref().map_or(0, Identify::len)
    }

    fn close_lines(&mut self) {
        for (_, open) in self.lines.drain() {
            open.attending.abort();
        }
    }

    /// How long to leave new connections alone.
    fn pause(&self) -> Duration {
        let serving = self.dispatch.serving().filter_map(|channel| self.lines.get(&channel));
        pace::pause(&self.arrivals, serving.map(|open| &open.promptness))
    }
}

impl Core {
    /// The core of a balancer that has no workers yet.
    pub(super) fn new(
        config: Config,
        identify: Option<Identify>,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            identify,
            dispatch: Dispatch::new(config.limits),
            arrivals: Arrivals::new(Instant::now()),
            lines: HashMap::new(),
            next_channel: 1,
            accepted: 0,
            refused: 0,
            gone: 0,
            rejected: 0,
            refusing: 0,
            next_collect: None,
            next_audit: Instant::now(),
            next_sweep: None,
            next_look: None,
            starving_since: None,
            taken: Vec::new(),
            settle_by: None,
            settled: false,
        };
        Self {
            config,
            state: Mutex::new(state),
            rescheduled: Notify::new(),
            report: Box::new(report),
        }
    }

    /// Something may be due earlier than [`tick`](Self::tick) has said.
    pub(super) async fn rescheduled(&self) {
        self.rescheduled.notified().await;
    }

    /// A connection was over before it came here.
    pub(super) fn count_gone(&self) {
        let mut state = self.lock();
        state.accepted += 1;
        state.gone += 1;
    }

    /// Follows the manager's table of workers.
    pub(super) fn set_table(&self, table: &[Entry]) {
        let mut state = self.lock();
        state.dispatch.set_table(table, Instant::now());
        self.pump(&mut state);
    }

    /// Takes in a channel that was offered to a worker, and has `attend` watch it.
    pub(super) fn add_line(
        &self,
        line: Line,
        attend: impl FnOnce(Channel) -> AbortHandle,
    ) -> Channel {
        let mut state = self.lock();
        let channel = state.next_channel;
        state.next_channel += 1;
        // Under the lock: it may have something to say at once.
        let attending = attend(channel);
        state
            .lines
            .insert(channel, OpenLine { line, attending, promptness: Promptness::default() });
        self.rescheduled.notify_one();
        channel
    }

    /// Begins to settle what waits; returns how much that is.
    pub(super) fn close(&self) -> usize {
        self.ask(|state| {
            self.catch_up(state, Instant::now());
            let unsettled = state.unsettled();
            if unsettled == 0 {
                state.settled = true;
                state.close_lines();
            } else {
                let patience = self.config.limits.patience.unwrap_or(MAX_SETTLE);
                state.settle_by = Some(Instant::now() + patience);
                self.rescheduled.notify_one();
            }
            unsettled
        })
    }

    /// The counters as they are.
    pub(super) fn stats(&self) -> Stats {
        self.ask(|state| {
            self.catch_up(state, Instant::now());
            Stats {
                accepted: state.accepted,
                refused: state.refused,
                gone: state.gone,
                rejected: state.rejected,
                identifying: state.identifying(),
                totals: state.dispatch.totals(),
                waiting: state.dispatch.waiting(),
                slots: state.dispatch.slot_stats().collect(),
            }
        })
    }

    /// Everything ends at once.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.close_lines();
        state.identify = None;
    }

    /// A poisoned lock is taken all the same: no panic may end the balancer, and each change of the
    /// state is whole before the next call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and then closes what is to be closed.
    fn act<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state);
        let taken = std::mem::take(&mut state.taken);
        drop(state);
        drop(taken);
        result
    }

    /// The same for JavaScript's thread, which leaves the closing to the runtime's.
    fn ask<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state);
        if !state.taken.is_empty() {
            self.rescheduled.notify_one();
        }
        result
    }

    /// The way of every connection: identify, queue, deliver. Returns for how long others may wait.
    pub(super) fn admit(self: &Arc<Self>, turn: &mut Turn<'_>) -> Duration {
        let now = Instant::now();
        self.act(|state| {
            state.accepted += turn.accepted.len() as u64 + turn.shed;
            state.refused += turn.shed;
            state.arrivals.came(turn.accepted.len().try_into().unwrap_or(u32::MAX), now);
            let mut outcomes = Vec::with_capacity(turn.accepted.len());
            if let Some(identify) = &mut state.identify {
                outcomes.extend(turn.accepted.drain(..).filter_map(|one| identify.take(one, now)));
            } else {
                outcomes.extend(turn.accepted.drain(..).map(|Accepted { fd, peer }| {
                    let client = self.config.identifier.hasher.hash(peer);
                    Outcome::Client(client, Connection { fd, source: None })
                }));
            }
            self.place(state, outcomes, now);
            // Only now that nobody waits: whoever was just sent a connection may wait for this processor, and
            // closing our copies takes a while.
            let pause = state.pause();
            if !pause.is_zero() || state.next_collect.is_some_and(|collect| collect <= now) {
                self.collect_on_time(state, now);
            }
            pause
        })
    }

    /// Lets go of descriptors: our copies of what workers have taken over, and connections that were looked at
    /// longest, which go on by what is known of them. Returns whether there were any.
    pub(super) fn relieve(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        self.act(|state| {
            self.catch_up(state, now);
            let copies = !state.taken.is_empty();
            let outcomes =
                state.identify.as_mut().map(|identify| identify.hurry(now)).unwrap_or_default();
            let any = !outcomes.is_empty();
            self.place(state, outcomes, now);
            any || copies
        })
    }

    /// Looks at connections that were not identified yet and of which there is news.
    pub(super) fn on_ready(self: &Arc<Self>, events: &Events) {
        let now = Instant::now();
        self.act(|state| {
            // None: the balancer is being dropped.
            let Some(identify) = &mut state.identify else { return };
            let outcomes = identify.ready(events, now);
            self.place(state, outcomes, now);
        });
    }

    /// Queues what is identified, and sends it.
    fn place(self: &Arc<Self>, state: &mut State, outcomes: Vec<Outcome>, now: Instant) {
        let mut overflow = Vec::new();
        let mut collected = false;
        for outcome in outcomes {
            match outcome {
                Outcome::Client(client, connection) => {
                    let mut pushed = state.dispatch.push(client, connection, now);
                    if let Err(connection) = pushed {
                        // Those that were adopted by now do not count.
                        if !std::mem::replace(&mut collected, true) {
                            self.collect(state, Instant::now());
                        }
                        pushed = state.dispatch.push(client, connection, now);
                    }
                    overflow.extend(pushed.err());
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
                    open.promptness.sent(Instant::now());
                    state.dispatch.commit(&offer);
                }
                Sent::Full => state.dispatch.block(offer.channel),
                Sent::Exhausted => self.pause(&mut state.dispatch, offer.channel, Instant::now()),
            }
        }
        self.reschedule(state);
    }

    /// Lets a channel rest whose worker, or the system, had no room for descriptors.
    fn pause(&self, dispatch: &mut Dispatch<Connection>, channel: Channel, now: Instant) {
        dispatch.pause(channel, now + EXHAUSTED_PAUSE);
        self.rescheduled.notify_one();
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
}
