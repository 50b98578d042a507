//! What is kept in memory, worked out from the database: at start, and after a failed write.

use super::codec;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::observe::store as tell;
use crate::store::names::Names;
use crate::store::shared::Shared;
use crate::store::{Cursor, QueueBacklog, QueueId, QueueKey};
use rusqlite::{Connection, OptionalExtension, Result, params};
use std::collections::HashMap;
use std::sync::Arc;

/// Counts what is queued into `shared`, and puts the names of all queues there, keeping the leases
/// whose deliveries are still in place. One pass over the deliveries.
pub(super) fn load(db: &Connection, shared: &Shared) -> Result<()> {
    let keys = queues(db)?;
    let found = count(db, &keys)?;
    let hold_all = meta(db, "hold_all")? == Some(1);
    let mut live = shared.lock();
    live.tally.clear();
    live.tally.hold_all(hold_all);
    for queue in &found {
        live.tally.found(queue);
    }
    for held in live.leases.drain() {
        if is_there(db, &held.row)? {
            live.leases.insert(held);
            live.tally.lease(held.row.queue, held.class);
        }
    }
    let mut names = Names::after(&live.names);
    for (id, key) in keys {
        if !live.tally.lives(id) {
            names.emptied(id, Arc::clone(&key));
        }
        names.insert(id, key);
    }
    live.names = names;
    drop(live);
    shared.wake();
    Ok(())
}

fn queues(db: &Connection) -> Result<HashMap<QueueId, Arc<QueueKey>>> {
    let mut statement = db.prepare("SELECT id, lane, tenant, campaign, domain FROM queues")?;
    let rows = statement.query_map([], codec::queue)?;
    rows.map(|row| row.map(|(id, key)| (id, Arc::new(key)))).collect()
}

fn count(db: &Connection, keys: &HashMap<QueueId, Arc<QueueKey>>) -> Result<Vec<QueueBacklog>> {
    let mut statement = db.prepare(
        "SELECT queue, sum(held_due IS NULL AND attempts = 0), \
         sum(held_due IS NULL AND attempts > 0), \
         sum(held_due IS NOT NULL), sum(size), min(message), min(due_at) \
         FROM deliveries GROUP BY queue",
    )?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id = QueueId(row.get(0)?);
        let Some(key) = keys.get(&id) else {
            tell::queue_unnamed(id.0);
            continue;
        };
        let oldest = MessageId::from_number(row.get(5)?);
        found.push(QueueBacklog {
            id,
            key: Arc::clone(key),
            ready: row.get(1)?,
            deferred: row.get(2)?,
            leased: 0,
            held: row.get(3)?,
            bytes: row.get(4)?,
            oldest: oldest.map_or(Timestamp(0), MessageId::created_at),
            next_due: Timestamp(row.get(6)?),
        });
    }
    Ok(found)
}

fn is_there(db: &Connection, row: &Cursor) -> Result<bool> {
    db.prepare_cached(
        "SELECT 1 FROM deliveries WHERE queue = ?1 AND due_at = ?2 \
             AND message = ?3 AND number = ?4",
    )?
    .exists(params![
        row.queue.0,
        row.due_at.0,
        row.delivery.message.number(),
        row.delivery.number
    ])
}

/// A value of `meta`.
fn meta(db: &Connection, key: &str) -> Result<Option<i64>> {
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

/// The greatest id in the queue or on record.
pub(super) fn last_id(db: &Connection) -> Result<Option<MessageId>> {
    let greatest: Option<i64> =
        db.query_row("SELECT max(id) FROM messages", [], |row| row.get(0))?;
    Ok(greatest.and_then(MessageId::from_number).max(recorded_id(db)?))
}

/// The greatest id on record: what is left when its message is gone.
pub(super) fn recorded_id(db: &Connection) -> Result<Option<MessageId>> {
    Ok(meta(db, "last_id")?.and_then(MessageId::from_number))
}

/// Puts the greatest id on record.
pub(super) fn save_last_id(db: &Connection, id: MessageId) -> Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('last_id', ?1)")?
        .execute([id.number()])?;
    Ok(())
}
