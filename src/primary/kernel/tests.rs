//! Random histories of tables and of workers that come, go, dawdle and give sockets back, with real sockets and channels,
//! against a model of workers that know only what they are told.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::probe::bound;
use super::*;
use crate::channel::frame::{Frame, Loan, VERSION};
use crate::channel::passing::{self, PassingReader};
use crate::client::address::Ipv6Prefix;
use crate::client::hash::ClientHasher;
use crate::primary::workers::answers::Answer;
use crate::primary::workers::channel::WorkerChannel;
use crate::primary::workers::table::Entry;
use crate::sys::socket;

#[derive(Clone, Debug)]
enum Step {
    /// The manager's table: which worker is in which slot, or none.
    Table(Vec<Option<usize>>),
    /// A worker comes, if it is not there.
    Come(usize),
    /// A worker dies.
    Die(usize),
    /// A worker does what it was told.
    Obey(usize),
    /// The primary reads what a worker has said.
    ReadAnswers(usize),
    /// A worker gives a socket back of its own accord.
    GiveBack(usize),
    /// Milliseconds pass.
    Wait(u64),
}

const WORKERS: usize = 4;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let worker = 0..WORKERS;
    let table = prop::collection::vec(prop::option::weighted(0.8, worker.clone()), 0..5);
    let step = prop_oneof![
        3 => table.prop_map(Step::Table),
        3 => worker.clone().prop_map(Step::Come),
        1 => worker.clone().prop_map(Step::Die),
        4 => worker.clone().prop_map(Step::Obey),
        4 => worker.clone().prop_map(Step::ReadAnswers),
        1 => worker.prop_map(Step::GiveBack),
        2 => (0..1500_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

struct Worker {
    channel: Channel,
    far: OwnedFd,
    reader: PassingReader,
    /// The sockets that it accepts from.
    sockets: BTreeMap<u32, (Loan, OwnedFd)>,
}

impl Worker {
    fn obey(&mut self) {
        while let Ok(Some(received)) = self.reader.receive(self.far.as_fd()) {
            match received.frame {
                Frame::Listen { loan, .. } => {
                    let socket = received.fds.into_iter().next().expect("the socket");
                    self.sockets.insert(loan.slot, (loan, socket));
                }
                Frame::Release(loan) => self.give_back(loan),
                other => panic!("{other:?}"),
            }
        }
    }

    fn give_back(&mut self, loan: Loan) {
        if self.sockets.get(&loan.slot).is_some_and(|(present, _)| *present == loan) {
            self.sockets.remove(&loan.slot);
        }
        passing::say(self.far.as_fd(), Frame::Released(loan)).unwrap();
    }
}

struct World {
    steering: Steering,
    table: Table,
    entries: Vec<Option<usize>>,
    channels: Channels,
    workers: [Option<Worker>; WORKERS],
    now: Instant,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let hasher = ClientHasher::new(*b"test key", Ipv6Prefix::FULL);
        let (first, _) = bound(Ipv4Addr::LOCALHOST.into()).unwrap();
        let now = Instant::now();
        Self {
            steering: Steering::new(Group::listen(first, hasher, 100).unwrap(), 1000, now),
            table: Table::default(),
            entries: Vec::new(),
            channels: Channels::default(),
            workers: Default::default(),
            now,
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Table(entries) => self.entries = entries,
            Step::Come(n) if self.workers[n].is_none() => self.come(n),
            Step::Come(_) => {}
            Step::Die(n) => {
                if let Some(worker) = self.workers[n].take() {
                    self.steering.ended(worker.channel, &self.channels);
                    self.channels.remove(worker.channel);
                    self.table.close(worker.channel, self.now);
                }
            }
            Step::Obey(n) => self.workers[n].iter_mut().for_each(Worker::obey),
            Step::ReadAnswers(n) => self.read_answers(n),
            Step::GiveBack(n) => {
                if let Some(worker) = &mut self.workers[n]
                    && let Some(&(loan, _)) = worker.sockets.values().next()
                {
                    worker.give_back(loan);
                }
            }
            Step::Wait(milliseconds) => self.now += Duration::from_millis(milliseconds),
        }
        self.follow();
    }

    fn come(&mut self, n: usize) {
        let (near, far) = socket::pair().unwrap();
        let watching = self.runtime.spawn(std::future::pending::<()>()).abort_handle();
        let channel = self.channels.add(WorkerChannel::new(near), false, |_| watching);
        passing::say(far.as_fd(), Frame::Hello { version: VERSION }).unwrap();
        self.table.open(channel, self.now);
        let (reader, sockets) = (PassingReader::default(), BTreeMap::new());
        self.workers[n] = Some(Worker { channel, far, reader, sockets });
    }

    fn read_answers(&mut self, n: usize) {
        let Some(worker) = &self.workers[n] else { return };
        loop {
            let said = self.channels.get_mut(worker.channel).unwrap().channel.read();
            if said.is_empty() {
                return;
            }
            for answer in said {
                if let Answer::Released(loan) = answer {
                    self.steering.given_back(worker.channel, loan, &self.channels, self.now);
                }
            }
        }
    }

    fn follow(&mut self) {
        let entry = |&entry: &Option<usize>| match entry.map(|n| &self.workers[n]) {
            None => Entry::Empty,
            Some(None) => Entry::Pending,
            Some(Some(worker)) => Entry::Worker(worker.channel),
        };
        let entries: Vec<_> = self.entries.iter().map(entry).collect();
        self.table.set(&entries, self.now);
        self.steering.follow(&self.table, &mut self.channels, self.now);
        for slot in 0..self.table.len() {
            self.assert_somebody_accepts(slot);
        }
    }

    fn accepting(&self, slot: u32) -> Vec<Channel> {
        let workers = self.workers.iter().flatten();
        let accepting = workers.filter(|worker| worker.sockets.contains_key(&slot));
        accepting.map(|worker| worker.channel).collect()
    }

    fn primary_accepts(&self, slot: u32) -> bool {
        self.steering.sockets().nth(slot as usize).is_some_and(|(_, open)| open)
    }

    /// The primary, or a worker that lives and has been given the socket, though it may not know yet.
    fn assert_somebody_accepts(&self, slot: u32) {
        let holder = self.steering.slots[slot as usize].holder();
        let lives = holder.is_some_and(|holder| self.channels.get(holder).is_some());
        assert!(self.primary_accepts(slot) || lives, "nobody accepts for slot {slot}");
    }

    /// Once everybody has done all that it was told, and said so.
    fn settle(&mut self) {
        for _ in 0..3 {
            for n in 0..WORKERS {
                self.step(Step::Obey(n));
            }
            for slot in 0..5 {
                let accepting = self.accepting(slot);
                assert!(accepting.len() <= 1, "{accepting:?} accept for slot {slot}");
            }
            for n in 0..WORKERS {
                self.step(Step::ReadAnswers(n));
            }
            // Longer than anything rests.
            self.step(Step::Wait(2000));
        }
    }
}

/// A worker without descriptors gives its socket back just when the primary takes it back, and gets it again.
#[test]
fn answers_that_cross_are_not_taken_for_each_other() {
    let mut world = World::new();
    let one = |n| Step::Table(vec![Some(n)]);
    for step in [Step::Come(0), Step::Come(1), one(0), Step::Obey(0), Step::GiveBack(0), one(1)] {
        world.step(step);
    }
    // The primary takes the first answer for that to its own word, and lends to the second worker and back.
    for step in [Step::ReadAnswers(0), one(0), Step::Wait(2000), Step::Obey(0), one(1)] {
        world.step(step);
    }
    world.settle();
    assert_eq!(world.accepting(0), [world.workers[1].as_ref().unwrap().channel]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn guarantee_4_exactly_one_owner_a_slots_socket_is_with_its_worker_and_with_nobody_else(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
        for slot in 0..5 {
            let serving = world.table.serving(slot);
            prop_assert_eq!(world.accepting(slot), serving.into_iter().collect::<Vec<_>>());
            let exists = (slot as usize) < world.steering.slots.len();
            prop_assert_eq!(world.primary_accepts(slot), exists && serving.is_none());
        }
    }
}
