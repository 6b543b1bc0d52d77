//! How long connections wait for their worker: counted by the primary for those that it hands over, and by a worker for
//! a sample of those that it accepts from the kernel.

use std::time::Duration;

/// The upper bounds of the buckets, in milliseconds; one more bucket takes what waited longer.
pub const BOUNDS: [u32; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// How many buckets there are.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// A histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WaitTimes {
    /// How many waited so long, in each bucket: above the bound before, up to its own.
    pub counts: [u64; BUCKETS],
    /// How long they waited in all, in milliseconds.
    pub sum: f64,
}

/// The bucket of a connection that has waited so long.
pub fn bucket(waited: Duration) -> usize {
    BOUNDS.partition_point(|&bound| Duration::from_millis(bound.into()) < waited)
}

impl WaitTimes {
    /// One more has waited.
    pub fn record(&mut self, waited: Duration) {
        self.counts[bucket(waited)] += 1;
        self.sum += waited.as_secs_f64() * 1000.0;
    }

    /// Takes in what others have counted, who may say what they like.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count = count.saturating_add(more);
        }
        self.sum = (self.sum + other.sum).min(f64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let mut waits = WaitTimes::default();
        for milliseconds in [0, 1, 2, 3, 5000, 5001] {
            waits.record(Duration::from_millis(milliseconds));
        }
        assert_eq!(waits.counts, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((waits.sum - 10_007.0).abs() < 1e-6);
        let mut twice = waits;
        twice.add(&waits);
        assert_eq!(twice.counts[0], 4);
    }

    #[test]
    fn whatever_others_say_a_sum_stays_a_number() {
        let most = WaitTimes { counts: [u64::MAX; BUCKETS], sum: f64::MAX };
        let mut waits = most;
        waits.add(&most);
        assert_eq!(waits, most);
    }
}
