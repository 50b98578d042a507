//! When each campaign will be done, at the present rates, within the limits, and with the planner's
//! turns.
//!
//! Each site is taken as it goes now: its rate is shared by its tenants by weight, a tenant's part
//! by its campaigns, as [`super::schedule`] does. The rate of a tenant or of a domain is shared in
//! the same way by what it holds for. A campaign is done when the slowest of these is.
//!
//! # Strategy
//! Weighted fair sharing has a closed form. When a tenant of weight 1 has been served `v`, every
//! tenant has been served the lesser of what it had and its weight times `v`; the sum of that over
//! the site's rate is the time. So a campaign's end costs one look-up in sorted sums.
//!
//! Sites that nothing was sent to in the last minute and that are not in trouble are pooled: they
//! are the long tail, each done in a moment once its turn has come. The pool moves at the rate of
//! those that finish within a minute.

use super::quota::Holder;
use super::site::Rate;
use super::throttle::kept_for_direct;
use crate::base::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What is further away than this is not foreseeable.
const HORIZON: Duration = Duration::from_secs(30 * 86_400);

/// How a site moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Deliveries done in the last minute.
    pub per_minute: u64,
    /// It is in no trouble.
    pub open: bool,
}

/// What waits of one campaign at one site.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// The site, by its place among the paces; `None` while it is not known where it goes: with
    /// the long tail.
    pub site: Option<usize>,
    /// Whose.
    pub tenant: &'a str,
    /// Share against others.
    pub weight: u32,
    /// Which.
    pub campaign: &'a str,
    /// Where to.
    pub domain: &'a str,
    /// Deliveries.
    pub waiting: u64,
    /// The first of them that may go; later than now where all were deferred.
    pub next_due: Timestamp,
}

/// One campaign's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Deliveries that wait.
    pub waiting: u64,
    /// Of these, at sites that take nothing just now: no time can be told for them.
    pub stuck: u64,
    /// When the others are done; `None` where there are none.
    pub done_at: Option<Timestamp>,
}

impl Forecast {
    fn add(&mut self, waiting: u64, done_at: Option<Timestamp>) {
        self.waiting += waiting;
        self.stuck += if done_at.is_some() { 0 } else { waiting };
        self.done_at = self.done_at.max(done_at);
    }
}

/// Rates that hold whichever sites the mail goes to, in newsletters a minute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quotas {
    tenants: HashMap<String, f64>,
    domains: HashMap<String, f64>,
}

impl Quotas {
    /// Of these rates, the one that lets go least counts; of each, a tenth is direct mail's.
    pub fn add(&mut self, holder: Holder<&str>, rates: &[Rate]) {
        let of_bulk = |rate: &Rate| f64::from(rate.count - kept_for_direct(rate.count));
        let per_minute = |rate: &Rate| of_bulk(rate) * 60.0 / rate.per.as_secs_f64();
        let least = rates.iter().map(per_minute).min_by(f64::total_cmp);
        let (quotas, name) = match holder {
            Holder::Tenant(name) => (&mut self.tenants, name),
            Holder::Domain(name) => (&mut self.domains, name),
        };
        quotas.extend(least.map(|least| (name.to_string(), least)));
    }

    fn per_minute(&self, holder: Holder<&str>) -> Option<f64> {
        match holder {
            Holder::Tenant(name) => self.tenants.get(name).copied(),
            Holder::Domain(name) => self.domains.get(name).copied(),
        }
    }

    /// When each campaign's part of what each of them holds for is done.
    fn ends<'a>(&self, loads: &[Load<'a>], now: Timestamp) -> HashMap<Holder<&'a str>, Ends<'a>> {
        let mut held: HashMap<Holder<&str>, Vec<&Load<'a>>> = HashMap::new();
        for load in loads.iter().filter(|load| load.waiting > 0) {
            for holder in load.holders().into_iter().filter(|h| self.per_minute(*h).is_some()) {
                held.entry(holder).or_default().push(load);
            }
        }
        let ends = |(holder, loads): (Holder<&'a str>, Vec<&Load<'a>>)| {
            let per_minute = self.per_minute(holder).unwrap_or_default();
            (holder, Shared::new(&loads, per_minute).ends(now))
        };
        held.into_iter().map(ends).collect()
    }
}

