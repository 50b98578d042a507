//! What connections report of a site, and what follows: its window, its gate, its rates.

use super::links::{Link, LinkState};
use super::sites::{Crowd, Site, shut};
use super::{Alarm, Command, Core, LinkId};
use crate::base::time::Timestamp;
use crate::policy::feedback::brake::Brake;
use crate::policy::feedback::learned::Learned;
use crate::policy::feedback::window::LAG_MAX;
use crate::policy::feedback::{Ask, Complaint, Whose};
use crate::policy::site::{Rate, SiteId};
use crate::policy::source::SourceId;
use std::sync::Arc;
use std::time::Duration;

/// How long a gate is shut after a failure: this share of the time that the site has failed, within
/// these bounds. So one that was away for a minute is found again in seconds.
const SHUT_SHARE: u32 = 8;
const SHUT_MIN: Duration = Duration::from_secs(5);
const SHUT_MAX: Duration = Duration::from_secs(300);
/// No further connection for so long where all addresses were at their limit, and no more than
/// there are where one was refused: others may close any moment.
const CROWDED: Duration = Duration::from_secs(1);
/// A site that took mail so short a time ago is not given up for one refusal.
const ALIVE: Duration = Duration::from_secs(5);

impl Core {
    /// Connections that the receiver counts for sure: neither being opened nor about to end.
    fn standing(&self, site: &Site) -> u32 {
        let stands = |link: &Link| !matches!(link.state, LinkState::Opening | LinkState::Ending);
        u32::try_from(self.count_links(site, stands)).unwrap_or(u32::MAX)
    }

    /// A connection was refused or lost before it delivered anything.
    pub(super) fn trouble(&mut self, id: SiteId, why: String, now: Timestamp) {
        let Some(site) = self.sites.get(&id) else { return };
        let others = self.standing(site);
        // Other attempts are under way; or it took mail a moment ago, and may still count the
        // connections that have just ended.
        let is_alive = site.succeeded_at <= now && now.since(site.succeeded_at) < ALIVE;
        let opening = self.count_links(site, |l| l.state == LinkState::Opening) > 0;
        let undecided = others == 0 && (opening || is_alive);
        let Some(site) = self.sites.get_mut(&id) else { return };
        let most = site.links.len();
        let crowd = |pause| Crowd { until: now.after(pause), most };
        if undecided {
            site.refused_beside = opening;
            site.crowd = crowd(CROWDED);
            site.why = why;
        } else if others > 0 {
            if !site.feedback.window.refused(others, now) {
                site.crowd = crowd(site.feedback.window.lag(now));
            }
            site.why = why;
        } else {
            let since = *site.failing_since.get_or_insert_with(|| {
                self.commands.push(Command::Unreachable(Arc::clone(&site.name), why.clone()));
                now
            });
            site.refused_beside = false;
            site.feedback.window.collapsed(now);
            let pause = (now.since(since) / SHUT_SHARE).clamp(SHUT_MIN, SHUT_MAX);
            self.shut(id, why, now.after(pause));
        }
        self.touched.insert(id);
    }

    /// One of its connections has ended.
    pub(super) fn has_ended(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        let is_old = |at: &mut Timestamp| now.since(*at) > LAG_MAX;
        while site.ended.pop_front_if(is_old).is_some() {}
        site.ended.push_back(now);
    }

