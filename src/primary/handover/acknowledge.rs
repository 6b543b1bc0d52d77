//! What workers answer: read before pauses, by the clock, and when somebody wants to know what is so.

use std::time::{Duration, Instant};

use super::HandOver;
use super::deliver::EXHAUSTED_PAUSE;
use super::queue::Violation;
use crate::primary::report::Report;
use crate::primary::workers::answers::{Answer, Fault};
use crate::primary::workers::channel::End;
use crate::primary::workers::channel_watch::Stage;
use crate::primary::workers::channels::{Channels, OpenChannel};
use crate::primary::workers::table::Channel;

/// When there is no pause, the clock reads acknowledgements: soon, as the end of a connection waits for our copy of
/// it, and seldom, as each time wakes the thread.
const READ_INTERVAL: Duration = Duration::from_millis(8);

/// The same when others wait behind what is not acknowledged. The longer it is not, the less often.
const URGENT_READ_INTERVAL: Duration = Duration::from_millis(1);

/// How often workers are listened to that owe no acknowledgement. What they say then is wrong, or that they accept
/// from a socket no more.
const AUDIT_INTERVAL: Duration = Duration::from_secs(1);

/// The most that a worker may say at once. While it is read it is sent nothing, and owes answers to far less than this:
/// who says more says it for as long as somebody reads, and all others would wait.
const MAX_ANSWERS: usize = 4096;

impl HandOver {
    /// When acknowledgements are read next, while any are owed.
    pub(super) fn read_after(&self, channels: &Channels, now: Instant) -> Option<Instant> {
        // A worker that is gone says nothing more.
        if channels.is_empty() || !self.queue.any_in_flight() {
            return None;
        }
        let mut interval = READ_INTERVAL;
        if self.queue.waiting() > 0 {
            let owed = channels.iter().filter_map(|(_, open)| open.latency.owes_for(now));
            let latest = owed.min().unwrap_or_default();
            interval = latest.clamp(URGENT_READ_INTERVAL, READ_INTERVAL);
        }
        Some(now + interval)
    }

    /// Reads the answers of workers that owe acknowledgements, because it is time to.
    pub(super) fn read_acks_on_time(&mut self, channels: &mut Channels, now: Instant) {
        self.read_owed_acks(channels, now);
        if self.follows_loads && self.queue.waiting() > 0 {
            self.follow_loads(channels, now);
            self.queue.find_room();
        }
        self.next_read = self.read_after(channels, now);
    }

    /// Reads the answers of workers that owe acknowledgements.
    pub fn read_owed_acks(&mut self, channels: &mut Channels, now: Instant) {
        self.read_answers(channels, now, |open| {
            open.latency.owes_for(now).is_some_and(|owed| !owed.is_zero())
        });
    }

    /// Reads the answers of all workers that have shaken hands. (A hello is for whoever waits for it.)
    pub fn audit(&mut self, channels: &mut Channels, now: Instant) {
        if self.follows_loads {
            // Those that had no descriptors for it.
            let open = channels.iter_mut().map(|(_, open)| open);
            let workers = open.filter(|open| open.channel.greeted() && !open.successor);
            workers.for_each(OpenChannel::have_open_counted);
        }
        self.read_answers(channels, now, |open| open.channel.greeted());
        self.next_audit = now + AUDIT_INTERVAL;
    }

    /// Something may have been said on a channel, or it has ended.
    pub fn on_readable(&mut self, channel: Channel, channels: &mut Channels) -> Stage {
        // To its end: what is left over wakes nobody again.
        let mut heard = 0;
        loop {
            let answers = self.read_channel(channel, channels, Instant::now());
            if answers == 0 {
                break;
            }
            heard += answers;
            if heard > MAX_ANSWERS
                && let Some(open) = channels.get_mut(channel)
            {
                open.channel.give_up(End::Fault(Fault::Garbage));
            }
        }
        channels.get(channel).map_or(Stage::Ended(End::Closed), |open| {
            match (open.channel.end(), open.channel.greeted()) {
                (Some(end), _) => Stage::Ended(end),
                (None, true) => Stage::Open,
                (None, false) => Stage::Offered,
            }
        })
    }

