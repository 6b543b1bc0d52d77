//! What happens to the connections and channels of one balancer, under one lock: the state machine, what it sends
//! and hears, and what is due when. Every task of the runtime and JavaScript's thread call in; none is waited for.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::accept::Turn;
use super::answers::{Answer, Fault};
use super::attend::Stage;
use super::balancer::{Config, Report, Stats};
use super::deliver::{Connection, End, Line, Sent};
use super::dispatch::{Channel, Dispatch, Ending, Entry};
use super::identify::{Identify, Outcome};
use super::pace::{self, Promptness};
use super::refuse::{self, Refusal};
use crate::channel::frame::MAX_BATCH;
use crate::sys::socket::{self, Accepted};

/// How long a channel rests after its worker, or the system, had no room for descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// Refusals that may wait at a time for their client to read the answer; further ones are cut short.
const MAX_REFUSING: usize = 1024;

/// How long closing waits for workers when patience has no end.
const MAX_SETTLE: Duration = Duration::from_secs(5);

/// How often those who wait are looked at, to let go of clients that have gone.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// Acknowledgements are read in turns of accepting, if the last time is so long ago: not in each, as whoever was
/// just sent a connection may wait for this processor.
const COLLECT_INTERVAL: Duration = Duration::from_millis(1);

/// When no turn follows, the clock reads them: soon, as the end of a connection waits for our copy of it, and less
/// and less often while workers have nothing to say.
const IDLE_COLLECT_INTERVAL: Duration = Duration::from_millis(2);
const MAX_COLLECT_INTERVAL: Duration = Duration::from_millis(8);