    /// All addresses had as many connections from this source as they take: with those of other
    /// sites, which others may not have.
    pub(super) fn crowded(&mut self, id: SiteId, source: SourceId, now: Timestamp) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.crowded.retain(|_, until| *until > now);
        site.crowded.insert(source, now.after(CROWDED));
        self.touched.insert(id);
    }

    /// One was refused while this and others were still being opened: now it shows how many stand.
    pub(super) fn others_stand(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get(&id).filter(|site| site.refused_beside) else { return };
        if self.count_links(site, |l| l.state == LinkState::Opening) > 0 {
            return;
        }
        let stand = self.standing(site);
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.refused_beside = false;
        site.feedback.window.refused(stand, now);
    }

    /// Nothing goes to the site before `until`; direct mail in hand is deferred.
    fn shut(&mut self, id: SiteId, why: String, until: Timestamp) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.shut_until = site.shut_until.max(until);
        site.why = why;
        let verdict = shut(&site.why);
        for job in site.line.clear() {
            self.commands.push(Command::Conclude(job, verdict.clone()));
        }
    }

    /// Deliveries were done, from this source.
    pub(super) fn success(&mut self, id: SiteId, source: SourceId, count: u32, now: Timestamp) {
        let Some(site) = self.sites.get(&id).filter(|_| count > 0) else { return };
        let used = self.standing(site);
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.meter.add(source, u64::from(count), now);
        site.succeeded_at = now;
        if let Some(since) = site.failing_since.take() {
            self.commands.push(Command::Recovered(Arc::clone(&site.name), now.since(since)));
        }
        if site.feedback.window.delivered(used, site.limits.connections, now) {
            self.touched.insert(id);
        }
        if site.feedback.window.retry_at(now).is_none() && site.feedback.brake.is_none() {
            site.why.clear();
        }
    }

    /// A receiver asks for less, by a reply on this connection.
    pub(super) fn complained(&mut self, link: LinkId, complaint: Complaint, now: Timestamp) {
        let Some(link) = self.links.get(&link) else { return };
        let (id, source) = (link.site, link.source.id);
        let Some(site) = self.sites.get_mut(&id) else { return };
        let floor = self.config.delivery.learned_rate_min.map_or(1, Rate::per_hour);
        self.touched.insert(id);
        // What is said of the only source there is, is said of all mail.
        let is_only = self.config.sources.iter().nth(1).is_none();
        match complaint.whose {
            Whose::Everyones => {}
            Whose::Sources(_) if is_only => {}
            Whose::Tenants(_) | Whose::Senders(_) => {
                return site.line.complain(&complaint, floor, now);
            }
            Whose::Sources(_) => {
                site.line.complain(&complaint, floor, now);
                if matches!(complaint.ask, Ask::Stop(_)) {
                    self.source_stopped(id, source, now);
                }
                return;
            }
        }
        let per_minute = site.meter.per_minute(now);
        match complaint.ask {
            Ask::Slower(hold) => {
                let used = u32::try_from(site.links.len()).unwrap_or(u32::MAX);
                site.feedback.window.slowed(used, hold, now);
                let before = site.feedback.brake.take();
                let brake = Brake::after(before.as_ref(), per_minute, floor, hold, now);
                site.feedback.brake = Some(brake);
                site.why = complaint.why;
                self.retune(id, now);
            }
            Ask::Fewer(hold) => {
                let used = u32::try_from(site.links.len()).unwrap_or(u32::MAX);
                site.feedback.window.slowed(used, hold, now);
                site.why = complaint.why;
                self.shed(id);
            }
            Ask::Stop(wait) => self.stop(id, complaint.why, now.after(wait), now),
        }
    }

    /// The site wants nothing before `until`, by a reply.
    pub(super) fn stop(&mut self, id: SiteId, why: String, until: Timestamp, now: Timestamp) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.feedback.window.collapsed(now);
        let links: Vec<LinkId> = site.links.iter().copied().collect();
        self.shut(id, why, until);
        links.into_iter().for_each(|link| self.quit(link));
    }

    /// The site ended a connection between two messages, after so many deliveries over it.
    pub(super) fn ended_by_peer(&mut self, link: LinkId, deliveries: u32, now: Timestamp) {
        let site = self.links.get(&link).map(|link| link.site);
        if let Some(site) = site.and_then(|id| self.sites.get_mut(&id)) {
            site.feedback.spent.ended_after(deliveries, now);
        }
    }

    /// What was learned of all sites, to be kept over a restart.
    #[must_use]
    pub fn learned(&self, now: Timestamp) -> Learned {
        let mut learned = self.learned.clone();
        for site in self.sites.values() {
            learned.keep(&site.name, &site.feedback, now);
        }
        learned.sweep(now);
        learned
    }

    /// Takes in what an earlier run learned. To be called before any site is known.
    pub fn remember(&mut self, learned: Learned, now: Timestamp) {
        self.learned = learned;
        self.learned.sweep(now);
    }

    /// Brings the pace up to date with limits and feedback, and again when a forced rate climbs.
    pub(super) fn retune(&mut self, id: SiteId, now: Timestamp) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.line.retune(&site.limits, &site.rates(now), now);
        site.retune_at = site.forced(now).map(|(_, until)| until);
        match site.retune_at {
            Some(at) => self.alarm(at, Alarm::Site(id)),
            None => site.feedback.brake = None,
        }
    }
}

impl Site {
    /// The rate that a complaint forces, and when that changes.
    pub(super) fn forced(&self, now: Timestamp) -> Option<(Rate, Timestamp)> {
        let brake = self.feedback.brake.as_ref()?;
        Some((brake.rate(now)?, brake.next_change(now)))
    }

    /// The configured rates, and the one that a complaint forces.
    fn rates(&self, now: Timestamp) -> Vec<Rate> {
        let mut rates = self.limits.rates.clone();
        if let Some((forced, _)) = self.forced(now) {
            match rates.iter_mut().find(|rate| rate.per == forced.per) {
                Some(rate) => rate.count = rate.count.min(forced.count),
                None => rates.push(forced),
            }
        }
        rates
    }
}
