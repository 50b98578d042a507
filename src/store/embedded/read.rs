//! Reading: pages of deliveries, one message. For reader connections, and for the index thread's
//! own needs.

use super::codec::{self, row_columns};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::mail::message::MessageHead;
use crate::observe::store as tell;
use crate::store::filter::Matcher;
use crate::store::journal::record::Place;
use crate::store::row::Row;
use crate::store::shared::Shared;
use crate::store::{
    Cursor, DeliveryId, DeliveryRecord, MessageRecord, Page, QueueId, QueueKey, State,
};
use rusqlite::{Connection, OptionalExtension, Params, Result};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows and queues that one page or slice looks at.
const LOOK_MAX: usize = 10_000;
/// Names of queues taken from the backlog at a time.
const QUEUES_AT_ONCE: usize = 256;

/// The rows of one queue after one, see [`beyond`].
pub(super) const ROWS_AFTER: &str = concat!(
    "SELECT ",
    row_columns!(),
    " FROM deliveries WHERE queue = ?1 AND (due_at, message, number) > (?2, ?3, ?4) \
     ORDER BY due_at, message, number"
);
const ROWS_OF_MESSAGE: &str =
    concat!("SELECT ", row_columns!(), " FROM deliveries WHERE queue = ?1 AND message = ?2");

/// Parameters of [`ROWS_AFTER`].
pub(super) fn beyond(row: Cursor) -> impl Params {
    let Cursor { queue, due_at, delivery } = row;
    (queue.0, due_at.0, delivery.message.number(), delivery.number)
}

/// Before all rows of a queue.
pub(super) fn start_of(queue: QueueId) -> Cursor {
    let message = MessageId::floor(Timestamp(0));
    Cursor { queue, due_at: Timestamp(i64::MIN), delivery: DeliveryId { message, number: 0 } }
}

