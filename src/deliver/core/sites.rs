//! Sites: the lines at each, its gate, and how many connections its mail deserves.

mod status;

use self::status::Meter;
use super::links::LinkState;
use super::queues::{Place, is_direct};
use super::{AHEAD, Alarm, Command, Core, Opening, PRESSED};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::line::{Job, Line};
use crate::mail::message::Lane;
use crate::policy::schedule::Turns;
use crate::policy::site::route::{Route, hops};
use crate::policy::site::{Limits, SiteId};
use crate::policy::throttle::Pace;
use crate::policy::verdict::{Blame, Ruling, Verdict};
use crate::smtp::reply::EnhancedCode;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a gate is shut after a failure: this share of the time that the site has failed, within
/// these bounds. So one that was away for a minute is found again in seconds.
const SHUT_SHARE: u32 = 8;
const SHUT_MIN: Duration = Duration::from_secs(5);
const SHUT_MAX: Duration = Duration::from_secs(300);
/// No further connection for so long after one was refused while others stand.
const ENOUGH: Duration = Duration::from_secs(30);
/// The same where all addresses were at their limit: others may close any moment.
const CROWDED: Duration = Duration::from_secs(1);
/// Direct jobs in one line; more would hold the memory that other sites' mail needs.
const LINE_MAX: usize = 500;
/// Share of all connections that bulk mail never takes.
const RESERVED_IN_ALL: usize = 10;

/// One site.
pub(super) struct Site {
    name: Arc<str>,
    pub(super) limits: Limits,
    pub(super) line: Arc<Line>,
    /// Of new connections.
    opens: Pace,
    /// One for each set of addresses; most sites have one.
    pub(super) routes: BTreeMap<Vec<IpAddr>, Lines>,
    pub(super) links: BTreeSet<super::LinkId>,
    /// Since when no host answers; until something was delivered.
    failing_since: Option<Timestamp>,
    shut_until: Timestamp,
    /// Beyond those that stand, no new connection before this.
    enough_until: Timestamp,
    /// How many may stand until then: as many as did when one more was refused. One that reaches
    /// its end is replaced.
    enough: usize,
    /// Last trouble; empty after a success.
    why: String,
    meter: Meter,
}

/// Domains with the same addresses: any connection to one of them serves all of these.
pub(super) struct Lines {
    route: Arc<Route>,
    pub(super) direct: Turns,
    pub(super) bulk: Turns,
    queues: HashSet<QueueId>,
    /// Bulk deliveries never tried and not promised.
    fresh: u64,
    /// Bulk queues whose mail still gathers.
    gathering: HashSet<QueueId>,
    /// Since when mail has waited although connections are at it.
    pressed: Option<Timestamp>,
}

impl Lines {
    fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            direct: Turns::default(),
            bulk: Turns::default(),
            queues: HashSet::new(),
            fresh: 0,
            gathering: HashSet::new(),
            pressed: None,
        }
    }
}

impl Site {
    /// Goes by these limits from now on; what was used of its rates still counts.
    pub(super) fn retune(&mut self, name: Arc<str>, limits: Limits) {
        self.line.retune(&limits.rates);
        self.opens.retune(&limits.connection_rates);
        (self.name, self.limits) = (name, limits);
    }
}

