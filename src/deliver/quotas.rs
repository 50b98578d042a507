//! Limits that hold whichever site mail goes to: rates of a tenant's mail and of mail to a domain,
//! as connections use them up; and recipients in a transaction to a domain.

use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::quota::{DomainRule, Holder};
use crate::policy::site::Rate;
use crate::policy::tenant::TenantRule;
use crate::policy::throttle::Pace;
use crate::store::Delivery;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the configuration states of tenants and domains.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<State>);

/// Under one lock, since a message uses all that it needs or none.
#[derive(Debug, Default)]
struct State {
    /// Those with a rate.
    tenants: HashMap<String, Pace>,
    domains: HashMap<String, Pace>,
    /// By domain, where that is limited.
    recipients: HashMap<String, u32>,
}

impl Quotas {
    /// Nothing of them is used yet.
    #[must_use]
    pub fn new(tenants: &[TenantRule], domains: &[DomainRule]) -> Self {
        let quotas = Self::default();
        quotas.retune(tenants, domains, Timestamp(0));
        quotas
    }

    /// Puts these in place of those before; what was used of a rate still counts.
    pub fn retune(&self, tenants: &[TenantRule], domains: &[DomainRule], now: Timestamp) {
        let mut state = self.lock();
        let of_tenants = tenants.iter().map(|rule| (&rule.name, &*rule.rates));
        retune(&mut state.tenants, of_tenants, now);
        let of_domains = domains.iter().map(|rule| (&rule.name, &*rule.rates));
        retune(&mut state.domains, of_domains, now);
        let limited =
            |rule: &DomainRule| Some((rule.name.clone(), rule.recipients_per_transaction?));
        state.recipients = domains.iter().filter_map(limited).collect();
    }

    /// True where some tenant has a rate.
    #[must_use]
    pub fn limit_tenants(&self) -> bool {
        !self.lock().tenants.is_empty()
    }

    /// True where this one has a rate.
    #[must_use]
    pub fn limit(&self, holder: Holder<&str>) -> bool {
        self.lock().pace(holder).is_some()
    }

    /// Most recipients of a transaction with this one, by its domain; [`u32::MAX`] where that is
    /// not limited.
    #[must_use]
    pub fn recipients(&self, delivery: &Delivery) -> u32 {
        let state = self.lock();
        let most = delivery.domain().and_then(|domain| state.recipients.get(domain));
        most.copied().unwrap_or(u32::MAX)
    }

    /// How many messages of the lane the rate lets go now; [`u32::MAX`] where there is none.
    #[must_use]
    pub fn available(&self, holder: Holder<&str>, lane: Lane, now: Timestamp) -> u32 {
        self.ask(holder, |pace| pace.available(lane, now, u32::MAX)).unwrap_or(u32::MAX)
    }

    /// When a message of the lane may go.
    #[must_use]
    pub fn next_at(&self, holder: Holder<&str>, lane: Lane, now: Timestamp) -> Timestamp {
        self.ask(holder, |pace| pace.next_at(lane, now)).unwrap_or(now)
    }

    /// When one more may go after so many that go now.
    #[must_use]
    pub fn next_after(
        &self,
        holder: Holder<&str>,
        lane: Lane,
        count: u32,
        now: Timestamp,
    ) -> Timestamp {
        let next = |pace: &Pace| {
            let mut pace = pace.clone();
            // What has to wait already puts it off no further.
            _ = (0..count).all(|_| pace.begin(lane, now).is_ok());
            pace.next_at(lane, now)
        };
        self.ask(holder, next).unwrap_or(now)
    }

    /// The rate that newsletters wait for, and until when.
    #[must_use]
    pub fn binding(&self, holder: Holder<&str>, now: Timestamp) -> Option<(Timestamp, Rate)> {
        self.ask(holder, |pace| pace.binding(now)).flatten()
    }

