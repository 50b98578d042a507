//! The floor of free disk space, below which no new mail is taken so that deliveries can go on.

use crate::base::time::Timestamp;
use crate::store::StoreError;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long an answer of the file system is trusted.
const FRESH: Duration = Duration::from_secs(1);

/// Watches one file system.
#[derive(Debug)]
pub(super) struct Floor {
    min: u64,
    checked_at: Option<Timestamp>,
    free: u64,
    /// Space may have become free since the file system was asked.
    freed: bool,
}

impl Floor {
    /// At least `min` bytes are to stay free.
    pub(super) fn new(min: u64) -> Self {
        Self { min, checked_at: None, free: u64::MAX, freed: false }
    }

    /// Notes that something left the queue: nobody is refused on an answer from before that.
    pub(super) fn freed(&mut self) {
        self.freed = true;
    }

    /// Bytes of new mail that leave the floor free. Asks `probe` at most once a second, and once
    /// more where `wanted` does not fit but space was freed; while that fails, there is room (a
    /// write would tell soon enough).
    pub(super) fn room(
        &mut self,
        wanted: u64,
        now: Timestamp,
        probe: impl FnOnce() -> io::Result<u64>,
    ) -> u64 {
        // A clock that went back makes `since` zero: compare both ways.
        let stale = self.checked_at.is_none_or(|at| now < at || now.since(at) >= FRESH);
        if stale || (self.freed && wanted > self.left()) {
            self.checked_at = Some(now);
            self.freed = false;
            self.free = probe().unwrap_or(u64::MAX);
        }
        self.left()
    }

    /// By the last answer.
    fn left(&self) -> u64 {
        self.free.saturating_sub(self.min)
    }

    /// Takes room for this much new mail, or says why there is none. As [`Floor::room`].
    pub(super) fn take(
        &mut self,
        mail: u64,
        now: Timestamp,
        probe: impl FnOnce() -> io::Result<u64>,
    ) -> Result<(), String> {
        if mail > self.room(mail, now, probe) {
            return Err(format!("{} MiB free, {} MiB to be kept", self.free >> 20, self.min >> 20));
        }
        // Counted at once: much mail fits in between two answers.
        self.free = self.free.saturating_sub(mail);
        Ok(())
    }
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

/// Bytes that can be written: free on the disk, or held by the journal for what comes.
pub(super) fn probe(dir: &Path, reserve: u64) -> io::Result<u64> {
    Ok(free(dir)?.saturating_add(reserve))
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
    fn refuses_below_the_floor_and_opens_again() {
        let mut floor = Floor::new(100);
        let mut take = |mail, ms, free| floor.take(mail, Timestamp(ms), || Ok(free)).is_ok();
        assert!(!take(1, 0, 100));
        assert!(!take(1, 999, 101), "trusted for a second");
        assert!(take(1, 1_000, 101));
        assert!(!take(1, 1_001, 101), "what was taken is counted");
        assert!(take(0, 2_000, 0), "outcomes are no mail");
        assert!(!take(1, 2_000, 0));
        assert!(take(1, 1_500, 101), "the clock went back");
        assert_eq!(floor.room(0, Timestamp(5_000), || Ok(131)), 31);
        assert_eq!(floor.room(0, Timestamp(6_000), || Err(io::ErrorKind::Other.into())) >> 60, 15);
    }

    #[test]
    fn nobody_is_refused_on_an_answer_from_before_space_was_freed() {
        let mut floor = Floor::new(100);
        assert_eq!(floor.room(1, Timestamp(0), || Ok(100)), 0);
        floor.freed();
        assert_eq!(floor.room(0, Timestamp(1), || unreachable!()), 0, "nothing is wanted");
        assert!(floor.take(6, Timestamp(1), || Ok(110)).is_ok());
        assert!(floor.take(5, Timestamp(2), || unreachable!()).is_err(), "asked once");
    }

    #[test]
    fn the_file_system_answers() {
        assert!(free(Path::new(".")).unwrap() > 0);
    }
}
