//! Who waits for which worker: the state machine between accept and adoption. Pure: it knows no
//! socket and no clock, so that its promises are proved by property tests.
//!
//! A connection is pushed, waits in its client's slot, is offered to the worker that serves the
//! slot, is in flight once it was sent, and ends in exactly one of three ways: adopted by a worker,
//! expired (nobody came for it in time), or returned to the caller at the end.
//!
//! Workers appear as [`Channel`]s: a worker that closed its server and listens again is a new one.

mod lane;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub use lane::Violation;
use lane::{Flying, Lane};
pub use slot::{Entry, SlotStats};
use slot::{Slot, Waiting};

use crate::client::hash::{self, ClientHash};

/// The number of a channel, never used twice.
pub type Channel = u32;

/// How much may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of a slot that are not adopted yet; one more overflows.
    pub pending_per_slot: usize,
    /// How long a connection waits in a slot without a worker; `None` is for ever.
    pub patience: Option<Duration>,
    /// Connections in flight to a worker; more wait here, where they can still go elsewhere without
    /// the worker's end.
    pub in_flight_per_channel: usize,
}

/// Counters of the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections sent to a worker; one that had to be sent twice counts once.
    pub delivered: u64,
    /// Connections that a worker took over.
    pub adopted: u64,
    /// Times a connection was sent again, its worker having gone or been unable to receive it.
    pub redelivered: u64,
}

/// A run of connections to send to one channel, in order. Offered by [`Dispatch::offer`]; nothing
/// changes until [`Dispatch::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where to.
    pub channel: Channel,
    /// The first one's sequence number.
    pub first: u64,
    /// How many.
    pub count: u16,
    slot: u32,
}

/// Why a channel ended, which decides about what is in flight on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The worker closed it or died: what it had not adopted it never will.
    ByWorker,
    /// We gave it up: the worker may still adopt what it was sent, so nobody else may.
    ByPrimary,
}

/// The state machine. `C` is a connection; the machine only holds it.
#[derive(Debug)]
pub struct Dispatch<C> {
    limits: Limits,
    slots: Vec<Slot<C>>,
    /// Connections that arrived while there was no slot at all.
    unslotted: VecDeque<Waiting<C>>,
    lanes: BTreeMap<Channel, Lane<C>>,
    /// Slots that may have something to offer.
    ready: VecDeque<u32>,
    totals: Totals,
}

impl<C> Dispatch<C> {
    /// A machine without slots.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: Vec::new(),
            unslotted: VecDeque::new(),
            lanes: BTreeMap::new(),
            ready: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// Takes a connection in, or gives it back when too many wait for its slot.
    pub fn push(&mut self, client: ClientHash, connection: C, now: Instant) -> Result<(), C> {
        let slot = hash::slot(client, self.slot_count());
        let pending = match slot {
            Some(slot) => self.slots[slot as usize].pending(),
            None => self.unslotted.len(),
        };
        if pending >= self.limits.pending_per_slot {
            return Err(connection);
        }
        let waiting = Waiting { client, since: now, sent_before: false, connection };
        match slot {
            Some(slot) => {
                self.slots[slot as usize].waiting.push_back(waiting);
                self.mark_ready(slot);
            }
            None => self.unslotted.push_back(waiting),
        }
        Ok(())
    }

