//! One simulated connection: what `deliver::worker` and `deliver::load` do, in the same order, with
//! a receiver's manners in place of bytes.

use super::receivers::Exchange;
use super::{Happening, World, at_once, ms};
use bulkhead::base::time::Timestamp;
use bulkhead::deliver::addresses::Slot;
use bulkhead::deliver::connection::Transaction;
use bulkhead::deliver::core::{AHEAD, Event, LEASE, LinkId, Opening};
use bulkhead::deliver::line::Job;
use bulkhead::deliver::permit::{Hold, Permit, lasts as expected};
use bulkhead::deliver::settle::past_its_time;
use bulkhead::mail::message::Lane;
use bulkhead::policy::quota::Holder;
use bulkhead::policy::site::route::Hop;
use bulkhead::policy::verdict::{Blame, Ruling, Verdict, judge};
use bulkhead::smtp::reply::EnhancedCode;
use bulkhead::store::{Claim, Delivery, Store};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// As the worker: jobs that a connection has ready, and how often it tells what it has done.
const AT_HAND: usize = 8;
const TELL: Duration = Duration::from_millis(250);

/// What the dispatcher tells a connection.
pub(super) enum Order {
    Claim(Claim),
    Wake,
    Quit,
}

/// What a connection waits for.
enum Phase {
    /// An attempt to connect to its hop.
    Dialing(Result<(), String>),
    /// The pace lets this job go.
    Pacing(Box<Job>),
    /// The receiver has answered to this job; the next was ready to ride.
    Sending(Box<(Job, Exchange, bool)>),
    /// Work, or the end of patience.
    Resting,
    /// The end of its goodbye.
    Quitting,
}

pub(super) struct Link {
    pub(super) opening: Opening,
    operator: usize,
    pub(super) hops: Vec<Hop>,
    /// Where it goes, of these.
    pub(super) hop: Hop,
    /// When it was opened.
    begun: Timestamp,
    slot: Option<Slot>,
    why: String,
    orders: VecDeque<Order>,
    jobs: VecDeque<Job>,
    ridden: bool,
    paid: Option<(Lane, Timestamp)>,
    pub(super) permit: Permit,
    transmit: Duration,
    loading: Option<VecDeque<Job>>,
    claimed: u32,
    claims: u32,
    used: u32,
    done: u32,
    /// When it last told of deliveries; at first, long ago.
    told_at: Timestamp,
    asked: bool,
    quit: bool,
    trouble: Option<String>,
    /// The connection is.
    open: bool,
    /// Counts as busy with bulk mail.
    busy: bool,
    phase: Phase,
    timer: u64,
}

impl Link {
    fn pop_direct(&self, address: IpAddr, now: Timestamp) -> Option<Job> {
        let Opening { link, line, source, .. } = &self.opening;
        line.pop(*link, (source, address), self.room(), now)
    }

    fn room(&self) -> u32 {
        let waiting: u32 = self.jobs.iter().map(Job::count).sum();
        let most = self.opening.limits.deliveries_per_connection;
        most.saturating_sub(self.used + self.claimed + waiting)
    }
}

impl<S: Store> World<S> {
    pub(super) fn open(&mut self, opening: Opening) {
        self.figures.opens += 1;
        let hop = opening.hops[0].clone();
        let operator = self.by_address[&hop.address];
        let at = &mut self.operators[operator];
        at.links += 1;
        let (most, source) = (at.limits.connections_per_source, opening.source.id);
        let book = at.book(source);
        book.opened.push(self.now);
        book.links += 1;
        assert!(book.links <= most, "{} of {most} connections from {source:?}", book.links);
        assert!(
            at.links <= at.limits.connections,
            "{} of {} connections to {}",
            at.links,
            at.limits.connections,
            at.name
        );
        let link = Link {
            hops: opening.hops.clone(),
            opening,
            operator,
            hop,
            begun: self.now,
            slot: None,
            why: String::new(),
            orders: VecDeque::new(),
            jobs: VecDeque::new(),
            ridden: false,
            paid: None,
            permit: Permit::default(),
            transmit: Duration::ZERO,
            loading: None,
            claimed: 0,
            claims: 0,
            used: 0,
            done: 0,
            told_at: Timestamp(0),
            asked: false,
            quit: false,
            trouble: None,
            open: false,
            busy: false,
            phase: Phase::Resting,
            timer: 0,
        };
        self.dial(link);
    }

