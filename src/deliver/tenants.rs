//! What the configuration says of tenants, as the delivering side needs it: their weight, and the
//! rate of all their mail, at all sites together.

use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::site::Rate;
use crate::policy::tenant::TenantRule;
use crate::policy::throttle::Pace;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The tenants that the configuration names.
#[derive(Debug, Default)]
pub struct Tenants {
    named: HashMap<String, Tenant>,
    /// Some of them has a rate.
    limited: bool,
}

#[derive(Debug)]
struct Tenant {
    weight: u32,
    /// `None`: no limit.
    pace: Option<Mutex<Pace>>,
}

impl Tenants {
    /// Nothing of their rates is used yet.
    #[must_use]
    pub fn new(rules: &[TenantRule]) -> Self {
        let tenant = |rule: &TenantRule| {
            let pace = (!rule.rates.is_empty()).then(|| Mutex::new(Pace::new(&rule.rates)));
            (rule.name.clone(), Tenant { weight: rule.weight, pace })
        };
        let limited = rules.iter().any(|rule| !rule.rates.is_empty());
        Self { named: rules.iter().map(tenant).collect(), limited }
    }

    /// Its share against other tenants.
    #[must_use]
    pub fn weight(&self, tenant: &str) -> u32 {
        self.named.get(tenant).map_or(1, |tenant| tenant.weight)
    }

    /// True where some tenant has a rate.
    #[must_use]
    pub fn are_limited(&self) -> bool {
        self.limited
    }

    /// How many messages of the lane its rate lets go now; [`u32::MAX`] where it has none.
    #[must_use]
    pub fn available(&self, tenant: &str, lane: Lane, now: Timestamp) -> u32 {
        self.pace(tenant).map_or(u32::MAX, |pace| pace.available(lane, now, u32::MAX))
    }

    /// Uses the tenant's rate for one message.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin(&self, tenant: &str, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        self.pace(tenant).map_or(Ok(()), |mut pace| pace.begin(lane, now))
    }

    /// When a message of the lane may go.
    #[must_use]
    pub fn next_at(&self, tenant: &str, lane: Lane, now: Timestamp) -> Timestamp {
        self.pace(tenant).map_or(now, |pace| pace.next_at(lane, now))
    }

    /// The rate that its newsletters wait for, and until when.
    #[must_use]
    pub fn binding(&self, tenant: &str, now: Timestamp) -> Option<(Timestamp, Rate)> {
        self.pace(tenant).and_then(|pace| pace.binding(now))
    }

    /// A pace cannot be left half changed, so a panic elsewhere does not spoil it.
    fn pace(&self, tenant: &str) -> Option<MutexGuard<'_, Pace>> {
        let pace = self.named.get(tenant)?.pace.as_ref()?;
        Some(pace.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
