//! What the on-call staff see of the sites.

use super::{Lines, Site};
use crate::base::address::Domain;
use crate::base::time::Timestamp;
use crate::deliver::core::Core;
use crate::deliver::core::domains::places;
use crate::deliver::core::queues::Place;
use crate::policy::site::{Gate, Rate, SiteId, SiteLimits, SiteStatus};
use std::collections::BTreeSet;

/// Deliveries per minute, from two counting minutes.
#[derive(Default)]
pub(super) struct Meter {
    minute: i64,
    now: u64,
    before: u64,
}

impl Meter {
    fn turn(&mut self, now: Timestamp) {
        let minute = now.0.div_euclid(60_000);
        if minute != self.minute {
            self.before = if minute == self.minute + 1 { self.now } else { 0 };
            (self.minute, self.now) = (minute, 0);
        }
    }

    pub(super) fn add(&mut self, count: u64, now: Timestamp) {
        self.turn(now);
        self.now += count;
    }

    fn per_minute(&mut self, now: Timestamp) -> u64 {
        self.turn(now);
        let gone = u64::try_from(now.0.rem_euclid(60_000)).unwrap_or(0);
        self.now + self.before * (60_000 - gone) / 60_000
    }
}

impl Site {
    /// Whether it may be sent to now, and why not.
    fn gate(&self, now: Timestamp) -> (Gate, String) {
        let why = self.why.clone();
        if self.shut_until > now {
            return (Gate::Broken, format!("{why} (until {})", self.shut_until));
        }
        let used = |what: &str, (at, rate): (Timestamp, Rate)| {
            (Gate::Throttled, format!("{rate} {what} are used up (until {at})"))
        };
        if let Some(binding) = self.line.binding(now) {
            return used("messages", binding);
        }
        let waits = |lines: &Lines| !lines.direct.is_empty() || !lines.bulk.is_empty();
        let waits = !self.line.is_empty() || self.routes.values().any(waits);
        if let Some(binding) = self.opens.binding(now).filter(|_| waits) {
            return used("new connections", binding);
        }
        match (self.enough_until > now, self.failing_since) {
            (true, _) => (Gate::Throttled, why),
            (false, Some(_)) => (Gate::Broken, why),
            (false, None) => (Gate::Open, why),
        }
    }
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
            });
        }
        all.sort_by(|a, b| a.site.cmp(&b.site));
        all
    }
    fn status_of(&mut self, id: SiteId, now: Timestamp) -> Option<SiteStatus> {
        let site = self.sites.get_mut(&id)?;
        let queues = site.routes.values().flat_map(|r| &r.queues);
        let domains: BTreeSet<String> = queues
            .filter_map(|q| self.queues.get(q))
            .map(|q| q.backlog.key.domain.to_string())
            .collect();
        let (gate, why) = site.gate(now);
        Some(SiteStatus {
            site: site.name.to_string(),
            domains: domains.into_iter().collect(),
            connections: u32::try_from(site.links.len()).unwrap_or(u32::MAX),
            connections_max: site.limits.connections,
            rate_per_minute: site.meter.per_minute(now),
            gate,
            why,
        })
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
            return SiteLimits::foreseen(name, &self.directory);
        };
        SiteLimits {
            site: status.site,
            in_use: true,
            domains: places(&self.domains).filter(|(_, site, _)| *site == id).count(),
            limits: self.directory.explain(id),
            connections: status.connections,
            rate_per_minute: status.rate_per_minute,
            gate: Some(status.gate),
            why: status.why,
        }
    }
}
