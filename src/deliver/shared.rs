//! What all parts of the delivering side use, and the work that needs no connection: recording
//! outcomes, giving up, telling what became of each delivery.

use super::addresses::Addresses;
use super::connection::Transaction;
use super::core::{Event, LEASE};
use super::quotas::Quotas;
use super::settle::{self, Peer, Rules};
use crate::base::id::{IdGenerator, QueueId};
use crate::base::live::Live;
use crate::base::random::Rng;
use crate::base::time::{Clock, Timestamp};
use crate::config::Config;
use crate::net::dial::Dialer;
use crate::observe::delivery::{self as tell, Attempted, Over, Told};
use crate::observe::store as tell_store;
use crate::policy::schedule::Plan;
use crate::policy::verdict::{Blame, Verdict};
use crate::store::{Claim, Claimed, Lease, Outcome, Settlement, Store};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Pause before an outcome that the store did not take is offered again.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// What a message takes in memory besides its bytes.
const OVERHEAD: u64 = 4_096;

/// Hears of each recipient of a tenant's mail that is done with, and whether its host does not know
/// it.
pub type Judge = Box<dyn Fn(&str, bool) + Send + Sync>;

/// The parts.
pub struct Shared<S> {
    /// The queue.
    pub store: S,
    /// The configuration.
    pub config: Live<Config>,
    /// The time.
    pub clock: Clock,
    /// Ids of notifications.
    pub ids: Arc<Mutex<IdGenerator>>,
    /// Jitter of retries.
    pub rng: Mutex<Rng>,
    /// Makes connections.
    pub dialer: Dialer,
    /// Limits by address.
    pub addresses: Arc<Addresses>,
    /// Rates of tenants and of domains.
    pub quotas: Arc<Quotas>,
    /// Memory for messages on their way, in KiB.
    pub room: Arc<Semaphore>,
    /// KiB in all.
    pub room_kib: u32,
    /// To the dispatcher.
    pub events: mpsc::Sender<Event>,
    /// What became of tenants' mail.
    pub judge: Judge,
}

impl<S: Store> Shared<S> {
    /// Room in memory for a message of `size` bytes, in the semaphore's units; never more than
    /// there is at all.
    #[must_use]
    pub fn room_for(&self, size: u64) -> u32 {
        u32::try_from((size + OVERHEAD).div_ceil(1_024)).unwrap_or(u32::MAX).min(self.room_kib)
    }

    /// Tells the dispatcher. Fails only when that has ended, and with it everybody who could use
    /// the news.
    pub async fn tell(&self, event: Event) {
        _ = self.events.send(event).await;
    }

    /// Records what became of a transaction and logs it; returns when it is durable. The store is
    /// asked until it takes it: until then no connection may go on, or a crash could repeat more
    /// than one message.
    pub async fn settle(
        &self,
        transaction: &Transaction,
        verdicts: &[Verdict],
        receive: Option<Duration>,
        over: Option<(Over<'_>, bool)>,
    ) {
        let now = self.clock.now();
        let config = self.config.get();
        let rules = Rules { hostname: &config.hostname, retry: &config.retry };
        let peer = over.as_ref().map_or_else(Peer::default, |(over, reports)| Peer {
            host: over.host,
            reports: *reports,
        });
        let concluded = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
            settle::conclude(&rules, transaction, verdicts, peer, now, &mut rng, &mut ids)
        };
        self.release(concluded.untried).await;
        if concluded.settlement.outcomes.is_empty() {
            return;
        }
        self.record(&concluded.settlement).await;
        for (report, action) in &concluded.reports {
            tell::report_made(&transaction.head, &report.to_string(), action.as_str());
        }
        let over = over.map(|(over, _)| over);
        for settled in &concluded.settlement.outcomes {
            let is_unknown =
                settled.outcome == Outcome::Failed && settled.blame == Some(Blame::Recipient);
            if is_unknown || settled.outcome == Outcome::Delivered {
                (self.judge)(&transaction.head.origin.tenant, is_unknown);
            }
            let mut judged = transaction.deliveries.iter().zip(verdicts);
            let Some((d, verdict)) = judged.find(|(d, _)| d.lease == settled.lease) else {
                continue;
            };
            tell::delivery_settled(&Attempted {
                head: &transaction.head,
                recipient: d.recipient.mailbox.as_str(),
                attempts: d.attempts + 1,
                number: settled.lease.delivery.number,
                outcome: told(settled.outcome),
                reply: &settled.reply,
                blame: settled.blame,
                rule: &verdict.rule,
                at: now,
                receive,
                over: over.clone(),
            });
        }
    }

