//! Limits that hold whichever site mail goes to: rates of a tenant's mail and of mail to a domain,
//! as connections use them up; and recipients in a transaction to a domain.

use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::quota::{DomainRule, Holder};
use crate::policy::site::Rate;
use crate::policy::tenant::TenantRule;
use crate::policy::throttle::Pace;
use crate::store::Delivery;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the configuration states of tenants and domains.
#[derive(Debug, Default)]
pub struct Quotas {
    /// Those with a rate, by its place among the paces.
    tenants: HashMap<String, usize>,
    domains: HashMap<String, usize>,
    /// By domain, where that is limited.
    recipients: HashMap<String, u32>,
    /// Under one lock, since a message uses all that it needs or none.
    paces: Mutex<Vec<Pace>>,
}

impl Quotas {
    /// Nothing of them is used yet.
    #[must_use]
    pub fn new(tenants: &[TenantRule], domains: &[DomainRule]) -> Self {
        let mut paces = Vec::new();
        let tenants = tenants.iter().map(|rule| (&rule.name, &rule.rates));
        let tenants = places(tenants, &mut paces);
        let limited =
            |rule: &DomainRule| Some((rule.name.clone(), rule.recipients_per_transaction?));
        let recipients = domains.iter().filter_map(limited).collect();
        let domains = domains.iter().map(|rule| (&rule.name, &rule.rates));
        let domains = places(domains, &mut paces);
        Self { tenants, domains, recipients, paces: Mutex::new(paces) }
    }

    /// True where some tenant has a rate.
    #[must_use]
    pub fn limit_tenants(&self) -> bool {
        !self.tenants.is_empty()
    }

    /// True where this one has a rate.
    #[must_use]
    pub fn limit(&self, holder: Holder<&str>) -> bool {
        self.place(holder).is_some()
    }

    /// Most recipients of a transaction with this one, by its domain; [`u32::MAX`] where that is
    /// not limited.
    #[must_use]
    pub fn recipients(&self, delivery: &Delivery) -> u32 {
        let most = delivery.domain().and_then(|domain| self.recipients.get(domain));
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
        let holders = std::iter::once(Holder::Tenant(tenant)).chain(domains.map(Holder::Domain));
        let limited = holders.filter_map(|holder| Some((self.place(holder)?, holder)));
        let mut limited: Vec<_> = limited.collect();
        if limited.is_empty() {
            return Ok(());
        }
        limited.sort_unstable_by_key(|(place, _)| *place);
        limited.dedup_by_key(|(place, _)| *place);
        let mut paces = self.lock();
        let mut waits = limited.iter().filter(|(place, _)| {
            paces.get(*place).is_some_and(|pace| pace.available(lane, now, 1) == 0)
        });
        if let Some((_, holder)) = waits.next() {
            return Err(*holder);
        }
        for (place, _) in limited {
            // Each has one, as was just seen.
            _ = paces.get_mut(place).map(|pace| pace.begin(lane, now));
        }
        Ok(())
    }

    fn place(&self, holder: Holder<&str>) -> Option<usize> {
        match holder {
            Holder::Tenant(name) => self.tenants.get(name).copied(),
            Holder::Domain(name) => self.domains.get(name).copied(),
        }
    }

    fn ask<T>(&self, holder: Holder<&str>, question: impl FnOnce(&Pace) -> T) -> Option<T> {
        let place = self.place(holder)?;
        self.lock().get(place).map(question)
    }

    /// A pace cannot be left half changed, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Vec<Pace>> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a pace for each that has a rate, and gives their places.
fn places<'a>(
    all: impl Iterator<Item = (&'a String, &'a Vec<Rate>)>,
    paces: &mut Vec<Pace>,
) -> HashMap<String, usize> {
    let limited = all.filter(|(_, rates)| !rates.is_empty());
    let place = |(name, rates): (&String, &Vec<Rate>)| {
        paces.push(Pace::new(rates));
        (name.clone(), paces.len() - 1)
    };
    limited.map(place).collect()
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
}