impl<'a> Load<'a> {
    /// Whose quotas may hold for it.
    fn holders(&self) -> [Holder<&'a str>; 2] {
        [Holder::Tenant(self.tenant), Holder::Domain(self.domain)]
    }
}

/// By tenant and campaign; `None`: not foreseeable.
type Ends<'a> = HashMap<(&'a str, &'a str), Option<Timestamp>>;

/// The end of each tenant's campaign.
#[must_use]
pub fn forecast<'a>(
    loads: &[Load<'a>],
    paces: &[Pace],
    quotas: &Quotas,
    now: Timestamp,
) -> BTreeMap<(&'a str, &'a str), Forecast> {
    let mut by_site: HashMap<Option<usize>, Vec<&Load<'a>>> = HashMap::new();
    for load in loads.iter().filter(|load| load.waiting > 0) {
        by_site.entry(load.site).or_default().push(load);
    }
    let limits = quotas.ends(loads, now);
    let waits = |site: usize| -> u64 {
        by_site.get(&Some(site)).map_or(0, |loads| loads.iter().map(|load| load.waiting).sum())
    };
    let quick = paces.iter().enumerate().filter(|(site, pace)| waits(*site) < pace.per_minute);
    let tail: u64 = quick.map(|(_, pace)| pace.per_minute).sum();

    let mut found: BTreeMap<(&str, &str), Forecast> = BTreeMap::new();
    let mut pooled = Vec::new();
    for (site, loads) in by_site {
        match site.and_then(|site| paces.get(site)) {
            Some(pace) if pace.per_minute > 0 || !pace.open => {
                Shared::new(&loads, float(pace.per_minute)).tell(now, &limits, &mut found);
            }
            _ => pooled.extend(loads),
        }
    }
    Shared::new(&pooled, float(tail)).tell(now, &limits, &mut found);
    found
}

/// The mail that shares a rate: one site's, the pool's, that of a quota.
struct Shared<'l, 'a> {
    loads: &'l [&'l Load<'a>],
    per_minute: f64,
    tenants: HashMap<&'a str, Tenant<'a>>,
    /// What a tenant needs per weight, ascending; with what all before it need, and the weight of
    /// itself and all after it.
    steps: Vec<(f64, f64, f64)>,
}

struct Tenant<'a> {
    weight: f64,
    waiting: f64,
    campaigns: HashMap<&'a str, u64>,
}

