//! How many connections a site's mail deserves, and which mail they are opened for.

use super::links::{Link, LinkState};
use super::sites::{Lines, Site};
use super::{AHEAD, Alarm, BATCH, Command, Core, LinkId, Opening, PRESSED};
use crate::base::time::Timestamp;
use crate::deliver::line::{Way, WayKey};
use crate::mail::message::Lane;
use crate::policy::paces::What;
use crate::policy::shares::Shares;
use crate::policy::site::route::hops;
use crate::policy::site::{Limit, Limits, SiteId};
use crate::policy::source::Pool;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Deliveries that a tenant may be ahead of another at the same site, whose mail goes to other
/// hosts.
const AHEAD_MAX: u32 = BATCH;
/// Hosts to which no connection could be opened are given no other's for so long.
const FAILS: Duration = Duration::from_secs(30);
/// Share of all connections that bulk mail never takes.
const RESERVED_IN_ALL: usize = 10;

/// A way whose bulk mail wants connections. The next one goes to the way with the tenant that
/// had least, and among its equals to the one that has fewest: none waits until another has all
/// it wants.
struct Want {
    /// Where that tenant stands.
    stands: u64,
    /// Connections that are at its mail.
    at_it: u64,
    /// How many should be.
    count: u64,
    /// Whether its hosts answer.
    answers: bool,
    /// How many more where it waits for long: as many as are at it, if each finds a claim's worth.
    pressed: u64,
    way: Way,
}

/// A limit that holds mail back, and until when where that is known.
pub(super) type Reached = (Limit, Option<Timestamp>);

/// Why no connection is opened.
enum Refused {
    /// For any mail of the site.
    All(Reached),
    /// For mail that has the same sources to choose from; other mail may have one.
    Same(Reached),
}

impl Core {
    /// One connection for each waiting direct job or queue that no opening one is meant for.
    pub(super) fn open_for_direct(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        let mut wanted: Vec<Way> = self.not_taken(site);
        let may = |lines: &&Lines| self.may_any(site, lines, Lane::Direct, now);
        let lines = site.ways.values().filter(may);
        wanted.extend(lines.map(|lines| lines.way.clone()));
        let none_may = wanted.is_empty() && site.ways.values().any(|l| !l.turns.direct.is_empty());
        let mut waits = none_may.then_some((Limit::Tenant, None));
        let at = site.line.next_at(Lane::Direct, now).before(AHEAD);
        if at > now {
            if !wanted.is_empty() {
                waits = Some((Limit::Rate, Some(at.after(AHEAD))));
                self.alarm(at, Alarm::Site(id));
            }
            return self.waits_for(id, Lane::Direct, waits, now);
        }
        let mut opening: Vec<WayKey> = self.opening_for_direct(site);
        let mut refused = BTreeSet::new();
        for way in wanted {
            if let Some(at) = opening.iter().position(|key| *key == way.key()) {
                opening.swap_remove(at);
                continue;
            }
            if refused.contains(&way.choice()) {
                continue;
            }
            match self.open(id, &way, Lane::Direct, now) {
                Ok(()) => {}
                Err(Refused::Same(limit)) => {
                    waits = Some(limit);
                    refused.insert(way.choice());
                    self.release_what_rests(id, &way, limit, now);
                    self.give_way(id, &way, limit);
                }
                Err(Refused::All(limit)) => {
                    waits = Some(limit);
                    self.give_way(id, &way, limit);
                    break;
                }
            }
        }
        self.waits_for(id, Lane::Direct, waits, now);
    }

    /// Direct mail in line that none of its sources may send for longer than a connection idles
    /// waits in the store, as it does where one had taken it: without room in memory.
    fn release_what_rests(&mut self, id: SiteId, way: &Way, reached: Reached, now: Timestamp) {
        let patience = self.config.delivery.idle_timeout.max(AHEAD);
        let Some(site) = self.sites.get(&id) else { return };
        if let (Limit::Source | Limit::Rate, Some(at)) = reached
            && at > now.after(patience)
        {
            for job in site.line.take_out(|of| of.choice() == way.choice()) {
                self.commands.push(Command::Release(job.transaction.leases()));
            }
        }
    }

    /// The ways of the jobs in line, but for those that connections just told of them will take.
    fn not_taken(&self, site: &Site) -> Vec<Way> {
        let mut ways = site.line.ways(site.limits.connections as usize);
        for link in site.line.woken().iter().filter_map(|id| self.links.get(id)) {
            if let Some(at) = ways.iter().position(|way| link.serves(way)) {
                ways.remove(at);
            }
        }
        ways
    }

