//! The listening socket of one slot: which worker accepts from it, and how many it has accepted.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::watch::Watch;
use crate::channel::frame::{Frame, Loan};
use crate::primary::workers::channel::Sent;
use crate::primary::workers::channels::Channels;
use crate::primary::workers::table::Channel;

/// How long a socket stays with the primary when its worker, or the system, had no descriptors.
const REST: Duration = Duration::from_secs(1);

/// What the holder of a loan knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The socket is its own to accept from.
    Lent,
    /// It is to give the socket back, which could not be written yet.
    ToBeTold,
    /// It was told to give the socket back.
    Told,
}

#[derive(Clone, Copy, Debug)]
struct Lent {
    channel: Channel,
    loan: Loan,
    stage: Stage,
    /// The worker's counter as it was when it was read last.
    seen: u64,
}

/// The socket of a slot.
pub struct SlotSocket {
    /// The latest loan, or the one before the first.
    latest: Loan,
    lent: Option<Lent>,
    /// Until when it is lent to nobody.
    rest_until: Option<Instant>,
    /// Connections that workers have accepted since the slot exists.
    pub accepted: u64,
    /// Whether the worker keeps up.
    pub watch: Watch,
}

impl SlotSocket {
    /// The socket of a slot, with the primary.
    pub fn new(slot: u32, now: Instant) -> Self {
        let latest = Loan { slot, number: 0 };
        Self { latest, lent: None, rest_until: None, accepted: 0, watch: Watch::new(now) }
    }

    /// The worker that has it.
    pub fn holder(&self) -> Option<Channel> {
        self.lent.map(|lent| lent.channel)
    }

    /// Whether the primary has to accept from it.
    pub fn is_with_primary(&self) -> bool {
        self.lent.is_none_or(|lent| lent.stage != Stage::Lent) || self.watch.is_overloaded()
    }

    /// Whether its worker may be about to give it back.
    pub fn is_coming_back(&self) -> bool {
        self.lent.is_some_and(|lent| lent.stage != Stage::Lent) || self.watch.is_stalled()
    }

    /// Until when it is lent to nobody, if so.
    pub fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    /// Takes it back from a worker that is not to have it any more.
    pub fn recall(&mut self, wanted: Option<Channel>, channels: &mut Channels) {
        let Some(lent) = &mut self.lent else { return };
        if lent.stage == Stage::Lent && wanted != Some(lent.channel) {
            lent.stage = Stage::ToBeTold;
        }
        if lent.stage == Stage::ToBeTold
            && let Some(holder) = channels.get_mut(lent.channel)
            && holder.channel.say(Frame::Release(lent.loan), &[]) == Sent::Yes
        {
            lent.stage = Stage::Told;
        }
    }

    /// Lends it to the worker that is to have it, if that may, and if it is not lent and not resting.
    pub fn lend(
        &mut self,
        wanted: Option<Channel>,
        (socket, backlog): (&OwnedFd, i32),
        channels: &mut Channels,
        now: Instant,
    ) {
        self.rest_until = self.rest_until.filter(|&until| until > now);
        if self.lent.is_some() || self.rest_until.is_some() {
            return;
        }
        let Some((channel, open)) = wanted.and_then(|one| Some((one, channels.get_mut(one)?)))
        else {
            return;
        };
        if !open.may_accept() {
            return;
        }
        let loan = Loan { number: self.latest.number.wrapping_add(1), ..self.latest };
        // Before the worker can count.
        let seen = open.accepted(loan.slot);
        match open.lend(loan, socket.as_fd(), backlog) {
            Sent::Yes => {
                self.latest = loan;
                self.lent = Some(Lent { channel, loan, stage: Stage::Lent, seen });
                self.watch = Watch::new(now);
            }
            // Tried again when there is room.
            Sent::Full => {}
            Sent::Exhausted => self.rest_until = Some(now + REST),
        }
    }

    /// A worker says that a loan has ended: it was told so, or it has no descriptors. Returns whether it is the present one.
    pub fn given_back(&mut self, channel: Channel, loan: Loan, now: Instant) -> bool {
        let Some(lent) = self.lent else { return false };
        // What crossed a later loan is about an earlier one.
        if lent.channel != channel || lent.loan != loan {
            return false;
        }
        if lent.stage == Stage::Lent {
            self.rest_until = Some(now + REST);
        }
        self.lent = None;
        true
    }

    /// The worker that had it is gone.
    pub fn lose_holder(&mut self) {
        self.lent = None;
    }

    /// Follows the worker's counter; returns how many more that makes.
    pub fn count(&mut self, channels: &Channels) -> u64 {
        let Some(lent) = &mut self.lent else { return 0 };
        let Some(open) = channels.get(lent.channel) else { return 0 };
        let accepted = open.accepted(lent.loan.slot);
        // A worker may write what it likes.
        let more = accepted.saturating_sub(lent.seen);
        lent.seen = accepted;
        self.accepted = self.accepted.saturating_add(more);
        more
    }
}
