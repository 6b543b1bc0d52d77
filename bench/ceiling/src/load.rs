//! Runs the load generator, which stands beside this program.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Outcome;

/// Connections under way at a time.
const CONCURRENCY: &str = "256";

fn start(port: u16, sources: &[Ipv4Addr], arguments: &[&str]) -> Outcome<Child> {
    let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
    let program = std::env::current_exe()?.with_file_name("sticky-bench-load");
    Ok(Command::new(program)
        .args(["--port", &port.to_string(), "--sources", &sources.join(",")])
        .args(["--concurrency", CONCURRENCY])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?)
}

/// Opens connections that wait to be closed, as many as can be. Returns how many there were.
pub fn connect(port: u16, sources: &[Ipv4Addr], duration: Duration) -> Outcome<u64> {
    let seconds = duration.as_secs_f64().to_string();
    let child = start(port, sources, &["--mode", "accept", "--seconds", &seconds])?;
    let output = child.wait_with_output()?;
    let result: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    if result["errors"] != 0 {
        return Err(format!("the load failed: {result}").into());
    }
    result["connections"].as_u64().ok_or_else(|| "no connections".into())
}

/// Connections that are held until this is dropped.
pub struct Crowd(Child);

impl Crowd {
    /// Opens them and waits until all are open.
    pub fn gather(port: u16, source: Ipv4Addr, count: usize) -> Outcome<Self> {
        let count = count.to_string();
        let mut child = start(port, &[source], &["--mode", "hold", "--connections", &count])?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        Ok(Self(child))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