    /// What the connections that are being opened for direct mail are meant for.
    fn opening_for_direct(&self, site: &Site) -> Vec<WayKey> {
        let links = site.links.iter().filter_map(|link| self.links.get(link));
        let is_opening = |l: &&Link| l.state == LinkState::Opening && l.lane == Lane::Direct;
        links.filter(is_opening).map(|link| link.way.key()).collect()
    }

    /// One connection for each connection's worth that those at it will not take any more.
    pub(super) fn open_for_bulk(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        if let Some((at, _)) = site.line.binding(What::Message, now) {
            let waits = site.ways.values().any(|r| !r.turns.bulk.is_empty());
            if waits {
                self.alarm(at, Alarm::Site(id));
            }
            let waits = waits.then_some((Limit::Rate, Some(at)));
            return self.waits_for(id, Lane::Bulk, waits, now);
        }
        let worth = Shares::worth(u64::from(site.limits.deliveries_per_connection));
        let (mut wants, mut waits) = self.wanted(site, now);
        for want in wants.iter_mut().filter(|want| want.at_it > 0) {
            if self.is_pressed(id, &want.way, now) {
                want.count += want.pressed;
            }
        }
        let mut refused = BTreeSet::new();
        while let Some(want) = wants
            .iter_mut()
            .filter(|want| want.at_it < want.count && !refused.contains(&want.way.choice()))
            .min_by_key(|want| (want.stands, want.at_it))
        {
            match self.open(id, &want.way, Lane::Bulk, now) {
                Ok(()) => {
                    want.at_it += 1;
                    want.stands = want.stands.saturating_add(worth);
                }
                Err(Refused::Same(limit)) => {
                    waits = Some(limit);
                    refused.insert(want.way.choice());
                }
                Err(Refused::All(limit)) => {
                    waits = Some(limit);
                    break;
                }
            }
        }
        for want in wants.iter().filter(|want| want.at_it >= want.count) {
            self.relieve(id, &want.way, now);
        }
        self.waits_for(id, Lane::Bulk, waits, now);
    }

    /// What a site's ways want, and what their mail waits for where that is nothing.
    fn wanted(&self, site: &Site, now: Timestamp) -> (Vec<Want>, Option<Reached>) {
        let worth = u64::from(site.limits.deliveries_per_connection);
        // How many, and what they will take beside what they have.
        let mut at_it: HashMap<(&[IpAddr], &Pool), (u64, u64)> = HashMap::new();
        for link in site.links.iter().filter_map(|link| self.links.get(link)) {
            if link.carries_bulk() {
                let Way { route, pool } = &link.way;
                let (count, room) = at_it.entry((&route.addresses, pool)).or_default();
                *count += 1;
                *room += u64::from(link.room);
            }
        }
        let several = site.ways.len() > 1 && self.has_room_for_bulk(site);
        let (mut wants, mut waits) = (Vec::new(), None);
        for lines in site.ways.values().filter(|lines| !lines.turns.bulk.is_empty()) {
            let mail = self.fresh(site, lines, now);
            if mail == 0 && !self.may_any(site, lines, Lane::Bulk, now) {
                waits = waits.or(Some((Limit::Tenant, None)));
                continue;
            }
            waits = Some((Limit::Turn, None));
            let Way { route, pool } = &lines.way;
            let (at_it, room) = at_it.get(&(&*route.addresses, pool)).copied().unwrap_or_default();
            wants.push(Want {
                stands: if several { self.stands(site, lines, now) } else { 0 },
                at_it,
                count: (at_it + mail.saturating_sub(room).div_ceil(worth)).max(1),
                pressed: at_it.min(mail.div_ceil(u64::from(BATCH))).max(1),
                answers: lines.fails_until <= now,
                way: lines.way.clone(),
            });
        }
        (wants, waits)
    }

    /// True where all who have mail for this way had so much more of the site than somebody with
    /// mail for another that a connection makes room for that one.
    pub(super) fn is_ahead(&self, site: &Site, way: &Way, now: Timestamp) -> bool {
        let lines = site.ways.get(&way.key()).filter(|_| site.ways.len() > 1);
        let (Some(lines), Some(least)) = (lines, site.shares.bulk.least()) else { return false };
        let much = Shares::worth(u64::from(AHEAD_MAX));
        !lines.turns.bulk.is_empty() && self.stands(site, lines, now) > least + much
    }

