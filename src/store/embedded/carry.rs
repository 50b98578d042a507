//! Old segments with few messages left are emptied: these are written again at the journal's front,
//! each with what became of its deliveries, in small slices.
//!
//! Nobody keeps an index from messages to deliveries, since it would cost each message more than
//! this costs a few. So one sweep over the deliveries finds those of the messages in question; what
//! moved meanwhile is found by a later one.
//!
//! # Invariants
//! * Nothing of a message that is carried on changes between the look at its rows and its record:
//!   messages with leases stay, and nothing is claimed while the record is on its way.

use super::bodies;
use super::carried::{self, Record};
use super::index::Index;
use super::read;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::observe::store as tell;
use crate::store::journal::Position;
use crate::store::journal::disk::Disk;
use crate::store::journal::files::{self, Files};
use crate::store::journal::pack::Stored;
use crate::store::journal::record::{self, Place};
use crate::store::row::Row;
use crate::store::shared::Shared;
use crate::store::{Cursor, DeliveryId, DeliveryRecord, QueueId};
use bytes::Bytes;
use rusqlite::{OptionalExtension, Result, params};
use std::collections::{HashMap, VecDeque};
use std::io;

/// Rows that one step of a sweep looks at.
const LOOK: u32 = 4_000;
/// Messages of one slice,
const SLICE: usize = 64;
/// and bytes of it, about.
const SLICE_BYTES: usize = 1 << 20;

/// A segment that is being emptied.
#[derive(Debug)]
pub(super) struct Emptying {
    segment: u64,
    /// Its messages, and their deliveries as the sweep found them.
    found: HashMap<MessageId, Vec<Cursor>>,
    /// Where the sweep goes on; `None` when it is over.
    sweep: Option<Cursor>,
    /// What is to be carried on.
    left: VecDeque<MessageId>,
}

/// A message that is written again.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) id: MessageId,
    pub(super) record: Record,
}

impl Emptying {
    /// Finds the messages that live in a segment.
    pub(super) fn begin(index: &Index, disk: &impl Disk, segment: u64) -> io::Result<Self> {
        let mut ids: Vec<MessageId> = Vec::new();
        let from = Position { segment, offset: 0 };
        let until = Some(Position { segment: segment + 1, offset: 0 });
        files::read::<io::Error>(disk, from, until, |_, kind, payload| {
            // What cannot be read was told of when it was replayed, or will be when it is sent.
            ids.extend(record::messages(kind, &payload));
            Ok(())
        })?;
        let lives = |id: &MessageId| {
            let place = read::place(&index.db, *id).ok().flatten();
            place.is_some_and(|(place, _)| place.frame.segment == segment)
        };
        let found: HashMap<_, _> =
            ids.into_iter().filter(lives).map(|id| (id, Vec::new())).collect();
        Ok(Self { segment, found, sweep: Some(read::start_of(QueueId(0))), left: VecDeque::new() })
    }

    /// True where all was done that could be.
    pub(super) fn is_over(&self) -> bool {
        self.sweep.is_none() && self.left.is_empty()
    }

    /// Goes on with the sweep. False where it is over.
    pub(super) fn sweep(&mut self, index: &Index) -> Result<bool> {
        let Some(from) = self.sweep else { return Ok(false) };
        let mut statement = index.db.prepare_cached(
            "SELECT queue, due_at, message, number FROM deliveries \
             WHERE (queue, due_at, message, number) > (?1, ?2, ?3, ?4) \
             ORDER BY queue, due_at, message, number LIMIT ?5",
        )?;
        let (message, number) = (from.delivery.message.number(), from.delivery.number);
        let mut rows =
            statement.query(params![from.queue.0, from.due_at.0, message, number, LOOK])?;
        let (mut looked, mut last) = (0, from);
        while let Some(row) = rows.next()? {
            looked += 1;
            let Some(message) = MessageId::from_number(row.get(2)?) else { continue };
            let delivery = DeliveryId { message, number: row.get(3)? };
            let (queue, due_at) = (QueueId(row.get(0)?), Timestamp(row.get(1)?));
            last = Cursor { queue, due_at, delivery };
            if let Some(rows) = self.found.get_mut(&message) {
                rows.push(last);
            }
        }
        self.sweep = (looked == LOOK).then_some(last);
        if self.sweep.is_none() {
            self.left = self.found.keys().copied().collect();
        }
        Ok(true)
    }

    /// The records of some messages, and which they are.
    pub(super) fn slice(
        &mut self,
        index: &Index,
        shared: &Shared,
        files: &Files,
    ) -> Result<Vec<Carried>> {
        let (mut slice, mut bytes) = (Vec::new(), 0);
        while slice.len() < SLICE && bytes < SLICE_BYTES {
            let Some(id) = self.left.pop_front() else { break };
            let Some(rows) = self.found.remove(&id) else { continue };
            if shared.lock().leases.any_of(id) {
                continue;
            }
            if let Some(record) = self.record(index, files, id, &rows)? {
                bytes += record.parts.iter().map(Bytes::len).sum::<usize>();
                slice.push(Carried { id, record });
            }
        }
        Ok(slice)
    }

    /// `None` where the message is not as it was found.
    fn record(
        &self,
        index: &Index,
        files: &Files,
        id: MessageId,
        rows: &[Cursor],
    ) -> Result<Option<Record>> {
        let Some((head, place)) = read::message(&index.db, id)? else { return Ok(None) };
        let count: Option<usize> = index
            .db
            .prepare_cached("SELECT open FROM messages WHERE id = ?1")?
            .query_row([id.number()], |row| row.get(0))
            .optional()?;
        let mut open: Vec<Row> = Vec::with_capacity(rows.len());
        for row in rows {
            open.extend(read::row(&index.db, row)?);
        }
        if place.frame.segment != self.segment || count != Some(open.len()) {
            return Ok(None);
        }
        let closed: Vec<DeliveryRecord> = read::closed(&index.db, &head)?;
        let Some(body) = body(files, id, place, head.size) else { return Ok(None) };
        Ok(carried::record(&head, &open, &closed, body).ok().flatten())
    }
}

fn body(files: &Files, id: MessageId, place: Place, size: u64) -> Option<Stored> {
    bodies::stored(files, bodies::Wanted { id, place, size }).unwrap_or_else(|error| {
        tell::failed("read", &error);
        None
    })
}
