//! The channels to all workers, with what is known of the worker behind each.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::AbortHandle;

use super::channel::{Sent, WorkerChannel};
use super::latency::AckLatency;
use super::process::Process;
use super::table::Channel;
use crate::channel::counters;
use crate::channel::frame::{Frame, Loan};
use crate::channel::waits::WaitTimes;
use crate::sys::page::Page;

/// A channel, and the worker behind it.
pub struct OpenChannel {
    /// The channel.
    pub channel: WorkerChannel,
    /// How quick the worker is.
    pub latency: AckLatency,
    /// Whether it is no worker, but a primary that is to take over.
    pub successor: bool,
    /// Where the worker counts, once it was told to.
    counters: Option<Arc<Page>>,
    /// The one that has said hello, once somebody has asked.
    process: Option<Process>,
    watching: AbortHandle,
}

impl OpenChannel {
    /// Whether it may have a listening socket. Who has one can do more with it than accept from it, so only who runs as the
    /// primary's user.
    pub fn may_accept(&mut self) -> bool {
        self.process().is_some_and(|process| process.is_ours())
    }

    /// Looks whether it still may, if it is time to; says whether it has looked.
    pub fn look_at_process(&mut self, now: Instant) -> bool {
        self.process().is_some_and(|process| process.look(now))
    }

    fn process(&mut self) -> Option<&mut Process> {
        let speaker = self.channel.speaker()?;
        Some(self.process.get_or_insert_with(|| Process::new(speaker)))
    }

    /// Lends the worker the listening socket of a slot.
    pub fn lend(&mut self, loan: Loan, socket: BorrowedFd<'_>, backlog: i32) -> Sent {
        let Some(counters) = self.page() else { return Sent::Exhausted };
        let frame = Frame::Listen { loan, backlog: u32::try_from(backlog).unwrap_or(0) };
        self.channel.say(frame, &[socket, counters.as_fd()])
    }

    /// Has the worker count how many connections its server has open, unless it does. A worker that has no descriptors
    /// for that can be told again.
    pub fn have_open_counted(&mut self) {
        if self.connections().is_none()
            && let Some(counters) = self.page()
        {
            self.channel.say(Frame::Counters, &[counters.as_fd()]);
        }
    }

    /// How many connections the worker's server has open, if it says.
    pub fn connections(&self) -> Option<u64> {
        self.counters.as_ref().and_then(|page| counters::open(page))
    }

    /// `None`: no descriptors, or no memory.
    fn page(&mut self) -> Option<Arc<Page>> {
        if self.counters.is_none() {
            self.counters = counters::page().ok().map(Arc::new);
        }
        self.counters.clone()
    }

    /// How many connections of a slot the worker has accepted itself.
    pub fn accepted(&self, slot: u32) -> u64 {
        let counters = self.counters.as_ref();
        counters.map_or(0, |page| page.count(slot as usize))
    }

    /// How long those that it has accepted itself had waited, by its sample.
    pub fn waits(&self) -> WaitTimes {
        self.counters.as_deref().map_or_else(WaitTimes::default, counters::waits)
    }
}

/// All channels that were offered to workers and have not ended.
#[derive(Default)]
pub struct Channels {
    channels: BTreeMap<Channel, OpenChannel>,
    last: Channel,
}

impl Channels {
    /// Takes in a channel that was offered to a worker or a successor, and has `watch` watch it.
    pub fn add(
        &mut self,
        channel: WorkerChannel,
        successor: bool,
        watch: impl FnOnce(Channel) -> AbortHandle,
    ) -> Channel {
        self.last += 1;
        let watching = watch(self.last);
        let latency = AckLatency::default();
        let open =
            OpenChannel { channel, latency, successor, counters: None, process: None, watching };
        self.channels.insert(self.last, open);
        self.last
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// One of them, unless it has ended.
    pub fn get(&self, channel: Channel) -> Option<&OpenChannel> {
        self.channels.get(&channel)
    }

    /// The same, to write on.
    pub fn get_mut(&mut self, channel: Channel) -> Option<&mut OpenChannel> {
        self.channels.get_mut(&channel)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Channel, &OpenChannel)> {
        self.channels.iter().map(|(&channel, open)| (channel, open))
    }

    /// Whether a primary waits to take over.
    pub fn has_successor(&self) -> bool {
        self.channels.values().any(|open| open.successor && open.channel.greeted())
    }

    /// The same, to write on.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Channel, &mut OpenChannel)> {
        self.channels.iter_mut().map(|(&channel, open)| (channel, open))
    }

    /// It has ended.
    pub fn remove(&mut self, channel: Channel) {
        self.channels.remove(&channel);
    }

    /// Ends all of them.
    pub fn close(&mut self) {
        for open in std::mem::take(&mut self.channels).into_values() {
            open.watching.abort();
        }
    }
}
