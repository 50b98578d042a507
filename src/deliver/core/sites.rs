//! Sites: the lines at each, its gate, and how many connections its mail deserves.

mod status;

use self::status::Meter;
use super::links::LinkState;
use super::queues::{Place, is_direct};
use super::waits::Waits;
use super::{AHEAD, Alarm, BATCH, Command, Core, Opening, PRESSED};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::line::{Job, Line};
use crate::mail::message::{ByLane, Lane};
use crate::policy::feedback::Feedback;
use crate::policy::schedule::Turns;
use crate::policy::shares::Shares;
use crate::policy::site::route::{Route, hops};
use crate::policy::site::{Limit, Limits, SiteId};
use crate::policy::verdict::{Blame, Ruling, Verdict};
use crate::smtp::reply::EnhancedCode;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Deliveries that a tenant may be ahead of another at the same site, whose mail goes to other
/// hosts.
const AHEAD_MAX: u32 = 2 * BATCH;
/// Direct jobs in one line; more would hold the memory that other sites' mail needs.
const LINE_MAX: usize = 500;
/// Share of all connections that bulk mail never takes.
const RESERVED_IN_ALL: usize = 10;

/// One site.
pub(super) struct Site {
    pub(super) name: Arc<str>,
    pub(super) limits: Limits,
    pub(super) line: Arc<Line>,
    pub(super) feedback: Feedback,
    /// When a forced rate changes.
    pub(super) retune_at: Option<Timestamp>,
    /// One for each set of addresses; most sites have one.
    pub(super) routes: BTreeMap<Vec<IpAddr>, Lines>,
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
    /// No new connection before this: all addresses were at their limit.
    pub(super) crowded_until: Timestamp,
    /// Last trouble; empty after a success.
    pub(super) why: String,
    /// What mail waits for.
    pub(super) waits: Waits,
    /// What tenants had of it.
    pub(super) shares: ByLane<Shares>,
    pub(super) meter: Meter,
}

/// Domains with the same addresses: any connection to one of them serves all of these.
pub(super) struct Lines {
    route: Arc<Route>,
    pub(super) turns: ByLane<Turns>,
    queues: BTreeSet<QueueId>,
    pub(super) fresh: Fresh,
    /// Bulk queues whose mail still gathers.
    gathering: BTreeSet<QueueId>,
    /// Since when mail has waited although connections are at it.
    pressed: Option<Timestamp>,
}

