//! The queue in memory: the model that other engines are held against, and an engine for trials
//! that keeps nothing over a restart.
//!
//! Plain maps behind one lock; every rule of [`Store`] in its simplest form. Reading it is reading
//! the specification.

use super::filter::Matcher;
use super::journal::Position;
use super::journal::record::Place;
use super::leases::Held;
use super::row::{Class, Due, Row};
use super::shared::{Effect, Shared};
use super::{
    Accepted, Backlog, Change, Changed, Claim, Claimed, Cursor, DeliveryId, DeliveryRecord, Filter,
    Lease, MessageRecord, Outcome, Page, QueueId, QueueKey, Revision, Settled, Settlement, State,
    Store, StoreError,
};
use crate::base::id::MessageId;
use crate::base::time::{Clock, Timestamp};
use crate::mail::message::{MessageHead, NewMessage};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Rows that one `list` or `change` looks at.
const LOOK_MAX: usize = 1_000;

/// A queue in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Locked before `shared`.
    data: Mutex<Data>,
    shared: Shared,
}

#[derive(Debug, Default)]
struct Data {
    messages: HashMap<MessageId, Message>,
    rows: BTreeMap<Cursor, Row>,
    last_id: Option<MessageId>,
    effects: Vec<Effect>,
}

#[derive(Debug)]
struct Message {
    head: Arc<MessageHead>,
    body: Bytes,
    /// Deliveries not settled.
    open: u32,
    settled: Vec<DeliveryRecord>,
}

impl MemoryStore {
    /// An empty queue.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner { data: Mutex::default(), shared: Shared::new(clock) }))
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.0.shared.clock.now()
    }

    /// Makes known what was done to `data`.
    fn commit(&self, data: &mut Data) {
        let effects = std::mem::take(&mut data.effects);
        self.0.shared.apply(effects, Position::default());
        self.0.shared.lock().forget(Position::default(), usize::MAX);
    }

    /// Works out when the queues that were claimed from have something due again.
    fn note_next_due(&self, data: &Data, claim: &Claim) {
        let mut live = self.0.shared.lock();
        for (queue, _) in &claim.queues {
            let Some(scan) = live.tally.scan(*queue) else { continue };
            let waits = |row: &&Row| !live.leases.contains(row.key.delivery);
            let next =
                data.queue(*queue).find(waits).map_or(Timestamp::NEVER, |row| row.key.due_at);
            live.tally.scanned(*queue, scan, None, next);
        }
    }

    /// The message and state of a row that matches.
    fn matching(
        &self,
        data: &Data,
        matcher: &Matcher,
        row: &Row,
    ) -> Option<(Arc<MessageHead>, State)> {
        let message = data.messages.get(&row.key.delivery.message)?;
        let live = self.0.shared.lock();
        let key = live.tally.key(row.key.queue)?;
        let state = row.state(live.leases.contains(row.key.delivery));
        let matches = matcher.queue(&key)
            && matcher.row(message.head.id, &row.recipient, state)
            && matcher.head(&message.head);
        matches.then(|| (Arc::clone(&message.head), state))
    }

    /// Leases the rows with these keys, in this order, grouped by message.
    fn grant(&self, data: &Data, keys: &[Cursor], until: Timestamp) -> Vec<Claimed> {
        let mut live = self.0.shared.lock();
        let mut claimed: Vec<Claimed> = Vec::new();
        for key in keys {
            let (Some(row), Some(message)) =
                (data.rows.get(key), data.messages.get(&key.delivery.message))
            else {
                continue;
            };
            let lone = message.head.recipient_count == 1;
            let delivery = live.grant(row.clone(), until, lone, Place::default());
            match claimed.iter_mut().find(|c| c.head.id == key.delivery.message) {
                Some(group) => group.deliveries.push(delivery),
                None => claimed.push(Claimed {
                    head: Arc::clone(&message.head),
                    trusted_until: until,
                    deliveries: vec![delivery],
                }),
            }
        }
        claimed
    }
}

