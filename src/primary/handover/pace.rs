//! How long new connections are left alone, so that several are accepted and sent together. Pure.
//!
//! Waking up costs more than accepting a connection, here and in the workers. When every worker is slow to acknowledge
//! what it is sent, there is more work than can be done at once, and connections wait in any case: then they are
//! accepted and sent together every now and then. Slow is measured against what the same workers take when they are idle,
//! which is what waking up costs on this machine. The slower the workers, the longer the pauses; so pauses
//! that make workers slow (for what was sent together is done one by one) do not sustain themselves. A single quick
//! worker ends them, so that a stuck one slows nobody. Nor is there a pause in which few connections would come:
//! workers that are busy with requests on those they have gain nothing by it.

use std::time::{Duration, Instant};

use crate::primary::workers::latency::{AckLatency, averaged};

/// Workers are quick that take no longer than so many times what an idle one takes.
const QUICK: u32 = 2;

/// The pause for what they take longer, and the longest, in times of what an idle one takes.
const PAUSE_FACTOR: u32 = 6;
const MAX_PAUSE: u32 = 20;

/// Connections that must be expected in a pause. Its end is one more time of waking up.
const WORTHWHILE: u32 = 2;

/// The longest gap that counts, so that a rush after a silence is soon known for one.
const MAX_GAP: Duration = Duration::from_millis(10);

/// How closely connections follow each other.
#[derive(Debug)]
pub struct Arrivals {
    last: Instant,
    gap: Duration,
}

impl Arrivals {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { last: now, gap: MAX_GAP }
    }

    /// Some were accepted together.
    pub fn came(&mut self, count: u32, now: Instant) {
        if count > 0 {
            let gap = now.saturating_duration_since(self.last) / count;
            self.gap = averaged(self.gap, gap.min(MAX_GAP));
            self.last = now;
        }
    }
}

/// How long to leave new connections alone.
pub fn pause<'a>(arrivals: &Arrivals, workers: impl Iterator<Item = &'a AckLatency>) -> Duration {
    let quickest = workers.min_by_key(|worker| worker.average());
    let Some(quickest) = quickest else { return Duration::ZERO };
    let idle = quickest.idle();
    let slower = quickest.average().saturating_sub(idle * QUICK);
    let pause = (slower * PAUSE_FACTOR).min(idle * MAX_PAUSE);
    if pause < arrivals.gap * WORTHWHILE { Duration::ZERO } else { pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_micros(50);

    /// A worker that always took so long.
    fn worker(micros: u64) -> AckLatency {
        let (mut worker, now) = (AckLatency::default(), Instant::now());
        for _ in 0..200 {
            worker.acknowledged(Duration::from_micros(micros), false, now);
        }
        worker
    }

    /// Connections that came so far apart for long.
    fn arrivals(micros: u64) -> Arrivals {
        let mut now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for _ in 0..200 {
            now += Duration::from_micros(micros * 3);
            arrivals.came(3, now);
        }
        arrivals
    }

    #[test]
    fn only_workers_that_are_all_slow_are_paced() {
        let rush = arrivals(50);
        let longest = IDLE * MAX_PAUSE;
        assert_eq!(pause(&rush, [].into_iter()), Duration::ZERO);
        assert_eq!(pause(&rush, [worker(100)].iter()), Duration::ZERO);
        let between = pause(&rush, [worker(160), worker(5000)].iter());
        assert!((330..=360).contains(&between.as_micros()), "{between:?}");
        assert_eq!(pause(&rush, [worker(5000), worker(9000)].iter()), longest);
        assert_eq!(pause(&rush, [worker(5000), worker(100)].iter()), Duration::ZERO);
    }

    #[test]
    fn slow_is_what_takes_longer_than_when_idle() {
        let (mut worker, mut now) = (worker(90), Instant::now());
        for _ in 0..200 {
            now += Duration::from_millis(2);
            worker.sent(now);
            worker.acknowledged(Duration::from_micros(10), false, now);
        }
        for _ in 0..200 {
            worker.acknowledged(Duration::from_micros(90), false, now);
        }
        let pause = pause(&arrivals(10), [worker].iter());
        assert!((190..=200).contains(&pause.as_micros()), "{pause:?}");
    }

    #[test]
    fn there_is_no_pause_in_which_hardly_a_connection_would_come() {
        let longest = IDLE * MAX_PAUSE;
        assert_eq!(pause(&arrivals(450), [worker(5000)].iter()), longest);
        assert_eq!(pause(&arrivals(550), [worker(5000)].iter()), Duration::ZERO);
        assert_eq!(pause(&Arrivals::new(Instant::now()), [worker(5000)].iter()), Duration::ZERO);
    }

    #[test]
    fn a_rush_is_known_for_one_within_fifty_turns() {
        let mut now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        now += Duration::from_secs(3600);
        arrivals.came(1, now);
        for _ in 0..50 {
            now += Duration::from_micros(100);
            arrivals.came(1, now);
            arrivals.came(0, now);
        }
        assert_eq!(pause(&arrivals, [worker(5000)].iter()), IDLE * MAX_PAUSE);
    }

    #[test]
    fn a_worker_that_lies_costs_no_more_than_the_longest_pause() {
        let mut liar = worker(100);
        liar.acknowledged(Duration::from_micros(u32::MAX.into()), false, Instant::now());
        assert_eq!(pause(&arrivals(50), [liar].iter()), IDLE * MAX_PAUSE);
    }
}
