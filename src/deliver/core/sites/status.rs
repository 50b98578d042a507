//! What the on-call staff see of the sites.

use super::{Lines, Site};
use crate::base::time::Timestamp;
use crate::deliver::core::Core;
use crate::policy::site::{Gate, Rate, SiteStatus};
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
        let mut all = Vec::with_capacity(self.sites.len());
        for site in self.sites.values_mut() {
            let queues = site.routes.values().flat_map(|r| &r.queues);
            let domains: BTreeSet<String> = queues
                .filter_map(|q| self.queues.get(q))
                .map(|q| q.backlog.key.domain.to_string())
                .collect();
            let (gate, why) = site.gate(now);
            all.push(SiteStatus {
                site: site.name.to_string(),
                domains: domains.into_iter().collect(),
                connections: u32::try_from(site.links.len()).unwrap_or(u32::MAX),
                connections_max: site.limits.connections,
                rate_per_minute: site.meter.per_minute(now),
                gate,
                why,
            });
        }
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
}