impl Core {
    /// The site of a domain with this route; known from now on.
    pub(super) fn place(&mut self, domain: &Domain, route: &Route) -> SiteId {
        let placed = self.directory.place(domain.as_str(), route);
        let Some(known) = self.directory.get(placed.site) else { return placed.site };
        let name: Arc<str> = known.name.as_str().into();
        let limits = known.limits.clone();
        if let Some(site) = self.sites.get_mut(&placed.site) {
            if placed.changed {
                site.retune(name, limits);
            }
        } else {
            let line = Arc::new(Line::new(&limits.rates));
            let opens = Pace::new(&limits.connection_rates);
            let site = Site {
                name,
                limits,
                line,
                opens,
                routes: BTreeMap::new(),
                links: BTreeSet::new(),
                failing_since: None,
                shut_until: Timestamp(0),
                enough_until: Timestamp(0),
                enough: 0,
                why: String::new(),
                meter: Meter::default(),
            };
            self.sites.insert(placed.site, site);
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
            let counted = self.queues.get(&queue).map_or(0, |queue| queue.counted);
            lines.fresh = lines.fresh.saturating_sub(counted);
            if lines.queues.is_empty() {
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
        lines.fresh = (lines.fresh + fresh).saturating_sub(queue.counted);
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
            candidates.extend(lines.gathering.drain());
        }
        for id in candidates {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            if queue.in_line {
                continue;
            }
            let direct = is_direct(queue);
            if queue.due(now, if direct { Duration::ZERO } else { early }) > 0 {
                let key = &queue.backlog.key;
                let rule = self.config.tenants.iter().find(|t| t.name == key.tenant);
                let turns = if direct { &mut lines.direct } else { &mut lines.bulk };
                if turns.is_empty() {
                    lines.pressed = None;
                }
                turns.add(id, &key.tenant, &key.campaign, rule.map_or(1, |t| t.weight));
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
            return self.alarm(site.shut_until, Alarm::Site(id));
        }
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
        let lines = site.routes.values().filter(|lines| !lines.direct.is_empty());
        wanted.extend(lines.map(|lines| Arc::clone(&lines.route)));
        let at = site.line.next_at(Lane::Direct, now).before(AHEAD);
        if at > now {
            if !wanted.is_empty() {
                self.alarm(at, Alarm::Site(id));
            }
            return;
        }
        let opening =
            self.count_links(site, |l| l.state == LinkState::Opening && l.lane == Lane::Direct);
        for route in wanted.into_iter().skip(opening) {
            if !self.open(id, &route, Lane::Direct, now) {
                return;
            }
        }
    }

    /// One connection for each connection's worth, less those that are at it.
    fn open_for_bulk(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        if let Some((at, _)) = site.line.binding(now) {
            if site.routes.values().any(|r| !r.bulk.is_empty()) {
                self.alarm(at, Alarm::Site(id));
            }
            return;
        }
        let worth = u64::from(site.limits.deliveries_per_connection);
        let mut wanted: Vec<(Arc<Route>, u64)> = Vec::new();
        for lines in site.routes.values().filter(|lines| !lines.bulk.is_empty()) {
            wanted.push((Arc::clone(&lines.route), lines.fresh.div_ceil(worth).max(1)));
        }
        for (route, count) in wanted {
            let Some(site) = self.sites.get(&id) else { return };
            let at_it = self.count_links(site, |l| {
                l.lane == Lane::Bulk
                    && l.state != LinkState::Idle
                    && l.route.addresses == route.addresses
            });
            let at_it = u64::try_from(at_it).unwrap_or(u64::MAX);
            let count = if at_it >= count { at_it + self.press(id, &route, now) } else { count };
            for _ in at_it..count {
                if !self.open(id, &route, Lane::Bulk, now) {
                    break;
                }
            }
        }
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

    /// Opens a connection unless a limit says no.
    fn open(&mut self, id: SiteId, route: &Arc<Route>, lane: Lane, now: Timestamp) -> bool {
        let Some(site) = self.sites.get(&id) else { return false };
        if site.enough_until > now && site.links.len() >= site.enough {
            self.alarm(site.enough_until, Alarm::Site(id));
            return false;
        }
        // A site that failed is probed by one connection until something was delivered.
        let most = if site.failing_since.is_some() { 1 } else { site.limits.connections as usize };
        let bulk = self.count_links(site, |l| l.lane == Lane::Bulk && l.state != LinkState::Idle);
        if lane == Lane::Bulk && bulk >= bulk_connections(&site.limits) {
            return false;
        }
        if site.links.len() >= most {
            // One that idles, to addresses that are no use here, makes room.
            if let Some(link) = site.links.iter().copied().find(|l| self.is_idle_link(*l)) {
                self.quit(link);
            }
            return false;
        }
        let in_all = self.config.delivery.connections;
        let in_all = if lane == Lane::Bulk { in_all - in_all / RESERVED_IN_ALL } else { in_all };
        if self.links.len() >= in_all {
            self.starved.insert(id);
            return false;
        }
        if let Some(Err(at)) = self.sites.get_mut(&id).map(|site| site.opens.begin(lane, now)) {
            self.alarm(at, Alarm::Site(id));
            return false;
        }
        let Some(site) = self.sites.get(&id) else { return false };
        let hops = hops(&route.hosts, self.config.delivery.hosts_max, &mut self.rng);
        let (site_name, limits, line) =
            (Arc::clone(&site.name), site.limits.clone(), Arc::clone(&site.line));
        let link = self.add_link(id, Arc::clone(route), lane, limits.deliveries_per_connection);
        self.commands.push(Command::Open(Opening { link, site: site_name, limits, hops, line }));
        true
    }

    /// How many connections may be busy with bulk mail, and whether one more may be.
    pub(super) fn has_room_for_bulk(&self, site: &Site) -> bool {
        let busy = self.count_links(site, |l| l.lane == Lane::Bulk && l.state != LinkState::Idle);
        busy < bulk_connections(&site.limits)
    }

    /// How far ahead of its due time a route's gathering mail may be taken.
    pub(super) fn early_at(&self, site: &Site, key: &[IpAddr]) -> Duration {
        let gather = self.config.lanes.gather;
        site.routes.get(key).map_or(Duration::ZERO, |lines| early(lines, &site.limits, gather))
    }

    /// A connection was refused or lost before it delivered anything.
    pub(super) fn trouble(&mut self, id: SiteId, why: String, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        let others = self.count_links(site, |l| l.state != LinkState::Opening);
        let Some(site) = self.sites.get_mut(&id) else { return };
        if why.is_empty() {
            (site.enough_until, site.enough) = (now.after(CROWDED), 0);
        } else if others > 0 {
            (site.enough_until, site.enough) = (now.after(ENOUGH), others);
            site.why = why;
        } else {
            let since = *site.failing_since.get_or_insert_with(|| {
                self.commands.push(Command::Unreachable(Arc::clone(&site.name), why.clone()));
                now
            });
            let pause = (now.since(since) / SHUT_SHARE).clamp(SHUT_MIN, SHUT_MAX);
            site.shut_until = now.after(pause);
            site.why = why;
            let verdict = shut(&site.why);
            for job in site.line.clear() {
                self.commands.push(Command::Conclude(job, verdict.clone()));
            }
        }
        self.touched.insert(id);
    }

    /// Deliveries were done.
    pub(super) fn success(&mut self, id: SiteId, count: u32, now: Timestamp) {
        if let Some(site) = self.sites.get_mut(&id)
            && count > 0
        {
            site.meter.add(u64::from(count), now);
            if let Some(since) = site.failing_since.take() {
                self.commands.push(Command::Recovered(Arc::clone(&site.name), now.since(since)));
            }
            if site.enough_until <= now {
                site.why.clear();
            }
        }
    }

    /// Why mail waits at a site.
    pub(super) fn why(&self, id: SiteId) -> String {
        self.sites.get(&id).map_or_else(String::new, |site| site.why.clone())
    }

    pub(super) fn sweep_sites(&mut self, now: Timestamp) {
        let used = self.sites_of_domains();
        let unused: Vec<SiteId> = self
            .sites
            .iter()
            .filter(|(id, site)| {
                site.routes.is_empty()
                    && site.links.is_empty()
                    && site.line.is_empty()
                    && site.shut_until <= now
                    // What was used of its rates counts when mail comes again.
                    && site.line.is_rested(now)
                    && site.opens.is_rested(now)
                    && !used.contains(id)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in unused {
            self.sites.remove(&id);
            self.directory.forget(id);
        }
    }
}

pub(super) fn bulk_connections(limits: &Limits) -> usize {
    limits.connections.saturating_sub(limits.reserved_for_direct).max(1) as usize
}

/// Mail that gathers is taken at once where there is a connection's worth of it.
fn early(lines: &Lines, limits: &Limits, gather: Duration) -> Duration {
    if lines.fresh >= u64::from(limits.deliveries_per_connection) { gather } else { Duration::ZERO }
}

fn shut(why: &str) -> Verdict {
    Verdict {
        ruling: Ruling::Retry,
        blame: Some(Blame::Site),
        status: EnhancedCode(4, 4, 1),
        text: why.to_string(),
        is_reply: false,
    }
}
