//! Where each domain's mail goes: asked of DNS when first needed, and again when the answer has
//! aged.

use super::queues::{Place, is_direct};
use super::{Alarm, Command, Core, Turn};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::connection::Transaction;
use crate::deliver::line::Job;
use crate::policy::site::route::Route;
use crate::policy::site::{Resolution, SiteId};
use crate::policy::verdict::{Blame, Ruling, Verdict};
use crate::smtp::reply::EnhancedCode;
use crate::store::{Claimed, Delivery, Handoff};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// After this an answer is asked for again when needed; the resolver's cache knows the TTL.
const FRESH: Duration = Duration::from_secs(60);
/// Pause before a failing DNS is asked again, doubled with each failure up to the longest.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What is known of a domain.
pub(super) struct Entry {
    answer: Answer,
    /// A question is under way, in this turn.
    asking: Option<Turn>,
    answered_at: Timestamp,
    failures: u32,
    /// It is among those that may be forgotten.
    listed: bool,
    /// Direct jobs that wait for the first answer.
    jobs: Vec<Job>,
    /// Its scheduled queues with mail.
    pub(super) queues: BTreeSet<QueueId>,
}

enum Answer {
    /// Not yet.
    None,
    /// Its mail goes here.
    At(SiteId, Arc<Route>),
    /// It never will.
    Dead(Verdict),
    /// Not now.
    Failing(String),
}

impl Entry {
    fn site(&self) -> Option<SiteId> {
        match self.answer {
            Answer::At(site, _) => Some(site),
            _ => None,
        }
    }

    /// DNS answered lately.
    fn is_fresh(&self, now: Timestamp) -> bool {
        now.since(self.answered_at) <= FRESH
    }
}

impl Core {
    /// Asks for the domain's MX unless it is known and fresh. Also where a question is under way in
    /// a turn that comes later, which may wait behind many others.
    pub(super) fn look_up(&mut self, domain: Domain, turn: Turn, now: Timestamp) {
        let rounds = &mut self.rounds;
        let entry = self.domains.entry(domain.clone()).or_insert_with(|| {
            rounds.add_domain(domain.clone(), now);
            Entry {
                listed: true,
                answer: Answer::None,
                asking: None,
                answered_at: Timestamp(0),
                failures: 0,
                jobs: Vec::new(),
                queues: BTreeSet::new(),
            }
        });
        let stale = match entry.answer {
            Answer::None => true,
            // Asked again by its alarm.
            Answer::Failing(_) => false,
            Answer::At(..) | Answer::Dead(_) => !entry.is_fresh(now),
        };
        if stale && entry.asking < Some(turn) {
            entry.asking = Some(turn);
            self.commands.push(Command::Resolve(domain, turn));
        }
    }

    /// True where DNS answered lately.
    pub(super) fn is_fresh(&self, domain: &Domain, now: Timestamp) -> bool {
        self.domains.get(domain).is_some_and(|entry| entry.is_fresh(now))
    }

    /// Puts a direct message on its ways: one job for each site that its recipients are at.
    pub(super) fn direct(
        &mut self,
        handoff: Handoff,
        room: &Arc<OwnedSemaphorePermit>,
        now: Timestamp,
    ) {
        let Handoff { claimed, body, receive } = handoff;
        if self.draining || self.all_held {
            return self.commands.push(Command::Release(claimed.leases()));
        }
        let Claimed { head, deliveries, trusted_until } = claimed;
        let mut by_domain: BTreeMap<Domain, Vec<Delivery>> = BTreeMap::new();
        for delivery in deliveries {
            let domain = delivery.recipient.mailbox.domain().cloned();
            by_domain
                .entry(domain.unwrap_or_else(|| self.config.hostname.clone()))
                .or_default()
                .push(delivery);
        }
        let mut by_site: BTreeMap<SiteId, (Arc<Route>, Vec<Delivery>)> = BTreeMap::new();
        let job = |deliveries| Job {
            transaction: Transaction { head: Arc::clone(&head), body: body.clone(), deliveries },
            receive: Some(receive),
            way: None,
            trusted_until,
            room: Arc::clone(room),
        };
        for (domain, deliveries) in by_domain {
            self.look_up(domain.clone(), Turn::Direct, now);
            let Some(entry) = self.domains.get_mut(&domain) else { continue };
            match &entry.answer {
                Answer::None => {
                    entry.jobs.push(job(deliveries));
                }
                Answer::Dead(_) if entry.asking.is_some() => entry.jobs.push(job(deliveries)),
                Answer::Dead(verdict) => {
                    self.commands.push(Command::Conclude(job(deliveries), verdict.clone()));
                }
                Answer::Failing(why) => {
                    self.commands.push(Command::Conclude(job(deliveries), dns_trouble(why)));
                }
                Answer::At(site, route) => {
                    // Only domains with the very same route share a transaction.
                    let at_site =
                        by_site.entry(*site).or_insert_with(|| (Arc::clone(route), Vec::new()));
                    if at_site.0 == *route {
                        at_site.1.extend(deliveries);
                    } else {
                        let (site, route) = (*site, Arc::clone(route));
                        self.join_line(site, route, job(deliveries), now);
                    }
                }
            }
        }
        for (site, (route, deliveries)) in by_site {
            self.join_line(site, route, job(deliveries), now);
        }
    }