impl<'l, 'a> Shared<'l, 'a> {
    fn new(loads: &'l [&'l Load<'a>], per_minute: f64) -> Self {
        let mut tenants: HashMap<&str, Tenant<'_>> = HashMap::new();
        for load in loads {
            let tenant = tenants.entry(load.tenant).or_insert_with(|| Tenant {
                weight: f64::from(load.weight.max(1)),
                waiting: 0.0,
                campaigns: HashMap::new(),
            });
            tenant.waiting += float(load.waiting);
            *tenant.campaigns.entry(load.campaign).or_default() += load.waiting;
        }
        let mut steps: Vec<(f64, f64, f64)> =
            tenants.values().map(|t| (t.waiting / t.weight, t.waiting, t.weight)).collect();
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut before, mut weight) = (0.0, steps.iter().map(|step| step.2).sum::<f64>());
        for step in &mut steps {
            let (waiting, own) = (step.1, step.2);
            (step.1, step.2) = (before, weight);
            before += waiting;
            weight -= own;
        }
        Self { loads, per_minute, tenants, steps }
    }

    /// Deliveries done in all when a tenant of weight 1 was served `v`.
    fn served(&self, v: f64) -> f64 {
        let at = self.steps.partition_point(|(need, ..)| *need < v);
        match (self.steps.get(at), self.steps.last()) {
            (Some((_, before, weight)), _) => before + weight * v,
            (None, Some((need, before, weight))) => before + weight * need,
            (None, None) => 0.0,
        }
    }

    fn ends(&self, now: Timestamp) -> Ends<'a> {
        let mut ends = Ends::new();
        for (name, tenant) in &self.tenants {
            for (campaign, own) in &tenant.campaigns {
                let shares = tenant.campaigns.values().map(|other| float(*other.min(own)));
                let served = self.served(shares.sum::<f64>() / tenant.weight);
                ends.insert((*name, *campaign), self.after(served, now));
            }
        }
        ends
    }

    /// Each load ends when its site and the quotas that hold for it let it.
    fn tell(
        &self,
        now: Timestamp,
        limits: &HashMap<Holder<&'a str>, Ends<'a>>,
        found: &mut BTreeMap<(&'a str, &'a str), Forecast>,
    ) {
        let ends = self.ends(now);
        for load in self.loads {
            let key = (load.tenant, load.campaign);
            let of = |ends: &Ends<'_>| ends.get(&key).copied().flatten();
            let limits = load.holders().into_iter().filter_map(|holder| limits.get(&holder));
            let done_at = limits.map(of).fold(of(&ends), |a, b| Some(a?.max(b?)));
            let done_at = done_at.map(|at| at.max(load.next_due));
            found.entry(key).or_default().add(load.waiting, done_at);
        }
    }

    /// When so many are done.
    fn after(&self, deliveries: f64, now: Timestamp) -> Option<Timestamp> {
        let minutes = (self.per_minute > 0.0).then(|| deliveries / self.per_minute)?;
        let after = Duration::try_from_secs_f64(minutes * 60.0).ok()?;
        (after <= HORIZON).then(|| now.after(after))
    }
}

