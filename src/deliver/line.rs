//! What a site's connections share: the line of direct mail that is next, and the paces.
//!
//! A direct message is taken by whichever connection comes first to the end of its transaction; so
//! the line is shared, while all other work is given to one connection.

use super::connection::Transaction;
use super::core::AHEAD;
use super::core::LinkId;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::feedback::scoped::{Scoped, Standing};
use crate::policy::feedback::{Complaint, Whose};
use crate::policy::paces::{Paces, What};
use crate::policy::site::route::Route;
use crate::policy::site::{Limit, Limits, Rate};
use crate::policy::source::{Pool, Source, SourceId};
use crate::store::{Delivery, Lease};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// See [`Way::key`].
pub type WayKey = (Arc<[IpAddr]>, Pool);

/// How mail gets to its receiver: to one of these addresses, from one of these sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where to.
    pub route: Arc<Route>,
    /// Where from.
    pub pool: Pool,
}

impl Way {
    /// Mail of equal ones stands in one line: for the same addresses, from the same sources.
    #[must_use]
    pub fn key(&self) -> WayKey {
        (Arc::clone(&self.route.addresses), self.pool.clone())
    }

    /// Mail of equal ones has the same sources to choose from.
    #[must_use]
    pub fn choice(&self) -> (Pool, bool, bool) {
        let has = |v4| self.route.addresses.iter().any(|address| address.is_ipv4() == v4);
        (self.pool.clone(), has(true), has(false))
    }

    /// True where its mail may go over a connection from `source` to `address`.
    #[must_use]
    pub fn serves(&self, source: SourceId, address: IpAddr) -> bool {
        self.pool.has(source) && self.route.serves(address)
    }
}

/// One transaction to be sent, and what its log line needs.
#[derive(Debug)]
pub struct Job {
    /// Message and recipients; the bytes are in memory.
    pub transaction: Transaction,
    /// How long the client took to hand it over; `None` where it came from the store.
    pub receive: Option<Duration>,
    /// For direct mail: whoever cannot send it puts it back in line.
    pub way: Option<Way>,
    /// When its leases end.
    pub trusted_until: Timestamp,
    /// Room in memory, given back when the last holder is dropped.
    pub room: Arc<OwnedSemaphorePermit>,
}

impl Job {
    /// The lane of its message.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.transaction.head.origin.lane
    }

    /// This job, in parts: none has more recipients than `most` says of any of them.
    #[must_use]
    pub fn split(mut self, most: impl Fn(&Delivery) -> u32) -> Vec<Self> {
        let mut parts = Vec::new();
        loop {
            let mut least = u32::MAX;
            let fits = |(before, delivery): &(u32, &Delivery)| {
                least = least.min(most(delivery).max(1));
                *before < least
            };
            let first = (0..).zip(&self.transaction.deliveries).take_while(fits).count();
            if first == self.transaction.deliveries.len() {
                break;
            }
            let rest = self.transaction.deliveries.split_off(first);
            let Transaction { head, body, deliveries } = &mut self.transaction;
            let deliveries = std::mem::replace(deliveries, rest);
            let (head, body) = (Arc::clone(head), body.clone());
            parts.push(Self {
                transaction: Transaction { head, body, deliveries },
                receive: self.receive,
                way: self.way.clone(),
                trusted_until: self.trusted_until,
                room: Arc::clone(&self.room),
            });
        }
        parts.push(self);
        parts
    }

    /// Takes some of its deliveries out, and gives their leases.
    pub fn take_out(&mut self, out: impl Fn(&Delivery) -> bool) -> Vec<Lease> {
        let deliveries = std::mem::take(&mut self.transaction.deliveries);
        let (out, left): (Vec<_>, _) = deliveries.into_iter().partition(out);
        self.transaction.deliveries = left;
        out.into_iter().map(|delivery| delivery.lease).collect()
    }

    /// True where it may go over a connection from `source` to `address`.
    fn is_served(&self, source: SourceId, address: IpAddr) -> bool {
        self.way.as_ref().is_some_and(|way| way.serves(source, address))
    }

    /// Number of recipients.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.transaction.deliveries.len()).unwrap_or(u32::MAX)
    }
}

/// The shared part of a site; at first an empty line without a pace.
#[derive(Debug, Default)]
pub struct Line(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    direct: VecDeque<Job>,
    /// Connections that were told of a job, and have taken none since.
    woken: BTreeSet<LinkId>,
    paces: Paces,
    /// What the site complained about: tenants, senders' domains, sources.
    tenants: Scoped,
    senders: Scoped,
    sources: Scoped,
}

