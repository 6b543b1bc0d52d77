//! Who accepts from which socket: the primary, or workers to whom the kernel steers.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::task::AbortHandle;

use super::{Core, RETRY, State};
use crate::primary::accept_loops::{AcceptLoop, Ending};
use crate::primary::handover::accept::{self, Spare, Turn};
use crate::primary::kernel::Steering;
use crate::primary::kernel::group::Group;
use crate::sys::{readiness, socket};

/// How long connections wait in a queue of the kernel for the first worker.
const HELD: Duration = Duration::from_secs(60);

/// What a queue of the kernel holds beyond what may wait for a worker, so that there is room until it is looked at.
const SPARE_BACKLOG: usize = 1024;

impl Core {
    /// Makes a bound socket listen, and hands over all its connections.
    pub(in crate::primary) fn hand_over(
        self: &Arc<Self>,
        socket: OwnedFd,
        backlog: i32,
    ) -> io::Result<()> {
        socket::listen(socket.as_fd(), backlog)?;
        self.accept_from(vec![Arc::new(socket)], backlog)
    }

    /// Leaves connections in the queue of the kernel until there is a worker. To be told before there are sockets.
    pub(in crate::primary) fn hold(&self) {
        self.lock().held_until = Some(Instant::now() + HELD);
    }

    /// Hands over all connections of these sockets, once they are not [held](Self::hold).
    pub(super) fn accept_from(
        self: &Arc<Self>,
        sockets: Vec<Arc<OwnedFd>>,
        backlog: i32,
    ) -> io::Result<()> {
        self.ask(|state, now| {
            if state.held_until.is_none() {
                let loops = sockets.iter().map(|socket| self.start_accepting(socket));
                let loops = loops.collect::<io::Result<Vec<_>>>()?;
                for (index, accepting) in loops.into_iter().enumerate() {
                    state.accept_loops.start(index, now, || Ok(accepting));
                }
            }
            state.listening = (sockets, backlog);
            Ok(())
        })
    }

    /// Makes a bound socket listen, and has the kernel steer its connections.
    pub(in crate::primary) fn steer(
        self: &Arc<Self>,
        socket: OwnedFd,
        backlog: i32,
    ) -> io::Result<()> {
        let max_pending = self.config.limits.pending_per_slot;
        // Who waits for a worker waits in the kernel's queue.
        let waiting = i32::try_from(max_pending.saturating_add(SPARE_BACKLOG));
        let backlog = backlog.max(waiting.unwrap_or(i32::MAX));
        self.steer_group(Group::listen(socket, self.config.identifier.hasher.clone(), backlog)?);
        Ok(())
    }

    pub(super) fn steer_group(self: &Arc<Self>, group: Group) {
        let max_pending = self.config.limits.pending_per_slot;
        self.ask(|state, now| {
            state.spare.renew();
            state.steering = Some(Steering::new(group, max_pending, now));
        });
    }

    /// Stops accepting; what has come already is taken in. Returns what to wait for until the port is free.
    pub(in crate::primary) fn stop_accepting(self: &Arc<Self>) -> Ending {
        self.ask(|state, now| {
            // Who waits to take over has all sockets, and what is queued there.
            state.superseded |= state.channels.has_successor();
            let released = state.accept_loops.close();
            let mut sockets = state.take_listening(state.superseded);
            state.standby = None;
            state.spare = Spare::default();
            if let Some(steering) = &mut state.steering {
                let steered = steering.close(&mut state.channels);
                // What is queued there is another's.
                sockets.extend(steered.into_iter().filter(|_| !state.superseded));
            }
            for socket in sockets {
                let mut accepted = accept::drain(&socket);
                let mut turn = Turn { accepted: &mut accepted, shed: 0 };
                state.handover.admit(&mut turn, &mut state.channels, now);
                // Workers share it, and may take their time to close it.
                let _ = socket::shutdown(socket.as_fd());
            }
            released
        })
    }

    /// Brings the sockets to those who are to accept from them.
    pub(super) fn follow(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.superseded {
            if let Some(steering) = &mut state.steering {
                steering.recall_all(&mut state.channels);
            }
            drop(state.accept_loops.close());
            return;
        }
        if let Some(until) = state.held_until
            && (until <= now
                || state.handover.queue().table().all_serving().flatten().next().is_some())
        {
            state.held_until = None;
            self.accept_what_was_held(state, now);
        }
        let held = state.held_until.is_some();
        let Some(steering) = &mut state.steering else { return };
        steering.follow(state.handover.queue().table(), &mut state.channels, now);
        let sockets: Vec<_> =
            steering.sockets().map(|(socket, open)| (Arc::clone(socket), open && !held)).collect();
        state.retry_at = state.retry_at.filter(|&retry| retry > now);
        let mut shed = 0;
        for (index, (socket, open)) in sockets.into_iter().enumerate() {
            if !open {
                state.accept_loops.stop(index);
            } else if let Some(since) =
                state.accept_loops.start(index, now, || self.start_accepting(&socket))
            {
                state.retry_at = Some(now + RETRY);
                // Who waits there cannot even be answered.
                let patience = self.config.limits.patience;
                if patience.is_some_and(|patience| now - since >= patience) {
                    shed += state.spare.shed(&socket);
                }
            }
            if !open && !held && steering.is_quiet(index, now) {
                state.accept_loops.set_alarm(index, || self.start_alarm(index, socket));
            } else {
                state.accept_loops.clear_alarm(index);
            }
        }
        if shed > 0 {
            state.handover.count_shed(shed);
            self.take_effect(state, now);
        }
    }

    /// Accepts from the sockets that were [held](State::held_until), where the kernel does not steer.
    fn accept_what_was_held(self: &Arc<Self>, state: &mut State, now: Instant) {
        for (index, socket) in state.listening.0.iter().enumerate() {
            let start = || self.start_accepting(socket);
            if state.accept_loops.start(index, now, start).is_some() {
                // No descriptors.
                state.held_until = Some(now + RETRY);
            }
        }
    }

    fn start_accepting(self: &Arc<Self>, socket: &OwnedFd) -> io::Result<AcceptLoop> {
        // A descriptor of its own, as the socket may be watched by an alarm, or by a loop that is just ending.
        let own = socket.try_clone()?;
        let listener = {
            let _runtime = self.runtime.enter();
            readiness::register(own, Interest::READABLE)?
        };
        let spare = Spare::new()?;
        let core = Arc::clone(self);
        let (release, released) = channel();
        let task = self.runtime.spawn(async move {
            // Dropped after the loop's future, and with it after the listening socket.
            let _release: Sender<()> = release;
            let admit = |mut turn: Turn<'_>| core.admit(&mut turn);
            let free_descriptors = || core.free_descriptors();
            let _ = accept::run(listener, spare, admit, free_descriptors).await;
        });
        Ok(AcceptLoop { task: task.abort_handle(), released })
    }

    /// Tells of the next connection to a socket that a worker accepts from.
    fn start_alarm(self: &Arc<Self>, index: usize, socket: Arc<OwnedFd>) -> AbortHandle {
        let core = Arc::clone(self);
        let alarm = self.runtime.spawn(async move {
            // Without descriptors for that the socket is looked at all the time.
            if let Ok(watched) = readiness::register(socket, Interest::READABLE) {
                let _ = watched.readable().await;
            }
            core.act(|state, now| {
                if let Some(steering) = &mut state.steering {
                    steering.wake(index, now);
                }
            });
        });
        alarm.abort_handle()
    }
}
