//! The process of a worker, and whether it runs as the primary's user.

use std::time::{Duration, Instant};

use nix::unistd::{Uid, geteuid};

/// How often it is looked at again: a process may give up its user when it has done what only that user can.
const INTERVAL: Duration = Duration::from_secs(1);

/// A worker's process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    looked_at: Option<Instant>,
    is_ours: bool,
}

impl Process {
    /// The process with this number.
    pub fn new(pid: u32) -> Self {
        Self { pid, looked_at: None, is_ours: false }
    }

    /// Whether it runs as the user that this process runs as, or can become that one again. Not of one that cannot be
    /// looked at.
    pub fn is_ours(&mut self, now: Instant) -> bool {
        if self.looked_at.is_none_or(|at| now >= at + INTERVAL) {
            self.looked_at = Some(now);
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
            self.is_ours = status.is_ok_and(|status| users(&status).any(|user| user == geteuid()));
        }
        self.is_ours
    }
}

/// The real, the effective and the saved user of a process, by its status as Linux tells it.
fn users(status: &str) -> impl Iterator<Item = Uid> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_whitespace().take(3).flat_map(str::parse).map(Uid::from_raw)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const NOBODY: u32 = 65_534;

    #[test]
    fn a_process_has_three_users() {
        let status = "Name:\tnode\nUid:\t10\t11\t12\t13\nGid:\t1\t1\t1\t1\n";
        let expected = [10, 11, 12].map(Uid::from_raw);
        assert_eq!(users(status).collect::<Vec<_>>(), expected);
        assert_eq!(users("Name:\tnode\n").count(), 0);
    }

    /// One that lives until its input ends.
    fn child(user: Option<u32>) -> Child {
        let mut command = Command::new("cat");
        user.map(|user| command.uid(user));
        command.stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_process_of_another_user_is_not_ours() {
        let now = Instant::now();
        let mut ours = child(None);
        let mut process = Process::new(ours.id());
        assert!(process.is_ours(now));
        ours.kill().and_then(|()| ours.wait()).unwrap();
        // Not looked at again at once.
        assert!(process.is_ours(now));
        assert!(!process.is_ours(now + INTERVAL));
        if geteuid().is_root() {
            let mut other = child(Some(NOBODY));
            assert!(!Process::new(other.id()).is_ours(now));
            other.kill().and_then(|()| other.wait()).unwrap();
        }
    }
}
