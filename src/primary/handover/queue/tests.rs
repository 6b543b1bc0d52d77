//! The promises of the state machine: single cases by name, then random histories against a model
//! of workers that only knows what a worker knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::client::hash;
use crate::client::identify::Choice;

const PATIENCE: Duration = Duration::from_millis(750);

fn limits() -> Limits {
    Limits { pending_per_slot: 8, patience: Some(PATIENCE), in_flight_per_channel: 4 }
}

/// A machine with one slot served by channel 1.
fn served(now: Instant) -> DeliveryQueue<u32> {
    let mut queue = DeliveryQueue::new(limits(), 7);
    queue.attach(1, now);
    queue.set_table(&[Entry::Worker(1)], now);
    queue
}

fn push_all(queue: &mut DeliveryQueue<u32>, ids: std::ops::Range<u32>, now: Instant) {
    for id in ids {
        queue.push(id.into(), id, now).unwrap();
    }
}

fn connections(removed: Vec<Removed<u32>>) -> Vec<u32> {
    removed.into_iter().map(|removed| removed.connection).collect()
}

/// Sends all that can be sent; returns it by channel.
fn send_all(queue: &mut DeliveryQueue<u32>) -> Vec<(Channel, Vec<u32>)> {
    let mut sent = Vec::new();
    while let Some(offer) = queue.offer(64) {
        sent.push((offer.channel, queue.offered(&offer).copied().collect()));
        queue.commit(&offer, Instant::now());
    }
    sent
}

#[test]
fn a_connection_goes_to_the_worker_of_its_slot_and_ends_when_adopted() {
    let now = Instant::now();
    let mut queue = served(now);
    push_all(&mut queue, 0..3, now);
    assert_eq!(send_all(&mut queue), [(1, vec![0, 1, 2])]);
    assert_eq!(queue.adopted(1, 1, Duration::ZERO), Ok(vec![0, 1]));
    assert_eq!(queue.unsettled(), 1);
    assert_eq!(queue.adopted(1, 2, Duration::ZERO), Ok(vec![2]));
    assert_eq!(queue.unsettled(), 0);
}

#[test]
fn no_more_is_in_flight_than_allowed_and_an_adoption_makes_room() {
    let now = Instant::now();
    let mut queue = served(now);
    push_all(&mut queue, 0..6, now);
    assert_eq!(send_all(&mut queue), [(1, vec![0, 1, 2, 3])]);
    assert!(queue.adopted(1, 0, Duration::ZERO).is_ok());
    assert_eq!(send_all(&mut queue), [(1, vec![4])]);
}

#[test]
fn guarantee_8_bounded_one_more_than_may_wait_overflows() {
    let now = Instant::now();
    let mut queue = served(now);
    push_all(&mut queue, 0..8, now);
    let overflow = Removed { slot: Some(0), connection: 8 };
    assert_eq!(queue.push(8.into(), 8, now), Err(overflow));
    // What is in flight still waits, for its adoption.
    send_all(&mut queue);
    assert_eq!(queue.push(8.into(), 8, now), Err(overflow));
    assert!(queue.adopted(1, 0, Duration::ZERO).is_ok());
    assert_eq!(queue.push(8.into(), 8, now), Ok(()));
}

#[test]
fn what_a_dead_worker_had_not_adopted_goes_first_to_its_successor_in_order() {
    let now = Instant::now();
    let mut queue = served(now);
    push_all(&mut queue, 0..6, now);
    send_all(&mut queue);
    assert_eq!(queue.adopted(1, 0, Duration::ZERO), Ok(vec![0]));
    assert!(queue.detach(1, Ending::ByWorker, now).is_empty());
    queue.attach(2, now);
    queue.set_table(&[Entry::Worker(2)], now);
    assert_eq!(send_all(&mut queue), [(2, vec![1, 2, 3, 4])]);
    assert_eq!(queue.totals(), Totals { delivered: 5, adopted: 1, redelivered: 3 });
}

