//! A queue for millions of deliveries: some forty bytes each, messages of one recipient and the
//! null reverse-path.
//!
//! The library's memory engine is the model, and what the seeds run on; it keeps every message
//! whole, which is a gigabyte for each million. Here a row is its due time, id and attempts, and
//! all else is made anew when it is claimed.
//!
//! # Absent
//! What only operators ask for; the end of a lease by time.

use bulkhead::base::address::{Mailbox, ReversePath};
use bulkhead::base::id::{MessageId, QueueId};
use bulkhead::base::time::{Clock, Timestamp};
use bulkhead::mail::envelope::{Envelope, Recipient};
use bulkhead::mail::message::{MessageHead, NewMessage, Origin};
use bulkhead::store::{
    Accepted, Backlog, Change, Changed, Claim, Claimed, Cursor, Delivery, DeliveryId, Filter,
    Lease, MessageRecord, Outcome, Page, QueueBacklog, QueueKey, Revision, Settlement, Store,
    StoreError,
};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// One queue of each kind of mail.
#[derive(Clone)]
pub struct Stock(Arc<Mutex<Inner>>, Clock);

#[derive(Default)]
struct Inner {
    names: HashMap<Arc<QueueKey>, QueueId>,
    queues: Vec<Queue>,
    leases: HashMap<MessageId, Held>,
    /// Queues that the reader was not told of yet.
    new: VecDeque<QueueId>,
    /// Others that changed since it asked.
    changed: Vec<QueueId>,
    fences: u64,
}

struct Queue {
    key: Arc<QueueKey>,
    mailbox: Mailbox,
    expire: Duration,
    /// Attempts made of each.
    rows: BTreeMap<(Timestamp, MessageId), u8>,
    ready: u64,
    leased: u64,
    oldest: Timestamp,
    told: bool,
}

struct Held {
    lease: Lease,
    attempts: u8,
}

impl Inner {
    fn queue(&mut self, id: QueueId) -> &mut Queue {
        let at = usize::try_from(id.0 - 1).unwrap();
        if std::mem::replace(&mut self.queues[at].told, false) {
            self.changed.push(id);
        }
        &mut self.queues[at]
    }

    fn intern(&mut self, key: QueueKey, message: &NewMessage) -> QueueId {
        if let Some(id) = self.names.get(&key) {
            return *id;
        }
        let mailbox = message.envelope.recipients[0].mailbox.clone();
        let key = Arc::new(key);
        let id = QueueId(i64::try_from(self.queues.len() + 1).unwrap());
        self.names.insert(Arc::clone(&key), id);
        self.queues.push(Queue {
            key,
            mailbox,
            expire: message.expires_at.since(message.accepted_at),
            rows: BTreeMap::new(),
            ready: 0,
            leased: 0,
            oldest: message.accepted_at,
            told: false,
        });
        self.new.push_back(id);
        id
    }

    /// Takes a row out and leases it.
    fn grant(&mut self, id: QueueId, row: (Timestamp, MessageId), until: Timestamp) -> Claimed {
        self.fences += 1;
        let delivery = DeliveryId { message: row.1, number: 0 };
        let lease = Lease { delivery, queue: id, due_at: row.0, fence: self.fences };
        let queue = self.queue(id);
        let attempts = queue.rows.remove(&row).unwrap();
        queue.ready -= u64::from(attempts == 0);
        queue.leased += 1;
        let (key, expire) = (Arc::clone(&queue.key), queue.expire);
        let delivery = Delivery {
            lease,
            recipient: Recipient::new(queue.mailbox.clone()),
            attempts: u32::from(attempts),
            delay_notified: false,
            last_reply: String::new(),
        };
        self.leases.insert(row.1, Held { lease, attempts });
        let head = MessageHead {
            id: row.1,
            accepted_at: row.1.created_at(),
            expires_at: row.1.created_at().after(expire),
            origin: Origin {
                lane: key.lane,
                reason: String::new(),
                tenant: key.tenant.clone(),
                campaign: key.campaign.clone(),
                client: String::new(),
            },
            envelope: Envelope::from(ReversePath::Null),
            size: 0,
            recipient_count: 1,
        };
        Claimed { head: Arc::new(head), trusted_until: until, deliveries: vec![delivery] }
    }

    /// Ends a lease, unless it is stale; the row goes back where it is due again.
    fn end(&mut self, lease: &Lease, again: Option<(Timestamp, u8)>) -> bool {
        let Some(held) = self.leases.get(&lease.delivery.message) else { return false };
        if held.lease != *lease {
            return false;
        }
        let attempts = held.attempts;
        self.leases.remove(&lease.delivery.message);
        let queue = self.queue(lease.queue);
        queue.leased -= 1;
        if let Some((due_at, tried)) = again {
            queue.rows.insert((due_at, lease.delivery.message), attempts + tried);
            queue.ready += u64::from(attempts + tried == 0);
        }
        true
    }

    fn counts(&self, id: QueueId) -> QueueBacklog {
        let queue = &self.queues[usize::try_from(id.0 - 1).unwrap()];
        let next_due = queue.rows.first_key_value().map_or(Timestamp::NEVER, |(row, _)| row.0);
        QueueBacklog {
            id,
            key: Arc::clone(&queue.key),
            ready: queue.ready,
            deferred: queue.rows.len() as u64 - queue.ready,
            leased: queue.leased,
            held: 0,
            bytes: 0,
            oldest: queue.oldest,
            next_due,
        }
    }
}

