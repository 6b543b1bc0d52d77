//! Arbitrary bytes as what a worker says, with connections in flight to it: whatever it claims, each
//! connection stays in one place.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use sticky_listen::primary::answers::{Answer, AnswerReader};
use sticky_listen::primary::dispatch::{Dispatch, Ending, Entry, Limits};

const CONNECTIONS: u32 = 100;

fuzz_target!(|bytes: &[u8]| {
    let now = Instant::now();
    let mut dispatch = Dispatch::new(Limits {
        pending_per_slot: 1000,
        patience: Some(Duration::from_secs(1)),
        in_flight_per_channel: 64,
    });
    dispatch.set_table(&[Entry::Worker(1), Entry::Worker(1)], now);
    for connection in 0..CONNECTIONS {
        dispatch.push(u64::from(connection), connection, now).unwrap();
    }
    let mut ended = vec![];
    let (mut reader, mut input) = (AnswerReader::default(), bytes);
    while let Ok(Some(answer)) = reader.next(&mut input) {
        let valid = match answer {
            Answer::Hello => {
                dispatch.attach(1, now);
                Ok(())
            }
            Answer::Adopted { through, .. } => dispatch.adopted(1, through).map(|adopted| ended.extend(adopted)),
            Answer::Returned(first, count) => dispatch.returned(1, first, count, now),
        };
        if valid.is_err() {
            break;
        }
        while let Some(offer) = dispatch.offer(16) {
            assert!(offer.count > 0);
            dispatch.commit(&offer);
        }
    }
    ended.extend(dispatch.detach(1, Ending::ByPrimary, now));
    ended.extend(dispatch.remove_waiting(|_| true));
    ended.sort_unstable();
    assert_eq!(ended, (0..CONNECTIONS).collect::<Vec<_>>());
});
