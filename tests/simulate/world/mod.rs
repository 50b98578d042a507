//! A world around the real planner: its events, commands, lines, throttles, verdicts, schedules and
//! settlements are the library's; the store is a model, and time, connections, receivers and DNS
//! are simulated. One thread, no timers: everything happens at its place in a heap.
//!
//! [`World`] does what `deliver::dispatcher` does, [`link`] what `deliver::worker` and
//! `deliver::load` do, [`receivers`] is the other side, [`ledger`] and [`shares`] keep the books.
//! Settling and claiming take no time here.
//!
//! # Checked as it happens, besides the ledger
//! * Connections of a site never exceed its limit; none carries more deliveries than it may.
//! * The planner comes to rest after each event.

pub mod ledger;
mod link;
mod permit;
pub mod receivers;
pub mod shares;
pub mod stock;

use self::ledger::Ledger;
use self::link::Link;
use self::receivers::{Answer, Operator, Place};
use self::shares::Shares;
use bulkhead::base::address::{Domain, Mailbox, ReversePath};
use bulkhead::base::id::IdGenerator;
use bulkhead::base::random::{Rng, from_seed};
use bulkhead::base::time::{Clock, Timestamp};
use bulkhead::config::Config;
use bulkhead::deliver::addresses::Addresses;
use bulkhead::deliver::connection::Transaction;
use bulkhead::deliver::core::{Command, Core, Event, LEASE, LinkId, Turn};
use bulkhead::deliver::settle::{Peer, Rules, conclude};
use bulkhead::mail::envelope::{Envelope, Recipient};
use bulkhead::mail::message::{Lane, NewMessage, Origin};
use bulkhead::policy::quota::DomainRule;
use bulkhead::policy::verdict::Verdict;
use bulkhead::store::{
    Claim, Claimed, Delivery, Handoff, Outcome, QueueBacklog, QueueId, Revision, Store,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When every world begins.
pub const START: Timestamp = Timestamp(1_795_394_728_000);
/// As the dispatcher: how long a change of the backlog alone may wait.
const BACKLOG_PAUSE: i64 = 5;
/// As the dispatcher: queues told of at once of those that were there at the start.
const BACKLOG_PART: usize = 2_000;
/// As the dispatcher: domains asked of DNS at once in each turn.
const LOOK_UPS: [usize; 3] = [100, 100, 1_000];
/// Sets of hosts that an operator has at most.
const SETS: usize = 4;
/// Steps in one moment after which the planner is said to spin.
const SPINS: u32 = 10_000;

/// What a client hands over.
#[derive(Clone, Debug)]
pub struct Mail {
    pub lane: Lane,
    pub tenant: usize,
    pub campaign: u32,
    /// Places; one recipient each.
    pub to: Vec<usize>,
}

impl Mail {
    /// One newsletter.
    pub fn bulk(tenant: usize, campaign: u32, to: usize) -> Self {
        Self { lane: Lane::Bulk, tenant, campaign, to: vec![to] }
    }

    /// A message that shall go at once.
    pub fn direct(tenant: usize, to: Vec<usize>) -> Self {
        Self { lane: Lane::Direct, tenant, campaign: 0, to }
    }
}

/// What is to happen.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The connection's timer of this number.
    Link(LinkId, u64),
    /// DNS answers.
    Answer(Domain, usize),
    /// The next of the load.
    Load,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub attempts: u64,
    pub claims: u64,
    pub opens: u64,
    pub questions: u64,
    pub handed: u64,
    pub events: u64,
    pub steps: u64,
    /// Steps for an alarm that had nothing to say.
    pub idle_steps: u64,
    pub planning: Duration,
    /// Of one step: so long nothing else is decided.
    pub longest: Duration,
    pub told: u64,
    /// Replies that asked for less, by a rule.
    pub complaints: u64,
    /// Connections busy with bulk mail at a site, beyond what the reserve leaves, at most.
    pub over_reserve: u32,
}