    /// Keeps it until its timer, or until an order wakes it where it rests.
    fn wait(&mut self, mut link: Link, phase: Phase, lasts: i64) {
        link.phase = phase;
        link.timer += 1;
        let id = link.opening.link;
        self.plan(self.now.after(ms(lasts)), Happening::Link(id, link.timer));
        self.links.insert(id, link);
    }

    fn dial(&mut self, mut link: Link) {
        let again = !link.why.is_empty();
        let Opening { source, limits, .. } = &link.opening;
        let (limits, since) = ((source.id, limits), again.then_some(link.begun));
        let taken = self.addresses.take(&mut link.hops, limits, since, self.now);
        let may_open =
            || !again || link.opening.line.begin_open(source, link.opening.lane, self.now).is_ok();
        if let Some((hop, slot)) = taken.filter(|_| may_open()) {
            let timeout = i64::try_from(self.config.delivery.connect_timeout.as_millis()).unwrap();
            let way = (source.id, hop.address);
            let (result, lasts) = self.operators[link.operator].dial(way, self.now, timeout);
            (link.hop, link.slot) = (hop, Some(slot));
            return self.wait(link, Phase::Dialing(result), lasts);
        }
        self.left(&link);
        let why = std::mem::take(&mut link.why);
        self.tell(Event::NotOpened(link.opening.link, why));
        self.refuse(link.orders);
    }

    /// It is ours no more.
    fn left(&mut self, link: &Link) {
        let at = &mut self.operators[link.operator];
        at.links -= 1;
        at.book(link.opening.source.id).links -= 1;
    }

    /// Claims that came too late.
    fn refuse(&mut self, orders: VecDeque<Order>) {
        for order in orders {
            if let Order::Claim(claim) = order {
                self.tell(Event::Claimed { plan: claim.queues, got: HashMap::new() });
            }
        }
    }

    pub(super) fn timer(&mut self, id: LinkId, timer: u64) {
        if self.links.get(&id).is_none_or(|link| link.timer != timer) {
            return;
        }
        let Some(mut link) = self.links.remove(&id) else { return };
        match std::mem::replace(&mut link.phase, Phase::Resting) {
            Phase::Dialing(result) => self.dialed(link, result),
            Phase::Pacing(job) => self.pace(link, *job),
            Phase::Sending(sent) => {
                let (job, exchange, rides) = *sent;
                self.sent(link, job, exchange, rides);
            }
            Phase::Resting => self.end(link),
            Phase::Quitting => self.closed(link),
        }
    }

    fn dialed(&mut self, mut link: Link, result: Result<(), String>) {
        if let Some(slot) = &mut link.slot {
            slot.answered(result.is_ok(), self.now);
        }
        match result {
            Ok(()) => {
                link.open = true;
                link.transmit = ms(self.operators[link.operator].manner.connect());
                self.tell(Event::Opened(link.opening.link, link.hop.address));
                self.work(link);
            }
            Err(why) => {
                link.why = format!("{}[{}] {why}", link.hop.host, link.hop.address);
                link.slot = None;
                self.dial(link);
            }
        }
    }

    pub(super) fn order(&mut self, id: LinkId, order: Order) {
        let Some(mut link) = self.links.remove(&id) else {
            return self.refuse(VecDeque::from([order]));
        };
        link.orders.push_back(order);
        if matches!(link.phase, Phase::Resting) {
            self.work(link);
        } else {
            self.links.insert(id, link);
        }
    }

    fn work(&mut self, mut link: Link) {
        if link.open {
            while let Some(order) = link.orders.pop_front() {
                self.follow_order(&mut link, order);
            }
            if link.quit && !link.ridden {
                return self.end(link);
            }
            self.gather(&mut link);
            if let Some(job) = link.jobs.pop_front() {
                self.ask_for_more(&mut link);
                return self.send(link, job);
            }
            if link.room() > 0 {
                return self.rest(link);
            }
        }
        self.end(link);
    }

