//! What the on-call staff see of the sites.

use super::{Lines, Site};
use crate::base::address::Domain;
use crate::base::time::Timestamp;
use crate::deliver::core::Core;
use crate::deliver::core::queues::Place;
use crate::deliver::quotas::Quotas;
use crate::mail::message::Lane;
use crate::policy::feedback::scoped::Standing;
use crate::policy::paces::What;
use crate::policy::quota::{self, Holder};
use crate::policy::site::{
    Gate, Lessons, Rate, Resting, SiteId, SiteLimits, SiteStatus, SourceStatus,
};
use crate::policy::source::{Source, SourceId, Sources};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Deliveries per minute, of each source that was used.
#[derive(Default)]
pub(in crate::deliver::core) struct Meter(BTreeMap<SourceId, Minutes>);

impl Meter {
    pub(in crate::deliver::core) fn add(&mut self, from: SourceId, count: u64, now: Timestamp) {
        self.0.entry(from).or_default().add(count, now);
    }

    pub(in crate::deliver::core) fn per_minute(&mut self, now: Timestamp) -> u64 {
        self.0.values_mut().map(|minutes| minutes.rate(now)).sum()
    }

    pub(in crate::deliver::core) fn per_minute_from(
        &mut self,
        source: SourceId,
        now: Timestamp,
    ) -> u64 {
        self.0.get_mut(&source).map_or(0, |minutes| minutes.rate(now))
    }
}

/// Two counting minutes.
#[derive(Default)]
struct Minutes {
    minute: i64,
    now: u64,
    before: u64,
}

impl Minutes {
    fn turn(&mut self, now: Timestamp) {
        let minute = now.0.div_euclid(60_000);
        if minute != self.minute {
            self.before = if minute == self.minute + 1 { self.now } else { 0 };
            (self.minute, self.now) = (minute, 0);
        }
    }

    fn add(&mut self, count: u64, now: Timestamp) {
        self.turn(now);
        self.now += count;
    }

    fn rate(&mut self, now: Timestamp) -> u64 {
        self.turn(now);
        let gone = u64::try_from(now.0.rem_euclid(60_000)).unwrap_or(0);
        self.now + self.before * (60_000 - gone) / 60_000
    }
}

impl Site {
    /// Tenants in line that may not send now.
    fn resting(&self, quotas: &Quotas, now: Timestamp) -> Vec<Resting> {
        let in_line: BTreeSet<_> = self.ways.values().flat_map(Lines::in_line).collect();
        let rests = |(lane, tenant): (Lane, &str)| {
            let here = self.line.waits(tenant, now);
            let here = here.map(|(until, why)| Resting {
                whose: Holder::Tenant(tenant.to_string()),
                until,
                why,
            });
            here.or_else(|| rests(quotas, Holder::Tenant(tenant), lane, now))
        };
        let mut resting: Vec<Resting> = in_line.into_iter().filter_map(rests).collect();
        resting.dedup_by(|a, b| a.whose == b.whose);
        resting
    }

    fn lessons(&self, now: Timestamp) -> Lessons {
        let forced = self.forced(now);
        Lessons {
            window: self.window(),
            curve: self.feedback.window.curve().collect(),
            rate: forced.map(|(rate, _)| rate),
            rate_until: forced.map(|(_, until)| until),
            deliveries_per_connection: self.feedback.spent.most(now),
        }
    }

    /// Whether it may be sent to now, and why not.
    fn gate(&self, sources: &Sources, now: Timestamp) -> (Gate, String) {
        let why = self.why.clone();
        if self.shut_until > now {
            return (Gate::Broken, format!("{why} (until {})", self.shut_until));
        }
        let used = |what: &str, (at, rate): (Timestamp, Rate)| {
            (Gate::Throttled, format!("{rate} {what} are used up (until {at})"))
        };
        if let Some(binding) = self.line.binding(What::Message, now) {
            return used("messages", binding);
        }
        let waits = |lines: &Lines| lines.in_line().next().is_some();
        let waits = !self.line.is_empty() || self.ways.values().any(waits);
        if let Some(binding) = self.line.binding(What::Connection, now).filter(|_| waits) {
            return used("new connections", binding);
        }
        let of_source = |source: &Arc<Source>| {
            let Standing { until, rate, why } = self.line.standing(source, now)?;
            let less = rate.map_or("rests".to_string(), |rate| format!("is slowed to {rate}"));
            Some(format!("{why} (source {} {less} until {until})", source.name))
        };
        if let Some(why) = sources.iter().find_map(of_source) {
            return (Gate::Throttled, why);
        }
        if let Some((rate, next)) = self.forced(now) {
            return (Gate::Throttled, format!("{why} (slowed to {rate}; more from {next})"));
        }
        let window = &self.feedback.window;
        match (window.retry_at(now), self.failing_since) {
            (_, Some(_)) => (Gate::Broken, why),
            (Some(at), None) => {
                let most = self.window();
                (
                    Gate::Throttled,
                    format!("{why} ({most} connections are welcome; one more is tried at {at})"),
                )
            }
            (None, None) => (Gate::Open, why),
        }
    }
}

/// Where the rate is used up.
fn rests(quotas: &Quotas, whose: Holder<&str>, lane: Lane, now: Timestamp) -> Option<Resting> {
    let (_, rate) = quotas.binding(whose, now)?;
    let until = quotas.next_at(whose, lane, now);
    let why = match whose {
        Holder::Tenant(_) => format!("its rate of {rate} messages to all sites is used up"),
        Holder::Domain(_) => format!("its rate of {rate} messages is used up"),
    };
    (until > now).then(|| Resting { whose: whose.owned(), until, why })
}