#[test]
fn what_a_worker_may_still_adopt_goes_to_nobody_else() {
    let now = Instant::now();
    let mut queue = served(now);
    push_all(&mut queue, 0..2, now);
    send_all(&mut queue);
    assert_eq!(queue.detach(1, Ending::ByPrimary, now), [1, 0]);
    assert_eq!(queue.unsettled(), 0);
}

#[test]
fn guarantee_9_make_before_break_the_old_worker_serves_until_the_new_has_shaken_hands() {
    let now = Instant::now();
    for wanted in [Entry::Worker(2), Entry::Pending] {
        let mut queue = served(now);
        queue.set_table(&[wanted], now);
        push_all(&mut queue, 0..1, now);
        assert_eq!(send_all(&mut queue), [(1, vec![0])]);
    }
    let mut queue = served(now);
    queue.set_table(&[Entry::Worker(2)], now);
    queue.attach(2, now);
    push_all(&mut queue, 0..1, now);
    assert_eq!(send_all(&mut queue), [(2, vec![0])]);
}

#[test]
fn a_slot_that_the_manager_empties_is_served_by_nobody() {
    let now = Instant::now();
    let mut queue = served(now);
    queue.set_table(&[Entry::Empty], now);
    push_all(&mut queue, 0..1, now);
    assert!(send_all(&mut queue).is_empty());
    assert!(queue.is_starving());
}

#[test]
fn patience_counts_from_when_nobody_could_take_the_connection() {
    let start = Instant::now();
    let mut queue = served(start);
    push_all(&mut queue, 0..5, start);
    send_all(&mut queue);
    // However long a worker takes, it is not over.
    let later = start + PATIENCE * 10;
    assert!(queue.expire(later).is_empty());
    assert_eq!(queue.next_deadline(), None);
    queue.detach(1, Ending::ByWorker, later);
    let due = later + PATIENCE;
    assert_eq!(queue.next_deadline(), Some(due));
    assert!(queue.expire(later + PATIENCE / 2).is_empty());
    assert_eq!(connections(queue.expire(due)), [0, 1, 2, 3, 4]);
}

#[test]
fn patience_begins_anew_for_those_whose_busy_worker_left_with_its_slot() {
    let start = Instant::now();
    for died_first in [true, false] {
        let mut queue = served(start);
        push_all(&mut queue, 0..6, start);
        send_all(&mut queue);
        let later = start + PATIENCE * 10;
        if died_first {
            queue.detach(1, Ending::ByWorker, later);
        }
        queue.set_table(&[], later);
        assert!(queue.expire(later + PATIENCE / 2).is_empty());
        queue.set_table(&[Entry::Empty; 3], later + PATIENCE / 2);
        assert!(queue.expire(later + PATIENCE / 2).is_empty());
        assert_eq!(queue.expire(later + PATIENCE).len(), if died_first { 6 } else { 2 });
    }
}

#[test]
fn without_patience_an_empty_slot_refuses_at_once_and_with_endless_patience_never() {
    let now = Instant::now();
    let mut queue = DeliveryQueue::new(Limits { patience: Some(Duration::ZERO), ..limits() }, 7);
    push_all(&mut queue, 0..1, now);
    assert_eq!(connections(queue.expire(now)), [0]);
    let mut queue = DeliveryQueue::new(Limits { patience: None, ..limits() }, 7);
    push_all(&mut queue, 0..1, now);
    assert_eq!(queue.next_deadline(), None);
    assert!(queue.expire(now + Duration::from_secs(1 << 30)).is_empty());
}

const NEW: Client = Client { session: None, otherwise: Choice::Room };

