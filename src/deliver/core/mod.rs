//! The dispatcher's decisions: events in, commands out; no IO, no clock.
//!
//! Input: [`Event`]s (a direct message, DNS answers, what connections report) and the backlog's
//! changes, each with the time. Output: [`Command`]s, drained by the shell in
//! `deliver::dispatcher`.
//!
//! # Strategy
//! * *Direct first.* A direct message joins the [`Line`] of its site, and the first connection that
//!   is free takes it; if none is idle a new one is opened too. Bulk mail never holds the
//!   connections reserved for it.
//! * *Pull, not push.* A connection asks for bulk mail when it has room; [`Turns`] says which
//!   queues fill it. So mail waits in the store, not behind a slow host.
//! * *As few connections as do the work*: one per connection's worth of waiting deliveries, up to
//!   the limit; more where they wait for long although all are at work.
//! * *A shut gate leaves mail where it is.* An unreachable site or a failing DNS is probed with
//!   growing pauses; what is queued for it goes on at once when it answers.
//!
//! # Invariants
//! * Connections of a site, opening ones included, never exceed its limit; those busy with bulk
//!   mail never exceed the limit less the reserve (`core::tests`).
//! * Work follows changes: no event costs more than the queues, routes and connections of the sites
//!   it touches, and a step looks at so many other queues at most (`looks`), however many wait.
//!
//! # Absent
//! Limits per address (`deliver::addresses`: held by the connections themselves), the pace of
//! messages (the line).

mod domains;
mod extent;
mod feedback;
mod grants;
mod in_order;
mod links;
mod looks;
mod opens;
mod orders;
mod permits;
mod queues;
mod reload;
mod rounds;
mod sites;
mod sources;
#[cfg(test)]
mod tests;
mod waits;

pub use extent::Extent;

use self::in_order::InOrder;
use self::looks::Looks;
use self::rounds::Rounds;
use super::line::{Job, Line};
use super::quotas::Quotas;
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::random::Rng;
use crate::base::time::Timestamp;
use crate::config::Config;
use crate::mail::message::{ByLane, Lane};
use crate::policy::feedback::Complaint;
use crate::policy::feedback::learned::Learned;
use crate::policy::orders::Orders;
use crate::policy::schedule::Plan;
use crate::policy::site::route::Hop;
use crate::policy::site::{Directory, Limits, Resolution, SiteId, SiteStatus};
use crate::policy::source::Source;
use crate::policy::verdict::Verdict;
use crate::store::{Backlog, Claim, Handoff, Lease};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// How long claimed deliveries are ours; renewed by the connection well before.
pub const LEASE: Duration = Duration::from_secs(2 * 3_600);
/// A connection for direct mail is opened so long before the pace lets the mail go; one that stands
/// waits so long at least.
pub const AHEAD: Duration = Duration::from_secs(1);
/// Deliveries claimed in one go: few enough that other connections find some too.
const BATCH: u32 = 25;
/// And no fewer where connections share what is left, so that claims stay few.
const BATCH_MIN: u32 = 5;
/// Mail that has waited so long while all connections were busy gets up to twice as many.
const PRESSED: Duration = Duration::from_secs(1);

/// Names a connection, from its opening to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Whose question to DNS it is; a later one comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// A newsletter's.
    Bulk,
    /// A recipient was named; of which lane the message is will be seen.
    Expected,
    /// A direct message's, which waits for the answer.
    Direct,
}

