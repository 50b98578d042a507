//! Space for new mail: the floor of free disk space, and the budget of the queue. Below them no new
//! mail is taken, newsletters first, so that deliveries can go on.

use crate::base::time::Timestamp;
use crate::store::StoreError;
use crate::store::journal::files::Reserve;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long an answer of the file system is trusted.
const FRESH: Duration = Duration::from_secs(1);

/// What the queue may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes that are to stay free on the disk.
    pub(super) free_min: u64,
    /// Bytes that the queue may take in all.
    pub(super) size_max: Option<u64>,
}

impl Limits {
    /// Bytes that newsletters leave to direct mail.
    pub(super) fn for_direct(&self) -> u64 {
        self.free_min.min(1 << 30).max(self.size_max.unwrap_or(0) / 10)
    }

    /// Bytes left for new mail, of `dir`, where the queue takes `used` and has `reserve` in hand.
    pub(super) fn left(&self, dir: &Path, used: u64, reserve: Reserve) -> io::Result<u64> {
        let free = free(dir)?.saturating_add(reserve.in_all()).saturating_sub(self.free_min);
        let budget = self.size_max.map_or(u64::MAX, |max| max.saturating_sub(used));
        Ok(free.min(budget))
    }
}

/// What is left, as it was when somebody asked.
#[derive(Debug, Default)]
pub(super) struct Room {
    checked_at: Option<Timestamp>,
    left: u64,
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
        now: Timestamp,
        probe: impl FnOnce() -> io::Result<u64>,
    ) -> u64 {
        // A clock that went back makes `since` zero: compare both ways.
        let stale = self.checked_at.is_none_or(|at| now < at || now.since(at) >= FRESH);
        if stale || (self.freed && wanted > self.left) {
            self.checked_at = Some(now);
            self.freed = false;
            self.left = probe().unwrap_or(u64::MAX);
        }
        self.left
    }

    /// Takes room for this much new mail where `keep` is left then, or says why there is none. As
    /// [`Room::left`].
    pub(super) fn take(
        &mut self,
        mail: u64,
        keep: u64,
        now: Timestamp,
        probe: impl FnOnce() -> io::Result<u64>,
    ) -> Result<(), String> {
        let wanted = mail.saturating_add(keep);
        let left = self.left(wanted, now, probe);
        if wanted > left {
            let (left, keep) = (left >> 20, keep >> 20);
            return Err(match keep {
                0 => format!("{left} MiB left for new mail"),
                _ => format!("{left} MiB left for new mail, {keep} MiB of it for direct mail"),
            });
        }
        // Counted at once: much mail fits in between two answers.
        self.left = left.saturating_sub(mail);
        Ok(())
    }
}

/// Bytes of the database's files.
pub(super) fn database(dir: &Path) -> u64 {
    let size = |name| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
    size("queue.db") + size("queue.db-wal")
}

/// Bytes that an ordinary process may still write below `dir`.
pub(super) fn free(dir: &Path) -> io::Result<u64> {
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

    #[test]
    fn refuses_without_room_and_opens_again() {
        let mut room = Room::default();
        let mut take = |mail, ms, left| room.take(mail, 0, Timestamp(ms), || Ok(left)).is_ok();
        assert!(!take(1, 0, 0));
        assert!(!take(1, 999, 1), "trusted for a second");
        assert!(take(1, 1_000, 1));
        assert!(!take(1, 1_001, 1), "what was taken is counted");
        assert!(take(0, 2_000, 0), "outcomes are no mail");
        assert!(!take(1, 2_000, 0));
        assert!(take(1, 1_500, 1), "the clock went back");
        assert_eq!(room.left(0, Timestamp(5_000), || Ok(31)), 31);
        assert!(room.take(20, 12, Timestamp(5_000), || unreachable!()).is_err(), "newsletters");
        assert!(room.take(20, 11, Timestamp(5_000), || unreachable!()).is_ok());
        assert_eq!(room.left(0, Timestamp(6_000), || Err(io::ErrorKind::Other.into())), u64::MAX);
    }

    #[test]
    fn nobody_is_refused_on_an_answer_from_before_space_was_freed() {
        let mut room = Room::default();
        assert_eq!(room.left(1, Timestamp(0), || Ok(0)), 0);
        room.freed();
        assert_eq!(room.left(0, Timestamp(1), || unreachable!()), 0, "nothing is wanted");
        assert!(room.take(6, 0, Timestamp(1), || Ok(10)).is_ok());
        assert!(room.take(5, 0, Timestamp(2), || unreachable!()).is_err(), "asked once");
    }

    #[test]
    fn the_lower_of_floor_and_budget_counts() {
        let here = Path::new(".");
        let left = |free_min, size_max, used| {
            let reserve = Reserve { current: 10, spare: 20 };
            Limits { free_min, size_max }.left(here, used, reserve).unwrap()
        };
        assert!(left(0, None, 0) > 30);
        assert_eq!(left(u64::MAX, None, 0), 0);
        assert_eq!(left(0, Some(100), 70), 30);
        assert_eq!(left(0, Some(100), 170), 0);
    }
}
