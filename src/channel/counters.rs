//! What a worker counts of the connections that it accepts from the kernel, in a [page](Page) that the primary reads: of
//! each slot how many, and how long a sample of them had waited.

use super::waits::{BUCKETS, WaitTimes};
use crate::sys::page::{COUNTERS, Page};

/// Slots that have a counter: the first ones of the page.
pub const SLOTS: usize = 256;

/// Where the buckets begin; after them comes the sum.
pub const WAITS: usize = SLOTS;

const SUM: usize = WAITS + BUCKETS;

const _: () = assert!(SUM < COUNTERS);

/// What the worker has counted of its sample.
pub fn waits(page: &Page) -> WaitTimes {
    let counts = std::array::from_fn(|bucket| page.count(WAITS + bucket));
    let sum = page.number(SUM);
    // A worker may write what it likes.
    WaitTimes { counts, sum: if sum.is_finite() { sum.max(0.0) } else { 0.0 } }
}
