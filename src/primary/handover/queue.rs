//! Who waits for which worker: the state machine between accept and adoption. Pure: it knows no
//! socket and no clock, so that its promises are proved by property tests.
//!
//! A connection is pushed, waits in its client's slot, is offered to the worker that serves the
//! slot, is in flight once it was sent, and ends in exactly one of three ways: adopted by a worker,
//! expired (nobody came for it in time), or returned to the caller at the end.

mod placing;
mod slot;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use slot::{Slot, Waiting};
use window::{InFlight, Window};
pub use window::{Load, Violation};

use crate::channel::waits::WaitTimes;
use crate::client::identify::Client;
use crate::primary::report::{SlotStats, Totals};
use crate::primary::workers::table::{Channel, Entry, Table};

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

/// A run of connections to send to one channel, in order. Offered by [`DeliveryQueue::offer`]; nothing
/// changes until [`DeliveryQueue::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where to.
    pub channel: Channel,
    /// The first one's sequence number.
    pub first: u64,
    /// How many.
    pub count: u16,
    /// The slot that they are for.
    pub slot: u32,
}

/// A connection that was taken out again before any worker took it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed<C> {
    /// The slot in which it waited, if there were any slots.
    pub slot: Option<u32>,
    /// The connection.
    pub connection: C,
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
pub struct DeliveryQueue<C> {
    limits: Limits,
    table: Table,
    slots: Vec<Slot<C>>,
    /// Connections that have no slot: there is none at all, or any will do and none has a worker.
    unslotted: VecDeque<Waiting<C>>,
    windows: BTreeMap<Channel, Window<C>>,
    /// Slots that may have something to offer.
    ready: VecDeque<u32>,
    /// Draws the slots for those for whom any will do.
    random: Rng,
    totals: Totals,
    waits: WaitTimes,
}

