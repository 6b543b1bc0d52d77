//! The state of one balancer, under one lock: the workers, the connections that are handed over, and the sockets of
//! those that the kernel steers. Every task of the runtime and JavaScript's thread call in; none is waited for.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::accept_loops::{AcceptLoop, AcceptLoops, Ending};
use super::config::{Config, Way};
use super::handover::HandOver;
use super::handover::accept::{self, Turn};
use super::handover::identify::Identify;
use super::handover::queue::Removed;
use super::handover::refuse::{self, Refusal};
use super::kernel::group::Group;
use super::kernel::{Steering, TakenOut};
use super::refusals::Refusals;
use super::report::{Refused, Report, Stats};
use super::workers::channel::{Connection, End, Sent, WorkerChannel};
use super::workers::channel_watch::Stage;
use super::workers::channels::Channels;
use super::workers::table::{Channel, Entry};
use crate::channel::frame::{Frame, MAX_BATCH};
use crate::client::hash;
use crate::client::identify::Identifier;
use crate::sys::{readiness, socket};
use crate::worker::intake::Delivery;

/// How long closing waits for workers when patience has no end.
const MAX_SETTLE: Duration = Duration::from_secs(5);

/// Refusals that may wait at a time for their client to read the answer; further ones are cut short.
const MAX_REFUSING: usize = 1024;

/// How long what failed for want of descriptors is left alone.
const RETRY: Duration = Duration::from_millis(100);

/// What a queue of the kernel holds beyond what may wait for a worker, so that there is room until it is looked at.
const SPARE_BACKLOG: usize = 1024;

struct State {
    channels: Channels,
    handover: HandOver,
    /// Where the kernel steers.
    steering: Option<Steering>,
    /// Where it does not: the sockets that we accept from, and their backlog.
    listening: (Vec<Arc<OwnedFd>>, i32),
    /// Another primary has our sockets, and serves in our place.
    superseded: bool,
    /// What we have of another primary, until we serve in its place.
    standby: Option<Standby>,
    accept_loops: AcceptLoops,
    /// Our copies of connections that workers have taken over, to be closed without the lock: that takes a while.
    taken: Vec<Connection>,
    refusals: Refusals,
    refusing: usize,
    /// When starving was last reported, while it lasts.
    starving_since: Option<Instant>,
    /// When to try again to accept from a socket; there were no descriptors for that.
    retry_at: Option<Instant>,
    /// When the clock thinks that something is due.
    clock: Option<Instant>,
    closing: Option<Closing>,
}

/// The sockets of another primary, which accepts from them.
struct Standby {
    sockets: Vec<Arc<OwnedFd>>,
    backlog: i32,
    way: Way,
}

/// Since [`Core::close`].
struct Closing {
    /// When what still waits is given up.
    by: Instant,
    settled: bool,
}

pub(super) struct Core {
    config: Config,
    runtime: Handle,
    state: Mutex<State>,
    /// Wakes the clock: something may be due earlier than it thinks.
    rescheduled: Notify,
    /// Says that a predecessor is to be told.
    taken_over: Notify,
    report: Box<dyn Fn(Report) + Send + Sync>,
}

impl State {
    fn unsettled(&self) -> usize {
        self.handover.unsettled() + self.refusing
    }

    /// Closes the channels.
    fn settle(&mut self) {
        if let Some(steering) = &mut self.steering {
            steering.count_all(&self.channels);
        }
        self.channels.close();
        if let Some(closing) = &mut self.closing {
            closing.settled = true;
        }
    }
}

impl Core {
    /// The core of a balancer that has neither workers nor sockets yet.
    pub(super) fn new(
        config: Config,
        identify: Option<Identify>,
        runtime: Handle,
        report: impl Fn(Report) + Send + Sync + 'static,
    ) -> Self {
        let now = Instant::now();
        let hasher = config.identifier.hasher.clone();
        let state = State {
            channels: Channels::default(),
            handover: HandOver::new(hasher, config.limits, identify, now),
            steering: None,
            listening: (Vec::new(), 0),
            superseded: false,
            standby: None,
            accept_loops: AcceptLoops::default(),
            taken: Vec::new(),
            refusals: Refusals::default(),
            refusing: 0,
            starving_since: None,
            retry_at: None,
            clock: None,
            closing: None,
        };
        Self {
            config,
            runtime,
            state: Mutex::new(state),
            rescheduled: Notify::new(),
            taken_over: Notify::new(),
            report: Box::new(report),
        }
    }

