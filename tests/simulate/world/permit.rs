//! What a simulated connection asks before a message and takes from a refusal, as `deliver::worker`
//! does: its permit, and the reply rules.

use super::World;
use super::link::Link;
use bulkhead::base::time::Timestamp;
use bulkhead::deliver::connection::Transaction;
use bulkhead::deliver::core::Event;
use bulkhead::deliver::line::Job;
use bulkhead::deliver::permit::Hold;
use bulkhead::policy::feedback::Complaint;
use bulkhead::policy::rules::{Parties, complaint, ruled};
use bulkhead::policy::verdict::Verdict;
use bulkhead::smtp::client::Attempt;
use bulkhead::store::Store;
use std::collections::BTreeSet;
use std::sync::Arc;

impl<S: Store> World<S> {
    pub(super) fn permit(
        &mut self,
        link: &mut Link,
        transaction: &Transaction,
    ) -> Result<(), Hold> {
        let quotas = self.core.quotas();
        if link.permit.obtain(transaction, &link.opening.line, &quotas, self.now)? {
            let tenant = transaction.head.origin.tenant.clone();
            self.permitted.entry(tenant).or_default().push(self.now);
            self.note_domains(transaction, 0, self.now);
        }
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
        let (host, config) = (&link.hop.host, Arc::clone(&self.config));
        let tenant = &job.transaction.head.origin.tenant;
        let parties =
            Parties { tenant, sender: job.transaction.sender(), source: &link.opening.source.name };
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
