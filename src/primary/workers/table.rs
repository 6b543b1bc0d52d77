//! The manager's table: which worker serves which slot. Both ways of bringing a connection to its worker follow it.
//! Pure.
//!
//! Workers appear as [`Channel`]s: a worker that closed its server and listens again is a new one.

use std::collections::BTreeSet;
use std::time::Instant;

/// The number of a channel to a worker, never used twice.
pub type Channel = u32;

/// What the manager says of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// No worker.
    Empty,
    /// A worker that has no channel yet.
    Pending,
    /// A worker with this channel, which may still have to shake hands.
    Worker(Channel),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    entry: Entry,
    /// The channel that gets the slot's connections: the entry's, or an older one's until that has shaken hands.
    serving: Option<Channel>,
    /// When it lost its last worker; `None` if it never had one.
    empty_since: Option<Instant>,
}

/// The slots, and the channels that have shaken hands.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    open: BTreeSet<Channel>,
    /// Who serves all slots, whatever the manager says.
    successor: Option<Channel>,
}

impl Table {
    /// How many slots there are.
    pub fn len(&self) -> u32 {
        // Tables are far shorter than 2^32 slots; the binding refuses longer ones.
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The channel that gets a slot's connections.
    pub fn serving(&self, slot: u32) -> Option<Channel> {
        self.slots.get(slot as usize)?.serving
    }

    /// The same for all slots, in order.
    pub fn all_serving(&self) -> impl Iterator<Item = Option<Channel>> {
        self.slots.iter().map(|slot| slot.serving)
    }

    /// When a slot lost its last worker; `None` if it never had one.
    pub fn empty_since(&self, slot: u32) -> Option<Instant> {
        self.slots.get(slot as usize)?.empty_since
    }

    /// Follows the manager. A slot whose new worker has not shaken hands keeps being served by the old one (make before
    /// break); an empty one is served by nobody.
    pub fn set(&mut self, entries: &[Entry], now: Instant) {
        let empty = Slot { entry: Entry::Empty, serving: None, empty_since: None };
        self.slots.resize(entries.len(), empty);
        for (slot, &entry) in self.slots.iter_mut().zip(entries) {
            slot.entry = entry;
        }
        self.choose(now);
    }

    /// From now on this channel serves all slots, until it ends.
    pub fn supersede(&mut self, successor: Channel, now: Instant) {
        self.successor = Some(successor);
        self.choose(now);
    }

    /// A channel has shaken hands.
    pub fn open(&mut self, channel: Channel, now: Instant) {
        self.open.insert(channel);
        self.choose(now);
    }

    /// A channel has ended.
    pub fn close(&mut self, channel: Channel, now: Instant) {
        self.open.remove(&channel);
        self.successor = self.successor.filter(|&successor| successor != channel);
        self.choose(now);
    }

    fn choose(&mut self, now: Instant) {
        for slot in &mut self.slots {
            let before = slot.serving;
            let open = |channel: &Channel| self.open.contains(channel);
            slot.serving = match (self.successor, slot.entry) {
                (Some(successor), _) => Some(successor),
                (None, Entry::Empty) => None,
                (None, Entry::Worker(channel)) if open(&channel) => Some(channel),
                (None, Entry::Worker(_) | Entry::Pending) => before.filter(open),
            };
            if slot.serving.is_none() && before.is_some() {
                slot.empty_since = Some(now);
            }
        }
    }
}
