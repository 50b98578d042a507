//! Outcomes: deliveries leave the queue or move to another due time; notifications come in.

use super::accept::{duplicate, insert, refusal};
use super::codec::state_text;
use super::write::{Kind, Tx, Write};
use crate::base::time::Timestamp;
use crate::policy::verdict::Blame;
use crate::store::row::{Class, Due};
use crate::store::shared::{Effect, Shared};
use crate::store::{Cursor, Lease, Outcome, Settled, Settlement, State, StoreError};
use rusqlite::{OptionalExtension, Result, params};
use tokio::sync::oneshot;

/// `Store::settle` under way.
pub(super) struct Settle {
    pub(super) settlement: Settlement,
    /// The stale leases.
    pub(super) result: std::result::Result<Vec<Lease>, StoreError>,
    pub(super) reply: oneshot::Sender<std::result::Result<Vec<Lease>, StoreError>>,
}

impl Write for Settle {
    fn kind(&self) -> Kind {
        Kind::Settle
    }

    fn weight(&self) -> usize {
        self.settlement.notices.iter().map(|notice| notice.body.len()).sum()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        self.result = match refused_notice(tx, &self.settlement)? {
            Some(refusal) => Err(refusal),
            None => Ok(settle(tx, &self.settlement)?),
        };
        Ok(())
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), StoreError>, _: &Shared) {
        // Who asked may have gone; the outcomes stand.
        let _ = self.reply.send(committed.and(self.result));
    }
}

/// Why the notices cannot be taken in: asked before anything is written.
fn refused_notice(tx: &Tx<'_>, settlement: &Settlement) -> Result<Option<StoreError>> {
    let notices = &settlement.notices;
    for (n, notice) in notices.iter().enumerate() {
        if let Some(refusal) = refusal(notice) {
            return Ok(Some(refusal));
        }
        let twice = notices.iter().take(n).any(|earlier| earlier.id == notice.id);
        let there = tx
            .db
            .prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?
            .exists([notice.id.number()])?;
        if twice || there {
            return Ok(Some(duplicate(notice)));
        }
    }
    Ok(None)
}

/// Gives back the stale leases.
fn settle(tx: &mut Tx<'_>, settlement: &Settlement) -> Result<Vec<Lease>> {
    let mut stale = Vec::new();
    for settled in &settlement.outcomes {
        if !settle_one(tx, settled, settlement.at)? {
            stale.push(settled.lease);
        }
    }
    for notice in &settlement.notices {
        // Not refused, so it comes in.
        let _ = insert(tx, notice, None)?;
    }
    Ok(stale)
}

/// False where the lease was stale.
fn settle_one(tx: &mut Tx<'_>, settled: &Settled, at: Timestamp) -> Result<bool> {
    let Some(held) = tx.take(&settled.lease) else { return Ok(false) };
    let state = match settled.outcome {
        Outcome::Delivered => State::Delivered,
        Outcome::Failed => State::Failed,
        Outcome::Expired => State::Expired,
        Outcome::Deferred { due_at, delay_notified } => {
            let held_due = (held.class == Class::Held).then_some(held.row.due_at);
            let due = Due { at: held.row.due_at, held: held_due }.deferred(due_at);
            let row = Cursor { due_at: due.at, ..held.row };
            let class = if due.held.is_some() { Class::Held } else { Class::Deferred };
            let found = defer(tx, &held.row, due, settled, at, delay_notified)?;
            tx.effects.push(if found {
                Effect::Unlease { row, class }
            } else {
                Effect::LeaveLeased { queue: held.row.queue, size: held.size }
            });
            return Ok(found);
        }
    };
    tx.effects.push(Effect::LeaveLeased { queue: held.row.queue, size: held.size });
    let end = End { state, at, reply: Some((&settled.reply, settled.blame)) };
    close(tx, &held.row, held.lone, &end)
}

fn defer(
    tx: &Tx<'_>,
    row: &Cursor,
    due: Due,
    settled: &Settled,
    at: Timestamp,
    delay_notified: bool,
) -> Result<bool> {
    let changed = tx
        .db
        .prepare_cached(
            "UPDATE deliveries SET due_at = ?5, held_due = ?6, attempts = attempts + 1, \
             delay_notified = ?7, last_at = ?8, last_reply = ?9, blame = ?10 \
             WHERE queue = ?1 AND due_at = ?2 \
             AND message = ?3 AND number = ?4",
        )?
        .execute(params![
            row.queue.0,
            row.due_at.0,
            row.delivery.message.number(),
            row.delivery.number,
            due.at.0,
            due.held.map(|held| held.0),
            delay_notified,
            at.0,
            settled.reply,
            settled.blame.map(Blame::as_str),
        ])?;
    Ok(changed == 1)
}

/// How a delivery ended.
pub(super) struct End<'a> {
    pub(super) state: State,
    pub(super) at: Timestamp,
    /// What is to be shown as the last reply and whose fault it was; `None`: those of the last
    /// attempt.
    pub(super) reply: Option<(&'a str, Option<Blame>)>,
}

/// Removes a delivery for good, and the message with its last one. False where there was none.
pub(super) fn close(tx: &Tx<'_>, row: &Cursor, lone: bool, end: &End<'_>) -> Result<bool> {
    let message = row.delivery.message.number();
    if !lone {
        record(tx, row, end)?;
    }
    let deleted = tx
        .db
        .prepare_cached(
            "DELETE FROM deliveries WHERE queue = ?1 AND due_at = ?2 \
             AND message = ?3 AND number = ?4",
        )?
        .execute(params![row.queue.0, row.due_at.0, message, row.delivery.number])?;
    if deleted == 0 {
        return Ok(false);
    }
    if !lone {
        let open: Option<i64> = tx
            .db
            .prepare_cached("UPDATE messages SET open = open - 1 WHERE id = ?1 RETURNING open")?
            .query_row([message], |row| row.get(0))
            .optional()?;
        if open.is_some_and(|open| open > 0) {
            return Ok(true);
        }
        tx.db.prepare_cached("DELETE FROM settled WHERE message = ?1")?.execute([message])?;
    }
    tx.db.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([message])?;
    tx.db.prepare_cached("DELETE FROM bodies WHERE message = ?1")?.execute([message])?;
    Ok(true)
}

/// Keeps the end of a delivery on record while its message has others.
fn record(tx: &Tx<'_>, row: &Cursor, end: &End<'_>) -> Result<()> {
    let attempted = matches!(end.state, State::Delivered | State::Failed);
    tx.db
        .prepare_cached(
            "INSERT INTO settled \
             SELECT message, number, ?5, attempts + ?6, recipient, notify, orcpt, ?7, \
                    coalesce(?8, last_reply), iif(?8 IS NULL, blame, ?9) FROM deliveries \
             WHERE queue = ?1 AND due_at = ?2 \
             AND message = ?3 AND number = ?4",
        )?
        .execute(params![
            row.queue.0,
            row.due_at.0,
            row.delivery.message.number(),
            row.delivery.number,
            state_text(end.state),
            attempted,
            end.at.0,
            end.reply.map(|(reply, _)| reply),
            end.reply.and_then(|(_, blame)| blame).map(Blame::as_str),
        ])?;
    Ok(())
}
