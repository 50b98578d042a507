//! The queue by site, as `bulkhead queue` shows it. Pure: backlog and site facts in, counts out.

use super::outlook::Outlook;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::orders::Suspension;
use crate::policy::quota::Holder;
use crate::policy::site::{Gate, Limit, Resting, SiteStatus, Waiting, by_domain};
use crate::store::{Backlog, Health, QueueBacklog};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Most sites in one summary.
pub const SITES_MAX: usize = 10_000;

/// The queue at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the node; empty where the queue was read without one.
    pub node: String,
    /// Everything is held, what is to come too.
    pub all_held: bool,
    /// Over all sites, those left out too.
    pub total: Total,
    /// Those with most mail first.
    pub sites: Vec<SiteSummary>,
    /// How many more there are.
    pub sites_omitted: usize,
    /// How the disk does.
    #[serde(default)]
    pub store: Health,
    /// When the newsletters will be done.
    #[serde(default)]
    pub outlook: Outlook,
    /// What the operator does not want sent now.
    #[serde(default)]
    pub suspensions: Vec<Suspension>,
}

/// Sums over a set of scheduled queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// Deliveries never tried.
    pub ready: u64,
    /// Deliveries on a connection.
    pub leased: u64,
    /// Deliveries tried before.
    pub deferred: u64,
    /// Deliveries that wait for an operator; while all is held, all that are not leased.
    pub held: u64,
    /// Sum of the sizes of their messages.
    pub bytes: u64,
    /// Age of the oldest delivery, or a little more; `None` where there is none.
    pub oldest_ms: Option<u64>,
    /// Deliveries done in the last minute.
    pub rate_per_minute: u64,
    /// Open connections.
    pub connections: u32,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteSummary {
    /// Its name; the domain, while its site is not known.
    pub site: String,
    /// Its counts.
    #[serde(flatten)]
    pub total: Total,
    /// Most connections at once; `None` while the site is not known.
    pub connections_max: Option<u32>,
    /// May it be sent to; `None` while the site is not known.
    pub gate: Option<Gate>,
    /// Last trouble, or the limit that newsletters wait for; empty where there is none.
    pub why: String,
    /// Connections that it welcomes, as far as was learned; `None` while the site is not known.
    #[serde(default)]
    pub window: Option<u32>,
    /// What each lane waits for.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// Tenants with mail here that may not send, and domains that may get nothing.
    #[serde(default)]
    pub resting: Vec<Resting>,
}

impl Total {
    /// Deliveries in all states.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ready + self.leased + self.deferred + self.held
    }

    fn add(&mut self, queue: &QueueBacklog, all_held: bool, now: Timestamp) {
        self.leased += queue.leased;
        self.bytes += queue.bytes;
        if all_held {
            self.held += queue.held + queue.waiting();
        } else {
            self.ready += queue.ready;
            self.deferred += queue.deferred;
            self.held += queue.held;
        }
        let age = u64::try_from(now.since(queue.oldest).as_millis()).unwrap_or(u64::MAX);
        self.oldest_ms = self.oldest_ms.max(Some(age));
    }
}

/// What to sum up.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// This lane alone.
    pub lane: Option<Lane>,
    /// Most sites in the answer.
    pub sites_max: usize,
    /// The time.
    pub now: Timestamp,
}

