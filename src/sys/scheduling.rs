//! What the scheduler should know of a thread.

#[cfg(target_os = "linux")]
use std::mem;

#[cfg(target_os = "linux")]
use nix::libc;

/// The shortest turn that Linux grants, in nanoseconds.
#[cfg(target_os = "linux")]
const TURN: u64 = 100_000;

/// Asks for short turns of the processor for the calling thread, which then waits less for each. Its share
/// and its priority stay as they are. In vain before Linux 6.12, and elsewhere.
pub fn prefer_latency() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeroes is a valid `sched_attr`.
        let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
        #[expect(clippy::cast_possible_truncation, reason = "a small structure")]
        let size = mem::size_of::<libc::sched_attr>() as u32;
        // SAFETY: the kernel writes at most `size` bytes to `attributes`, which outlives the call; 0 is the
        // calling thread.
        let result =
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        // Of another policy this would be another parameter, which somebody else has chosen.
        if result == 0 && i64::from(attributes.sched_policy) == i64::from(libc::SCHED_OTHER) {
            attributes.size = size;
            attributes.sched_runtime = TURN;
            // SAFETY: the kernel reads `size` bytes of `attributes`, as it says itself.
            unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_policy_and_priority() {
        let scheduled = || {
            let line = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = line.rsplit(')').next().unwrap().split_whitespace().collect();
            // priority, nice and policy, counted from the third field.
            [fields[15], fields[16], fields[38]].map(str::to_owned)
        };
        let before = scheduled();
        prefer_latency();
        assert_eq!(scheduled(), before);
    }
}
