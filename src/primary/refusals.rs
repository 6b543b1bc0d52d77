//! What was refused and not told yet: gathered, so that a storm of refusals is a few words.

use std::collections::BTreeMap;

use super::handover::refuse::Refusal;
use super::report::Refused;

/// Counts since the last [`take`](Self::take).
#[derive(Debug, Default)]
pub struct Refusals {
    counts: BTreeMap<(Option<u32>, Refusal), u64>,
    announced: bool,
    total: u64,
}

impl Refusals {
    /// Connections were refused. Returns whether that is to be announced: nobody was told of any since the last time.
    pub fn count(&mut self, slot: Option<u32>, refusal: Refusal, count: u64) -> bool {
        if count == 0 {
            return false;
        }
        self.total += count;
        *self.counts.entry((slot, refusal)).or_default() += count;
        !std::mem::replace(&mut self.announced, true)
    }

    /// Tells what was refused since the last time.
    pub fn take(&mut self) -> Vec<Refused> {
        self.announced = false;
        let counts = std::mem::take(&mut self.counts);
        let told = counts.into_iter();
        told.map(|((slot, refusal), count)| Refused { slot, refusal, count }).collect()
    }

    /// How many were refused so far.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_announced_once_and_told_by_slot_and_reason() {
        let mut refusals = Refusals::default();
        assert!(!refusals.count(None, Refusal::NoDescriptors, 0));
        assert!(refusals.count(Some(1), Refusal::NoWorker, 1));
        assert!(!refusals.count(Some(1), Refusal::NoWorker, 2));
        assert!(!refusals.count(None, Refusal::Overload, 1));
        let told = [
            Refused { slot: None, refusal: Refusal::Overload, count: 1 },
            Refused { slot: Some(1), refusal: Refusal::NoWorker, count: 3 },
        ];
        assert_eq!(refusals.take(), told);
        assert_eq!(refusals.take(), []);
        assert!(refusals.count(Some(1), Refusal::NoWorker, 1));
        assert_eq!(refusals.total(), 5);
    }
}
