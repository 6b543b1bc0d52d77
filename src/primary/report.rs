//! What a balancer tells: what happened, and its counters.

use super::handover::refuse::Refusal;
use super::workers::channel::End;
use super::workers::table::Channel;
use crate::channel::waits::WaitTimes;

/// What JavaScript is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Connections wait where there is no worker: look at the table again.
    Starving,
    /// The worker of this channel has shaken hands.
    Opened(Channel),
    /// This channel is at its end.
    Ended(Channel, End),
    /// Connections were refused; not said again until [`Balancer::take_refusals`](super::balancer::Balancer::take_refusals).
    Refused,
    /// Another primary has taken over.
    Superseded,
    /// This primary has taken over from another.
    TookOver,
    /// Yet another one has taken over from that.
    Outrun,
    /// After [`Balancer::close`](super::balancer::Balancer::close): nothing waits any more, all channels are closed.
    Settled,
}

/// Connections that were refused for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The slot that they were for; `None` where there were no slots, or it was not known yet.
    pub slot: Option<u32>,
    /// Why.
    pub refusal: Refusal,
    /// How many.
    pub count: u64,
}

/// Counters of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStats {
    /// The channel that serves the slot.
    pub serving: Option<Channel>,
    /// Whether the kernel brings connections to the worker, and nobody else does.
    pub steered: bool,
    /// Connections not sent yet.
    pub waiting: usize,
    /// Connections sent and not yet adopted.
    pub in_flight: usize,
    /// Connections adopted since the slot exists.
    pub adopted: u64,
}

/// Counters of deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections sent to a worker; one that had to be sent twice counts once.
    pub delivered: u64,
    /// Connections that a worker took over.
    pub adopted: u64,
    /// Times a connection was sent again, its worker having gone or been unable to receive it.
    pub redelivered: u64,
}

/// Counters of a balancer.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Connections that came in.
    pub accepted: u64,
    /// Connections answered with 502 or 503, or closed for lack of descriptors.
    pub refused: u64,
    /// Connections whose client left before a worker took them.
    pub gone: u64,
    /// Connections closed for want of a PROXY header.
    pub rejected: u64,
    /// Connections whose client is not known yet.
    pub identifying: usize,
    /// Sent, sent again, adopted.
    pub totals: Totals,
    /// How long those that a worker took over had waited for it.
    pub waits: WaitTimes,
    /// Connections neither sent nor refused yet.
    pub waiting: usize,
    /// The same for each slot.
    pub slots: Vec<SlotStats>,
}
