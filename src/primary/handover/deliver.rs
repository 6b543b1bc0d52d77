//! Sending connections to the workers of their slots, as far as there is room.

use std::time::{Duration, Instant};

use super::HandOver;
use crate::channel::frame::MAX_BATCH;
use crate::primary::workers::channel::Sent;
use crate::primary::workers::channels::Channels;

/// How long a channel rests after its worker, or the system, had no room for descriptors.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

impl HandOver {
    /// Sends all that can be sent.
    pub fn deliver(&mut self, channels: &mut Channels) {
        while let Some(offer) = self.queue.offer(MAX_BATCH) {
            let Some(open) = channels.get_mut(offer.channel) else {
                // Its end is about to be reported to the queue.
                self.queue.block(offer.channel);
                continue;
            };
            let batch: Vec<_> = self.queue.offered(&offer).collect();
            match open.channel.send(offer.slot, offer.first, &batch) {
                Sent::Yes => {
                    let now = Instant::now();
                    open.latency.sent(now);
                    self.queue.commit(&offer, now);
                }
                Sent::Full => self.queue.block(offer.channel),
                Sent::Exhausted => {
                    self.queue.pause(offer.channel, Instant::now() + EXHAUSTED_PAUSE);
                }
            }
        }
    }
}
