//! Which segments of the journal can be given up.
//!
//! # Invariants
//! * Oldest first, so that whatever the journal holds, it holds all that was said of it later.
//! * Only behind what is in the database file for good: commits are not synced, checkpoints are.

use super::carry::{Carried, Emptying};
use super::index::Index;
use super::indexer::now;
use crate::observe::store as tell;
use crate::store::journal::Position;
use crate::store::journal::disk::Disk;
use crate::store::journal::files::Files;
use crate::store::shared::Shared;
use rusqlite::Connection;
use std::time::{Duration, Instant};

/// Commits are moved to the database file after so long,
const CHECKPOINT_AFTER: Duration = Duration::from_secs(10);
/// and so much sooner when space is short.
const CHECKPOINT_SHORT: Duration = Duration::from_millis(250);
/// Rows changed after which they are moved at once.
const CHECKPOINT_CHANGES: u64 = 50_000;

/// Between two steps of emptying a segment.
const STEP: Duration = Duration::from_millis(5);
/// Until what could not be done for a segment is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// The journal may be so many times as large as what lives in it,
const GARBAGE: u64 = 2;
/// and so many segments larger.
const SLACK: u64 = 8;

/// When space is short, it may be so many segments larger.
const SLACK_SHORT: u64 = 3;

/// How far commits and checkpoints are.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// Place in the journal of the last commit.
    committed: Position,
    /// Place of the last commit that is in the database file for good.
    durable: Position,
    /// Rows changed since.
    changes: u64,
    checkpoint_at: Option<Instant>,
    /// The last segment that was given up.
    retired: u64,
    /// The segment that is being emptied.
    emptying: Option<Emptying>,
    /// When that was last over.
    emptied_at: Option<Instant>,
    /// When it was last recorded again that everything is held.
    held_at: Option<Instant>,
}

impl Reclaim {
    /// Notes a commit.
    pub(super) fn committed(&mut self, reached: Position, changes: u64) {
        self.committed = reached;
        self.changes += changes;
        self.checkpoint_at.get_or_insert_with(now);
    }

    /// Until something is due.
    pub(super) fn nap(&self) -> Duration {
        match self.checkpoint_at {
            _ if self.emptying.is_some() => STEP,
            Some(at) if self.committed > self.durable => {
                CHECKPOINT_AFTER.saturating_sub(at.elapsed())
            }
            _ => CHECKPOINT_AFTER,
        }
    }

    /// True where a checkpoint is due.
    pub(super) fn is_due(&self, short: bool) -> bool {
        let after = if short { CHECKPOINT_SHORT } else { CHECKPOINT_AFTER };
        let since = self.checkpoint_at.map(|at| at.elapsed());
        self.committed > self.durable
            && (self.changes >= CHECKPOINT_CHANGES || since.is_some_and(|since| since >= after))
    }

    /// Moves all commits to the database file. Where somebody still reads older ones, what can be
    /// moved is.
    pub(super) fn checkpoint(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.checkpoint_at = Some(now());
        self.changes = 0;
        let whole = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            let (busy, log, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(busy == 0 && log == moved)
        })?;
        if whole {
            self.durable = self.committed;
        }
        Ok(())
    }

    /// What was begun on a database that failed is void; and it may be a new one, of which nothing
    /// is on the disk for good.
    pub(super) fn recovered(&mut self) {
        self.emptying = None;
        self.durable = Position::default();
    }

    /// Where too much of the journal is not needed: a step towards emptying its oldest segment.
    /// Gives back records to be written, if it has come to that.
    pub(super) fn carry(
        &mut self,
        index: &Index,
        disk: &impl Disk,
        shared: &Shared,
        files: &Files,
        short: bool,
    ) -> rusqlite::Result<Vec<Carried>> {
        let Some(emptying) = &mut self.emptying else {
            self.begin(index, disk, files, short);
            return Ok(Vec::new());
        };
        if emptying.sweep(index)? {
            return Ok(Vec::new());
        }
        let slice = emptying.slice(index, shared, files)?;
        if emptying.is_over() {
            self.emptying = None;
            self.emptied_at = Some(now());
        }
        Ok(slice)
    }

    fn begin(&mut self, index: &Index, disk: &impl Disk, files: &Files, short: bool) {
        let Some(oldest) = self.oldest(files) else { return };
        let soon = self.emptied_at.is_some_and(|at| at.elapsed() < AGAIN);
        let size = files.size();
        let (garbage, slack) = if short { (1, SLACK_SHORT) } else { (GARBAGE, SLACK) };
        let needed = index.living_bytes() * garbage + slack * files.newest_size();
        if soon || size <= needed || index.living(oldest).0 == 0 {
            return;
        }
        match Emptying::begin(index, disk, oldest) {
            Ok(emptying) => self.emptying = Some(emptying),
            Err(error) => {
                self.emptied_at = Some(now());
                tell::failed("read", &error);
            }
        }
    }

    /// The oldest segment, unless it is needed for what is not in the database file for good.
    fn oldest(&self, files: &Files) -> Option<u64> {
        let oldest = files.numbers().into_iter().find(|number| *number > self.retired);
        oldest.filter(|oldest| *oldest < self.durable.segment)
    }

    /// The oldest segment where nothing in it is needed, but perhaps that everything is held.
    pub(super) fn empty(&self, files: &Files, index: &Index) -> Option<u64> {
        self.oldest(files).filter(|oldest| index.living(*oldest).0 == 0)
    }

    /// Notes that a segment is given up.
    pub(super) fn retired(&mut self, segment: u64) {
        self.retired = segment;
    }

    /// True where it may be recorded again now that everything is held; it then counts as done.
    pub(super) fn may_hold_again(&mut self) -> bool {
        let soon = self.held_at.is_some_and(|at| at.elapsed() < AGAIN);
        if !soon {
            self.held_at = Some(now());
        }
        !soon
    }
}
