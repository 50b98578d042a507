//! What is kept in memory, worked out from the database at start.

use super::codec;
use super::index::meta;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::observe::store as tell;
use crate::store::journal::Position;
use crate::store::shared::Shared;
use crate::store::{QueueBacklog, QueueId, QueueKey};
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Notes the names of all queues in `shared`.
pub(super) fn names(db: &Connection, shared: &Shared) -> Result<()> {
    let keys = queues(db)?;
    let mut live = shared.lock();
    for (id, key) in keys {
        live.names.insert(id, key);
    }
    Ok(())
}

/// Counts what is queued into `shared`. One pass over the deliveries.
pub(super) fn count(db: &Connection, shared: &Shared) -> Result<()> {
    let keys = queues(db)?;
    let found = backlog(db, &keys)?;
    let hold_all = meta(db, "hold_all")? == Some(1);
    let mut live = shared.lock();
    live.tally.hold_all(hold_all);
    for queue in &found {
        live.tally.found(queue);
    }
    for (id, key) in keys {
        if !live.tally.lives(id) {
            live.names.emptied(id, key, Position::default());
        }
    }
    drop(live);
    shared.wake();
    Ok(())
}

/// By number, so that of two with one name the later counts.
fn queues(db: &Connection) -> Result<BTreeMap<QueueId, Arc<QueueKey>>> {
    let mut statement = db.prepare("SELECT id, lane, tenant, campaign, domain FROM queues")?;
    let rows = statement.query_map([], codec::queue)?;
    rows.map(|row| row.map(|(id, key)| (id, Arc::new(key)))).collect()
}

fn backlog(db: &Connection, keys: &BTreeMap<QueueId, Arc<QueueKey>>) -> Result<Vec<QueueBacklog>> {
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
