//! Queues to a domain that has a rate of its own: what may go now is granted to them in turns, and
//! they stand in line at their site for no more than that.
//!
//! # Invariants
//! * A queue without a grant costs its site nothing: it stands in no line and fills no connection.
//! * A domain is looked at when its rate lets some go, when what was granted has been claimed, when
//!   a queue gives back what it cannot use; else, while some wait, once in ten seconds.

use super::queues::{Place, Queue};
use super::sites::Site;
use super::{Alarm, Core};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::mail::message::{ByLane, Lane};
use crate::policy::quota::Holder;
use crate::policy::schedule::{Planned, Turns};
use crate::policy::shares::Shares;
use std::collections::BTreeSet;
use std::time::Duration;

/// What was claimed is on its way after this, and has used the rate. In this time no rate lets more
/// go than may go at once.
const LOOK: Duration = Duration::from_millis(25);
/// So often it is looked whether what was granted can be used: its tenant may have used up a rate
/// of its own.
const RECLAIM: Duration = Duration::from_secs(10);

/// Who waits for the rate of one domain.
#[derive(Default)]
pub(super) struct Waiters {
    pub(super) turns: ByLane<Turns>,
    shares: ByLane<Shares>,
    /// Queues that have a grant.
    granted: BTreeSet<QueueId>,
    /// The alarm, so that there is only one.
    look_at: Option<Timestamp>,
    /// Not looked at before this.
    busy_until: Timestamp,
}

/// What one look at a lane found.
struct Found {
    planned: Planned,
    /// Queues whose grant others may have.
    idle: Vec<QueueId>,
    /// When to look again.
    next: Timestamp,
}