impl Data {
    /// Why this message cannot be taken in.
    fn refuse(&self, message: &NewMessage) -> Result<(), StoreError> {
        let recipients = &message.envelope.recipients;
        if recipients.is_empty() || recipients.iter().any(|r| r.mailbox.domain().is_none()) {
            return Err(StoreError::Failed("a recipient without a domain, or none".into()));
        }
        if self.messages.contains_key(&message.id) {
            return Err(StoreError::Failed(format!(
                "message {} is in the queue already",
                message.id
            )));
        }
        Ok(())
    }

    /// Takes in a message that was not refused; gives back the keys of its rows.
    fn insert(&mut self, new: &NewMessage, shared: &Shared) -> Vec<(Cursor, Arc<QueueKey>)> {
        let (head, recipients) = new.split();
        let mut keys = Vec::with_capacity(recipients.len());
        for (number, recipient) in (0..).zip(recipients) {
            let Some(domain) = recipient.mailbox.domain() else { continue };
            let (queue, name) = shared.lock().names.intern(&QueueKey {
                lane: head.origin.lane,
                tenant: head.origin.tenant.clone(),
                campaign: head.origin.campaign.clone(),
                domain: domain.clone(),
            });
            let due_at = Due::at(new.due_at).at;
            let key = Cursor { queue, due_at, delivery: DeliveryId { message: head.id, number } };
            self.rows.insert(key, Row::new(key, head.size, recipient.clone()));
            keys.push((key, name));
        }
        self.last_id = self.last_id.max(Some(head.id));
        let open = head.recipient_count;
        let message =
            Message { head: Arc::new(head), body: new.body.clone(), open, settled: Vec::new() };
        self.messages.insert(new.id, message);
        keys
    }

    /// Removes a delivery for good; the message with its last one.
    fn close(&mut self, mut row: Row, state: State, at: Timestamp) {
        self.rows.remove(&row.key);
        row.last_at = Some(at);
        let id = row.key.delivery.message;
        let Some(message) = self.messages.get_mut(&id) else { return };
        message.open -= 1;
        if message.open == 0 {
            self.messages.remove(&id);
            return;
        }
        let record =
            DeliveryRecord { due_at: None, ..row.record(Arc::clone(&message.head), state) };
        message.settled.push(record);
    }

    /// Records one outcome of a lease that was good.
    fn settle(&mut self, held: Held, settled: &Settled, at: Timestamp) {
        let Some(mut row) = self.rows.remove(&held.row) else { return };
        let size = row.size;
        if !matches!(settled.outcome, Outcome::Deferred { .. }) {
            self.effects.push(Effect::LeaveLeased { queue: held.row.queue, size });
        }
        row.last_reply.clone_from(&settled.reply);
        row.blame = settled.blame;
        row.attempts += u32::from(settled.outcome != Outcome::Expired);
        match settled.outcome {
            Outcome::Delivered => self.close(row, State::Delivered, at),
            Outcome::Failed => self.close(row, State::Failed, at),
            Outcome::Expired => self.close(row, State::Expired, at),
            Outcome::Deferred { due_at, delay_notified } => {
                row.last_at = Some(at);
                row.delay_notified = delay_notified;
                let due = row.due().deferred(due_at);
                let row = self.place(row, due);
                self.effects.push(Effect::Unlease { row: row.key, class: row.class() });
            }
        }
    }

    /// Puts a row that was taken out where it is due.
    fn place(&mut self, mut row: Row, due: Due) -> Row {
        row.key.due_at = due.at;
        row.held_due = due.held;
        self.rows.insert(row.key, row.clone());
        row
    }

    /// Counts rows that were inserted.
    fn arrive(&mut self, keys: &[(Cursor, Arc<QueueKey>)]) {
        for (row, key) in keys {
            let size = self.rows.get(row).map_or(0, |row| row.size);
            let (row, key) = (*row, Arc::clone(key));
            self.effects.push(Effect::Enter { row, key, class: Class::Ready, size });
        }
    }

