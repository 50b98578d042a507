//! What a simulated connection asks before a message and takes from a refusal, as `deliver::worker`
//! does: permits of tenants and senders, and the reply rules.

use super::World;
use super::link::Link;
use bulkhead::base::time::Timestamp;
use bulkhead::deliver::core::Event;
use bulkhead::deliver::line::Job;
use bulkhead::policy::feedback::Complaint;
use bulkhead::policy::rules::{Parties, complaint, ruled};
use bulkhead::policy::verdict::Verdict;
use bulkhead::smtp::client::Attempt;
use bulkhead::store::Store;
use std::sync::Arc;

/// Whether a message may go, for its tenant and its sender.
pub(super) enum Permit {
    Given,
    Later,
    PutOff(Timestamp, String),
}

fn sender(job: &Job) -> Option<&str> {
    let path = &job.transaction.head.envelope.reverse_path;
    path.mailbox().and_then(|m| m.domain()).map(|domain| domain.as_str())
}

impl<S: Store> World<S> {
    pub(super) fn permit(&mut self, link: &mut Link, job: &Job) -> Permit {
        let first = job.transaction.deliveries.first().map(|d| d.lease.delivery);
        if first.is_some() && link.permitted == first {
            return Permit::Given;
        }
        let origin = &job.transaction.head.origin;
        let (line, sender) = (&link.opening.line, sender(job));
        if let Some((from, _, why)) = sender.and_then(|s| line.puts_off(s, self.now)) {
            return Permit::PutOff(from, why);
        }
        let tenants = self.core.tenants();
        let may = line.available_to(&origin.tenant, self.now) > 0
            && tenants.begin(&origin.tenant, origin.lane, self.now).is_ok();
        if !may {
            return Permit::Later;
        }
        line.take_for(&origin.tenant, sender, self.now);
        link.permitted = first;
        self.permitted.entry(origin.tenant.clone()).or_default().push(self.now);
        Permit::Given
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
        let parties = Parties { tenant, sender: sender(job), source: &link.opening.source.name };
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