    /// Takes in DNS's answer.
    pub(super) fn resolved(&mut self, domain: Domain, resolution: &Resolution, now: Timestamp) {
        let placed = match resolution {
            Resolution::Hosts(hosts) => {
                let route = Arc::new(Route::new(hosts.clone()));
                Some((self.place(&domain, &route, now), route))
            }
            _ => None,
        };
        let Some(entry) = self.domains.get_mut(&domain) else { return };
        let before = entry.site();
        entry.asking = None;
        entry.answered_at = now;
        entry.failures = match resolution {
            Resolution::Temporary(_) => entry.failures.saturating_add(1),
            _ => 0,
        };
        entry.answer = match (placed, resolution) {
            (Some((site, route)), _) => Answer::At(site, route),
            (None, Resolution::Temporary(why)) => {
                // An old answer is better than none.
                match std::mem::replace(&mut entry.answer, Answer::None) {
                    Answer::At(site, route) => Answer::At(site, route),
                    _ => Answer::Failing(why.clone()),
                }
            }
            (None, other) => Answer::Dead(dead(&domain, other)),
        };
        let after = entry.site();
        let pause =
            PAUSE.saturating_mul(1 << entry.failures.saturating_sub(1).min(8)).min(PAUSE_MAX);
        let jobs = std::mem::take(&mut entry.jobs);
        let queues: Vec<QueueId> = entry.queues.iter().copied().collect();
        if matches!(entry.answer, Answer::Failing(_)) {
            self.alarm(now.after(pause), Alarm::Domain(domain.clone()));
        }
        self.count_domain(before, after);
        for job in jobs {
            self.rejoin(&domain, job, now);
        }
        for queue in queues {
            self.move_queue(queue, now);
        }
    }

    /// A job that waited for DNS goes on.
    fn rejoin(&mut self, domain: &Domain, job: Job, now: Timestamp) {
        let verdict = match self.domains.get(domain).map(|entry| &entry.answer) {
            Some(Answer::At(site, route)) => {
                let (site, route) = (*site, Arc::clone(route));
                return self.join_line(site, route, job, now);
            }
            Some(Answer::Dead(verdict)) => verdict.clone(),
            Some(Answer::Failing(why)) => dns_trouble(why),
            Some(Answer::None) | None => dns_trouble("no answer"),
        };
        self.commands.push(Command::Conclude(job, verdict));
    }

    /// The pause is over: ask again where mail waits for it.
    pub(super) fn ask_again(&mut self, domain: &Domain, now: Timestamp) {
        let Some(entry) = self.domains.get_mut(domain) else { return };
        if matches!(entry.answer, Answer::Failing(_)) && entry.asking.is_none() {
            if entry.queues.is_empty() {
                // Nobody waits: the next one who does asks.
                entry.answer = Answer::None;
                entry.answered_at = now;
            } else {
                let direct =
                    entry.queues.iter().any(|q| self.queues.get(q).is_some_and(|q| is_direct(q)));
                let turn = if direct { Turn::Direct } else { Turn::Bulk };
                entry.asking = Some(turn);
                self.commands.push(Command::Resolve(domain.clone(), turn));
            }
        }
    }

