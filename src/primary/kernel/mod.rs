//! The way without a process between: the kernel puts each connection into the queue of its slot, and the slot's worker
//! accepts from there. A [`program`] chooses the slot among the sockets of a [`group`]. Each [`slot_socket`] is lent to the
//! worker of its slot. A [`watch`] on each queue tells whether the worker keeps up; a [`probe`] tells whether all of this
//! works here.
//!
//! The hand-over is the way out: the primary accepts from a queue that no worker accepts from, or none that keeps up; also
//! for a worker of another user, as one that has a socket of the group can change how all of them are chosen.

pub mod group;
pub mod probe;
pub mod program;
mod slot_socket;
#[cfg(all(test, target_os = "linux"))]
mod tests;
pub mod watch;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::group::Group;
use self::slot_socket::SlotSocket;
use self::watch::Seen;
use crate::channel::frame::Loan;
use crate::channel::waits::WaitTimes;
use crate::primary::report::Stats;
use crate::primary::workers::channels::{Channels, OpenChannel};
use crate::primary::workers::table::{Channel, Table};
use crate::sys::tcp_info::{self, Backlog};

/// How long the kernel is left alone after it has refused more sockets or a program.
const RETRY: Duration = Duration::from_secs(1);

/// Processes that are looked at in a row: each takes some ten microseconds, for which everything else waits.
const MAX_LOOKS: usize = 4;

/// What the hand-over has taken out of a slot's queue and not brought to its worker yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakenOut {
    /// Connections that the worker has not taken over.
    pub pending: usize,
    /// Those of them that were not sent to it.
    pub unsent: usize,
}

/// The sockets of a balancer whose connections the kernel steers.
pub struct Steering {
    /// Until it is closed.
    group: Option<Group>,
    slots: Vec<SlotSocket>,
    /// What all slots, also those that are gone, have accepted.
    accepted: u64,
    /// How long connections had waited for workers whose channels have ended.
    waits: WaitTimes,
    /// The most that was ever said to have come in. A connection that is just being taken out of a queue is nowhere.
    came_in: u64,
    max_pending: usize,
    /// Why the kernel's program does not know the slots that there are. Then all connections are handed over.
    failure: Option<io::Error>,
    /// When to try again to tell it.
    retry_at: Option<Instant>,
    looked_at: Instant,
    /// The slot whose worker's process was looked at last.
    process_last: usize,
}

impl Steering {
    /// Steers with the sockets of a group that has none but its first.
    pub fn new(group: Group, max_pending: usize, now: Instant) -> Self {
        Self {
            group: Some(group),
            slots: Vec::new(),
            accepted: 0,
            waits: WaitTimes::default(),
            came_in: 0,
            max_pending,
            failure: None,
            retry_at: None,
            looked_at: now,
            process_last: 0,
        }
    }

    /// Follows the table: lends each slot's socket to its worker, if that may have it, once the worker before has let go of
    /// it.
    pub fn follow(&mut self, table: &Table, channels: &mut Channels, now: Instant) {
        self.resize(table.len(), now);
        let Some(group) = self.group.as_ref() else {
            // Closed; but not all workers may have been told.
            self.recall_all(channels);
            return;
        };
        for ((number, slot), socket) in (0..).zip(&mut self.slots).zip(group.sockets()) {
            let wanted = table.serving(number).filter(|_| self.failure.is_none());
            slot.recall(wanted, channels);
            slot.lend(wanted, (socket, group.backlog()), channels, now);
        }
    }

    /// Why all connections are handed over at the moment, if they are.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// The sockets, and for each whether the primary has to accept from it.
    pub fn sockets(&self) -> impl Iterator<Item = (&Arc<OwnedFd>, bool)> {
        let sockets = self.group.iter().flat_map(Group::sockets);
        sockets.zip(self.slots.iter().map(SlotSocket::is_with_primary))
    }

