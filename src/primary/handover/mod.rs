//! The way through this process: it accepts a connection ([`accept`]), identifies its client where the peer's address is
//! not enough ([`identify`]), puts it into the [`queue`] of the client's slot, delivers it to the slot's worker
//! ([`deliver`]), and lets go of it when the worker acknowledges ([`acknowledge`]); or it [`refuse`]s it. [`pace`] says
//! how often it accepts.
//!
//! [`HandOver`] is what all of these change. It does no more than what can be done at once: what takes time it leaves in
//! [`Effects`].

pub mod accept;
mod acknowledge;
mod deliver;
pub mod identify;
pub mod pace;
pub mod queue;
pub mod refuse;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use mio::Events;

use self::accept::Turn;
use self::identify::{Identify, Outcome};
use self::pace::Arrivals;
use self::queue::{DeliveryQueue, Ending, Limits, Load, Removed};
use self::refuse::Refusal;
use super::report::Report;
use super::workers::channel::{Connection, End};
use super::workers::channels::Channels;
use super::workers::latency::STUCK;
use super::workers::table::{Channel, Entry};
use crate::channel::frame::Loan;
use crate::client::hash::ClientHasher;
use crate::client::identify::{Choice, Client};
use crate::sys::socket::{self, Accepted};
use crate::worker::intake::{Arrived, Delivery};

/// How often those who wait are looked at, to let go of clients that have gone: so often for each of so many, as
/// every look costs half a microsecond.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
const SWEPT_PER_INTERVAL: usize = 1000;

/// A worker that has owed an acknowledgement for so long gets no new clients. On a busy machine all workers may owe one for a
/// while, and few that owe none would get everybody.
const OWES_TOO_LONG: Duration = STUCK.saturating_mul(5);

/// What is left to do when the state has changed.
#[derive(Default)]
pub struct Effects {
    /// Our copies of connections that workers have taken over, to be closed. That takes a while.
    pub taken: Vec<Connection>,
    /// Connections to be refused.
    pub refused: Vec<(Removed<OwnedFd>, Refusal)>,
    /// How many were closed for want of descriptors.
    pub shed: u64,
    /// Loans that have ended.
    pub released: Vec<(Channel, Loan)>,
    /// What JavaScript is to be told.
    pub reports: Vec<Report>,
    /// Successors that have said hello.
    pub successors: Vec<Channel>,
    /// The one that serves from now on.
    pub superseded: Option<Channel>,
}

/// Counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Connections that came in.
    pub accepted: u64,
    /// Connections whose client left before a worker took them.
    pub gone: u64,
    /// Connections closed for want of a PROXY header.
    pub rejected: u64,
}

/// The connections that are being handed over.
pub struct HandOver {
    hasher: ClientHasher,
    /// Whether workers have to say how busy they are, as new clients go where there is room.
    follows_loads: bool,
    /// Whether clients are refused that show no session, where they can show one.
    draining: bool,
    /// Whether another primary serves in our place.
    superseded: bool,
    /// Where the peer's address is not enough.
    identify: Option<Identify>,
    queue: DeliveryQueue<Connection>,
    arrivals: Arrivals,
    counters: Counters,
    /// When acknowledgements are read by the clock, while any are owed.
    next_read: Option<Instant>,
    /// When all channels that are open are read next.
    next_audit: Instant,
    /// When those who wait are looked at next, while any do.
    next_sweep: Option<Instant>,
    effects: Effects,
}

impl HandOver {
    /// Nothing is under way.
    pub fn new(
        hasher: ClientHasher,
        limits: Limits,
        identify: Option<Identify>,
        now: Instant,
    ) -> Self {
        Self {
            hasher,
            follows_loads: identify.as_ref().is_some_and(Identify::needs_room),
            draining: false,
            superseded: false,
            identify,
            queue: DeliveryQueue::new(limits, fastrand::u64(..)),
            arrivals: Arrivals::new(now),
            counters: Counters::default(),
            next_read: None,
            next_audit: now,
            next_sweep: None,
            effects: Effects::default(),
        }
    }

    /// Who waits for which worker.
    pub fn queue(&self) -> &DeliveryQueue<Connection> {
        &self.queue
    }

    /// The counters as they are.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What is left to do since the last time.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// How many connections are not identified yet.
    pub fn identifying(&self) -> usize {
        self.identify.as_ref().map_or(0, Identify::len)
    }

    /// How many connections are neither a worker's nor given up.
    pub fn unsettled(&self) -> usize {
        self.identifying() + self.queue.unsettled()
    }

    /// Whether connections wait where there is no worker.
    pub fn is_starving(&mut self) -> bool {
        self.queue.is_starving()
    }