    /// The rows of one queue, oldest due first.
    fn queue(&self, queue: QueueId) -> impl Iterator<Item = &Row> {
        let first = DeliveryId { message: MessageId::floor(Timestamp(0)), number: 0 };
        let start = Cursor { queue, due_at: Timestamp(i64::MIN), delivery: first };
        self.rows.range(start..).map(|(_, row)| row).take_while(move |row| row.key.queue == queue)
    }

    /// The rows after a place, all of them for `None`.
    fn after(&self, after: Option<Cursor>) -> impl Iterator<Item = &Row> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range((start, Bound::Unbounded)).map(|(_, row)| row)
    }

    /// The row is not held, or expired where the claim asks for that.
    fn is_wanted(&self, row: &Row, claim: &Claim) -> bool {
        match claim.expired_at {
            None => row.held_due.is_none(),
            Some(at) => {
                let message = self.messages.get(&row.key.delivery.message);
                message.is_some_and(|message| message.head.expires_at <= at)
            }
        }
    }

    /// Changes a delivery without a lease; false where there was nothing to change.
    fn change(&mut self, key: Cursor, action: Change, now: Timestamp) -> bool {
        let Some(row) = self.rows.get(&key) else { return false };
        let (due, from, size) = (row.due(), row.class(), row.size);
        if action == Change::Delete {
            let row = row.clone();
            self.effects.push(Effect::Leave { queue: key.queue, class: from, size });
            self.close(row, State::Deleted, now);
            return true;
        }
        let Some(new) = due.changed(action) else { return false };
        let Some(row) = self.rows.remove(&key) else { return false };
        let row = self.place(row, new);
        self.effects.push(Effect::Shift { row: row.key, from, to: row.class() });
        true
    }
}

