//! The shell around [`Core`]: brings it events, the backlog and the time, and carries out its
//! commands.

use super::core::{Command, Core, Event, LinkId, Opening, Turn};
use super::shared::Shared;
use super::worker::{self, Order};
use crate::base::address::Domain;
use crate::base::time::Timestamp;
use crate::net::dns::Resolver;
use crate::observe::delivery as tell;
use crate::policy::orders::Orders;
use crate::store::{Handoff, Revision, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

/// The backlog is looked at so often at most: direct mail does not need it, and bulk mail can wait.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// Queues taken in at once of those that were there at the start: the events of meanwhile have
/// their turn after them.
const BACKLOG_PART: usize = 2_000;
/// Events taken in before commands are carried out.
const EVENTS_AT_ONCE: usize = 256;
/// Orders that a connection has not seen yet; the core gives it one at a time, and an end.
const ORDERS: usize = 8;
/// Settlements without a connection under way at once.
const GIVING_UP: usize = 8;
/// Domains asked of DNS at once, in each turn: each question holds sockets. Direct mail has so many
/// that domains whose name servers hang do not hold up the others.
const LOOK_UPS_FOR_BULK: usize = 100;
const LOOK_UPS_EXPECTED: usize = 100;
const LOOK_UPS_FOR_DIRECT: usize = 1_000;

/// Work without a connection that is bounded in number.
struct Gates {
    giving_up: Arc<Semaphore>,
    for_bulk: Arc<Semaphore>,
    expected: Arc<Semaphore>,
    for_direct: Arc<Semaphore>,
}

impl Default for Gates {
    fn default() -> Self {
        let of = |places| Arc::new(Semaphore::new(places));
        Self {
            giving_up: of(GIVING_UP),
            for_bulk: of(LOOK_UPS_FOR_BULK),
            expected: of(LOOK_UPS_EXPECTED),
            for_direct: of(LOOK_UPS_FOR_DIRECT),
        }
    }
}

impl Gates {
    fn look_ups(&self, turn: Turn) -> &Arc<Semaphore> {
        match turn {
            Turn::Bulk => &self.for_bulk,
            Turn::Expected => &self.expected,
            Turn::Direct => &self.for_direct,
        }
    }
}

/// What the dispatcher works with.
pub struct Dispatcher<S> {
    /// The parts that connections use too.
    pub shared: Arc<Shared<S>>,
    /// Its decisions; the control socket looks in here.
    pub core: Arc<Mutex<Core>>,
    /// MX look-ups.
    pub resolver: Arc<Resolver>,
    /// The core was changed from outside: there may be something to do at once.
    pub wake: Arc<Notify>,
    /// Is given the operator's orders that have come to their end; must not block.
    pub expired: Box<dyn Fn(Orders) + Send + Sync>,
    /// From connections and look-ups.
    pub events: mpsc::Receiver<Event>,
    /// From sessions: accepted direct mail.
    pub direct: mpsc::Receiver<Handoff>,
    /// From sessions: domains that mail will go to.
    pub expected: mpsc::Receiver<Domain>,
}

impl<S: Store> Dispatcher<S> {
    /// Works until `stop` turns true and the last connection has ended.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut orders = HashMap::new();
        let gates = Gates::default();
        let mut revision = Revision::START;
        let mut draining = false;
        loop {
            let backlog = self.shared.store.backlog_part(revision, BACKLOG_PART);
            revision = backlog.revision;
            let now = self.shared.clock.now();
            let (commands, alarm, idle) = {
                let mut core = self.core();
                core.backlog(backlog, now);
                if *stop.borrow() && !std::mem::replace(&mut draining, true) {
                    core.drain();
                }
                (core.step(now), core.next_alarm(), core.is_idle())
            };
            for command in commands {
                self.carry_out(command, &mut orders, &gates);
            }
            if draining && idle && gates.giving_up.available_permits() == GIVING_UP {
                return;
            }
            self.wait(alarm, revision, &mut stop, draining, &gates).await;
        }
    }

    /// Until something happens; then takes in all that has happened.
    async fn wait(
        &mut self,
        alarm: Option<Timestamp>,
        revision: Revision,
        stop: &mut watch::Receiver<bool>,
        draining: bool,
        gates: &Gates,
    ) {
        let now = self.shared.clock.now();
        let until_alarm = alarm.map_or(Duration::from_secs(60), |at| at.since(now));
        let pause = if draining { Duration::from_millis(20) } else { until_alarm };
        let store = &self.shared.store;
        let changed = async {
            tokio::time::sleep(BACKLOG_PAUSE).await;
            store.changed(revision).await;
        };
        tokio::select! {
            Some(handoff) = self.direct.recv() => self.take_direct(handoff),
            Some(event) = self.events.recv() => self.take(event),
            Some(domain) = self.expected.recv() => self.foresee(domain, gates),
            () = changed => {}
            () = self.wake.notified() => {}
            () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
            _ = stop.changed(), if !draining => {}
        }
        for _ in 0..EVENTS_AT_ONCE {
            if let Ok(handoff) = self.direct.try_recv() {
                self.take_direct(handoff);
            } else if let Ok(event) = self.events.try_recv() {
                self.take(event);
            } else if let Ok(domain) = self.expected.try_recv() {
                self.foresee(domain, gates);
            } else {
                break;
            }
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: Event) {
        let now = self.shared.clock.now();
        self.core().handle(event, now);
    }

    /// A look-up ahead of its need is left out while many are under way: whoever needs it asks.
    fn foresee(&self, domain: Domain, gates: &Gates) {
        if gates.expected.available_permits() > 0 {
            self.take(Event::Expected(domain));
        }
    }

    /// Direct mail stays in memory while there is room; else it becomes an ordinary due delivery.
    fn take_direct(&self, handoff: Handoff) {
        let room = self.shared.room_for(handoff.claimed.head.size);
        match Arc::clone(&self.shared.room).try_acquire_many_owned(room) {
            Ok(room) => self.take(Event::Direct(handoff, Arc::new(room))),
            Err(_) => {
                let leases = handoff.claimed.leases();
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move { shared.release(leases).await });
            }
        }
    }

    fn carry_out(
        &self,
        command: Command,
        orders: &mut HashMap<LinkId, mpsc::Sender<Order>>,
        gates: &Gates,
    ) {
        let shared = Arc::clone(&self.shared);
        match command {
            Command::Resolve(domain, turn) => {
                let resolver = Arc::clone(&self.resolver);
                let places = Arc::clone(gates.look_ups(turn));
                tokio::spawn(async move {
                    let _one_of_few = places.acquire().await;
                    // Boxed: while a hundred thousand wait for a place, they are to be small.
                    let resolution = Box::pin(resolver.resolve(&domain)).await;
                    shared.tell(Event::Resolved(domain, resolution)).await;
                });
            }
            Command::Open(opening) => self.open(opening, orders),
            Command::Claim(link, claim) => {
                let sent = orders.get(&link).map(|to| to.try_send(Order::Claim(claim.clone())));
                if !matches!(sent, Some(Ok(()))) {
                    // The connection has just ended: as if it had got nothing.
                    let got = HashMap::new();
                    let event = Event::Claimed { plan: claim.queues, got };
                    tokio::spawn(async move { shared.tell(event).await });
                }
            }
            Command::Wake(link) => _ = orders.get(&link).map(|to| to.try_send(Order::Wake)),
            Command::Quit(link) => _ = orders.get(&link).map(|to| to.try_send(Order::Quit)),
            Command::Release(leases) => {
                tokio::spawn(async move { shared.release(leases).await });
            }
            Command::Conclude(job, verdict) => {
                let giving_up = Arc::clone(&gates.giving_up);
                tokio::spawn(async move {
                    let _one_of_few = giving_up.acquire().await;
                    let verdicts = vec![verdict; job.transaction.deliveries.len()];
                    shared.settle(&job.transaction, &verdicts, job.receive, None).await;
                });
            }
            Command::Unreachable(site, why) => tell::site_unreachable(&site, &why),
            Command::Recovered(site, after) => tell::site_recovered(&site, after),
            Command::Expired(orders) => (self.expired)(orders),
            Command::GiveUp(claim, verdict) => {
                let giving_up = Arc::clone(&gates.giving_up);
                tokio::spawn(async move {
                    let _one_of_few = giving_up.acquire().await;
                    shared.give_up(claim, verdict).await;
                });
            }
        }
        orders.retain(|_, to| !to.is_closed());
    }

    fn open(&self, opening: Opening, orders: &mut HashMap<LinkId, mpsc::Sender<Order>>) {
        let (to, from) = mpsc::channel(ORDERS);
        orders.insert(opening.link, to);
        tokio::spawn(worker::run(Arc::clone(&self.shared), opening, from));
    }
}