impl Core {
    /// All sites with mail or connections, and domains that DNS does not find.
    pub(in crate::deliver::core) fn site_status(&mut self, now: Timestamp) -> Vec<SiteStatus> {
        let ids: Vec<SiteId> = self.sites.keys().copied().collect();
        let mut all: Vec<_> = ids.into_iter().filter_map(|id| self.status_of(id, now)).collect();
        for (domain, why) in self.failing_domains() {
            all.push(SiteStatus {
                site: domain.to_string(),
                domains: vec![domain.to_string()],
                connections: 0,
                connections_max: 0,
                rate_per_minute: 0,
                gate: Gate::Broken,
                why: format!("DNS: {why}"),
                window: 0,
                waiting: Vec::new(),
                resting: Vec::new(),
                also_called: BTreeMap::new(),
            });
        }
        all.sort_by(|a, b| a.site.cmp(&b.site));
        all
    }

    /// The names in suspensions that mean domains with suspended mail at this site.
    fn also_called(&self, id: SiteId) -> BTreeMap<String, BTreeSet<String>> {
        let mut called: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let queues = self.sites.get(&id).into_iter().flat_map(|site| site.ways.values());
        let queues = queues.flat_map(|r| &r.queues).filter_map(|q| self.queues.get(q));
        for queue in queues.filter(|queue| queue.suspended) {
            let Place::At(_, route) = &queue.place else { continue };
            let domain = queue.backlog.key.domain.as_str();
            let scopes = self.orders.suspensions().iter().map(|order| &order.scope);
            let names = scopes.filter_map(|scope| scope.site.as_ref());
            for name in names.filter(|n| self.directory.is_called(id, n, domain, route)) {
                called.entry(name.clone()).or_default().insert(domain.to_string());
            }
        }
        called
    }

    /// Of these domains, those whose mail waits for their own rate.
    fn resting_domains(&self, domains: &BTreeSet<Domain>, now: Timestamp) -> Vec<Resting> {
        let rests_in = |domain: &Domain, lane| {
            let waiters = self.waiters.get(domain)?;
            let rests = || rests(&self.quotas, Holder::Domain(domain.as_str()), lane, now);
            waiters.wait_in(lane).then(rests).flatten()
        };
        let rests =
            |domain| rests_in(domain, Lane::Direct).or_else(|| rests_in(domain, Lane::Bulk));
        domains.iter().filter_map(rests).collect()
    }

    fn status_of(&mut self, id: SiteId, now: Timestamp) -> Option<SiteStatus> {
        let queues = self.sites.get(&id)?.ways.values().flat_map(|r| &r.queues);
        let domains: BTreeSet<Domain> = queues
            .filter_map(|q| self.queues.get(q))
            .map(|q| q.backlog.key.domain.clone())
            .collect();
        let resting = self.resting_domains(&domains, now);
        let site = self.sites.get_mut(&id)?;
        let sources = &self.config.sources;
        let (gate, why) = site.gate(sources, now);
        let resting = [site.resting(&self.quotas, now), resting].concat();
        Some(SiteStatus {
            site: site.name.to_string(),
            domains: domains.iter().map(Domain::to_string).collect(),
            connections: u32::try_from(site.links.len()).unwrap_or(u32::MAX),
            connections_max: site.limits.connections,
            rate_per_minute: site.meter.per_minute(now),
            gate,
            why,
            window: site.window(),
            waiting: site.waiting(sources, now),
            resting,
            also_called: self.also_called(id),
        })
    }

    /// What goes to a site from each source; where there is one, what is said of the site says it.
    fn sources_at(&mut self, id: SiteId, now: Timestamp) -> Vec<SourceStatus> {
        let config = Arc::clone(&self.config);
        let status = |source: &Arc<Source>| {
            let site = self.sites.get(&id)?;
            let links = self.count_links(site, |link| link.source.id == source.id);
            let standing = site.line.standing(source, now);
            let site = self.sites.get_mut(&id)?;
            Some(SourceStatus {
                source: source.name.clone(),
                connections: u32::try_from(links).unwrap_or(u32::MAX),
                rate_per_minute: site.meter.per_minute_from(source.id, now),
                until: standing.as_ref().map(|standing| standing.until),
                rate: standing.as_ref().and_then(|standing| standing.rate),
                why: standing.map(|standing| standing.why).unwrap_or_default(),
            })
        };
        let several = config.sources.iter().nth(1).is_some();
        config.sources.iter().filter(|_| several).filter_map(status).collect()
    }

    /// Every limit of a site, who says so, and how the site does. For a name that no site is known
    /// by, what would hold.
    #[must_use]
    pub fn explain_site(&mut self, name: &str, now: Timestamp) -> SiteLimits {
        let of_domain = Domain::parse(name).ok().map(|domain| self.place_of(&domain));
        let by_domain = match of_domain {
            Some(Place::At(id, _)) => Some(id),
            _ => None,
        };
        let id = by_domain.or_else(|| self.directory.find(name));
        let Some((id, status)) = id.and_then(|id| Some((id, self.status_of(id, now)?))) else {
            return SiteLimits::foreseen(name, &self.directory, &self.config.domains);
        };
        SiteLimits {
            site: status.site,
            in_use: true,
            domains: self.sites.get(&id).map_or(0, |site| site.domains),
            limits: self.directory.explain(id),
            of_domain: quota::explain(&self.config.domains, name),
            connections: status.connections,
            rate_per_minute: status.rate_per_minute,
            gate: Some(status.gate),
            why: status.why,
            learned: self.sites.get(&id).map(|site| site.lessons(now)),
            sources: self.sources_at(id, now),
        }
    }
}
