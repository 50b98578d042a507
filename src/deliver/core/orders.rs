//! The operator's live orders: limits follow them while the node runs, and go back at their end.
//!
//! What was used of a rate still counts when it is changed. A connection that stands keeps the
//! `deliveries_per_connection` and `recipients_per_transaction` that it was opened with until it
//! ends; but where there are more connections than are allowed now, those too many end after their
//! transaction.

use super::links::{Link, LinkState};
use super::queues::Place;
use super::{Alarm, Command, Core, LinkId, Turn};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::line::Job;
use crate::mail::message::Lane;
use crate::policy::orders::Orders;
use crate::policy::site::SiteId;
use crate::policy::site::route::Route;

impl Core {
    /// Puts these orders in place of those before. To be followed by [`Core::step`]. The sites that
    /// they name by a domain are asked of DNS, so that they hold from the start.
    pub fn set_orders(&mut self, mut orders: Orders, now: Timestamp) {
        self.end_orders(now);
        if let Some(at) = self.orders.next_expiry() {
            self.alarms.remove(&(at, Alarm::Orders));
        }
        orders.expire(now);
        let named = orders.throttles().iter().filter_map(|order| Domain::parse(&order.site).ok());
        named.for_each(|domain| self.look_up(domain, Turn::Direct, now));
        let before = std::mem::replace(&mut self.orders, orders);
        let suspensions = before.suspensions() != self.orders.suspensions();
        self.follow_orders(suspensions, now);
    }

    /// Orders whose end has come count no more, and are told of.
    pub(super) fn end_orders(&mut self, now: Timestamp) {
        let ended = self.orders.expire(now);
        if !ended.is_empty() {
            let suspensions = !ended.suspensions().is_empty();
            self.commands.push(Command::Expired(ended));
            self.follow_orders(suspensions, now);
        }
    }

    /// Brings all sites' limits up to date with the orders; and all queues, where suspensions came
    /// or went.
    fn follow_orders(&mut self, suspensions: bool, now: Timestamp) {
        if let Some(at) = self.orders.next_expiry() {
            self.alarm(at, Alarm::Orders);
        }
        if suspensions {
            self.look_at_all();
        }
        let places = super::domains::places(&self.domains);
        let changed = self.directory.overrule(self.orders.throttles(), places);
        self.follow_limits(changed, now);
    }

    /// Brings these sites up to date with the directory.
    pub(super) fn follow_limits(&mut self, changed: Vec<SiteId>, now: Timestamp) {
        for id in changed {
            let Some(known) = self.directory.get(id) else { continue };
            let Some(site) = self.sites.get_mut(&id) else { continue };
            (site.name, site.limits) = (known.name.as_str().into(), known.limits.clone());
            self.retune(id, now);
            self.shed(id);
            self.touched.insert(id);
        }
    }

    /// Notes whether a queue is suspended.
    pub(super) fn mind_suspensions(&mut self, id: QueueId, now: Timestamp) {
        let Some(queue) = self.queues.get(&id) else { return };
        let key = &*queue.backlog.key;
        let at = match &queue.place {
            Place::At(site, route) => Some((*site, &**route)),
            Place::Unknown(_) | Place::Dead(_) => None,
        };
        let mail = (key.lane, key.tenant.as_str(), key.campaign.as_str());
        let suspended = self.is_suspended(mail, Some(&key.domain), at, now);
        if suspended != queue.suspended {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.suspended = suspended;
            }
            self.recount(id);
        }
    }

    /// True where a direct job is not to be sent to this site now.
    pub(super) fn is_job_suspended(&self, job: &Job, at: (SiteId, &Route), now: Timestamp) -> bool {
        let origin = &job.transaction.head.origin;
        let domain = job.transaction.deliveries.first().and_then(|d| d.recipient.mailbox.domain());
        let mail = (origin.lane, origin.tenant.as_str(), origin.campaign.as_str());
        self.is_suspended(mail, domain, Some(at), now)
    }

    /// True where mail of this lane, tenant and campaign to this domain is not to be sent now.
    fn is_suspended(
        &self,
        (lane, tenant, campaign): (Lane, &str, &str),
        domain: Option<&Domain>,
        at: Option<(SiteId, &Route)>,
        now: Timestamp,
    ) -> bool {
        let domain = domain.unwrap_or(&self.config.hostname).as_str();
        let is_site = |name: &str| match at {
            Some((site, route)) => self.directory.is_called(site, name, domain, route),
            None => name == domain,
        };
        self.orders.suspension_of(is_site, tenant, campaign, lane, now).is_some()
    }

    /// Ends the connections of a site that are more than it may have now, in all or from one
    /// source: those that idle or open first, direct mail's last.
    pub(super) fn shed(&mut self, id: SiteId) {
        let Some(site) = self.sites.get(&id) else { return };
        let link = |id: &LinkId| self.links.get(id).filter(|link| link.state != LinkState::Ending);
        let mut standing: Vec<_> =
            site.links.iter().filter_map(|id| Some((*id, link(id)?))).collect();
        standing.sort_by_key(|(_, link)| match (link.state, link.lane) {
            (LinkState::Idle, _) => 3,
            (LinkState::Opening, _) => 2,
            (_, Lane::Bulk) => 1,
            (_, Lane::Direct) => 0,
        });
        let (mut kept, mut ending): (Vec<&Link>, _) = (Vec::new(), Vec::new());
        for (id, link) in standing {
            let beside = |test: &dyn Fn(&Link) -> bool| kept.iter().filter(|l| test(l)).count();
            let is_from_there = |l: &Link| l.source.id == link.source.id;
            let fits = beside(&|_| true) < site.most(Lane::Direct) as usize
                && beside(&is_from_there) < site.limits.connections_per_source as usize;
            let fits_as_bulk = || {
                let from_there = beside(&|l| l.carries_bulk() && is_from_there(l));
                beside(&Link::carries_bulk) < site.most_for_bulk() as usize
                    && from_there < site.bulk_connections_per_source() as usize
            };
            if fits && (!link.carries_bulk() || fits_as_bulk()) {
                kept.push(link);
            } else {
                ending.push(id);
            }
        }
        ending.into_iter().for_each(|link| self.quit(link));
    }
}