    /// A connection was over before it came here.
    pub fn count_gone(&mut self) {
        self.counters.accepted += 1;
        self.counters.gone += 1;
    }

    /// Connections were closed for lack of descriptors before they came here.
    pub fn count_shed(&mut self, shed: u64) {
        self.counters.accepted += shed;
        self.effects.shed += shed;
    }

    /// From now on refuses new clients, or does not any more.
    pub fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Follows the manager's table of workers.
    pub fn set_table(&mut self, table: &[Entry], now: Instant) {
        self.queue.set_table(table, now);
        if let Some(identify) = &mut self.identify {
            identify.set_slots(self.queue.table().len());
        }
    }

    /// A channel has ended.
    pub fn channel_ended(&mut self, channel: Channel, end: End, now: Instant) {
        let ending = match end {
            End::Closed | End::Silent => Ending::ByWorker,
            End::Fault(_) | End::Broken => Ending::ByPrimary,
        };
        let released = self.queue.detach(channel, ending, now);
        self.effects.taken.extend(released);
        self.effects.reports.push(Report::Ended(channel, end));
    }

    /// Takes in what was accepted, and sends what can be sent. Returns for how long others may wait.
    pub fn admit(
        &mut self,
        turn: &mut Turn<'_>,
        channels: &mut Channels,
        now: Instant,
    ) -> Duration {
        self.counters.accepted += turn.accepted.len() as u64;
        self.count_shed(turn.shed);
        self.arrivals.came(turn.accepted.len().try_into().unwrap_or(u32::MAX), now);
        let mut outcomes = Vec::with_capacity(turn.accepted.len());
        if let Some(identify) = &mut self.identify {
            outcomes.extend(turn.accepted.drain(..).filter_map(|one| identify.take(one, now)));
        } else {
            outcomes.extend(turn.accepted.drain(..).map(|Accepted { fd, peer }| {
                Outcome::Client(self.hasher.hash(peer).into(), Connection { fd, source: None })
            }));
        }
        self.enqueue(outcomes, channels, now);
        self.deliver(channels);
        // Only now that nobody waits: whoever was just sent a connection may wait for this processor, and
        // closing our copies takes a while.
        let serving = self.queue.table().all_serving().flatten();
        let serving = serving.filter_map(|channel| channels.get(channel));
        let pause = pace::pause(&self.arrivals, serving.map(|open| &open.latency));
        if !pause.is_zero() || self.next_read.is_some_and(|read| read <= now) {
            self.read_acks_on_time(channels, now);
        }
        pause
    }

    /// Takes in what a predecessor had accepted, each for the slot that it had there.
    pub fn take_in(
        &mut self,
        Delivery { slot, connections }: Delivery,
        channels: &mut Channels,
        now: Instant,
    ) {
        self.counters.accepted += connections.len() as u64;
        let is_gone = slot >= self.queue.table().len();
        let outcomes = connections.into_iter().filter_map(|Arrived { fd, source }| {
            let peer = match source {
                Some(source) => Some(source.ip()),
                None => match socket::peer(fd.as_fd()) {
                    Ok(peer) => peer,
                    Err(_) => return Some(Outcome::Gone),
                },
            };
            // Here there is no such slot: whose it is has to be found out again.
            if let Some(identify) = self.identify.as_mut().filter(|_| is_gone) {
                return identify.take_again(fd, peer, source, now);
            }
            let otherwise = Choice::Hash(self.hasher.hash(peer));
            let client = Client { session: Some(slot), otherwise };
            Some(Outcome::Client(client, Connection { fd, source: source.map(Box::new) }))
        });
        let outcomes = outcomes.collect();
        self.enqueue(outcomes, channels, now);
    }

    /// Frees descriptors: our copies of what workers have taken over, and connections that were looked at
    /// longest, which go on by what is known of them. Returns whether there were any.
    pub fn free_descriptors(&mut self, channels: &mut Channels, now: Instant) -> bool {
        self.read_owed_acks(channels, now);
        let outcomes = self.identify.as_mut().map(|identify| identify.give_up_oldest(now));
        let outcomes = outcomes.unwrap_or_default();
        let any = !outcomes.is_empty() || !self.effects.taken.is_empty();
        self.enqueue(outcomes, channels, now);
        any
    }

    /// Looks at connections that were not identified yet and of which there is news.
    pub fn look_at(&mut self, events: &Events, channels: &mut Channels, now: Instant) {
        // None: the balancer is being dropped.
        let Some(identify) = &mut self.identify else { return };
        let outcomes = identify.ready(events, now);
        self.enqueue(outcomes, channels, now);
    }

