//! Why mail is where it is: one sentence, a short chain, and what would change it. Pure: what the
//! store, the planner and DNS said goes in; nothing is guessed.

use super::outlook::Outlook;
use crate::base::time::{Timestamp, human};
use crate::mail::message::{Lane, Origin};
use crate::policy::orders::{Orders, Suspension};
use crate::policy::quota::Holder;
use crate::policy::site::{Gate, Limit, Resting, SiteStatus, Waiting};
use crate::store::{Backlog, DeliveryRecord, QueueBacklog, QueueKey, State};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// An answer about one delivery, or about all mail to a domain or of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What it is about.
    pub about: String,
    /// The answer.
    pub sentence: String,
    /// How it comes about: a word and a text each.
    pub chain: Vec<(String, String)>,
    /// What would change it; empty where nothing is needed.
    pub remedy: String,
}

impl Explanation {
    fn link(&mut self, word: &str, text: impl Into<String>) {
        self.chain.push((word.to_string(), text.into()));
    }

    fn say(&mut self, sentence: impl Into<String>, remedy: impl Into<String>) {
        (self.sentence, self.remedy) = (sentence.into(), remedy.into());
    }
}

/// What the answers are made of.
pub struct Facts<'a> {
    /// Counts of all scheduled queues.
    pub backlog: &'a Backlog,
    /// What the dispatcher knows of the sites.
    pub statuses: &'a [SiteStatus],
    /// The place of each domain's among them.
    pub site_of: HashMap<&'a str, usize>,
    /// When newsletters will be done.
    pub outlook: &'a Outlook,
    /// What the operator ordered.
    pub orders: &'a Orders,
    /// A node works on the queue.
    pub running: bool,
    /// The time.
    pub now: Timestamp,
}

/// Which mail.
#[derive(Clone, Copy)]
struct Mail<'a> {
    domain: &'a str,
    lane: Lane,
    tenant: &'a str,
    campaign: &'a str,
}

/// Deliveries before this one: of its own campaign to its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many.
    pub before: u64,
    /// There may be more: counting was ended.
    pub at_least: bool,
}