/// Sums the whole backlog up by site.
#[must_use]
pub fn summarise(
    node: &str,
    backlog: &Backlog,
    statuses: &[SiteStatus],
    question: Question,
) -> Summary {
    let site_of = by_domain(statuses);
    let mut sites: HashMap<&str, SiteSummary> = HashMap::new();
    for status in statuses.iter().filter(|status| is_busy(status)) {
        sites.insert(&status.site, SiteSummary::new(&status.site, Some(status)));
    }
    let mut total = Total::default();
    for queue in &backlog.queues {
        let empty = queue.waiting() + queue.leased + queue.held == 0;
        if empty || question.lane.is_some_and(|lane| lane != queue.key.lane) {
            continue;
        }
        let domain = queue.key.domain.as_str();
        let status = site_of.get(domain).map(|site| &statuses[*site]);
        let name = status.map_or(domain, |status| status.site.as_str());
        let site = sites.entry(name).or_insert_with(|| SiteSummary::new(name, status));
        site.total.add(queue, backlog.all_held, question.now);
        total.add(queue, backlog.all_held, question.now);
    }
    for status in statuses {
        total.rate_per_minute += status.rate_per_minute;
        total.connections += status.connections;
    }
    let mut sites: Vec<_> = sites.into_values().collect();
    sites.sort_by(|a, b| b.total.count().cmp(&a.total.count()).then_with(|| a.site.cmp(&b.site)));
    let sites_omitted = sites.len().saturating_sub(question.sites_max);
    sites.truncate(question.sites_max);
    Summary {
        node: node.to_string(),
        all_held: backlog.all_held,
        total,
        sites,
        sites_omitted,
        ..Summary::default()
    }
}

/// A site that is worth a line even with nothing queued.
fn is_busy(status: &SiteStatus) -> bool {
    status.connections > 0 || status.rate_per_minute > 0 || status.gate != Gate::Open
}

/// Trouble, else the limit that newsletters wait for, else a domain whose mail waits.
fn why(status: &SiteStatus) -> String {
    let limit = |w: &&Waiting| w.lane == Lane::Bulk && w.limit != Limit::Turn;
    let domain = |resting: &Resting| match &resting.whose {
        Holder::Domain(name) => Some(format!("{name}: {}", resting.why)),
        Holder::Tenant(_) => None,
    };
    if !status.why.is_empty() {
        return status.why.clone();
    }
    let limit = status.waiting.iter().find(limit).map(|waiting| waiting.text.clone());
    limit.or_else(|| status.resting.iter().find_map(domain)).unwrap_or_default()
}

