//! What each tenant had at one site, in one lane, for its weight: who had least is next.
//!
//! Start-time fair queuing: a *virtual time* for each tenant, which goes on by what it is given,
//! the slower the more it weighs. All lines of a site share these times, so that a tenant whose
//! mail goes to many hosts of a provider gets no more of that provider than one whose mail goes to
//! one.
//!
//! # Invariants
//! * Nobody saves up turns: who comes into line, or may not send for a while, begins where the
//!   others are (`who_was_away_gets_no_more_for_it`).
//! * Memory follows the tenants in line, and those that had more than the others lately.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Virtual time of one delivery at weight 1.
const UNIT: u64 = 1 << 20;
/// With fewer tenants than these, nothing is forgotten.
const FEW: usize = 64;

/// The times of one site and lane.
#[derive(Debug, Default)]
pub struct Shares {
    tenants: HashMap<Arc<str>, Share>,
    /// Where those stand whose turn it is.
    clock: u64,
    /// Those in some line, by their times.
    waiting: BTreeSet<(u64, Arc<str>)>,
    forget_at: usize,
}

#[derive(Debug, Default)]
struct Share {
    time: u64,
    /// Lines of the site that it stands in.
    lines: u32,
}

impl Shares {
    /// The tenant comes into one of the site's lines.
    pub(super) fn join(&mut self, tenant: &Arc<str>) {
        let share = self.tenants.entry(Arc::clone(tenant)).or_default();
        share.lines += 1;
        if share.lines == 1 {
            share.time = share.time.max(self.clock);
            self.waiting.insert((share.time, Arc::clone(tenant)));
        }
    }

    /// And leaves it.
    pub(super) fn leave(&mut self, tenant: &Arc<str>) {
        let Some(share) = self.tenants.get_mut(tenant).filter(|share| share.lines > 0) else {
            return;
        };
        share.lines -= 1;
        if share.lines == 0 {
            self.waiting.remove(&(share.time, Arc::clone(tenant)));
        }
        if self.waiting.is_empty() {
            // Nobody was kept waiting by anybody.
            *self = Self::default();
        }
        if self.tenants.len() > self.forget_at.max(FEW) {
            self.tenants.retain(|_, share| share.lines > 0 || share.time > self.clock);
            self.forget_at = self.tenants.len() * 2;
        }
    }

    /// The tenant may not send now: it is not given later what others had meanwhile.
    pub(super) fn rest(&mut self, tenant: &Arc<str>) {
        let clock = self.clock;
        self.set(tenant, |time| time.max(clock));
    }

    /// The tenant is given so many deliveries.
    pub(super) fn give(&mut self, tenant: &Arc<str>, weight: u32, count: u32) {
        self.clock = self.clock.max(self.of(tenant));
        self.set(tenant, |time| time + u64::from(count) * UNIT / u64::from(weight.max(1)));
    }

    fn set(&mut self, tenant: &Arc<str>, time: impl Fn(u64) -> u64) {
        let Some(share) = self.tenants.get_mut(tenant) else { return };
        let before = share.time;
        share.time = time(before);
        if before != share.time && self.waiting.remove(&(before, Arc::clone(tenant))) {
            self.waiting.insert((share.time, Arc::clone(tenant)));
        }
    }

    /// Where the tenant in line stands that had least.
    #[must_use]
    pub fn least(&self) -> Option<u64> {
        self.waiting.first().map(|(time, _)| *time)
    }

    /// How far so many deliveries bring a tenant of weight 1.
    #[must_use]
    pub fn worth(deliveries: u64) -> u64 {
        deliveries.saturating_mul(UNIT)
    }

    /// Where the tenant stands: the least is next.
    #[must_use]
    pub fn of(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(self.clock, |share| share.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_gets_no_more_for_it() {
        let [a, b, c] = ["a", "b", "c"].map(Arc::<str>::from);
        let mut shares = Shares::default();
        shares.join(&a);
        shares.join(&b);
        (0..10).for_each(|_| shares.give(&a, 1, 100));
        shares.join(&c);
        assert!(shares.of("c") >= 900 * UNIT, "one that comes later");
        assert_eq!(shares.of("b"), 0, "one that waited in line meanwhile");
        assert_eq!(shares.least(), Some(0));
        shares.rest(&b);
        assert_eq!(shares.of("b"), shares.of("c"), "one that might not send");
        shares.give(&b, 2, 100);
        assert_eq!(shares.of("b") - shares.of("c"), 50 * UNIT, "by its weight");
    }

    #[test]
    fn tenants_that_are_gone_are_forgotten() {
        let mut shares = Shares::default();
        for n in 0..10_000 {
            let tenant: Arc<str> = n.to_string().into();
            shares.join(&tenant);
            shares.give(&tenant, 1, 1);
            shares.leave(&tenant);
        }
        assert!(shares.tenants.len() <= 2 * FEW + 2, "{}", shares.tenants.len());
    }
}
