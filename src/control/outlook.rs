//! When the newsletters in the queue will be done. Pure: backlog and site facts in, times out.

use crate::base::time::Timestamp;
use crate::config::Config;
use crate::mail::message::Lane;
use crate::policy::forecast::{Forecast, Load, Pace, Quotas, forecast};
use crate::policy::quota::Holder;
use crate::policy::site::{Gate, SiteStatus, by_domain};
use crate::store::Backlog;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Most campaigns in one answer, those with most mail first.
pub const CAMPAIGNS_MAX: usize = 1_000;

/// What the configuration says of tenants and domains.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Shares of tenants against each other, where they are not 1.
    weights: HashMap<String, u32>,
    quotas: Quotas,
}

impl From<&Config> for Terms {
    fn from(config: &Config) -> Self {
        let mut quotas = Quotas::default();
        for tenant in config.tenants.iter() {
            quotas.add(Holder::Tenant(&tenant.name), &tenant.rates);
        }
        for domain in &config.domains {
            quotas.add(Holder::Domain(&domain.name), &domain.rates);
        }
        Self { weights: config.weights(), quotas }
    }
}

/// The end of all newsletters, and of each campaign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// All of them; `None` where there are none.
    pub bulk: Option<Ending>,
    /// Those with most mail first.
    pub campaigns: Vec<Campaign>,
    /// How many more there are.
    pub campaigns_omitted: usize,
}

/// One campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// Whose.
    pub tenant: String,
    /// Which; empty for mail of no mailing.
    pub campaign: String,
    /// Its end.
    #[serde(flatten)]
    pub ending: Ending,
}

/// When something is done, at the present rates and limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Deliveries that wait; what is held is not among them.
    pub waiting: u64,
    /// Of these, at sites that take nothing just now, or nothing yet: no time can be told for them.
    pub stuck: u64,
    /// When the others are done; `None` where there are none.
    pub done_ms: Option<i64>,
}

impl From<&Forecast> for Ending {
    fn from(forecast: &Forecast) -> Self {
        let done_ms = forecast.done_at.map(|at| at.0);
        Self { waiting: forecast.waiting, stuck: forecast.stuck, done_ms }
    }
}

impl Ending {
    fn and(self, other: Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            stuck: self.stuck + other.stuck,
            done_ms: self.done_ms.max(other.done_ms),
        }
    }
}

/// Foretells.
#[must_use]
pub fn outlook(
    backlog: &Backlog,
    statuses: &[SiteStatus],
    terms: &Terms,
    now: Timestamp,
) -> Outlook {
    if backlog.all_held {
        return Outlook::default();
    }
    let paces = statuses.iter().map(|status| Pace {
        per_minute: status.rate_per_minute,
        open: status.gate != Gate::Broken,
    });
    let paces: Vec<Pace> = paces.collect();
    let site_of = by_domain(statuses);
    let bulk = backlog.queues.iter().filter(|queue| queue.key.lane == Lane::Bulk);
    let loads: Vec<Load<'_>> = bulk
        .map(|queue| Load {
            site: site_of.get(queue.key.domain.as_str()).copied(),
            tenant: &queue.key.tenant,
            weight: terms.weights.get(&queue.key.tenant).copied().unwrap_or(1),
            campaign: &queue.key.campaign,
            domain: queue.key.domain.as_str(),
            waiting: queue.waiting(),
            next_due: queue.next_due,
        })
        .collect();
    let found = forecast(&loads, &paces, &terms.quotas, now);
    let mut campaigns: Vec<Campaign> = found
        .iter()
        .map(|((tenant, campaign), forecast)| Campaign {
            tenant: (*tenant).to_string(),
            campaign: (*campaign).to_string(),
            ending: forecast.into(),
        })
        .collect();
    let bulk = campaigns.iter().map(|campaign| campaign.ending).reduce(Ending::and);
    campaigns.sort_by_key(|campaign| std::cmp::Reverse(campaign.ending.waiting));
    let campaigns_omitted = campaigns.len().saturating_sub(CAMPAIGNS_MAX);
    campaigns.truncate(CAMPAIGNS_MAX);
    Outlook { bulk, campaigns, campaigns_omitted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Domain;
    use crate::base::id::QueueId;
    use crate::store::{QueueBacklog, QueueKey, Revision};
    use std::sync::Arc;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn queue(lane: Lane, tenant: &str, campaign: &str, domain: &str, ready: u64) -> QueueBacklog {
        let domain = Domain::parse(domain).unwrap();
        let key = QueueKey { lane, tenant: tenant.into(), campaign: campaign.into(), domain };
        QueueBacklog {
            id: QueueId(1),
            key: Arc::new(key),
            ready,
            deferred: 0,
            leased: 0,
            held: 9,
            bytes: 1,
            oldest: NOW,
            next_due: NOW,
        }
    }

    #[test]
    fn newsletters_end_at_the_pace_of_their_sites() {
        let queues = vec![
            queue(Lane::Bulk, "shop", "spring", "a.test", 500),
            queue(Lane::Bulk, "shop", "spring", "b.test", 50),
            queue(Lane::Bulk, "club", "", "a.test", 100),
            queue(Lane::Direct, "club", "", "a.test", 9_999),
        ];
        let status = |site: &str, domain: &str, rate_per_minute, gate| SiteStatus {
            site: site.into(),
            domains: vec![domain.into()],
            connections: 1,
            connections_max: 10,
            rate_per_minute,
            gate,
            why: String::new(),
            window: 3,
            waiting: Vec::new(),
            resting: Vec::new(),
            also_called: Default::default(),
        };
        let statuses =
            [status("a", "a.test", 60, Gate::Open), status("b", "b.test", 0, Gate::Broken)];
        let backlog = Backlog { revision: Revision::START, all_held: false, queues };
        let weights = HashMap::from([("club".to_string(), 4)]);
        let terms = Terms { weights, ..Terms::default() };
        let outlook = outlook(&backlog, &statuses, &terms, NOW);
        let seconds = |n: i64| Some(NOW.0 + n * 1_000);
        assert_eq!(outlook.bulk, Some(Ending { waiting: 650, stuck: 50, done_ms: seconds(600) }));
        let told = outlook.campaigns.iter().map(|c| (c.tenant.as_str(), c.ending.done_ms));
        // The club has four fifths of 60 a minute while it lasts.
        assert_eq!(told.collect::<Vec<_>>(), [("shop", seconds(600)), ("club", seconds(125))]);
        let held = Backlog { all_held: true, ..backlog };
        assert_eq!(super::outlook(&held, &statuses, &terms, NOW), Outlook::default());
    }
}
