//! What is due, and when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Closing, Core, State};
use crate::primary::kernel::TakenOut;
use crate::primary::report::Report;

impl Core {
    /// Something may be due earlier than [`tick`](Self::tick) has said.
    pub(in crate::primary) async fn rescheduled(&self) {
        self.rescheduled.notified().await;
    }

    /// Does what is due; says when to come again.
    pub(in crate::primary) fn tick(self: &Arc<Self>) -> Option<Instant> {
        self.act(|state, now| {
            state.handover.tick(&mut state.channels, now);
            if let Some(steering) = &mut state.steering {
                for channel in steering.expect_answers() {
                    state.handover.on_readable(channel, &mut state.channels);
                }
                let queue = state.handover.queue();
                let taken_out = |slot| TakenOut {
                    pending: queue.pending(slot),
                    unsent: queue.waiting_in(slot),
                };
                steering.look(&mut state.channels, taken_out, now);
            }
            self.ask_for_workers(state, now);
            self.settle_if_due(state, now);
        });
        let mut state = self.lock();
        let now = Instant::now();
        let deadline = state.handover.next_deadline();
        state.clock = self.soon(&mut state, now).into_iter().chain(deadline).min();
        state.clock
    }

    /// Asks JavaScript again for a table with workers in it, while connections wait for one.
    fn ask_for_workers(&self, state: &mut State, now: Instant) {
        let Some(since) = state.starving_since else { return };
        if since + self.config.retry_delay <= now {
            (self.report)(Report::Starving);
            state.starving_since = Some(now);
        }
    }

    /// Ends the balancer when it is closing and nothing waits any more, or has waited long enough.
    fn settle_if_due(self: &Arc<Self>, state: &mut State, now: Instant) {
        let Some(Closing { by, settled: false }) = state.closing else { return };
        if now >= by {
            state.handover.give_up();
            self.take_effect(state, now);
        }
        // In flight then is with workers that do not answer: theirs to adopt, if they ever do.
        if state.unsettled() == 0 || (now >= by && state.refusing == 0) {
            state.settle();
            (self.report)(Report::Settled);
        }
    }

    /// Has the clock look again if something new is due, and JavaScript if somebody starves.
    pub(super) fn reschedule(&self, state: &mut State) {
        if !state.handover.is_starving() {
            state.starving_since = None;
        } else if state.starving_since.is_none() {
            state.starving_since = Some(Instant::now());
            (self.report)(Report::Starving);
            self.rescheduled.notify_one();
        }
        let due = self.soon(state, Instant::now());
        if due.is_some_and(|due| state.clock.is_none_or(|clock| due < clock)) {
            state.clock = due;
            self.rescheduled.notify_one();
        }
    }

    /// When something is due, but for patience that ends.
    fn soon(&self, state: &mut State, now: Instant) -> Option<Instant> {
        let handover = state.handover.next_due(&state.channels, now);
        let steering = state.steering.as_ref().and_then(|steering| steering.next_due(now));
        let starving = state.starving_since.map(|since| {
            // A delay of zero must not keep the thread busy.
            since + self.config.retry_delay.max(Duration::from_millis(1))
        });
        let settle = match &state.closing {
            Some(Closing { settled: false, .. }) if state.unsettled() == 0 => Some(now),
            Some(Closing { by, settled: false }) if *by > now => Some(*by),
            _ => None,
        };
        let due = [handover, steering, state.retry_at, state.held_until, starving, settle];
        due.into_iter().flatten().min()
    }
}
