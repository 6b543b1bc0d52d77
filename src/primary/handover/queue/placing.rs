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

    /// Those for whom any slot will do wait in none that has no worker while another has one.
    pub(super) fn find_room(&mut self) {
        if self.table.all_serving().all(|serving| serving.is_none()) {
            return;
        }
        let count = self.slot_count();
        let mut homeless: Vec<Waiting<C>> = self.unslotted.drain(..).collect();
        for (index, slot) in (0..).zip(&mut self.slots) {
            if self.table.serving(index).is_none() {
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

    /// The less loaded of two slots that are drawn from those with a worker, if possible from those whose worker keeps up
    /// and for which more may wait.
    fn draw_slot(&mut self) -> Option<u32> {
        let served = |slot: &u32| self.table.serving(*slot).is_some();
        let has_room = |slot: &u32| {
            let window = self.table.serving(*slot).and_then(|channel| self.windows.get(&channel));
            window.is_some_and(Window::keeps_up)
                && self.pending(*slot) < self.limits.pending_per_slot
        };
        let slots = 0..self.slot_count();
        let mut drawn: Vec<u32> = slots.clone().filter(has_room).collect();
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

    /// Connections of a slot, and all those that its worker has open.
    fn load(&self, slot: u32) -> u64 {
        let window = self.table.serving(slot).and_then(|channel| self.windows.get(&channel));
        let open = window.map_or(0, |window| window.load.connections);
        open.saturating_add(self.pending(slot) as u64)
    }
}