    /// How much later than it began mail to these domains may be seen; see [`Pace::slack`].
    #[must_use]
    pub fn slack<'a>(&self, domains: impl Iterator<Item = &'a str>) -> Duration {
        let slack = |domain| self.ask(Holder::Domain(domain), Pace::slack);
        domains.filter_map(slack).min().unwrap_or(Duration::MAX)
    }

    /// Uses the rates of its tenant and of its recipients' domains for one message.
    ///
    /// # Errors
    /// Whose rate is used up; nothing was used then.
    pub fn begin<'a>(
        &self,
        tenant: &'a str,
        domains: impl Iterator<Item = &'a str>,
        lane: Lane,
        now: Timestamp,
    ) -> Result<(), Holder<&'a str>> {
        let mut state = self.lock();
        let holders = std::iter::once(Holder::Tenant(tenant)).chain(domains.map(Holder::Domain));
        let limited: BTreeSet<_> = holders.filter(|holder| state.pace(*holder).is_some()).collect();
        let waits = |holder: &&Holder<&str>| {
            state.pace(**holder).is_some_and(|pace| pace.available(lane, now, 1) == 0)
        };
        if let Some(holder) = limited.iter().find(waits) {
            return Err(*holder);
        }
        for holder in limited {
            // Each has one, as was just seen.
            _ = state.pace_mut(holder).map(|pace| pace.begin(lane, now));
        }
        Ok(())
    }

    fn ask<T>(&self, holder: Holder<&str>, question: impl FnOnce(&Pace) -> T) -> Option<T> {
        self.lock().pace(holder).map(question)
    }

    /// A pace cannot be left half changed, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pace(&self, holder: Holder<&str>) -> Option<&Pace> {
        match holder {
            Holder::Tenant(name) => self.tenants.get(name),
            Holder::Domain(name) => self.domains.get(name),
        }
    }

    fn pace_mut(&mut self, holder: Holder<&str>) -> Option<&mut Pace> {
        match holder {
            Holder::Tenant(name) => self.tenants.get_mut(name),
            Holder::Domain(name) => self.domains.get_mut(name),
        }
    }
}

/// A pace for each that has a rate.
fn retune<'a>(
    paces: &mut HashMap<String, Pace>,
    all: impl Iterator<Item = (&'a String, &'a [Rate])>,
    now: Timestamp,
) {
    let mut before = std::mem::take(paces);
    for (name, rates) in all.filter(|(_, rates)| !rates.is_empty()) {
        let mut pace = before.remove(name).unwrap_or_else(|| Pace::new(rates));
        pace.retune(rates, now);
        paces.insert(name.clone(), pace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_uses_all_the_rates_that_it_needs_or_none() {
        let rates = |count| vec![Rate { count, per: Duration::from_secs(10) }];
        let tenant = TenantRule { name: "shop".into(), rates: rates(100), ..TenantRule::default() };
        let domain = |name: &str, count| DomainRule {
            name: name.into(),
            rates: rates(count),
            ..DomainRule::default()
        };
        let domains = [domain("a.test", 20), domain("b.test", 1)];
        let quotas = Quotas::new(&[tenant], &domains);
        let (now, bulk) = (Timestamp(1_000_000), Lane::Bulk);
        let begin =
            |domains: &[&'static str]| quotas.begin("shop", domains.iter().copied(), bulk, now);
        assert_eq!(begin(&["c.test"]), Ok(()));
        assert_eq!(begin(&["b.test", "a.test", "b.test"]), Ok(()));
        let left = |holder| quotas.available(holder, bulk, now);
        let before = left(Holder::Tenant("shop"));
        assert!(before > 0);
        assert_eq!(begin(&["a.test", "b.test"]), Err(Holder::Domain("a.test")));
        assert_eq!(begin(&["c.test", "b.test"]), Err(Holder::Domain("b.test")));
        assert_eq!(left(Holder::Tenant("shop")), before);
        assert_eq!(left(Holder::Domain("c.test")), u32::MAX);
        let (until, rate) = quotas.binding(Holder::Domain("b.test"), now).unwrap();
        assert_eq!((rate.count, until > now), (1, true));
        for _ in 0..before {
            assert_eq!(begin(&[]), Ok(()));
        }
        assert_eq!(begin(&[]), Err(Holder::Tenant("shop")));
    }

    #[test]
    fn what_was_used_still_counts_when_a_rate_is_changed() {
        let rule = |count| TenantRule {
            name: "shop".into(),
            rates: vec![Rate { count, per: Duration::from_secs(10) }],
            ..TenantRule::default()
        };
        let quotas = Quotas::new(&[rule(20)], &[]);
        let now = Timestamp(1_000_000);
        let begin = || quotas.begin("shop", std::iter::empty(), Lane::Bulk, now).is_ok();
        let used = (0..100).take_while(|_| begin()).count();
        assert_eq!(used, 1);
        quotas.retune(&[rule(20)], &[], now);
        assert!(!begin(), "the same rate");
        quotas.retune(&[], &[], now);
        assert!(begin() && !quotas.limit(Holder::Tenant("shop")));
        quotas.retune(&[rule(20)], &[], now);
        assert!(begin(), "a rate that was gone is new");
    }
}