impl Core {
    /// A queue of a domain with a rate waits for a grant where it has more that is due than it was
    /// granted, and gives back what it cannot use.
    pub(super) fn ask_grant(&mut self, id: QueueId, now: Timestamp) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(granted) = queue.granted else { return };
        let is_placed = matches!(queue.place, Place::At(..));
        let wanted = if is_placed { queue.due_in_all(now, Duration::ZERO) } else { 0 };
        if wanted < granted {
            return self.give_back(id, wanted, now);
        }
        if wanted == granted {
            return;
        }
        let key = queue.backlog.key.clone();
        let is_new = !std::mem::replace(&mut queue.asks, true);
        let waiters = self.waiters.entry(key.domain.clone()).or_default();
        if is_new {
            let weight = self.weights.get(&key.tenant).copied().unwrap_or(1);
            let shares = waiters.shares.of_mut(key.lane);
            waiters.turns.of_mut(key.lane).add(id, &key.tenant, &key.campaign, weight, shares);
        }
        if is_new || waiters.look_at.is_none() {
            self.look_at(&key.domain, now);
        }
    }

    /// A queue gives back what it cannot use of its grant: others may have it.
    pub(super) fn give_back(&mut self, id: QueueId, left: u32, now: Timestamp) {
        if let Some(domain) = self.set_grant(id, left) {
            self.look_at(&domain, now);
        }
    }

    /// A connection is to claim so many of a queue.
    pub(super) fn use_grant(&mut self, id: QueueId, count: u32, now: Timestamp) {
        let Some(queue) = self.queues.get(&id) else { return };
        let Some(granted) = queue.granted else { return };
        let lane = queue.backlog.key.lane;
        let Some(domain) = self.set_grant(id, granted.saturating_sub(count)) else { return };
        let holder = Holder::Domain(domain.as_str());
        let next = self.quotas.next_after(holder, lane, count, now);
        if let Some(waiters) = self.waiters.get_mut(&domain) {
            waiters.busy_until = now.after(LOOK);
        }
        self.look_at(&domain, next);
    }

    /// What a queue has left of its grant. Gives its domain, where that is less than before.
    fn set_grant(&mut self, id: QueueId, left: u32) -> Option<Domain> {
        let queue = self.queues.get_mut(&id)?;
        let granted = queue.granted?;
        queue.granted = Some(left);
        let domain = queue.backlog.key.domain.clone();
        let waiters = self.waiters.get_mut(&domain)?;
        if left == 0 {
            waiters.granted.remove(&id);
        }
        (left < granted).then_some(domain)
    }

    /// Sees to it that a domain is looked at then, or before.
    fn look_at(&mut self, domain: &Domain, at: Timestamp) {
        let Some(waiters) = self.waiters.get_mut(domain) else { return };
        let at = at.max(waiters.busy_until);
        if at == Timestamp::NEVER || waiters.look_at.is_some_and(|before| before <= at) {
            return;
        }
        if let Some(before) = waiters.look_at.replace(at) {
            self.alarms.remove(&(before, Alarm::Rate(domain.clone())));
        }
        self.alarm(at, Alarm::Rate(domain.clone()));
    }

    /// A domain's rate may let some go: grants them.
    pub(super) fn domain_may(&mut self, domain: &Domain, now: Timestamp) {
        let place = self.place_of(domain);
        let Some(mut waiters) = self.waiters.remove(domain) else { return };
        waiters.look_at = None;
        let (mut standing, mut idle, mut next) = (Vec::new(), Vec::new(), Timestamp::NEVER);
        // A domain that has no place is looked at when it gets one: its queues ask again.
        if let Place::At(site, _) = &place {
            for lane in [Lane::Direct, Lane::Bulk] {
                let Some(site) = self.sites.get(site) else { continue };
                let found = self.look_at_lane(&mut waiters, domain, site, lane, now);
                for (id, count) in found.planned.plan {
                    if let Some(queue) = self.queues.get_mut(&id) {
                        queue.granted = queue.granted.map(|granted| granted + count);
                        waiters.granted.insert(id);
                        standing.push(id);
                    }
                }
                for id in found.planned.gone {
                    if let Some(queue) = self.queues.get_mut(&id) {
                        queue.asks = false;
                    }
                }
                idle.extend(found.idle);
                next = next.min(found.next);
            }
        }
        let is_needed = !waiters.granted.is_empty() || waiters.waits();
        if is_needed {
            self.waiters.insert(domain.clone(), waiters);
            self.look_at(domain, next);
        }
        if let (Place::At(site, _), false) = (place, standing.is_empty()) {
            self.touched.insert(site);
        }
        standing.into_iter().for_each(|id| self.stand_in_line(id, now));
        for id in idle {
            self.give_back(id, 0, now);
            self.queue_due(id, now);
        }
    }

    /// Looks who may have what a domain's rate lets go of a lane now.
    fn look_at_lane(
        &self,
        waiters: &mut Waiters,
        domain: &Domain,
        site: &Site,
        lane: Lane,
        now: Timestamp,
    ) -> Found {
        let may = |tenant: &str| self.allowance(site, tenant, lane, now);
        let is_used = |queue: &Queue| queue.in_line && may(&queue.backlog.key.tenant) > 0;
        let (mut held, mut idle) = (0, Vec::new());
        for id in &waiters.granted {
            match self.queues.get(id).filter(|queue| queue.backlog.key.lane == lane) {
                Some(queue) if is_used(queue) => held += queue.granted.unwrap_or(0),
                Some(_) => idle.push(*id),
                None => {}
            }
        }
        let holder = Holder::Domain(domain.as_str());
        let available = self.quotas.available(holder, lane, now);
        let due = |id: QueueId| self.queues.get(&id).map_or(0, |queue| queue.ungranted(now));
        let (turns, shares) = (waiters.turns.of_mut(lane), waiters.shares.of_mut(lane));
        let planned = turns.plan(available.saturating_sub(held), due, may, shares);
        let rests = |tenant: &str| {
            let here = site.line.waits(tenant, now).map(|(until, _)| until);
            here.unwrap_or_else(|| self.quotas.next_at(Holder::Tenant(tenant), lane, now))
        };
        let next = match available {
            _ if turns.is_empty() => Timestamp::NEVER,
            0 => self.quotas.next_at(holder, lane, now),
            _ => {
                let tenants = turns.tenants().map(rests).filter(|at| *at > now);
                tenants.min().map_or(now.after(RECLAIM), |at| at.min(now.after(RECLAIM)))
            }
        };
        Found { planned, idle, next: next.max(now.after(LOOK)) }
    }
}

impl Waiters {
    /// True where somebody waits for a grant.
    fn waits(&self) -> bool {
        self.turns.iter().any(|(_, turns)| !turns.is_empty())
    }

    /// True where somebody waits for a grant in this lane.
    pub(super) fn wait_in(&self, lane: Lane) -> bool {
        !self.turns.of(lane).is_empty()
    }
}