    /// Something may be due earlier than [`tick`](Self::tick) has said.
    pub(super) async fn rescheduled(&self) {
        self.rescheduled.notified().await;
    }

    /// Makes a bound socket listen, and hands over all its connections.
    pub(super) fn hand_over(self: &Arc<Self>, socket: OwnedFd, backlog: i32) -> io::Result<()> {
        socket::listen(socket.as_fd(), backlog)?;
        self.accept_from(vec![Arc::new(socket)], backlog)
    }

    /// Hands over all connections of these sockets.
    fn accept_from(self: &Arc<Self>, sockets: Vec<Arc<OwnedFd>>, backlog: i32) -> io::Result<()> {
        let loops = sockets.iter().map(|socket| self.start_accepting(socket));
        let loops = loops.collect::<io::Result<Vec<_>>>()?;
        self.ask(|state, _| {
            state.listening = (sockets, backlog);
            for (index, accepting) in loops.into_iter().enumerate() {
                state.accept_loops.run(index, true, || Some(accepting));
            }
        });
        Ok(())
    }

    /// Keeps the sockets of another primary until [`take_over`](Self::take_over).
    pub(super) fn stand_by(&self, sockets: Vec<OwnedFd>, backlog: i32, way: Way) {
        let sockets = sockets.into_iter().map(Arc::new).collect();
        self.lock().standby = Some(Standby { sockets, backlog, way });
    }

    /// Tells the other primary that this one serves from now on.
    pub(super) fn take_over(&self) {
        self.taken_over.notify_one();
    }

    /// The sockets that the other primary had in the end.
    pub(super) fn inherit(&self, sockets: Vec<OwnedFd>) {
        if let Some(standby) = &mut self.lock().standby {
            standby.sockets = sockets.into_iter().map(Arc::new).collect();
        }
    }

    /// Serves in the place of another primary. Nothing happens where that is so already.
    pub(super) async fn serve(self: &Arc<Self>) {
        // Without descriptors for that: there is no other to do it.
        while self.try_to_serve().is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }

    fn try_to_serve(self: &Arc<Self>) -> io::Result<()> {
        let standby = self.lock().standby.take();
        let Some(Standby { sockets, backlog, way }) = standby else { return Ok(()) };
        match way {
            Way::HandOver => {
                if let Err(error) = self.accept_from(sockets.clone(), backlog) {
                    self.lock().standby = Some(Standby { sockets, backlog, way });
                    return Err(error);
                }
            }
            Way::Kernel => {
                let hasher = self.config.identifier.hasher.clone();
                self.steer_group(Group::adopt(sockets, hasher, backlog));
            }
        }
        (self.report)(Report::TookOver);
        Ok(())
    }

    /// Waits until a predecessor is to be told that it is one.
    pub(super) async fn taken_over(&self) {
        self.taken_over.notified().await;
    }

    /// Another primary has taken over in the place of this one.
    pub(super) fn outrun(&self) {
        self.lock().standby = None;
        (self.report)(Report::Outrun);
    }

    /// Takes in what a predecessor had accepted.
    pub(super) fn take_in(self: &Arc<Self>, delivery: Delivery) {
        self.act(|state, now| state.handover.take_in(delivery, &mut state.channels, now));
    }

    /// Makes a bound socket listen, and has the kernel steer its connections.
    pub(super) fn steer(self: &Arc<Self>, socket: OwnedFd, backlog: i32) -> io::Result<()> {
        let max_pending = self.config.limits.pending_per_slot;
        // Who waits for a worker waits in the kernel's queue.
        let waiting = i32::try_from(max_pending.saturating_add(SPARE_BACKLOG));
        let backlog = backlog.max(waiting.unwrap_or(i32::MAX));
        self.steer_group(Group::listen(socket, self.config.identifier.hasher.clone(), backlog)?);
        Ok(())
    }

    fn steer_group(self: &Arc<Self>, group: Group) {
        let max_pending = self.config.limits.pending_per_slot;
        self.ask(|state, now| state.steering = Some(Steering::new(group, max_pending, now)));
    }

