//! Sites: the lines at each, who stands in them, and what happens next.

mod status;

use self::status::Meter;
use super::queues::is_direct;
use super::waits::Waits;
use super::{Alarm, Command, Core};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::line::{Job, Line, Way, WayKey};
use crate::mail::message::{ByLane, Lane};
use crate::policy::feedback::Feedback;
use crate::policy::quota::Holder;
use crate::policy::schedule::Turns;
use crate::policy::shares::Shares;
use crate::policy::site::route::Route;
use crate::policy::site::{Limit, Limits, SiteId};
use crate::policy::source::SourceId;
use crate::policy::verdict::{Blame, Ruling, Verdict};
use crate::smtp::reply::EnhancedCode;
use crate::store::Delivery;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Direct jobs in one line; more would hold the memory that other sites' mail needs.
const LINE_MAX: usize = 500;
/// One site.
pub(super) struct Site {
    pub(super) name: Arc<str>,
    pub(super) limits: Limits,
    /// Fewest connections that it is taken to welcome.
    pub(super) window_min: u32,
    pub(super) line: Arc<Line>,
    pub(super) feedback: Feedback,
    /// When a forced rate changes.
    pub(super) retune_at: Option<Timestamp>,
    /// One for each set of addresses and pool of sources; most sites have one.
    pub(super) ways: BTreeMap<WayKey, Lines>,
    pub(super) links: BTreeSet<super::LinkId>,
    /// Domains that are known to be here.
    pub(super) domains: usize,
    /// Since when no host answers; until something was delivered.
    pub(super) failing_since: Option<Timestamp>,
    pub(super) shut_until: Timestamp,
    /// One connection was refused while others were being opened.
    pub(super) refused_beside: bool,
    /// When it last took mail.
    pub(super) succeeded_at: Timestamp,
    /// One was refused, though it told nothing of how many are welcome.
    pub(super) crowd: Crowd,
    /// When its last connections ended.
    pub(super) ended: VecDeque<Timestamp>,
    /// No new connection from these sources before then: all addresses were at their limit.
    pub(super) crowded: BTreeMap<SourceId, Timestamp>,
    /// Last trouble; empty after a success.
    pub(super) why: String,
    /// What mail waits for.
    pub(super) waits: Waits,
    /// What tenants had of it.
    pub(super) shares: ByLane<Shares>,
    pub(super) meter: Meter,
}

/// For a while no more connections than there were when one was refused.
#[derive(Default)]
pub(super) struct Crowd {
    pub(super) until: Timestamp,
    pub(super) most: usize,
}

/// Domains with the same addresses, and mail that may go from the same sources: any connection
/// between those serves all of it.
pub(super) struct Lines {
    pub(super) way: Way,
    pub(super) turns: ByLane<Turns>,
    queues: BTreeSet<QueueId>,
    pub(super) fresh: Fresh,
    /// Bulk queues whose mail still gathers.
    gathering: BTreeSet<QueueId>,
    /// Since when mail has waited although connections are at it.
    pub(super) pressed: Option<Timestamp>,
    /// Until when its hosts are taken not to answer: no connection to them could be opened.
    pub(super) fails_until: Timestamp,
}

impl Lines {
    fn new(way: Way) -> Self {
        Self {
            way,
            turns: ByLane::default(),
            queues: BTreeSet::new(),
            fresh: Fresh::default(),
            gathering: BTreeSet::new(),
            pressed: None,
            fails_until: Timestamp(0),
        }
    }

    /// Tenants with a queue in line, by lane.
    pub(super) fn in_line(&self) -> impl Iterator<Item = (Lane, &str)> {
        self.turns.iter().flat_map(|(lane, turns)| turns.tenants().map(move |t| (lane, t)))
    }
}

impl Core {
    /// The site of a domain with this route; known from now on.
    pub(super) fn place(&mut self, domain: &Domain, route: &Route, now: Timestamp) -> SiteId {
        let placed = self.directory.place(domain.as_str(), route);
        let Some(known) = self.directory.get(placed.site) else { return placed.site };
        let name: Arc<str> = known.name.as_str().into();
        let limits = known.limits.clone();
        if let Some(site) = self.sites.get_mut(&placed.site) {
            if placed.changed {
                (site.name, site.limits) = (name, limits);
                self.retune(placed.site, now);
            }
        } else {
            let feedback = self.learned.take(&name);
            let site = Site {
                name,
                limits,
                window_min: self.config.delivery.learned_connections_min,
                line: Arc::default(),
                feedback,
                retune_at: None,
                ways: BTreeMap::new(),
                links: BTreeSet::new(),
                domains: 0,
                failing_since: None,
                shut_until: Timestamp(0),
                refused_beside: false,
                succeeded_at: Timestamp(0),
                crowd: Crowd::default(),
                ended: VecDeque::new(),
                crowded: BTreeMap::new(),
                why: String::new(),
                waits: Waits::default(),
                shares: ByLane::default(),
                meter: Meter::default(),
            };
            self.sites.insert(placed.site, site);
            self.retune(placed.site, now);
        }
        placed.site
    }

