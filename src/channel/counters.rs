//! What a worker counts of the connections that it accepts from the kernel, in a [page](Page) that the primary reads: of
//! each slot how many, and how long a sample of them had waited. And how many connections its server has open, for
//! [balancers](crate::client::identify::Choice::Room) that have to know.

use std::io;
use std::time::Duration;

use super::waits::{self, BUCKETS, WaitTimes};
use crate::sys::page::{COUNTERS, Page};

/// Slots that have a counter: the first ones of the page.
pub const SLOTS: usize = 256;

/// Where the buckets of waiting times begin.
const WAITS: usize = SLOTS;

/// The counter of how many milliseconds all of the sample have waited, after the buckets.
pub const WAITED: usize = WAITS + BUCKETS;

/// How many connections the worker's server has open. Below zero until the worker has said.
pub const OPEN: usize = WAITED + 1;

const _: () = assert!(OPEN < COUNTERS);

/// A new page, in which the worker has said nothing yet.
pub fn page() -> io::Result<Page> {
    let page = Page::new()?;
    page.set(OPEN, -1.0);
    Ok(page)
}

/// How many connections the worker's server has open, once it has said.
pub fn open(page: &Page) -> Option<u64> {
    // A worker may write what it likes.
    (page.number(OPEN) >= 0.0).then(|| page.count(OPEN))
}

/// The counter of connections that have waited so long.
pub fn of_wait(waited: Duration) -> usize {
    WAITS + waits::bucket(waited)
}

/// What the worker has counted of its sample.
pub fn waits(page: &Page) -> WaitTimes {
    let counts = std::array::from_fn(|bucket| page.count(WAITS + bucket));
    let sum = page.number(WAITED);
    // A worker may write what it likes.
    WaitTimes { counts, sum: if sum.is_finite() { sum.max(0.0) } else { 0.0 } }
}
