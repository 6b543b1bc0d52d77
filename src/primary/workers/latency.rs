//! How long a worker takes to acknowledge what it is sent. Pure.

use std::time::{Duration, Instant};

/// Acknowledgements over which the latency is averaged.
const AVERAGED: u32 = 16;

/// The latency of a worker.
#[derive(Debug, Default)]
pub struct AckLatency {
    /// Since when it owes an acknowledgement, as far as is known.
    owing: Option<Instant>,
    average: Duration,
}

impl AckLatency {
    /// How long it took lately.
    pub fn average(&self) -> Duration {
        self.average
    }

    /// For how long it has owed an acknowledgement, as far as is known. Zero: only since `now`, or later.
    pub fn owes_for(&self, now: Instant) -> Option<Duration> {
        self.owing.map(|since| now.saturating_duration_since(since))
    }

    /// It was sent something.
    pub fn sent(&mut self, now: Instant) {
        self.owing.get_or_insert(now);
    }

    /// It has acknowledged something, and owes more since then.
    pub fn acknowledged(&mut self, delay: Duration, more: Option<Instant>) {
        self.average = averaged(self.average, delay);
        self.owing = more;
    }
}

/// An average that follows the latest value slowly.
pub fn averaged(average: Duration, latest: Duration) -> Duration {
    (average * (AVERAGED - 1) + latest) / AVERAGED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_owes_what_it_was_sent_before() {
        let mut latency = AckLatency::default();
        let now = Instant::now();
        let later = now + Duration::from_millis(1);
        assert_eq!(latency.owes_for(later), None);
        latency.sent(now);
        latency.sent(later);
        assert_eq!(latency.owes_for(now), Some(Duration::ZERO));
        assert_eq!(latency.owes_for(later), Some(Duration::from_millis(1)));
        latency.acknowledged(Duration::ZERO, Some(later));
        assert_eq!(latency.owes_for(later), Some(Duration::ZERO));
        assert_eq!(latency.owes_for(now), Some(Duration::ZERO));
        latency.acknowledged(Duration::ZERO, None);
        assert_eq!(latency.owes_for(later + Duration::from_secs(1)), None);
    }
}