    /// A direct job is next at its site.
    pub(super) fn join_line(
        &mut self,
        id: SiteId,
        route: Arc<Route>,
        mut job: Job,
        now: Timestamp,
    ) {
        let origin = &job.transaction.head.origin;
        let pool = self.config.sources.pool(origin.lane, &origin.tenant).clone();
        let way = Way { route, pool };
        let Some(site) = self.sites.get(&id).filter(|site| site.line.len() < LINE_MAX) else {
            // It lies in the queue, and is claimed when its turn comes.
            return self.commands.push(Command::Release(job.transaction.leases()));
        };
        let shut_out = (site.shut_until > now).then(|| site.why.clone());
        if let Some(why) = shut_out.or_else(|| self.has_no_source(site, &way, now)) {
            return self.commands.push(Command::Conclude(job, shut(&why)));
        }
        if self.is_job_suspended(&job, (id, &way.route), now) {
            return self.commands.push(Command::Release(job.transaction.leases()));
        }
        let Some(site) = self.sites.get(&id) else { return };
        // What the rate of a domain does not let go now waits in the queue, without a connection.
        let (lane, quotas) = (job.lane(), &self.quotas);
        let is_used_up = |domain: &str| quotas.available(Holder::Domain(domain), lane, now) == 0;
        let held = job.take_out(|delivery| delivery.domain().is_some_and(is_used_up));
        if !held.is_empty() {
            self.commands.push(Command::Release(held));
        }
        if job.transaction.deliveries.is_empty() {
            return;
        }
        job.way = Some(way);
        let limits = &site.limits;
        let most = limits.recipients_per_transaction.min(limits.deliveries_per_connection);
        let most = |delivery: &Delivery| self.quotas.recipients(delivery).min(most);
        job.split(most).into_iter().for_each(|job| site.line.push(job));
        self.touched.insert(id);
    }

    /// A queue's mail goes to its place from now on.
    pub(super) fn join_site(&mut self, queue: QueueId) {
        let Some((id, way)) = self.way_of(queue) else { return };
        let Some(site) = self.sites.get_mut(&id) else { return };
        let lines = site.ways.entry(way.key()).or_insert_with(|| Lines::new(way));
        lines.queues.insert(queue);
        self.recount(queue);
    }

