//! Rows of queue-schema.sql to values and back.

use crate::base::address::{Domain, Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, Ret};
use crate::mail::message::{Lane, MessageHead, Origin};
use crate::policy::verdict::Blame;
use crate::store::journal::Position;
use crate::store::journal::record::Place;
use crate::store::row::Row;
use crate::store::{Cursor, DeliveryId, DeliveryRecord, QueueId, QueueKey, State};
use rusqlite::types::Type;
use rusqlite::{Error, Result};
use std::sync::Arc;

/// Columns that [`row`] reads, in its order.
macro_rules! row_columns {
    () => {
        "queue, due_at, message, number, held_due, size, attempts, delay_notified, \
         recipient, notify, orcpt, last_at, last_reply, blame"
    };
}
pub(super) use row_columns;

/// True where one row cannot be read but the database is sound: others go on without it.
pub(super) fn is_unreadable_row(error: &Error) -> bool {
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
    )
}

fn unreadable(column: usize, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, why.into())
}

fn text<'a>(row: &'a rusqlite::Row<'_>, column: usize) -> Result<&'a str> {
    row.get_ref(column)?.as_str().map_err(|e| unreadable(column, e))
}

fn id(row: &rusqlite::Row<'_>, column: usize) -> Result<MessageId> {
    MessageId::from_number(row.get(column)?).ok_or_else(|| unreadable(column, "not a message id"))
}

/// A row of `deliveries`.
pub(super) fn row(row: &rusqlite::Row<'_>) -> Result<Row> {
    let delivery = DeliveryId { message: id(row, 2)?, number: row.get(3)? };
    let held_due: Option<i64> = row.get(4)?;
    let last_at: Option<i64> = row.get(11)?;
    Ok(Row {
        key: Cursor { queue: QueueId(row.get(0)?), due_at: Timestamp(row.get(1)?), delivery },
        held_due: held_due.map(Timestamp),
        size: row.get(5)?,
        attempts: row.get(6)?,
        delay_notified: row.get(7)?,
        recipient: recipient(row, 8)?,
        last_at: last_at.map(Timestamp),
        last_reply: text(row, 12)?.to_owned(),
        blame: blame(row, 13)?,
    })
}

/// Three columns from `first` on: recipient, notify, orcpt.
fn recipient(row: &rusqlite::Row<'_>, first: usize) -> Result<Recipient> {
    let mailbox = Mailbox::parse(text(row, first)?).map_err(|e| unreadable(first, e))?;
    let notify: Option<u8> = row.get(first + 1)?;
    Ok(Recipient { mailbox, notify: notify.map(Notify::from_bits), orcpt: row.get(first + 2)? })
}

fn blame(row: &rusqlite::Row<'_>, column: usize) -> Result<Option<Blame>> {
    let text: Option<String> = row.get(column)?;
    match text {
        None => Ok(None),
        Some(text) => match Blame::ALL.into_iter().find(|blame| blame.as_str() == text) {
            Some(blame) => Ok(Some(blame)),
            None => Err(unreadable(column, "not a blame")),
        },
    }
}

fn lane(row: &rusqlite::Row<'_>, column: usize) -> Result<Lane> {
    text(row, column)?.parse().map_err(|e: String| unreadable(column, e))
}

/// `id, accepted_at, expires_at, lane, reason, tenant, campaign, client, reverse_path, body_type,
/// smtputf8, ret, envid, size, recipient_count` of `messages`.
pub(super) fn head(row: &rusqlite::Row<'_>) -> Result<MessageHead> {
    let reverse_path = ReversePath::parse(text(row, 8)?).map_err(|e| unreadable(8, e))?;
    let full: Option<bool> = row.get(11)?;
    Ok(MessageHead {
        id: id(row, 0)?,
        accepted_at: Timestamp(row.get(1)?),
        expires_at: Timestamp(row.get(2)?),
        origin: Origin {
            lane: lane(row, 3)?,
            reason: row.get(4)?,
            tenant: row.get(5)?,
            campaign: row.get(6)?,
            client: row.get(7)?,
        },
        envelope: Envelope {
            body: if row.get(9)? { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: row.get(10)?,
            ret: full.map(|full| if full { Ret::Full } else { Ret::Headers }),
            envid: row.get(12)?,
            ..Envelope::from(reverse_path)
        },
        size: row.get(13)?,
        recipient_count: row.get(14)?,
    })
}

/// Four columns from `first` on: segment, offset, payload, body.
pub(super) fn place(row: &rusqlite::Row<'_>, first: usize) -> Result<Place> {
    let frame = Position { segment: row.get(first)?, offset: row.get(first + 1)? };
    Ok(Place { frame, payload: row.get(first + 2)?, body: row.get(first + 3)? })
}

/// A row of `queues`: id, lane, tenant, campaign, domain.
pub(super) fn queue(row: &rusqlite::Row<'_>) -> Result<(QueueId, QueueKey)> {
    let domain = Domain::parse(text(row, 4)?).map_err(|e| unreadable(4, e))?;
    let key = QueueKey { lane: lane(row, 1)?, tenant: row.get(2)?, campaign: row.get(3)?, domain };
    Ok((QueueId(row.get(0)?), key))
}

/// `number, state, attempts, recipient, notify, orcpt, at, reply, blame` of `settled`.
pub(super) fn settled(row: &rusqlite::Row<'_>, head: &Arc<MessageHead>) -> Result<DeliveryRecord> {
    let all = [State::Delivered, State::Failed, State::Expired, State::Deleted];
    let state = text(row, 1)?;
    let state = all.into_iter().find(|s| state_text(*s) == state);
    Ok(DeliveryRecord {
        head: Arc::clone(head),
        number: row.get(0)?,
        state: state.ok_or_else(|| unreadable(1, "not a state"))?,
        attempts: row.get(2)?,
        recipient: recipient(row, 3)?,
        due_at: None,
        last_at: Some(Timestamp(row.get(6)?)),
        last_reply: row.get(7)?,
        blame: blame(row, 8)?,
    })
}

/// A state as stored in `settled`.
pub(super) fn state_text(state: State) -> &'static str {
    match state {
        State::Delivered => "delivered",
        State::Failed => "failed",
        State::Expired => "expired",
        State::Deleted => "deleted",
        State::Ready => "ready",
        State::Leased => "leased",
        State::Deferred => "deferred",
        State::Held => "held",
    }
}
