//! The process of a worker, and whether it runs as the primary's user.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Uid, geteuid};

use crate::sys::credentials::Speaker;

/// How often it is looked at again: a process may give up its user when it has done what only that user can.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether the system tells of processes by the numbers that they have here.
static TELLS: LazyLock<bool> = LazyLock::new(|| {
    let own = std::process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|told| told == Path::new(&own))
});

/// A worker's process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    is_ours: bool,
    looked_at: Option<Instant>,
}

impl Process {
    /// The one that has said hello.
    pub fn new(speaker: Speaker) -> Self {
        Self { pid: speaker.pid, is_ours: speaker.user == geteuid(), looked_at: None }
    }

    /// Whether it was the user that this process is when it said hello, and ever since.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Looks whether it still is, if it is time to; says whether it has looked.
    pub fn look(&mut self, now: Instant) -> bool {
        let early = self.looked_at.is_some_and(|at| now < at + INTERVAL);
        if !self.is_ours || early || !*TELLS {
            return false;
        }
        self.looked_at = Some(now);
        match fs::read_to_string(format!("/proc/{}/status", self.pid)) {
            Ok(status) => self.is_ours = real_user(&status) == Some(geteuid()),
            Err(error) => self.is_ours = !is_gone(&error),
        }
        true
    }
}

/// Or it is another user's, and the system does not tell of those. Any other error says nothing: there were no descriptors.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// By the status of a process as Linux tells it. (A program that runs with the rights of another user changes the others.)
fn real_user(status: &str) -> Option<Uid> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().next()?.parse().ok().map(Uid::from_raw)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use nix::unistd::getuid;

    use super::*;

    #[test]
    fn a_status_tells_the_real_user() {
        let status = "Name:\tnode\nUid:\t10\t11\t12\t13\nGid:\t1\t1\t1\t1\n";
        assert_eq!(real_user(status), Some(Uid::from_raw(10)));
        assert_eq!(real_user("Name:\tnode\n"), None);
    }

    #[test]
    fn a_process_is_looked_at_now_and_then_until_it_is_gone() {
        let now = Instant::now();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let mut process = Process::new(Speaker { pid: child.id(), user: getuid() });
        assert!(process.is_ours());
        assert!(process.look(now) && process.is_ours());
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(!process.look(now) && process.is_ours());
        assert!(process.look(now + INTERVAL) && !process.is_ours());
    }

    #[test]
    fn who_has_said_hello_as_another_user_never_is_ours() {
        let user = Uid::from_raw(getuid().as_raw() + 1);
        let mut process = Process::new(Speaker { pid: std::process::id(), user });
        assert!(!process.is_ours());
        assert!(!process.look(Instant::now()) && !process.is_ours());
    }

    #[test]
    fn that_nothing_can_be_told_changes_nothing() {
        assert!(!is_gone(&Errno::EMFILE.into()));
        assert!(!is_gone(&Errno::ENOMEM.into()));
        assert!(is_gone(&Errno::ENOENT.into()));
        assert!(is_gone(&Errno::ESRCH.into()));
    }
}