    /// And no longer.
    pub(super) fn leave_site(&mut self, queue: QueueId) {
        let Some((id, way)) = self.way_of(queue) else { return };
        let (Some(site), key) = (self.sites.get_mut(&id), way.key()) else { return };
        if let Some(lines) = site.ways.get_mut(&key) {
            lines.queues.remove(&queue);
            lines.gathering.remove(&queue);
            if let Some(queue) = self.queues.get(&queue) {
                lines.fresh.count(&queue.backlog.key.tenant, queue.counted, 0);
            }
            if lines.queues.is_empty() {
                lines.turns.direct.clear(&mut site.shares.direct);
                lines.turns.bulk.clear(&mut site.shares.bulk);
                site.ways.remove(&key);
            }
        }
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.counted = 0;
        }
    }

    fn way_of(&self, queue: QueueId) -> Option<(SiteId, Way)> {
        self.queues.get(&queue)?.way()
    }

    /// Brings a way's count of fresh bulk mail up to date with one of its queues.
    pub(super) fn recount(&mut self, id: QueueId) {
        let Some((site, way)) = self.way_of(id) else { return };
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Some(site) = self.sites.get_mut(&site) else { return };
        let Some(lines) = site.ways.get_mut(&way.key()) else { return };
        let fresh = if is_direct(queue) { 0 } else { queue.fresh() };
        lines.fresh.count(&queue.backlog.key.tenant, queue.counted, fresh);
        queue.counted = fresh;
    }

    /// Puts a queue in line at its route where it has something due; where it only gathers, it
    /// waits for the route to have a connection's worth, and then all that gather there come in.
    pub(super) fn stand_in_line(&mut self, id: QueueId, now: Timestamp) {
        self.recount(id);
        let Some((site, way)) = self.way_of(id) else { return };
        let Some(site) = self.sites.get_mut(&site) else { return };
        let Some(lines) = site.ways.get_mut(&way.key()) else { return };
        let early = early(lines, &site.limits, self.config.lanes.gather);
        let mut candidates = vec![id];
        if early > Duration::ZERO {
            candidates.extend(std::mem::take(&mut lines.gathering));
        }
        for id in candidates {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            if queue.in_line {
                continue;
            }
            let direct = is_direct(queue);
            if queue.due(now, if direct { Duration::ZERO } else { early }) > 0 {
                let key = &queue.backlog.key;
                let (turns, shares) = (lines.turns.of_mut(key.lane), site.shares.of_mut(key.lane));
                if turns.is_empty() {
                    lines.pressed = None;
                }
                let weight = self.weights.get(&key.tenant).copied().unwrap_or(1);
                turns.add(id, &key.tenant, &key.campaign, weight, shares);
                queue.in_line = true;
                lines.gathering.remove(&id);
            } else if !direct && queue.fresh() > 0 && queue.backlog.deferred == 0 {
                lines.gathering.insert(id);
            }
        }
    }

    /// Gives idle connections work, and opens as many as the waiting mail deserves.
    pub(super) fn find_work(&mut self, id: SiteId, now: Timestamp) {
        if self.draining || self.all_held {
            return;
        }
        let Some(site) = self.sites.get(&id) else { return };
        if site.shut_until > now {
            let until = site.shut_until;
            for lane in [Lane::Direct, Lane::Bulk] {
                self.waits_for(id, lane, Some((Limit::Gate, Some(until))), now);
            }
            return self.alarm(until, Alarm::Site(id));
        }
        if site.retune_at.is_some_and(|at| at <= now) {
            self.retune(id, now);
        }
        self.wait_for_tenants(id, now);
        let Some(site) = self.sites.get(&id) else { return };
        let idle: Vec<_> = site.links.iter().copied().filter(|l| self.is_idle_link(*l)).collect();
        for link in idle {
            if self.yields(id, link, now) {
                self.quit(link);
            } else {
                self.give(link, now);
            }
        }
        self.open_for_direct(id, now);
        self.open_for_bulk(id, now);
    }

    /// How far ahead of its due time a route's gathering mail may be taken.
    pub(super) fn early_at(&self, site: &Site, key: &WayKey) -> Duration {
        let gather = self.config.lanes.gather;
        site.ways.get(key).map_or(Duration::ZERO, |lines| early(lines, &site.limits, gather))
    }

    /// Why mail waits at a site.
    pub(super) fn why(&self, id: SiteId) -> String {
        self.sites.get(&id).map_or_else(String::new, |site| site.why.clone())
    }

    pub(super) fn sweep_sites(&mut self, now: Timestamp) {
        let unused: Vec<SiteId> = self
            .sites
            .iter()
            .filter(|(_, site)| {
                site.ways.is_empty()
                    && site.links.is_empty()
                    && site.line.is_empty()
                    && site.shut_until <= now
                    // What was used of its rates counts when mail comes again.
                    && site.line.is_rested(now)
                    && site.domains == 0
            })
            .map(|(id, _)| *id)
            .collect();
        for id in unused {
            self.forget_waiting(id);
            if let Some(site) = self.sites.remove(&id) {
                self.learned.keep(&site.name, &site.feedback, now);
            }
            self.directory.forget(id);
        }
        self.learned.sweep(now);
    }
}

/// Bulk deliveries never tried and not promised.
#[derive(Default)]
pub(super) struct Fresh {
    pub(super) total: u64,
    pub(super) by_tenant: HashMap<String, u64>,
}

impl Fresh {
    /// A queue's share changed.
    fn count(&mut self, tenant: &str, before: u64, after: u64) {
        if before == after {
            return;
        }
        self.total = (self.total + after).saturating_sub(before);
        let of_tenant = match self.by_tenant.get_mut(tenant) {
            Some(count) => count,
            None => self.by_tenant.entry(tenant.to_string()).or_default(),
        };
        *of_tenant = (*of_tenant + after).saturating_sub(before);
        if *of_tenant == 0 {
            self.by_tenant.remove(tenant);
        }
    }
}

/// Mail that gathers is taken at once where there is a connection's worth of it.
fn early(lines: &Lines, limits: &Limits, gather: Duration) -> Duration {
    let worth = u64::from(limits.deliveries_per_connection);
    if lines.fresh.total >= worth { gather } else { Duration::ZERO }
}

pub(super) fn shut(why: &str) -> Verdict {
    Verdict::own(Ruling::Retry, Some(Blame::Site), EnhancedCode(4, 4, 1), why.to_string())
}
