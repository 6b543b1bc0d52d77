//! How many connections this process may accept before it runs out of descriptors. libuv closes all that wait when it
//! gets none, so somebody else has to accept before.

use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

/// Connections after which to ask again at the latest, as limits change.
const ASKED_AFTER: u64 = 64;

/// Descriptors that are left to others.
const RESERVE: u64 = 8;

/// Grants so many connections to who asks; after them it is to be asked again. 0: there is no room, and sockets must not
/// be accepted from.
pub fn grant() -> u32 {
    static ROOM: Mutex<Room> = Mutex::new(Room { limit: 0, granting: 0 });
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    ROOM.lock().unwrap_or_else(PoisonError::into_inner).grant_below(limit, open_descriptors)
}

/// Knows the room that there was, and how much of it was granted since.
#[derive(Debug, Default)]
struct Room {
    limit: u64,
    /// Half of what was free when it was counted last, and not granted yet.
    granting: u64,
}

impl Room {
    fn grant_below(&mut self, limit: u64, count: impl FnOnce() -> Option<u64>) -> u32 {
        if limit != self.limit || self.granting == 0 {
            self.limit = limit;
            // Where they cannot even be counted there are none.
            let free = count().map_or(0, |open| limit.saturating_sub(open + RESERVE));
            self.granting = free.div_ceil(2);
        }
        let granted = self.granting.min(ASKED_AFTER);
        self.granting -= granted;
        u32::try_from(granted).unwrap_or(0)
    }
}

/// How many descriptors are open, one of them for counting; as far as this system tells.
fn open_descriptors() -> Option<u64> {
    match std::fs::read_dir("/dev/fd") {
        Ok(open) => u64::try_from(open.count()).ok(),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(0),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_until_few_descriptors_are_left() {
        let mut room = Room::default();
        let mut open = 100;
        loop {
            let granted = room.grant_below(1024, || Some(open));
            open += u64::from(granted);
            assert!(open + RESERVE <= 1024);
            if granted == 0 {
                break;
            }
        }
        assert_eq!(open + RESERVE, 1024);
    }

    #[test]
    fn counting_is_seldom() {
        let mut room = Room::default();
        let mut counted = 0;
        for _ in 0..1000 {
            let granted = room.grant_below(1 << 20, || {
                counted += 1;
                Some(100)
            });
            assert_eq!(granted, 64);
        }
        assert_eq!(counted, 1);
    }

    #[test]
    fn another_limit_is_noticed() {
        let mut room = Room::default();
        assert_eq!(room.grant_below(1 << 20, || Some(100)), 64);
        assert_eq!(room.grant_below(110, || Some(100)), 1);
        assert_eq!(room.grant_below(100, || Some(100)), 0);
        assert_eq!(room.grant_below(100, || None), 0);
    }

    #[test]
    fn this_process_has_room() {
        assert!(open_descriptors().is_some_and(|open| open > 2));
        assert!(grant() > 0);
    }
}
