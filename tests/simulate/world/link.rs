//! One simulated connection: what `deliver::worker` and `deliver::load` do, in the same order, with
//! a receiver's manners in place of bytes.

use super::receivers::Exchange;
use super::{Happening, World, at_once, ms};
use bulkhead::base::time::Timestamp;
use bulkhead::deliver::addresses::Slot;
use bulkhead::deliver::connection::Transaction;
use bulkhead::deliver::core::{AHEAD, Event, LEASE, LinkId, Opening};
use bulkhead::deliver::line::Job;
use bulkhead::deliver::settle::past_its_time;
use bulkhead::mail::message::Lane;
use bulkhead::policy::site::route::Hop;
use bulkhead::policy::verdict::{Ruling, Verdict, judge};
use bulkhead::store::{Claim, Store};
use std::collections::{HashMap, VecDeque};
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
    /// An attempt to connect to the first of its hops.
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
    opening: Opening,
    operator: usize,
    hops: VecDeque<Hop>,
    slot: Option<Slot>,
    why: String,
    orders: VecDeque<Order>,
    jobs: VecDeque<Job>,
    ridden: bool,
    paid: Option<(Lane, Timestamp)>,
    transmit: Duration,
    loading: Option<VecDeque<Job>>,
    claimed: u32,
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
    fn room(&self) -> u32 {
        let waiting: u32 = self.jobs.iter().map(Job::count).sum();
        let most = self.opening.limits.deliveries_per_connection;
        most.saturating_sub(self.used + self.claimed + waiting)
    }
}

impl<S: Store> World<S> {
    pub(super) fn open(&mut self, opening: Opening) {
        self.figures.opens += 1;
        let operator = self.by_address[&opening.hops[0].address];
        let at = &mut self.operators[operator];
        at.links += 1;
        if !at.limits.connection_rates.is_empty() {
            at.opened.push(self.now);
        }
        assert!(
            at.links <= at.limits.connections,
            "{} of {} connections to {}",
            at.links,
            at.limits.connections,
            at.name
        );
        let hops = self.addresses.order(opening.hops.clone(), self.now).into();
        let link = Link {
            opening,
            operator,
            hops,
            slot: None,
            why: String::new(),
            orders: VecDeque::new(),
            jobs: VecDeque::new(),
            ridden: false,
            paid: None,
            transmit: Duration::ZERO,
            loading: None,
            claimed: 0,
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
        let most = link.opening.limits.connections;
        while let Some(hop) = link.hops.front() {
            let Some(slot) = self.addresses.take(hop.address, most) else {
                link.hops.pop_front();
                continue;
            };
            let again = !link.why.is_empty();
            if again && link.opening.line.begin_open(link.opening.lane, self.now).is_err() {
                break;
            }
            link.slot = Some(slot);
            let timeout = i64::try_from(self.config.delivery.connect_timeout.as_millis()).unwrap();
            let operator = &mut self.operators[link.operator];
            let (result, lasts) = operator.dial(hop.address, self.now, timeout);
            return self.wait(link, Phase::Dialing(result), lasts);
        }
        self.operators[link.operator].links -= 1;
        let why = std::mem::take(&mut link.why);
        self.tell(Event::NotOpened(link.opening.link, why));
        self.refuse(link.orders);
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
        let Some(hop) = link.hops.front().cloned() else { return };
        if let Some(slot) = &mut link.slot {
            slot.answered(result.is_ok(), self.now);
        }
        match result {
            Ok(()) => {
                link.open = true;
                self.tell(Event::Opened(link.opening.link, hop.address));
                self.work(link);
            }
            Err(why) => {
                link.why = format!("{}[{}] {why}", hop.host, hop.address);
                (_, link.slot) = (link.hops.pop_front(), None);
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
                route: None,
                trusted_until: claimed.trusted_until,
                room: self.room.clone(),
            };
            jobs.extend(whole.split(link.opening.limits.recipients_per_transaction));
        }
        assert!(link.loading.is_none(), "one claim at a time");
        link.loading = Some(jobs);
    }

    fn gather(&mut self, link: &mut Link) {
        let at = usize::from(link.ridden);
        let is_direct = |job: Option<&Job>| job.is_some_and(|job| job.lane() == Lane::Direct);
        let address = link.hops[0].address;
        if link.room() > 0
            && !is_direct(link.jobs.get(at))
            && let Some(job) = link.opening.line.pop(address, link.room())
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
        self.tell(Event::Wants { link: link.opening.link, room, idle, done });
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
            return self.transmit(link, job, false);
        }
        self.pace(link, job);
    }

    fn pace(&mut self, mut link: Link, job: Job) {
        match link.opening.line.begin(job.lane(), self.now) {
            Ok(()) => {
                self.count_begun(&link);
                self.transmit(link, job, false);
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
        let at = &mut self.operators[link.operator];
        if !at.limits.rates.is_empty() {
            at.begun.push(self.now);
        }
    }

    fn count_seen(&mut self, link: &Link, at: Timestamp) {
        let operator = &mut self.operators[link.operator];
        if !operator.limits.rates.is_empty() {
            operator.seen.push(at);
        }
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
        }
        let rides = self.may_ride(&mut link);
        let operator = &mut self.operators[link.operator];
        let exchange = operator.exchange(self.seed, &job, self.now, rode, link.used > 0);
        if rides && exchange.dotted && exchange.open {
            let manner = &operator.manner;
            let dot = exchange.lasts - manner.transaction(true);
            self.count_seen(&link, self.now.after(ms(dot)));
        }
        self.figures.attempts += u64::from(job.count());
        let lasts = exchange.lasts;
        link.transmit = ms(lasts);
        self.wait(link, Phase::Sending(Box::new((job, exchange, rides))), lasts);
    }

    fn may_ride(&mut self, link: &mut Link) -> bool {
        let Some(next) = link.jobs.front() else { return false };
        let lane = next.lane();
        let line = &link.opening.line;
        let slow = link.transmit > line.slack() || line.available(lane, self.now, 2) < 2;
        if link.quit || self.is_short(next.trusted_until) || slow {
            return false;
        }
        if !self.has_paid(link, lane) {
            if link.opening.line.begin(lane, self.now).is_err() {
                return false;
            }
            self.count_begun(link);
        }
        link.paid = Some((lane, self.now));
        true
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
        let verdicts: Vec<Verdict> = exchange.attempts.iter().map(judge).collect();
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
        let host = link.hops[0].host.clone();
        self.settle(&job.transaction, &verdicts, &host);
        if link.done > 0 && self.now.since(link.told_at) >= TELL {
            let done = self.take_done(&mut link);
            self.tell(Event::Did(link.opening.link, done));
        }
        if !link.open {
            let trouble = verdicts.into_iter().find(|v| v.ruling != Ruling::Delivered);
            link.trouble = trouble.map(|v| v.text);
        }
        self.work(link);
    }

    fn put_back(&mut self, link: &Link, job: Job) {
        if job.route.is_some() && !link.quit {
            link.opening.line.push_front(job);
        } else {
            if job.lane() == Lane::Bulk {
                self.not_claimed(&job.transaction);
            }
            self.dirty = true;
            at_once(self.store.release(job.transaction.leases())).unwrap();
        }
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
        let at = &mut self.operators[link.operator];
        at.links -= 1;
        at.hang_up(link.hops[0].address);
        link.slot = None;
        let (done, trouble) = (link.done, link.trouble.take());
        self.tell(Event::Closed { link: link.opening.link, done, trouble });
        self.refuse(link.orders);
    }
}