impl SiteSummary {
    fn new(name: &str, status: Option<&SiteStatus>) -> Self {
        let total = Total {
            rate_per_minute: status.map_or(0, |s| s.rate_per_minute),
            connections: status.map_or(0, |s| s.connections),
            ..Total::default()
        };
        Self {
            site: name.to_string(),
            total,
            connections_max: status.map(|s| s.connections_max),
            gate: status.map(|s| s.gate),
            why: status.map(why).unwrap_or_default(),
            window: status.map(|s| s.window),
            waiting: status.map(|s| s.waiting.clone()).unwrap_or_default(),
            resting: status.map(|s| s.resting.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Domain;
    use crate::store::{QueueId, QueueKey, Revision};
    use std::sync::Arc;

    fn queue(lane: Lane, domain: &str, counts: [u64; 4], oldest: i64) -> QueueBacklog {
        let domain = Domain::parse(domain).unwrap();
        let key = QueueKey { lane, tenant: "t".into(), campaign: String::new(), domain };
        let [ready, leased, deferred, held] = counts;
        QueueBacklog {
            id: QueueId(1),
            key: Arc::new(key),
            ready,
            deferred,
            leased,
            held,
            bytes: 100,
            oldest: Timestamp(oldest),
            next_due: Timestamp::NEVER,
        }
    }

    fn status(site: &str, domains: &[&str], connections: u32, gate: Gate) -> SiteStatus {
        SiteStatus {
            site: site.into(),
            domains: domains.iter().map(ToString::to_string).collect(),
            connections,
            connections_max: 10,
            rate_per_minute: u64::from(connections) * 6,
            gate,
            why: String::new(),
            window: 3,
            waiting: Vec::new(),
            resting: Vec::new(),
            also_called: Default::default(),
        }
    }

    fn backlog(all_held: bool) -> Backlog {
        let queues = vec![
            queue(Lane::Bulk, "gmail.com", [8, 2, 3, 1], 4_000),
            queue(Lane::Direct, "gmail.com", [1, 0, 0, 0], 9_000),
            queue(Lane::Bulk, "hosted-at-google.de", [5, 0, 0, 0], 2_000),
            queue(Lane::Bulk, "new.example", [0, 0, 7, 0], 1_000),
            queue(Lane::Bulk, "gone.example", [0, 0, 0, 0], 0),
        ];
        Backlog { revision: Revision::START, all_held, queues }
    }

    fn statuses() -> Vec<SiteStatus> {
        vec![
            status("google.com", &["gmail.com", "hosted-at-google.de"], 2, Gate::Open),
            status("idle.example", &[], 0, Gate::Open),
            status("down.example", &[], 0, Gate::Broken),
        ]
    }

    fn ask(backlog: &Backlog, lane: Option<Lane>, sites_max: usize) -> Summary {
        let question = Question { lane, sites_max, now: Timestamp(10_000) };
        summarise("mx1", backlog, &statuses(), question)
    }

    fn counts(total: &Total) -> [u64; 4] {
        [total.ready, total.leased, total.deferred, total.held]
    }

    #[test]
    fn domains_are_summed_by_site() {
        let summary = ask(&backlog(false), None, 10);
        let names: Vec<_> = summary.sites.iter().map(|s| s.site.as_str()).collect();
        assert_eq!(names, ["google.com", "new.example", "down.example"]);
        assert_eq!(counts(&summary.sites[0].total), [14, 2, 3, 1]);
        assert_eq!(summary.sites[0].total.oldest_ms, Some(8_000));
        assert_eq!(
            (summary.sites[0].total.connections, summary.sites[0].total.rate_per_minute),
            (2, 12)
        );
        assert_eq!((summary.sites[1].gate, summary.sites[1].connections_max), (None, None));
        assert_eq!(summary.sites[2].gate, Some(Gate::Broken));
        assert_eq!(summary.sites[2].total.oldest_ms, None);
        assert_eq!(counts(&summary.total), [14, 2, 10, 1]);
        assert_eq!((summary.total.oldest_ms, summary.total.bytes), (Some(9_000), 400));
        assert_eq!((summary.total.connections, summary.total.rate_per_minute), (2, 12));
    }

    #[test]
    fn while_all_is_held_what_is_not_leased_is_held() {
        let summary = ask(&backlog(true), None, 10);
        assert!(summary.all_held);
        assert_eq!(counts(&summary.total), [0, 2, 0, 25]);
        assert_eq!(counts(&summary.sites[0].total), [0, 2, 0, 18]);
    }

    #[test]
    fn one_lane_alone_and_sites_cut_leave_the_total_whole() {
        let direct = ask(&backlog(false), Some(Lane::Direct), 10);
        assert_eq!(counts(&direct.total), [1, 0, 0, 0]);
        let cut = ask(&backlog(false), None, 1);
        assert_eq!((cut.sites.len(), cut.sites_omitted), (1, 2));
        assert_eq!(counts(&cut.total), [14, 2, 10, 1]);
    }

    #[test]
    fn json_has_the_names_that_scripts_rely_on() {
        let json = serde_json::to_value(ask(&backlog(false), None, 10)).unwrap();
        assert_eq!(json["total"]["ready"], 14);
        assert_eq!(json["total"]["leased"], 2);
        assert_eq!(json["total"]["deferred"], 10);
        assert_eq!(json["total"]["held"], 1);
        assert_eq!(json["all_held"], false);
        assert_eq!(json["node"], "mx1");
        let site = &json["sites"][0];
        assert_eq!((&site["site"], &site["gate"]), (&"google.com".into(), &"open".into()));
        for key in
            ["ready", "leased", "deferred", "held", "oldest_ms", "rate_per_minute", "connections"]
        {
            assert!(site[key].is_u64(), "{key}");
        }
        assert!(site["connections_max"].is_u64() && site["why"].is_string());
    }
}
