//! What a run came to.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::clients::Stickiness;
use crate::connection::Failure;

/// Three significant digits, up to a minute, in microseconds.
const DIGITS: u8 = 3;
const MAX_LATENCY: u64 = 60_000_000;

/// Counts and latencies.
pub struct Outcome {
    latencies: Histogram<u64>,
    errors: BTreeMap<Failure, u64>,
    /// Connections that came to their proper end.
    pub connections: u64,
    /// Requests that were answered 200 (101 for a WebSocket).
    pub requests: u64,
    /// Connections that the server closed before all requests were sent.
    pub early_closes: u64,
    /// How late the latest connection of an open loop was started.
    pub latest_start: Duration,
    /// From the first start to the last end.
    pub elapsed: Duration,
}

impl Outcome {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self {
            latencies: Histogram::new_with_max(MAX_LATENCY, DIGITS).expect("valid bounds"),
            errors: BTreeMap::new(),
            connections: 0,
            requests: 0,
            early_closes: 0,
            latest_start: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    /// A request was answered.
    pub fn answered(&mut self, latency: Duration) {
        self.requests += 1;
        self.latencies.saturating_record(micros(latency));
    }

    /// A connection failed.
    pub fn failed(&mut self, why: Failure) {
        *self.errors.entry(why).or_default() += 1;
    }

    /// `count` connections never came to an end.
    pub fn hung(&mut self, count: usize) {
        if count > 0 {
            *self.errors.entry("hung").or_default() += count as u64;
        }
    }

    /// All of it as one object.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
    pub fn to_json(&self, stickiness: &Stickiness) -> Value {
        let seconds = self.elapsed.as_secs_f64();
        let quantile = |q| self.latencies.value_at_quantile(q);
        json!({
            "connections": self.connections,
            "requests": self.requests,
            "seconds": seconds,
            "connectionsPerSecond": self.connections as f64 / seconds,
            "requestsPerSecond": self.requests as f64 / seconds,
            "latencyMicros": {
                "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99),
                "p999": quantile(0.999), "max": self.latencies.max(), "mean": self.latencies.mean(),
            },
            "errors": self.errors.values().sum::<u64>(),
            "errorKinds": self.errors,
            "earlyCloses": self.early_closes,
            "workers": stickiness.workers(),
            "clients": stickiness.answered(),
            "movedClients": stickiness.moved(),
            "latestStartMicros": micros(self.latest_start),
            "loadCpuSeconds": cpu_seconds(),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What this process has used: close to the run's length, the generator is the limit.
#[expect(clippy::cast_precision_loss, reason = "seconds and microseconds of a run are small")]
fn cpu_seconds() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(f64::NAN, |usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .sum()
    })
}