    /// True where an idle connection makes room for one to other hosts. One after the other, so
    /// that shares follow.
    pub(super) fn yields(&self, id: SiteId, link: LinkId, now: Timestamp) -> bool {
        let (Some(site), Some(link)) = (self.sites.get(&id), self.links.get(&link)) else {
            return false;
        };
        let changes = |l: &Link| matches!(l.state, LinkState::Opening | LinkState::Ending);
        let is_full = site.links.len() >= site.most(Lane::Bulk) as usize;
        is_full
            && site.crowd.until <= now
            && site.line.is_empty()
            && self.has_room_for_bulk(site)
            && self.count_links(site, changes) == 0
            && self.is_due_elsewhere(site, link, now)
    }

    /// True where who has mail for a connection's own hosts had much more of the site than somebody
    /// with mail for others, which answer and are to have more connections.
    pub(super) fn is_due_elsewhere(&self, site: &Site, link: &Link, now: Timestamp) -> bool {
        let own = site.ways.get(&link.way.key()).filter(|_| self.is_ahead(site, &link.way, now));
        let Some(own) = own else { return false };
        let own = self.stands(site, own, now);
        let much = Shares::worth(u64::from(AHEAD_MAX));
        let may_open = |want: &Want| {
            want.answers
                && site.line.binding(What::Connection, now).is_none()
                && self.has_no_source(site, &want.way, now).is_none()
        };
        let is_behind = |want: &Want| {
            want.stands.saturating_add(much) < own
                && want.at_it < want.count
                && (want.at_it > 0 || may_open(want))
        };
        let (wants, _) = self.wanted(site, now);
        wants.iter().any(|want| is_behind(want) && !link.serves(&want.way))
    }

    /// Where the tenant stands that had least of the site's bulk turns, of those with mail for a
    /// route.
    fn stands(&self, site: &Site, lines: &Lines, now: Timestamp) -> u64 {
        let may =
            lines.turns.bulk.tenants().filter(|t| self.allowance(site, t, Lane::Bulk, now) > 0);
        may.map(|tenant| site.shares.bulk.of(tenant)).min().unwrap_or(u64::MAX)
    }

    /// True where a way's mail has waited for a while although connections are at it.
    fn is_pressed(&mut self, id: SiteId, way: &Way, now: Timestamp) -> bool {
        let Some(lines) = self.lines_mut(id, way) else { return false };
        let until = lines.pressed.get_or_insert(now).after(PRESSED);
        if until > now {
            self.alarm(until, Alarm::Site(id));
        }
        until <= now
    }

    /// It has as many connections as it wants: whether it wants more is seen after a while.
    fn relieve(&mut self, id: SiteId, way: &Way, now: Timestamp) {
        let Some(lines) = self.lines_mut(id, way) else { return };
        if lines.pressed.is_some_and(|since| since.after(PRESSED) <= now) {
            lines.pressed = Some(now);
            self.alarm(now.after(PRESSED), Alarm::Site(id));
        }
    }

    /// Whether a connection for this way could be opened.
    pub(super) fn note_answer(&mut self, id: SiteId, way: &Way, ok: bool, now: Timestamp) {
        if let Some(lines) = self.lines_mut(id, way) {
            lines.fails_until = if ok { Timestamp(0) } else { now.after(FAILS) };
        }
    }

