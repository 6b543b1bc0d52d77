//! Whether a worker keeps up with the queue that the kernel fills for it. Pure: it is told what was seen, now and then,
//! and never of a connection.

use std::time::{Duration, Instant};

use crate::primary::workers::latency::STUCK;

/// How often a queue is looked at while connections come.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// After so long without a connection nobody looks until there is one.
const QUIET: Duration = Duration::from_secs(1);

/// What was seen of a slot.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Connections that its worker has accepted so far, by the worker's own count.
    pub accepted: u64,
    /// Connections in the kernel's queue.
    pub queued: usize,
    /// What the queue holds at the most; beyond it the kernel turns clients away without a word.
    pub room: usize,
    /// Connections that the primary has taken out and the worker has not taken over yet.
    pub pending: usize,
    /// Those of them that were not even sent.
    pub unsent: usize,
    /// For how long the worker has owed an acknowledgement.
    pub owing: Duration,
}

/// What is known of a slot's worker.
#[derive(Debug)]
pub struct Watch {
    accepted: u64,
    stalled_since: Option<Instant>,
    active_at: Instant,
    overloaded: bool,
}

impl Watch {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self { accepted: 0, stalled_since: None, active_at: now, overloaded: false }
    }

    /// Whether the worker does not keep up, so that the primary has to take connections out of the queue.
    pub fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// Whether the queue did not move when it was looked at last.
    pub fn is_stalled(&self) -> bool {
        self.stalled_since.is_some()
    }

    /// Whether no connection has come for a while.
    pub fn is_quiet(&self, now: Instant) -> bool {
        !self.overloaded && now.saturating_duration_since(self.active_at) >= QUIET
    }

    /// A connection has come.
    pub fn wake(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// Follows what was seen; `max_pending` may wait for a worker.
    pub fn look(&mut self, seen: Seen, max_pending: usize, now: Instant) {
        let moved = seen.accepted != self.accepted;
        self.accepted = seen.accepted;
        if moved || seen.queued > 0 {
            self.active_at = now;
        }
        if moved || seen.queued == 0 {
            self.stalled_since = None;
        } else {
            self.stalled_since.get_or_insert(now);
        }
        let stalled = self.stalled_since.is_some_and(|since| now - since >= STUCK);
        // So early that there is room for what comes until the next look.
        let full = seen.queued + seen.pending > max_pending || seen.queued * 2 > seen.room;
        if stalled || full {
            self.overloaded = true;
        } else if seen.unsent == 0 && seen.queued == 0 && seen.owing < STUCK {
            self.overloaded = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Seen =
        Seen { accepted: 0, queued: 0, room: 4096, pending: 0, unsent: 0, owing: Duration::ZERO };
    const MAX_PENDING: usize = 1000;

    /// Looks this often in a row; returns the time after it.
    fn look(
        watch: &mut Watch,
        times: u32,
        mut seen: impl FnMut(u64) -> Seen,
        now: Instant,
    ) -> Instant {
        for time in 0..times {
            watch.look(seen(time.into()), MAX_PENDING, now + INTERVAL * time);
        }
        now + INTERVAL * times
    }

    #[test]
    fn a_worker_that_accepts_keeps_up_however_much_waits() {
        let now = Instant::now();
        let mut watch = Watch::new(now);
        look(&mut watch, 100, |time| Seen { accepted: time, queued: 900, ..NOTHING }, now);
        assert!(!watch.is_overloaded());
    }

    #[test]
    fn a_queue_that_does_not_move_is_stuck_after_a_while() {
        let mut now = Instant::now();
        let mut watch = Watch::new(now);
        now = look(&mut watch, 5, |_| Seen { queued: 1, ..NOTHING }, now);
        assert!(!watch.is_overloaded());
        now = look(&mut watch, 1, |_| Seen { queued: 1, ..NOTHING }, now);
        assert!(watch.is_overloaded());
        // The primary has taken it out and sent it, but the worker does not answer.
        now = look(&mut watch, 1, |_| Seen { pending: 1, owing: STUCK, ..NOTHING }, now);
        assert!(watch.is_overloaded());
        look(&mut watch, 1, |_| NOTHING, now);
        assert!(!watch.is_overloaded());
    }

    #[test]
    fn guarantee_8_bounded_more_than_may_wait_or_than_the_queue_holds_is_too_much() {
        let now = Instant::now();
        for seen in [
            Seen { accepted: 1, queued: 600, pending: 401, ..NOTHING },
            Seen { accepted: 1, queued: 65, room: 128, ..NOTHING },
        ] {
            let mut watch = Watch::new(now);
            watch.look(seen, MAX_PENDING, now);
            assert!(watch.is_overloaded(), "{seen:?}");
        }
    }

    #[test]
    fn nobody_looks_where_nothing_comes() {
        let mut now = Instant::now();
        let mut watch = Watch::new(now);
        now = look(&mut watch, 60, |time| Seen { accepted: time, ..NOTHING }, now);
        assert!(!watch.is_quiet(now));
        now = look(&mut watch, 60, |_| Seen { accepted: 59, ..NOTHING }, now);
        assert!(watch.is_quiet(now));
        watch.wake(now);
        assert!(!watch.is_quiet(now));
    }
}
