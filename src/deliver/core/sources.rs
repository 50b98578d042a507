//! From which of its sources mail goes to a site: from the one that has fewest connections there,
//! of those that the site takes mail from.
//!
//! Of equals it is always the same one at one site, so that a small receiver knows who comes:
//! greylisting waits for the address that it has seen.
//!
//! What a receiver says of the only source there is, it says of all our mail.

use super::links::Link;
use super::opens::Reached;
use super::sites::{Site, shut};
use super::{AHEAD, Command, Core, LinkId};
use crate::base::time::Timestamp;
use crate::deliver::line::{Way, WayKey};
use crate::mail::message::Lane;
use crate::policy::site::{Limit, SiteId};
use crate::policy::source::{Source, SourceId};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

impl Core {
    /// The source of a new connection for mail of this way.
    ///
    /// # Errors
    /// What the first of them to become free waits for.
    pub(super) fn choose_source(
        &self,
        site: &Site,
        way: &Way,
        lane: Lane,
        now: Timestamp,
    ) -> Result<Arc<Source>, Reached> {
        let mut free = Vec::new();
        let mut first: Option<Reached> = None;
        for source in self.config.sources.of(&way.pool) {
            match self.links_if_free(site, way, source, lane, now) {
                Ok(links) => free.push((links, order(&site.name, source.id), source)),
                Err(reached) => {
                    let at = |(_, until): Reached| until.unwrap_or(Timestamp::NEVER);
                    first = first.filter(|first| at(*first) <= at(reached)).or(Some(reached));
                }
            }
        }
        let chosen = free.into_iter().min_by_key(|(links, order, _)| (*links, *order));
        chosen.map(|(.., source)| Arc::clone(source)).ok_or(first.unwrap_or((Limit::Source, None)))
    }

    /// How many connections to the site there are from a source from which one more may be opened.
    fn links_if_free(
        &self,
        site: &Site,
        way: &Way,
        source: &Source,
        lane: Lane,
        now: Timestamp,
    ) -> Result<usize, Reached> {
        if !reaches(source, way) {
            return Err((Limit::Source, None));
        }
        if let Some(until) = site.crowded.get(&source.id).filter(|until| **until > now) {
            return Err((Limit::Connections, Some(*until)));
        }
        let ahead = if lane == Lane::Direct { now.after(AHEAD) } else { now };
        match site.line.rests(source, lane, now) {
            // A connection that stands by then does not have to be waited for.
            Some((at, Limit::Rate)) if at <= ahead => {}
            Some((at, limit)) => return Err((limit, Some(at))),
            None => {}
        }
        let links = self.count_links(site, |link| link.source.id == source.id);
        let most = site.limits.connections_per_source as usize;
        if links >= most || lane == Lane::Bulk && !self.has_room_for_bulk_from(site, source.id) {
            return Err((Limit::Connections, None));
        }
        Ok(links)
    }

    /// A connection that idles, is no use to mail of this way, and alone keeps its source from
    /// opening one that is.
    pub(super) fn idle_in_the_way(
        &self,
        site: &Site,
        way: &Way,
        lane: Lane,
        now: Timestamp,
    ) -> Option<LinkId> {
        let is_meant = |link: &Link| {
            let source = &link.source;
            let may_open = way.pool.has(source.id)
                && reaches(source, way)
                && site.crowded.get(&source.id).is_none_or(|until| *until <= now)
                && site.line.rests(source, lane, now).is_none();
            let is_full = lane == Lane::Bulk && !self.has_room_for_bulk_from(site, source.id);
            may_open && !is_full && !link.serves(way)
        };
        let mut idle = site.links.iter().copied().filter(|link| self.is_idle_link(*link));
        idle.find(|link| self.links.get(link).is_some_and(is_meant))
    }

    /// Whether one more connection from this source may be busy with bulk mail: direct mail finds
    /// as many free from each source as it does in all.
    pub(super) fn has_room_for_bulk_from(&self, site: &Site, source: SourceId) -> bool {
        let is_busy = |link: &Link| link.source.id == source && link.carries_bulk();
        self.count_links(site, is_busy) < site.bulk_connections_per_source() as usize
    }

    /// Why mail of this way is not to wait in memory: the site refuses all of its sources for now,
    /// or none of them reaches it.
    pub(super) fn has_no_source(&self, site: &Site, way: &Way, now: Timestamp) -> Option<String> {
        let mut why = None;
        for source in self.config.sources.of(&way.pool) {
            let name = &source.name;
            let reason = match site.line.stopped(source, now) {
                _ if !reaches(source, way) => {
                    format!("source {name} has no address of the family of its hosts")
                }
                Some((until, said)) => format!("{said} (source {name} rests until {until})"),
                None => return None,
            };
            why.get_or_insert(reason);
        }
        why
    }

    /// The site wants nothing from a source for now: its connections end, and what may go from no
    /// other waits. Where all sources are refused, the site's gate is shut.
    pub(super) fn source_stopped(&mut self, id: SiteId, source: SourceId, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        let is_meant = |link: &&LinkId| self.links.get(link).is_some_and(|l| l.source.id == source);
        let ending: Vec<LinkId> = site.links.iter().filter(is_meant).copied().collect();
        let stops: Option<Vec<_>> =
            self.config.sources.iter().map(|source| site.line.stopped(source, now)).collect();
        if let Some((until, why)) = stops.and_then(|all| all.into_iter().min_by_key(|(at, _)| *at))
        {
            return self.stop(id, why, until, now);
        }
        ending.into_iter().for_each(|link| self.quit(link));
        let Some(site) = self.sites.get(&id) else { return };
        // Asked of the line before it is changed: both lock it.
        let refused: BTreeMap<WayKey, String> = (site.line.ways(usize::MAX).iter())
            .filter_map(|way| Some((way.key(), self.has_no_source(site, way, now)?)))
            .collect();
        for (way, why) in refused {
            for job in site.line.take_out(|of| of.key() == way) {
                self.commands.push(Command::Conclude(job, shut(&why)));
            }
        }
    }
}

/// True where the source has an address of the family of one of the way's.
fn reaches(source: &Source, way: &Way) -> bool {
    way.route.addresses.iter().any(|address| source.reaches(*address))
}

/// Which of equal sources is the first at a site: another one at each site, and always the same.
fn order(site: &str, source: SourceId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (site, source).hash(&mut hasher);
    hasher.finish()
}