    /// Follows the manager's table. A slot whose new worker has not shaken hands keeps being served
    /// by the old one (make before break); an empty one is served by nobody.
    pub fn set_table(&mut self, table: &[Entry], now: Instant) {
        let resized = table.len() != self.slots.len();
        let mut homeless: Vec<Waiting<C>> = Vec::new();
        if resized {
            homeless.extend(self.unslotted.drain(..));
            for slot in &mut self.slots {
                // Who waited behind a worker has not waited in vain yet.
                let empty_since = if slot.serving.is_some() { Some(now) } else { slot.empty_since };
                homeless.extend(slot.waiting.drain(..).map(|waiting| Waiting {
                    since: empty_since.map_or(waiting.since, |empty| empty.max(waiting.since)),
                    ..waiting
                }));
            }
            self.ready.clear();
            self.slots.truncate(table.len());
            while self.slots.len() < table.len() {
                self.slots.push(Slot::new());
            }
            for slot in &mut self.slots {
                slot.in_flight = 0;
                slot.ready = false;
            }
            for flying in self.lanes.values_mut().flat_map(Lane::iter_mut) {
                // What is in flight counts where its client belongs now.
                flying.slot = hash::slot(flying.waiting.client, u32_len(table)).unwrap_or(0);
                if let Some(slot) = self.slots.get_mut(flying.slot as usize) {
                    slot.in_flight += 1;
                }
            }
        }
        for (slot, &entry) in self.slots.iter_mut().zip(table) {
            slot.entry = entry;
        }
        for slot in 0..self.slot_count() {
            self.choose_server(slot, now);
        }
        // In the order of arrival, whatever slot they waited in.
        homeless.sort_by_key(|waiting| waiting.since);
        for waiting in homeless {
            self.queue(waiting, VecDeque::push_back);
        }
    }

    /// A channel has shaken hands.
    pub fn attach(&mut self, channel: Channel, now: Instant) {
        self.lanes.insert(channel, Lane::new());
        self.choose_servers(now);
    }

    /// A channel has ended. Returns the connections that nobody here may touch any more.
    pub fn detach(&mut self, channel: Channel, ending: Ending, now: Instant) -> Vec<C> {
        let Some(lane) = self.lanes.remove(&channel) else {
            return Vec::new();
        };
        self.choose_servers(now);
        let mut released = Vec::new();
        // Back to the front, so last first: they came before all that wait.
        for flying in lane.into_in_flight().rev() {
            match ending {
                Ending::ByWorker => self.requeue(flying, now),
                Ending::ByPrimary => {
                    self.settle(flying.slot);
                    released.push(flying.waiting.connection);
                }
            }
        }
        released
    }

    /// The next run of connections to send, at most `max` of them.
    pub fn offer(&mut self, max: u16) -> Option<Offer> {
        while let Some(slot) = self.ready.pop_front() {
            let state = &mut self.slots[slot as usize];
            state.ready = false;
            let Some(channel) = state.serving else {
                continue;
            };
            let Some(lane) = self.lanes.get_mut(&channel) else {
                continue;
            };
            let room = lane.room(self.limits.in_flight_per_channel);
            let count = state.waiting.len().min(room).min(usize::from(max));
            if count == 0 {
                lane.stalled |= !state.waiting.is_empty();
                continue;
            }
            let count = u16::try_from(count).unwrap_or(max);
            return Some(Offer { channel, first: lane.next(), count, slot });
        }
        None
    }

    /// The connections of an offer, in order.
    pub fn offered(&self, offer: &Offer) -> impl Iterator<Item = &C> {
        let waiting = &self.slots[offer.slot as usize].waiting;
        waiting.iter().take(usize::from(offer.count)).map(|waiting| &waiting.connection)
    }

    /// The offer was sent.
    pub fn commit(&mut self, offer: &Offer) {
        let slot = &mut self.slots[offer.slot as usize];
        let Some(lane) = self.lanes.get_mut(&offer.channel) else {
            return;
        };
        for mut waiting in slot.waiting.drain(..usize::from(offer.count)) {
            if waiting.sent_before {
                self.totals.redelivered += 1;
            } else {
                self.totals.delivered += 1;
                waiting.sent_before = true;
            }
            slot.in_flight += 1;
            lane.sent(Flying { slot: offer.slot, waiting });
        }
        self.mark_ready(offer.slot);
    }

    /// The channel's socket is full: offers nothing for it until [`unblock`](Self::unblock).
    pub fn block(&mut self, channel: Channel) {
        if let Some(lane) = self.lanes.get_mut(&channel) {
            lane.blocked = true;
            lane.stalled = true;
        }
    }

