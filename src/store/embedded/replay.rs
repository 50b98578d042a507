//! From the journal to rows: what the index has missed, or all of it.

use super::index::{Arrival, Ending, Index};
use super::schema::store_error;
use crate::base::address::Domain;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::mail::message::NewMessage;
use crate::observe::store as tell;
use crate::store::journal::Position;
use crate::store::journal::disk::Disk;
use crate::store::journal::files::{self, Told};
use crate::store::journal::pack;
use crate::store::journal::record::{
    CARRIED, Carried, Ended, HOLD, MESSAGE, OUTCOMES, Open, Place, Unreadable, read_carried,
    read_message, read_outcomes,
};
use crate::store::row::{Due, Row};
use crate::store::shared::{Live, Shared};
use crate::store::{Cursor, DeliveryId, QueueKey, StoreError};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Changes in one transaction.
const CHANGES_MAX: u64 = 20_000;

/// Why a journal could not be replayed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Index(#[from] rusqlite::Error),
    #[error("cannot read the journal: {0}")]
    Journal(#[from] io::Error),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Index(error) => store_error(&error),
            Failure::Journal(_) => Self::Failed(failure.to_string()),
        }
    }
}

/// Which records to replay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// From here on.
    pub(super) from: Position,
    /// Before this; `None`: to the end.
    pub(super) until: Option<Position>,
}

/// Applies records to the index and commits; queues get their numbers from `shared`. `progress` is
/// told the place and the number of records now and then.
///
/// # Errors
/// Of the disk or the database; what was committed stands.
pub(super) fn replay(
    index: &mut Index,
    disk: &impl Disk,
    span: Span,
    shared: &Shared,
    mut progress: impl FnMut(Position, u64),
) -> Result<Told, StoreError> {
    let mut records = 0;
    let told = files::read::<Failure>(disk, span.from, span.until, |at, kind, payload| {
        if index.changes >= CHANGES_MAX {
            index.commit(at)?;
            progress(at, records);
        }
        index.begin()?;
        records += 1;
        let mut one = Replay { index, shared };
        match one.record(at, kind, &payload) {
            Ok(()) => Ok(()),
            Err(Fault::Unreadable(error)) => {
                tell::record_unreadable(at.segment, at.offset, &error);
                Ok(())
            }
            Err(Fault::Index(error)) => Err(error.into()),
        }
    })?;
    let reached = span.until.unwrap_or(told.last);
    index.begin().and_then(|()| index.commit(reached)).map_err(|e| store_error(&e))?;
    progress(told.last, records);
    Ok(told)
}

/// Why one record could not be applied.
enum Fault {
    Unreadable(Unreadable),
    Index(rusqlite::Error),
}

impl From<Unreadable> for Fault {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(error)
    }
}

struct Replay<'a> {
    index: &'a mut Index,
    shared: &'a Shared,
}

impl Replay<'_> {
    fn record(&mut self, at: Position, kind: u8, payload: &Bytes) -> Result<(), Fault> {
        let place = |body: usize| Place {
            frame: at,
            payload: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            body: u32::try_from(body).unwrap_or(u32::MAX),
        };
        match pack::base(kind) {
            MESSAGE => {
                let (message, body) = read_message(kind, payload)?;
                self.arrive(&message, place(body))?;
            }
            OUTCOMES => {
                let outcomes = read_outcomes(payload)?;
                for ended in &outcomes.ended {
                    self.end(ended, outcomes.at)?;
                }
                for (notice, body) in &outcomes.notices {
                    self.arrive(notice, place(*body))?;
                }
            }
            CARRIED => {
                let (carried, message, body) = read_carried(kind, payload)?;
                if !self.index.carry(message.id, place(body))? {
                    self.carry(&carried, &message, place(body))?;
                }
            }
            HOLD => self.index.hold_all(payload.first() == Some(&1), at)?,
            _ => return Err(Unreadable::Value("a kind of record").into()),
        }
        Ok(())
    }

    fn arrive(&mut self, message: &NewMessage, place: Place) -> Result<(), Fault> {
        let arrival = arrive(&mut self.shared.lock(), message, place);
        if self.index.insert(&arrival)? {
            self.index.count(place, arrival.head.size);
        }
        Ok(())
    }

    /// Puts in a message that is known from this record alone.
    fn carry(
        &mut self,
        carried: &Carried,
        message: &NewMessage,
        place: Place,
    ) -> Result<(), Fault> {
        let mut arrival = arrive(&mut self.shared.lock(), message, place);
        let open = |number| carried.open.iter().find(|open| open.number == number);
        arrival.rows.retain_mut(|(row, _)| match open(row.key.delivery.number) {
            Some(open) => {
                restore(row, open);
                true
            }
            None => false,
        });
        if self.index.insert(&arrival)? {
            self.index.count(place, arrival.head.size);
            for closed in &carried.closed {
                let number = usize::try_from(closed.number).unwrap_or(usize::MAX);
                if let Some(recipient) = message.envelope.recipients.get(number) {
                    self.index.insert_closed(message.id, recipient, closed)?;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, ended: &Ended<'_>, at: Timestamp) -> Result<(), Fault> {
        let unknown = || Unreadable::Value("a message id");
        let message = MessageId::from_number(ended.message).ok_or_else(unknown)?;
        // Its message may be known from this alone; the id is not to be given again.
        self.index.last_id = self.index.last_id.max(Some(message));
        let Some((name, lone)) = self.index.queue_of(message, &ended.domain)? else {
            return Ok(());
        };
        let Some(queue) = self.shared.lock().names.id(&name) else { return Ok(()) };
        let delivery = DeliveryId { message, number: ended.number };
        let row = Cursor { queue, due_at: Timestamp(ended.due_at), delivery };
        let (reply, blame) = (&*ended.reply, ended.blame);
        self.index.apply(&Ending { row, lone, how: ended.how, at, reply, blame })?;
        Ok(())
    }
}

/// A new message with rows and names of queues.
pub(super) fn arrive(live: &mut Live, message: &NewMessage, place: Place) -> Arrival {
    let (head, recipients) = message.split();
    let mut rows = Vec::with_capacity(recipients.len());
    let mut name: Option<QueueKey> = None;
    for (number, recipient) in (0..).zip(recipients) {
        let Some(domain) = recipient.mailbox.domain() else { continue };
        let name = name.get_or_insert_with(|| name_of(message, domain));
        name.domain.clone_from(domain);
        let (queue, key) = live.names.intern(name);
        let delivery = DeliveryId { message: message.id, number };
        let key_of_row = Cursor { queue, due_at: Due::at(message.due_at).at, delivery };
        rows.push((Row::new(key_of_row, head.size, recipient.clone()), key));
    }
    Arrival { head: Arc::new(head), rows, place }
}

fn name_of(message: &NewMessage, domain: &Domain) -> QueueKey {
    let origin = &message.origin;
    let (tenant, campaign) = (origin.tenant.clone(), origin.campaign.clone());
    QueueKey { lane: origin.lane, tenant, campaign, domain: domain.clone() }
}

fn restore(row: &mut Row, open: &Open) {
    row.key.due_at = Timestamp(open.due_at);
    row.held_due = open.held_due.map(Timestamp);
    (row.attempts, row.delay_notified) = (open.attempts, open.delay_notified);
    row.last_at = open.last_at.map(Timestamp);
    row.last_reply.clone_from(&open.last_reply);
    row.blame = open.blame;
}
