//! What workers say: read before pauses, by the clock, and when somebody wants to know what is so.

use std::time::{Duration, Instant};

use super::{Core, OpenLine, State};
use crate::primary::answers::{Answer, Fault};
use crate::primary::attend::Stage;
use crate::primary::balancer::Report;
use crate::primary::deliver::End;
use crate::primary::dispatch::{Channel, Ending};

/// When there is no pause, the clock reads acknowledgements: soon, as the end of a connection waits for our copy of
/// it, and seldom, as each time wakes the thread.
const COLLECT_INTERVAL: Duration = Duration::from_millis(8);

/// The same when others wait behind what is not acknowledged. The longer it is not, the less often.
const URGENT_COLLECT_INTERVAL: Duration = Duration::from_millis(1);

impl State {
    /// When acknowledgements are read next, while any are owed.
    pub(super) fn collect_after(&self, now: Instant) -> Option<Instant> {
        // A worker that is gone says nothing more.
        if self.lines.is_empty() || !self.dispatch.any_in_flight() {
            return None;
        }
        let mut interval = COLLECT_INTERVAL;
        if self.dispatch.waiting() > 0 {
            let owed = self.lines.values().filter_map(|open| open.promptness.owes_for(now));
            let latest = owed.min().unwrap_or_default();
            interval = latest.clamp(URGENT_COLLECT_INTERVAL, COLLECT_INTERVAL);
        }
        Some(now + interval)
    }
}

impl Core {
    /// Follows what workers have said that owe acknowledgements, because it is time to.
    pub(super) fn collect_on_time(&self, state: &mut State, now: Instant) {
        self.catch_up(state, now);
        state.next_collect = state.collect_after(now);
    }

    /// The same for those who want to know what is so.
    pub(super) fn catch_up(&self, state: &mut State, now: Instant) {
        if self.collect(state, now) {
            self.pump(state);
        }
    }

    /// The same without sending what there is room for now. Returns whether anything was said.
    pub(super) fn collect(&self, state: &mut State, now: Instant) -> bool {
        self.hear_all(state, now, |open| {
            open.promptness.owes_for(now).is_some_and(|owed| !owed.is_zero())
        })
    }

    /// Follows what has been said on some channels. Returns whether anything was.
    pub(super) fn hear_all(
        &self,
        state: &mut State,
        now: Instant,
        which: impl Fn(&OpenLine) -> bool,
    ) -> bool {
        let some = state.lines.iter().filter(|(_, open)| which(open));
        let some: Vec<Channel> = some.map(|(&channel, _)| channel).collect();
        let mut any = false;
        for channel in some {
            any |= self.hear(state, channel, now);
        }
        any
    }

    /// Follows what a worker has said, or some of it. Returns whether it had said anything.
    fn hear(&self, state: &mut State, channel: Channel, now: Instant) -> bool {
        let Some(open) = state.lines.get_mut(&channel) else { return false };
        let said = open.line.read();
        if said.is_empty() {
            return false;
        }
        for answer in said {
            let valid = match answer {
                Answer::Hello => {
                    state.dispatch.attach(channel, now);
                    (self.report)(Report::Opened(channel));
                    Ok(())
                }
                Answer::Adopted { through, delay } => {
                    let adopted = state.dispatch.adopted(channel, through);
                    let more = state.dispatch.is_in_flight(channel).then_some(now);
                    open.promptness.acknowledged(delay, more);
                    adopted.map(|adopted| state.taken.extend(adopted))
                }
                Answer::Returned(first, count) => {
                    // The worker has no descriptors: at once it would have none again.
                    self.pause(&mut state.dispatch, channel, now);
                    state.dispatch.returned(channel, first, count, now)
                }
            };
            if valid.is_err() {
                open.line.give_up(End::Fault(Fault::Garbage));
                break;
            }
        }
        true
    }

    /// Something may have been said on a channel, or it has ended.
    pub(in crate::primary) fn on_said(&self, channel: Channel) -> Stage {
        self.act(|state| {
            let now = Instant::now();
            // To its end: what is left over wakes nobody again.
            while self.hear(state, channel, now) {}
            self.pump(state);
            state.lines.get(&channel).map_or(Stage::Ended(End::Closed), |open| {
                match (open.line.end(), open.line.greeted()) {
                    (Some(end), _) => Stage::Ended(end),
                    (None, true) => Stage::Open,
                    (None, false) => Stage::Offered,
                }
            })
        })
    }

    pub(in crate::primary) fn on_room(&self, channel: Channel) {
        let mut state = self.lock();
        state.dispatch.unblock(channel);
        self.pump(&mut state);
    }

    pub(in crate::primary) fn on_end(&self, channel: Channel, end: End) {
        let ending = match end {
            End::Closed | End::Silent => Ending::ByWorker,
            End::Fault(_) | End::Broken => Ending::ByPrimary,
        };
        let mut state = self.lock();
        state.lines.remove(&channel);
        let released = state.dispatch.detach(channel, ending, Instant::now());
        (self.report)(Report::Ended(channel, end));
        self.pump(&mut state);
        drop(state);
        drop(released);
    }
}
