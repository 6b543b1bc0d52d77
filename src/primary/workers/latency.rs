//! How long a worker takes to acknowledge what it is sent. Pure.

use std::time::{Duration, Instant};

/// Acknowledgements over which the latency is averaged.
const AVERAGED: u32 = 16;

/// A worker that was sent nothing for so long has nothing to do, as far as is known here.
const IDLE: Duration = Duration::from_millis(1);

/// A worker that has not taken for so long what waits for it is stuck.
pub const STUCK: Duration = Duration::from_millis(100);

/// What an idle worker takes, until it is known; and the most that is believed.
const USUAL_IDLE_LATENCY: Duration = Duration::from_micros(50);
const MAX_IDLE_LATENCY: Duration = Duration::from_micros(200);

/// The latency of a worker.
#[derive(Debug)]
pub struct AckLatency {
    /// Since when it owes an acknowledgement, as far as is known.
    owing: Option<Instant>,
    /// When it acknowledged last.
    acknowledged_at: Option<Instant>,
    /// Whether it was idle when it was sent what it owes an acknowledgement for.
    was_idle: bool,
    average: Duration,
    idle: Duration,
}

impl Default for AckLatency {
    fn default() -> Self {
        Self {
            owing: None,
            acknowledged_at: None,
            was_idle: false,
            average: Duration::ZERO,
            idle: USUAL_IDLE_LATENCY,
        }
    }
}

impl AckLatency {
    /// How long it takes when it is idle: to be woken, and to come to what it was sent.
    pub fn idle(&self) -> Duration {
        self.idle
    }

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
        if self.owing.is_none() {
            self.owing = Some(now);
            let idle_for = self.acknowledged_at.map(|last| now.saturating_duration_since(last));
            self.was_idle = idle_for.is_some_and(|time| time >= IDLE);
        }
    }

    /// It could not receive something, and owes more or not.
    pub fn returned(&mut self, more: bool) {
        self.owing = self.owing.filter(|_| more);
    }

    /// It has acknowledged something by `now`, and owes more or not.
    pub fn acknowledged(&mut self, latency: Duration, more: bool, now: Instant) {
        self.average = averaged(self.average, latency);
        if std::mem::take(&mut self.was_idle) {
            self.idle = lowest(self.idle, latency.min(MAX_IDLE_LATENCY));
        }
        self.acknowledged_at = Some(now);
        self.owing = more.then_some(now);
    }
}

/// An average that follows the latest value slowly.
pub fn averaged(average: Duration, latest: Duration) -> Duration {
    (average * (AVERAGED - 1) + latest) / AVERAGED
}

/// The lower values of late: follows lower ones soon and higher ones slowly, as a worker may well have had something to do.
fn lowest(lowest: Duration, latest: Duration) -> Duration {
    if latest < lowest { (lowest * 3 + latest) / 4 } else { (lowest * 255 + latest) / 256 }
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
        latency.acknowledged(Duration::ZERO, true, later);
        assert_eq!(latency.owes_for(later), Some(Duration::ZERO));
        assert_eq!(latency.owes_for(now), Some(Duration::ZERO));
        latency.acknowledged(Duration::ZERO, false, later);
        assert_eq!(latency.owes_for(later + Duration::from_secs(1)), None);
    }

    #[test]
    fn only_a_worker_that_was_idle_tells_how_long_an_idle_one_takes() {
        let mut latency = AckLatency::default();
        let mut now = Instant::now();
        let mut send = |after: Duration, takes: u64| {
            now += after;
            latency.sent(now);
            now += Duration::from_micros(takes);
            latency.acknowledged(Duration::from_micros(takes), false, now);
            latency.idle()
        };
        for _ in 0..200 {
            send(IDLE, 20);
        }
        let idle = send(Duration::from_micros(100), 5000);
        assert!((20..22).contains(&idle.as_micros()), "{idle:?}");
        assert!(send(IDLE, 5000).as_micros() < 22);
        for _ in 0..5000 {
            send(IDLE, 1_000_000);
        }
        assert!(send(IDLE, 1_000_000) <= MAX_IDLE_LATENCY);
    }
}
