//! The primary under load, and with connections that wait.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sticky_listen::client::identify::Identifier;
use sticky_listen::client::trust::Trust;
use sticky_listen::primary::balancer::Balancer;
use sticky_listen::primary::config::{Config, Way};
use sticky_listen::primary::handover::identify::LookLimits;
use sticky_listen::primary::handover::queue::Limits;
use sticky_listen::primary::report::Report;
use sticky_listen::primary::workers::table::Entry;

use crate::load::{self, Crowd};
use crate::{Outcome, addresses, allocator, process, sink};

/// As in the addon.
const IN_FLIGHT_PER_CHANNEL: usize = 128;
/// More than ever wait here.
const PENDING: usize = 1_000_000;
const START_TIME: Duration = Duration::from_secs(5);

/// A balancer with native workers, and one empty slot behind them.
struct Primary {
    balancer: Option<Balancer>,
    port: u16,
    workers: u32,
    thread: u32,
    sink: Child,
}

impl Primary {
    fn start(workers: u32) -> Outcome<Self> {
        let (report, reports) = channel();
        let config = Config {
            identifier: Identifier {
                hasher: addresses::hasher(),
                header: None,
                trust: Trust::All,
                proxy_protocol: false,
                sessions: None,
            },
            look: LookLimits { time: Duration::ZERO, bytes: 0 },
            limits: Limits {
                pending_per_slot: PENDING,
                patience: None,
                in_flight_per_channel: IN_FLIGHT_PER_CHANNEL,
            },
            secrets: [0; 3],
            retry_delay: Duration::from_millis(150),
        };
        let mut balancer = Balancer::start(config, move |message| {
            let _ = report.send(message);
        })?;
        let mut table = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..workers {
            let (channel, end) = balancer.open_channel()?;
            table.push(Entry::Worker(channel));
            ends.push(end);
        }
        table.push(Entry::Empty);
        let sink = sink::start(&ends)?;
        drop(ends);
        balancer.set_table(&table);
        for _ in 0..workers {
            while !matches!(reports.recv_timeout(START_TIME)?, Report::Opened(_)) {}
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        balancer.listen(OwnedFd::from(listener), i32::MAX, Way::HandOver)?;
        let thread = process::thread("sticky-listen")?;
        Ok(Self { balancer: Some(balancer), port, workers, thread, sink })
    }

    fn balancer(&self) -> Outcome<&Balancer> {
        self.balancer.as_ref().ok_or_else(|| "closed".into())
    }

    /// Lets connections wait in the empty slot.
    fn gather(&self, count: usize) -> Outcome<Option<Crowd>> {
        if count == 0 {
            return Ok(None);
        }
        let source = addresses::in_slots(1, self.workers + 1, |slot| slot == self.workers)[0];
        let crowd = Crowd::gather(self.port, source, count)?;
        let deadline = Instant::now() + START_TIME;
        while self.balancer()?.stats().waiting < count {
            if Instant::now() > deadline {
                return Err("the connections do not arrive".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(crowd))
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        // Ends the channels, and with them the workers.
        drop(self.balancer.take());
        let _ = self.sink.wait();
    }
}

/// The thread's processor time for connections to `workers` workers while `waiting` others wait; and
/// without any load.
pub fn measure(workers: u32, waiting: usize, duration: Duration) -> Outcome<Value> {
    let primary = Primary::start(workers)?;
    let crowd = primary.gather(waiting)?;
    let idle = Duration::from_millis(500);
    let [t0, t1] = [Duration::ZERO, idle].map(|pause| {
        thread::sleep(pause);
        process::thread_time(primary.thread)
    });
    let (t0, t1) = (t0?, t1?);
    let sources = addresses::in_slots(500, workers + 1, |slot| slot < workers);
    let before = primary.balancer()?.stats().totals.adopted;
    load::connect(primary.port, &sources, duration)?;
    let after = primary.balancer()?.stats().totals.adopted;
    let time = process::thread_time(primary.thread)?.saturating_sub(t1);
    drop(primary);
    drop(crowd);
    Ok(json!({
        "workers": workers,
        "waiting": waiting,
        "connections": after - before,
        "cpuMicros": time.as_micros(),
        "idleCpuMicrosPerSecond": t1.saturating_sub(t0).as_secs_f64() / idle.as_secs_f64() * 1e6,
    }))
}

/// Memory and descriptors of the primary for each connection that waits.
#[expect(clippy::cast_precision_loss, reason = "sizes and counts far below 2^53")]
pub fn cost_of_waiting(count: usize) -> Outcome<Value> {
    let primary = Primary::start(1)?;
    // Whatever is allocated once is not the cost of one more.
    drop(primary.gather(1)?);
    thread::sleep(Duration::from_millis(200));
    let used = || -> Outcome<(f64, f64)> {
        allocator::trim();
        Ok((process::resident()? as f64, process::open_sockets()? as f64))
    };
    let (bytes, sockets) = used()?;
    let crowd = primary.gather(count)?;
    // A sweep has to look at them all.
    thread::sleep(Duration::from_millis(200));
    let (more_bytes, more_sockets) = used()?;
    drop(crowd);
    let each = |more: f64, before: f64| (more - before) / count as f64;
    Ok(json!({
        "connections": count,
        "bytesEach": each(more_bytes, bytes),
        "descriptorsEach": each(more_sockets, sockets),
    }))
}