impl From<Lane> for Turn {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Direct => Self::Direct,
            Lane::Bulk => Self::Bulk,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A recipient was named: its MX will be needed soon.
    Expected(Domain),
    /// A direct message was accepted; the room that it takes in memory.
    Direct(Handoff, Arc<OwnedSemaphorePermit>),
    /// DNS answered.
    Resolved(Domain, Resolution),
    /// A connection stands and now looks for work.
    Opened(LinkId, IpAddr),
    /// None of the addresses could be connected to; or all were at their limit (`why` is empty).
    NotOpened(LinkId, String),
    /// A connection would take up to `room` more deliveries.
    Wants {
        /// Which.
        link: LinkId,
        /// How many.
        room: u32,
        /// It has nothing else to do.
        idle: bool,
        /// Claims that it was given and knows of: with others on their way it is not idle.
        claims: u32,
        /// Deliveries done since it last said so.
        done: u32,
    },
    /// A receiver asks for less.
    Complaint(LinkId, Complaint),
    /// The receiver ended a connection between two messages, after so many deliveries over it.
    EndedByPeer(LinkId, u32),
    /// A slow connection has done so many deliveries since it last said so.
    Did(LinkId, u32),
    /// A connection says goodbye, and is closed soon.
    Leaving(LinkId),
    /// A claim was carried out.
    Claimed {
        /// What had been asked for.
        plan: Plan,
        /// What was got of it, by queue.
        got: HashMap<QueueId, u32>,
    },
    /// A connection ended.
    Closed {
        /// Which.
        link: LinkId,
        /// Deliveries done since it last said so.
        done: u32,
        /// It ended in trouble before it delivered anything.
        trouble: Option<String>,
    },
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Ask DNS, in this turn.
    Resolve(Domain, Turn),
    /// Open a connection.
    Open(Opening),
    /// Claim these and send them.
    Claim(LinkId, Claim),
    /// There is something in the line.
    Wake(LinkId),
    /// Not needed any more.
    Quit(LinkId),
    /// End these leases: they will be due again.
    Release(Vec<Lease>),
    /// Settle a direct job without a connection.
    Conclude(Job, Verdict),
    /// Settle what is due in a queue (or expired) without a connection.
    GiveUp(Claim, Verdict),
    /// Tell that no host of a site answers, and why.
    Unreachable(Arc<str>, String),
    /// Tell that a site takes mail again, after so long.
    Recovered(Arc<str>, Duration),
    /// Tell that these orders of the operator have come to their end.
    Expired(Orders),
}

/// Everything a new connection needs to know.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its name.
    pub link: LinkId,
    /// Its site's name.
    pub site: Arc<str>,
    /// Its site's limits.
    pub limits: Limits,
    /// Where it is opened from.
    pub source: Arc<Source>,
    /// What it is opened for.
    pub lane: Lane,
    /// Addresses to try, in order.
    pub hops: Vec<Hop>,
    /// Its site's direct mail and pace.
    pub line: Arc<Line>,
}

/// Wakes the core at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// The site's gate or pace may have opened.
    Site(SiteId),
    /// A tenant's rate may let some go.
    Tenant(String),
    /// A domain's rate may let some go.
    Rate(Domain),
    /// DNS may answer again.
    Domain(Domain),
    /// An order of the operator comes to its end.
    Orders,
    /// Look at the next of everything.
    Sweep,
}

/// The state of all deliveries' ways out.
pub struct Core {
    config: Arc<Config>,
    rng: Rng,
    directory: Directory,
    domains: HashMap<Domain, domains::Entry>,
    /// Boxed, so that little is moved where the table grows.
    queues: HashMap<QueueId, Box<queues::Queue>>,
    sites: HashMap<SiteId, sites::Site>,
    links: HashMap<LinkId, links::Link>,
    next_link: u64,
    /// Of sites that are not in use.
    learned: Learned,
    quotas: Arc<Quotas>,
    /// Shares of tenants against each other, where they are not 1.
    weights: HashMap<String, u32>,
    /// Sites with mail of a tenant whose rate is used up.
    waiting: HashMap<String, permits::Waiting>,
    /// Of domains with a rate: queues that wait for it.
    waiters: HashMap<Domain, grants::Waiters>,
    alarms: BTreeSet<(Timestamp, Alarm)>,
    /// Sites that something happened to.
    touched: InOrder<SiteId>,
    /// Sites that could not open a connection because there are too many in all.
    starved: ByLane<InOrder<SiteId>>,
    rounds: Rounds,
    looks: Looks,
    /// Queues to be looked at in the next step: their claims were carried out.
    to_recheck: Vec<QueueId>,
    commands: Vec<Command>,
    /// Of the operator.
    orders: Orders,
    all_held: bool,
    draining: bool,
}