    /// A connection was over before it came here.
    pub(super) fn count_gone(self: &Arc<Self>) {
        self.ask(|state, _| state.handover.count_gone());
    }

    /// Follows the manager's table of workers.
    pub(super) fn set_table(self: &Arc<Self>, table: &[Entry]) {
        self.ask(|state, now| state.handover.set_table(table, now));
    }

    /// Refuses new clients from now on, or does not any more.
    pub(super) fn drain(&self, draining: bool) {
        self.lock().handover.drain(draining);
    }

    /// Takes in a channel that was offered to a worker or a successor, and has `watch` watch it.
    pub(super) fn add_channel(
        self: &Arc<Self>,
        channel: WorkerChannel,
        successor: bool,
        watch: impl FnOnce(Channel) -> AbortHandle,
    ) -> Channel {
        // Under the lock: it may have something to say at once.
        self.ask(|state, _| state.channels.add(channel, successor, watch))
    }

    /// Stops accepting; what has come already is taken in. Returns what to wait for until the port is free.
    pub(super) fn stop_accepting(self: &Arc<Self>) -> Ending {
        self.ask(|state, now| {
            // Who waits to take over has all sockets, and what is queued there.
            state.superseded |= state.channels.has_successor();
            let released = state.accept_loops.close();
            state.listening.0.clear();
            state.standby = None;
            if let Some(steering) = &mut state.steering {
                let sockets = steering.close(&mut state.channels);
                // What is queued there is another's.
                let sockets = if state.superseded { Vec::new() } else { sockets };
                for socket in sockets {
                    let mut accepted = accept::drain(&socket);
                    let mut turn = Turn { accepted: &mut accepted, shed: 0 };
                    state.handover.admit(&mut turn, &mut state.channels, now);
                    // Workers share it, and may take their time to close it.
                    let _ = socket::shutdown(socket.as_fd());
                }
            }
            released
        })
    }

    /// Begins to settle what waits; returns how much that is.
    pub(super) fn close(self: &Arc<Self>) -> usize {
        self.ask(|state, now| {
            state.handover.read_owed_acks(&mut state.channels, now);
            let mut patience = self.config.limits.patience.unwrap_or(MAX_SETTLE);
            if state.superseded {
                // Who has not said yet who it is goes to the successor when it does.
                patience = patience.max(self.config.look.time + MAX_SETTLE);
            }
            state.closing = Some(Closing { by: now + patience, settled: false });
            let unsettled = state.unsettled();
            if unsettled == 0 {
                state.settle();
            }
            unsettled
        })
    }

    /// The counters as they are.
    pub(super) fn stats(self: &Arc<Self>) -> Stats {
        self.ask(|state, now| {
            state.handover.read_owed_acks(&mut state.channels, now);
            let queue = state.handover.queue();
            let counters = state.handover.counters();
            let mut stats = Stats {
                accepted: counters.accepted,
                refused: state.refusals.total(),
                gone: counters.gone,
                rejected: counters.rejected,
                identifying: state.handover.identifying(),
                totals: queue.totals(),
                waits: queue.waits(),
                waiting: queue.waiting(),
                slots: queue.slot_stats().collect(),
            };
            if let Some(steering) = &mut state.steering {
                steering.add_to(&mut stats, &state.channels);
            }
            stats
        })
    }

    /// What was refused since the last time.
    pub(super) fn take_refusals(&self) -> Vec<Refused> {
        self.lock().refusals.take()
    }

    /// The slot of the session with this token, of the client with an address or another name, or of one without an
    /// address; `None` when there is no such slot.
    pub(super) fn slot_of(&self, client: Option<&str>) -> Option<u32> {
        let Identifier { hasher, header, sessions, .. } = &self.config.identifier;
        let slots = self.lock().handover.queue().table().len();
        let token = sessions.as_ref().zip(client);
        let session = token.and_then(|(sessions, token)| sessions.tokens.slot(token.as_bytes()));
        if session.is_some() {
            return session.filter(|&slot| slot < slots);
        }
        let client = match client.map(|client| (client, client.parse())) {
            None => hasher.hash(None),
            Some((_, Ok(address))) => hasher.hash(Some(address)),
            // No session, and nothing else has such a name.
            Some((_, Err(_))) if sessions.is_some() && header.is_none() => return None,
            Some((name, Err(_))) => hasher.hash_name(name.as_bytes()),
        };
        hash::slot(client, slots)
    }