    fn lines_mut(&mut self, id: SiteId, way: &Way) -> Option<&mut Lines> {
        self.sites.get_mut(&id)?.ways.get_mut(&way.key())
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The limit that says no.
    fn open(&mut self, id: SiteId, way: &Way, lane: Lane, now: Timestamp) -> Result<(), Refused> {
        let all = |limit, until| Err(Refused::All((limit, until)));
        let Some(site) = self.sites.get(&id) else { return all(Limit::Gate, None) };
        if site.crowd.until > now && site.links.len() >= site.crowd.most {
            let until = site.crowd.until;
            self.alarm(until, Alarm::Site(id));
            return all(Limit::Connections, Some(until));
        }
        let (limit, until) = if site.is_window_the_limit(lane) {
            (Limit::Window, site.feedback.window.retry_at(now))
        } else {
            (Limit::Connections, None)
        };
        if lane == Lane::Bulk && !self.has_room_for_bulk(site) {
            return all(limit, until);
        }
        if site.links.len() >= site.most(lane) as usize {
            // One that idles, to addresses that are no use here, makes room.
            if let Some(link) = site.links.iter().copied().find(|l| self.is_idle_link(*l)) {
                self.quit(link);
            }
            return all(limit, until);
        }
        if let Some(at) = site.counts_until(now).filter(|_| lane == Lane::Bulk) {
            self.alarm(at, Alarm::Site(id));
            return all(limit, Some(at));
        }
        if self.links.len() >= self.most_in_all(lane) {
            self.starved.of_mut(lane).insert(id);
            return all(Limit::AllConnections, None);
        }
        let source = match self.choose_source(site, way, lane, now) {
            Ok(source) => source,
            Err((limit, until)) => {
                if let Some(link) = self.idle_in_the_way(site, way, lane, now) {
                    self.quit(link);
                }
                self.alarm(until.unwrap_or(Timestamp::NEVER), Alarm::Site(id));
                return Err(Refused::Same((limit, until)));
            }
        };
        if let Err(at) = site.line.begin_open(&source, lane, now) {
            self.alarm(at, Alarm::Site(id));
            return all(Limit::ConnectionRate, Some(at));
        }
        let hops = hops(&way.route.hosts, &source, self.config.delivery.hosts_max, &mut self.rng);
        let (name, line, mut limits) =
            (Arc::clone(&site.name), Arc::clone(&site.line), site.limits.clone());
        let most = site.feedback.spent.most(now).unwrap_or(u32::MAX);
        limits.deliveries_per_connection = limits.deliveries_per_connection.min(most);
        let (way, room) = (way.clone(), limits.deliveries_per_connection);
        let link = self.add_link(id, (way, Arc::clone(&source)), lane, room);
        let opening = Opening { link, site: name, limits, source, lane, hops, line };
        self.commands.push(Command::Open(opening));
        Ok(())
    }

    /// Direct mail does not wait until a connection that newsletters keep busy is used up: where
    /// none that stands can take it, and there is no room for another, one ends after its
    /// transaction.
    fn give_way(&mut self, id: SiteId, way: &Way, reached: Reached) {
        let is_full = matches!(reached, (Limit::Connections | Limit::Window, None));
        let Some(site) = self.sites.get(&id).filter(|_| is_full) else { return };
        let links = || site.links.iter().filter_map(|id| Some((*id, self.links.get(id)?)));
        let own = way.key();
        let may_take = |link: &Link| match link.state {
            LinkState::Ending => true,
            LinkState::Opening => link.way.key() == own,
            LinkState::Busy | LinkState::Idle => link.serves(way),
        };
        if links().any(|(_, link)| may_take(link)) {
            return;
        }
        let busy = links().filter(|(_, link)| link.lane == Lane::Bulk);
        if let Some((link, _)) = busy.max_by_key(|(_, link)| way.pool.has(link.source.id)) {
            self.quit(link);
        }
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
        let busy = self.count_links(site, Link::carries_bulk);
        busy < site.most_for_bulk() as usize
    }
}

impl Site {
    /// Connections that the site welcomes. Of a site that failed, one, until something was
    /// delivered.
    pub(super) fn window(&self) -> u32 {
        let most = if self.failing_since.is_some() { 1 } else { self.limits.connections };
        self.feedback.window.size(self.window_min, most)
    }

    /// Connections that may stand, so that one of the lane may be opened: direct mail does not wait
    /// until a window has opened for newsletters.
    pub(super) fn most(&self, lane: Lane) -> u32 {
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

    /// The same from any one source.
    pub(super) fn bulk_connections_per_source(&self) -> u32 {
        let Limits { connections_per_source, reserved_for_direct, .. } = self.limits;
        connections_per_source.saturating_sub(reserved_for_direct).max(1)
    }

    /// Until when the receiver still counts one that has ended, where that makes as many as it
    /// takes.
    fn counts_until(&self, now: Timestamp) -> Option<Timestamp> {
        let lag = self.feedback.window.lag(now);
        let spare = (self.most(Lane::Bulk) as usize).checked_sub(self.links.len() + 1)?;
        let until = self.ended.iter().rev().nth(spare)?.after(lag);
        (until > now).then_some(until)
    }

    /// True where what was learned keeps the lane below what the configuration allows.
    fn is_window_the_limit(&self, lane: Lane) -> bool {
        match lane {
            Lane::Bulk => self.window() < self.bulk_connections(),
            Lane::Direct => self.most(lane) < self.limits.connections,
        }
    }

    /// Connections that may be busy with newsletters.
    pub(super) fn most_for_bulk(&self) -> u32 {
        self.window().min(self.bulk_connections())
    }
}