impl Core {
    /// Nothing known yet. Rules that name a domain ask for its MX at once, so that their limits
    /// hold from the start.
    #[must_use]
    pub fn new(config: Arc<Config>, rng: Rng, now: Timestamp) -> Self {
        let directory = Directory::new(config.sites.clone());
        let mut core = Self {
            config: Arc::clone(&config),
            rng,
            directory,
            domains: HashMap::new(),
            queues: HashMap::new(),
            sites: HashMap::new(),
            links: HashMap::new(),
            next_link: 1,
            learned: Learned::default(),
            quotas: Arc::new(Quotas::new(&config.tenants, &config.domains)),
            weights: config.weights(),
            waiting: HashMap::new(),
            waiters: HashMap::new(),
            alarms: BTreeSet::new(),
            touched: InOrder::default(),
            starved: ByLane::default(),
            rounds: Rounds::default(),
            looks: Looks::default(),
            to_recheck: Vec::new(),
            commands: Vec::new(),
            orders: Orders::default(),
            all_held: false,
            draining: false,
        };
        core.sweep(now);
        core.look_up_named(now);
        core
    }

    /// The rates of tenants and of domains, which connections use up.
    #[must_use]
    pub fn quotas(&self) -> Arc<Quotas> {
        Arc::clone(&self.quotas)
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Expected(domain) => self.look_up(domain, Turn::Expected, now),
            Event::Direct(handoff, room) => self.direct(handoff, &room, now),
            Event::Resolved(domain, resolution) => self.resolved(domain, &resolution, now),
            Event::Opened(link, address) => self.opened(link, address, now),
            Event::NotOpened(link, why) => self.not_opened(link, why, now),
            Event::Wants { link, room, idle, claims, done } => {
                self.did(link, done, now);
                self.wants(link, room, idle, claims, now);
            }
            Event::Complaint(link, complaint) => self.complained(link, complaint, now),
            Event::EndedByPeer(link, deliveries) => self.ended_by_peer(link, deliveries, now),
            Event::Leaving(link) => self.leaving(link),
            Event::Did(link, done) => self.did(link, done, now),
            Event::Claimed { plan, got } => self.redeem(&plan, &got, now),
            Event::Closed { link, done, trouble } => self.closed(link, done, trouble, now),
        }
    }

    /// Takes in what changed in the store.
    pub fn backlog(&mut self, backlog: Backlog, now: Timestamp) {
        if std::mem::replace(&mut self.all_held, backlog.all_held) && !backlog.all_held {
            let in_line = self.sites.iter().filter(|(_, site)| !site.line.is_empty());
            self.touched.extend(in_line.map(|(id, _)| *id));
            self.look_at_all();
        }
        for queue in backlog.queues {
            self.queue_changed(queue, now);
        }
    }

    /// Carries out alarms up to `now`, and finds work for the sites that something happened to. To
    /// be called after each batch of events and the backlog of then; the commands are complete.
    pub fn step(&mut self, now: Timestamp) -> Vec<Command> {
        self.recheck(now);
        while self.alarms.first().is_some_and(|(at, _)| *at <= now) {
            match self.alarms.pop_first() {
                Some((_, Alarm::Site(site))) => self.touched.insert(site),
                Some((_, Alarm::Tenant(tenant))) => self.tenant_may(tenant, now),
                Some((_, Alarm::Rate(domain))) => self.domain_may(&domain, now),
                Some((_, Alarm::Domain(domain))) => self.ask_again(&domain, now),
                Some((_, Alarm::Orders)) => self.end_orders(now),
                Some((_, Alarm::Sweep)) => self.sweep(now),
                None => {}
            }
        }
        self.look(now);
        while let Some(site) = self.touched.pop() {
            self.find_work(site, now);
        }
        self.feed_starved(now);
        std::mem::take(&mut self.commands)
    }

    /// When [`Core::step`] has something to do without an event.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Timestamp> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        alarm.into_iter().chain(self.looks.next_at()).min()
    }

    /// Begins no new work and closes what is idle; connections end after their transaction.
    pub fn drain(&mut self) {
        self.draining = true;
        for link in self.links.keys() {
            self.commands.push(Command::Quit(*link));
        }
    }

    /// True when no connection is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.links.is_empty()
    }

    /// The sites as the on-call staff see them.
    #[must_use]
    pub fn status(&mut self, now: Timestamp) -> Vec<SiteStatus> {
        self.site_status(now)
    }

    fn alarm(&mut self, at: Timestamp, alarm: Alarm) {
        if at != Timestamp::NEVER {
            self.alarms.insert((at, alarm));
        }
    }

    fn expire(&self, lane: Lane) -> Duration {
        self.config.retry.of(lane).expire
    }
}
