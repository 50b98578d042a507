//! New mail: a row of `messages`, one of `bodies`, one of `deliveries` for each recipient.

use super::codec::notify_bits;
use super::write::{Kind, Tx, Write};
use crate::base::time::Timestamp;
use crate::mail::envelope::{BodyType, Ret};
use crate::mail::message::NewMessage;
use crate::store::leases::Held;
use crate::store::row::{Class, Due, Row};
use crate::store::shared::{Effect, Shared};
use crate::store::{Accepted, Claimed, Cursor, DeliveryId, QueueId, QueueKey, StoreError};
use rusqlite::{CachedStatement, Result, params};
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::sync::oneshot;

/// `Store::accept` under way.
pub(super) struct Accept {
    pub(super) message: NewMessage,
    /// When the leases end that its deliveries are born with.
    pub(super) until: Option<Timestamp>,
    pub(super) result: std::result::Result<Accepted, StoreError>,
    pub(super) reply: oneshot::Sender<std::result::Result<Accepted, StoreError>>,
}

impl Write for Accept {
    fn kind(&self) -> Kind {
        Kind::Accept
    }

    fn weight(&self) -> usize {
        self.message.body.len()
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        self.result = match refusal(&self.message) {
            Some(refusal) => Err(refusal),
            None => insert(tx, &self.message, self.until)?.map(|claimed| Accepted { claimed }),
        };
        Ok(())
    }

    fn finish(self: Box<Self>, committed: std::result::Result<(), StoreError>, shared: &Shared) {
        let Err(unheard) = self.reply.send(committed.and(self.result)) else { return };
        if let Ok(Accepted { claimed: Some(claimed) }) = unheard {
            shared.release(&claimed.leases());
        }
    }
}

/// Why this message cannot be taken in, whatever is in the queue.
pub(super) fn refusal(message: &NewMessage) -> Option<StoreError> {
    let recipients = &message.envelope.recipients;
    let bad = recipients.is_empty() || recipients.iter().any(|r| r.mailbox.domain().is_none());
    bad.then(|| StoreError::Failed("a recipient without a domain, or none".into()))
}

/// The error for a message that is there already.
pub(super) fn duplicate(message: &NewMessage) -> StoreError {
    StoreError::Failed(format!("message {} is in the queue already", message.id))
}

/// Puts a message into the queue; leased, where `until` says so and not everything is held.
/// The inner error: it is there already, nothing was written.
pub(super) fn insert(
    tx: &mut Tx<'_>,
    message: &NewMessage,
    until: Option<Timestamp>,
) -> Result<std::result::Result<Option<Claimed>, StoreError>> {
    if insert_message(tx, message)? == 0 {
        return Ok(Err(duplicate(message)));
    }
    let born = {
        let live = tx.shared.lock();
        until.filter(|_| !live.tally.all_held())
    };
    let (rows, queues) = insert_deliveries(tx, message)?;
    tx.db.prepare_cached("INSERT INTO bodies VALUES (?1, ?2, ?3)")?.execute(params![
        message.id.number(),
        queues,
        &*message.body
    ])?;
    tx.last_id = tx.last_id.max(Some(message.id));
    let size = message.body.len() as u64;
    match born {
        None => {
            tx.effects.extend(rows.into_iter().map(|(row, key)| Effect::Enter {
                row,
                key,
                class: Class::Ready,
                size,
            }));
            Ok(Ok(None))
        }
        Some(until) => Ok(Ok(Some(lease(tx, message, rows, until)))),
    }
}

fn insert_message(tx: &Tx<'_>, message: &NewMessage) -> Result<usize> {
    let envelope = &message.envelope;
    tx.db
        .prepare_cached(
            "INSERT INTO messages VALUES \
             (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?15) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            message.id.number(),
            message.accepted_at.0,
            message.expires_at.0,
            message.origin.lane.as_str(),
            message.origin.reason,
            message.origin.tenant,
            message.origin.campaign,
            message.origin.client,
            envelope.reverse_path.as_str(),
            envelope.body == BodyType::EightBitMime,
            envelope.smtputf8,
            envelope.ret.map(|ret| ret == Ret::Full),
            envelope.envid,
            message.body.len() as u64,
            envelope.recipients.len() as u64,
        ])
}

/// Rows of new deliveries with the names of their queues.
type Rows = Vec<(Cursor, Arc<QueueKey>)>;

/// Gives back the rows, and the numbers of their queues as stored in `bodies`.
fn insert_deliveries(tx: &mut Tx<'_>, message: &NewMessage) -> Result<(Rows, String)> {
    let origin = &message.origin;
    let recipients = &message.envelope.recipients;
    let mut rows: Rows = Vec::with_capacity(recipients.len());
    let mut name: Option<QueueKey> = None;
    let mut insert = insert_statement(tx)?;
    for (number, recipient) in (0..).zip(recipients) {
        let Some(domain) = recipient.mailbox.domain() else { continue };
        let name = name.get_or_insert_with(|| QueueKey {
            lane: origin.lane,
            tenant: origin.tenant.clone(),
            campaign: origin.campaign.clone(),
            domain: domain.clone(),
        });
        name.domain.clone_from(domain);
        let (queue, key) = tx.intern(name)?;
        let delivery = DeliveryId { message: message.id, number };
        let row = Cursor { queue, due_at: Due::at(message.due_at).at, delivery };
        insert.execute(params![
            row.queue.0,
            row.due_at.0,
            message.id.number(),
            number,
            message.body.len() as u64,
            recipient.mailbox.as_str(),
            recipient.notify.map(notify_bits),
            recipient.orcpt,
        ])?;
        rows.push((row, key));
    }
    let queues = queue_list(&rows);
    Ok((rows, queues))
}

fn insert_statement<'a>(tx: &Tx<'a>) -> Result<CachedStatement<'a>> {
    tx.db.prepare_cached(
        "INSERT INTO deliveries VALUES (?1,?2,?3,?4,NULL,?5,0,0,?6,?7,?8,NULL,'',NULL)",
    )
}

/// Each queue once, by number.
fn queue_list(rows: &[(Cursor, Arc<QueueKey>)]) -> String {
    let mut ids: Vec<QueueId> = rows.iter().map(|(row, _)| row.queue).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut list = String::new();
    for id in ids {
        let gap = if list.is_empty() { "" } else { " " };
        let _ = write!(list, "{gap}{}", id.0);
    }
    list
}

/// Leases all rows of a new message.
fn lease(tx: &mut Tx<'_>, message: &NewMessage, rows: Rows, until: Timestamp) -> Claimed {
    let (head, recipients) = message.split();
    let (size, lone) = (head.size, head.recipient_count == 1);
    let mut deliveries = Vec::with_capacity(rows.len());
    for ((key, name), recipient) in rows.into_iter().zip(recipients) {
        let fence = tx.shared.lock().leases.next_fence();
        let class = Class::Ready;
        let held = Held { row: key, fence, until, class, size, lone, settling: false };
        tx.effects.push(Effect::EnterLeased { held, key: name });
        deliveries.push(Row::new(key, size, recipient.clone()).delivery(fence));
    }
    Claimed { head: Arc::new(head), trusted_until: until, deliveries }
}
