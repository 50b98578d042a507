//! A message as one record that stands for all of its records so far.

use crate::mail::envelope::Recipient;
use crate::mail::message::{MessageHead, NewMessage};
use crate::store::DeliveryRecord;
use crate::store::journal::pack::Stored;
use crate::store::journal::record::{
    CARRIED, Carried, Closed, Open, Unreadable, write_carried, write_head,
};
use crate::store::row::Row;
use bytes::Bytes;

/// The record, to be written.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) kind: u8,
    pub(super) parts: Vec<Bytes>,
    /// Where in it the message's bytes begin.
    pub(super) body: u32,
}

/// `None` where recipients are missing.
///
/// # Errors
/// Of the codec.
pub(super) fn record(
    head: &MessageHead,
    open: &[Row],
    closed: &[DeliveryRecord],
    body: Stored,
) -> Result<Option<Record>, Unreadable> {
    let Some(recipients) = recipients(head.recipient_count, open, closed) else { return Ok(None) };
    let mut envelope = head.envelope.clone();
    envelope.recipients = recipients;
    let message = NewMessage {
        id: head.id,
        accepted_at: head.accepted_at,
        due_at: head.accepted_at,
        expires_at: head.expires_at,
        origin: head.origin.clone(),
        envelope,
        body: Bytes::new(),
    };
    let carried = Carried {
        open: open.iter().map(of_row).collect(),
        closed: closed.iter().map(of_record).collect(),
    };
    let mut first = write_carried(&carried)?;
    first.extend(write_head(&message)?);
    let begin = u32::try_from(first.len()).unwrap_or(u32::MAX);
    let (kind, parts) = (body.kind(CARRIED), vec![Bytes::from(first), body.bytes]);
    Ok(Some(Record { kind, parts, body: begin }))
}

/// All of a message, by number.
fn recipients(count: u32, open: &[Row], closed: &[DeliveryRecord]) -> Option<Vec<Recipient>> {
    let open = open.iter().map(|row| (row.key.delivery.number, &row.recipient));
    let mut all: Vec<(u32, &Recipient)> =
        open.chain(closed.iter().map(|record| (record.number, &record.recipient))).collect();
    all.sort_unstable_by_key(|(number, _)| *number);
    let whole = all.iter().map(|(number, _)| *number).eq(0..count);
    whole.then(|| all.into_iter().map(|(_, recipient)| recipient.clone()).collect())
}

fn of_row(row: &Row) -> Open {
    Open {
        number: row.key.delivery.number,
        due_at: row.key.due_at.0,
        held_due: row.held_due.map(|due| due.0),
        attempts: row.attempts,
        delay_notified: row.delay_notified,
        last_at: row.last_at.map(|at| at.0),
        last_reply: row.last_reply.clone(),
        blame: row.blame,
    }
}

fn of_record(record: &DeliveryRecord) -> Closed {
    Closed {
        number: record.number,
        state: record.state,
        attempts: record.attempts,
        at: record.last_at.map_or(0, |at| at.0),
        reply: record.last_reply.clone(),
        blame: record.blame,
    }
}