    /// Does what is due.
    pub fn tick(&mut self, channels: &mut Channels, now: Instant) {
        let looked = self.identify.as_mut().map(|identify| identify.due(now)).unwrap_or_default();
        let expired = self.queue.expire(now);
        self.refuse(expired, Refusal::NoWorker);
        self.enqueue(looked, channels, now);
        if self.next_read.is_some_and(|read| read <= now) {
            self.read_acks_on_time(channels, now);
        }
        if self.next_audit <= now {
            self.audit(channels, now);
        }
        if self.next_sweep.is_some_and(|sweep| sweep <= now) {
            self.sweep();
            self.next_sweep = None;
        }
    }

    /// When [`tick`](Self::tick) has something to do next, without patience that ends.
    pub fn next_due(&mut self, channels: &Channels, now: Instant) -> Option<Instant> {
        if self.next_sweep.is_none() {
            let times = self.queue.waiting().div_ceil(SWEPT_PER_INTERVAL);
            let interval = SWEEP_INTERVAL * u32::try_from(times).unwrap_or(u32::MAX);
            self.next_sweep = (times > 0).then(|| now + interval);
        }
        let read = self.read_after(channels, now);
        if read.is_some_and(|read| self.next_read.is_none_or(|next| read < next)) {
            self.next_read = read;
        }
        let look = self.identify.as_ref().and_then(Identify::next_due);
        let audit = (!channels.is_empty()).then_some(self.next_audit);
        [self.next_read, self.next_sweep, look, audit].into_iter().flatten().min()
    }

    /// When somebody's patience ends next, or the rest of a worker without descriptors does.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.queue.next_deadline()
    }

    /// Refuses all that no worker has been sent.
    pub fn give_up(&mut self) {
        let waiting = self.queue.remove_waiting(|_| true);
        self.refuse(waiting, Refusal::NoWorker);
        let unknown = self.identify.as_mut().map(Identify::clear).unwrap_or_default();
        let unknown = unknown.into_iter().map(|fd| Removed { slot: None, connection: fd });
        self.effects.refused.extend(unknown.map(|one| (one, Refusal::NoWorker)));
    }

    fn refuse(&mut self, removed: impl IntoIterator<Item = Removed<Connection>>, why: Refusal) {
        let removed = removed
            .into_iter()
            .map(|Removed { slot, connection }| (Removed { slot, connection: connection.fd }, why));
        self.effects.refused.extend(removed);
    }

    /// Lets go of what identifies clients, and so of the connections that wait for that.
    pub fn end(&mut self) {
        self.identify = None;
    }

    /// Queues what is identified.
    fn enqueue(&mut self, outcomes: Vec<Outcome>, channels: &mut Channels, now: Instant) {
        let mut read = false;
        if self.follows_loads && !outcomes.is_empty() {
            self.follow_loads(channels, now);
        }
        for outcome in outcomes {
            match outcome {
                Outcome::Client(client, connection) if self.draining && self.is_new(client) => {
                    self.refuse([Removed { slot: None, connection }], Refusal::Draining);
                }
                Outcome::Client(client, connection) => {
                    let mut pushed = self.queue.push(client, connection, now);
                    if let Err(Removed { connection, .. }) = pushed {
                        // Those that were adopted by now do not count.
                        if !std::mem::replace(&mut read, true) {
                            self.read_owed_acks(channels, Instant::now());
                        }
                        pushed = self.queue.push(client, connection, now);
                    }
                    if let Err(removed) = pushed {
                        self.refuse([removed], Refusal::Overload);
                    }
                }
                Outcome::Gone => self.counters.gone += 1,
                Outcome::Invalid => self.counters.rejected += 1,
            }
        }
    }

    /// Whether a client certainly has not been here before. (Who is known by address alone may have been.)
    fn is_new(&self, client: Client) -> bool {
        client.otherwise == Choice::Room && client.slot(self.queue.table().len()).is_none()
    }

    /// Tells the queue how busy each worker is. One that does not say counts as the busiest.
    pub(super) fn follow_loads(&mut self, channels: &Channels, now: Instant) {
        let known = channels.iter().filter_map(|(_, open)| open.connections());
        let most = known.max().unwrap_or(0);
        for (channel, open) in channels.iter() {
            let connections = open.connections().unwrap_or(most);
            let stuck = open.latency.owes_for(now).is_some_and(|owed| owed >= OWES_TOO_LONG);
            self.queue.set_load(channel, Load { connections, stuck });
        }
    }

    /// Lets go of connections whose client has left while they waited.
    fn sweep(&mut self) {
        let waiting: Vec<_> = self.queue.iter_waiting().map(|one| one.as_fd()).collect();
        let mut hung_up = socket::hung_up(&waiting).into_iter();
        let gone = self.queue.remove_waiting(|_| hung_up.next() == Some(true));
        self.counters.gone += gone.len() as u64;
    }
}
