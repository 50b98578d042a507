//! Which tenants may send just now: by the rate of all their mail, and by what a site asked of
//! theirs.

use super::sites::{Lines, Site};
use super::{Alarm, Core};
use crate::base::time::Timestamp;
use crate::deliver::line::WayKey;
use crate::mail::message::Lane;
use crate::policy::quota::Holder;
use crate::policy::site::SiteId;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Sites that wait for a tenant's rate are looked at again after this at the earliest: those that
/// were woken have used it by then.
const LOOK: Duration = Duration::from_millis(200);

/// Who waits for a tenant's rate.
#[derive(Default)]
pub(super) struct Waiting {
    sites: BTreeSet<SiteId>,
    /// When they are looked at.
    alarm_at: Option<Timestamp>,
}

impl Core {
    /// True where some tenant may be held back at the site.
    fn limits_tenants(&self, site: &Site) -> bool {
        self.quotas.limit_tenants() || site.line.has_complaints()
    }

    /// How many messages of the tenant may go to the site now.
    pub(super) fn allowance(&self, site: &Site, tenant: &str, lane: Lane, now: Timestamp) -> u32 {
        if !self.limits_tenants(site) {
            return u32::MAX;
        }
        let here = site.line.available_to(tenant, now);
        if here == 0 {
            0
        } else {
            here.min(self.quotas.available(Holder::Tenant(tenant), lane, now))
        }
    }

    /// Of those in line at a route, the ones that are held back, and how many of each may go.
    pub(super) fn allowances(
        &self,
        site: &Site,
        way: &WayKey,
        lane: Lane,
        now: Timestamp,
    ) -> HashMap<String, u32> {
        let Some(lines) = site.ways.get(way).filter(|_| self.limits_tenants(site)) else {
            return HashMap::new();
        };
        let tenants = lines.turns.of(lane).tenants();
        let allowed = tenants.map(|t| (t.to_string(), self.allowance(site, t, lane, now)));
        allowed.filter(|(_, allowed)| *allowed < u32::MAX).collect()
    }

    /// A route's fresh bulk mail that may go.
    pub(super) fn fresh(&self, site: &Site, lines: &Lines, now: Timestamp) -> u64 {
        if !self.limits_tenants(site) {
            return lines.fresh.total;
        }
        let may = |tenant: &str| u64::from(self.allowance(site, tenant, Lane::Bulk, now));
        lines.fresh.by_tenant.iter().map(|(tenant, count)| (*count).min(may(tenant))).sum()
    }

    /// True where one of those in line at a route may send.
    pub(super) fn may_any(&self, site: &Site, lines: &Lines, lane: Lane, now: Timestamp) -> bool {
        lines.turns.of(lane).tenants().any(|tenant| self.allowance(site, tenant, lane, now) > 0)
    }

    /// Sees to it that the site is looked at when a tenant that stands in line there may send
    /// again.
    pub(super) fn wait_for_tenants(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id).filter(|site| self.limits_tenants(site)) else {
            return;
        };
        let (mut here, mut anywhere) = (Timestamp::NEVER, Vec::new());
        for lines in site.ways.values() {
            for (lane, tenant) in lines.in_line() {
                if let Some((until, _)) = site.line.waits(tenant, now) {
                    here = here.min(until);
                } else if self.quotas.available(Holder::Tenant(tenant), lane, now) == 0 {
                    anywhere.push((
                        tenant.to_string(),
                        self.quotas.next_at(Holder::Tenant(tenant), lane, now),
                    ));
                }
            }
        }
        self.alarm(here, Alarm::Site(id));
        for (tenant, at) in anywhere {
            self.waiting.entry(tenant.clone()).or_default().sites.insert(id);
            self.wake_for(tenant, at.max(now.after(LOOK)));
        }
    }

    /// Looks at those that wait for a tenant then, or earlier where that was wanted: there is one
    /// alarm for all of them.
    fn wake_for(&mut self, tenant: String, at: Timestamp) {
        let Some(waiting) = self.waiting.get_mut(&tenant) else { return };
        if waiting.alarm_at.is_some_and(|before| before <= at) {
            return;
        }
        let before = waiting.alarm_at.replace(at);
        if let Some(before) = before {
            self.alarms.remove(&(before, Alarm::Tenant(tenant.clone())));
        }
        self.alarm(at, Alarm::Tenant(tenant));
    }

    /// A tenant's rate lets some go: as many sites are looked at as it lets messages go.
    pub(super) fn tenant_may(&mut self, tenant: String, now: Timestamp) {
        let Some(waiting) = self.waiting.get_mut(&tenant) else { return };
        waiting.alarm_at = None;
        let direct = self.quotas.available(Holder::Tenant(&tenant), Lane::Direct, now);
        for _ in 0..direct {
            let Some(site) = waiting.sites.pop_first() else { break };
            self.touched.insert(site);
        }
        if waiting.sites.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            let next = self.quotas.next_at(Holder::Tenant(&tenant), Lane::Bulk, now);
            self.wake_for(tenant, next.max(now.after(LOOK)));
        }
    }

    /// The site waits for no tenant any more.
    pub(super) fn forget_waiting(&mut self, site: SiteId) {
        self.waiting.retain(|_, waiting| {
            waiting.sites.remove(&site);
            !waiting.sites.is_empty()
        });
    }
}
