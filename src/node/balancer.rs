//! `Balancer` for JavaScript. Lives on the thread of its environment and dies there: when `close`
//! has settled and JavaScript lets go of it, or with the environment. The callback is a weak
//! threadsafe function: it keeps no process alive, and what is queued in it owns nothing.

use std::path::Path;
use std::time::Duration;

use napi::bindgen_prelude::{Error, FnArgs, Function, Result, Uint8Array};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;
use nix::errno::Errno;

use super::identity::{Identity, invalid};
use super::takeover::Inheritance;
use crate::channel::waits::BOUNDS;
use crate::primary::balancer::Balancer as Native;
use crate::primary::config::{Config, Way};
use crate::primary::handover::identify::LookLimits;
use crate::primary::handover::queue::Limits;
use crate::primary::handover::refuse::Refusal;
use crate::primary::kernel::probe;
use crate::primary::report::{Refused as NativeRefused, Report, Stats as NativeStats};
use crate::primary::takeover;
use crate::primary::workers::answers::Fault;
use crate::primary::workers::channel::End;
use crate::primary::workers::table::Entry;
use crate::sys::socket;

/// An entry of the table for a worker that has no channel yet. Channels count up from 1, and 0 is
/// an empty entry.
#[napi]
pub const PENDING: u32 = u32::MAX;

/// Validated options.
#[napi(object)]
pub struct BalancerOptions {
    /// Who a client is.
    pub identity: Identity,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: bool,
    /// 24 bytes: the keys of clients and of tokens, for who takes over.
    pub secrets: Uint8Array,
    /// Milliseconds, to look for what identifies a client.
    pub header_timeout: f64,
    /// Bytes, likewise.
    pub max_header_size: u32,
    /// Connections per slot.
    pub max_pending: u32,
    /// Milliseconds; `Infinity` is for ever.
    pub patience: f64,
    /// Milliseconds.
    pub retry_delay: f64,
}

/// A channel just opened.
#[napi(object)]
pub struct OpenedChannel {
    /// Its number.
    pub channel: u32,
    /// The worker's end, now the caller's.
    pub fd: i32,
}

/// Counters of a slot.
#[napi(object)]
pub struct SlotStats {
    /// The channel that serves it, 0 for none.
    pub channel: u32,
    /// Whether the kernel brings connections to the worker, and nobody else does.
    pub steered: bool,
    /// Connections not sent yet.
    pub waiting: u32,
    /// Connections sent and not yet adopted.
    pub in_flight: u32,
    /// Connections adopted.
    pub adopted: f64,
}

/// Connections refused for one reason.
#[napi(object)]
pub struct Refused {
    /// The slot that they were for, if it was known.
    pub slot: Option<u32>,
    /// The status of the answer; nothing when there were no descriptors for one.
    pub status: Option<u16>,
    /// Whether it was because new clients are refused.
    pub draining: bool,
    /// How many.
    pub count: f64,
}

/// How long connections had waited that a worker took over.
#[napi(object)]
pub struct WaitTimes {
    /// How many waited so long, for each of `waitBounds()`, and how many longer.
    pub counts: Vec<f64>,
    /// Milliseconds in all.
    pub sum: f64,
}

/// Counters.
#[napi(object)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: f64,
    /// Connections sent to a worker.
    pub delivered: f64,
    /// Connections adopted.
    pub adopted: f64,
    /// Times a connection was sent again.
    pub redelivered: f64,
    /// Connections refused.
    pub refused: f64,
    /// Connections whose client left first.
    pub gone: f64,
    /// Connections closed for want of a PROXY header.
    pub rejected: f64,
    /// Connections whose client is not known yet.
    pub identifying: u32,
    /// How long those adopted had waited.
    pub waits: WaitTimes,
    /// Connections not sent yet.
    pub waiting: u32,
    /// The same per slot.
    pub slots: Vec<SlotStats>,
}

type OnReport = Box<dyn Fn(Report) + Send + Sync>;

/// See [`Native`].
#[napi]
pub struct Balancer {
    /// What to start with, until then.
    prepared: Option<(Config, OnReport)>,
    /// From `start` until disposed of.
    native: Option<Native>,
}