/// `None`, with a line in the log, for a row that cannot be read.
pub(super) fn readable<T>(row: Result<T>) -> Result<Option<T>> {
    match row {
        Ok(row) => Ok(Some(row)),
        Err(error) if codec::is_unreadable_row(&error) => {
            tell::row_unreadable(&error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What is known of a message; `None` where it is not there or cannot be read.
pub(super) fn head(db: &Connection, id: MessageId) -> Result<Option<Arc<MessageHead>>> {
    Ok(message(db, id)?.map(|(head, _)| head))
}

/// As [`head`], and where its bytes lie.
pub(super) fn message(db: &Connection, id: MessageId) -> Result<Option<(Arc<MessageHead>, Place)>> {
    let mut statement = db.prepare_cached(
        "SELECT id, accepted_at, expires_at, lane, reason, tenant, campaign, client, reverse_path, \
         body_type, smtputf8, ret, envid, size, recipient_count, segment, offset, payload, body \
         FROM messages WHERE id = ?1",
    )?;
    let read = |row: &rusqlite::Row<'_>| Ok((Arc::new(codec::head(row)?), codec::place(row, 15)?));
    Ok(readable(statement.query_row([id.number()], read).optional())?.flatten())
}

/// Where the bytes of a message lie, and how many they are; `None` where it is not there.
pub(super) fn place(db: &Connection, id: MessageId) -> Result<Option<(Place, u64)>> {
    let mut statement = db.prepare_cached(
        "SELECT segment, offset, payload, body, size FROM messages WHERE id = ?1",
    )?;
    let place = |row: &rusqlite::Row<'_>| Ok((codec::place(row, 0)?, row.get(4)?));
    statement.query_row([id.number()], place).optional()
}

/// A delivery; `None` where it is not in this place, or cannot be read.
pub(super) fn row(db: &Connection, key: &Cursor) -> Result<Option<Row>> {
    const ROW: &str = concat!(
        "SELECT ",
        row_columns!(),
        " FROM deliveries WHERE queue = ?1 AND due_at = ?2 AND message = ?3 AND number = ?4"
    );
    let mut statement = db.prepare_cached(ROW)?;
    let found = statement.query_row(
        (key.queue.0, key.due_at.0, key.delivery.message.number(), key.delivery.number),
        codec::row,
    );
    Ok(readable(found.optional())?.flatten())
}

/// The settled deliveries of a message that has others.
pub(super) fn closed(db: &Connection, head: &Arc<MessageHead>) -> Result<Vec<DeliveryRecord>> {
    let mut settled = db.prepare_cached(
        "SELECT number, state, attempts, recipient, notify, orcpt, at, reply, blame \
         FROM settled WHERE message = ?1",
    )?;
    let mut rows = settled.query([head.id.number()])?;
    let mut closed = Vec::new();
    while let Some(row) = rows.next()? {
        closed.extend(readable(codec::settled(row, head))?);
    }
    Ok(closed)
}

/// One delivery that matches.
pub(super) struct Found {
    pub(super) row: Row,
    pub(super) head: Arc<MessageHead>,
    pub(super) state: State,
}

/// Shows `visit` the deliveries that match, in order, from `after` on, until it breaks off or
/// enough was looked at. Gives back where to go on; `None` at the end.
pub(super) fn scan(
    db: &Connection,
    shared: &Shared,
    matcher: &Matcher,
    after: Option<Cursor>,
    mut visit: impl FnMut(Found) -> ControlFlow<()>,
) -> Result<Option<Cursor>> {
    let only = match matcher.message {
        Some(id) => Some(queues_of(db, id)?),
        None => None,
    };
    let mut cache = None;
    let mut looked = 0;
    let mut from = after.unwrap_or(start_of(QueueId(i64::MIN)));
    loop {
        let queues = next_queues(shared, only.as_deref(), from.queue);
        if queues.is_empty() {
            return Ok(None);
        }
        for (queue, key) in queues {
            if looked >= LOOK_MAX {
                return Ok(Some(from));
            }
            looked += 1;
            if matcher.queue(&key) {
                let start = if from.queue == queue { from } else { start_of(queue) };
                let mut statement = db.prepare_cached(ROWS_AFTER)?;
                let mut rows = statement.query(beyond(start))?;
                while let Some(row) = rows.next()? {
                    let Some(row) = readable(codec::row(row))? else { continue };
                    looked += 1;
                    let key = row.key;
                    let found = matching(db, shared, matcher, &mut cache, row)?;
                    let broke = found.is_some_and(|found| visit(found).is_break());
                    if broke || looked >= LOOK_MAX {
                        return Ok(Some(key));
                    }
                }
            }
            from = start_of(QueueId(queue.0.saturating_add(1)));
        }
    }
}

/// Some queues with deliveries, from `from` on; of those in `only`, where that is given.
fn next_queues(
    shared: &Shared,
    only: Option<&[QueueId]>,
    from: QueueId,
) -> Vec<(QueueId, Arc<QueueKey>)> {
    let live = shared.lock();
    match only {
        None => live.tally.from(from, QUEUES_AT_ONCE),
        Some(only) => only
            .iter()
            .filter(|queue| **queue >= from)
            .filter_map(|queue| Some((*queue, live.tally.key(*queue)?)))
            .collect(),
    }
}

/// The queues that a message's deliveries went to, by number.
fn queues_of(db: &Connection, id: MessageId) -> Result<Vec<QueueId>> {
    let list: Option<String> = db
        .prepare_cached("SELECT queues FROM messages WHERE id = ?1")?
        .query_row([id.number()], |row| row.get(0))
        .optional()?;
    let list = list.unwrap_or_default();
    Ok(list.split(' ').filter_map(|id| id.parse().ok()).map(QueueId).collect())
}

/// The delivery, where it matches. `cache` holds the head of the last message.
fn matching(
    db: &Connection,
    shared: &Shared,
    matcher: &Matcher,
    cache: &mut Option<Arc<MessageHead>>,
    row: Row,
) -> Result<Option<Found>> {
    let id = row.key.delivery.message;
    let state = row.state(shared.lock().leases.contains(row.key.delivery));
    if !matcher.row(id, &row.recipient, state) {
        return Ok(None);
    }
    if cache.as_ref().is_none_or(|head| head.id != id) {
        *cache = head(db, id)?;
    }
    let head = cache.as_ref().filter(|head| matcher.head(head));
    Ok(head.map(|head| Found { row, head: Arc::clone(head), state }))
}

/// One page of matching deliveries.
pub(super) fn list(
    db: &Connection,
    shared: &Shared,
    matcher: &Matcher,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page> {
    let tx = db.unchecked_transaction()?;
    let mut deliveries: Vec<DeliveryRecord> = Vec::new();
    let next = scan(&tx, shared, matcher, after, |found| {
        deliveries.push(found.row.record(found.head, found.state));
        if deliveries.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    tx.finish()?;
    Ok(Page { deliveries, next })
}

/// One message with all its deliveries.
pub(super) fn show(
    db: &Connection,
    shared: &Shared,
    id: MessageId,
) -> Result<Option<MessageRecord>> {
    let tx = db.unchecked_transaction()?;
    let Some(head) = head(&tx, id)? else { return Ok(None) };
    let mut deliveries = closed(&tx, &head)?;
    for queue in queues_of(&tx, id)? {
        let mut open = tx.prepare_cached(ROWS_OF_MESSAGE)?;
        let mut rows = open.query([queue.0, id.number()])?;
        while let Some(row) = rows.next()? {
            let Some(row) = readable(codec::row(row))? else { continue };
            let state = row.state(shared.lock().leases.contains(row.key.delivery));
            deliveries.push(row.record(Arc::clone(&head), state));
        }
    }
    deliveries.sort_by_key(|delivery| delivery.number);
    Ok(Some(MessageRecord { head, deliveries }))
}