impl State {
    fn next_from(&mut self, source: &Source, lane: Lane, now: Timestamp) -> Timestamp {
        let told = self.sources.waits(&source.name, now).map_or(now, |(at, _)| at);
        told.max(self.paces.next_from(What::Message, source.id, lane, now))
    }
}

impl Line {
    /// See [`Paces::retune`].
    pub fn retune(&self, limits: &Limits, rates: &[Rate], now: Timestamp) {
        self.lock().paces.retune(limits, rates, now);
    }

    /// Puts a direct job at the end of the line.
    pub fn push(&self, job: Job) {
        self.lock().direct.push_back(job);
    }

    /// Puts back at the front what a connection took and could not begin.
    pub fn push_front(&self, job: Job) {
        self.lock().direct.push_front(job);
    }

    /// The first direct job that may go over this connection, from `source` to `address`, that
    /// takes `room` more recipients: as many of them, where all jobs have more. None where the
    /// source rests for long, since others may not.
    pub fn pop(
        &self,
        link: LinkId,
        (source, address): (&Source, IpAddr),
        room: u32,
        now: Timestamp,
    ) -> Option<Job> {
        let mut state = self.lock();
        state.woken.remove(&link);
        if state.next_from(source, Lane::Direct, now) > now.after(AHEAD) {
            return None;
        }
        let line = &mut state.direct;
        let serves = |job: &Job| job.is_served(source.id, address);
        let whole = line.iter().position(|job| serves(job) && job.count() <= room);
        let at = whole.or_else(|| line.iter().position(serves).filter(|_| room > 0))?;
        let mut parts = line.remove(at)?.split(|_| room).into_iter();
        let first = parts.next();
        parts.rev().for_each(|rest| line.insert(at, rest));
        first
    }

    /// The connection is told that there is a job for it.
    pub fn wake(&self, link: LinkId) {
        self.lock().woken.insert(link);
    }

    /// It has looked, or has ended.
    pub fn forget(&self, link: LinkId) {
        self.lock().woken.remove(&link);
    }

    /// Connections that will look at the line in a moment.
    #[must_use]
    pub fn woken(&self) -> Vec<LinkId> {
        self.lock().woken.iter().copied().collect()
    }

    /// Takes everything out.
    pub fn clear(&self) -> Vec<Job> {
        self.lock().direct.drain(..).collect()
    }

    /// Takes out the jobs whose way is meant.
    pub fn take_out(&self, is_meant: impl Fn(&Way) -> bool) -> Vec<Job> {
        let line = &mut self.lock().direct;
        let meant = |job: &Job| job.way.as_ref().is_some_and(&is_meant);
        let (out, kept): (Vec<Job>, Vec<Job>) = line.drain(..).partition(meant);
        line.extend(kept);
        out
    }