    /// Where a queue of this domain stands now.
    pub(super) fn place_of(&self, domain: &Domain) -> Place {
        match self.domains.get(domain).map(|entry| &entry.answer) {
            Some(Answer::At(site, route)) => Place::At(*site, Arc::clone(route)),
            Some(Answer::Dead(verdict)) => Place::Dead(verdict.clone()),
            Some(Answer::Failing(why)) => Place::Unknown(format!("DNS: {why}")),
            Some(Answer::None) | None => Place::Unknown(String::new()),
        }
    }

    /// One of its queues is empty; without any, it may be forgotten after a while.
    pub(super) fn leave_domain(&mut self, domain: &Domain, queue: QueueId, now: Timestamp) {
        let Some(entry) = self.domains.get_mut(domain) else { return };
        entry.queues.remove(&queue);
        if entry.queues.is_empty() && !std::mem::replace(&mut entry.listed, true) {
            self.rounds.add_domain(domain.clone(), now);
        }
    }

    /// Forgets a domain that nothing waits for.
    pub(super) fn sweep_domain(&mut self, domain: Domain, now: Timestamp) {
        // The limits that a rule or an order gives a domain hold for all that are at its site, mail
        // or none.
        let mut rules = self.config.sites.rules.iter().map(|rule| rule.name.as_str());
        let mut orders = self.orders.throttles().iter().map(|order| order.site.as_str());
        let ruled =
            rules.any(|name| name == domain.as_str()) || orders.any(|name| name == domain.as_str());
        let Some(entry) = self.domains.get_mut(&domain) else { return };
        if !entry.queues.is_empty() {
            // It comes back with the end of its last queue.
            entry.listed = false;
        } else if ruled || !entry.jobs.is_empty() || entry.asking.is_some() || entry.is_fresh(now) {
            self.rounds.add_domain(domain, now);
        } else {
            let site = entry.site();
            self.count_domain(site, None);
            self.domains.remove(&domain);
        }
    }

    /// A domain is no longer at one site, but at the other.
    fn count_domain(&mut self, before: Option<SiteId>, after: Option<SiteId>) {
        if let Some(site) = after.and_then(|site| self.sites.get_mut(&site)) {
            site.domains += 1;
        }
        if let Some(site) = before.and_then(|site| self.sites.get_mut(&site)) {
            site.domains = site.domains.saturating_sub(1);
        }
    }

    /// Domains whose DNS fails now, with mail waiting: name and reason.
    pub(super) fn failing_domains(&self) -> impl Iterator<Item = (&Domain, &str)> {
        self.domains.iter().filter(|(_, entry)| !entry.queues.is_empty()).filter_map(
            |(domain, entry)| match &entry.answer {
                Answer::Failing(why) => Some((domain, why.as_str())),
                _ => None,
            },
        )
    }
}

/// Each domain whose mail has a way, with its site and that way.
pub(super) fn places(
    domains: &HashMap<Domain, Entry>,
) -> impl Iterator<Item = (&str, SiteId, &Route)> {
    domains.iter().filter_map(|(domain, entry)| match &entry.answer {
        Answer::At(site, route) => Some((domain.as_str(), *site, &**route)),
        _ => None,
    })
}

fn dns_trouble(why: &str) -> Verdict {
    let text = format!("DNS: {why}");
    Verdict::own(Ruling::Retry, Some(Blame::Site), EnhancedCode(4, 4, 3), text)
}

/// Why a domain takes no mail, ever.
fn dead(domain: &Domain, resolution: &Resolution) -> Verdict {
    let (status, blame, text) = match resolution {
        Resolution::NullMx => {
            (EnhancedCode(5, 1, 10), Blame::Recipient, format!("{domain} takes no mail (null MX)"))
        }
        Resolution::Loop => (
            EnhancedCode(5, 4, 6),
            Blame::Site,
            format!("mail for {domain} loops back to this node"),
        ),
        Resolution::Forbidden(addresses) => (
            EnhancedCode(5, 4, 4),
            Blame::Site,
            format!("{domain} has only private addresses ({addresses}): not connected to"),
        ),
        Resolution::NoSuchDomain | Resolution::Hosts(_) | Resolution::Temporary(_) => (
            EnhancedCode(5, 1, 2),
            Blame::Recipient,
            format!("{domain} does not exist or has no mail host"),
        ),
    };
    Verdict::own(Ruling::Fail, Some(blame), status, text)
}
