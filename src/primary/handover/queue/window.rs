//! The window of a channel: what was sent on it and is not adopted yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::slot::Waiting;

/// A connection that was sent and not yet adopted.
#[derive(Debug)]
pub(super) struct InFlight<C> {
    pub slot: u32,
    /// How long it had waited when it was sent.
    pub waited: Duration,
    pub waiting: Waiting<C>,
}

#[derive(Debug)]
pub(super) struct Window<C> {
    /// The sequence number of the first in flight.
    first: u64,
    /// In the order of their numbers. `None`: came back already.
    in_flight: VecDeque<Option<InFlight<C>>>,
    /// Whether a slot could not be offered for lack of room here.
    pub stalled: bool,
    /// The socket is full.
    pub blocked: bool,
    /// The worker cannot receive, until then.
    pub paused_until: Option<Instant>,
    /// How busy the worker is.
    pub load: Load,
}

/// How busy a worker is, as far as is known beside what it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Connections that it has open.
    pub connections: u64,
    /// Whether it does not keep up: nothing more than has to be is for it.
    pub stuck: bool,
}

/// The worker spoke of what is not in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

impl<C> Window<C> {
    pub fn new() -> Self {
        Self {
            first: 0,
            in_flight: VecDeque::new(),
            stalled: false,
            blocked: false,
            paused_until: None,
            load: Load::default(),
        }
    }

    /// Whether the worker takes what it is sent.
    pub fn keeps_up(&self) -> bool {
        !self.load.stuck && !self.blocked && self.paused_until.is_none()
    }

    /// How many more may be sent when `limit` may be in flight.
    pub fn room(&self, limit: usize) -> usize {
        if self.blocked || self.paused_until.is_some() {
            return 0;
        }
        limit.saturating_sub(self.in_flight.len())
    }

    /// The number that the next connection gets.
    pub fn next(&self) -> u64 {
        self.first + self.in_flight.len() as u64
    }

    pub fn push(&mut self, sent: InFlight<C>) {
        self.in_flight.push_back(Some(sent));
    }

    /// Takes out all up to and including the number `through`.
    pub fn adopted(&mut self, through: u64) -> Result<Vec<InFlight<C>>, Violation> {
        let end = self.index(through)? + 1;
        let taken = self.in_flight.drain(..end).flatten().collect();
        self.first += end as u64;
        self.trim();
        Ok(taken)
    }

    /// Takes out `count` from the number `first` on.
    pub fn returned(&mut self, first: u64, count: u16) -> Result<Vec<InFlight<C>>, Violation> {
        let from = self.index(first)?;
        let to = from + usize::from(count);
        if to > self.in_flight.len() {
            return Err(Violation);
        }
        let back = self.in_flight.range_mut(from..to).filter_map(Option::take).collect();
        self.trim();
        Ok(back)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }

    /// Whether anything is in flight: what came back takes no room at the front.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut InFlight<C>> {
        self.in_flight.iter_mut().flatten()
    }

    /// All in flight, when the channel has ended.
    pub fn into_in_flight(self) -> impl DoubleEndedIterator<Item = InFlight<C>> {
        self.in_flight.into_iter().flatten()
    }

    fn index(&self, number: u64) -> Result<usize, Violation> {
        let index = number.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
        index.filter(|&n| n < self.in_flight.len()).ok_or(Violation)
    }

    /// Drops the leading places of what came back, so that they take no room.
    fn trim(&mut self) {
        while let Some(None) = self.in_flight.front() {
            self.in_flight.pop_front();
            self.first += 1;
        }
    }
}