    /// Length of the line.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().direct.len()
    }

    /// True where nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ways of the first `most` waiting jobs.
    #[must_use]
    pub fn ways(&self, most: usize) -> Vec<Way> {
        self.lock().direct.iter().take(most).filter_map(|job| job.way.clone()).collect()
    }

    /// When a waiting job may be taken by a connection from `source` to `address` that has room;
    /// not later than `now` where it may now, `None` where there is none for it.
    #[must_use]
    pub fn serves_at(&self, source: &Source, address: IpAddr, now: Timestamp) -> Option<Timestamp> {
        let state = &mut *self.lock();
        let is_any = state.direct.iter().any(|job| job.is_served(source.id, address));
        is_any.then(|| state.next_from(source, Lane::Direct, now).before(AHEAD))
    }

    /// When a message of the lane may begin from this source, for its own sake; not later than
    /// `now` where it may now.
    #[must_use]
    pub fn next_from(&self, source: &Source, lane: Lane, now: Timestamp) -> Timestamp {
        self.lock().next_from(source, lane, now)
    }

    /// How many messages of the lane may begin now from this source, up to `wanted`.
    #[must_use]
    pub fn available(&self, source: &Source, lane: Lane, now: Timestamp, wanted: u32) -> u32 {
        let state = &mut *self.lock();
        let wanted = state.sources.available(&source.name, now).min(wanted);
        state.paces.available(source.id, lane, now, wanted)
    }

    /// Uses the paces for one message that begins now from this source.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin(&self, source: &Source, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        let state = &mut *self.lock();
        if let Some((at, _)) = state.sources.waits(&source.name, now) {
            return Err(at);
        }
        state.paces.begin(What::Message, source.id, lane, now)?;
        state.sources.take(&source.name, now);
        Ok(())
    }

    /// See [`Paces::slack`].
    #[must_use]
    pub fn slack(&self) -> Duration {
        self.lock().paces.slack()
    }

    /// When a message of the lane may begin, from whichever source.
    #[must_use]
    pub fn next_at(&self, lane: Lane, now: Timestamp) -> Timestamp {
        self.lock().paces.next_at(lane, now)
    }

    /// True where the paces are as if new, and no complaint stands.
    #[must_use]
    pub fn is_rested(&self, now: Timestamp) -> bool {
        let state = &mut *self.lock();
        let mut scoped = [&mut state.tenants, &mut state.senders, &mut state.sources];
        scoped.iter_mut().for_each(|scoped| scoped.sweep(now));
        scoped.iter().all(|scoped| scoped.is_empty()) && state.paces.is_rested(now)
    }

    /// Uses the paces for one new connection from this source: for each address that is tried.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin_open(&self, source: &Source, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        self.lock().paces.begin(What::Connection, source.id, lane, now)
    }

    /// Until when no mail of the lane, or no new connection for it, may go from this source, for
    /// its own sake, and what it waits for.
    #[must_use]
    pub fn rests(&self, source: &Source, lane: Lane, now: Timestamp) -> Option<(Timestamp, Limit)> {
        let state = &mut *self.lock();
        let told = state.sources.waits(&source.name, now).map(|(at, _)| (at, Limit::Source));
        let next = |what| state.paces.next_from(what, source.id, lane, now);
        let paced =
            [(next(What::Message), Limit::Rate), (next(What::Connection), Limit::ConnectionRate)];
        told.into_iter().chain(paced).filter(|(at, _)| *at > now).max_by_key(|(at, _)| *at)
    }

    /// What the site wants of this source, where it complained about it.
    #[must_use]
    pub fn standing(&self, source: &Source, now: Timestamp) -> Option<Standing> {
        self.lock().sources.standing(&source.name, now)
    }

    /// Until when it wants nothing from this source, and why.
    #[must_use]
    pub fn stopped(&self, source: &Source, now: Timestamp) -> Option<(Timestamp, String)> {
        self.lock().sources.stopped(&source.name, now)
    }

    /// The site complained about some of the mail; see [`Scoped::complain`].
    pub fn complain(&self, complaint: &Complaint, floor: u64, now: Timestamp) {
        let state = &mut *self.lock();
        let (scoped, name) = match &complaint.whose {
            Whose::Everyones => return,
            Whose::Tenants(name) => (&mut state.tenants, name),
            Whose::Senders(name) => (&mut state.senders, name),
            Whose::Sources(name) => (&mut state.sources, name),
        };
        scoped.complain(name, complaint, floor, now);
    }

    /// True where the site complained about some tenant's mail lately.
    #[must_use]
    pub fn has_complaints(&self) -> bool {
        !self.lock().tenants.is_empty()
    }

    /// How many messages of the tenant the site takes now; [`u32::MAX`] where it never complained.
    #[must_use]
    pub fn available_to(&self, tenant: &str, now: Timestamp) -> u32 {
        self.lock().tenants.available(tenant, now)
    }

    /// Until when the tenant's mail waits at this site, and why.
    #[must_use]
    pub fn waits(&self, tenant: &str, now: Timestamp) -> Option<(Timestamp, String)> {
        self.lock().tenants.waits(tenant, now)
    }

    /// From when to when mail from this domain is to come again, and why; `None` where it may go
    /// now.
    #[must_use]
    pub fn puts_off(&self, sender: &str, now: Timestamp) -> Option<(Timestamp, Timestamp, String)> {
        self.lock().senders.puts_off(sender, now)
    }

    /// Uses what the site leaves to the tenant and the sender's domain for one message.
    pub fn take_for(&self, tenant: &str, sender: Option<&str>, now: Timestamp) {
        let state = &mut *self.lock();
        state.tenants.take(tenant, now);
        if let Some(sender) = sender {
            state.senders.take(sender, now);
        }
    }

    /// The rate over all sources that newsletters wait for, and until when.
    #[must_use]
    pub fn binding(&self, what: What, now: Timestamp) -> Option<(Timestamp, Rate)> {
        self.lock().paces.binding(what, now)
    }

    /// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