    fn follow_order(&mut self, link: &mut Link, order: Order) {
        match order {
            Order::Claim(mut claim) => {
                link.asked = false;
                link.claims += 1;
                claim.limit = claim.limit.min(link.room());
                link.claimed = claim.limit;
                self.load_jobs(link, claim);
            }
            Order::Wake => {}
            Order::Quit => link.quit = true,
        }
    }

    /// As `deliver::load`, with room for all of it.
    fn load_jobs(&mut self, link: &mut Link, claim: Claim) {
        let mut jobs = VecDeque::new();
        for claimed in self.claim(claim) {
            if claimed.head.expires_at <= self.now {
                self.conclude_claimed(claimed, &past_its_time(""));
                continue;
            }
            if claimed.head.origin.lane == Lane::Bulk && !link.busy {
                link.busy = true;
                let at = &mut self.operators[link.operator];
                at.busy += 1;
                let most = (at.limits.connections - at.limits.reserved_for_direct).max(1);
                let over = &mut self.figures.over_reserve;
                *over = at.busy.saturating_sub(most).max(*over);
            }
            let bodies = at_once(self.store.bodies(vec![claimed.head.id])).unwrap();
            let whole = Job {
                transaction: Transaction {
                    head: claimed.head,
                    body: bodies[0].1.clone(),
                    deliveries: claimed.deliveries,
                },
                receive: None,
                way: None,
                trusted_until: claimed.trusted_until,
                room: self.room.clone(),
            };
            let (quotas, limits) = (self.core.quotas(), &link.opening.limits);
            let most = limits.recipients_per_transaction;
            jobs.extend(whole.split(|delivery| quotas.recipients(delivery).min(most)));
        }
        assert!(link.loading.is_none(), "one claim at a time");
        link.loading = Some(jobs);
    }

    fn gather(&mut self, link: &mut Link) {
        let at = usize::from(link.ridden);
        let is_direct = |job: Option<&Job>| job.is_some_and(|job| job.lane() == Lane::Direct);
        let address = link.hop.address;
        if link.room() > 0
            && !is_direct(link.jobs.get(at))
            && let Some(job) = link.pop_direct(address, self.now)
        {
            link.jobs.insert(at, job);
        }
        while link.jobs.len() < AT_HAND
            && let Some(loading) = &mut link.loading
        {
            match loading.pop_front() {
                Some(job) => {
                    link.claimed = link.claimed.saturating_sub(job.count());
                    link.jobs.push_back(job);
                }
                None => (link.loading, link.claimed) = (None, 0),
            }
        }
    }

    fn ask_for_more(&mut self, link: &mut Link) {
        let room = link.room();
        let low = link.loading.is_none() && link.jobs.len() < AT_HAND;
        if low && !link.asked && !link.quit && room > 1 {
            link.asked = true;
            self.tell_wants(link, room - 1, false);
        }
    }

    fn tell_wants(&mut self, link: &mut Link, room: u32, idle: bool) {
        let done = self.take_done(link);
        let claims = link.claims;
        self.tell(Event::Wants { link: link.opening.link, room, idle, claims, done });
    }

    fn take_done(&self, link: &mut Link) -> u32 {
        let done = std::mem::take(&mut link.done);
        if done > 0 {
            link.told_at = self.now;
        }
        done
    }

    fn rest(&mut self, mut link: Link) {
        link.asked = true;
        self.free(&mut link);
        let room = link.room();
        self.tell_wants(&mut link, room, true);
        let patience = i64::try_from(self.config.delivery.idle_timeout.as_millis()).unwrap();
        let peer = self.operators[link.operator].manner.idle.unwrap_or(i64::MAX);
        self.wait(link, Phase::Resting, patience.min(peer));
    }

    fn free(&mut self, link: &mut Link) {
        if std::mem::replace(&mut link.busy, false) {
            self.operators[link.operator].busy -= 1;
        }
    }

    fn send(&mut self, mut link: Link, job: Job) {
        if std::mem::take(&mut link.ridden) {
            return self.transmit(link, job, true);
        }
        if self.has_paid(&mut link, job.lane()) {
            return self.begin(link, job);
        }
        self.pace(link, job);
    }