    /// Whether to be told of the next connection to a slot, as nobody looks before.
    pub fn is_quiet(&self, slot: usize, now: Instant) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.watch.is_quiet(now))
    }

    /// A connection has come to a slot about which it was to be told.
    pub fn wake(&mut self, slot: usize, now: Instant) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.watch.wake(now);
        }
    }

    /// Looks whether workers keep up, if it is time to.
    pub fn look(
        &mut self,
        channels: &mut Channels,
        taken_out: impl Fn(u32) -> TakenOut,
        now: Instant,
    ) {
        if now < self.looked_at + watch::INTERVAL {
            return;
        }
        self.looked_at = now;
        self.look_at_processes(channels, now);
        for (number, index) in (0..).zip(0..self.slots.len()) {
            if self.slots[index].watch.is_quiet(now) {
                continue;
            }
            self.count(index, channels);
            let backlog = self.queue(index);
            let slot = &mut self.slots[index];
            let holder = slot.holder().and_then(|holder| channels.get(holder));
            let owing = holder.and_then(|open| open.latency.owes_for(now));
            let TakenOut { pending, unsent } = taken_out(number);
            let seen = Seen {
                accepted: slot.accepted,
                queued: backlog.queued as usize,
                room: backlog.limit as usize,
                pending,
                unsent,
                owing: owing.unwrap_or_default(),
            };
            slot.watch.look(seen, self.max_pending, now);
        }
    }

    /// Takes sockets back from workers that have become another user.
    fn look_at_processes(&mut self, channels: &mut Channels, now: Instant) {
        let mut looks = 0;
        for _ in 0..self.slots.len() {
            self.process_last = (self.process_last + 1) % self.slots.len();
            let slot = &mut self.slots[self.process_last];
            let Some(holder) = slot.holder().and_then(|holder| channels.get_mut(holder)) else {
                continue;
            };
            looks += usize::from(holder.look_at_process(now));
            if !holder.may_accept() {
                slot.recall(None, channels);
            }
            if looks == MAX_LOOKS {
                return;
            }
        }
    }

    /// When there is something to look at next.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.group.as_ref()?;
        let watched = |slot: &SlotSocket| slot.holder().is_some() && !slot.watch.is_quiet(now);
        let look = self.slots.iter().any(watched).then(|| self.looked_at + watch::INTERVAL);
        let rests = self.slots.iter().filter_map(SlotSocket::rest_until);
        rests.chain(look).chain(self.retry_at).min()
    }

    /// A worker accepts a slot's connections no more: it was told so, or it cannot.
    pub fn given_back(&mut self, channel: Channel, loan: Loan, channels: &Channels, now: Instant) {
        let index = loan.slot as usize;
        if index < self.slots.len() {
            self.count(index, channels);
            self.slots[index].given_back(channel, loan, now);
        }
    }

    /// A channel ends. Must be told before it is removed from `channels`, for the sake of what its worker has counted.
    pub fn ended(&mut self, channel: Channel, channels: &Channels) {
        self.keep_waits(channels.get(channel));
        for index in 0..self.slots.len() {
            if self.slots[index].holder() == Some(channel) {
                self.count(index, channels);
                self.slots[index].lose_holder();
            }
        }
    }

    /// Workers are to accept no more. Returns the sockets, which the caller closes.
    pub fn close(&mut self, channels: &mut Channels) -> Vec<Arc<OwnedFd>> {
        self.recall_all(channels);
        self.group.take().map(|group| group.sockets().to_vec()).unwrap_or_default()
    }

    /// Workers are to accept no more. The sockets stay as they are.
    pub fn recall_all(&mut self, channels: &mut Channels) {
        self.slots.iter_mut().for_each(|slot| slot.recall(None, channels));
    }

    /// The sockets, in the order of their slots, and their backlog.
    pub fn listening(&self) -> (&[Arc<OwnedFd>], i32) {
        self.group.as_ref().map_or((&[], 0), |group| (group.sockets(), group.backlog()))
    }

    /// The workers that may be about to give a socket back.
    pub fn expect_answers(&self) -> Vec<Channel> {
        let expected = self.slots.iter().filter(|slot| slot.is_coming_back());
        expected.filter_map(SlotSocket::holder).collect()
    }

    /// Follows the counters of all workers, for the last time before their channels are closed.
    pub fn count_all(&mut self, channels: &Channels) {
        self.keep_waits(channels.iter().map(|(_, open)| open));
        for index in 0..self.slots.len() {
            self.count(index, channels);
        }
    }

    /// Adds what workers have accepted themselves, and what is in the queues.
    pub fn add_to(&mut self, stats: &mut Stats, channels: &Channels) {
        // Workers may write what they like: a sum must not begin anew for that.
        let add = |count: &mut u64, more: u64| *count = count.saturating_add(more);
        for index in 0..self.slots.len() {
            let queued = self.settled_queue(index, channels);
            add(&mut stats.accepted, queued as u64);
            stats.waiting += queued;
            if let Some(slot) = stats.slots.get_mut(index) {
                slot.steered = !self.slots[index].is_with_primary();
                slot.waiting += queued;
                add(&mut slot.adopted, self.slots[index].accepted);
            }
        }
        let open = channels.iter().map(|(_, open)| open.waits());
        open.chain([self.waits]).for_each(|waits| stats.waits.add(&waits));
        add(&mut stats.accepted, self.accepted);
        add(&mut stats.totals.delivered, self.accepted);
        add(&mut stats.totals.adopted, self.accepted);
        self.came_in = self.came_in.max(stats.accepted);
        stats.accepted = self.came_in;
    }

    fn resize(&mut self, slots: u32, now: Instant) {
        let Some(group) = &mut self.group else { return };
        self.retry_at = self.retry_at.filter(|&retry| retry > now);
        if self.retry_at.is_none() {
            self.failure = group.resize(slots).err();
            self.retry_at = self.failure.is_some().then(|| now + RETRY);
        }
        for number in (0..).take(group.sockets().len()).skip(self.slots.len()) {
            self.slots.push(SlotSocket::new(number, now));
        }
        // What comes back later is another slot.
        for slot in self.slots.iter_mut().skip(slots as usize) {
            slot.accepted = 0;
        }
    }

    fn keep_waits<'a>(&mut self, ended: impl IntoIterator<Item = &'a OpenChannel>) {
        ended.into_iter().for_each(|open| self.waits.add(&open.waits()));
    }

    fn count(&mut self, index: usize, channels: &Channels) {
        let more = self.slots[index].count(channels);
        self.accepted = self.accepted.saturating_add(more);
    }

    /// A queue that does not tell counts as full, so that it is emptied.
    fn queue(&self, index: usize) -> Backlog {
        let socket = self.group.as_ref().and_then(|group| group.sockets().get(index));
        socket.map_or(Backlog { queued: 0, limit: 0 }, |socket| {
            tcp_info::backlog(socket.as_fd()).unwrap_or(Backlog { queued: 1, limit: 0 })
        })
    }

    /// The length of a queue at a moment at which its worker took nothing out.
    fn settled_queue(&mut self, index: usize, channels: &Channels) -> usize {
        const TRIES: usize = 4;
        self.count(index, channels);
        let mut queued = 0;
        for _ in 0..TRIES {
            let before = self.slots[index].accepted;
            queued = self.queue(index).queued as usize;
            self.count(index, channels);
            if self.slots[index].accepted == before {
                break;
            }
        }
        queued
    }
}
