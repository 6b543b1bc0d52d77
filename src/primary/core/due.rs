//! What is due when.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Core, State};
use crate::primary::balancer::Report;
use crate::primary::identify::Identify;
use crate::primary::refuse::Refusal;
use crate::sys::socket;

/// How often workers are listened to that owe no acknowledgement. What they say then is wrong.
const AUDIT_INTERVAL: Duration = Duration::from_secs(1);

/// How often those who wait are looked at, to let go of clients that have gone: so often for each of so many, as
/// every look costs half a microsecond.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);
const SWEPT_PER_INTERVAL: usize = 1000;

impl State {
    /// When those who wait are looked at again, while any do.
    fn sweep_after(&self, now: Instant) -> Option<Instant> {
        let times = self.dispatch.waiting().div_ceil(SWEPT_PER_INTERVAL);
        (times > 0).then(|| now + SWEEP_INTERVAL * u32::try_from(times).unwrap_or(u32::MAX))
    }

    /// Lets go of connections whose client has left while they waited.
    fn sweep(&mut self) {
        let waiting: Vec<_> = self.dispatch.iter_waiting().map(|one| one.as_fd()).collect();
        let mut hung_up = socket::hung_up(&waiting).into_iter();
        self.gone += self.dispatch.remove_waiting(|_| hung_up.next() == Some(true)).len() as u64;
    }
}

impl Core {
    /// Has the clock look again if something new is due, and JavaScript if somebody starves.
    pub(super) fn reschedule(&self, state: &mut State) {
        let starving = state.dispatch.is_starving();
        if starving && state.starving_since.is_none() {
            state.starving_since = Some(Instant::now());
            (self.report)(Report::Starving);
            self.rescheduled.notify_one();
        } else if !starving {
            state.starving_since = None;
        }
        let now = Instant::now();
        let collect = state.collect_after(now);
        let sweep = state.sweep_after(now);
        let look = state.identify.as_ref().and_then(Identify::next_due);
        let dues = [
            (&mut state.next_collect, collect),
            (&mut state.next_sweep, sweep),
            (&mut state.next_look, look),
        ];
        for (next, due) in dues {
            if due.is_some_and(|due| next.is_none_or(|next| due < next)) {
                *next = due;
                self.rescheduled.notify_one();
            }
        }
        if state.settle_by.is_some() && !state.settled && state.unsettled() == 0 {
            self.rescheduled.notify_one();
        }
    }

    /// Does what is due; says when to come again.
    pub(in crate::primary) fn tick(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        self.act(|state| self.tick_at(state, now))
    }

    fn tick_at(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<Instant> {
        let looked = state.identify.as_mut().map(|identify| identify.due(now)).unwrap_or_default();
        state.next_look = state.identify.as_ref().and_then(Identify::next_due);
        let expired = state.dispatch.expire(now);
        self.refuse(state, expired.into_iter().map(|one| one.fd), Refusal::NoWorker);
        self.place(state, looked, now);
        if state.next_collect.is_some_and(|collect| collect <= now) {
            self.collect_on_time(state, now);
        }
        if state.next_audit <= now {
            // A hello is for whoever waits for it.
            if self.hear_all(state, now, |open| open.line.greeted()) {
                self.pump(state);
            }
            state.next_audit = now + AUDIT_INTERVAL;
        }
        if state.next_sweep.is_some_and(|sweep| sweep <= now) {
            state.sweep();
            state.next_sweep = state.sweep_after(now);
        }
        let again = state.starving_since.map(|since| since + self.config.retry_delay);
        let again = again.map(|again| {
            if again > now {
                return again;
            }
            (self.report)(Report::Starving);
            state.starving_since = Some(now);
            // A delay of zero must not keep the thread busy.
            now + self.config.retry_delay.max(Duration::from_millis(1))
        });
        if let Some(settle_by) = state.settle_by.filter(|_| !state.settled) {
            if now >= settle_by {
                let waiting = state.dispatch.remove_waiting(|_| true);
                let unknown = state.identify.as_mut().map(Identify::clear).unwrap_or_default();
                let all = waiting.into_iter().map(|one| one.fd).chain(unknown);
                self.refuse(state, all, Refusal::NoWorker);
            }
            // In flight then is with workers that do not answer: theirs to adopt, if they ever do.
            if state.unsettled() == 0 || (now >= settle_by && state.refusing == 0) {
                state.settled = true;
                state.close_lines();
                (self.report)(Report::Settled);
            }
        }
        let settle_by = state.settle_by.filter(|&by| by > now);
        let deadline = state.dispatch.next_deadline();
        let audit = (!state.lines.is_empty()).then_some(state.next_audit);
        let deadlines = [
            again,
            audit,
            state.next_collect,
            state.next_sweep,
            state.next_look,
            deadline,
            settle_by,
        ];
        deadlines.into_iter().flatten().min()
    }
}
