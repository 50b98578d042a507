//! Which segments of the journal can be given up.
//!
//! # Invariants
//! * Oldest first, so that whatever the journal holds, it holds all that was said of it later.
//! * Only behind what is in the database file for good: commits are not synced, checkpoints are.

use super::index::Index;
use crate::store::journal::Position;
use crate::store::journal::files::Files;
use rusqlite::Connection;
use std::time::{Duration, Instant};

/// Commits are moved to the database file after so long,
const CHECKPOINT_AFTER: Duration = Duration::from_secs(10);
/// and so much sooner when space is short.
const CHECKPOINT_SHORT: Duration = Duration::from_millis(250);
/// Rows changed after which they are moved at once.
const CHECKPOINT_CHANGES: u64 = 50_000;

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
}

impl Reclaim {
    /// Notes a commit.
    pub(super) fn committed(&mut self, reached: Position, changes: u64) {
        self.committed = reached;
        self.changes += changes;
        self.checkpoint_at.get_or_insert_with(Instant::now);
    }

    /// Until a checkpoint is due.
    pub(super) fn nap(&self) -> Duration {
        match self.checkpoint_at {
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
        self.checkpoint_at = Some(Instant::now());
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

    /// Segments that can be given up now, oldest first, each once.
    pub(super) fn empty(&mut self, files: &Files, index: &Index) -> Vec<u64> {
        let mut empty = Vec::new();
        for number in files.numbers() {
            if number <= self.retired {
                continue;
            }
            if number >= self.durable.segment || index.living(number).0 > 0 {
                break;
            }
            self.retired = number;
            empty.push(number);
        }
        empty
    }
}
