//! The connections of a slot that no worker has taken over yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::client::identify::Client;
use crate::primary::report::SlotStats;
use crate::primary::workers::table::Channel;

/// A connection that waits.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub client: Client,
    /// When it came.
    pub arrived: Instant,
    /// Since when nobody could have taken it: its arrival, or a later loss of its worker.
    pub since: Instant,
    pub sent_before: bool,
    pub connection: C,
}

impl<C> Waiting<C> {
    /// Since when nobody could have taken it in a slot that has been empty since `empty_since`.
    pub fn in_vain_since(&self, empty_since: Option<Instant>) -> Instant {
        empty_since.map_or(self.since, |empty| empty.max(self.since))
    }

    /// When its patience ends, in a slot that has been empty since `empty_since`.
    pub fn deadline(&self, empty_since: Option<Instant>, patience: Duration) -> Instant {
        self.in_vain_since(empty_since) + patience
    }
}

#[derive(Debug)]
pub(super) struct Slot<C> {
    pub waiting: VecDeque<Waiting<C>>,
    pub in_flight: usize,
    pub adopted: u64,
    /// Whether the slot stands in the queue of those that may have something to offer.
    pub ready: bool,
}

impl<C> Slot<C> {
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), in_flight: 0, adopted: 0, ready: false }
    }

    /// How many are not adopted yet.
    pub fn pending(&self) -> usize {
        self.waiting.len() + self.in_flight
    }

    pub fn stats(&self, serving: Option<Channel>) -> SlotStats {
        SlotStats {
            serving,
            steered: false,
            waiting: self.waiting.len(),
            in_flight: self.in_flight,
            adopted: self.adopted,
        }
    }
}