/// The world.
pub struct World<S> {
    pub now: Timestamp,
    pub core: Core,
    pub store: S,
    pub operators: Vec<Operator>,
    pub places: Vec<Place>,
    pub ledger: Ledger,
    /// Of sites, and of domains that have the same hosts.
    pub shares: Shares,
    pub figures: Figures,
    /// When messages of each tenant went, by the permit.
    pub permitted: HashMap<String, Vec<Timestamp>>,
    pub config: Arc<Config>,
    /// When the last newsletter was delivered so far.
    pub last_newsletter: Timestamp,
    /// Each delivered newsletter is followed by another one.
    pub refill: bool,
    clock: Clock,
    seed: u64,
    rng: Rng,
    ids: IdGenerator,
    tenants: Vec<String>,
    by_name: HashMap<Domain, usize>,
    by_address: HashMap<IpAddr, usize>,
    /// In order of time.
    load: VecDeque<(Timestamp, Mail)>,
    heap: BinaryHeap<Reverse<(Timestamp, u64, Happening)>>,
    happened: u64,
    links: HashMap<LinkId, Link>,
    /// When mail to each domain with limits of its own was begun, and when its receiver saw it.
    pub to_domains: BTreeMap<Domain, [Vec<Timestamp>; 2]>,
    /// Sites of these: what one domain may not get, others do, whoever has mail for them.
    uneven: HashSet<usize>,
    addresses: Arc<Addresses>,
    asked: [(usize, VecDeque<Domain>); 3],
    revision: Revision,
    stepped_at: Timestamp,
    /// The backlog changed since the last step.
    dirty: bool,
    /// The core heard something since the last step.
    stirred: bool,
    room: Arc<OwnedSemaphorePermit>,
}

/// The result of a future of a store in memory, which is ready at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a store in memory does not wait"),
    }
}

