//! Connections as the dispatcher sees them: opening, busy in a lane, or idle.

use super::queues::{Queue, claim, is_direct};
use super::sites::Site;
use super::{AHEAD, Alarm, BATCH, BATCH_MIN, Command, Core, LinkId, PRESSED};
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::line::{Way, WayKey};
use crate::mail::message::Lane;
use crate::policy::schedule::{Plan, Planned};
use crate::policy::site::SiteId;
use crate::policy::source::Source;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// One connection.
pub(super) struct Link {
    pub(super) site: SiteId,
    /// What it was opened for.
    pub(super) way: Way,
    pub(super) source: Arc<Source>,
    pub(super) address: Option<IpAddr>,
    /// What it is busy with, or opened for.
    pub(super) lane: Lane,
    pub(super) state: LinkState,
    /// Deliveries it may still take, beside those that it has.
    pub(super) room: u32,
    /// Claims that it was given.
    claims: u32,
    /// It was told of a job in line, and has not said anything since.
    woken: bool,
    /// It has delivered something.
    useful: bool,
}

impl Link {
    /// True where it stands, and mail of this way may go over it.
    pub(super) fn serves(&self, way: &Way) -> bool {
        self.address.is_some_and(|address| way.serves(self.source.id, address))
    }

    /// True where it has bulk mail, or is opened or ends for some.
    pub(super) fn carries_bulk(&self) -> bool {
        self.lane == Lane::Bulk && self.state != LinkState::Idle
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Opening,
    Busy,
    Idle,
    /// Told to quit.
    Ending,
}

impl Core {
    pub(super) fn add_link(
        &mut self,
        site: SiteId,
        (way, source): (Way, Arc<Source>),
        lane: Lane,
        room: u32,
    ) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let state = LinkState::Opening;
        let (address, claims, woken, useful) = (None, 0, false, false);
        let link = Link { site, way, source, address, lane, state, room, claims, woken, useful };
        self.links.insert(id, link);
        if let Some(site) = self.sites.get_mut(&site) {
            site.links.insert(id);
        }
        id
    }

    pub(super) fn count_links(&self, site: &Site, test: impl Fn(&Link) -> bool) -> usize {
        site.links.iter().filter_map(|l| self.links.get(l)).filter(|l| test(l)).count()
    }

