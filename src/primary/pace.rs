//! How quick workers are to notice what they are sent, and how long new connections are left alone for it.
//! Pure.
//!
//! Waking up costs more than accepting a connection, here and in the workers. When every worker is slow to notice
//! what it is sent, there is more work than can be done at once, and connections wait in any case: then they are
//! accepted and sent together every now and then. The slower the workers, the longer the pauses; by that, pauses
//! that make workers slow (for what was sent together is done one by one) do not sustain themselves. A single quick
//! worker ends them, so that a stuck one slows nobody.

use std::time::{Duration, Instant};

/// Workers that have something else to do now and then take so long.
const QUICK: Duration = Duration::from_micros(150);

/// The pause for what a worker takes longer, and the longest.
const PAUSE_FACTOR: u32 = 4;
const MAX_PAUSE: Duration = Duration::from_millis(1);

/// Acknowledgements over which the delay of a worker is averaged.
const AVERAGED: u32 = 16;

/// How quick a worker is.
#[derive(Debug, Default)]
pub struct Promptness {
    /// Since when it owes an acknowledgement, as far as is known.
    owing: Option<Instant>,
    /// How long it took lately to acknowledge what it was sent.
    delay: Duration,
}

impl Promptness {
    /// Whether it was sent something before `now` that it has not acknowledged, as far as is known.
    pub fn owes(&self, now: Instant) -> bool {
        self.owing.is_some_and(|since| since < now)
    }

    /// It was sent something.
    pub fn sent(&mut self, now: Instant) {
        self.owing.get_or_insert(now);
    }

    /// It has acknowledged something, and owes more since then.
    pub fn acknowledged(&mut self, delay: Duration, more: Option<Instant>) {
        self.delay = (self.delay * (AVERAGED - 1) + delay) / AVERAGED;
        self.owing = more;
    }
}

/// How long to leave new connections alone.
pub fn pause<'a>(workers: impl Iterator<Item = &'a Promptness>) -> Duration {
    let quickest = workers.map(|worker| worker.delay).min().unwrap_or_default();
    (quickest.saturating_sub(QUICK) * PAUSE_FACTOR).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that always took so long.
    fn worker(micros: u64) -> Promptness {
        let mut worker = Promptness::default();
        for _ in 0..200 {
            worker.acknowledged(Duration::from_micros(micros), None);
        }
        worker
    }

    #[test]
    fn only_workers_that_are_all_slow_are_paced() {
        assert_eq!(pause([].into_iter()), Duration::ZERO);
        assert_eq!(pause([worker(100)].iter()), Duration::ZERO);
        let between = pause([worker(250), worker(5000)].iter());
        assert!((380..=400).contains(&between.as_micros()), "{between:?}");
        assert_eq!(pause([worker(5000), worker(9000)].iter()), MAX_PAUSE);
        assert_eq!(pause([worker(5000), worker(100)].iter()), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_lies_costs_no_more_than_the_longest_pause() {
        let mut liar = worker(100);
        liar.acknowledged(Duration::from_micros(u32::MAX.into()), None);
        assert_eq!(pause([liar].iter()), MAX_PAUSE);
    }

    #[test]
    fn a_worker_owes_what_it_was_sent_before() {
        let mut worker = Promptness::default();
        let now = Instant::now();
        let later = now + Duration::from_millis(1);
        assert!(!worker.owes(later));
        worker.sent(now);
        worker.sent(later);
        assert!(!worker.owes(now) && worker.owes(later));
        worker.acknowledged(Duration::ZERO, Some(later));
        assert!(!worker.owes(later));
        worker.acknowledged(Duration::ZERO, None);
        assert!(!worker.owes(later + Duration::from_secs(1)));
    }
}
