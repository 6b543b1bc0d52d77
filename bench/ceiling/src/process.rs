//! What this process uses, from /proc.

use std::fs;
use std::time::Duration;

use crate::Outcome;

/// The thread of that name.
pub fn thread(name: &str) -> Outcome<u32> {
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    Err(format!("no thread {name}").into())
}

/// The processor time of a thread so far.
pub fn thread_time(thread: u32) -> Outcome<Duration> {
    let schedule = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    let nanos = schedule.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory in bytes.
pub fn resident() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

/// How many sockets are open.
pub fn open_sockets() -> Outcome<usize> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
}