#[napi]
impl Balancer {
    /// Starts nothing. `on_report` gets what happened ("starving", "opened", "ended", "refused", "superseded",
    /// "took-over", "outrun" or "settled"),
    /// the channel it is about, and why.
    #[napi(constructor)]
    pub fn new(
        options: BalancerOptions,
        on_report: Function<'_, FnArgs<(String, u32, String)>, ()>,
    ) -> Result<Self> {
        let config = Config {
            identifier: options.identity.rules(options.proxy_protocol)?,
            look: LookLimits {
                time: milliseconds(options.header_timeout)
                    .ok_or_else(|| invalid("headerTimeout"))?,
                bytes: options.max_header_size as usize,
            },
            limits: Limits {
                pending_per_slot: options.max_pending as usize,
                patience: milliseconds(options.patience),
                in_flight_per_channel: IN_FLIGHT_PER_CHANNEL,
            },
            secrets: {
                let secrets = options.secrets.as_ref().try_into();
                takeover::secrets(secrets.map_err(|_| invalid("secrets"))?)
            },
            retry_delay: milliseconds(options.retry_delay).ok_or_else(|| invalid("retryDelay"))?,
        };
        let report = on_report
            .build_threadsafe_function::<Report>()
            .weak::<true>()
            .callee_handled::<false>()
            .build_callback(|context| Ok(words(context.value)))?;
        let report = Box::new(move |message| {
            // Fails only while the environment is torn down, when nobody listens any more.
            report.call(message, ThreadsafeFunctionCallMode::NonBlocking);
        });
        Ok(Self { prepared: Some((config, report)), native: None })
    }

    /// Starts the runtime if it does not run. Returns 0 or a negative errno, as a handle's `listen`.
    #[napi]
    pub fn start(&mut self) -> i32 {
        let Some((config, report)) = self.prepared.take() else { return 0 };
        errno(Native::start(config, report).map(|native| self.native = Some(native)))
    }

    /// Listens on a copy of a bound socket, after `start`; has the kernel steer if told to, and if it can. Returns as that
    /// does.
    #[napi]
    pub fn listen(&mut self, fd: i32, backlog: i32, steer: bool) -> i32 {
        let way = if steer { Way::Kernel } else { Way::HandOver };
        errno(socket::duplicate(fd).and_then(|socket| match &mut self.native {
            Some(native) => native.listen(socket, backlog, way),
            None => Err(Errno::EBADF.into()),
        }))
    }

    /// Leaves connections in the queue of the socket until there is a worker, from the next `listen` on.
    #[napi]
    pub fn hold(&self) -> Result<()> {
        self.native()?.hold();
        Ok(())
    }

    /// Keeps the sockets of another primary until `take_over`. Returns as `listen`.
    #[napi]
    pub fn stand_by(&mut self, inheritance: &mut Inheritance, steer: bool) -> i32 {
        let way = if steer { Way::Kernel } else { Way::HandOver };
        errno(match (&mut self.native, inheritance.native.take()) {
            (Some(native), Some(inheritance)) => native.stand_by(inheritance, way),
            _ => Err(Errno::EBADF.into()),
        })
    }

    /// Tells that primary that this one serves from now on. "took-over" is reported when it does.
    #[napi]
    pub fn take_over(&self) -> Result<()> {
        self.native()?.take_over();
        Ok(())
    }

    /// Lets another primary take over that comes to this path.
    #[napi]
    pub fn offer(&mut self, path: String) -> Result<()> {
        let native = self.native.as_mut();
        let native = native.ok_or_else(|| Error::from_reason("not started"))?;
        native.offer(Path::new(&path)).map_err(failed)
    }

    /// Takes in a copy of a connection that the caller accepted.
    #[napi]
    pub fn inject(&self, fd: i32) -> Result<()> {
        self.native()?.inject(socket::duplicate(fd).map_err(failed)?);
        Ok(())
    }

    /// The manager's table: for each slot 0, a channel, or `PENDING`.
    #[napi]
    pub fn set_table(&self, table: Vec<u32>) -> Result<()> {
        let entries = table.iter().map(|&entry| match entry {
            0 => Entry::Empty,
            PENDING => Entry::Pending,
            channel => Entry::Worker(channel),
        });
        self.native()?.set_table(&entries.collect::<Vec<_>>());
        Ok(())
    }

    /// Refuses new clients from now on, where they can be told apart from others, or does not any more.
    #[napi]
    pub fn drain(&self, draining: bool) {
        if let Some(native) = &self.native {
            native.drain(draining);
        }
    }

    /// Opens a channel to a worker.
    #[napi]
    pub fn open_channel(&self) -> Result<OpenedChannel> {
        let (channel, far) = self.native()?.open_channel().map_err(failed)?;
        Ok(OpenedChannel { channel, fd: socket::release(far) })
    }

    /// Stops accepting; returns how many connections are still to settle. "settled" follows unless
    /// that is 0.
    #[napi]
    pub fn close(&mut self) -> u32 {
        let unsettled = self.native.as_mut().map_or(0, Native::close);
        u32::try_from(unsettled).unwrap_or(u32::MAX)
    }

