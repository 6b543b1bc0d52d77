//! Arbitrary bytes as what a worker says, with connections in flight to it: whatever it claims, each
//! connection stays in one place.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use sticky_listen::primary::handover::queue::{DeliveryQueue, Ending, Limits};
use sticky_listen::primary::workers::answers::{Answer, AnswerReader};
use sticky_listen::primary::workers::table::Entry;

const CONNECTIONS: u32 = 100;

fuzz_target!(|bytes: &[u8]| {
    let now = Instant::now();
    let limits = Limits {
        pending_per_slot: 1000,
        patience: Some(Duration::from_secs(1)),
        in_flight_per_channel: 64,
    };
    let mut queue = DeliveryQueue::new(limits, 0);
    queue.set_table(&[Entry::Worker(1), Entry::Worker(1)], now);
    for connection in 0..CONNECTIONS {
        queue.push(connection.into(), connection, now).unwrap();
    }
    let mut ended = vec![];
    let (mut reader, mut input) = (AnswerReader::default(), bytes);
    while let Ok(Some(answer)) = reader.next(&mut input) {
        let valid = match answer {
            Answer::Hello => {
                queue.attach(1, now);
                Ok(())
            }
            Answer::Adopted { through, delay } => {
                queue.adopted(1, through, delay).map(|adopted| ended.extend(adopted))
            }
            Answer::Returned(first, count) => queue.returned(1, first, count, now),
            // Concerns no connection that is handed over.
            Answer::Released(_) | Answer::TakeOver => Ok(()),
        };
        if valid.is_err() {
            break;
        }
        while let Some(offer) = queue.offer(16) {
            assert!(offer.count > 0);
            queue.commit(&offer, now);
        }
    }
    ended.extend(queue.detach(1, Ending::ByPrimary, now));
    ended.extend(queue.remove_waiting(|_| true).into_iter().map(|removed| removed.connection));
    ended.sort_unstable();
    assert_eq!(ended, (0..CONNECTIONS).collect::<Vec<_>>());
});