    /// Why the kernel does not steer, where it was told to.
    pub(super) fn steering_failure(&self) -> Option<String> {
        let state = self.lock();
        state.steering.as_ref().and_then(Steering::failure).map(ToString::to_string)
    }

    /// Everything ends at once.
    pub(super) fn end(&self) -> Ending {
        let mut state = self.lock();
        let superseded = state.superseded || state.channels.has_successor();
        if let Some(mut steering) = state.steering.take() {
            for socket in steering.close(&mut state.channels) {
                // Or workers that are busy would keep the port.
                if !superseded {
                    let _ = socket::shutdown(socket.as_fd());
                }
            }
        }
        state.listening.0.clear();
        state.standby = None;
        state.channels.close();
        state.handover.end();
        state.accept_loops.close()
    }

    /// The way of a connection that is handed over. Returns for how long others may wait.
    pub(super) fn admit(self: &Arc<Self>, turn: &mut Turn<'_>) -> Duration {
        self.act(|state, now| state.handover.admit(turn, &mut state.channels, now))
    }

    /// The same for JavaScript's thread.
    pub(super) fn inject(self: &Arc<Self>, turn: &mut Turn<'_>) {
        self.ask(|state, now| state.handover.admit(turn, &mut state.channels, now));
    }

    /// Frees descriptors. Returns whether there were any to free.
    fn free_descriptors(self: &Arc<Self>) -> bool {
        self.act(|state, now| state.handover.free_descriptors(&mut state.channels, now))
    }

    /// Looks at connections that were not identified yet and of which there is news.
    pub(super) fn look_at(self: &Arc<Self>, events: &Events) {
        self.act(|state, now| state.handover.look_at(events, &mut state.channels, now));
    }

    /// Something may have been said on a channel, or it has ended.
    pub(super) fn on_readable(self: &Arc<Self>, channel: Channel) -> Stage {
        self.act(|state, _| state.handover.on_readable(channel, &mut state.channels))
    }

    /// A channel that was full has room.
    pub(super) fn on_room(self: &Arc<Self>, channel: Channel) {
        self.act(|state, _| state.handover.on_room(channel));
    }

    /// A channel has ended.
    pub(super) fn on_end(self: &Arc<Self>, channel: Channel, end: End) {
        self.act(|state, now| {
            if let Some(steering) = &mut state.steering {
                steering.ended(channel, &state.channels);
            }
            state.channels.remove(channel);
            state.handover.channel_ended(channel, end, now);
        });
    }

    /// Does what is due; says when to come again.
    pub(super) fn tick(self: &Arc<Self>) -> Option<Instant> {
        self.act(|state, now| {
            state.handover.tick(&mut state.channels, now);
            if let Some(steering) = &mut state.steering {
                for channel in steering.expect_answers() {
                    state.handover.on_readable(channel, &mut state.channels);
                }
                let queue = state.handover.queue();
                let taken_out = |slot| TakenOut {
                    pending: queue.pending(slot),
                    unsent: queue.waiting_in(slot),
                };
                steering.look(&state.channels, taken_out, now);
            }
            self.ask_for_workers(state, now);
            self.settle_if_due(state, now);
        });
        let mut state = self.lock();
        let now = Instant::now();
        let deadline = state.handover.next_deadline();
        state.clock = self.soon(&mut state, now).into_iter().chain(deadline).min();
        state.clock
    }

    /// A poisoned lock is taken all the same: no panic may end the balancer, and each change of the
    /// state is whole before the next call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and does what follows from that.
    fn act<R>(self: &Arc<Self>, work: impl FnOnce(&mut State, Instant) -> R) -> R {
        let mut state = self.lock();
        let result = self.change(&mut state, work);
        let taken = std::mem::take(&mut state.taken);
        drop(state);
        drop(taken);
        result
    }

    /// The same for JavaScript's thread, which leaves the closing of descriptors to the runtime's.
    fn ask<R>(self: &Arc<Self>, work: impl FnOnce(&mut State, Instant) -> R) -> R {
        let mut state = self.lock();
        let result = self.change(&mut state, work);
        if !state.taken.is_empty() {
            self.rescheduled.notify_one();
        }
        result
    }