impl Facts<'_> {
    /// About one delivery.
    #[must_use]
    pub fn delivery(&self, record: &DeliveryRecord, place: Option<Place>) -> Explanation {
        let head = &record.head;
        let Origin { lane, reason, tenant, campaign, .. } = &head.origin;
        let recipient = record.recipient.mailbox.to_string();
        let mut found = Explanation {
            about: format!("{} to <{recipient}>", head.id),
            ..Explanation::default()
        };
        let age = human(self.now.since(head.accepted_at));
        found.link("message", format!("accepted {age} ago for tenant {tenant}"));
        found.link("lane", format!("{lane}, since: {reason}"));
        if record.attempts > 0 {
            let when = record.last_at.map(|at| format!(" at {at}")).unwrap_or_default();
            let tries = record.attempts;
            found.link("last reply", format!("{} (attempt {tries}{when})", record.last_reply));
        }
        let domain = record.recipient.mailbox.domain().map_or("", |domain| domain.as_str());
        let mail = Mail { domain, lane: *lane, tenant, campaign };
        let id = head.id;
        match record.state {
            State::Delivered => found.say(format!("It was delivered: {}.", record.last_reply), ""),
            State::Failed => {
                found.say(format!("It was refused for good: {}.", record.last_reply), "")
            }
            State::Expired => found.say(format!("Its time was over: {}.", record.last_reply), ""),
            State::Deleted => found.say("An operator deleted it.", ""),
            State::Leased => {
                self.site_links(&mut found, mail);
                found.say("It is on a connection, or on its way to one, right now.", "");
            }
            State::Held => found
                .say("An operator holds it.", format!("bulkhead queue release --id {id} sends it")),
            State::Ready | State::Deferred => {
                self.place(&mut found, mail, place);
                let due = record.due_at.unwrap_or(self.now);
                self.waits(&mut found, mail, due, |found| self.not_due(found, record, due));
            }
        }
        found
    }

    /// About all mail to a domain, or to a site of that name; one answer for each lane.
    #[must_use]
    pub fn to(&self, name: &str) -> Vec<Explanation> {
        let is_meant = |queue: &&QueueBacklog| {
            let domain = queue.key.domain.as_str();
            domain == name || self.status(domain).is_some_and(|status| status.site == name)
        };
        let queues: Vec<&QueueBacklog> = self.backlog.queues.iter().filter(is_meant).collect();
        let lanes = [Lane::Direct, Lane::Bulk].into_iter();
        lanes.filter_map(|lane| self.all(&format!("to {name}"), &queues, lane)).collect()
    }

    /// About all mail of a tenant; one answer for each lane.
    #[must_use]
    pub fn of(&self, tenant: &str) -> Vec<Explanation> {
        let is_meant = |queue: &&QueueBacklog| queue.key.tenant == tenant;
        let queues: Vec<&QueueBacklog> = self.backlog.queues.iter().filter(is_meant).collect();
        let answer = |lane| {
            let mut found = self.all(&format!("of {tenant}"), &queues, lane)?;
            let own = self.outlook.campaigns.iter().filter(|c| c.tenant == tenant);
            for campaign in own.filter(|_| lane == Lane::Bulk) {
                if let Some(ms) = campaign.ending.done_ms {
                    let name = if campaign.campaign.is_empty() { "-" } else { &campaign.campaign };
                    let wait = human(Timestamp(ms).since(self.now));
                    found.link("campaign", format!("{name}: done in about {wait}"));
                }
            }
            Some(found)
        };
        [Lane::Direct, Lane::Bulk].into_iter().filter_map(answer).collect()
    }

    /// Where most of these queues' mail of one lane waits, and for what.
    fn all(&self, about: &str, queues: &[&QueueBacklog], lane: Lane) -> Option<Explanation> {
        let mut found = Explanation {
            about: format!("{} mail {about}", lane.as_str()),
            ..Explanation::default()
        };
        let (mut ready, mut deferred, mut leased, mut held) = (0, 0, 0, 0);
        let mut by_site: BTreeMap<&str, (u64, &QueueBacklog)> = BTreeMap::new();
        for queue in queues.iter().filter(|queue| queue.key.lane == lane) {
            if self.backlog.all_held {
                held += queue.waiting();
            } else {
                ready += queue.ready;
                deferred += queue.deferred;
            }
            leased += queue.leased;
            held += queue.held;
            let domain = queue.key.domain.as_str();
            let name = self.status(domain).map_or(domain, |status| status.site.as_str());
            let entry = by_site.entry(name).or_insert((0, queue));
            entry.0 += queue.waiting();
            if queue.waiting() > entry.1.waiting() {
                entry.1 = queue;
            }
        }
        if ready + deferred + leased + held == 0 {
            return None;
        }
        found.link(
            "counts",
            format!(
                "{ready} never tried, {deferred} deferred, {leased} on connections, {held} held"
            ),
        );
        let largest = by_site.iter().max_by_key(|(_, (waiting, _))| *waiting);
        let Some((site, (waiting, queue))) = largest.filter(|(_, (waiting, _))| *waiting > 0)
        else {
            let held = held > 0;
            found.say(
                if held { "An operator holds it." } else { "All of it is on connections now." },
                if held { "bulkhead queue release ends that" } else { "" },
            );
            return Some(found);
        };
        if by_site.len() > 1 {
            let sites = by_site.values().filter(|(waiting, _)| *waiting > 0).count();
            found.link("most", format!("{waiting} of it to {site}, of {sites} sites"));
        }
        let QueueKey { tenant, campaign, domain, .. } = &*queue.key;
        let mail = Mail { domain: domain.as_str(), lane, tenant, campaign };
        self.waits(&mut found, mail, queue.next_due, |found| {
            let wait = human(queue.next_due.since(self.now));
            self.site_links(found, mail);
            found.say(
                format!("It is not due yet: the next is in {wait}."),
                "bulkhead queue retry makes it due now",
            );
        });
        Some(found)
    }

    fn status(&self, domain: &str) -> Option<&SiteStatus> {
        self.site_of.get(domain).and_then(|site| self.statuses.get(*site))
    }

    /// What mail that is due then and not on a connection waits for; `not_due` tells of it where
    /// that is all.
    fn waits(
        &self,
        found: &mut Explanation,
        mail: Mail<'_>,
        due: Timestamp,
        not_due: impl FnOnce(&mut Explanation),
    ) {
        if self.backlog.all_held {
            found.say("An operator holds everything.", "bulkhead queue release --all ends that");
        } else if let Some(order) = self.suspension(mail) {
            let until = match order.until {
                Some(until) => format!("for another {}", human(until.since(self.now))),
                None => "until that is ended".into(),
            };
            found.say(
                format!("An operator suspended it ({}), {until}: {}.", order.scope, order.reason),
                "bulkhead resume ends that",
            );
        } else if due > self.now {
            not_due(found);
        } else {
            self.due(found, mail);
        }
    }

    fn suspension(&self, mail: Mail<'_>) -> Option<&Suspension> {
        let Mail { domain, lane, tenant, campaign } = mail;
        let status = self.status(domain);
        let is_site =
            |name: &str| status.map_or(name == domain, |status| status.is_called(name, domain));
        self.orders.suspension_of(is_site, tenant, campaign, lane, self.now)
    }

    fn not_due(&self, found: &mut Explanation, record: &DeliveryRecord, due: Timestamp) {
        let wait = human(due.since(self.now));
        let id = record.head.id;
        let retry = format!("bulkhead queue retry --id {id} tries it now");
        found.link("next try", format!("{due} (in {wait})"));
        if record.attempts == 0 {
            found.say(
                format!("It gathers with other newsletters to its site for another {wait}."),
                retry,
            );
        } else {
            let said = &record.last_reply;
            found.say(format!("It was put off and is tried again in {wait}: {said}."), retry);
        }
    }

    /// What is due and not on a connection waits for this.
    fn due(&self, found: &mut Explanation, mail: Mail<'_>) {
        let Mail { domain, lane, tenant, .. } = mail;
        if !self.running {
            return found.say("No node runs, so nothing is sent.", "bulkhead serve");
        }
        let Some(status) = self.status(domain) else {
            return found.say(format!("DNS was not asked yet where mail to {domain} goes."), "");
        };
        self.site_links(found, mail);
        let site = &status.site;
        if status.gate == Gate::Broken {
            return found.say(
                format!("{site} takes no mail now: {}.", status.why),
                "it is probed by itself; nothing is lost",
            );
        }
        let is_meant = |resting: &&Resting| {
            [Holder::Tenant(tenant), Holder::Domain(domain)].contains(&resting.whose.as_ref())
        };
        if let Some(rests) = status.resting.iter().filter(is_meant).max_by_key(|r| r.until) {
            return self.rests(found, site, rests);
        }
        match status.waiting.iter().find(|waiting| waiting.lane == lane) {
            Some(waiting) => self.limited(found, site, waiting),
            None => found.say(format!("It is next at {site}."), ""),
        }
    }

    fn rests(&self, found: &mut Explanation, site: &str, rests: &Resting) {
        let Resting { whose, until, why } = rests;
        let wait = human(until.since(self.now));
        match whose {
            Holder::Tenant(tenant) => found.say(
                format!("Its tenant {tenant} may send more to {site} in {wait}: {why}."),
                "a higher `rate` for the tenant, where it is the tenant's own that is used up",
            ),
            Holder::Domain(domain) => {
                found.link("binding", format!("{domain}: {why}, until {until}"));
                found.say(
                    format!("More mail to {domain} may go in {wait}: {why}."),
                    format!(
                        "a higher `rate` in [domains.\"{domain}\"], where its receiver permits that"
                    ),
                );
            }
        }
    }

    fn limited(&self, found: &mut Explanation, site: &str, waiting: &Waiting) {
        let Waiting { limit, since, until, text, .. } = waiting;
        let until = match until {
            Some(until) => format!(", for another {}", human(until.since(self.now))),
            None => String::new(),
        };
        found.link("binding", format!("{text}, for {}", human(self.now.since(*since))));
        let remedy = match limit {
            Limit::Rate => "a higher `rate` for this site, where its receiver permits that",
            Limit::ConnectionRate => "a higher `connection_rate` for this site",
            Limit::Connections => {
                "more `connections` for this site, where its receiver permits that"
            }
            Limit::Source => "another source ([sources]), or that the receiver forgives this one",
            Limit::AllConnections => "more `connections` in [delivery]",
            Limit::Tenant => "a higher `rate` for the tenants that wait",
            Limit::Window | Limit::Gate | Limit::Turn => "nothing is needed: it goes by itself",
        };
        let sentence = match limit {
            Limit::Turn => format!("It waits for its turn at {site}: {text}."),
            _ => format!("It waits at {site}{until}: {text}."),
        };
        found.say(sentence, remedy);
    }

    fn site_links(&self, found: &mut Explanation, mail: Mail<'_>) {
        let here = self.site_of.get(mail.domain);
        let Some(status) = here.and_then(|site| self.statuses.get(*site)) else { return };
        let SiteStatus { site, connections, connections_max, window, rate_per_minute, .. } = status;
        found.link(
            "site",
            format!(
                "{site}: {connections} connections of {window} that it welcomes and \
                 {connections_max} allowed, {rate_per_minute} deliveries in the last minute"
            ),
        );
        let is_in_line = |queue: &&QueueBacklog| {
            let QueueKey { lane, domain, .. } = &*queue.key;
            *lane == mail.lane && queue.waiting() > 0 && self.site_of.get(domain.as_str()) == here
        };
        let mut tenants: BTreeMap<&str, u64> = BTreeMap::new();
        for queue in self.backlog.queues.iter().filter(is_in_line) {
            *tenants.entry(&queue.key.tenant).or_default() += queue.waiting();
        }
        let (all, count) = (tenants.values().sum::<u64>(), tenants.len());
        if all > 0 {
            let s = if count == 1 { "" } else { "s, who take turns" };
            found.link("in line there", format!("{all} of this lane, of {count} tenant{s}"));
        }
    }

    fn place(&self, found: &mut Explanation, mail: Mail<'_>, place: Option<Place>) {
        let Mail { domain, lane, tenant, .. } = mail;
        let Some(Place { before, at_least }) = place else { return };
        let own = |queue: &&QueueBacklog| {
            let key = &queue.key;
            key.lane == lane && key.tenant == tenant && key.domain.as_str() == domain
        };
        let all: u64 = self.backlog.queues.iter().filter(own).map(|queue| queue.waiting()).sum();
        let more = if at_least { " or more" } else { "" };
        found.link(
            "place",
            format!(
                "{before}{more} of its campaign before it, of {all} that {tenant} has to {domain}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::{Domain, Mailbox, ReversePath};
    use crate::base::id::{IdGenerator, QueueId};
    use crate::mail::envelope::{Envelope, Recipient};
    use crate::mail::message::MessageHead;
    use crate::policy::orders::Scope;
    use crate::policy::site::by_domain;
    use crate::store::Revision;
    use std::sync::Arc;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_795_394_728_000);

    fn minutes(n: u64) -> Timestamp {
        NOW.after(Duration::from_secs(n * 60))
    }

    fn queue(tenant: &str, domain: &str, ready: u64) -> QueueBacklog {
        let domain = Domain::parse(domain).unwrap();
        let campaign = "spring".into();
        QueueBacklog {
            id: QueueId(1),
            key: Arc::new(QueueKey { lane: Lane::Bulk, tenant: tenant.into(), campaign, domain }),
            ready,
            deferred: 0,
            leased: 0,
            held: 0,
            bytes: 1,
            oldest: NOW,
            next_due: NOW,
        }
    }

    fn status(gate: Gate, waiting: Option<(Limit, Option<Timestamp>)>) -> SiteStatus {
        let waiting = waiting.map(|(limit, until)| {
            let since = NOW.before(Duration::from_secs(30));
            let text = "the rate of 10/min messages is used up".into();
            Waiting { lane: Lane::Bulk, limit, since, until, text }
        });
        SiteStatus {
            site: "mx.example".into(),
            domains: vec!["a.example".into(), "b.example".into()],
            connections: 2,
            connections_max: 10,
            rate_per_minute: 60,
            gate,
            why: "connect: timed out".into(),
            window: 4,
            waiting: waiting.into_iter().collect(),
            resting: Vec::new(),
            also_called: BTreeMap::new(),
        }
    }

    fn record(state: State, attempts: u32, due_at: Timestamp) -> DeliveryRecord {
        let head = MessageHead {
            id: IdGenerator::after(None).next(NOW),
            accepted_at: NOW.before(Duration::from_secs(600)),
            expires_at: minutes(600),
            origin: Origin {
                lane: Lane::Bulk,
                reason: "X-Newsletter: yes".into(),
                tenant: "shop".into(),
                campaign: "spring".into(),
                client: String::new(),
            },
            envelope: Envelope::from(ReversePath::Null),
            size: 1,
            recipient_count: 1,
        };
        DeliveryRecord {
            head: Arc::new(head),
            number: 0,
            recipient: Recipient::new(Mailbox::parse("ann@a.example").unwrap()),
            state,
            attempts,
            due_at: Some(due_at),
            last_at: None,
            last_reply: "451 4.7.1 later".into(),
            blame: None,
        }
    }

    struct World {
        backlog: Backlog,
        statuses: Vec<SiteStatus>,
        orders: Orders,
        running: bool,
    }

    fn world(status: SiteStatus) -> World {
        let queues = vec![queue("shop", "a.example", 40), queue("club", "b.example", 5)];
        let backlog = Backlog { revision: Revision::START, all_held: false, queues };
        World { backlog, statuses: vec![status], orders: Orders::default(), running: true }
    }

    impl World {
        fn with<T>(&self, ask: impl Fn(&Facts<'_>) -> T) -> T {
            let (outlook, running) = (&Outlook::default(), self.running);
            let Self { backlog, statuses, .. } = self;
            let (orders, site_of) = (&self.orders, by_domain(statuses));
            ask(&Facts { backlog, statuses, site_of, outlook, orders, running, now: NOW })
        }

        fn delivery(&self, state: State, attempts: u32, due_at: Timestamp) -> Explanation {
            let place = Some(Place { before: 7, at_least: false });
            self.with(|facts| facts.delivery(&record(state, attempts, due_at), place))
        }
    }

    #[test]
    fn a_delivery_waits_for_what_the_planner_noted() {
        let world = world(status(Gate::Throttled, Some((Limit::Rate, Some(minutes(2))))));
        let found = world.delivery(State::Ready, 0, NOW);
        assert_eq!(
            found.sentence,
            "It waits at mx.example, for another 2m: the rate of 10/min messages is used up."
        );
        assert!(found.remedy.contains("`rate`"));
        let chain: Vec<String> = found.chain.iter().map(|(w, t)| format!("{w}: {t}")).collect();
        assert_eq!(
            chain,
            [
                "message: accepted 10m ago for tenant shop",
                "lane: bulk, since: X-Newsletter: yes",
                "place: 7 of its campaign before it, of 40 that shop has to a.example",
                "site: mx.example: 2 connections of 4 that it welcomes and 10 allowed, 60 \
                 deliveries in the last minute",
                "in line there: 45 of this lane, of 2 tenants, who take turns",
                "binding: the rate of 10/min messages is used up, for 30s",
            ]
        );
    }

    #[test]
    fn each_state_has_its_reason() {
        let mut world = world(status(Gate::Open, None));
        let said =
            |world: &World, state, attempts, due| world.delivery(state, attempts, due).sentence;
        let gathers = "It gathers with other newsletters to its site for another 5m.";
        assert_eq!(said(&world, State::Ready, 0, minutes(5)), gathers);
        let later = "It was put off and is tried again in 5m: 451 4.7.1 later.";
        assert_eq!(said(&world, State::Deferred, 2, minutes(5)), later);
        assert_eq!(said(&world, State::Held, 0, NOW), "An operator holds it.");
        assert!(said(&world, State::Leased, 0, NOW).starts_with("It is on a connection"));
        assert_eq!(said(&world, State::Ready, 0, NOW), "It is next at mx.example.");
        world.statuses[0].resting = vec![Resting {
            whose: Holder::Tenant("shop".into()),
            until: minutes(3),
            why: "its rate of 20/h messages to all sites is used up".into(),
        }];
        let rests = "Its tenant shop may send more to mx.example in 3m: its rate of 20/h messages \
                     to all sites is used up.";
        assert_eq!(said(&world, State::Ready, 0, NOW), rests);
        let domain = Resting {
            whose: Holder::Domain("a.example".into()),
            until: minutes(4),
            why: "its rate of 60/min messages is used up".into(),
        };
        world.statuses[0].resting.insert(0, domain);
        let longer = "More mail to a.example may go in 4m: its rate of 60/min messages is used up.";
        assert_eq!(said(&world, State::Ready, 0, NOW), longer, "the later of the two binds");
        world.statuses[0].resting.remove(0);
        // By a name that the planner alone knows the site by.
        let scope = Scope { site: Some("example".into()), ..Scope::default() };
        let (reason, since) = ("asked by its postmaster".to_string(), NOW);
        let order = Suspension { scope, reason, since, until: Some(minutes(30)) };
        world.orders.suspend(order).unwrap();
        assert_eq!(said(&world, State::Ready, 0, NOW), rests, "another site's");
        let meant = [("example".into(), ["a.example".into()].into())];
        world.statuses[0].also_called = meant.into();
        let suspended = "An operator suspended it (site=example), for another 30m: asked by its \
                         postmaster.";
        assert_eq!(said(&world, State::Ready, 0, NOW), suspended);
        assert_eq!(said(&world, State::Ready, 0, minutes(5)), suspended, "whenever it is due");
        world.orders = Orders::default();
        world.statuses[0].gate = Gate::Broken;
        let broken = "mx.example takes no mail now: connect: timed out.";
        assert_eq!(said(&world, State::Ready, 0, NOW), broken);
        world.statuses.clear();
        let unknown = "DNS was not asked yet where mail to a.example goes.";
        assert_eq!(said(&world, State::Ready, 0, NOW), unknown);
        world.running = false;
        let stopped = "No node runs, so nothing is sent.";
        assert_eq!(said(&world, State::Ready, 0, NOW), stopped);
        world.backlog.all_held = true;
        assert_eq!(said(&world, State::Ready, 0, NOW), "An operator holds everything.");
    }

    #[test]
    fn all_mail_to_a_place_or_of_a_tenant_is_explained_at_once() {
        let world = world(status(Gate::Open, Some((Limit::Window, None))));
        let about = |found: Vec<Explanation>| -> Vec<(String, String)> {
            found.into_iter().map(|e| (e.about, e.chain[0].1.clone())).collect()
        };
        let counts = |n| format!("{n} never tried, 0 deferred, 0 on connections, 0 held");
        let bulk = |to: &str, n| vec![(format!("bulk mail {to}"), counts(n))];
        assert_eq!(about(world.with(|f| f.to("a.example"))), bulk("to a.example", 40));
        assert_eq!(about(world.with(|f| f.to("mx.example"))), bulk("to mx.example", 45));
        assert_eq!(about(world.with(|f| f.of("club"))), bulk("of club", 5));
        assert_eq!(about(world.with(|f| f.of("nobody"))), []);
        let mut held = self::world(status(Gate::Open, Some((Limit::Window, None))));
        held.backlog.all_held = true;
        let counts = "0 never tried, 0 deferred, 0 on connections, 5 held";
        assert_eq!(
            about(held.with(|f| f.of("club"))),
            [("bulk mail of club".into(), counts.into())]
        );
        let found = world.with(|f| f.of("club")).remove(0);
        assert!(found.sentence.starts_with("It waits at mx.example: "), "{found:?}");
    }
}
