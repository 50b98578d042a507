//! Scheduled queues as the dispatcher sees them: counts, due times, and whether they stand in line
//! at a site.

use super::{BATCH, Command, Core, LEASE};
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::deliver::line::{Way, WayKey};
use crate::deliver::settle::past_its_time;
use crate::mail::message::Lane;
use crate::policy::quota::Holder;
use crate::policy::schedule::Plan;
use crate::policy::site::SiteId;
use crate::policy::site::route::Route;
use crate::policy::source::Pool;
use crate::policy::verdict::Verdict;
use crate::store::{Claim, QueueBacklog};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A queue that gave less than it seemed to have is asked again after this, unless it changes
/// before.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// A queue that seemed to have mail past its time, and had none, is looked at again after this.
const FRUITLESS: Duration = Duration::from_secs(600);

/// One scheduled queue.
pub(super) struct Queue {
    pub(super) backlog: QueueBacklog,
    /// Deliveries that connections were told to claim.
    promised: u64,
    /// Its share of its route's fresh mail.
    pub(super) counted: u64,
    pub(super) place: Place,
    /// Where its mail may be sent from.
    pub(super) pool: Pool,
    /// It stands in its route's turns.
    pub(super) in_line: bool,
    /// Not asked before this.
    paused_until: Timestamp,
    /// When it is looked at for mail that falls due, so that there is only one such time.
    look_at: Option<Timestamp>,
    /// When it is looked at for mail past its time.
    sweep_at: Timestamp,
    /// The operator wants it not to be sent now.
    pub(super) suspended: bool,
    /// How many more the rate of its domain lets it give now; `None`: its domain has no rate.
    pub(super) granted: Option<u32>,
    /// It waits for a grant.
    pub(super) asks: bool,
}

/// Where a queue's domain is.
#[derive(Clone)]
pub(super) enum Place {
    /// DNS was not asked yet, or fails (why).
    Unknown(String),
    /// It takes no mail.
    Dead(Verdict),
    /// Here.
    At(SiteId, Arc<Route>),
}

impl Queue {
    /// How its mail goes; `None` while that is not known.
    pub(super) fn way(&self) -> Option<(SiteId, Way)> {
        match &self.place {
            Place::At(site, route) => {
                Some((*site, Way { route: Arc::clone(route), pool: self.pool.clone() }))
            }
            Place::Unknown(_) | Place::Dead(_) => None,
        }
    }

    /// True where it stands in this line of the site.
    pub(super) fn stands_at(&self, site: SiteId, (addresses, pool): &WayKey) -> bool {
        matches!(&self.place, Place::At(s, r) if *s == site && r.addresses == *addresses)
            && self.pool == *pool
    }

    /// Deliveries worth a plan now, or so much ahead of their time, where all of them gather for
    /// the first time. Of those tried before, only a batch at a time is believed to be
    /// due, since the count does not tell.
    pub(super) fn due(&self, now: Timestamp, early: Duration) -> u32 {
        self.due_in_all(now, early).min(self.granted.unwrap_or(u32::MAX))
    }

    /// Of these, what the rate of its domain does not let go yet.
    pub(super) fn ungranted(&self, now: Timestamp) -> u32 {
        self.due_in_all(now, Duration::ZERO).saturating_sub(self.granted.unwrap_or(u32::MAX))
    }

    /// The same, whatever the rate of its domain.
    pub(super) fn due_in_all(&self, now: Timestamp, early: Duration) -> u32 {
        let waits = self.suspended || self.paused_until > now;
        let early = if self.backlog.deferred == 0 { early } else { Duration::ZERO };
        if waits || self.backlog.next_due > now.after(early) {
            return 0;
        }
        let waiting = self.backlog.ready + self.backlog.deferred.min(u64::from(BATCH));
        u32::try_from(waiting.saturating_sub(self.promised)).unwrap_or(u32::MAX)
    }

    /// Never tried and not promised: what fills connections.
    pub(super) fn fresh(&self) -> u64 {
        let fresh = if self.suspended { 0 } else { self.backlog.ready };
        fresh.saturating_sub(self.promised).min(self.granted.map_or(u64::MAX, u64::from))
    }
}

