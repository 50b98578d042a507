//! What a simulated connection asks before a message and takes from a refusal, as `deliver::worker`
//! does: permits of tenants and senders, and the reply rules.

use super::World;
use super::link::Link;
use bulkhead::base::time::Timestamp;
use bulkhead::deliver::connection::Transaction;
use bulkhead::deliver::core::Event;
use bulkhead::deliver::line::Job;
use bulkhead::policy::feedback::Complaint;
use bulkhead::policy::quota::Holder;
use bulkhead::policy::rules::{Parties, complaint, ruled};
use bulkhead::policy::verdict::Verdict;
use bulkhead::smtp::client::Attempt;
use bulkhead::store::{DeliveryId, Store};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why a message does not go now.
pub(super) enum Hold {
    /// A rate does not let it go.
    Later(Holder<String>),
    /// Until when, and why: the site complained about its sender's domain.
    PutOff(Timestamp, String),
}

fn sender(transaction: &Transaction) -> Option<&str> {
    let path = &transaction.head.envelope.reverse_path;
    path.mailbox().and_then(|m| m.domain()).map(|domain| domain.as_str())
}

impl<S: Store> World<S> {
    pub(super) fn permit(
        &mut self,
        link: &mut Link,
        transaction: &Transaction,
    ) -> Result<(), Hold> {
        let (first, now) = (transaction.deliveries.first().map(|d| d.lease.delivery), self.now);
        let quotas = self.core.quotas();
        let is_given = |(of, at): (DeliveryId, Timestamp)| {
            first == Some(of) && now.since(at) <= quotas.slack(transaction.domains())
        };
        if link.permitted.is_some_and(is_given) {
            return Ok(());
        }
        let origin = &transaction.head.origin;
        let (line, sender) = (&link.opening.line, sender(transaction));
        if let Some((from, _, why)) = sender.and_then(|sender| line.puts_off(sender, now)) {
            return Err(Hold::PutOff(from, why));
        }
        if line.available_to(&origin.tenant, now) == 0 {
            return Err(Hold::Later(Holder::Tenant(origin.tenant.clone())));
        }
        quotas
            .begin(&origin.tenant, transaction.domains(), origin.lane, now)
            .map_err(|holder| Hold::Later(holder.owned()))?;
        line.take_for(&origin.tenant, sender, now);
        link.permitted = first.map(|first| (first, now));
        self.permitted.entry(origin.tenant.clone()).or_default().push(now);
        self.note_domains(transaction, 0, now);
        Ok(())
    }

    /// Notes when a message to domains with a rate was begun (0), or seen (1).
    pub(super) fn note_domains(&mut self, transaction: &Transaction, what: usize, at: Timestamp) {
        let domains: BTreeSet<&str> = transaction.domains().collect();
        for (domain, times) in &mut self.to_domains {
            if domains.contains(domain.as_str()) {
                times[what].push(at);
            }
        }
    }

    pub(super) fn apply_rules(
        &mut self,
        link: &Link,
        job: &Job,
        attempts: &[Attempt],
        verdicts: &mut [Verdict],
    ) {
        let (host, config) = (&link.hops[0].host, Arc::clone(&self.config));
        let tenant = &job.transaction.head.origin.tenant;
        let parties =
            Parties { tenant, sender: sender(&job.transaction), source: &link.opening.source.name };
        let mut asked: Vec<Complaint> = Vec::new();
        for (attempt, verdict) in attempts.iter().zip(verdicts) {
            let Attempt::Reply { reply, .. } = attempt else { continue };
            let Some(found) = config.rules.find(host, reply) else { continue };
            *verdict = ruled(&found, verdict.clone(), self.now);
            asked.extend(complaint(&found, parties, &verdict.text).filter(|c| !asked.contains(c)));
        }
        for complaint in asked {
            self.figures.complaints += 1;
            self.tell(Event::Complaint(link.opening.link, complaint));
        }
    }
}