impl Lines {
    fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            turns: ByLane::default(),
            queues: BTreeSet::new(),
            fresh: Fresh::default(),
            gathering: BTreeSet::new(),
            pressed: None,
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
                line: Arc::default(),
                feedback,
                retune_at: None,
                routes: BTreeMap::new(),
                links: BTreeSet::new(),
                domains: 0,
                failing_since: None,
                shut_until: Timestamp(0),
                refused_beside: false,
                succeeded_at: Timestamp(0),
                crowded_until: Timestamp(0),
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
        let Some(site) = self.sites.get_mut(&id).filter(|site| site.line.len() < LINE_MAX) else {
            // It lies in the queue, and is claimed when its turn comes.
            return self.commands.push(Command::Release(job.transaction.leases()));
        };
        if site.shut_until > now {
            let verdict = shut(&site.why);
            return self.commands.push(Command::Conclude(job, verdict));
        }
        if self.is_job_suspended(&job, (id, &route), now) {
            return self.commands.push(Command::Release(job.transaction.leases()));
        }
        let Some(site) = self.sites.get(&id) else { return };
        job.route = Some(route);
        let limits = &site.limits;
        let most = limits.recipients_per_transaction.min(limits.deliveries_per_connection);
        job.split(most).into_iter().for_each(|job| site.line.push(job));
        self.touched.insert(id);
    }

    /// A queue's mail goes to this place from now on.
    pub(super) fn join_site(&mut self, place: &Place, queue: QueueId) {
        let Place::At(id, route) = place else { return };
        let Some(site) = self.sites.get_mut(id) else { return };
        let lines = site
            .routes
            .entry(route.addresses.clone())
            .or_insert_with(|| Lines::new(Arc::clone(route)));
        lines.queues.insert(queue);
        self.recount(queue);
    }

    /// And no longer to that one.
    pub(super) fn leave_site(&mut self, place: &Place, queue: QueueId) {
        let Place::At(id, route) = place else { return };
        let Some(site) = self.sites.get_mut(id) else { return };
        if let Some(lines) = site.routes.get_mut(&route.addresses) {
            lines.queues.remove(&queue);
            lines.gathering.remove(&queue);
            if let Some(queue) = self.queues.get(&queue) {
                lines.fresh.count(&queue.backlog.key.tenant, queue.counted, 0);
            }
            if lines.queues.is_empty() {
                lines.turns.direct.clear(&mut site.shares.direct);
                lines.turns.bulk.clear(&mut site.shares.bulk);
                site.routes.remove(&route.addresses);
            }
        }
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.counted = 0;
        }
    }

    /// Brings a route's count of fresh bulk mail up to date with one of its queues.
    pub(super) fn recount(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let Place::At(site, route) = &queue.place else { return };
        let Some(site) = self.sites.get_mut(site) else { return };
        let Some(lines) = site.routes.get_mut(&route.addresses) else { return };
        let fresh = if is_direct(queue) { 0 } else { queue.fresh() };
        lines.fresh.count(&queue.backlog.key.tenant, queue.counted, fresh);
        queue.counted = fresh;
    }

    /// Puts a queue in line at its route where it has something due; where it only gathers, it
    /// waits for the route to have a connection's worth, and then all that gather there come in.
    pub(super) fn stand_in_line(&mut self, id: QueueId, now: Timestamp) {
        self.recount(id);
        let Some(queue) = self.queues.get(&id) else { return };
        let Place::At(site, route) = queue.place.clone() else { return };
        let Some(site) = self.sites.get_mut(&site) else { return };
        let Some(lines) = site.routes.get_mut(&route.addresses) else { return };
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
                let weight = self.tenants.weight(&key.tenant);
                turns.add(id, &key.tenant, &key.campaign, weight, shares);
                queue.in_line = true;
                lines.gathering.remove(&id);
            } else if !direct && queue.fresh() > 0 {
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
            self.give(link, now);
        }
        self.open_for_direct(id, now);
        self.open_for_bulk(id, now);
    }

    /// One connection for each waiting direct job or queue that no opening one is meant for.
    fn open_for_direct(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        let mut wanted: Vec<Arc<Route>> = site.line.routes(site.limits.connections as usize);
        let may = |lines: &&Lines| self.may_any(site, lines, Lane::Direct, now);
        let lines = site.routes.values().filter(may);
        wanted.extend(lines.map(|lines| Arc::clone(&lines.route)));
        let none_may =
            wanted.is_empty() && site.routes.values().any(|l| !l.turns.direct.is_empty());
        let mut waits = none_may.then_some((Limit::Tenant, None));
        let at = site.line.next_at(Lane::Direct, now).before(AHEAD);
        if at > now {
            if !wanted.is_empty() {
                waits = Some((Limit::Rate, Some(at.after(AHEAD))));
                self.alarm(at, Alarm::Site(id));
            }
            return self.waits_for(id, Lane::Direct, waits, now);
        }
        let opening =
            self.count_links(site, |l| l.state == LinkState::Opening && l.lane == Lane::Direct);
        for route in wanted.into_iter().skip(opening) {
            if let Err(limit) = self.open(id, &route, Lane::Direct, now) {
                waits = Some(limit);
                break;
            }
        }
        self.waits_for(id, Lane::Direct, waits, now);
    }

    /// One connection for each connection's worth, less those that are at it.
    fn open_for_bulk(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        if let Some((at, _)) = site.line.binding(now) {
            let waits = site.routes.values().any(|r| !r.turns.bulk.is_empty());
            if waits {
                self.alarm(at, Alarm::Site(id));
            }
            let waits = waits.then_some((Limit::Rate, Some(at)));
            return self.waits_for(id, Lane::Bulk, waits, now);
        }
        let worth = u64::from(site.limits.deliveries_per_connection);
        let mut at_it: HashMap<&[IpAddr], u64> = HashMap::new();
        for link in site.links.iter().filter_map(|link| self.links.get(link)) {
            if link.lane == Lane::Bulk && link.state != LinkState::Idle {
                *at_it.entry(&link.route.addresses).or_default() += 1;
            }
        }
        let several = site.routes.len() > 1 && self.has_room_for_bulk(site);
        let (mut wanted, mut waits) = (Vec::new(), None);
        for lines in site.routes.values().filter(|lines| !lines.turns.bulk.is_empty()) {
            let mail = self.fresh(site, lines, now);
            let at_it = at_it.get(&*lines.route.addresses).copied().unwrap_or(0);
            if mail > 0 || self.may_any(site, lines, Lane::Bulk, now) {
                waits = Some((Limit::Turn, None));
                let wants = mail.div_ceil(worth).max(1);
                let stands = if several { self.stands(site, lines, now) } else { 0 };
                wanted.push((stands, at_it, wants, Arc::clone(&lines.route)));
            } else {
                waits = waits.or(Some((Limit::Tenant, None)));
            }
        }
        for (_, at_it, count, route) in &mut wanted {
            if at_it >= count {
                *count = *at_it + self.press(id, route, now);
            }
        }
        // To the route with the tenant that had least; among its equals, to the one that has
        // fewest: none waits until another has all it wants.
        while let Some((stands, at_it, _, route)) = wanted
            .iter_mut()
            .filter(|(_, at_it, count, _)| at_it < count)
            .min_by_key(|(stands, at_it, ..)| (*stands, *at_it))
        {
            if let Err(limit) = self.open(id, route, Lane::Bulk, now) {
                waits = Some(limit);
                break;
            }
            *at_it += 1;
            *stands = stands.saturating_add(Shares::worth(worth));
        }
        self.waits_for(id, Lane::Bulk, waits, now);
    }

    /// True where all who have mail for this route had so much more of the site than somebody with
    /// mail for another that a connection makes room for that one.
    pub(super) fn is_ahead(&self, site: &Site, route: &Route, now: Timestamp) -> bool {
        let lines = site.routes.get(&route.addresses).filter(|_| site.routes.len() > 1);
        let (Some(lines), Some(least)) = (lines, site.shares.bulk.least()) else { return false };
        let much = Shares::worth(u64::from(AHEAD_MAX));
        !lines.turns.bulk.is_empty() && self.stands(site, lines, now) > least + much
    }

    /// Where the tenant stands that had least of the site's bulk turns, of those with mail for a
    /// route.
    fn stands(&self, site: &Site, lines: &Lines, now: Timestamp) -> u64 {
        let may =
            lines.turns.bulk.tenants().filter(|t| self.allowance(site, t, Lane::Bulk, now) > 0);
        may.map(|tenant| site.shares.bulk.of(tenant)).min().unwrap_or(u64::MAX)
    }

    /// 1 where a route's mail has waited for a while although connections are at it.
    fn press(&mut self, id: SiteId, route: &Route, now: Timestamp) -> u64 {
        let lines = self.sites.get_mut(&id).and_then(|s| s.routes.get_mut(&route.addresses));
        let Some(lines) = lines else { return 0 };
        let since = *lines.pressed.get_or_insert(now);
        let enough = now.since(since) >= PRESSED;
        if enough {
            lines.pressed = Some(now);
        }
        let next = if enough { now } else { since }.after(PRESSED);
        self.alarm(next, Alarm::Site(id));
        u64::from(enough)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The limit that says no, and until when where that is known.
    fn open(
        &mut self,
        id: SiteId,
        route: &Arc<Route>,
        lane: Lane,
        now: Timestamp,
    ) -> Result<(), (Limit, Option<Timestamp>)> {
        let Some(site) = self.sites.get(&id) else { return Err((Limit::Gate, None)) };
        if site.crowded_until > now {
            let until = site.crowded_until;
            self.alarm(until, Alarm::Site(id));
            return Err((Limit::Connections, Some(until)));
        }
        let reached = if site.is_window_the_limit(lane) {
            (Limit::Window, site.feedback.window.retry_at(now))
        } else {
            (Limit::Connections, None)
        };
        if lane == Lane::Bulk && !self.has_room_for_bulk(site) {
            return Err(reached);
        }
        if site.links.len() >= site.most(lane) as usize {
            // One that idles, to addresses that are no use here, makes room.
            if let Some(link) = site.links.iter().copied().find(|l| self.is_idle_link(*l)) {
                self.quit(link);
            }
            return Err(reached);
        }
        if self.links.len() >= self.most_in_all(lane) {
            self.starved.of_mut(lane).insert(id);
            return Err((Limit::AllConnections, None));
        }
        if let Err(at) = site.line.begin_open(lane, now) {
            self.alarm(at, Alarm::Site(id));
            return Err((Limit::ConnectionRate, Some(at)));
        }
        let Some(site) = self.sites.get(&id) else { return Err((Limit::Gate, None)) };
        let hops = hops(&route.hosts, self.config.delivery.hosts_max, &mut self.rng);
        let (site_name, mut limits, line) =
            (Arc::clone(&site.name), site.limits.clone(), Arc::clone(&site.line));
        let most = site.feedback.spent.most(now).unwrap_or(u32::MAX);
        limits.deliveries_per_connection = limits.deliveries_per_connection.min(most);
        let link = self.add_link(id, Arc::clone(route), lane, limits.deliveries_per_connection);
        let site = site_name;
        self.commands.push(Command::Open(Opening { link, site, limits, lane, hops, line }));
        Ok(())
    }

    /// Connections to all sites together.
    fn most_in_all(&self, lane: Lane) -> usize {
        let in_all = self.config.delivery.connections;
        if lane == Lane::Bulk { in_all - in_all / RESERVED_IN_ALL } else { in_all }
    }

    /// Looks at sites that wait for a connection to become free anywhere, in turn, as long as one
    /// is.
    pub(super) fn feed_starved(&mut self, now: Timestamp) {
        for lane in [Lane::Direct, Lane::Bulk] {
            for _ in 0..self.starved.of_mut(lane).len() {
                if self.links.len() >= self.most_in_all(lane) {
                    break;
                }
                if let Some(site) = self.starved.of_mut(lane).pop() {
                    self.find_work(site, now);
                }
            }
        }
    }

    /// How many connections may be busy with bulk mail, and whether one more may be.
    pub(super) fn has_room_for_bulk(&self, site: &Site) -> bool {
        let busy = self.count_links(site, |l| l.lane == Lane::Bulk && l.state != LinkState::Idle);
        busy < site.most_for_bulk() as usize
    }

    /// How far ahead of its due time a route's gathering mail may be taken.
    pub(super) fn early_at(&self, site: &Site, key: &[IpAddr]) -> Duration {
        let gather = self.config.lanes.gather;
        site.routes.get(key).map_or(Duration::ZERO, |lines| early(lines, &site.limits, gather))
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
                site.routes.is_empty()
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

impl Site {
    /// Connections that the site welcomes. Of a site that failed, one, until something was
    /// delivered.
    pub(super) fn window(&self) -> u32 {
        let most = if self.failing_since.is_some() { 1 } else { self.limits.connections };
        self.feedback.window.size(1, most)
    }

    /// Connections that may stand, so that one of the lane may be opened: direct mail does not wait
    /// until a window has opened for newsletters.
    fn most(&self, lane: Lane) -> u32 {
        match lane {
            Lane::Bulk => self.window(),
            Lane::Direct if self.failing_since.is_some() => 1,
            Lane::Direct => {
                let reserved = self.limits.reserved_for_direct;
                self.window().saturating_add(reserved).min(self.limits.connections)
            }
        }
    }

    /// Connections that the configuration lets newsletters take.
    pub(super) fn bulk_connections(&self) -> u32 {
        let Limits { connections, reserved_for_direct, .. } = self.limits;
        connections.saturating_sub(reserved_for_direct).max(1)
    }

    /// True where what was learned keeps the lane below what the configuration allows.
    fn is_window_the_limit(&self, lane: Lane) -> bool {
        match lane {
            Lane::Bulk => self.window() < self.bulk_connections(),
            Lane::Direct => self.most(lane) < self.limits.connections,
        }
    }

    /// Connections that may be busy with newsletters.
    fn most_for_bulk(&self) -> u32 {
        self.window().min(self.bulk_connections())
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
