//! The state of one balancer, under one lock: the workers, the connections that are handed over, and the sockets of
//! those that the kernel steers. Every task of the runtime and JavaScript's thread call in; none is waited for.
//!
//! Here is what everybody may do. Who accepts from which socket is in `sockets`, what is due when in `clock`, and what
//! another primary leaves or takes in `succession`.

mod clock;
mod sockets;
mod succession;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Events;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::succession::Standby;
use super::accept_loops::{AcceptLoops, Ending};
use super::config::Config;
use super::handover::HandOver;
use super::handover::accept::{Spare, Turn};
use super::handover::identify::Identify;
use super::handover::queue::Removed;
use super::handover::refuse::{self, Refusal};
use super::kernel::Steering;
use super::refusals::Refusals;
use super::report::{Refused, Report, Stats};
use super::workers::channel::{Connection, End, WorkerChannel};
use super::workers::channel_watch::Stage;
use super::workers::channels::Channels;
use super::workers::table::{Channel, Entry};
use crate::channel::frame::Frame;
use crate::client::hash;
use crate::client::identify::Identifier;
use crate::sys::socket;

/// How long closing waits for workers when patience has no end.
const MAX_SETTLE: Duration = Duration::from_secs(5);

/// Refusals that may wait at a time for their client to read the answer; further ones are cut short.
const MAX_REFUSING: usize = 1024;

/// How long what failed for want of descriptors is left alone.
const RETRY: Duration = Duration::from_millis(100);

struct State {
    channels: Channels,
    handover: HandOver,
    /// Where the kernel steers.
    steering: Option<Steering>,
    /// Where it does not: the sockets that we accept from, and their backlog.
    listening: (Vec<Arc<OwnedFd>>, i32),
    /// Whether the sockets come from another primary, whose workers may have them as well.
    inherited: bool,
    /// Until when nobody accepts, unless there is a worker before.
    held_until: Option<Instant>,
    /// Another primary has our sockets, and serves in our place.
    superseded: bool,
    /// What we have of another primary, until we serve in its place.
    standby: Option<Standby>,
    accept_loops: AcceptLoops,
    /// For sockets from which no accept loop could be started.
    spare: Spare,
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

    /// Lets go of the sockets that we accept from. Returns those that have to be shut down, as others may have them.
    fn take_listening(&mut self, superseded: bool) -> Vec<Arc<OwnedFd>> {
        let sockets = std::mem::take(&mut self.listening.0);
        if self.inherited && !superseded { sockets } else { Vec::new() }
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
            inherited: false,
            held_until: None,
            superseded: false,
            standby: None,
            accept_loops: AcceptLoops::default(),
            spare: Spare::default(),
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
        for socket in state.take_listening(superseded) {
            let _ = socket::shutdown(socket.as_fd());
        }
        state.standby = None;
        state.spare = Spare::default();
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
}