    /// The channel's socket has room again.
    pub fn unblock(&mut self, channel: Channel) {
        if let Some(lane) = self.lanes.get_mut(&channel) {
            lane.blocked = false;
        }
        self.resume(channel);
    }

    /// Sends nothing on this channel until `until`.
    pub fn pause(&mut self, channel: Channel, until: Instant) {
        if let Some(lane) = self.lanes.get_mut(&channel) {
            lane.paused_until = Some(until);
            lane.stalled = true;
        }
    }

    /// The worker has taken over all up to and including `through`. Returns their connections, so
    /// that our copies are closed.
    pub fn adopted(&mut self, channel: Channel, through: u64) -> Result<Vec<C>, Violation> {
        let lane = self.lanes.get_mut(&channel).ok_or(Violation)?;
        let taken = lane.adopted(through)?;
        self.totals.adopted += taken.len() as u64;
        for flying in &taken {
            self.settle(flying.slot);
            if let Some(slot) = self.slots.get_mut(flying.slot as usize) {
                slot.adopted += 1;
            }
        }
        self.resume(channel);
        Ok(taken.into_iter().map(|flying| flying.waiting.connection).collect())
    }

    /// The worker could not receive these: back to the front of their slots.
    pub fn returned(
        &mut self,
        channel: Channel,
        first: u64,
        count: u16,
        now: Instant,
    ) -> Result<(), Violation> {
        let lane = self.lanes.get_mut(&channel).ok_or(Violation)?;
        let back = lane.returned(first, count)?;
        for flying in back.into_iter().rev() {
            self.requeue(flying, now);
        }
        self.resume(channel);
        Ok(())
    }

