//! The clients that the load comes from: their addresses, and whether each stays with its worker.

use std::collections::HashSet;
use std::net::Ipv4Addr;

/// The worker that answered, as it names itself.
pub type Worker = u32;

/// Addresses of the proxies that forward when clients are named by a header. There are fewer than
/// clients, and a client comes through all of them in turn: who balances by address is found out.
const PROXIES: usize = 64;

/// One address for each of up to 2^24 - 2 clients, spread over all of 127/8 as clients are over the
/// internet: nginx's `ip_hash`, for one, takes a whole /24 for one client.
pub fn loopback(client: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x7f00_0000 | spread(client))
}

/// The address that a proxy would report for a client.
pub fn forwarded(client: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 | spread(client))
}

/// The address of the proxy through which the `nth` connection comes.
pub fn proxy(nth: usize) -> Ipv4Addr {
    loopback(nth % PROXIES)
}

/// Whose turn the `nth` connection is: at random, but alike in each run. In rows, an even number of
/// clients on an even number of workers would look sticky to round-robin.
pub fn turn(nth: u64, clients: usize) -> usize {
    let mut z = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((z ^ (z >> 31)) % clients as u64).unwrap_or(0)
}

/// Multiplying by an odd number is a bijection of 24-bit numbers.
fn spread(client: usize) -> u32 {
    let n = u32::try_from(client % 0xff_fffe).unwrap_or(0) + 1;
    n.wrapping_mul(0x9e_3779) & 0xff_ffff
}

/// Who was answered by whom.
pub struct Stickiness {
    last: Vec<Option<Worker>>,
    moved: HashSet<usize>,
    workers: HashSet<Worker>,
}

impl Stickiness {
    /// Nobody was answered yet.
    pub fn new(clients: usize) -> Self {
        Self { last: vec![None; clients], moved: HashSet::new(), workers: HashSet::new() }
    }

    /// A worker answered a client that was new to it, as it is to all.
    pub fn welcome(&mut self, worker: Worker) {
        self.workers.insert(worker);
    }

    /// A worker answered a client.
    pub fn note(&mut self, client: usize, worker: Worker) {
        let last = self.last[client].replace(worker);
        if last == Some(worker) {
            return;
        }
        self.workers.insert(worker);
        if last.is_some() {
            self.moved.insert(client);
        }
    }

    /// How many clients were answered by more than one worker.
    pub fn moved(&self) -> usize {
        self.moved.len()
    }

    /// How many clients were answered at all.
    pub fn answered(&self) -> usize {
        self.last.iter().flatten().count()
    }

    /// How many workers answered.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_usable_address_of_its_own() {
        let addresses: HashSet<_> = (0..100_000).map(loopback).collect();
        assert_eq!(addresses.len(), 100_000);
        assert!(addresses.iter().all(Ipv4Addr::is_loopback));
        assert!(!addresses.contains(&Ipv4Addr::new(127, 0, 0, 0)));
        assert!(!addresses.contains(&Ipv4Addr::new(127, 255, 255, 255)));
    }

    #[test]
    fn every_client_has_its_turn() {
        let turns: HashSet<_> = (0..10_000).map(|nth| turn(nth, 500)).collect();
        assert_eq!(turns.len(), 500);
    }

    #[test]
    fn a_client_moved_when_another_worker_answers_it() {
        let mut stickiness = Stickiness::new(3);
        for (client, worker) in [(0, 7), (1, 8), (0, 7), (1, 7), (1, 8)] {
            stickiness.note(client, worker);
        }
        assert_eq!((stickiness.moved(), stickiness.answered(), stickiness.workers()), (1, 2, 2));
    }
}
