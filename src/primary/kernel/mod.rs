//! The way without a process between: the kernel puts each connection into the queue of its slot, and the slot's worker
//! accepts from there. A [`program`] chooses the slot among the sockets of a [`group`]; a [`watch`] on each queue tells
//! whether the worker keeps up; a [`probe`] tells whether all of this works here.
//!
//! The hand-over is the way out: the primary accepts from a queue that no worker accepts from, or none that keeps up.

pub mod group;
pub mod probe;
pub mod program;
#[cfg(all(test, target_os = "linux"))]
mod tests;
pub mod watch;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::group::Group;
use self::watch::{Seen, Watch};
use crate::channel::frame::Frame;
use crate::primary::report::Stats;
use crate::primary::workers::channel::Sent;
use crate::primary::workers::channels::Channels;
use crate::primary::workers::table::{Channel, Table};
use crate::sys::reuseport::{self, Backlog};

/// How long what failed for want of descriptors, here or in a worker, is left alone.
const REST: Duration = Duration::from_secs(1);

/// What the hand-over has taken out of a slot's queue and not brought to its worker yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakenOut {
    /// Connections that the worker has not taken over.
    pub pending: usize,
    /// Those of them that were not sent to it.
    pub unsent: usize,
}

/// The socket of a slot, and who accepts from it.
struct Member {
    /// The worker that has been lent the socket.
    holder: Option<Channel>,
    /// Whether the holder was told to accept no more, and has not said so yet.
    releasing: bool,
    /// Whether that could not be written yet.
    untold: bool,
    /// Until when no worker is lent the socket: the last one could not accept.
    rest_until: Option<Instant>,
    /// The holder's counter as it was when it was read last.
    seen: u64,
    accepted: u64,
    watch: Watch,
}

/// The sockets of a balancer whose connections the kernel steers.
pub struct Steering {
    /// Until it is closed.
    group: Option<Group>,
    members: Vec<Member>,
    /// What all slots, also those that are gone, have accepted.
    accepted: u64,
    max_pending: usize,
    /// Why the kernel's program does not know the slots that there are. Then all connections are handed over.
    failure: Option<io::Error>,
    /// When to try again to bring it in step.
    retry_at: Option<Instant>,
    looked_at: Instant,
}

impl Steering {
    /// Steers with the sockets of a group that has none but its first.
    pub fn new(group: Group, max_pending: usize, now: Instant) -> Self {
        Self {
            group: Some(group),
            members: Vec::new(),
            accepted: 0,
            max_pending,
            failure: None,
            retry_at: None,
            looked_at: now,
        }
    }

    /// Follows the table: lends each slot's socket to its worker, once the worker before has let go of it.
    pub fn follow(&mut self, table: &Table, channels: &mut Channels, now: Instant) {
        self.resize(table.len(), now);
        for slot in 0..self.members.len() {
            let number = u32::try_from(slot).unwrap_or(u32::MAX);
            let steered = self.failure.is_none() && self.group.is_some();
            let wanted = table.serving(number).filter(|_| steered);
            self.lend(number, wanted, channels, now);
        }
    }

    /// Why all connections are handed over at the moment, if they are.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// The sockets, and for each whether the primary has to accept from it.
    pub fn sockets(&self) -> impl Iterator<Item = (&Arc<OwnedFd>, bool)> {
        let sockets = self.group.iter().flat_map(Group::sockets);
        sockets.zip(&self.members).map(|(socket, member)| {
            let accepted_from = member.holder.is_some() && !member.releasing;
            (socket, !accepted_from || member.watch.is_overloaded())
        })
    }

    /// For each socket, whether to be told of the next connection, as nobody looks before.
    pub fn is_quiet(&self, slot: usize, now: Instant) -> bool {
        self.members.get(slot).is_some_and(|member| member.watch.is_quiet(now))
    }

    /// A connection has come to a slot about which it was to be told.
    pub fn wake(&mut self, slot: usize, now: Instant) {
        if let Some(member) = self.members.get_mut(slot) {
            member.watch.wake(now);
            self.looked_at = now;
        }
    }

    /// Looks whether workers keep up, if it is time to.
    pub fn look(&mut self, channels: &Channels, taken_out: impl Fn(u32) -> TakenOut, now: Instant) {
        if now < self.looked_at + watch::INTERVAL {
            return;
        }
        self.looked_at = now;
        for slot in 0..self.members.len() {
            if self.members[slot].watch.is_quiet(now) {
                continue;
            }
            let backlog = self.count(slot, channels);
            let number = u32::try_from(slot).unwrap_or(u32::MAX);
            let member = &mut self.members[slot];
            let holder = member.holder.and_then(|holder| channels.get(holder));
            let owing = holder.and_then(|open| open.latency.owes_for(now));
            let TakenOut { pending, unsent } = taken_out(number);
            let seen = Seen {
                accepted: member.accepted,
                queued: backlog.queued as usize,
                room: backlog.limit as usize,
                pending,
                unsent,
                owing: owing.unwrap_or_default(),
            };
            member.watch.look(seen, self.max_pending, now);
        }
    }