/// How often workers are listened to that owe no acknowledgement. What they say then is wrong.
const AUDIT_INTERVAL: Duration = Duration::from_secs(1);

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
    lines: HashMap<Channel, OpenLine>,
    next_channel: Channel,
    accepted: u64,
    refused: u64,
    gone: u64,
    rejected: u64,
    refusing: usize,
    /// When the clock looks for acknowledgements, while any are owed, and how long after that again.
    next_collect: Option<Instant>,
    collect_interval: Duration,
    last_collect: Instant,
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

    /// Whether there is a worker that may still say what became of a connection.
    fn awaits_answers(&self) -> bool {
        !self.lines.is_empty() && self.dispatch.any_in_flight()
    }

    /// Lets go of connections whose client has left while they waited.
    fn sweep(&mut self) {
        let waiting: Vec<_> = self.dispatch.iter_waiting().map(|one| one.as_fd()).collect();
        let mut hung_up = socket::hung_up(&waiting).into_iter();
        self.gone += self.dispatch.remove_waiting(|_| hung_up.next() == Some(true)).len() as u64;
    }

    fn close_lines(&mut self) {
        for (_, open) in self.lines.drain() {
            open.attending.abort();
        }
    }

    /// How long to leave new connections alone.
    fn pause(&self) -> Duration {
        let serving = self.dispatch.serving().filter_map(|channel| self.lines.get(&channel));
        pace::pause(serving.map(|open| &open.promptness))
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
            lines: HashMap::new(),
            next_channel: 1,
            accepted: 0,
            refused: 0,
            gone: 0,
            rejected: 0,
            refusing: 0,
            next_collect: None,
            collect_interval: IDLE_COLLECT_INTERVAL,
            last_collect: Instant::now(),
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
            self.catch_up(state);
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
            self.catch_up(state);
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
            // After the deliveries: they are what somebody waits for.
            let pause = state.pause();
            if !pause.is_zero() || state.last_collect + COLLECT_INTERVAL <= now {
                self.collect_in_turn(state, now);
            }
            pause
        })
    }

    /// Lets go of descriptors: our copies of what workers have taken over, and connections that were looked at
    /// longest, which go on by what is known of them. Returns whether there were any.
    pub(super) fn relieve(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        self.act(|state| {
            self.catch_up(state);
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
        if state.next_collect.is_none() && state.awaits_answers() {
            state.collect_interval = IDLE_COLLECT_INTERVAL;
            state.next_collect = Some(Instant::now() + IDLE_COLLECT_INTERVAL);
            self.rescheduled.notify_one();
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

    /// Follows what workers have said that owe acknowledgements. Returns whether any did.
    fn collect(&self, state: &mut State, now: Instant) -> bool {
        self.hear_all(state, now, |open| open.promptness.owes(now))
    }

    /// Follows what has been said on some channels. Returns whether anything was.
    fn hear_all(&self, state: &mut State, now: Instant, which: impl Fn(&OpenLine) -> bool) -> bool {
        let some = state.lines.iter().filter(|(_, open)| which(open));
        let some: Vec<Channel> = some.map(|(&channel, _)| channel).collect();
        let mut any = false;
        for channel in some {
            any |= self.hear(state, channel, now);
        }
        any
    }

    /// The same now and then.
    fn collect_in_turn(&self, state: &mut State, now: Instant) {
        state.last_collect = now;
        state.collect_interval = if self.collect(state, now) {
            self.pump(state);
            IDLE_COLLECT_INTERVAL
        } else {
            (state.collect_interval * 2).min(MAX_COLLECT_INTERVAL)
        };
        state.next_collect = state.awaits_answers().then(|| now + state.collect_interval);
    }

    /// The same, for those who want to know what is so.
    fn catch_up(&self, state: &mut State) {
        if self.collect(state, Instant::now()) {
            self.pump(state);
        }
    }

    /// Follows what a worker has said, or some of it. Returns whether it had said anything.
    fn hear(&self, state: &mut State, channel: Channel, now: Instant) -> bool {
        let Some(open) = state.lines.get_mut(&channel) else { return false };
        let said = open.line.read();
        if said.is_empty() {
            return false;
        }
        for answer in said {
            let valid = match answer {
                Answer::Hello => {
                    state.dispatch.attach(channel, now);
                    (self.report)(Report::Opened(channel));
                    Ok(())
                }
                Answer::Adopted { through, delay } => {
                    let adopted = state.dispatch.adopted(channel, through);
                    let more = state.dispatch.is_in_flight(channel).then_some(now);
                    open.promptness.acknowledged(delay, more);
                    adopted.map(|adopted| state.taken.extend(adopted))
                }
                Answer::Returned(first, count) => {
                    // The worker has no descriptors: at once it would have none again.
                    state.dispatch.pause(channel, now + EXHAUSTED_PAUSE);
                    self.rescheduled.notify_one();
                    state.dispatch.returned(channel, first, count, now)
                }
            };
            if valid.is_err() {
                open.line.give_up(End::Fault(Fault::Garbage));
                break;
            }
        }
        true
    }

    /// Something may have been said on a channel, or it has ended.
    pub(super) fn on_said(&self, channel: Channel) -> Stage {
        self.act(|state| {
            let now = Instant::now();
            // To its end: what is left over wakes nobody again.
            while self.hear(state, channel, now) {}
            self.pump(state);
            state.lines.get(&channel).map_or(Stage::Ended(End::Closed), |open| {
                match (open.line.end(), open.line.greeted()) {
                    (Some(end), _) => Stage::Ended(end),
                    (None, true) => Stage::Open,
                    (None, false) => Stage::Offered,
                }
            })
        })
    }

    pub(super) fn on_room(&self, channel: Channel) {
        let mut state = self.lock();
        state.dispatch.unblock(channel);
        self.pump(&mut state);
    }

    pub(super) fn on_end(&self, channel: Channel, end: End) {
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
    pub(super) fn tick(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        self.act(|state| self.tick_at(state, now))
    }

    fn tick_at(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Instant> {
        let looked = state.identify.as_mut().map(|identify| identify.due(now)).unwrap_or_default();
        state.next_look = state.identify.as_ref().and_then(Identify::next_due);
        let expired = state.dispatch.expire(now);
        self.refuse(state, expired.into_iter().map(|one| one.fd), Refusal::NoWorker);
        self.place(state, looked, now);
        if state.next_collect.is_some_and(|collect| collect <= now) {
            self.collect_in_turn(state, now);
        }
        if state.next_audit <= now {
            // A hello is for whoever waits for it.
            if self.hear_all(state, now, |open| open.line.greeted()) {
                self.pump(state);
            }
            state.next_audit = now + AUDIT_INTERVAL;
        }
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
                self.refuse(state, all, Refusal::NoWorker);
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
        let audit = (!state.lines.is_empty()).then_some(state.next_audit);
        let deadlines = [
            again,
            audit,
            state.next_collect,
            state.next_sweep,
            state.next_look,
            deadline,
            settle_by,
        ];
        deadlines.into_iter().flatten().min()
    }
}