impl Core {
    /// Takes in a queue's new counts.
    pub(super) fn queue_changed(&mut self, backlog: QueueBacklog, now: Timestamp) {
        let id = backlog.id;
        let total = backlog.waiting() + backlog.leased + backlog.held;
        let expire = self.expire(backlog.key.lane);
        match self.queues.get_mut(&id) {
            Some(queue) => {
                // New mail, or an earlier time: worth asking at once.
                if backlog.next_due < queue.backlog.next_due || backlog.ready > queue.backlog.ready
                {
                    queue.paused_until = Timestamp(0);
                }
                let ends = backlog.oldest.after(expire);
                if backlog.oldest < queue.backlog.oldest && ends < queue.sweep_at {
                    self.rounds.drop_queue(id, queue.sweep_at);
                    self.rounds.add_queue(id, ends);
                    queue.sweep_at = ends;
                }
                queue.backlog = backlog;
            }
            None if total == 0 => return,
            None => {
                let domain = backlog.key.domain.clone();
                self.look_up(domain.clone(), backlog.key.lane.into(), now);
                let place = self.place_of(&domain);
                if let Some(entry) = self.domains.get_mut(&domain) {
                    entry.queues.insert(id);
                }
                let sweep_at = backlog.oldest.after(expire);
                let pool = self.config.sources.pool(backlog.key.lane, &backlog.key.tenant).clone();
                let is_limited = self.quotas.limit(Holder::Domain(domain.as_str()));
                let queue = Queue {
                    backlog,
                    pool,
                    promised: 0,
                    counted: 0,
                    place,
                    in_line: false,
                    paused_until: Timestamp(0),
                    look_at: None,
                    sweep_at,
                    suspended: false,
                    granted: is_limited.then_some(0),
                    asks: false,
                };
                self.queues.insert(id, Box::new(queue));
                self.rounds.add_queue(id, sweep_at);
                self.join_site(id);
            }
        }
        if total == 0 && self.queues.get(&id).is_some_and(|q| q.promised == 0) {
            self.drop_queue(id, now);
        } else {
            self.queue_due(id, now);
        }
    }

    fn drop_queue(&mut self, id: QueueId, now: Timestamp) {
        self.leave_site(id);
        self.give_back(id, 0, now);
        let Some(queue) = self.queues.remove(&id) else { return };
        self.rounds.drop_queue(id, queue.sweep_at);
        if let Some(at) = queue.look_at {
            self.looks.drop(queue.backlog.key.lane, id, at);
        }
        self.leave_domain(&queue.backlog.key.domain, id, now);
    }

    /// The queue's domain was placed, perhaps elsewhere than before.
    pub(super) fn move_queue(&mut self, id: QueueId, now: Timestamp) {
        let Some(domain) = self.queues.get(&id).map(|q| q.backlog.key.domain.clone()) else {
            return;
        };
        let place = self.place_of(&domain);
        let Some(queue) = self.queues.get(&id) else { return };
        let moves = !is_same(&queue.place, &place);
        if moves {
            self.leave_site(id);
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.place = place;
            // The old line finds that it is not there any more.
            queue.in_line &= !moves;
        }
        if moves {
            self.join_site(id);
        }
        self.queue_due(id, now);
    }

    /// Puts the queue in line where something is due, or notes when it may be.
    pub(super) fn queue_due(&mut self, id: QueueId, now: Timestamp) {
        self.mind_suspensions(id, now);
        self.ask_grant(id, now);
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let lane = queue.backlog.key.lane;
        if let Some(at) = queue.look_at.take() {
            self.looks.drop(lane, id, at);
        }
        let next = queue.backlog.next_due.max(queue.paused_until);
        if queue.backlog.waiting() == 0 || queue.backlog.next_due == Timestamp::NEVER {
            return;
        }
        if next > now {
            queue.look_at = Some(next);
            self.looks.add(lane, id, next);
        }
        let (domain, turn) = (queue.backlog.key.domain.clone(), lane.into());
        match queue.place.clone() {
            Place::At(site, _) => {
                self.look_up(domain, turn, now);
                self.stand_in_line(id, now);
                self.touched.insert(site);
            }
            // An answer of hours ago fails no mail: it is asked for again first.
            Place::Dead(_) if !self.is_fresh(&domain, now) => self.look_up(domain, turn, now),
            Place::Dead(verdict) => self.give_up(id, &verdict, now),
            Place::Unknown(_) => self.look_up(domain, turn, now),
        }
    }