/// Counts of deliveries are far below the 2^53 that a float holds exactly.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::QueueId;
    use crate::policy::schedule::Turns;
    use crate::policy::shares::Shares;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn load<'a>(site: usize, tenant: &'a str, campaign: &'a str, waiting: u64) -> Load<'a> {
        let site = Some(site);
        let domain = "x.test";
        Load { site, tenant, weight: 1, campaign, domain, waiting, next_due: NOW }
    }

    fn paces(rates: &[(usize, u64, bool)]) -> Vec<Pace> {
        let mut all = vec![Pace { per_minute: 0, open: true }; 110];
        for (site, per_minute, open) in rates {
            all[*site] = Pace { per_minute: *per_minute, open: *open };
        }
        all
    }

    fn minutes(n: u64) -> Option<Timestamp> {
        Some(NOW.after(Duration::from_secs(n * 60)))
    }

    #[test]
    fn a_small_campaign_ends_by_its_turns_and_a_big_one_last() {
        let loads = [load(1, "big", "a", 900), load(1, "small", "b", 100)];
        let found = forecast(&loads, &paces(&[(1, 100, true)]), &Quotas::default(), NOW);
        assert_eq!(found[&("small", "b")].done_at, minutes(2), "half of the rate is its own");
        assert_eq!(found[&("big", "a")].done_at, minutes(10));
    }

    #[test]
    fn the_slowest_site_decides_and_what_stands_still_is_said() {
        let loads = [
            load(1, "t", "a", 100),
            load(2, "t", "a", 100),
            load(3, "t", "a", 7),
            Load { next_due: minutes(60).unwrap(), ..load(1, "t", "late", 10) },
        ];
        let paces = paces(&[(1, 100, true), (2, 10, true), (3, 0, false)]);
        let found = forecast(&loads, &paces, &Quotas::default(), NOW);
        let of_a = Forecast { waiting: 207, stuck: 7, done_at: minutes(10) };
        assert_eq!(found[&("t", "a")], of_a);
        assert_eq!(found[&("t", "late")].done_at, minutes(60), "deferred until then");
    }

    #[test]
    fn the_rate_of_a_tenant_or_of_a_domain_may_last_longer_than_its_sites() {
        let loads = [
            Load { domain: "slow.test", ..load(1, "a", "x", 90) },
            Load { domain: "slow.test", ..load(1, "b", "y", 30) },
            load(1, "b", "z", 100),
            load(2, "c", "w", 540),
        ];
        let rate = |count| [Rate { count, per: Duration::from_secs(60) }];
        let mut quotas = Quotas::default();
        quotas.add(Holder::Domain("slow.test"), &rate(10));
        quotas.add(Holder::Tenant("c"), &rate(100));
        let paces = paces(&[(1, 1_000, true), (2, 1_000, true)]);
        let found = forecast(&loads, &paces, &quotas, NOW);
        let done = |tenant, campaign| {
            let done_at = found[&(tenant, campaign)].done_at.unwrap();
            done_at.since(NOW).as_secs_f64() / 60.0
        };
        // Nine in ten of each rate are newsletters'; the two at the domain take turns.
        assert_eq!(done("a", "x").round(), 13.0);
        assert_eq!(done("b", "y").round(), 7.0);
        assert!(done("b", "z") < 1.0, "goes elsewhere");
        assert_eq!(done("c", "w").round(), 6.0);
    }

    #[test]
    fn the_long_tail_moves_as_a_pool() {
        let mut loads: Vec<Load<'_>> = (10..110).map(|n| load(n, "t", "a", 3)).collect();
        let mut rates = vec![(1, 30, true), (2, 20, true)];
        rates.extend((10..110).map(|n| (n, 0, true)));
        assert_eq!(
            forecast(&loads, &paces(&rates), &Quotas::default(), NOW)[&("t", "a")].done_at,
            minutes(6)
        );
        loads.truncate(1);
        let unknown =
            forecast(&loads, &paces(&[(10, 0, true)]), &Quotas::default(), NOW)[&("t", "a")];
        assert_eq!((unknown.done_at, unknown.stuck), (None, 3));
    }

    proptest! {
        /// Against the planner itself: its turns end in the order and at the times foretold, give
        /// or take what one turn is worth.
        #[test]
        fn prop_as_the_planner_does(
            queues in proptest::collection::vec((0usize..4, 0usize..3, 200u64..3_000), 1..8),
            weights in proptest::collection::vec(1u32..4, 4),
        ) {
            let names = ["a", "b", "c", "d"];
            let mut amounts: BTreeMap<(usize, usize), u64> = BTreeMap::new();
            for (tenant, campaign, count) in queues {
                *amounts.entry((tenant, campaign)).or_default() += count;
            }
            let of = |((t, c), n): (&(usize, usize), &u64)| Load {
                weight: weights[*t],
                ..load(1, names[*t], names[*c], *n)
            };
            let loads: Vec<Load<'_>> = amounts.iter().map(of).collect();
            let found = forecast(&loads, &paces(&[(1, 60_000, true)]), &Quotas::default(), NOW);

            let (mut turns, mut shares) = (Turns::default(), Shares::default());
            let mut left: Vec<u64> = loads.iter().map(|load| load.waiting).collect();
            for (n, load) in loads.iter().enumerate() {
                let queue = QueueId(i64::try_from(n).unwrap());
                turns.add(queue, load.tenant, load.campaign, load.weight, &mut shares);
            }
            let (mut done, mut ends) = (0u64, vec![0u64; loads.len()]);
            while !turns.is_empty() {
                let index = |queue: QueueId| usize::try_from(queue.0).unwrap();
                let due = |queue| u32::try_from(left[index(queue)]).unwrap();
                for (queue, n) in turns.plan(1, due, |_| u32::MAX, &mut shares).plan {
                    done += u64::from(n);
                    left[index(queue)] -= u64::from(n);
                    ends[index(queue)] = done;
                }
            }
            for (load, end) in loads.iter().zip(ends) {
                let told = found[&(load.tenant, load.campaign)].done_at.unwrap();
                // A thousand a second: a delivery a millisecond.
                let told = u64::try_from(told.since(NOW).as_millis()).unwrap();
                prop_assert!(told.abs_diff(end) <= 400, "told {told}, was {end}");
            }
        }
    }
}