impl Store for MemoryStore {
    async fn accept(
        &self,
        message: NewMessage,
        lease: Option<Duration>,
    ) -> Result<Accepted, StoreError> {
        let until = lease.map(|ttl| self.now().after(ttl));
        let mut data = self.data();
        data.refuse(&message)?;
        let keys = data.insert(&message, &self.0.shared);
        data.arrive(&keys);
        self.commit(&mut data);
        let all_held = self.0.shared.lock().tally.all_held();
        let keys: Vec<Cursor> = keys.into_iter().map(|(key, _)| key).collect();
        let claimed = match until {
            Some(until) if !all_held => self.grant(&data, &keys, until).pop(),
            _ => None,
        };
        Ok(Accepted { claimed })
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, StoreError> {
        let until = self.now().after(claim.ttl);
        let data = self.data();
        let mut keys: Vec<Cursor> = Vec::new();
        {
            let live = self.0.shared.lock();
            if live.tally.all_held() {
                return Ok(Vec::new());
            }
            for (queue, most) in &claim.queues {
                let room = (claim.limit as usize).saturating_sub(keys.len());
                let found: Vec<Cursor> = data
                    .queue(*queue)
                    .filter(|row| !live.leases.contains(row.key.delivery))
                    .take_while(|row| {
                        claim.expired_at.is_some() || claim.reaches(row.key.due_at, row.attempts)
                    })
                    .filter(|row| data.is_wanted(row, &claim))
                    .map(|row| row.key)
                    .filter(|key| !keys.contains(key))
                    .take(room.min(*most as usize))
                    .collect();
                keys.extend(found);
            }
        }
        let claimed = self.grant(&data, &keys, until);
        self.note_next_due(&data, &claim);
        self.0.shared.wake();
        Ok(claimed)
    }

    async fn renew(&self, leases: Vec<Lease>, ttl: Duration) -> Result<Vec<Lease>, StoreError> {
        Ok(self.0.shared.renew(leases, ttl))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Vec<Lease>, StoreError> {
        let mut data = self.data();
        for (n, notice) in settlement.notices.iter().enumerate() {
            data.refuse(notice)?;
            if settlement.notices.iter().take(n).any(|earlier| earlier.id == notice.id) {
                return Err(StoreError::Failed(format!("two notices are {}", notice.id)));
            }
        }
        let mut stale = Vec::new();
        for settled in &settlement.outcomes {
            let held = self.0.shared.lock().leases.take(&settled.lease);
            match held {
                Some(held) => data.settle(held, settled, settlement.at),
                None => stale.push(settled.lease),
            }
        }
        for notice in &settlement.notices {
            let keys = data.insert(notice, &self.0.shared);
            data.arrive(&keys);
        }
        self.commit(&mut data);
        Ok(stale)
    }

    async fn release(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        self.0.shared.release(&leases);
        Ok(())
    }

    async fn bodies(
        &self,
        messages: Vec<MessageId>,
    ) -> Result<Vec<(MessageId, Bytes)>, StoreError> {
        let data = self.data();
        let body = |id| data.messages.get(&id).map(|message| (id, message.body.clone()));
        Ok(messages.into_iter().filter_map(body).collect())
    }

    fn backlog_part(&self, since: Revision, most: usize) -> Backlog {
        self.0.shared.backlog_part(since, most)
    }

    async fn changed(&self, seen: Revision) {
        self.0.shared.changed(seen).await;
    }

    async fn list(
        &self,
        filter: Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let matcher = Matcher::new(filter)?;
        let data = self.data();
        let mut page = Page::default();
        for (looked, row) in data.after(after).enumerate() {
            if looked == LOOK_MAX || page.deliveries.len() == limit {
                return Ok(page);
            }
            page.next = Some(row.key);
            if let Some((head, state)) = self.matching(&data, &matcher, row) {
                page.deliveries.push(row.clone().record(head, state));
            }
        }
        page.next = None;
        Ok(page)
    }

    async fn show(&self, message: MessageId) -> Result<Option<MessageRecord>, StoreError> {
        let data = self.data();
        let Some(found) = data.messages.get(&message) else { return Ok(None) };
        let live = self.0.shared.lock();
        let mut deliveries = found.settled.clone();
        for row in data.rows.values().filter(|row| row.key.delivery.message == message) {
            let state = row.state(live.leases.contains(row.key.delivery));
            deliveries.push(row.clone().record(Arc::clone(&found.head), state));
        }
        deliveries.sort_by_key(|delivery| delivery.number);
        Ok(Some(MessageRecord { head: Arc::clone(&found.head), deliveries }))
    }

    async fn change(
        &self,
        filter: Filter,
        action: Change,
        after: Option<Cursor>,
    ) -> Result<Changed, StoreError> {
        let matcher = Matcher::new(filter)?;
        let now = self.now();
        let mut data = self.data();
        let mut changed = Changed::default();
        let slice: Vec<Row> = data.after(after).take(LOOK_MAX).cloned().collect();
        for row in &slice {
            match self.matching(&data, &matcher, row) {
                None => {}
                Some((_, State::Leased)) => changed.leased += 1,
                Some(_) => changed.changed += u64::from(data.change(row.key, action, now)),
            }
        }
        changed.next = slice.last().filter(|_| slice.len() == LOOK_MAX).map(|row| row.key);
        self.commit(&mut data);
        Ok(changed)
    }

    async fn hold_all(&self, hold: bool) -> Result<(), StoreError> {
        let mut data = self.data();
        data.effects.push(Effect::HoldAll(hold));
        self.commit(&mut data);
        Ok(())
    }

    async fn room(&self) -> u64 {
        u64::MAX
    }

    fn last_id(&self) -> Option<MessageId> {
        self.data().last_id
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryStore;
    use crate::base::time::Clock;
    use crate::store::conformance::{Fixture, START, conformance};

    fn open() -> Fixture<MemoryStore> {
        let clock = Clock::simulated(START);
        Fixture::new(MemoryStore::new(clock.clone()), clock, None)
    }

    conformance!(open);
}