    pub(super) fn is_idle_link(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|l| l.state == LinkState::Idle)
    }

    pub(super) fn quit(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.state = LinkState::Ending;
            self.commands.push(Command::Quit(id));
        }
    }

    /// It stands; it looks at the line by itself and then says what it wants.
    pub(super) fn opened(&mut self, id: LinkId, address: IpAddr, now: Timestamp) {
        if let Some(link) = self.links.get_mut(&id) {
            link.address = Some(address);
            link.state = LinkState::Busy;
            let (site, way) = (link.site, link.way.clone());
            self.note_answer(site, &way, true, now);
            self.others_stand(site, now);
        }
    }

    pub(super) fn not_opened(&mut self, id: LinkId, why: String, now: Timestamp) {
        let Some(Link { site, source, way, .. }) = self.remove_link(id) else { return };
        let stopped = self.sites.get(&site).and_then(|site| site.line.stopped(&source, now));
        if stopped.is_some() {
            // It was refused for its source's sake: no trouble of the site, others may go on.
            self.touched.insert(site);
        } else if why.is_empty() {
            self.crowded(site, source.id, now);
        } else {
            self.note_answer(site, &way, false, now);
            self.trouble(site, why, now);
        }
    }

    /// It takes nothing more; to the receiver it may be gone already.
    pub(super) fn leaving(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.state = LinkState::Ending;
        }
    }

    /// It has delivered something.
    pub(super) fn did(&mut self, id: LinkId, done: u32, now: Timestamp) {
        if let Some(link) = self.links.get_mut(&id) {
            link.useful |= done > 0;
            let (site, source) = (link.site, link.source.id);
            self.success(site, source, done, now);
        }
    }

    pub(super) fn wants(&mut self, id: LinkId, room: u32, idle: bool, claims: u32, now: Timestamp) {
        let known = |link: &&mut Link| link.claims == claims;
        let Some(link) = self.links.get_mut(&id).filter(known) else { return };
        link.room = room;
        let site = link.site;
        if std::mem::take(&mut link.woken)
            && let Some(site) = self.sites.get(&site)
        {
            site.line.forget(id);
        }
        if idle && link.state != LinkState::Ending {
            link.state = LinkState::Idle;
            self.touched.insert(site);
        } else if link.state == LinkState::Busy && link.lane == Lane::Bulk {
            // It still has something to send: only more of the same is worth a claim.
            self.give(id, now);
        }
    }

    pub(super) fn closed(
        &mut self,
        id: LinkId,
        done: u32,
        trouble: Option<String>,
        now: Timestamp,
    ) {
        let Some(Link { site, source, useful, .. }) = self.remove_link(id) else { return };
        self.has_ended(site, now);
        self.success(site, source.id, done, now);
        let useful = useful || done > 0;
        match trouble {
            Some(why) if !useful => self.trouble(site, why, now),
            _ => self.touched.insert(site),
        }
    }

    fn remove_link(&mut self, id: LinkId) -> Option<Link> {
        let link = self.links.remove(&id)?;
        if let Some(site) = self.sites.get_mut(&link.site) {
            site.links.remove(&id);
            site.line.forget(id);
        }
        Some(link)
    }

    /// Gives a connection something to do: the line, else queued direct mail, else bulk mail.
    pub(super) fn give(&mut self, id: LinkId, now: Timestamp) {
        let Some(link) = self.links.get(&id) else { return };
        let (Some(address), room) = (link.address, link.room.min(BATCH)) else { return };
        let id_of_site = link.site;
        let Some(site) = self.sites.get(&id_of_site) else { return };
        let was_bulk = link.lane == Lane::Bulk && link.state == LinkState::Busy;
        let (source, way) = (Arc::clone(&link.source), link.way.clone());
        let may_take = link.state == LinkState::Idle && link.room > 0;
        let for_line = site.line.serves_at(&source, address, now);
        if let Some(at) = for_line.filter(|_| may_take) {
            if at <= now {
                site.line.wake(id);
                self.set_busy(id, Lane::Direct);
                if let Some(link) = self.links.get_mut(&id) {
                    link.woken = true;
                }
                return self.commands.push(Command::Wake(id));
            }
            self.alarms.insert((at, Alarm::Site(id_of_site)));
        }
        let may_bulk = if was_bulk {
            !self.is_ahead(site, &way, now)
        } else {
            self.has_room_for_bulk(site) && self.has_room_for_bulk_from(site, source.id)
        };
        let waits = may_bulk && !was_bulk && self.is_due_elsewhere(site, link, now);
        if waits {
            self.alarms.insert((now.after(PRESSED), Alarm::Site(id_of_site)));
        }
        let may_bulk = may_bulk && !waits;
        // What its source may not send for a while may go from another.
        let rests = site.line.next_from(&source, Lane::Direct, now) > now.after(AHEAD);
        let for_direct = if rests { 0 } else { room };
        let for_bulk = if may_bulk {
            let paced = site.line.available(&source, Lane::Bulk, now, room);
            paced.min(self.even_share(site, id, &way))
        } else {
            0
        };
        for (lane, room) in [(Lane::Direct, for_direct), (Lane::Bulk, for_bulk)] {
            if let Some((plan, early)) =
                self.plan_for(id_of_site, (&source, address, &way), lane, room, now)
            {
                let planned = plan.iter().map(|(_, n)| n).sum();
                let mut claim = claim(plan, planned, now);
                claim.fresh_until = now.after(early);
                self.promise(&claim.queues, now);
                // It may still have newsletters, which count until they are gone.
                self.set_busy(id, if was_bulk { Lane::Bulk } else { lane });
                if let Some(link) = self.links.get_mut(&id) {
                    link.room = link.room.saturating_sub(planned);
                    link.claims = link.claims.wrapping_add(1);
                }
                return self.commands.push(Command::Claim(id, claim));
            }
        }
    }

    /// What is left of a way's newsletters, by this connection and the others at it: so that they
    /// end together, and the last batch of one does not hold up what others could send.
    fn even_share(&self, site: &Site, id: LinkId, way: &Way) -> u32 {
        let own = way.key();
        let left = site.ways.get(&own).map_or(0, |lines| lines.fresh.total);
        if left == 0 {
            return BATCH;
        }
        let others = site.links.iter().filter(|other| **other != id);
        let at_it = |link: &&Link| link.carries_bulk() && link.way.key() == own;
        let others = others.filter_map(|id| self.links.get(id)).filter(at_it).count();
        let share = left.div_ceil(others as u64 + 1);
        u32::try_from(share).unwrap_or(BATCH).clamp(BATCH_MIN, BATCH)
    }

    fn set_busy(&mut self, id: LinkId, lane: Lane) {
        if let Some(link) = self.links.get_mut(&id) {
            (link.state, link.lane) = (LinkState::Busy, lane);
        }
    }

    /// From the first way of the site that the connection serves and that has mail of the lane.
    fn plan_for(
        &mut self,
        id: SiteId,
        (source, address, way): (&Source, IpAddr, &Way),
        lane: Lane,
        room: u32,
        now: Timestamp,
    ) -> Option<(Plan, Duration)> {
        if room == 0 {
            return None;
        }
        let site = self.sites.get(&id)?;
        let mut keys: Vec<WayKey> = site
            .ways
            .iter()
            .filter(|(_, lines)| {
                !lines.turns.of(lane).is_empty() && lines.way.serves(source.id, address)
            })
            .map(|(key, _)| key.clone())
            .collect();
        // What the connection was opened for goes first.
        let own = way.key();
        keys.sort_by_key(|key| *key != own);
        for key in keys {
            let site = self.sites.get(&id)?;
            let early = if lane == Lane::Bulk { self.early_at(site, &key) } else { Duration::ZERO };
            let allowed = self.allowances(site, &key, lane, now);
            let may = |tenant: &str| allowed.get(tenant).copied().unwrap_or(u32::MAX);
            let queues = &self.queues;
            let here = |queue: &Queue| queue.stands_at(id, &key);
            let due = |queue: QueueId| match queues.get(&queue) {
                Some(q) if here(q) => q.due(now, early),
                _ => 0,
            };
            let site = self.sites.get_mut(&id)?;
            let lines = site.ways.get_mut(&key)?;
            let (turns, shares) = (lines.turns.of_mut(lane), site.shares.of_mut(lane));
            let Planned { plan, gone } = turns.plan(room, due, may, shares);
            for queue in gone {
                if let Some(q) = self.queues.get_mut(&queue)
                    && here(q)
                    && is_direct(q) == (lane == Lane::Direct)
                {
                    q.in_line = false;
                }
            }
            let plan = self.without_suspended(plan, now);
            if !plan.is_empty() {
                return Some((plan, early));
            }
        }
        None
    }

    /// A suspension holds at once, also where there are so many queues that not all have been
    /// looked at since it came.
    pub(super) fn without_suspended(&mut self, mut plan: Plan, now: Timestamp) -> Plan {
        if self.looks.are_behind() {
            plan.iter().for_each(|(queue, _)| self.mind_suspensions(*queue, now));
            plan.retain(|(id, _)| self.queues.get(id).is_some_and(|queue| !queue.suspended));
        }
        plan
    }
}