/// A machine with a slot for each of these channels, whose workers have so many connections open.
fn busy(connections: &[u64], now: Instant) -> DeliveryQueue<u32> {
    let mut queue = DeliveryQueue::new(limits(), 7);
    let channels = 1..=u32::try_from(connections.len()).unwrap();
    queue.set_table(&channels.clone().map(Entry::Worker).collect::<Vec<_>>(), now);
    for (channel, &connections) in channels.zip(connections) {
        queue.attach(channel, now);
        queue.set_load(channel, Load { connections, stuck: false });
    }
    queue
}

/// To how many of these new clients each slot was given.
fn spread(queue: &mut DeliveryQueue<u32>, clients: u32, now: Instant) -> Vec<usize> {
    for id in 0..clients {
        queue.push(NEW, id, now).unwrap();
    }
    queue.slots.iter().map(|slot| slot.waiting.len()).collect()
}

#[test]
fn new_clients_go_where_there_is_room() {
    let now = Instant::now();
    // What waits counts as well, so that the two are level in the end.
    assert_eq!(spread(&mut busy(&[3, 0], now), 5, now), [1, 4]);
    let even = spread(&mut busy(&[0; 4], now), 24, now);
    assert!(even.iter().all(|count| (5..=7).contains(count)), "{even:?}");
    let busiest = spread(&mut busy(&[100, 0, 0, 0], now), 12, now);
    assert_eq!(busiest[0], 0, "it is always the more loaded of two");
}

#[test]
fn a_slot_that_is_stuck_or_empty_or_full_gets_no_new_clients() {
    let now = Instant::now();
    let mut queue = busy(&[0, 50, 0], now);
    queue.set_load(1, Load { connections: 0, stuck: true });
    queue.detach(3, Ending::ByWorker, now);
    assert_eq!(spread(&mut queue, 8, now), [0, 8, 0]);
    // Where none keeps up, it is the workers that there are.
    queue.push(NEW, 8, now).unwrap();
    assert_eq!(queue.slots[0].waiting.len(), 1);
    let mut queue = busy(&[0, 0], now);
    queue.block(1);
    queue.pause(2, now);
    assert_eq!(spread(&mut queue, 2, now), [1, 1]);
}

#[test]
fn new_clients_whose_worker_is_lost_go_on_to_another() {
    let now = Instant::now();
    let mut queue = busy(&[0, 9], now);
    let session = Client { session: Some(0), otherwise: Choice::Room };
    queue.push(NEW, 0, now).unwrap();
    queue.push(session, 1, now).unwrap();
    assert_eq!(send_all(&mut queue), [(1, vec![0, 1])]);
    queue.push(NEW, 2, now).unwrap();
    queue.detach(1, Ending::ByWorker, now);
    // A session waits for the successor.
    assert_eq!(send_all(&mut queue), [(2, vec![0, 2])]);
    queue.detach(2, Ending::ByWorker, now);
    queue.push(NEW, 3, now).unwrap();
    assert_eq!((queue.waiting(), queue.unslotted.len()), (4, 3));
    queue.attach(3, now);
    queue.set_table(&[Entry::Worker(3), Entry::Empty], now);
    assert_eq!(send_all(&mut queue), [(3, vec![1, 0, 2, 3])]);
}