    /// A channel that was full has room.
    pub fn on_room(&mut self, channel: Channel) {
        self.queue.unblock(channel);
    }

    fn read_answers(
        &mut self,
        channels: &mut Channels,
        now: Instant,
        which: impl Fn(&OpenChannel) -> bool,
    ) {
        let some = channels.iter().filter(|(_, open)| which(open));
        let some: Vec<Channel> = some.map(|(channel, _)| channel).collect();
        for channel in some {
            self.read_channel(channel, channels, now);
        }
    }

    /// Follows what a worker has said, or some of it. Returns how much that was: nothing if it had said nothing.
    fn read_channel(&mut self, channel: Channel, channels: &mut Channels, now: Instant) -> usize {
        let Some(open) = channels.get_mut(channel) else { return 0 };
        let said = open.channel.read();
        let answers = said.len();
        for answer in said {
            let valid = match answer {
                Answer::Hello => {
                    self.queue.attach(channel, now);
                    self.effects.reports.push(Report::Opened(channel));
                    if open.successor {
                        self.effects.successors.push(channel);
                    } else if self.follows_loads {
                        open.have_open_counted();
                    }
                    Ok(())
                }
                Answer::Adopted { through, delay } => {
                    let adopted = self.queue.adopted(channel, through, delay);
                    let more = self.queue.is_in_flight(channel);
                    open.latency.acknowledged(delay, more, now);
                    adopted.map(|adopted| self.effects.taken.extend(adopted))
                }
                Answer::Returned(first, count) => {
                    // The worker has no descriptors: at once it would have none again.
                    self.queue.pause(channel, now + EXHAUSTED_PAUSE);
                    let returned = self.queue.returned(channel, first, count, now);
                    open.latency.returned(self.queue.is_in_flight(channel));
                    returned
                }
                Answer::TakeOver if open.successor && !self.superseded => {
                    self.superseded = true;
                    self.queue.supersede(channel, now);
                    self.effects.superseded = Some(channel);
                    Ok(())
                }
                Answer::TakeOver => Err(Violation),
                Answer::Released(loan) => {
                    self.effects.released.push((channel, loan));
                    Ok(())
                }
            };
            if valid.is_err() {
                open.channel.give_up(End::Fault(Fault::Garbage));
                break;
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::channel::frame::{Frame, Loan, VERSION};
    use crate::client::address::Ipv6Prefix;
    use crate::client::hash::ClientHasher;
    use crate::primary::handover::queue::Limits;
    use crate::primary::workers::channel::WorkerChannel;
    use crate::sys::socket;

    /// What a worker's channel has come to that has said hello, and then so often what costs nobody anything.
    fn after(answers: usize) -> Stage {
        let now = Instant::now();
        let limits = Limits { pending_per_slot: 1, patience: None, in_flight_per_channel: 1 };
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::FULL);
        let mut handover = HandOver::new(hasher, limits, None, now);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut channels = Channels::default();
        let (near, far): (OwnedFd, OwnedFd) = socket::pair().unwrap();
        let channel = channels.add(WorkerChannel::new(near), false, |_| {
            runtime.spawn(std::future::pending::<()>()).abort_handle()
        });
        let released = Frame::Released(Loan { slot: 0, number: 0 }).encode();
        let said = [&Frame::Hello { version: VERSION }.encode()[..], &released.repeat(answers)];
        let said = said.concat();
        assert_eq!(nix::unistd::write(&far, &said), Ok(said.len()));
        handover.on_readable(channel, &mut channels)
    }

    #[test]
    fn a_worker_that_does_not_stop_speaking_is_given_up() {
        assert_eq!(after(1000), Stage::Open);
        assert_eq!(after(MAX_ANSWERS + 100), Stage::Ended(End::Fault(Fault::Garbage)));
    }
}