impl<C> DeliveryQueue<C> {
    /// A machine without slots, whose random choices follow from `seed`.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            table: Table::default(),
            slots: Vec::new(),
            unslotted: VecDeque::new(),
            windows: BTreeMap::new(),
            ready: VecDeque::new(),
            random: Rng::with_seed(seed),
            totals: Totals::default(),
            waits: WaitTimes::default(),
        }
    }

    /// Takes a connection in, or gives it back when too many wait for its slot.
    pub fn push(&mut self, client: Client, connection: C, now: Instant) -> Result<(), Removed<C>> {
        let slot = self.choose_slot(client);
        let pending = match slot {
            Some(slot) => self.slots[slot as usize].pending(),
            None => self.unslotted.len(),
        };
        if pending >= self.limits.pending_per_slot {
            return Err(Removed { slot, connection });
        }
        let waiting = Waiting { client, arrived: now, since: now, sent_before: false, connection };
        match slot {
            Some(slot) => {
                self.slots[slot as usize].waiting.push_back(waiting);
                self.mark_ready(slot);
            }
            None => self.unslotted.push_back(waiting),
        }
        Ok(())
    }

    /// The table of slots and workers.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Follows the manager's table.
    pub fn set_table(&mut self, entries: &[Entry], now: Instant) {
        let mut homeless: Vec<Waiting<C>> = Vec::new();
        let resized = entries.len() != self.slots.len();
        if resized {
            homeless.extend(self.unslotted.drain(..));
            for (index, slot) in (0..).zip(&mut self.slots) {
                // Who waited behind a worker has not waited in vain yet.
                let served = self.table.serving(index).is_some();
                let empty_since = if served { Some(now) } else { self.table.empty_since(index) };
                homeless.extend(slot.waiting.drain(..).map(|waiting| Waiting {
                    since: waiting.in_vain_since(empty_since),
                    ..waiting
                }));
            }
        }
        self.table.set(entries, now);
        if resized {
            self.resize(entries.len());
        }
        self.queue_all(homeless);
        self.table_changed();
    }

    /// From now on this channel serves all slots, until it ends.
    pub fn supersede(&mut self, successor: Channel, now: Instant) {
        self.table.supersede(successor, now);
        self.table_changed();
    }

    /// How busy the worker behind a channel is.
    pub fn set_load(&mut self, channel: Channel, load: Load) {
        if let Some(window) = self.windows.get_mut(&channel) {
            window.load = load;
        }
    }

    /// A channel has shaken hands.
    pub fn attach(&mut self, channel: Channel, now: Instant) {
        self.windows.insert(channel, Window::new());
        self.table.open(channel, now);
        self.table_changed();
    }

    /// A channel has ended. Returns the connections that nobody here may touch any more.
    pub fn detach(&mut self, channel: Channel, ending: Ending, now: Instant) -> Vec<C> {
        let Some(window) = self.windows.remove(&channel) else {
            return Vec::new();
        };
        self.table.close(channel, now);
        let mut released = Vec::new();
        // Back to the front, so last first: they came before all that wait.
        for sent in window.into_in_flight().rev() {
            match ending {
                Ending::ByWorker => self.requeue(sent, now),
                Ending::ByPrimary => {
                    self.settle(sent.slot);
                    released.push(sent.waiting.connection);
                }
            }
        }
        self.table_changed();
        released
    }

    /// The next run of connections to send, at most `max` of them.
    pub fn offer(&mut self, max: u16) -> Option<Offer> {
        while let Some(slot) = self.ready.pop_front() {
            let state = &mut self.slots[slot as usize];
            state.ready = false;
            let Some(channel) = self.table.serving(slot) else {
                continue;
            };
            let Some(window) = self.windows.get_mut(&channel) else {
                continue;
            };
            let room = window.room(self.limits.in_flight_per_channel);
            let count = state.waiting.len().min(room).min(usize::from(max));
            if count == 0 {
                window.stalled |= !state.waiting.is_empty();
                continue;
            }
            let count = u16::try_from(count).unwrap_or(max);
            return Some(Offer { channel, first: window.next(), count, slot });
        }
        None
    }

    /// The connections of an offer, in order.
    pub fn offered(&self, offer: &Offer) -> impl Iterator<Item = &C> {
        let waiting = &self.slots[offer.slot as usize].waiting;
        waiting.iter().take(usize::from(offer.count)).map(|waiting| &waiting.connection)
    }

    /// The offer was sent.
    pub fn commit(&mut self, offer: &Offer, now: Instant) {
        let slot = &mut self.slots[offer.slot as usize];
        let Some(window) = self.windows.get_mut(&offer.channel) else {
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
            let waited = now.saturating_duration_since(waiting.arrived);
            window.push(InFlight { slot: offer.slot, waited, waiting });
        }
        self.mark_ready(offer.slot);
    }

    /// The channel's socket is full: offers nothing for it until [`unblock`](Self::unblock).
    pub fn block(&mut self, channel: Channel) {
        if let Some(window) = self.windows.get_mut(&channel) {
            window.blocked = true;
            window.stalled = true;
        }
    }

    /// The channel's socket has room again.
    pub fn unblock(&mut self, channel: Channel) {
        if let Some(window) = self.windows.get_mut(&channel) {
            window.blocked = false;
        }
        self.resume(channel);
    }

    /// Sends nothing on this channel until `until`.
    pub fn pause(&mut self, channel: Channel, until: Instant) {
        if let Some(window) = self.windows.get_mut(&channel) {
            window.paused_until = Some(until);
            window.stalled = true;
        }
    }

    /// The worker has taken over all up to and including `through`, so long after they were sent. Returns their
    /// connections, so that our copies are closed.
    pub fn adopted(
        &mut self,
        channel: Channel,
        through: u64,
        delay: Duration,
    ) -> Result<Vec<C>, Violation> {
        let window = self.windows.get_mut(&channel).ok_or(Violation)?;
        let taken = window.adopted(through)?;
        self.totals.adopted += taken.len() as u64;
        for sent in &taken {
            self.waits.record(sent.waited + delay);
            self.settle(sent.slot);
            if let Some(slot) = self.slots.get_mut(sent.slot as usize) {
                slot.adopted += 1;
            }
        }
        self.resume(channel);
        Ok(taken.into_iter().map(|sent| sent.waiting.connection).collect())
    }

    /// The worker could not receive these: back to the front of their slots.
    pub fn returned(
        &mut self,
        channel: Channel,
        first: u64,
        count: u16,
        now: Instant,
    ) -> Result<(), Violation> {
        let window = self.windows.get_mut(&channel).ok_or(Violation)?;
        let back = window.returned(first, count)?;
        for sent in back.into_iter().rev() {
            self.requeue(sent, now);
        }
        self.resume(channel);
        Ok(())
    }

    /// Takes out the connections whose patience has ended, and resumes channels whose pause has.
    pub fn expire(&mut self, now: Instant) -> Vec<Removed<C>> {
        let over: Vec<Channel> = self
            .windows
            .iter()
            .filter(|(_, window)| window.paused_until.is_some_and(|until| until <= now))
            .map(|(&channel, _)| channel)
            .collect();
        for channel in over {
            if let Some(window) = self.windows.get_mut(&channel) {
                window.paused_until = None;
            }
            self.resume(channel);
        }
        let Some(patience) = self.limits.patience else {
            return Vec::new();
        };
        let mut expired = Vec::new();
        for (slot, queue, empty_since) in self.starving() {
            let due = |waiting: &Waiting<C>| waiting.deadline(empty_since, patience) <= now;
            if queue.iter().any(due) {
                let (gone, kept) = queue.drain(..).partition::<VecDeque<_>, _>(due);
                *queue = kept;
                let gone = gone.into_iter().map(|waiting| waiting.connection);
                expired.extend(gone.map(|connection| Removed { slot, connection }));
            }
        }
        expired
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let resume = self.windows.values().filter_map(|window| window.paused_until).min();
        let expiry = self.limits.patience.and_then(|patience| {
            self.starving()
                .flat_map(|(_, queue, empty)| {
                    queue.iter().map(move |w| w.deadline(empty, patience))
                })
                .min()
        });
        resume.into_iter().chain(expiry).min()
    }

    /// Whether connections wait where there is no worker.
    pub fn is_starving(&mut self) -> bool {
        self.starving().next().is_some()
    }

    /// How many connections of a slot are not adopted yet.
    pub fn pending(&self, slot: u32) -> usize {
        self.slots.get(slot as usize).map_or(0, Slot::pending)
    }

    /// How many connections of a slot are not sent yet.
    pub fn waiting_in(&self, slot: u32) -> usize {
        self.slots.get(slot as usize).map_or(0, |slot| slot.waiting.len())
    }

    /// Whether anything is in flight on a channel.
    pub fn is_in_flight(&self, channel: Channel) -> bool {
        self.windows.get(&channel).is_some_and(|window| !window.is_idle())
    }

    /// Whether anything is in flight at all.
    pub fn any_in_flight(&self) -> bool {
        self.windows.values().any(|window| !window.is_idle())
    }

    /// How many connections are neither adopted nor given back.
    pub fn unsettled(&self) -> usize {
        self.waiting() + self.windows.values().map(Window::in_flight).sum::<usize>()
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
    pub fn remove_waiting(&mut self, mut remove: impl FnMut(&C) -> bool) -> Vec<Removed<C>> {
        let mut removed = Vec::new();
        let queues =
            (0..).zip(&mut self.slots).map(|(index, slot)| (Some(index), &mut slot.waiting));
        for (slot, queue) in queues.chain([(None, &mut self.unslotted)]) {
            let (gone, kept) = queue.drain(..).partition(|waiting| remove(&waiting.connection));
            *queue = kept;
            let gone: VecDeque<Waiting<C>> = gone;
            let gone = gone.into_iter().map(|waiting| waiting.connection);
            removed.extend(gone.map(|connection| Removed { slot, connection }));
        }
        removed
    }

    /// How long those that were adopted had waited.
    pub fn waits(&self) -> WaitTimes {
        self.waits
    }

    /// Counters of all slots.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Counters of each slot.
    pub fn slot_stats(&self) -> impl Iterator<Item = SlotStats> {
        let slots = self.slots.iter().zip(self.table.all_serving());
        slots.map(|(slot, serving)| slot.stats(serving))
    }

    fn slot_count(&self) -> u32 {
        self.table.len()
    }

    /// Makes room for other slots. What is in flight counts where its client belongs then.
    fn resize(&mut self, slots: usize) {
        self.ready.clear();
        self.slots.truncate(slots);
        self.slots.resize_with(slots, Slot::new);
        for slot in &mut self.slots {
            slot.in_flight = 0;
            slot.ready = false;
        }
        let count = self.table.len();
        for sent in self.windows.values_mut().flat_map(Window::iter_mut) {
            let slot = sent.waiting.client.slot(count).or(sent.slot.checked_rem(count));
            sent.slot = slot.unwrap_or(0);
            if let Some(slot) = self.slots.get_mut(sent.slot as usize) {
                slot.in_flight += 1;
            }
        }
    }

    /// The queues that nobody serves, which are not empty: whose, and since when.
    fn starving(
        &mut self,
    ) -> impl Iterator<Item = (Option<u32>, &mut VecDeque<Waiting<C>>, Option<Instant>)> {
        let Self { table, slots, unslotted, .. } = self;
        let slots = (0..).zip(slots).filter(|&(index, _)| table.serving(index).is_none());
        let slots =
            slots.map(|(index, slot)| (Some(index), &mut slot.waiting, table.empty_since(index)));
        slots.chain([(None, unslotted, None)]).filter(|(_, queue, _)| !queue.is_empty())
    }

    /// Slots may be served now that were not, or not any more.
    fn table_changed(&mut self) {
        self.find_room();
        for slot in 0..self.slot_count() {
            self.mark_ready(slot);
        }
    }

    fn mark_ready(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if !slot.ready && !slot.waiting.is_empty() && self.table.serving(index).is_some() {
            slot.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Lets the slots of a channel that was full, blocked or paused be offered again.
    fn resume(&mut self, channel: Channel) {
        let Some(window) = self.windows.get_mut(&channel) else {
            return;
        };
        if !std::mem::take(&mut window.stalled) {
            return;
        }
        for slot in 0..self.slot_count() {
            if self.table.serving(slot) == Some(channel) {
                self.mark_ready(slot);
            }
        }
    }

    fn settle(&mut self, slot: u32) {
        if let Some(slot) = self.slots.get_mut(slot as usize) {
            slot.in_flight -= 1;
        }
    }

    fn requeue(&mut self, sent: InFlight<C>, now: Instant) {
        self.settle(sent.slot);
        let waiting = Waiting { since: now, ..sent.waiting };
        self.queue(waiting, VecDeque::push_front);
    }
}