    /// The counters as they are.
    #[napi]
    pub fn stats(&self) -> Stats {
        self.native.as_ref().map(Native::stats).unwrap_or_default().into()
    }

    /// What was refused since the last time. "refused" is reported when there is something, once until it is taken.
    #[napi]
    pub fn take_refusals(&self) -> Vec<Refused> {
        let refused = self.native.as_ref().map(Native::take_refusals).unwrap_or_default();
        refused.into_iter().map(Refused::from).collect()
    }

    /// The slot of the client at an address, of one that a header names otherwise, or of one without an address; nothing
    /// when there are no slots.
    #[napi]
    pub fn slot_of(&self, client: Option<String>) -> Option<u32> {
        self.native.as_ref()?.slot_of(client.as_deref())
    }

    /// Why the kernel does not steer though it was told to, if so: connections are handed over meanwhile.
    #[napi]
    pub fn steering_failure(&self) -> Option<String> {
        self.native.as_ref().and_then(Native::steering_failure)
    }

    /// Ends everything at once. No other method may be called afterwards. Without it the callback,
    /// which usually refers to this object, would keep both alive for ever.
    #[napi]
    pub fn dispose(&mut self) {
        self.prepared = None;
        self.native = None;
    }

    fn native(&self) -> Result<&Native> {
        self.native.as_ref().ok_or_else(|| Error::from_reason("not started, or disposed of"))
    }
}

/// Why the kernel cannot steer connections here, or nothing if it can. The first time it is tried, for about a millisecond.
#[napi]
pub fn steering_obstacle() -> Option<String> {
    probe::obstacle()
}

/// Enough that a worker under load never waits for the next batch, few enough that a stuck one
/// holds little, and that many stuck ones stay below the system's limit of descriptors in flight
/// (on Linux the process's own limit of open files).
const IN_FLIGHT_PER_CHANNEL: usize = 128;

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 connections")]
impl From<NativeStats> for Stats {
    fn from(stats: NativeStats) -> Self {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let slots = stats.slots.into_iter().map(|slot| SlotStats {
            channel: slot.serving.unwrap_or(0),
            steered: slot.steered,
            waiting: count(slot.waiting),
            in_flight: count(slot.in_flight),
            adopted: slot.adopted as f64,
        });
        Self {
            accepted: stats.accepted as f64,
            delivered: stats.totals.delivered as f64,
            adopted: stats.totals.adopted as f64,
            redelivered: stats.totals.redelivered as f64,
            refused: stats.refused as f64,
            gone: stats.gone as f64,
            rejected: stats.rejected as f64,
            waits: WaitTimes {
                counts: stats.waits.counts.iter().map(|&count| count as f64).collect(),
                sum: stats.waits.sum,
            },
            identifying: count(stats.identifying),
            waiting: count(stats.waiting),
            slots: slots.collect(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 connections")]
impl From<NativeRefused> for Refused {
    fn from(NativeRefused { slot, refusal, count }: NativeRefused) -> Self {
        let draining = refusal == Refusal::Draining;
        Self { slot, status: refusal.status(), draining, count: count as f64 }
    }
}

/// The upper bounds of the buckets of [`WaitTimes`], in milliseconds.
#[napi]
pub fn wait_bounds() -> Vec<u32> {
    BOUNDS.to_vec()
}

fn words(report: Report) -> FnArgs<(String, u32, String)> {
    let (kind, channel, detail) = match report {
        Report::Starving => ("starving", 0, String::new()),
        Report::Opened(channel) => ("opened", channel, String::new()),
        Report::Ended(channel, end) => ("ended", channel, reason(end)),
        Report::Refused => ("refused", 0, String::new()),
        Report::Superseded => ("superseded", 0, String::new()),
        Report::TookOver => ("took-over", 0, String::new()),
        Report::Outrun => ("outrun", 0, String::new()),
        Report::Settled => ("settled", 0, String::new()),
    };
    (kind.to_owned(), channel, detail).into()
}

fn reason(end: End) -> String {
    match end {
        End::Closed => "closed".to_owned(),
        End::Silent => "silent".to_owned(),
        End::Fault(Fault::Version(version)) => format!("version {version}"),
        End::Fault(Fault::Garbage) => "garbage".to_owned(),
        End::Broken => "broken".to_owned(),
    }
}

/// `None` for `Infinity`, or so long that a clock cannot say it.
fn milliseconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value / 1000.0).ok().filter(|d| *d < Duration::from_secs(1 << 32))
}

fn errno(result: std::io::Result<()>) -> i32 {
    result.map_or_else(|error| -error.raw_os_error().unwrap_or(Errno::EIO as i32), |()| 0)
}

fn failed(error: std::io::Error) -> Error {
    Error::from_reason(error.to_string())
}