    /// Where its tenant, its sender and its recipients' domains let it go; else what may not waits.
    fn begin(&mut self, mut link: Link, job: Job) {
        let Err(hold) = self.permit(&mut link, &job.transaction) else {
            return self.transmit(link, job, false);
        };
        link.paid = Some((job.lane(), self.now));
        match hold {
            Hold::PutOff(at, _, why) => {
                let status = EnhancedCode(4, 7, 0);
                let verdict = Verdict {
                    retry_at: Some(at),
                    ..Verdict::own(Ruling::Retry, Some(Blame::Source), status, why)
                };
                let verdicts = vec![verdict; job.transaction.deliveries.len()];
                self.settle(&job.transaction, &verdicts, "");
            }
            Hold::Later(Holder::Tenant(_)) => _ = self.give_back(job, |_| true),
            Hold::Later(Holder::Domain(name)) => {
                let rest = self.give_back(job, |delivery| delivery.domain() == Some(&name));
                link.jobs.extend(rest);
                link.jobs.rotate_right(link.jobs.len().min(1));
            }
        }
        self.work(link);
    }

    fn pace(&mut self, mut link: Link, job: Job) {
        match link.opening.line.begin(&link.opening.source, job.lane(), self.now) {
            Ok(()) => {
                self.count_begun(&link);
                self.begin(link, job);
            }
            Err(at) => {
                let wait = at.since(self.now).max(Duration::from_millis(1));
                if wait > self.config.delivery.idle_timeout.max(AHEAD) {
                    link.quit = true;
                    self.put_back(&link, job);
                    return self.work(link);
                }
                let wait = i64::try_from(wait.as_millis()).unwrap();
                self.wait(link, Phase::Pacing(Box::new(job)), wait);
            }
        }
    }

    fn count_begun(&mut self, link: &Link) {
        let now = self.now;
        self.operators[link.operator].book(link.opening.source.id).begun.push(now);
    }

    fn count_seen(&mut self, link: &Link, at: Timestamp) {
        self.operators[link.operator].book(link.opening.source.id).seen.push(at);
    }

    fn is_short(&self, until: Timestamp) -> bool {
        self.now.after(self.config.delivery.transaction_timeout) >= until
    }

    fn transmit(&mut self, mut link: Link, mut job: Job, rode: bool) {
        if !rode {
            if self.is_short(job.trusted_until) {
                job.trusted_until = self.now.after(LEASE);
                // One that waited longer than it lasts is somebody else's by now.
                let lost = at_once(self.store.renew(job.transaction.leases(), LEASE)).unwrap();
                job.transaction.deliveries.retain(|d| !lost.contains(&d.lease));
                if job.transaction.deliveries.is_empty() {
                    return self.work(link);
                }
            }
            self.count_seen(&link, self.now);
            self.note_domains(&job.transaction, 1, self.now);
        }
        link.permit.spend();
        let rides = self.may_ride(&mut link);
        let operator = &mut self.operators[link.operator];
        let sent = (&job, link.opening.source.id);
        let exchange = operator.exchange(self.seed, sent, self.now, (rode, link.used > 0));
        if rides && exchange.dotted && exchange.open {
            let manner = &operator.manner;
            let dot = exchange.lasts - manner.transaction(true);
            let at = self.now.after(ms(dot));
            self.count_seen(&link, at);
            if let Some(next) = link.jobs.front() {
                self.note_domains(&next.transaction, 1, at);
            }
        }
        self.figures.attempts += u64::from(job.count());
        let lasts = exchange.lasts;
        link.transmit = expected(link.transmit, ms(lasts));
        self.wait(link, Phase::Sending(Box::new((job, exchange, rides))), lasts);
    }

    fn may_ride(&mut self, link: &mut Link) -> bool {
        let Some(next) = link.jobs.pop_front() else { return false };
        let rides = self.may_ride_now(link, &next);
        link.jobs.push_front(next);
        rides
    }

