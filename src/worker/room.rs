//! How many connections this process may accept before it runs out of descriptors. libuv closes all that wait when it
//! gets none, so somebody else has to accept before.

use nix::sys::resource::{Resource, getrlimit};

/// Connections after which to ask again at the latest, as limits change.
const ASKED_AFTER: u64 = 64;

/// Descriptors that are left to others.
const RESERVE: u64 = 8;

/// Knows the room that there was, and how much of it was granted since.
#[derive(Debug, Default)]
pub struct Room {
    limit: u64,
    /// Half of what was free when it was counted last, and not granted yet.
    granting: u64,
}

impl Room {
    /// Grants so many connections; after them it is to be asked again. 0: there is no room.
    pub fn grant(&mut self) -> u32 {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        self.grant_below(limit, open_descriptors)
    }

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

/// How many descriptors are open, one of them for counting.
fn open_descriptors() -> Option<u64> {
    let open = std::fs::read_dir("/dev/fd").ok()?;
    u64::try_from(open.count()).ok()
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
        assert!(Room::default().grant() > 0);
    }
}
