//! The queue's state: rows of queue-schema.sql, written behind the journal by one connection.
//!
//! # Invariants
//! * A commit holds all that the journal says up to the place that is written with it, and nothing
//!   after it.
//! * Whoever applies a record twice is wrong, but finds no row the second time.

use super::codec::{self, state_text};
use super::schema;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::mail::envelope::Notify;
use crate::mail::envelope::{BodyType, Ret};
use crate::mail::message::MessageHead;
use crate::policy::verdict::Blame;
use crate::store::journal::Position;
use crate::store::journal::record::{Closed, How, Place};
use crate::store::row::{Due, Row};
use crate::store::{Cursor, QueueId, QueueKey, State, StoreError};
use rusqlite::{Connection, OptionalExtension, Result, params};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// The connection that writes, and what it has to remember.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) db: Connection,
    /// Queues that have a row.
    known: HashSet<QueueId>,
    /// Messages and bytes that live in each segment of the journal.
    living: BTreeMap<u64, (u64, u64)>,
    /// Segments whose numbers changed since the last commit.
    changed: BTreeSet<u64>,
    /// Greatest id seen.
    pub(super) last_id: Option<MessageId>,
    /// Segment of the last record that says whether everything is held; 0 where it is not known.
    pub(super) hold_in: u64,
    /// A transaction is open.
    open: bool,
    /// Rows changed in it, about.
    pub(super) changes: u64,
}

/// A message on its way into the index.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) head: Arc<MessageHead>,
    /// Its open deliveries, with the names of their queues.
    pub(super) rows: Vec<(Row, Arc<QueueKey>)>,
    /// Where its bytes are.
    pub(super) place: Place,
}

/// What became of one delivery.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    /// Its row.
    pub(super) row: Cursor,
    /// The message has no other recipient.
    pub(super) lone: bool,
    pub(super) how: How,
    pub(super) at: Timestamp,
    pub(super) reply: &'a str,
    pub(super) blame: Option<Blame>,
}

impl Index {
    /// Opens the database in `dir`, and creates it where there is none.
    pub(super) fn open(dir: &Path, page_size: u32) -> Result<Self, StoreError> {
        let db = schema::open_writer(dir, page_size)?;
        Self::of(db).map_err(|e| schema::store_error(&e))
    }