    /// Fails what is due to a domain that takes no mail.
    fn give_up(&mut self, id: QueueId, verdict: &Verdict, now: Timestamp) {
        if self.draining || self.all_held {
            return;
        }
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let due = queue.due_in_all(now, Duration::ZERO).min(BATCH);
        if due > 0 {
            let claim = claim(vec![(id, due)], due, now);
            queue.promised += u64::from(due);
            self.commands.push(Command::GiveUp(claim, verdict.clone()));
        }
    }

    /// Notes what a claim was told to take.
    pub(super) fn promise(&mut self, plan: &Plan, now: Timestamp) {
        for (id, count) in plan {
            self.use_grant(*id, *count, now);
            if let Some(queue) = self.queues.get_mut(id) {
                queue.promised += u64::from(*count);
                self.recount(*id);
            }
        }
    }

    /// Takes in what a claim got.
    pub(super) fn redeem(&mut self, plan: &Plan, got: &HashMap<QueueId, u32>, now: Timestamp) {
        for (id, count) in plan {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            queue.promised = queue.promised.saturating_sub(u64::from(*count));
            if got.get(id).copied().unwrap_or(0) < *count {
                queue.paused_until = now.after(SHORT_PAUSE);
            }
            // Looked at in the next step, when the backlog knows of the claim too.
            self.to_recheck.push(*id);
        }
    }

    /// Goes on with the queues that are to be looked at.
    pub(super) fn recheck(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.to_recheck) {
            let Some(queue) = self.queues.get(&id) else { continue };
            let empty = queue.backlog.waiting() + queue.backlog.leased + queue.backlog.held == 0;
            if empty && queue.promised == 0 {
                self.drop_queue(id, now);
            } else {
                self.queue_due(id, now);
            }
        }
    }

    /// Gives up mail that no connection came for in its time: held, throttled, behind a shut gate.
    /// Called when it may be time.
    pub(super) fn sweep_queue(&mut self, id: QueueId, now: Timestamp) {
        let Some(queue) = self.queues.get(&id) else { return };
        let ends = queue.backlog.oldest.after(self.expire(queue.backlog.key.lane));
        // The oldest time may be earlier than the truth: a fruitless look is not repeated soon.
        let again = if ends > now { ends } else { now.after(FRUITLESS) };
        let why = self.why_waiting(id);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.sweep_at = again;
        }
        self.rounds.add_queue(id, again);
        if ends <= now && !self.draining {
            let mut claim = claim(vec![(id, u32::MAX)], BATCH, now);
            claim.expired_at = Some(now);
            self.commands.push(Command::GiveUp(claim, past_its_time(&why)));
        }
    }

    /// Why mail in a queue was not tried.
    fn why_waiting(&self, id: QueueId) -> String {
        let Some(queue) = self.queues.get(&id) else { return String::new() };
        if self.all_held || queue.backlog.held > 0 {
            return "held by the operator".to_string();
        }
        if queue.suspended {
            return "suspended by the operator".to_string();
        }
        match &queue.place {
            Place::Unknown(why) => why.clone(),
            Place::Dead(verdict) => verdict.text.clone(),
            Place::At(..) if queue.asks => "the rate of its domain let no more go".to_string(),
            Place::At(site, _) => self.why(*site),
        }
    }
}

/// True where a queue stands in the same line at both.
fn is_same(old: &Place, new: &Place) -> bool {
    match (old, new) {
        (Place::At(a, was), Place::At(b, is)) => a == b && was.addresses == is.addresses,
        _ => false,
    }
}

/// A claim of what is due now.
pub(super) fn claim(queues: Plan, limit: u32, now: Timestamp) -> Claim {
    Claim { queues, due_until: now, fresh_until: now, expired_at: None, limit, ttl: LEASE }
}

/// True for a queue of the direct lane.
pub(super) fn is_direct(queue: &Queue) -> bool {
    queue.backlog.key.lane == Lane::Direct
}