    fn change<R>(
        self: &Arc<Self>,
        state: &mut State,
        work: impl FnOnce(&mut State, Instant) -> R,
    ) -> R {
        let now = Instant::now();
        let result = work(state, now);
        self.take_effect(state, now);
        self.follow(state, now);
        state.handover.deliver(&mut state.channels);
        self.reschedule(state);
        result
    }

    /// Does what the hand-over has left to do.
    fn take_effect(self: &Arc<Self>, state: &mut State, now: Instant) {
        let effects = state.handover.take_effects();
        state.taken.extend(effects.taken);
        for report in effects.reports {
            (self.report)(report);
        }
        for (channel, loan) in effects.released {
            if let Some(steering) = &mut state.steering {
                steering.given_back(channel, loan, &state.channels, now);
            }
        }
        for channel in effects.successors {
            self.bequeath(state, channel);
        }
        if let Some(successor) = effects.superseded {
            // There may be more of them than when it was first told, and from now on there will not.
            Self::give_sockets(state, successor);
            state.superseded = true;
            for (channel, open) in state.channels.iter_mut().filter(|(_, open)| open.successor) {
                if channel != successor {
                    open.channel.say(Frame::TakeOver, &[]);
                    open.channel.give_up(End::Closed);
                }
            }
            (self.report)(Report::Superseded);
        }
        let mut announce = state.refusals.count(None, Refusal::NoDescriptors, effects.shed);
        for (Removed { slot, connection }, refusal) in effects.refused {
            announce |= state.refusals.count(slot, refusal, 1);
            self.refuse(state, connection, refusal);
        }
        if announce {
            (self.report)(Report::Refused);
        }
    }

    /// Gives a successor what it needs to serve in our place.
    fn bequeath(&self, state: &mut State, channel: Channel) {
        let Some(open) = state.channels.get_mut(channel) else { return };
        if state.superseded {
            open.channel.say(Frame::TakeOver, &[]);
            open.channel.give_up(End::Closed);
            return;
        }
        for (index, &word) in (0..).zip(&self.config.secrets) {
            open.channel.say(Frame::Secret { index, word }, &[]);
        }
        Self::give_sockets(state, channel);
    }

    /// Gives a successor all listening sockets that there are.
    fn give_sockets(state: &mut State, channel: Channel) {
        let Some(open) = state.channels.get_mut(channel) else { return };
        let (sockets, backlog) = match &state.steering {
            Some(steering) => steering.listening(),
            None => (&state.listening.0[..], state.listening.1),
        };
        let mut left = sockets.len();
        for batch in sockets.chunks(usize::from(MAX_BATCH)) {
            left -= batch.len();
            let frame = Frame::Inherit {
                steered: state.steering.is_some(),
                count: u16::try_from(batch.len()).unwrap_or(MAX_BATCH),
                backlog: u32::try_from(backlog).unwrap_or(0),
                left: u32::try_from(left).unwrap_or(0),
            };
            let fds: Vec<_> = batch.iter().map(|socket| socket.as_fd()).collect();
            // There is room for all of it; else it gives up, and may come again.
            if open.channel.say(frame, &fds) != Sent::Yes {
                open.channel.give_up(End::Broken);
            }
        }
        if sockets.is_empty() {
            open.channel.give_up(End::Broken);
        }
    }

    /// Brings the sockets to those who are to accept from them.
    fn follow(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.superseded {
            if let Some(steering) = &mut state.steering {
                steering.recall_all(&mut state.channels);
            }
            drop(state.accept_loops.close());
            return;
        }
        let Some(steering) = &mut state.steering else { return };
        steering.follow(state.handover.queue().table(), &mut state.channels, now);
        let sockets: Vec<_> =
            steering.sockets().map(|(socket, open)| (Arc::clone(socket), open)).collect();
        state.retry_at = state.retry_at.filter(|&retry| retry > now);
        for (index, (socket, open)) in sockets.into_iter().enumerate() {
            let start = || self.start_accepting(&socket).ok();
            if !state.accept_loops.run(index, open, start) {
                state.retry_at = Some(now + RETRY);
            }
            if !open && steering.is_quiet(index, now) {
                state.accept_loops.set_alarm(index, || self.start_alarm(index, socket));
            } else {
                state.accept_loops.clear_alarm(index);
            }
        }
    }