impl<S: Store> World<S> {
    /// Nothing has happened in it. The last of the places is where senders get their reports.
    pub fn new(
        config: Config,
        seed: u64,
        operators: Vec<Operator>,
        places: Vec<Place>,
        store: impl FnOnce(Clock) -> S,
    ) -> Self {
        let clock = Clock::simulated(START);
        let config = Arc::new(config);
        let addresses = operators.iter().enumerate().flat_map(|(n, operator)| {
            let hosts = operator.hosts.iter().flatten();
            hosts.flat_map(move |host| host.addresses.iter().map(move |a| (*a, n)))
        });
        let is_limited =
            |place: &&Place| config.domains.iter().any(|rule| rule.name == place.name.as_str());
        let uneven = places.iter().filter(is_limited).map(|place| place.operator).collect();
        Self {
            now: START,
            core: Core::new(Arc::clone(&config), from_seed(seed), START),
            store: store(clock.clone()),
            by_address: addresses.collect(),
            by_name: places.iter().enumerate().map(|(n, p)| (p.name.clone(), n)).collect(),
            operators,
            places,
            ledger: Ledger::default(),
            shares: Shares::new(&config.tenants),
            figures: Figures::default(),
            permitted: HashMap::new(),
            last_newsletter: START,
            refill: false,
            clock,
            seed,
            rng: from_seed(seed ^ 1),
            ids: IdGenerator::after(None),
            tenants: config.tenants.iter().map(|t| t.name.clone()).collect(),
            load: VecDeque::new(),
            heap: BinaryHeap::new(),
            happened: 0,
            links: HashMap::new(),
            uneven,
            to_domains: config.domains.iter().map(limited).collect(),
            addresses: Arc::new(Addresses::default()),
            asked: Default::default(),
            revision: Revision::START,
            stepped_at: Timestamp(0),
            dirty: false,
            stirred: true,
            room: Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()),
            config,
        }
    }

    /// Hands over what clients will send, in order of time.
    pub fn load(&mut self, load: Vec<(Timestamp, Mail)>) {
        assert!(load.is_sorted_by_key(|(at, _)| *at), "in order of time");
        self.load = load.into();
        if let Some((at, _)) = self.load.front() {
            self.plan(*at, Happening::Load);
        }
    }

    /// Lets time pass until `end`, or until `done` says so after a step.
    pub fn run(&mut self, end: Timestamp, done: impl Fn(&Self) -> bool) {
        while self.now < end && !done(self) {
            let mut next = self.heap.peek().map_or(end, |Reverse((at, _, _))| *at).min(end);
            if let Some(alarm) = self.core.next_alarm() {
                // The dispatcher sleeps a millisecond at least.
                next = next.min(alarm.max(Timestamp(self.stepped_at.0 + 1)));
            }
            if self.dirty {
                next = next.min(Timestamp(self.stepped_at.0 + BACKLOG_PAUSE));
            }
            if self.stirred {
                next = self.now;
            }
            let next = next.max(self.now);
            self.clock.advance(next.since(self.now));
            self.now = next;
            self.happen();
            self.step_until_quiet();
        }
    }

    /// All that is due now.
    fn happen(&mut self) {
        while self.heap.peek().is_some_and(|Reverse((at, _, _))| *at <= self.now) {
            match self.heap.pop() {
                Some(Reverse((_, _, Happening::Link(id, timer)))) => self.timer(id, timer),
                Some(Reverse((_, _, Happening::Answer(domain, turn)))) => self.answer(domain, turn),
                Some(Reverse((_, _, Happening::Load))) => self.take_load(),
                None => {}
            }
        }
    }

    fn step_until_quiet(&mut self) {
        let mut spins = 0;
        loop {
            let alarm = self.core.next_alarm().is_some_and(|at| at <= self.now);
            let alarm = alarm && self.stepped_at < self.now;
            let changed = self.dirty && self.now.0 >= self.stepped_at.0 + BACKLOG_PAUSE;
            if !(self.stirred || alarm || changed) {
                return;
            }
            let said = self.step();
            let only_alarm = alarm && !changed && spins == 0 && said == 0;
            self.figures.idle_steps += u64::from(only_alarm);
            spins += 1;
            assert!(spins < SPINS, "the planner does not come to rest");
        }
    }

    /// What the dispatcher does each time; gives the number of commands.
    #[allow(clippy::disallowed_methods, reason = "what the planner costs is measured")]
    fn step(&mut self) -> usize {
        (self.stirred, self.dirty, self.stepped_at) = (false, false, self.now);
        let backlog = self.store.backlog_part(self.revision, BACKLOG_PART);
        self.revision = backlog.revision;
        self.dirty = backlog.queues.len() >= BACKLOG_PART;
        let begun = Instant::now();
        self.core.backlog(backlog, self.now);
        let commands = self.core.step(self.now);
        let took = begun.elapsed();
        self.figures.planning += took;
        self.figures.longest = self.figures.longest.max(took);
        self.figures.steps += 1;
        let count = commands.len();
        commands.into_iter().for_each(|command| self.obey(command));
        count
    }

    #[allow(clippy::disallowed_methods, reason = "what the planner costs is measured")]
    fn tell(&mut self, event: Event) {
        self.figures.events += 1;
        let begun = Instant::now();
        self.core.handle(event, self.now);
        self.figures.planning += begun.elapsed();
        self.stirred = true;
    }

    fn plan(&mut self, at: Timestamp, happening: Happening) {
        self.happened += 1;
        self.heap.push(Reverse((at, self.happened, happening)));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Resolve(domain, turn) => self.ask(domain, turn),
            Command::Open(opening) => self.open(opening),
            Command::Claim(link, claim) => self.order(link, link::Order::Claim(claim)),
            Command::Wake(link) => self.order(link, link::Order::Wake),
            Command::Quit(link) => self.order(link, link::Order::Quit),
            Command::Release(leases) => {
                self.dirty = true;
                at_once(self.store.release(leases)).unwrap();
            }
            // It waited in line for longer than its leases last: the store gives it to others.
            Command::Conclude(job, _) if job.trusted_until <= self.now => self.figures.told += 1,
            Command::Conclude(job, verdict) => {
                let verdicts = vec![verdict; job.transaction.deliveries.len()];
                self.settle(&job.transaction, &verdicts, "");
            }
            Command::GiveUp(claim, verdict) => self.give_up(&claim, &verdict),
            Command::Expired(_) | Command::Unreachable(..) | Command::Recovered(..) => {
                self.figures.told += 1
            }
        }
    }

    /// As `Shared::give_up`.
    fn give_up(&mut self, claim: &Claim, verdict: &Verdict) {
        loop {
            let claimed = self.claim(claim.clone());
            if claimed.is_empty() {
                return;
            }
            for claimed in claimed {
                self.conclude_claimed(claimed, verdict);
            }
            if claim.expired_at.is_none() {
                return;
            }
        }
    }

    fn conclude_claimed(&mut self, claimed: Claimed, verdict: &Verdict) {
        let Claimed { head, deliveries, .. } = claimed;
        let verdicts = vec![verdict.clone(); deliveries.len()];
        let transaction = Transaction { head, body: Default::default(), deliveries };
        self.settle(&transaction, &verdicts, "");
    }

    /// As `Shared::claim`.
    fn claim(&mut self, claim: Claim) -> Vec<Claimed> {
        self.dirty = true;
        self.figures.claims += 1;
        let (plan, reported) = (claim.queues.clone(), claim.expired_at.is_none());
        let claimed = at_once(self.store.claim(claim)).unwrap();
        let mut got: HashMap<QueueId, u32> = HashMap::new();
        // Of each tenant, newsletters never tried and others.
        let mut given: BTreeMap<usize, Vec<[u64; 2]>> = BTreeMap::new();
        for claimed in claimed.iter().filter(|c| c.head.origin.lane == Lane::Bulk) {
            let tenant = self.tenant(&claimed.head.origin.tenant);
            for delivery in &claimed.deliveries {
                *got.entry(delivery.lease.queue).or_default() += 1;
                let route = self.route_of(&delivery.recipient);
                let given = given.entry(route).or_insert_with(|| vec![[0; 2]; self.tenants.len()]);
                given[tenant][usize::from(delivery.attempts > 0)] += 1;
            }
        }
        for claimed in claimed.iter().filter(|c| c.head.origin.lane == Lane::Direct) {
            for delivery in &claimed.deliveries {
                *got.entry(delivery.lease.queue).or_default() += 1;
            }
        }
        for (route, given) in given {
            let site = route / SETS;
            if self.uneven.contains(&site) {
                continue;
            }
            let connections = self.operators[site].limits.connections;
            self.shares.claimed(site, &given, connections, self.now);
        }
        if reported {
            self.tell(Event::Claimed { plan, got });
        }
        claimed
    }

    /// Newsletters come back that were claimed and not tried.
    fn not_claimed(&mut self, transaction: &Transaction, which: impl Fn(&Delivery) -> bool) {
        let tenant = self.tenant(&transaction.head.origin.tenant);
        for delivery in transaction.deliveries.iter().filter(|d| d.attempts == 0 && which(d)) {
            self.note_waiting(&delivery.recipient.clone(), tenant, self.now);
        }
    }

    fn tenant(&self, name: &str) -> usize {
        self.tenants.iter().position(|tenant| tenant == name).unwrap()
    }

    /// Domains with the same number have the same hosts.
    fn route_of(&self, recipient: &Recipient) -> usize {
        let place = &self.places[self.by_name[recipient.mailbox.domain().unwrap()]];
        let set = match place.answer {
            Answer::Hosts(set) | Answer::OwnName(set) => set,
            Answer::FailingUntil(_) | Answer::NoSuchDomain | Answer::NullMx => 0,
        };
        place.operator * SETS + set
    }

    fn note_waiting(&mut self, recipient: &Recipient, tenant: usize, due_at: Timestamp) {
        let site = self.route_of(recipient) / SETS;
        if !self.uneven.contains(&site) {
            self.shares.arrived(site, tenant, due_at);
        }
    }

    /// As `Shared::settle`.
    fn settle(&mut self, transaction: &Transaction, verdicts: &[Verdict], host: &str) {
        let rules = Rules { hostname: &self.config.hostname, retry: &self.config.retry };
        let peer = Peer { host, reports: false };
        let (rng, ids) = (&mut self.rng, &mut self.ids);
        let concluded = conclude(&rules, transaction, verdicts, peer, self.now, rng, ids);
        self.dirty = true;
        if !concluded.untried.is_empty() {
            at_once(self.store.release(concluded.untried)).unwrap();
        }
        for notice in &concluded.settlement.notices {
            self.enter(notice);
        }
        for settled in &concluded.settlement.outcomes {
            self.ledger.settled(settled.lease.delivery, settled.outcome, self.now);
        }
        let delivered = |s: &&bulkhead::store::Settled| s.outcome == Outcome::Delivered;
        let delivered = concluded.settlement.outcomes.iter().filter(delivered).count();
        let stale = at_once(self.store.settle(concluded.settlement)).unwrap();
        assert_eq!(stale, [], "a lease was lost while it was used");
        if delivered > 0 && transaction.head.origin.lane == Lane::Bulk {
            self.last_newsletter = self.now;
        }
        if self.refill && transaction.head.origin.lane == Lane::Bulk {
            transaction.deliveries.iter().take(delivered).for_each(|d| self.follow(transaction, d));
        }
    }

    fn follow(&mut self, transaction: &Transaction, delivery: &bulkhead::store::Delivery) {
        let origin = &transaction.head.origin;
        let place = self.by_name[delivery.recipient.mailbox.domain().unwrap()];
        let campaign = origin.campaign.parse().unwrap();
        self.accept(&Mail::bulk(self.tenant(&origin.tenant), campaign, place));
    }

    /// Notes what a message is for.
    fn enter(&mut self, message: &NewMessage) {
        let head = message.split().0;
        for (number, recipient) in (0..).zip(&message.envelope.recipients) {
            self.ledger.accepted(bulkhead::store::DeliveryId { message: head.id, number });
            if head.origin.lane == Lane::Bulk {
                let tenant = self.tenant(&head.origin.tenant);
                self.note_waiting(recipient, tenant, message.due_at);
            }
        }
    }

    fn take_load(&mut self) {
        while let Some((_, mail)) = self.load.pop_front_if(|(at, _)| *at <= self.now) {
            self.accept(&mail);
        }
        if let Some((at, _)) = self.load.front() {
            self.plan(*at, Happening::Load);
        }
    }

    /// As a session and `receive::intake` do it.
    pub fn accept(&mut self, mail: &Mail) {
        let is_direct = mail.lane == Lane::Direct;
        let expire = match mail.lane {
            Lane::Direct => self.config.retry.direct.expire,
            Lane::Bulk => self.config.retry.bulk.expire,
        };
        let gather = if is_direct { Duration::ZERO } else { self.config.lanes.gather };
        let sender = format!("news@{}", self.places[self.places.len() - 1].name);
        let mut envelope = Envelope::from(ReversePath::parse(&sender).unwrap());
        for place in &mail.to {
            let domain = &self.places[*place].name;
            let mailbox = Mailbox::parse(&format!("ann@{domain}")).unwrap();
            envelope.recipients.push(Recipient::new(mailbox));
            if is_direct {
                let expected = Event::Expected(domain.clone());
                self.tell(expected);
            }
        }
        let message = NewMessage {
            id: self.ids.next(self.now),
            accepted_at: self.now,
            due_at: self.now.after(gather),
            expires_at: self.now.after(expire),
            origin: Origin {
                lane: mail.lane,
                reason: String::new(),
                tenant: self.tenants[mail.tenant].clone(),
                campaign: if is_direct { String::new() } else { mail.campaign.to_string() },
                client: String::new(),
            },
            envelope,
            body: bytes::Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"),
        };
        self.enter(&message);
        self.dirty = true;
        let body = message.body.clone();
        let accepted = at_once(self.store.accept(message, is_direct.then_some(LEASE))).unwrap();
        let Some(claimed) = accepted.claimed else { return };
        for (delivery, place) in claimed.deliveries.iter().zip(&mail.to) {
            let place = &self.places[*place];
            let operator = &self.operators[place.operator];
            let is_limited = self.to_domains.contains_key(&place.name)
                || !self.config.tenants[mail.tenant].rates.is_empty();
            if operator.promised && place.is_sound() && !is_limited {
                let needs = place.takes + operator.manner.connect();
                let needs = needs + operator.manner.transaction(false);
                self.ledger.watch(delivery.lease.delivery, self.now, needs);
            }
        }
        self.figures.handed += 1;
        let handoff = Handoff { claimed, body, receive: Duration::ZERO };
        self.tell(Event::Direct(handoff, Arc::clone(&self.room)));
    }

    fn ask(&mut self, domain: Domain, turn: Turn) {
        self.figures.questions += 1;
        let turn = match turn {
            Turn::Bulk => 0,
            Turn::Expected => 1,
            Turn::Direct => 2,
        };
        self.asked[turn].1.push_back(domain);
        self.ask_next(turn);
    }

    fn ask_next(&mut self, turn: usize) {
        if self.asked[turn].0 == LOOK_UPS[turn] {
            return;
        }
        let Some(domain) = self.asked[turn].1.pop_front() else { return };
        self.asked[turn].0 += 1;
        let takes = self.by_name.get(&domain).map_or(5, |place| self.places[*place].takes);
        self.plan(self.now.after(ms(takes)), Happening::Answer(domain, turn));
    }

    fn answer(&mut self, domain: Domain, turn: usize) {
        self.asked[turn].0 -= 1;
        self.ask_next(turn);
        let place = self.by_name.get(&domain).map(|place| &self.places[*place]);
        let resolution = place.map_or(bulkhead::policy::site::Resolution::NoSuchDomain, |place| {
            place.resolve(&self.operators, self.now)
        });
        self.tell(Event::Resolved(domain, resolution));
    }

    /// All mail was handed over and has ended.
    pub fn is_done(&self) -> bool {
        self.load.is_empty() && self.ledger.open() == 0
    }

    /// Connections, also those that are being opened.
    pub fn connections(&self) -> u32 {
        self.operators.iter().map(|operator| operator.links).sum()
    }

    /// What the store counts, all queues together.
    pub fn queued(&self) -> u64 {
        let count = |queue: &QueueBacklog| queue.waiting() + queue.leased + queue.held;
        self.store.backlog(Revision::START).queues.iter().map(count).sum()
    }
}

fn limited(rule: &DomainRule) -> (Domain, [Vec<Timestamp>; 2]) {
    (Domain::parse(&rule.name).unwrap(), Default::default())
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
