//! What a site's connections share: the line of direct mail that is next, and the pace.
//!
//! A direct message is taken by whichever connection comes first to the end of its transaction; so
//! the line is shared, while all other work is given to one connection.

use super::connection::Transaction;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::feedback::scoped::Scoped;
use crate::policy::feedback::{Complaint, Whose};
use crate::policy::site::Rate;
use crate::policy::site::route::Route;
use crate::policy::throttle::Pace;
use crate::store::{Delivery, Lease};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// One transaction to be sent, and what its log line needs.
#[derive(Debug)]
pub struct Job {
    /// Message and recipients; the bytes are in memory.
    pub transaction: Transaction,
    /// How long the client took to hand it over; `None` where it came from the store.
    pub receive: Option<Duration>,
    /// Its way, for direct mail: whoever cannot send it puts it back in line.
    pub route: Option<Arc<Route>>,
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
                route: self.route.clone(),
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

    /// True where it may go over a connection to `address` that takes `room` more recipients.
    fn fits(&self, address: IpAddr, room: u32) -> bool {
        self.count() <= room && self.route.as_ref().is_some_and(|route| route.serves(address))
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
    pace: Pace,
    /// Of new connections.
    opens: Pace,
    /// Whose mail the site complained about: tenants, and senders' domains.
    tenants: Scoped,
    senders: Scoped,
}

impl Line {
    /// Changes the pace of messages and of new connections; what went out before still counts.
    pub fn retune(&self, rates: &[Rate], connection_rates: &[Rate]) {
        let state = &mut *self.lock();
        state.pace.retune(rates);
        state.opens.retune(connection_rates);
    }

    /// Puts a direct job at the end of the line.
    pub fn push(&self, job: Job) {
        self.lock().direct.push_back(job);
    }

    /// Puts back at the front what a connection took and could not begin.
    pub fn push_front(&self, job: Job) {
        self.lock().direct.push_front(job);
    }

    /// The first direct job that may go over a connection to `address` that takes `room` more
    /// recipients.
    pub fn pop(&self, address: IpAddr, room: u32) -> Option<Job> {
        let mut state = self.lock();
        let at = state.direct.iter().position(|job| job.fits(address, room))?;
        state.direct.remove(at)
    }

    /// Takes everything out.
    pub fn clear(&self) -> Vec<Job> {
        self.lock().direct.drain(..).collect()
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

    /// The routes of the first `most` waiting jobs.
    #[must_use]
    pub fn routes(&self, most: usize) -> Vec<Arc<Route>> {
        self.lock().direct.iter().take(most).filter_map(|job| job.route.clone()).collect()
    }

    /// True where a waiting job may go over a connection to `address` that takes `room` more
    /// recipients.
    #[must_use]
    pub fn serves(&self, address: IpAddr, room: u32) -> bool {
        self.lock().direct.iter().any(|job| job.fits(address, room))
    }

    /// How many messages of the lane may begin now, up to `wanted`.
    #[must_use]
    pub fn available(&self, lane: Lane, now: Timestamp, wanted: u32) -> u32 {
        self.lock().pace.available(lane, now, wanted)
    }

    /// Uses the pace for one message that begins now.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin(&self, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        self.lock().pace.begin(lane, now)
    }

    /// See [`Pace::slack`].
    #[must_use]
    pub fn slack(&self) -> Duration {
        self.lock().pace.slack()
    }

    /// When a message of the lane may begin.
    #[must_use]
    pub fn next_at(&self, lane: Lane, now: Timestamp) -> Timestamp {
        self.lock().pace.next_at(lane, now)
    }

    /// True where the pace is as if new, and no complaint stands.
    #[must_use]
    pub fn is_rested(&self, now: Timestamp) -> bool {
        let mut state = self.lock();
        state.tenants.sweep(now);
        state.senders.sweep(now);
        state.tenants.is_empty()
            && state.senders.is_empty()
            && state.pace.is_rested(now)
            && state.opens.is_rested(now)
    }

    /// Uses the pace for one new connection: for each address that is tried.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin_open(&self, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        self.lock().opens.begin(lane, now)
    }

    /// The rate of new connections that newsletters wait for, and until when.
    #[must_use]
    pub fn opens_binding(&self, now: Timestamp) -> Option<(Timestamp, Rate)> {
        self.lock().opens.binding(now)
    }

    /// The site complained about some of the mail; see [`Scoped::complain`].
    pub fn complain(&self, complaint: &Complaint, per_minute: u64, floor: u64, now: Timestamp) {
        let state = &mut *self.lock();
        let (scoped, name) = match &complaint.whose {
            Whose::Everyones => return,
            Whose::Tenants(name) => (&mut state.tenants, name),
            Whose::Senders(name) => (&mut state.senders, name),
        };
        scoped.complain(name, complaint, per_minute, floor, now);
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

    /// The rate that newsletters wait for, and until when.
    #[must_use]
    pub fn binding(&self, now: Timestamp) -> Option<(Timestamp, Rate)> {
        self.lock().pace.binding(now)
    }

    /// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
