//! Which slot a connection waits in: the one that alone will do for its client, or one with room.

use std::collections::VecDeque;

use super::DeliveryQueue;
use super::slot::Waiting;
use super::window::Window;
use crate::client::identify::Client;

impl<C> DeliveryQueue<C> {
    /// Puts a connection into the queue of its slot.
    pub(super) fn queue(
        &mut self,
        waiting: Waiting<C>,
        put: fn(&mut VecDeque<Waiting<C>>, Waiting<C>),
    ) {
        match self.choose_slot(waiting.client) {
            Some(slot) => {
                put(&mut self.slots[slot as usize].waiting, waiting);
                self.mark_ready(slot);
            }
            None => put(&mut self.unslotted, waiting),
        }
    }

    /// Those for whom any slot will do wait in none that has no worker, or one that does not keep up, while another has one
    /// that does.
    pub fn find_room(&mut self) {
        let slots = 0..self.slot_count();
        let served = slots.clone().any(|slot| self.table.serving(slot).is_some());
        let kept_up = slots.clone().any(|slot| self.keeps_up(slot));
        if !served {
            return;
        }
        let leaves: Vec<bool> = slots
            .map(|slot| self.table.serving(slot).is_none() || (kept_up && !self.keeps_up(slot)))
            .collect();
        let count = self.slot_count();
        let mut homeless: Vec<Waiting<C>> = self.unslotted.drain(..).collect();
        for (slot, leaves) in self.slots.iter_mut().zip(leaves) {
            if leaves {
                let any_will_do = |waiting: &Waiting<C>| waiting.client.slot(count).is_none();
                let waiting = slot.waiting.drain(..);
                let (leaving, staying) = waiting.partition::<VecDeque<_>, _>(any_will_do);
                slot.waiting = staying;
                homeless.extend(leaving);
            }
        }
        self.queue_all(homeless);
    }

    /// In the order of arrival, whatever slot they waited in.
    pub(super) fn queue_all(&mut self, mut homeless: Vec<Waiting<C>>) {
        homeless.sort_by_key(|waiting| waiting.arrived);
        for waiting in homeless {
            self.queue(waiting, VecDeque::push_back);
        }
    }

    /// The slot for a client; `None` when there are no slots, or when any will do and none has a worker.
    pub(super) fn choose_slot(&mut self, client: Client) -> Option<u32> {
        client.slot(self.slot_count()).or_else(|| self.draw_slot())
    }

    /// The less loaded of two slots that are drawn from those with a worker: if possible from those whose worker keeps up and
    /// can be sent it at once, else from those whose worker keeps up and for which more may wait.
    fn draw_slot(&mut self) -> Option<u32> {
        let served = |slot: &u32| self.table.serving(*slot).is_some();
        let has_room =
            |slot: &u32| self.keeps_up(*slot) && self.pending(*slot) < self.limits.pending_per_slot;
        let at_once = |slot: &u32| {
            let room = self.window(*slot).map(|one| one.room(self.limits.in_flight_per_channel));
            has_room(slot) && room.is_some_and(|room| self.waiting_in(*slot) < room)
        };
        let slots = 0..self.slot_count();
        let mut drawn: Vec<u32> = slots.clone().filter(at_once).collect();
        if drawn.is_empty() {
            drawn = slots.clone().filter(has_room).collect();
        }
        if drawn.is_empty() {
            drawn = slots.filter(served).collect();
        }
        let mut drawn = std::iter::repeat_with(|| {
            (!drawn.is_empty()).then(|| drawn.swap_remove(self.random.usize(..drawn.len())))
        });
        let first = drawn.next()??;
        let second = drawn.next().flatten().unwrap_or(first);
        Some(if self.load(second) < self.load(first) { second } else { first })
    }

    /// What waits for the worker of a slot, in whatever slot of its, and what it has open.
    fn load(&self, slot: u32) -> u64 {
        let Some(channel) = self.table.serving(slot) else { return 0 };
        let of_channel = (0..).zip(self.table.all_serving());
        let of_channel = of_channel.filter(|&(_, serving)| serving == Some(channel));
        let pending: usize = of_channel.map(|(slot, _)| self.pending(slot)).sum();
        let open = self.windows.get(&channel).map_or(0, |window| window.load.connections);
        open.saturating_add(pending as u64)
    }

    fn window(&self, slot: u32) -> Option<&Window<C>> {
        self.table.serving(slot).and_then(|channel| self.windows.get(&channel))
    }

    fn keeps_up(&self, slot: u32) -> bool {
        self.window(slot).is_some_and(Window::keeps_up)
    }
}
