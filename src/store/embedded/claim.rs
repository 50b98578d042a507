//! Leasing: reads rows and notes the leases in memory. Writes nothing.

use super::codec;
use super::read;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::mail::message::MessageHead;
use crate::store::journal::record::Place;
use crate::store::row::Row;
use crate::store::shared::Shared;
use crate::store::{Claim, Claimed, Lease, QueueId};
use rusqlite::{Connection, OptionalExtension, Result, params};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows that one claim of expired deliveries looks at; the next claim goes on behind them.
const EXPIRY_LOOK_MAX: u32 = 10_000;

/// Leases what the claim asks for, until `until`.
///
/// # Errors
/// Of the database; nothing is leased then.
pub(super) fn claim(
    db: &Connection,
    shared: &Shared,
    claim: &Claim,
    until: Timestamp,
) -> Result<Vec<Claimed>> {
    let mut claimed = Grouped { until, groups: Vec::new(), places: HashMap::new(), count: 0 };
    if shared.lock().tally.all_held() {
        return Ok(Vec::new());
    }
    for (queue, most) in &claim.queues {
        let most = (*most).min(claim.limit.saturating_sub(claimed.count));
        let taken = match claim.expired_at {
            _ if most == 0 => continue,
            None => claim_due(db, shared, *queue, claim, most, &mut claimed),
            Some(at) => claim_expired(db, shared, *queue, at, most, &mut claimed),
        };
        if let Err(error) = taken {
            shared.release(&claimed.leases());
            return Err(error);
        }
    }
    shared.wake();
    Ok(claimed.groups)
}

/// Deliveries leased so far, by message.
struct Grouped {
    until: Timestamp,
    groups: Vec<Claimed>,
    /// Where each message is in `groups`, and where its bytes lie.
    places: HashMap<MessageId, (usize, Place)>,
    count: u32,
}

impl Grouped {
    fn leases(&self) -> Vec<Lease> {
        self.groups.iter().flat_map(Claimed::leases).collect()
    }

    /// What is known of a message: from what is here, else from the database. `None` where it
    /// cannot be read.
    fn message(&self, db: &Connection, id: MessageId) -> Result<Option<(Arc<MessageHead>, Place)>> {
        match self.places.get(&id).and_then(|(n, place)| Some((self.groups.get(*n)?, place))) {
            Some((group, place)) => Ok(Some((Arc::clone(&group.head), *place))),
            None => read::message(db, id),
        }
    }

    fn lease(&mut self, shared: &Shared, row: Row, head: Arc<MessageHead>, place: Place) {
        let lone = head.recipient_count == 1;
        let delivery = shared.lock().grant(row, self.until, lone, place);
        self.count += 1;
        let (n, _) = *self.places.entry(head.id).or_insert((self.groups.len(), place));
        match self.groups.get_mut(n) {
            Some(group) => group.deliveries.push(delivery),
            None => self.groups.push(Claimed {
                head,
                trusted_until: self.until,
                deliveries: vec![delivery],
            }),
        }
    }
}

fn claim_due(
    db: &Connection,
    shared: &Shared,
    queue: QueueId,
    claim: &Claim,
    most: u32,
    claimed: &mut Grouped,
) -> Result<()> {
    let Some(scan) = shared.lock().tally.scan(queue) else { return Ok(()) };
    let mut statement = db.prepare_cached(read::ROWS_AFTER)?;
    let mut rows = statement.query(read::beyond(scan.from.unwrap_or(read::start_of(queue))))?;
    let goal = claimed.count + most;
    let mut to = scan.from;
    let next_due = loop {
        let Some(row) = rows.next()? else { break Timestamp::NEVER };
        let Some(row) = read::readable(codec::row(row))? else { continue };
        if row.held_due.is_some() {
            break Timestamp::NEVER;
        }
        let is_leased = shared.lock().leases.contains(row.key.delivery);
        let is_in_reach = is_leased || claim.reaches(row.key.due_at, row.attempts);
        if claimed.count == goal || !is_in_reach {
            break row.key.due_at;
        }
        to = Some(row.key);
        take(db, shared, row, claimed)?;
    };
    shared.lock().tally.scanned(queue, scan, to, next_due);
    Ok(())
}

/// Leases a row, unless it is leased or its message cannot be read.
fn take(db: &Connection, shared: &Shared, row: Row, claimed: &mut Grouped) -> Result<()> {
    if shared.lock().leases.contains(row.key.delivery) {
        return Ok(());
    }
    if let Some((head, place)) = claimed.message(db, row.key.delivery.message)? {
        claimed.lease(shared, row, head, place);
    }
    Ok(())
}

fn claim_expired(
    db: &Connection,
    shared: &Shared,
    queue: QueueId,
    at: Timestamp,
    most: u32,
    claimed: &mut Grouped,
) -> Result<()> {
    let from = shared.lock().tally.expiry_from(queue, None);
    let mut statement = db.prepare_cached(read::ROWS_AFTER)?;
    let mut expires = db.prepare_cached("SELECT expires_at <= ?2 FROM messages WHERE id = ?1")?;
    let mut rows = statement.query(read::beyond(from.unwrap_or(read::start_of(queue))))?;
    let goal = claimed.count + most;
    let mut looked = 0;
    while let Some(row) = rows.next()? {
        let Some(row) = read::readable(codec::row(row))? else { continue };
        let key = row.key;
        let expired = expires
            .query_row(params![key.delivery.message.number(), at.0], |row| row.get(0))
            .optional()?;
        if expired == Some(true) {
            take(db, shared, row, claimed)?;
        }
        looked += 1;
        if claimed.count == goal || looked == EXPIRY_LOOK_MAX {
            shared.lock().tally.expiry_from(queue, Some(key));
            break;
        }
    }
    Ok(())
}