    /// Takes out the connections whose patience has ended, and resumes channels whose pause has.
    pub fn expire(&mut self, now: Instant) -> Vec<C> {
        let over: Vec<Channel> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.paused_until.is_some_and(|until| until <= now))
            .map(|(&channel, _)| channel)
            .collect();
        for channel in over {
            if let Some(lane) = self.lanes.get_mut(&channel) {
                lane.paused_until = None;
            }
            self.resume(channel);
        }
        let Some(patience) = self.limits.patience else {
            return Vec::new();
        };
        let mut expired = Vec::new();
        for (queue, empty_since) in self.starving() {
            let due = |waiting: &Waiting<C>| waiting.deadline(empty_since, patience) <= now;
            if queue.iter().any(due) {
                let (gone, kept) = queue.drain(..).partition::<VecDeque<_>, _>(due);
                *queue = kept;
                expired.extend(gone.into_iter().map(|waiting| waiting.connection));
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let resume = self.lanes.values().filter_map(|lane| lane.paused_until).min();
        let expiry = self.limits.patience.and_then(|patience| {
            self.starving()
                .flat_map(|(queue, empty)| queue.iter().map(move |w| w.deadline(empty, patience)))
                .min()
        });
        resume.into_iter().chain(expiry).min()
    }

    /// Whether connections wait where there is no worker.
    pub fn is_starving(&mut self) -> bool {
        self.starving().next().is_some()
    }

    /// The channels that serve slots.
    pub fn serving(&self) -> impl Iterator<Item = Channel> {
        self.slots.iter().filter_map(|slot| slot.serving)
    }

    /// Whether anything is in flight on a channel.
    pub fn is_in_flight(&self, channel: Channel) -> bool {
        self.lanes.get(&channel).is_some_and(|lane| !lane.is_idle())
    }

    /// Whether anything is in flight at all.
    pub fn any_in_flight(&self) -> bool {
        self.lanes.values().any(|lane| !lane.is_idle())
    }

    /// How many connections are neither adopted nor given back.
    pub fn unsettled(&self) -> usize {
        self.waiting() + self.lanes.values().map(Lane::in_flight).sum::<usize>()
    }

    /// How many connections are not sent yet.
    pub fn waiting(&self) -> usize {
        self.unslotted.len() + self.slots.iter().map(|slot| slot.waiting.len()).sum::<usize>()
    }

    /// The connections that are not sent yet.
    pub fn iter_waiting(&self) -> impl Iterator<Item = &C> {
        let queues = self.slots.iter().map(|slot| &slot.waiting).chain([&self.unslotted]);
        queues.flatten().map(|waiting| &waiting.connection)
    }

    /// Takes out those of [`iter_waiting`](Self::iter_waiting), asked for in the same order, that
    /// `remove` says.
    pub fn remove_waiting(&mut self, mut remove: impl FnMut(&C) -> bool) -> Vec<C> {
        let mut removed = Vec::new();
        let queues = self.slots.iter_mut().map(|slot| &mut slot.waiting);
        for queue in queues.chain([&mut self.unslotted]) {
            let (gone, kept) = queue.drain(..).partition(|waiting| remove(&waiting.connection));
            *queue = kept;
            let gone: VecDeque<Waiting<C>> = gone;
            removed.extend(gone.into_iter().map(|waiting| waiting.connection));
        }
        removed
    }

    /// Counters of all slots.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Counters of each slot.
    pub fn slot_stats(&self) -> impl Iterator<Item = SlotStats> {
        self.slots.iter().map(Slot::stats)
    }

    fn slot_count(&self) -> u32 {
        u32_len(&self.slots)
    }

    /// The queues that nobody serves, which are not empty, and since when.
    fn starving(&mut self) -> impl Iterator<Item = (&mut VecDeque<Waiting<C>>, Option<Instant>)> {
        let slots = self.slots.iter_mut().filter(|slot| slot.serving.is_none());
        let slots = slots.map(|slot| (&mut slot.waiting, slot.empty_since));
        slots.chain([(&mut self.unslotted, None)]).filter(|(queue, _)| !queue.is_empty())
    }

    fn choose_servers(&mut self, now: Instant) {
        for slot in 0..self.slot_count() {
            self.choose_server(slot, now);
        }
    }

    fn choose_server(&mut self, index: u32, now: Instant) {
        let slot = &mut self.slots[index as usize];
        let alive = |channel: &Channel| self.lanes.contains_key(channel);
        let before = slot.serving;
        slot.serving = match slot.entry {
            Entry::Empty => None,
            Entry::Worker(channel) if alive(&channel) => Some(channel),
            Entry::Worker(_) | Entry::Pending => before.filter(alive),
        };
        if slot.serving.is_none() && before.is_some() {
            slot.empty_since = Some(now);
        }
        if slot.serving != before {
            self.mark_ready(index);
        }
    }

    fn mark_ready(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if !slot.ready && !slot.waiting.is_empty() && slot.serving.is_some() {
            slot.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Lets the slots of a channel that was full, blocked or paused be offered again.
    fn resume(&mut self, channel: Channel) {
        let Some(lane) = self.lanes.get_mut(&channel) else {
            return;
        };
        if !std::mem::take(&mut lane.stalled) {
            return;
        }
        for slot in 0..self.slot_count() {
            if self.slots[slot as usize].serving == Some(channel) {
                self.mark_ready(slot);
            }
        }
    }

    fn settle(&mut self, slot: u32) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.in_flight -= 1;
        }
    }

    fn requeue(&mut self, flying: Flying<C>, now: Instant) {
        self.settle(flying.slot);
        let waiting = Waiting { since: now, ..flying.waiting };
        self.queue(waiting, VecDeque::push_front);
    }

    fn queue(&mut self, waiting: Waiting<C>, put: fn(&mut VecDeque<Waiting<C>>, Waiting<C>)) {
        match hash::slot(waiting.client, self.slot_count()) {
            Some(slot) => {
                put(&mut self.slots[slot as usize].waiting, waiting);
                self.mark_ready(slot);
            }
            None => put(&mut self.unslotted, waiting),
        }
    }
}

/// Tables are far shorter than 2^32 slots; the binding refuses longer ones.
fn u32_len<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}