impl Stock {
    /// An empty one.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::default(), clock)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

fn unasked<T>() -> Result<T, StoreError> {
    Err(StoreError::Failed("nobody asks this of a simulated queue".into()))
}

impl Store for Stock {
    async fn accept(
        &self,
        message: NewMessage,
        lease: Option<Duration>,
    ) -> Result<Accepted, StoreError> {
        assert_eq!(message.envelope.recipients.len(), 1, "one recipient each");
        let key = QueueKey {
            lane: message.origin.lane,
            tenant: message.origin.tenant.clone(),
            campaign: message.origin.campaign.clone(),
            domain: message.envelope.recipients[0].mailbox.domain().unwrap().clone(),
        };
        let mut inner = self.lock();
        let id = inner.intern(key, &message);
        let queue = inner.queue(id);
        queue.rows.insert((message.due_at, message.id), 0);
        queue.ready += 1;
        let row = (message.due_at, message.id);
        let until = lease.map(|ttl| self.1.now().after(ttl));
        Ok(Accepted { claimed: until.map(|until| inner.grant(id, row, until)) })
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, StoreError> {
        let until = self.1.now().after(claim.ttl);
        let mut inner = self.lock();
        let mut claimed = Vec::new();
        for (id, most) in &claim.queues {
            let room = (claim.limit as usize - claimed.len()).min(*most as usize);
            let queue = inner.queue(*id);
            let expire = queue.expire;
            let rows: Vec<(Timestamp, MessageId)> = match claim.expired_at {
                None => {
                    let due = |row: &&(Timestamp, MessageId)| row.0 <= claim.fresh_until;
                    queue.rows.keys().take_while(due).take(room).copied().collect()
                }
                Some(at) => {
                    let past =
                        |row: &&(Timestamp, MessageId)| row.1.created_at().after(expire) <= at;
                    queue.rows.keys().filter(past).take(room).copied().collect()
                }
            };
            for row in rows {
                claimed.push(inner.grant(*id, row, until));
            }
        }
        Ok(claimed)
    }

    async fn renew(&self, leases: Vec<Lease>, _: Duration) -> Result<Vec<Lease>, StoreError> {
        let inner = self.lock();
        let is_ours = |lease: &Lease| {
            inner.leases.get(&lease.delivery.message).is_some_and(|held| held.lease == *lease)
        };
        Ok(leases.into_iter().filter(|lease| !is_ours(lease)).collect())
    }

    async fn settle(&self, settlement: Settlement) -> Result<Vec<Lease>, StoreError> {
        assert!(settlement.notices.is_empty(), "nobody is told of mail from <>");
        let mut inner = self.lock();
        let mut stale = Vec::new();
        for settled in &settlement.outcomes {
            let again = match settled.outcome {
                Outcome::Deferred { due_at, .. } => Some((due_at, 1)),
                Outcome::Delivered | Outcome::Failed | Outcome::Expired => None,
            };
            if !inner.end(&settled.lease, again) {
                stale.push(settled.lease);
            }
        }
        Ok(stale)
    }

    async fn release(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        let mut inner = self.lock();
        for lease in leases {
            inner.end(&lease, Some((lease.due_at, 0)));
        }
        Ok(())
    }

    async fn bodies(
        &self,
        messages: Vec<MessageId>,
    ) -> Result<Vec<(MessageId, Bytes)>, StoreError> {
        Ok(messages.into_iter().map(|id| (id, Bytes::new())).collect())
    }

    /// For the one reader that follows: what changed since it asked before. For others, who want
    /// it whole, all.
    fn backlog_part(&self, _: Revision, most: usize) -> Backlog {
        let mut inner = self.lock();
        if most == usize::MAX {
            let all = 1..=i64::try_from(inner.queues.len()).unwrap();
            let queues = all.map(|id| inner.counts(QueueId(id))).collect();
            return Backlog { queues, ..Backlog::default() };
        }
        let most = most.min(inner.new.len());
        let mut changed: Vec<QueueId> = inner.new.drain(..most).collect();
        changed.append(&mut inner.changed);
        let queues = changed
            .into_iter()
            .map(|id| {
                inner.queues[usize::try_from(id.0 - 1).unwrap()].told = true;
                inner.counts(id)
            })
            .collect();
        Backlog { queues, ..Backlog::default() }
    }

    async fn changed(&self, _: Revision) {}

    async fn list(&self, _: Filter, _: Option<Cursor>, _: usize) -> Result<Page, StoreError> {
        unasked()
    }

    async fn show(&self, _: MessageId) -> Result<Option<MessageRecord>, StoreError> {
        unasked()
    }

    async fn change(&self, _: Filter, _: Change, _: Option<Cursor>) -> Result<Changed, StoreError> {
        unasked()
    }

    async fn hold_all(&self, _: bool) -> Result<(), StoreError> {
        unasked()
    }

    async fn room(&self) -> u64 {
        u64::MAX
    }

    fn last_id(&self) -> Option<MessageId> {
        None
    }
}
