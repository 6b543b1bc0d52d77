//! A place in the manager's table, and the connections that wait in it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Channel;
use crate::client::hash::ClientHash;

/// What a slot of the manager's table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// No worker.
    Empty,
    /// A worker that has no channel yet.
    Pending,
    /// A worker with this channel, which may still have to shake hands.
    Worker(Channel),
}

/// Counters of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStats {
    /// The channel that serves the slot.
    pub serving: Option<Channel>,
    /// Connections not sent yet.
    pub waiting: usize,
    /// Connections sent and not yet adopted.
    pub in_flight: usize,
    /// Connections adopted since the slot exists.
    pub adopted: u64,
}

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub client: ClientHash,
    /// Since when nobody could have taken it: its arrival, or a later loss of its worker.
    pub since: Instant,
    pub sent_before: bool,
    pub connection: C,
}

impl<C> Waiting<C> {
    /// When its patience ends, in a slot that has been empty since `empty_since`.
    pub fn deadline(&self, empty_since: Option<Instant>, patience: Duration) -> Instant {
        empty_since.map_or(self.since, |empty| empty.max(self.since)) + patience
    }
}

#[derive(Debug)]
pub(super) struct Slot<C> {
    pub entry: Entry,
    /// The channel that gets the slot's connections: the entry's, or an older one's until that has
    /// shaken hands.
    pub serving: Option<Channel>,
    /// When it lost its last worker; `None` if it never had one.
    pub empty_since: Option<Instant>,
    pub waiting: VecDeque<Waiting<C>>,
    pub in_flight: usize,
    pub adopted: u64,
    /// Whether the slot stands in the queue of those that may have something to offer.
    pub ready: bool,
}

impl<C> Slot<C> {
    pub fn new() -> Self {
        Self {
            entry: Entry::Empty,
            serving: None,
            empty_since: None,
            waiting: VecDeque::new(),
            in_flight: 0,
            adopted: 0,
            ready: false,
        }
    }

    /// How many are not adopted yet.
    pub fn pending(&self) -> usize {
        self.waiting.len() + self.in_flight
    }

    pub fn stats(&self) -> SlotStats {
        SlotStats {
            serving: self.serving,
            waiting: self.waiting.len(),
            in_flight: self.in_flight,
            adopted: self.adopted,
        }
    }
}