    /// When there is something to look at next.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let watched = |member: &Member| member.holder.is_some() && !member.watch.is_quiet(now);
        let open = self.group.is_some();
        let look = self.members.iter().any(watched).then(|| self.looked_at + watch::INTERVAL);
        let look = look.filter(|_| open);
        let rests = self.members.iter().filter_map(|member| member.rest_until);
        rests.chain(look).chain(self.retry_at).min()
    }

    /// A worker accepts a slot's connections no more: it was told so, or it cannot.
    pub fn released(&mut self, channel: Channel, slot: u32, channels: &Channels, now: Instant) {
        let index = slot as usize;
        if self.members.get(index).is_some_and(|member| member.holder == Some(channel)) {
            self.count(index, channels);
            let member = &mut self.members[index];
            member.rest_until = (!member.releasing).then_some(now + REST);
            member.lose_holder();
        }
    }

    /// A channel ends. Must be told before it is removed from `channels`, for the sake of what its worker has counted.
    pub fn ended(&mut self, channel: Channel, channels: &Channels) {
        for slot in 0..self.members.len() {
            if self.members[slot].holder == Some(channel) {
                self.count(slot, channels);
                self.members[slot].lose_holder();
            }
        }
    }

    /// No worker is to accept any more. Returns the sockets, which the caller closes.
    pub fn close(&mut self) -> Vec<Arc<OwnedFd>> {
        self.group.take().map(|group| group.sockets().to_vec()).unwrap_or_default()
    }

    /// The workers that are about to say that they accept no more, or may have said so.
    pub fn expect_answers(&self) -> Vec<Channel> {
        let expected = |member: &&Member| member.releasing || member.watch.is_stalled();
        self.members.iter().filter(expected).filter_map(|member| member.holder).collect()
    }

    /// Adds what workers have accepted themselves, and what is in the queues.
    pub fn add_to(&mut self, stats: &mut Stats, channels: &Channels) {
        for slot in 0..self.members.len() {
            let queued = self.settled_count(slot, channels);
            stats.accepted += queued as u64;
            stats.waiting += queued;
            if let Some(of_slot) = stats.slots.get_mut(slot) {
                of_slot.waiting += queued;
                of_slot.adopted += self.members[slot].accepted;
            }
        }
        stats.accepted += self.accepted;
        stats.totals.delivered += self.accepted;
        stats.totals.adopted += self.accepted;
    }

    fn resize(&mut self, slots: u32, now: Instant) {
        let Some(group) = &mut self.group else { return };
        self.retry_at = self.retry_at.filter(|&retry| retry > now);
        if self.retry_at.is_none() {
            self.failure = group.resize(slots).err();
            self.retry_at = self.failure.is_some().then(|| now + REST);
        }
        while self.members.len() < group.sockets().len() {
            self.members.push(Member::new(now));
        }
        // What comes back later is another slot.
        for member in self.members.iter_mut().skip(slots as usize) {
            member.accepted = 0;
        }
    }

    /// Brings a slot's socket to the worker that is to have it.
    fn lend(&mut self, slot: u32, wanted: Option<Channel>, channels: &mut Channels, now: Instant) {
        let member = &mut self.members[slot as usize];
        if member.holder.is_some() && member.holder != wanted && !member.releasing {
            member.releasing = true;
            member.untold = true;
        }
        if member.untold
            && let Some(holder) = member.holder.and_then(|one| channels.get_mut(one))
        {
            member.untold = holder.channel.say(Frame::Release { slot }, &[]) != Sent::Yes;
        }
        member.rest_until = member.rest_until.filter(|&until| until > now);
        if member.holder.is_some() || member.rest_until.is_some() {
            return;
        }
        let (Some(channel), Some(group)) = (wanted, &self.group) else { return };
        let Some(open) = channels.get_mut(channel) else { return };
        match open.lend(slot, group.sockets()[slot as usize].as_fd(), group.backlog()) {
            Sent::Yes => {
                member.holder = Some(channel);
                member.seen = open.accepted(slot);
                member.watch = Watch::new(now);
            }
            // Tried again when there is room.
            Sent::Full => {}
            Sent::Exhausted => member.rest_until = Some(now + REST),
        }
    }

    /// Follows a worker's counter; returns the state of the queue at that moment.
    fn count(&mut self, slot: usize, channels: &Channels) -> Backlog {
        let member = &mut self.members[slot];
        if let Some(open) = member.holder.and_then(|holder| channels.get(holder)) {
            let accepted = open.accepted(u32::try_from(slot).unwrap_or(u32::MAX));
            // A worker may write what it likes.
            let more = accepted.saturating_sub(member.seen);
            member.seen = accepted;
            member.accepted = member.accepted.saturating_add(more);
            self.accepted = self.accepted.saturating_add(more);
        }
        self.queue(slot)
    }

    /// A queue that does not tell counts as full, so that it is emptied.
    fn queue(&self, slot: usize) -> Backlog {
        let socket = self.group.as_ref().and_then(|group| group.sockets().get(slot));
        socket.map_or(Backlog { queued: 0, limit: 0 }, |socket| {
            reuseport::backlog(socket.as_fd()).unwrap_or(Backlog { queued: 1, limit: 0 })
        })
    }

    /// The length of a queue at a moment at which nothing left it.
    fn settled_count(&mut self, slot: usize, channels: &Channels) -> usize {
        const TRIES: usize = 4;
        self.count(slot, channels);
        let mut queued = 0;
        for _ in 0..TRIES {
            let before = self.members[slot].seen;
            queued = self.queue(slot).queued as usize;
            self.count(slot, channels);
            if self.members[slot].seen == before {
                break;
            }
        }
        queued
    }
}

impl Member {
    fn new(now: Instant) -> Self {
        Self {
            holder: None,
            releasing: false,
            untold: false,
            rest_until: None,
            seen: 0,
            accepted: 0,
            watch: Watch::new(now),
        }
    }

    fn lose_holder(&mut self) {
        self.holder = None;
        self.releasing = false;
        self.untold = false;
    }
}