#[test]
fn a_session_keeps_its_slot_as_long_as_there_is_one() {
    let now = Instant::now();
    let mut queue = busy(&[0, 0, 0], now);
    let session = |slot, id: u32| (Client { session: Some(slot), otherwise: Choice::Hash(id) }, id);
    let slots = |queue: &DeliveryQueue<u32>| -> Vec<Vec<u32>> {
        let waiting = |slot: &Slot<u32>| slot.waiting.iter().map(|one| one.connection).collect();
        queue.slots.iter().map(waiting).collect()
    };
    for (client, id) in [session(0, 0), session(1, 1), session(2, 2), session(9, 3)] {
        queue.push(client, id, now).unwrap();
    }
    let homeless = hash::slot(3, 3).unwrap() as usize;
    assert_eq!(slots(&queue).concat().len(), 4);
    assert!(slots(&queue)[homeless].contains(&3));
    queue.set_table(&[Entry::Worker(1), Entry::Worker(2), Entry::Worker(3), Entry::Empty], now);
    assert!((0..3_u32).all(|n| slots(&queue)[n as usize].contains(&n)));
    queue.set_table(&[Entry::Worker(1), Entry::Worker(2)], now);
    assert!((0..2_u32).all(|n| slots(&queue)[n as usize].contains(&n)));
    assert_eq!(slots(&queue).concat().len(), 4);
    assert!(slots(&queue)[hash::slot(2, 2).unwrap() as usize].contains(&2));
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_a_violation() {
    let now = Instant::now();
    let mut queue = served(now);
    push_all(&mut queue, 0..2, now);
    assert_eq!(queue.adopted(1, 0, Duration::ZERO), Err(Violation));
    send_all(&mut queue);
    assert_eq!(queue.adopted(1, 2, Duration::ZERO), Err(Violation));
    assert_eq!(queue.adopted(2, 0, Duration::ZERO), Err(Violation));
    assert_eq!(queue.returned(1, 1, 2, now), Err(Violation));
    assert!(queue.adopted(1, 1, Duration::ZERO).is_ok());
    assert_eq!(queue.adopted(1, 1, Duration::ZERO), Err(Violation));
}

/// The machine as it is used: behind a lock, by the accept loop, a reader for each worker, and
/// JavaScript's thread, in many interleavings of the three.
#[test]
fn guarantee_4_exactly_one_owner_whichever_thread_comes_first() {
    use shuttle::sync::{Arc, Mutex};
    use shuttle::thread;

    const CONNECTIONS: u32 = 6;
    let scenario = || {
        let now = Instant::now();
        let queue = Arc::new(Mutex::new(served(now)));
        let sent = Arc::new(Mutex::new(BTreeMap::<Channel, VecDeque<u32>>::new()));
        let adopted = Arc::new(Mutex::new(Vec::new()));
        let pump = {
            let (queue, sent) = (Arc::clone(&queue), Arc::clone(&sent));
            move || {
                // As in `Core::pump`: the sending is under the lock.
                let mut queue = queue.lock().unwrap();
                for (channel, ids) in send_all(&mut queue) {
                    sent.lock().unwrap().entry(channel).or_default().extend(ids);
                }
            }
        };
        let accept = {
            let (queue, pump) = (Arc::clone(&queue), pump.clone());
            thread::spawn(move || {
                for id in 0..CONNECTIONS {
                    push_all(&mut queue.lock().unwrap(), id..id + 1, now);
                    pump();
                }
            })
        };
        let reader = |channel: Channel, dies: bool| {
            let (queue, sent, adopted) =
                (Arc::clone(&queue), Arc::clone(&sent), Arc::clone(&adopted));
            let pump = pump.clone();
            thread::spawn(move || {
                for through in 0..2 {
                    let taken =
                        sent.lock().unwrap().get_mut(&channel).and_then(VecDeque::pop_front);
                    let Some(id) = taken else { break };
                    let closed = queue.lock().unwrap().adopted(channel, through, Duration::ZERO);
                    assert_eq!(closed, Ok(vec![id]));
                    adopted.lock().unwrap().push(id);
                }
                if dies {
                    queue.lock().unwrap().detach(channel, Ending::ByWorker, now);
                    pump();
                }
            })
        };
        let first = reader(1, true);
        let manager = {
            let (queue, pump) = (Arc::clone(&queue), pump.clone());
            thread::spawn(move || {
                queue.lock().unwrap().attach(2, now);
                queue.lock().unwrap().set_table(&[Entry::Worker(2)], now);
                pump();
            })
        };
        let second = reader(2, false);
        for thread in [accept, first, manager, second] {
            thread.join().unwrap();
        }
        // All that is left reaches the second worker, each connection once.
        let mut queue = queue.lock().unwrap();
        let mut all = adopted.lock().unwrap().clone();
        all.extend(sent.lock().unwrap().remove(&2).unwrap_or_default());
        all.extend(connections(queue.remove_waiting(|_| true)));
        all.sort_unstable();
        assert_eq!(all, (0..CONNECTIONS).collect::<Vec<_>>());
    };
    shuttle::check_pct(scenario, 2000, 3);
}

/// One step of a random history. Numbers select among what exists.
#[derive(Clone, Debug)]
enum Step {
    Push(Client),
    Busy(prop::sample::Index, Load),
    Table(Vec<TableEntry>),
    Attach,
    Send { max: u16, outcome: Outcome },
    Unblock(prop::sample::Index),
    Adopt(prop::sample::Index, prop::sample::Index),
    Return(prop::sample::Index, prop::sample::Index),
    Die(prop::sample::Index),
    GiveUp(prop::sample::Index),
    Wait { milliseconds: u64 },
}

#[derive(Clone, Debug)]
enum TableEntry {
    Empty,
    Pending,
    Live(prop::sample::Index),
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Sent,
    Full,
    Exhausted,
}

fn clients() -> impl Strategy<Value = Client> {
    let otherwise = prop_oneof![any::<u32>().prop_map(Choice::Hash), Just(Choice::Room)];
    let session = prop_oneof![Just(None), (0..6_u32).prop_map(Some)];
    (session, otherwise).prop_map(|(session, otherwise)| Client { session, otherwise })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = || any::<prop::sample::Index>();
    let entry = prop_oneof![
        1 => Just(TableEntry::Empty),
        1 => Just(TableEntry::Pending),
        6 => index().prop_map(TableEntry::Live),
        1 => Just(TableEntry::Unknown),
    ];
    let outcome = prop_oneof![
        6 => Just(Outcome::Sent),
        1 => Just(Outcome::Full),
        1 => Just(Outcome::Exhausted),
    ];
    let step = prop_oneof![
        8 => clients().prop_map(Step::Push),
        2 => (index(), 0..20_u64, any::<bool>())
            .prop_map(|(channel, connections, stuck)| Step::Busy(channel, Load { connections, stuck })),
        2 => prop::collection::vec(entry, 0..5).prop_map(Step::Table),
        2 => Just(Step::Attach),
        8 => (1..4_u16, outcome).prop_map(|(max, outcome)| Step::Send { max, outcome }),
        2 => index().prop_map(Step::Unblock),
        6 => (index(), index()).prop_map(|(channel, count)| Step::Adopt(channel, count)),
        2 => (index(), index()).prop_map(|(channel, count)| Step::Return(channel, count)),
        1 => index().prop_map(Step::Die),
        1 => index().prop_map(Step::GiveUp),
        3 => (0..1000_u64).prop_map(|milliseconds| Step::Wait { milliseconds }),
    ];
    prop::collection::vec(step, 0..120)
}

/// What really happened, told by workers.
#[derive(Default)]
struct World {
    /// For each live channel what it was sent and has neither adopted nor returned.
    workers: BTreeMap<Channel, VecDeque<(u64, u32)>>,
    adopted: BTreeSet<u32>,
    /// Overflowed or expired: answered with a refusal.
    refused: BTreeSet<u32>,
    /// With a worker that was given up: it may adopt them, nobody else.
    released: BTreeSet<u32>,
    clients: BTreeMap<u32, Client>,
    pushed: u32,
    channels: Channel,
}

impl World {
    fn pick(&self, index: prop::sample::Index) -> Option<Channel> {
        let channels: Vec<_> = self.workers.keys().copied().collect();
        (!channels.is_empty()).then(|| *index.get(&channels))
    }

    fn settle(&mut self, set: fn(&mut Self) -> &mut BTreeSet<u32>, id: u32) {
        let ended = [&self.adopted, &self.refused, &self.released];
        assert!(ended.iter().all(|set| !set.contains(&id)), "{id} ended twice");
        set(self).insert(id);
    }

    fn step(&mut self, queue: &mut DeliveryQueue<u32>, step: Step, now: &mut Instant) {
        match step {
            Step::Push(client) => {
                let id = self.pushed;
                self.pushed += 1;
                self.clients.insert(id, client);
                if let Err(removed) = queue.push(client, id, *now) {
                    self.settle(|world| &mut world.refused, removed.connection);
                }
            }
            Step::Busy(index, load) => {
                if let Some(channel) = self.pick(index) {
                    queue.set_load(channel, load);
                }
            }
            Step::Table(entries) => {
                let table: Vec<_> = entries
                    .iter()
                    .map(|entry| match entry {
                        TableEntry::Empty => Entry::Empty,
                        TableEntry::Pending => Entry::Pending,
                        TableEntry::Live(index) => {
                            self.pick(*index).map_or(Entry::Empty, Entry::Worker)
                        }
                        TableEntry::Unknown => Entry::Worker(Channel::MAX),
                    })
                    .collect();
                queue.set_table(&table, *now);
            }
            Step::Attach => {
                self.channels += 1;
                queue.attach(self.channels, *now);
                self.workers.insert(self.channels, VecDeque::new());
            }
            Step::Send { max, outcome } => self.send(queue, max, outcome, *now),
            Step::Unblock(index) => {
                if let Some(channel) = self.pick(index) {
                    queue.unblock(channel);
                }
            }
            Step::Adopt(index, count) => {
                let Some(channel) = self.pick(index) else {
                    return;
                };
                let held = self.workers.get_mut(&channel).unwrap();
                if held.is_empty() {
                    return;
                }
                let taken: Vec<_> = held.drain(..=count.index(held.len())).collect();
                let ids: Vec<_> = taken.iter().map(|&(_, id)| id).collect();
                // The primary closes its copies of these and no others.
                assert_eq!(
                    queue.adopted(channel, taken.last().unwrap().0, Duration::ZERO),
                    Ok(ids.clone())
                );
                for id in ids {
                    self.settle(|world| &mut world.adopted, id);
                }
            }
            Step::Return(index, count) => {
                // A worker finds at the end of what it was sent that it has no room.
                let Some(channel) = self.pick(index) else {
                    return;
                };
                let held = self.workers.get_mut(&channel).unwrap();
                let count = count.index(held.len() + 1).min(64);
                let back = held.split_off(held.len() - count);
                if let Some(&(first, _)) = back.front() {
                    let count = u16::try_from(back.back().unwrap().0 - first + 1).unwrap();
                    assert_eq!(queue.returned(channel, first, count, *now), Ok(()));
                }
            }
            Step::Die(index) => {
                let Some(channel) = self.pick(index) else {
                    return;
                };
                self.workers.remove(&channel);
                assert!(queue.detach(channel, Ending::ByWorker, *now).is_empty());
            }
            Step::GiveUp(index) => self.give_up(queue, index, *now),
            Step::Wait { milliseconds } => {
                *now += Duration::from_millis(milliseconds);
                for id in connections(queue.expire(*now)) {
                    self.settle(|world| &mut world.refused, id);
                }
                let next = queue.next_deadline();
                assert!(next.is_none_or(|next| next > *now), "something due was left");
            }
        }
    }

    fn give_up(
        &mut self,
        queue: &mut DeliveryQueue<u32>,
        index: prop::sample::Index,
        now: Instant,
    ) {
        let Some(channel) = self.pick(index) else { return };
        let held = self.workers.remove(&channel).unwrap();
        let released = queue.detach(channel, Ending::ByPrimary, now);
        let held: BTreeSet<_> = held.iter().map(|&(_, id)| id).collect();
        assert_eq!(released.iter().copied().collect::<BTreeSet<_>>(), held);
        for id in released {
            self.settle(|world| &mut world.released, id);
        }
    }

    fn send(&mut self, queue: &mut DeliveryQueue<u32>, max: u16, outcome: Outcome, now: Instant) {
        let Some(offer) = queue.offer(max) else {
            return;
        };
        let ids: Vec<_> = queue.offered(&offer).copied().collect();
        assert_eq!(ids.len(), usize::from(offer.count));
        assert!((1..=max).contains(&offer.count));
        for id in &ids {
            let slot = self.clients[id].slot(queue.table().len());
            assert!(slot.is_none_or(|slot| slot == offer.slot), "{id} is of another slot");
        }
        match outcome {
            Outcome::Full => queue.block(offer.channel),
            Outcome::Exhausted => queue.pause(offer.channel, now + Duration::from_millis(20)),
            Outcome::Sent => {
                let held = self.workers.get_mut(&offer.channel).expect("offered to a dead worker");
                held.extend((offer.first..).zip(ids));
                assert!(held.len() <= limits().in_flight_per_channel);
                queue.commit(&offer, now);
            }
        }
    }

    fn check(&self, queue: &DeliveryQueue<u32>) {
        let ended = self.adopted.len() + self.refused.len() + self.released.len();
        assert_eq!(ended + queue.unsettled(), self.pushed as usize, "lost or doubled");
        let in_flight: usize = self.workers.values().map(VecDeque::len).sum();
        assert_eq!(queue.waiting() + in_flight, queue.unsettled());
        let slots: Vec<_> = queue.slot_stats().collect();
        if !slots.is_empty() {
            assert_eq!(slots.iter().map(|slot| slot.in_flight).sum::<usize>(), in_flight);
        }
        let served = |slot: &SlotStats| slot.serving.is_some();
        if slots.iter().any(served) {
            // Those for whom any slot will do have one that is served.
            let unserved = queue.slots.iter().zip(&slots).filter(|(_, stats)| !served(stats));
            let mut waiting = unserved.flat_map(|(slot, _)| &slot.waiting).chain(&queue.unslotted);
            let count = queue.table().len();
            assert!(waiting.all(|waiting| waiting.client.slot(count).is_some()));
        }
        for slot in slots {
            assert!(slot.serving.is_none_or(|channel| self.workers.contains_key(&channel)));
        }
        assert_eq!(queue.totals().adopted, self.adopted.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn guarantee_4_exactly_one_owner_in_every_history(steps in steps()) {
        let mut now = Instant::now();
        let mut queue = DeliveryQueue::new(limits(), 7);
        let mut world = World::default();
        for step in steps {
            world.step(&mut queue, step, &mut now);
            world.check(&queue);
        }

        // Whatever happened: once every slot has a worker that takes what it gets, nothing is left.
        world.step(&mut queue, Step::Attach, &mut now);
        let table = vec![Entry::Worker(world.channels); 3];
        queue.set_table(&table, now);
        let channels: Vec<_> = world.workers.keys().copied().collect();
        for channel in channels {
            queue.unblock(channel);
        }
        world.step(&mut queue, Step::Wait { milliseconds: 20 }, &mut now);
        while queue.unsettled() > 0 {
            let before = queue.unsettled();
            while queue.waiting() > 0 {
                let waiting = queue.waiting();
                world.send(&mut queue, 64, Outcome::Sent, now);
                if queue.waiting() == waiting {
                    break;
                }
            }
            let channels: Vec<_> = world.workers.keys().copied().collect();
            for channel in channels {
                let held = std::mem::take(world.workers.get_mut(&channel).unwrap());
                if let Some(&(through, _)) = held.back() {
                    let ids: Vec<_> = held.iter().map(|&(_, id)| id).collect();
                    prop_assert_eq!(queue.adopted(channel, through, Duration::ZERO), Ok(ids.clone()));
                    for id in ids {
                        world.settle(|world| &mut world.adopted, id);
                    }
                }
            }
            world.check(&queue);
            prop_assert!(queue.unsettled() < before, "stuck with {} connections", before);
        }
        prop_assert!(!queue.is_starving());
    }
}
