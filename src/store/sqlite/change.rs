//! An operator's verbs: hold, release, retry, delete; of what matches, or of everything.

use super::read::{self, Found};
use super::settle::{End, close};
use super::write::{Kind, Tx, Write};
use crate::store::filter::Matcher;
use crate::store::row::Due;
use crate::store::shared::{Effect, Shared};
use crate::store::{Change as Action, Changed, Cursor, State, StoreError};
use rusqlite::{Result, params};
use std::ops::ControlFlow;
use tokio::sync::oneshot;

/// Deliveries that one slice changes: as long as others may wait for the writer.
const SLICE_MAX: usize = 1_000;

/// `Store::change` under way.
pub(super) struct Change {
    pub(super) matcher: Matcher,
    pub(super) action: Action,
    pub(super) after: Option<Cursor>,
    pub(super) result: Changed,
    pub(super) reply: oneshot::Sender<std::result::Result<Changed, StoreError>>,
}

impl Write for Change {
    fn kind(&self) -> Kind {
        Kind::Change
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let mut slice: Vec<Found> = Vec::new();
        let mut leased = 0;
        let next = read::scan(tx.db, tx.shared, &self.matcher, self.after, |found| {
            match found.state {
                State::Leased => leased += 1,
                _ => slice.push(found),
            }
            if slice.len() < SLICE_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        self.result = Changed { changed: 0, leased, next };
        for found in &slice {
            self.result.changed += u64::from(self.change(tx, found)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), StoreError>, _: &Shared) {
        let _ = self.reply.send(committed.map(|()| self.result));
    }
}

impl Change {
    /// False where there was nothing to change.
    fn change(&self, tx: &mut Tx<'_>, found: &Found) -> Result<bool> {
        let row = &found.row;
        let from = row.class();
        if self.action == Action::Delete {
            let at = tx.shared.clock.now();
            let end = End { state: State::Deleted, at, reply: None };
            tx.effects.push(Effect::Leave { queue: row.key.queue, class: from, size: row.size });
            return close(tx, &row.key, found.head.recipient_count == 1, &end);
        }
        let Some(due) = row.due().changed(self.action) else { return Ok(false) };
        place(tx, &row.key, due)?;
        let mut moved = row.clone();
        moved.key.due_at = due.at;
        moved.held_due = due.held;
        tx.effects.push(Effect::Shift { row: moved.key, from, to: moved.class() });
        Ok(true)
    }
}

/// Moves a delivery to where it is due.
fn place(tx: &Tx<'_>, row: &Cursor, due: Due) -> Result<()> {
    tx.db
        .prepare_cached(
            "UPDATE deliveries SET due_at = ?5, held_due = ?6 \
             WHERE queue = ?1 AND due_at = ?2 AND message = ?3 AND number = ?4",
        )?
        .execute(params![
            row.queue.0,
            row.due_at.0,
            row.delivery.message.number(),
            row.delivery.number,
            due.at.0,
            due.held.map(|held| held.0),
        ])?;
    Ok(())
}

/// `Store::hold_all` under way.
pub(super) struct HoldAll {
    pub(super) hold: bool,
    pub(super) reply: oneshot::Sender<std::result::Result<(), StoreError>>,
}

impl Write for HoldAll {
    fn kind(&self) -> Kind {
        Kind::Change
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        tx.db
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES ('hold_all', ?1)")?
            .execute([self.hold])?;
        tx.effects.push(Effect::HoldAll(self.hold));
        Ok(())
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), StoreError>, _: &Shared) {
        let _ = self.reply.send(committed);
    }
}
