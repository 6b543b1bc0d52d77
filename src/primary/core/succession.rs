//! What another primary leaves to this one, and this one to the next. Its tasks are in
//! [`primary::succession`](crate::primary::succession).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::{Core, RETRY, State};
use crate::channel::frame::{Frame, MAX_BATCH};
use crate::primary::config::Way;
use crate::primary::kernel::group::Group;
use crate::primary::report::Report;
use crate::primary::workers::channel::{End, Sent};
use crate::primary::workers::table::Channel;
use crate::worker::intake::Delivery;

/// The sockets of another primary, which accepts from them.
pub(super) struct Standby {
    sockets: Vec<Arc<OwnedFd>>,
    backlog: i32,
    way: Way,
}

impl Core {
    /// Keeps the sockets of another primary until [`take_over`](Self::take_over).
    pub(in crate::primary) fn stand_by(&self, sockets: Vec<OwnedFd>, backlog: i32, way: Way) {
        let sockets = sockets.into_iter().map(Arc::new).collect();
        self.lock().standby = Some(Standby { sockets, backlog, way });
    }

    /// Tells the other primary that this one serves from now on.
    pub(in crate::primary) fn take_over(&self) {
        self.taken_over.notify_one();
    }

    /// The sockets that the other primary had in the end.
    pub(in crate::primary) fn inherit(&self, sockets: Vec<OwnedFd>) {
        if let Some(standby) = &mut self.lock().standby {
            standby.sockets = sockets.into_iter().map(Arc::new).collect();
        }
    }

    /// Serves in the place of another primary. Nothing happens where that is so already. Where this one was not ready for
    /// it, who comes waits in the queue of the kernel for the first worker.
    pub(in crate::primary) async fn serve(self: &Arc<Self>, ready: bool) {
        // Without descriptors for that: there is no other to do it.
        while self.try_to_serve(ready).is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }

    fn try_to_serve(self: &Arc<Self>, ready: bool) -> io::Result<()> {
        let standby = self.lock().standby.take();
        let Some(Standby { sockets, backlog, way }) = standby else { return Ok(()) };
        if !ready {
            self.hold();
        }
        match way {
            Way::HandOver => {
                if let Err(error) = self.accept_from(sockets.clone(), backlog) {
                    self.lock().standby = Some(Standby { sockets, backlog, way });
                    return Err(error);
                }
            }
            Way::Kernel => {
                let hasher = self.config.identifier.hasher.clone();
                self.steer_group(Group::adopt(sockets, hasher, backlog));
            }
        }
        self.lock().inherited = true;
        (self.report)(Report::TookOver);
        Ok(())
    }

    /// Waits until a predecessor is to be told that it is one.
    pub(in crate::primary) async fn taken_over(&self) {
        self.taken_over.notified().await;
    }

    /// Another primary has taken over in the place of this one.
    pub(in crate::primary) fn outrun(&self) {
        self.lock().standby = None;
        (self.report)(Report::Outrun);
    }

    /// Takes in what a predecessor had accepted.
    pub(in crate::primary) fn take_in(self: &Arc<Self>, delivery: Delivery) {
        self.act(|state, now| state.handover.take_in(delivery, &mut state.channels, now));
    }

    /// Gives a successor what it needs to serve in our place.
    pub(super) fn bequeath(&self, state: &mut State, channel: Channel) {
        let Some(open) = state.channels.get_mut(channel) else { return };
        if state.superseded {
            open.channel.say(Frame::TakeOver, &[]);
            open.channel.give_up(End::Closed);
            return;
        }
        for (index, &word) in (0..).zip(&self.config.secrets) {
            open.channel.say(Frame::Secret { index, word }, &[]);
        }
        Self::give_sockets(state, channel);
    }

    /// Gives a successor all listening sockets that there are.
    pub(super) fn give_sockets(state: &mut State, channel: Channel) {
        let Some(open) = state.channels.get_mut(channel) else { return };
        let (sockets, backlog) = match &state.steering {
            Some(steering) => steering.listening(),
            None => (&state.listening.0[..], state.listening.1),
        };
        let mut left = sockets.len();
        for batch in sockets.chunks(usize::from(MAX_BATCH)) {
            left -= batch.len();
            let frame = Frame::Inherit {
                steered: state.steering.is_some(),
                count: u16::try_from(batch.len()).unwrap_or(MAX_BATCH),
                backlog: u32::try_from(backlog).unwrap_or(0),
                left: u32::try_from(left).unwrap_or(0),
                slots: state.handover.queue().table().len(),
            };
            let fds: Vec<_> = batch.iter().map(|socket| socket.as_fd()).collect();
            // There is room for all of it; else it gives up, and may come again.
            if open.channel.say(frame, &fds) != Sent::Yes {
                open.channel.give_up(End::Broken);
            }
        }
        if sockets.is_empty() {
            open.channel.give_up(End::Broken);
        }
    }
}
