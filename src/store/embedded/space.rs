//! Space for new mail: the floor of free disk space, and the budget of the queue. Below them no new
//! mail is taken, newsletters first, so that deliveries can go on.

use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::store::StoreError;
use crate::store::journal::files::Reserve;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long an answer of the file system is trusted.
const FRESH: Duration = Duration::from_secs(1);

/// Newsletters stop this much above the floor at most, in bytes; below that, as much as the floor.
const FLOOR_TWICE_MAX: u64 = 1 << 30;
/// With room for less new mail than this, in bytes, space is short; with a budget, with a tenth of
/// that where it is less.
const SHORT: u64 = 64 << 20;

/// What the queue may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes that are to stay free on the disk.
    pub(super) free_min: u64,
    /// Bytes that the queue may take in all.
    pub(super) size_max: Option<u64>,
}

impl Limits {
    /// What is left in `dir`, where the queue takes `used` and has `reserve` in hand. Newsletters
    /// leave as much as the floor above it to direct mail, and a tenth of the budget.
    pub(super) fn left(&self, dir: &Path, used: u64, reserve: Reserve) -> io::Result<Left> {
        let free = free(dir)?.saturating_add(reserve.in_all()).saturating_sub(self.free_min);
        let budget = self.size_max.map_or(u64::MAX, |max| max.saturating_sub(used));
        let bulk_of_free = free.saturating_sub(self.free_min.min(FLOOR_TWICE_MAX));
        let bulk_of_budget = budget.saturating_sub(self.size_max.unwrap_or(0) / 10);
        Ok(Left { all: free.min(budget), bulk: bulk_of_free.min(bulk_of_budget) })
    }

    /// With less than this left for newsletters, in bytes, space is short.
    pub(super) fn short(&self) -> u64 {
        SHORT.min(self.size_max.map_or(u64::MAX, |max| max / 10))
    }
}

/// Bytes left for new mail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) all: u64,
    /// Of these, what newsletters may take.
    pub(super) bulk: u64,
}

impl Left {
    const ANY: Self = Self { all: u64::MAX, bulk: u64::MAX };

    fn of(self, lane: Lane) -> u64 {
        match lane {
            Lane::Direct => self.all,
            Lane::Bulk => self.bulk,
        }
    }
}

/// What is left, as it was when somebody asked.
#[derive(Debug, Default)]
pub(super) struct Room {
    checked_at: Option<Timestamp>,
    left: Left,
    /// Space may have become free since.
    freed: bool,
}

impl Room {
    /// Notes that something left the queue: nobody is refused on an answer from before that.
    pub(super) fn freed(&mut self) {
        self.freed = true;
    }

    /// Bytes of new mail for which there is space. Asks `probe` at most once a second, and once
    /// more where `wanted` does not fit but space was freed; while that fails, there is room (a
    /// write would tell soon enough).
    pub(super) fn left(
        &mut self,
        wanted: u64,
        lane: Lane,
        now: Timestamp,
        probe: impl FnOnce() -> io::Result<Left>,
    ) -> Left {
        // A clock that went back makes `since` zero: compare both ways.
        let stale = self.checked_at.is_none_or(|at| now < at || now.since(at) >= FRESH);
        if stale || (self.freed && wanted > self.left.of(lane)) {
            self.checked_at = Some(now);
            self.freed = false;
            self.left = probe().unwrap_or(Left::ANY);
        }
        self.left
    }

    /// Takes room for this much new mail, or says why there is none. As [`Room::left`].
    pub(super) fn take(
        &mut self,
        mail: u64,
        lane: Lane,
        now: Timestamp,
        probe: impl FnOnce() -> io::Result<Left>,
    ) -> Result<(), String> {
        let left = self.left(mail, lane, now, probe);
        if mail > left.of(lane) {
            let (all, kept) = (left.all >> 20, (left.all - left.of(lane)) >> 20);
            return Err(match kept {
                0 => format!("{all} MiB left for new mail"),
                _ => format!("{all} MiB left for new mail, {kept} MiB of it for direct mail"),
            });
        }
        // Counted at once: much mail fits in between two answers.
        let Left { all, bulk } = left;
        self.left = Left { all: all.saturating_sub(mail), bulk: bulk.saturating_sub(mail) };
        Ok(())
    }
}

/// Bytes of the database's files.
pub(super) fn database(dir: &Path) -> u64 {
    let size = |name| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
    size("queue.db") + size("queue.db-wal")
}

/// Bytes that an ordinary process may still write below `dir`.
///
/// # Errors
/// Where the system does not say.
pub fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes of the file system that holds `dir`.
pub(super) fn total(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Why a file could not be written, in the store's words.
pub(super) fn store_error(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full(error.to_string())
        }
        _ => StoreError::Failed(format!("the journal: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much for newsletters as for all.
    fn alike(all: u64) -> io::Result<Left> {
        Ok(Left { all, bulk: all })
    }

    #[test]
    fn refuses_without_room_and_opens_again() {
        let mut room = Room::default();
        let mut take =
            |mail, ms, left| room.take(mail, Lane::Direct, Timestamp(ms), || alike(left)).is_ok();
        assert!(!take(1, 0, 0));
        assert!(!take(1, 999, 1), "trusted for a second");
        assert!(take(1, 1_000, 1));
        assert!(!take(1, 1_001, 1), "what was taken is counted");
        assert!(take(0, 2_000, 0), "outcomes are no mail");
        assert!(!take(1, 2_000, 0));
        assert!(take(1, 1_500, 1), "the clock went back");
        let left = Left { all: 31, bulk: 19 };
        assert_eq!(room.left(0, Lane::Direct, Timestamp(5_000), || Ok(left)), left);
        let mut take = |mail, lane| room.take(mail, lane, Timestamp(5_000), || unreachable!());
        assert!(take(20, Lane::Bulk).is_err(), "newsletters");
        assert!(take(19, Lane::Bulk).is_ok());
        assert!(take(1, Lane::Bulk).is_err());
        assert!(take(12, Lane::Direct).is_ok());
        let failed = || Err(io::ErrorKind::Other.into());
        assert_eq!(room.left(0, Lane::Direct, Timestamp(6_000), failed), Left::ANY);
    }

    #[test]
    fn nobody_is_refused_on_an_answer_from_before_space_was_freed() {
        let mut room = Room::default();
        let none = Left::default();
        assert_eq!(room.left(1, Lane::Direct, Timestamp(0), || alike(0)), none);
        room.freed();
        let unasked = room.left(0, Lane::Direct, Timestamp(1), || unreachable!());
        assert_eq!(unasked, none, "nothing is wanted");
        assert!(room.take(6, Lane::Direct, Timestamp(1), || alike(10)).is_ok());
        let again = room.take(5, Lane::Direct, Timestamp(2), || unreachable!());
        assert!(again.is_err(), "asked once");
    }

    #[test]
    fn the_lower_of_floor_and_budget_counts() {
        let here = Path::new(".");
        let left = |free_min, size_max, used| {
            let reserve = Reserve { current: 10, spare: 20 };
            Limits { free_min, size_max }.left(here, used, reserve).unwrap()
        };
        assert!(left(0, None, 0).all > 30);
        assert_eq!(left(u64::MAX, None, 0), Left::default());
        assert_eq!(left(0, Some(100), 70), Left { all: 30, bulk: 20 });
        assert_eq!(left(0, Some(100), 170), Left::default());
        let above = |free_min| left(free_min, Some(100), 70).bulk;
        assert_eq!(above(1 << 20), 20, "the floor takes nothing from the budget");
    }
}