    async fn record(&self, settlement: &Settlement) {
        loop {
            match self.store.settle(settlement.clone()).await {
                Ok(stale) if stale.is_empty() => return,
                Ok(stale) => return tell_store::lease_lost(stale.len()),
                Err(error) => {
                    tell_store::failed("settle", &error);
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Ends leases without an outcome. Where the store fails, they end by themselves.
    pub async fn release(&self, leases: Vec<Lease>) {
        if !leases.is_empty()
            && let Err(error) = self.store.release(leases).await
        {
            tell_store::failed("release", &error);
        }
    }

    /// Claims, and reports what was got of the plan.
    pub async fn claim(&self, claim: Claim) -> Vec<Claimed> {
        let plan: Plan = claim.queues.clone();
        let reported = claim.expired_at.is_none();
        let claimed = self.store.claim(claim).await.unwrap_or_else(|error| {
            tell_store::failed("claim", &error);
            Vec::new()
        });
        if reported {
            let mut got: HashMap<QueueId, u32> = HashMap::new();
            for delivery in claimed.iter().flat_map(|c| &c.deliveries) {
                *got.entry(delivery.lease.queue).or_default() += 1;
            }
            self.tell(Event::Claimed { plan, got }).await;
        }
        claimed
    }

    /// Settles what can be claimed with one verdict, without a connection. Mail past its time is
    /// taken until none is left; of the rest, as much as was asked for.
    pub async fn give_up(&self, claim: Claim, verdict: Verdict) {
        loop {
            let claimed = self.claim(claim.clone()).await;
            if claimed.is_empty() {
                return;
            }
            for c in claimed {
                self.conclude_claimed(c, &verdict).await;
            }
            if claim.expired_at.is_none() {
                return;
            }
        }
    }

    /// Settles claimed deliveries of one message with one verdict. Its bytes are read for the
    /// notification.
    pub async fn conclude_claimed(&self, claimed: Claimed, verdict: &Verdict) {
        let size = claimed.head.size;
        let Ok(_room) = Arc::clone(&self.room).acquire_many_owned(self.room_for(size)).await else {
            return;
        };
        let body = self.bodies(&[&claimed]).await.remove(&claimed.head.id).unwrap_or_default();
        let verdicts = vec![verdict.clone(); claimed.deliveries.len()];
        let transaction = Transaction { head: claimed.head, body, deliveries: claimed.deliveries };
        self.settle(&transaction, &verdicts, None, None).await;
    }

    /// The bytes of these messages; those that are not there are told of and left out.
    pub async fn bodies(&self, claimed: &[&Claimed]) -> HashMap<crate::base::id::MessageId, Bytes> {
        let wanted: Vec<_> = claimed.iter().map(|c| c.head.id).collect();
        match self.store.bodies(wanted.clone()).await {
            Ok(found) => {
                let found: HashMap<_, _> = found.into_iter().collect();
                for missing in wanted.iter().filter(|id| !found.contains_key(id)) {
                    tell_store::body_missing(&missing.to_string());
                }
                found
            }
            Err(error) => {
                tell_store::failed("read", &error);
                HashMap::new()
            }
        }
    }

    /// Room for messages of this many bytes in all, when there is some.
    pub async fn room(&self, size: u64) -> Option<Arc<OwnedSemaphorePermit>> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.room_for(size)).await;
        room.ok().map(Arc::new)
    }

    /// True where leases that end at `until` might not outlast a transaction begun now.
    #[must_use]
    pub fn is_short(&self, until: Timestamp) -> bool {
        self.clock.now().after(self.config.get().delivery.transaction_timeout) >= until
    }

    /// Prolongs the leases of a transaction; those that are not ours any more leave it.
    pub async fn renew(&self, transaction: &mut Transaction) -> Timestamp {
        let leases = transaction.leases();
        let until = self.clock.now().after(LEASE);
        let lost = self.store.renew(leases.clone(), LEASE).await.unwrap_or(leases);
        if !lost.is_empty() {
            tell_store::lease_lost(lost.len());
            transaction.deliveries.retain(|d| !lost.contains(&d.lease));
        }
        until
    }
}

fn told(outcome: Outcome) -> Told {
    match outcome {
        Outcome::Delivered => Told::Delivered,
        Outcome::Deferred { due_at, .. } => Told::Deferred(due_at),
        Outcome::Failed => Told::Failed,
        Outcome::Expired => Told::Expired,
    }
}