    pub(super) fn of(db: Connection) -> Result<Self> {
        let column = |sql: &str| -> Result<Vec<i64>> {
            db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
        };
        let known = column("SELECT id FROM queues")?.into_iter().map(QueueId).collect();
        let mut statement = db.prepare("SELECT number, messages, bytes FROM segments")?;
        let segments = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))));
        let living = segments?.collect::<Result<_>>()?;
        drop(statement);
        let last_id = last_id(&db)?;
        let (changed, open, changes) = (BTreeSet::new(), false, 0);
        Ok(Self { db, known, living, changed, last_id, hold_in: 0, open, changes })
    }

    /// True while a transaction is open.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Opens a transaction, if none is.
    pub(super) fn begin(&mut self) -> Result<()> {
        if !self.open {
            self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.open = true;
        }
        Ok(())
    }

    /// Commits what was done, all of it before `reached` in the journal.
    pub(super) fn commit(&mut self, reached: Position) -> Result<()> {
        if !self.open {
            return Ok(());
        }
        for number in &self.changed {
            let (messages, bytes) = self.living.get(number).copied().unwrap_or_default();
            if messages == 0 {
                let sql = "DELETE FROM segments WHERE number = ?1";
                self.db.prepare_cached(sql)?.execute([number])?;
            } else {
                let sql = "INSERT OR REPLACE INTO segments VALUES (?1, ?2, ?3)";
                self.db.prepare_cached(sql)?.execute(params![number, messages, bytes])?;
            }
        }
        set_meta(&self.db, "segment", reached.segment.cast_signed())?;
        set_meta(&self.db, "offset", reached.offset.cast_signed())?;
        if let Some(id) = self.last_id {
            set_meta(&self.db, "last_id", id.number())?;
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;
        (self.open, self.changes) = (false, 0);
        self.changed.clear();
        self.living.retain(|_, (messages, _)| *messages > 0);
        Ok(())
    }

    /// Messages and bytes that live in a segment.
    pub(super) fn living(&self, segment: u64) -> (u64, u64) {
        self.living.get(&segment).copied().unwrap_or_default()
    }

    /// Bytes that live in all segments.
    pub(super) fn living_bytes(&self) -> u64 {
        self.living.values().map(|(_, bytes)| bytes).sum()
    }

    /// Counts a message in its segment.
    pub(super) fn count(&mut self, place: Place, bytes: u64) {
        let living = self.living.entry(place.frame.segment).or_default();
        *living = (living.0 + 1, living.1 + bytes);
        self.changed.insert(place.frame.segment);
    }

    /// Counts a message no more.
    pub(super) fn discount(&mut self, segment: u64, bytes: u64) {
        if let Some(living) = self.living.get_mut(&segment) {
            *living = (living.0.saturating_sub(1), living.1.saturating_sub(bytes));
            self.changed.insert(segment);
        }
    }

    /// Puts a message with its deliveries in, unless it is there. Does not count it.
    pub(super) fn insert(&mut self, arrival: &Arrival) -> Result<bool> {
        for (row, key) in &arrival.rows {
            self.name(row.key.queue, key)?;
        }
        if self.insert_message(arrival)? == 0 {
            return Ok(false);
        }
        let mut insert = self.db.prepare_cached(
            "INSERT INTO deliveries VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)",
        )?;
        for (row, _) in &arrival.rows {
            insert.execute(params![
                row.key.queue.0,
                row.key.due_at.0,
                row.key.delivery.message.number(),
                row.key.delivery.number,
                row.held_due.map(|due| due.0),
                row.size,
                row.attempts,
                row.delay_notified,
                row.recipient.mailbox.as_str(),
                row.recipient.notify.map(Notify::bits),
                row.recipient.orcpt,
                row.last_at.map(|at| at.0),
                row.last_reply,
                row.blame.map(Blame::as_str),
            ])?;
        }
        self.last_id = self.last_id.max(Some(arrival.head.id));
        self.changes += 1 + arrival.rows.len() as u64;
        Ok(true)
    }

    /// Puts a settled delivery of a message in that has others.
    pub(super) fn insert_closed(
        &mut self,
        message: MessageId,
        recipient: &crate::mail::envelope::Recipient,
        closed: &Closed,
    ) -> Result<()> {
        self.db
            .prepare_cached("INSERT INTO settled VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)")?
            .execute(params![
                message.number(),
                closed.number,
                state_text(closed.state),
                closed.attempts,
                recipient.mailbox.as_str(),
                recipient.notify.map(Notify::bits),
                recipient.orcpt,
                closed.at,
                closed.reply,
                closed.blame.map(Blame::as_str),
            ])?;
        Ok(())
    }

    fn insert_message(&self, arrival: &Arrival) -> Result<usize> {
        let head = &arrival.head;
        let envelope = &head.envelope;
        let mut queues: Vec<QueueId> = arrival.rows.iter().map(|(row, _)| row.key.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        self.db
            .prepare_cached(
                "INSERT INTO messages VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,\
                 ?16,?17,?18,?19,?20,?21) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                head.id.number(),
                head.accepted_at.0,
                head.expires_at.0,
                head.origin.lane.as_str(),
                head.origin.reason,
                head.origin.tenant,
                head.origin.campaign,
                head.origin.client,
                envelope.reverse_path.as_str(),
                envelope.body == BodyType::EightBitMime,
                envelope.smtputf8,
                envelope.ret.map(|ret| ret == Ret::Full),
                envelope.envid,
                head.size,
                head.recipient_count,
                arrival.rows.len() as u64,
                list(&queues),
                arrival.place.frame.segment,
                arrival.place.frame.offset,
                arrival.place.payload,
                arrival.place.body,
            ])
    }

    /// Makes sure that a queue has a row.
    fn name(&mut self, id: QueueId, key: &QueueKey) -> Result<()> {
        if self.known.insert(id) {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO queues VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    id.0,
                    key.lane.as_str(),
                    key.tenant,
                    key.campaign,
                    key.domain.as_str()
                ])?;
        }
        Ok(())
    }

    /// Removes the row of a queue that has long been empty.
    pub(super) fn forget(&mut self, queue: QueueId) -> Result<()> {
        self.known.remove(&queue);
        self.db.prepare_cached("DELETE FROM queues WHERE id = ?1")?.execute([queue.0])?;
        Ok(())
    }

    /// Notes what became of a delivery. False where it has no row.
    pub(super) fn apply(&mut self, ending: &Ending<'_>) -> Result<bool> {
        self.changes += 1;
        let reply = Some((ending.reply, ending.blame));
        match ending.how {
            How::Delivered => self.close(ending, State::Delivered, reply),
            How::Failed => self.close(ending, State::Failed, reply),
            How::Expired => self.close(ending, State::Expired, reply),
            How::Deleted => self.close(ending, State::Deleted, None),
            How::Deferred { due_at, delay_notified } => {
                let row = &ending.row;
                let held = (row.due_at == Timestamp::NEVER).then_some(row.due_at);
                let due = Due { at: row.due_at, held }.deferred(Timestamp(due_at));
                self.defer(ending, due, delay_notified)
            }
            How::Moved { due_at, held_due } => {
                let due = Due { at: Timestamp(due_at), held: held_due.map(Timestamp) };
                self.place(&ending.row, due)
            }
        }
    }

    fn defer(&self, ending: &Ending<'_>, due: Due, delay_notified: bool) -> Result<bool> {
        let row = &ending.row;
        let changed = self
            .db
            .prepare_cached(
                "UPDATE deliveries SET due_at = ?5, held_due = ?6, attempts = attempts + 1, \
                 delay_notified = ?7, last_at = ?8, last_reply = ?9, blame = ?10 \
                 WHERE queue = ?1 AND due_at = ?2 AND message = ?3 AND number = ?4",
            )?
            .execute(params![
                row.queue.0,
                row.due_at.0,
                row.delivery.message.number(),
                row.delivery.number,
                due.at.0,
                due.held.map(|held| held.0),
                delay_notified,
                ending.at.0,
                ending.reply,
                ending.blame.map(Blame::as_str),
            ])?;
        Ok(changed == 1)
    }

    /// Moves a delivery to where it is due.
    fn place(&self, row: &Cursor, due: Due) -> Result<bool> {
        let changed = self
            .db
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
        Ok(changed == 1)
    }

    /// Removes a delivery for good, and the message with its last one. `reply`: what is to be shown
    /// as the last one and whose fault it was; `None`: those of the last attempt.
    fn close(
        &mut self,
        ending: &Ending<'_>,
        state: State,
        reply: Option<(&str, Option<Blame>)>,
    ) -> Result<bool> {
        let row = &ending.row;
        let message = row.delivery.message.number();
        if !ending.lone {
            self.record(ending, state, reply)?;
        }
        let deleted = self
            .db
            .prepare_cached(
                "DELETE FROM deliveries WHERE queue = ?1 AND due_at = ?2 \
                 AND message = ?3 AND number = ?4",
            )?
            .execute(params![row.queue.0, row.due_at.0, message, row.delivery.number])?;
        if deleted == 0 {
            return Ok(false);
        }
        if !ending.lone {
            let open: Option<i64> = self
                .db
                .prepare_cached("UPDATE messages SET open = open - 1 WHERE id = ?1 RETURNING open")?
                .query_row([message], |row| row.get(0))
                .optional()?;
            if open.is_some_and(|open| open > 0) {
                return Ok(true);
            }
            self.db.prepare_cached("DELETE FROM settled WHERE message = ?1")?.execute([message])?;
        }
        let gone: Option<(u64, u64)> = self
            .db
            .prepare_cached("DELETE FROM messages WHERE id = ?1 RETURNING segment, size")?
            .query_row([message], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((segment, bytes)) = gone {
            self.discount(segment, bytes);
        }
        Ok(true)
    }

    /// Keeps the end of a delivery on record while its message has others.
    fn record(
        &self,
        ending: &Ending<'_>,
        state: State,
        reply: Option<(&str, Option<Blame>)>,
    ) -> Result<()> {
        let row = &ending.row;
        let attempted = matches!(state, State::Delivered | State::Failed);
        self.db
            .prepare_cached(
                "INSERT INTO settled \
                 SELECT message, number, ?5, attempts + ?6, recipient, notify, orcpt, ?7, \
                        coalesce(?8, last_reply), iif(?8 IS NULL, blame, ?9) FROM deliveries \
                 WHERE queue = ?1 AND due_at = ?2 AND message = ?3 AND number = ?4",
            )?
            .execute(params![
                row.queue.0,
                row.due_at.0,
                row.delivery.message.number(),
                row.delivery.number,
                state_text(state),
                attempted,
                ending.at.0,
                reply.map(|(reply, _)| reply),
                reply.and_then(|(_, blame)| blame).map(Blame::as_str),
            ])?;
        Ok(())
    }

    /// Notes that a message's bytes lie elsewhere now. False where it is not there.
    pub(super) fn carry(&mut self, message: MessageId, place: Place) -> Result<bool> {
        let before: Option<(u64, u64)> = self
            .db
            .prepare_cached("SELECT segment, size FROM messages WHERE id = ?1")?
            .query_row([message.number()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((segment, bytes)) = before else { return Ok(false) };
        self.db
            .prepare_cached(
                "UPDATE messages SET segment = ?2, offset = ?3, payload = ?4, body = ?5 \
                 WHERE id = ?1",
            )?
            .execute(params![
                message.number(),
                place.frame.segment,
                place.frame.offset,
                place.payload,
                place.body
            ])?;
        self.discount(segment, bytes);
        self.count(place, bytes);
        self.changes += 1;
        Ok(true)
    }

    /// Holds everything, or no longer, by a record at `at`.
    pub(super) fn hold_all(&mut self, hold: bool, at: Position) -> Result<()> {
        self.changes += 1;
        self.hold_in = at.segment;
        set_meta(&self.db, "hold_all", i64::from(hold))
    }

    /// The name of the queue of a message's deliveries to `domain`, and whether it has one
    /// delivery in all. `None` where the message is gone.
    pub(super) fn queue_of(
        &self,
        message: MessageId,
        domain: &str,
    ) -> Result<Option<(QueueKey, bool)>> {
        self.db
            .prepare_cached(
                "SELECT 0, lane, tenant, campaign, ?2, recipient_count = 1 \
                 FROM messages WHERE id = ?1",
            )?
            .query_row(params![message.number(), domain], |row| {
                let (_, key) = codec::queue(row)?;
                Ok((key, row.get(5)?))
            })
            .optional()
    }
}

/// The place in the journal that the database has reached.
pub(super) fn reached(db: &Connection) -> Result<Position> {
    let number = |key| meta(db, key).map(|value| value.unwrap_or(0).cast_unsigned());
    Ok(Position { segment: number("segment")?, offset: number("offset")? })
}

/// A value of `meta`.
pub(super) fn meta(db: &Connection, key: &str) -> Result<Option<i64>> {
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn set_meta(db: &Connection, key: &str, value: i64) -> Result<()> {
    let mut set = db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    set.execute(params![key, value]).map(|_| ())
}

/// The greatest id in the queue or on record.
pub(super) fn last_id(db: &Connection) -> Result<Option<MessageId>> {
    let greatest: Option<i64> =
        db.query_row("SELECT max(id) FROM messages", [], |row| row.get(0))?;
    let recorded = meta(db, "last_id")?.and_then(MessageId::from_number);
    Ok(greatest.and_then(MessageId::from_number).max(recorded))
}

fn list(queues: &[QueueId]) -> String {
    let mut list = String::new();
    for id in queues {
        let gap = if list.is_empty() { "" } else { " " };
        let _ = write!(list, "{gap}{}", id.0);
    }
    list
}
