//! What both ends of a channel call time.

use nix::time::{ClockId, clock_gettime};

/// A moment of the system's monotonic clock, in microseconds. Begins anew every 71 minutes, so only its distance
/// to another means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub u32);

impl Stamp {
    /// This moment.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "modulo 2^32")]
    pub fn now() -> Self {
        // There always is such a clock.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
            now.tv_sec().wrapping_mul(1_000_000).wrapping_add(now.tv_nsec() / 1000)
        });
        Self(now as u32)
    }

    /// Microseconds from this to a later moment; 0 where clocks of two processors disagree on which is later.
    pub fn until(self, later: Self) -> u32 {
        let passed = later.0.wrapping_sub(self.0);
        if passed > u32::MAX / 2 { 0 } else { passed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_over_its_end() {
        assert_eq!(Stamp(u32::MAX).until(Stamp(4)), 5);
        assert_eq!(Stamp(4).until(Stamp(3)), 0);
        let before = Stamp::now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let passed = before.until(Stamp::now());
        assert!((2000..60_000_000).contains(&passed), "{passed}");
    }
}