    fn start_accepting(self: &Arc<Self>, socket: &OwnedFd) -> io::Result<AcceptLoop> {
        // A descriptor of its own, as the socket may be watched by an alarm, or by a loop that is just ending.
        let own = socket.try_clone()?;
        let listener = {
            let _runtime = self.runtime.enter();
            readiness::register(own, Interest::READABLE)?
        };
        let core = Arc::clone(self);
        let (release, released) = channel();
        let task = self.runtime.spawn(async move {
            // Dropped after the loop's future, and with it after the listening socket.
            let _release: Sender<()> = release;
            let admit = |mut turn: Turn<'_>| core.admit(&mut turn);
            let free_descriptors = || core.free_descriptors();
            let _ = accept::run(listener, admit, free_descriptors).await;
        });
        Ok(AcceptLoop { task: task.abort_handle(), released })
    }

    /// Tells of the next connection to a socket that a worker accepts from.
    fn start_alarm(self: &Arc<Self>, index: usize, socket: Arc<OwnedFd>) -> AbortHandle {
        let core = Arc::clone(self);
        let alarm = self.runtime.spawn(async move {
            // Without descriptors for that the socket is looked at all the time.
            if let Ok(watched) = readiness::register(socket, Interest::READABLE) {
                let _ = watched.readable().await;
            }
            core.act(|state, now| {
                if let Some(steering) = &mut state.steering {
                    steering.wake(index, now);
                }
            });
        });
        alarm.abort_handle()
    }

    fn refuse(self: &Arc<Self>, state: &mut State, connection: OwnedFd, refusal: Refusal) {
        if state.refusing >= MAX_REFUSING {
            let _ = refuse::answer(&connection, refusal);
            return;
        }
        state.refusing += 1;
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            refuse::refuse(connection, refusal).await;
            core.act(|state, _| state.refusing -= 1);
        });
    }

    /// Asks JavaScript again for a table with workers in it, while connections wait for one.
    fn ask_for_workers(&self, state: &mut State, now: Instant) {
        let Some(since) = state.starving_since else { return };
        if since + self.config.retry_delay <= now {
            (self.report)(Report::Starving);
            state.starving_since = Some(now);
        }
    }

    /// Ends the balancer when it is closing and nothing waits any more, or has waited long enough.
    fn settle_if_due(self: &Arc<Self>, state: &mut State, now: Instant) {
        let Some(Closing { by, settled: false }) = state.closing else { return };
        if now >= by {
            state.handover.give_up();
            self.take_effect(state, now);
        }
        // In flight then is with workers that do not answer: theirs to adopt, if they ever do.
        if state.unsettled() == 0 || (now >= by && state.refusing == 0) {
            state.settle();
            (self.report)(Report::Settled);
        }
    }

    /// Has the clock look again if something new is due, and JavaScript if somebody starves.
    fn reschedule(&self, state: &mut State) {
        if !state.handover.is_starving() {
            state.starving_since = None;
        } else if state.starving_since.is_none() {
            state.starving_since = Some(Instant::now());
            (self.report)(Report::Starving);
            self.rescheduled.notify_one();
        }
        let due = self.soon(state, Instant::now());
        if due.is_some_and(|due| state.clock.is_none_or(|clock| due < clock)) {
            state.clock = due;
            self.rescheduled.notify_one();
        }
    }

    /// When something is due, but for patience that ends.
    fn soon(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let handover = state.handover.next_due(&state.channels, now);
        let steering = state.steering.as_ref().and_then(|steering| steering.next_due(now));
        let starving = state.starving_since.map(|since| {
            // A delay of zero must not keep the thread busy.
            since + self.config.retry_delay.max(Duration::from_millis(1))
        });
        let settle = match &state.closing {
            Some(Closing { settled: false, .. }) if state.unsettled() == 0 => Some(now),
            Some(Closing { by, settled: false }) if *by > now => Some(*by),
            _ => None,
        };
        [handover, steering, state.retry_at, starving, settle].into_iter().flatten().min()
    }
}