    fn may_ride_now(&mut self, link: &mut Link, next: &Job) -> bool {
        let lane = next.lane();
        let Opening { line, source, .. } = &link.opening;
        let slack = line.slack().min(self.core.quotas().slack(next.transaction.domains()));
        let few = line.available(source, lane, self.now, 2) < 2;
        let slow = link.transmit > slack || few;
        if link.quit || self.is_short(next.trusted_until) || slow {
            return false;
        }
        if !self.has_paid(link, lane) {
            if link.opening.line.begin(&link.opening.source, lane, self.now).is_err() {
                return false;
            }
            self.count_begun(link);
        }
        link.paid = Some((lane, self.now));
        self.permit(link, &next.transaction).is_ok()
    }

    fn has_paid(&self, link: &mut Link, lane: Lane) -> bool {
        let slack = link.opening.line.slack();
        link.paid.take().is_some_and(|(of, at)| of == lane && self.now.since(at) <= slack)
    }

    fn sent(&mut self, mut link: Link, job: Job, exchange: Exchange, rides: bool) {
        link.open = exchange.open;
        link.ridden = rides && exchange.dotted && exchange.open;
        if link.ridden {
            link.paid = None;
        }
        let mut verdicts: Vec<Verdict> = exchange.attempts.iter().map(judge).collect();
        self.apply_rules(&link, &job, &exchange.attempts, &mut verdicts);
        if verdicts.iter().all(|v| v.ruling == Ruling::Untried) {
            self.put_back(&link, job);
            return self.work(link);
        }
        link.used += job.count();
        let most = self.operators[link.operator].limits.deliveries_per_connection;
        assert!(link.used <= most, "{} of {most} deliveries over one connection", link.used);
        let deliveries = job.transaction.deliveries.iter().zip(&verdicts);
        for ((delivery, verdict), arrived) in deliveries.zip(&exchange.arrived) {
            let id = delivery.lease.delivery;
            if *arrived {
                self.ledger.arrived(id);
            }
            match verdict.ruling {
                Ruling::Delivered => link.done += 1,
                Ruling::InDoubt => self.ledger.doubted(id),
                _ => {}
            }
        }
        let host = link.hop.host.clone();
        self.settle(&job.transaction, &verdicts, &host);
        if link.done > 0 && self.now.since(link.told_at) >= TELL {
            let done = self.take_done(&mut link);
            self.tell(Event::Did(link.opening.link, done));
        }
        if !link.open {
            let refused = |v: &Verdict| v.ruling != Ruling::Delivered && v.rule.is_empty();
            let trouble = verdicts.into_iter().find(refused);
            link.trouble = trouble.map(|v| v.text);
        }
        self.work(link);
    }

    fn put_back(&mut self, link: &Link, job: Job) {
        if job.way.is_some() && !link.quit {
            link.opening.line.push_front(job);
        } else {
            self.give_back(job, |_| true);
        }
    }

    /// Releases some of a job's deliveries; gives the job with the others.
    fn give_back(&mut self, mut job: Job, which: impl Fn(&Delivery) -> bool) -> Option<Job> {
        if job.lane() == Lane::Bulk {
            self.not_claimed(&job.transaction, &which);
        }
        self.dirty = true;
        at_once(self.store.release(job.take_out(which))).unwrap();
        (!job.transaction.deliveries.is_empty()).then_some(job)
    }

    fn end(&mut self, mut link: Link) {
        self.free(&mut link);
        for job in link.loading.take().into_iter().flatten() {
            self.put_back(&link, job);
        }
        while let Some(job) = link.jobs.pop_back() {
            self.put_back(&link, job);
        }
        self.tell(Event::Leaving(link.opening.link));
        let operator = &self.operators[link.operator];
        let lasts = if link.open { operator.manner.quit() } else { 0 };
        self.wait(link, Phase::Quitting, lasts);
    }

    fn closed(&mut self, mut link: Link) {
        self.left(&link);
        self.operators[link.operator].hang_up(link.hop.address, self.now);
        link.slot = None;
        let (done, trouble) = (link.done, link.trouble.take());
        self.tell(Event::Closed { link: link.opening.link, done, trouble });
        self.refuse(link.orders);
    }
}
