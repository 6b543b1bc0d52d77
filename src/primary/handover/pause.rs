//! Short sleeps of one task. The runtime's own timer counts in milliseconds.

use std::time::Duration;

#[cfg(target_os = "linux")]
mod timer {
    use std::io;
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::sync::Arc;
    use std::time::Duration;

    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use crate::sys::readiness;

    pub struct Timer {
        timer: TimerFd,
        expired: AsyncFd<Arc<OwnedFd>>,
    }

    impl Timer {
        pub fn new() -> io::Result<Self> {
            let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            let expired =
                readiness::register(timer.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
            Ok(Self { timer, expired })
        }

        pub async fn sleep(&self, time: Duration) -> io::Result<()> {
            let once = Expiration::OneShot(TimeSpec::from_duration(time));
            self.timer.set(once, TimerSetTimeFlags::empty())?;
            // Setting it again forgets that it has expired, so nobody needs to read it.
            self.expired.readable().await?.clear_ready();
            Ok(())
        }
    }
}

/// Sleeps, with a timer of its own from the first time on.
#[derive(Default)]
pub struct Pause {
    #[cfg(target_os = "linux")]
    timer: Option<timer::Timer>,
}

impl Pause {
    /// Sleeps for some time, which is not zero. Others run meanwhile.
    pub async fn sleep(&mut self, time: Duration) {
        #[cfg(target_os = "linux")]
        {
            if self.timer.is_none() {
                self.timer = timer::Timer::new().ok();
            }
            if let Some(timer) = &self.timer
                && timer.sleep(time).await.is_ok()
            {
                return;
            }
        }
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn others_run_while_one_sleeps() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sleep = async |time| {
            let mut pause = Pause::default();
            for _ in 0..10 {
                pause.sleep(time).await;
            }
        };
        let began = Instant::now();
        let both = async {
            tokio::join!(sleep(Duration::from_millis(5)), sleep(Duration::from_micros(50)))
        };
        runtime.block_on(both);
        // At least as long as one takes.
        assert!(began.elapsed() >= Duration::from_millis(50));
    }
}
