//! One connection's life: open, send what the line and the dispatcher give, rest, close.
//!
//! # Order of work
//! What already rode with the last dot; then the line (direct mail); then claimed mail. The next
//! transaction is known before the last dot of this one is sent, so that it can ride along.
//!
//! # Invariants
//! * The outcome of a transaction is durable before the next one's data is sent: a crash leaves at
//!   most one transaction per connection in doubt.
//! * Whatever is left when the connection ends goes back: direct mail to the line, the rest to the
//!   store.

use super::addresses::Slot;
use super::connection::{Connection, NotOpened, Target, Transaction};
use super::core::{AHEAD, Event, Opening};
use super::line::Job;
use super::load::load;
use super::permit::{Hold, Permit, lasts};
use super::shared::Shared;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::observe::delivery::{self as tell, Over};
use crate::policy::feedback::{Ask, Complaint, Whose};
use crate::policy::quota::Holder;
use crate::policy::rules::{Parties, complaint, ruled};
use crate::policy::site::route::Hop;
use crate::policy::source::Source;
use crate::policy::verdict::{Blame, Ruling, Verdict, judge};
use crate::smtp::client::{Attempt, Stage};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::store::{Claim, Store};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// A connection that asks for nothing tells so often what it has done, and of its first delivery at
/// once: the site's window opens by it.
const TELL: Duration = Duration::from_millis(250);
/// Jobs that a connection has ready; with fewer, and no more to come, it asks for more.
const AT_HAND: usize = 8;

/// A source whose address we do not have is tried again after so long.
const UNUSABLE: Duration = Duration::from_secs(60);

/// What the dispatcher tells a connection.
#[derive(Debug)]
pub enum Order {
    /// Claim these and send them.
    Claim(Claim),
    /// There is something in the line.
    Wake,
    /// End after this transaction.
    Quit,
}

/// Opens a connection and works until it ends. The dispatcher is told of the end in any case.
pub async fn run<S: Store>(
    shared: Arc<Shared<S>>,
    opening: Opening,
    mut orders: mpsc::Receiver<Order>,
) {
    let link = opening.link;
    match open(&shared, &opening).await {
        Err((why, complaint)) => {
            if let Some(complaint) = complaint {
                shared.tell(Event::Complaint(link, complaint)).await;
            }
            shared.tell(Event::NotOpened(link, why)).await;
        }
        Ok((connection, hop, slot, connect)) => {
            shared.tell(Event::Opened(link, hop.address)).await;
            let mut worker = Worker {
                shared: Arc::clone(&shared),
                opening,
                hop,
                connection,
                connect,
                jobs: VecDeque::new(),
                ridden: false,
                paid: None,
                transmit: connect,
                permit: Permit::default(),
                loading: None,
                claimed: 0,
                claims: 0,
                used: 0,
                done: 0,
                told_at: Timestamp(0),
                asked: false,
                quit: false,
                trouble: None,
            };
            worker.work(&mut orders).await;
            worker.end().await;
            shared.tell(Event::Leaving(link)).await;
            let (done, trouble) = (worker.done, worker.trouble.take());
            worker.connection.quit().await;
            drop(slot);
            shared.tell(Event::Closed { link, done, trouble }).await;
        }
    }
    // A claim that came too late was not carried out.
    orders.close();
    while let Some(order) = orders.recv().await {
        if let Order::Claim(claim) = order {
            shared.tell(Event::Claimed { plan: claim.queues, got: Default::default() }).await;
        }
    }
}

/// Tries the addresses in order. The error is empty where all were at their limit; with it comes
/// what the last one asked for.
async fn open<S: Store>(
    shared: &Shared<S>,
    opening: &Opening,
) -> Result<(Connection, Hop, Slot, Duration), (String, Option<Complaint>)> {
    let begun = shared.clock.now();
    let (mut why, mut asked, source) = (String::new(), None, &opening.source);
    let (mut hops, limits) = (opening.hops.clone(), (source.id, &opening.limits));
    loop {
        // The first was counted by whoever decided to open one.
        let (again, now) = (!why.is_empty(), shared.clock.now());
        let taken = shared.addresses.take(&mut hops, limits, again.then_some(begun), now);
        let Some((hop, mut slot)) = taken else { break };
        if again && opening.line.begin_open(source, opening.lane, now).is_err() {
            break;
        }
        let target = Target {
            host: hop.host.clone(),
            address: SocketAddr::new(hop.address, shared.config.get().delivery.port),
            source: Arc::clone(source),
        };
        let opened = Connection::open(&shared.dialer, &shared.clock, &target).await;
        let now = shared.clock.now();
        match opened {
            Ok(connection) => {
                slot.answered(true, now);
                return Ok((connection, hop, slot, now.since(begun)));
            }
            // The receiver was not asked: it is we who cannot send from there.
            Err(NotOpened { stage: Stage::Bind, why, .. }) => {
                return Err((String::new(), Some(unusable(&opening.site, source, why))));
            }
            Err(error) => {
                slot.answered(false, now);
                why = format!("{}[{}] {error}", hop.host, target.address);
                let reply = error.reply.as_ref();
                asked = reply.and_then(|reply| asked_at_the_door(shared, opening, &hop, reply));
            }
        }
    }
    Err((why, asked))
}

/// We have an address of the source no more: others are used, and it is tried again after a while.
fn unusable(site: &str, source: &Source, error: String) -> Complaint {
    let why = format!("cannot send from source {}: {error}", source.name);
    tell::source_unusable(site, &source.name, &why);
    let whose = Whose::Sources(source.name.clone());
    Complaint { ask: Ask::Stop(UNUSABLE), whose, why }
}

/// A receiver that wants nothing for a while may say so before it knows whose mail it is. That it
/// wants fewer connections is told by its refusing one.
fn asked_at_the_door<S: Store>(
    shared: &Shared<S>,
    opening: &Opening,
    hop: &Hop,
    reply: &Reply,
) -> Option<Complaint> {
    let config = shared.config.get();
    let found = config.rules.find(&hop.host, reply)?;
    let parties = Parties { tenant: "", sender: None, source: &opening.source.name };
    let asked = complaint(&found, parties, &reply.to_string())?;
    let whose = match asked.whose {
        source @ Whose::Sources(_) => source,
        _ => Whose::Everyones,
    };
    let asked = Complaint { whose, ..asked };
    matches!(asked.ask, Ask::Stop(_)).then(|| {
        tell::complaint(&opening.site, &hop.host, found.rule, &asked);
        asked
    })
}

struct Worker<S> {
    shared: Arc<Shared<S>>,
    opening: Opening,
    hop: Hop,
    connection: Connection,
    /// How long it took to open; told with the first transaction.
    connect: Duration,
    /// To be sent next, in this order.
    jobs: VecDeque<Job>,
    /// The first of them rode with the last dot: it must be the next.
    ridden: bool,
    /// The pace was used for a message of this lane then, which has not gone yet.
    paid: Option<(Lane, Timestamp)>,
    /// How long a transaction takes: see [`lasts`]; at first as long as it took to connect.
    transmit: Duration,
    permit: Permit,
    loading: Option<mpsc::Receiver<Job>>,
    /// Deliveries that may still come from there.
    claimed: u32,
    /// Claims that it was given.
    claims: u32,
    /// Deliveries that this connection has had.
    used: u32,
    /// Deliveries done since the dispatcher was told.
    done: u32,
    /// When it was told of some; at first, long ago.
    told_at: Timestamp,
    /// The dispatcher knows that we would take more.
    asked: bool,
    quit: bool,
    trouble: Option<String>,
}

impl<S: Store> Worker<S> {
    async fn work(&mut self, orders: &mut mpsc::Receiver<Order>) {
        while self.connection.is_open() {
            while let Ok(order) = orders.try_recv() {
                self.obey(order);
            }
            if self.quit && !self.ridden {
                return;
            }
            self.gather().await;
            if let Some(job) = self.jobs.pop_front() {
                self.ask_for_more().await;
                self.send(job).await;
            } else if self.room() == 0 || !self.rest(orders).await {
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Claim(mut claim) => {
                self.asked = false;
                self.claims = self.claims.wrapping_add(1);
                // Direct mail may have come in between.
                claim.limit = claim.limit.min(self.room());
                self.claimed = claim.limit;
                let most = self.opening.limits.recipients_per_transaction;
                self.loading = Some(load(Arc::clone(&self.shared), claim, most));
            }
            Order::Wake => {}
            Order::Quit => self.quit = true,
        }
    }

    /// Deliveries that may still be taken on.
    fn room(&self) -> u32 {
        let waiting: u32 = self.jobs.iter().map(Job::count).sum();
        self.opening
            .limits
            .deliveries_per_connection
            .saturating_sub(self.used + self.claimed + waiting)
    }

    /// Has the next jobs ready, where there are any: direct mail first, behind what rode
    /// already.
    async fn gather(&mut self) {
        let at = usize::from(self.ridden);
        let is_direct = |job: Option<&Job>| job.is_some_and(|job| job.lane() == Lane::Direct);
        if self.room() > 0
            && !is_direct(self.jobs.get(at))
            && let Some(job) = self.pop_direct()
        {
            self.jobs.insert(at, job);
        }
        while self.jobs.len() < AT_HAND
            && let Some(loading) = &mut self.loading
        {
            // Waits only where there is nothing else to do.
            let next = match loading.try_recv() {
                Err(mpsc::error::TryRecvError::Empty) if self.jobs.is_empty() => {
                    loading.recv().await
                }
                Err(mpsc::error::TryRecvError::Empty) => return,
                other => other.ok(),
            };
            match next {
                Some(job) => {
                    self.claimed = self.claimed.saturating_sub(job.count());
                    self.jobs.push_back(job);
                }
                None => (self.loading, self.claimed) = (None, 0),
            }
        }
    }

    fn pop_direct(&self) -> Option<Job> {
        let Opening { line, source, .. } = &self.opening;
        let now = self.shared.clock.now();
        line.pop(self.opening.link, (source, self.hop.address), self.room(), now)
    }

    /// Before this connection runs out of work, so that the next can ride on the last dot.
    async fn ask_for_more(&mut self) {
        let room = self.room();
        let low = self.loading.is_none() && self.jobs.len() < AT_HAND;
        if low && !self.asked && !self.quit && room > 1 {
            self.asked = true;
            self.tell_wants(room - 1, false).await;
        }
    }

    async fn tell_wants(&mut self, room: u32, idle: bool) {
        let done = self.take_done();
        let (link, claims) = (self.opening.link, self.claims);
        self.shared.tell(Event::Wants { link, room, idle, claims, done }).await;
    }

    /// What is told now is not told again.
    fn take_done(&mut self) -> u32 {
        if self.done > 0 {
            self.told_at = self.shared.clock.now();
        }
        std::mem::take(&mut self.done)
    }

    /// Nothing to do: tells the dispatcher, and waits for work, the peer, or the end of patience.
    async fn rest(&mut self, orders: &mut mpsc::Receiver<Order>) -> bool {
        self.asked = true;
        self.tell_wants(self.room(), true).await;
        let patience = self.shared.config.get().delivery.idle_timeout;
        let order = tokio::select! {
            order = orders.recv() => order,
            () = self.connection.idle() => None,
            () = tokio::time::sleep(patience) => None,
        };
        match order {
            Some(order) => {
                self.obey(order);
                true
            }
            None => false,
        }
    }

    /// Waits until the site's pace lets a message go. False where that takes longer than an idle
    /// connection stands.
    async fn pace(&self, lane: Lane) -> bool {
        let Opening { line, source, .. } = &self.opening;
        while let Err(at) = line.begin(source, lane, self.shared.clock.now()) {
            let wait = at.since(self.shared.clock.now()).max(Duration::from_millis(1));
            if wait > self.shared.config.get().delivery.idle_timeout.max(AHEAD) {
                return false;
            }
            tokio::time::sleep(wait).await;
        }
        true
    }

    async fn send(&mut self, mut job: Job) {
        if !std::mem::take(&mut self.ridden) {
            if !self.has_paid(job.lane()) && !self.pace(job.lane()).await {
                // It waits in the store, without a connection.
                self.quit = true;
                return self.put_back(job).await;
            }
            if let Err(hold) = self.permit(&job.transaction) {
                self.paid = Some((job.lane(), self.shared.clock.now()));
                return self.hold(job, hold).await;
            }
            // After the wait for the pace, which may be a long one.
            if self.shared.is_short(job.trusted_until) {
                job.trusted_until = self.shared.renew(&mut job.transaction).await;
                if job.transaction.deliveries.is_empty() {
                    return;
                }
            }
        }
        self.permit.spend();
        let rides = self.may_ride();
        let next = self.jobs.front().filter(|_| rides).map(|next| &next.transaction);
        let (report, ridden) = self.connection.send(&job.transaction, next).await;
        self.ridden = ridden;
        self.transmit = lasts(self.transmit, report.transmit);
        if ridden {
            self.paid = None;
        }
        if self.used > 0 && !self.connection.is_open() && self.is_farewell(&report.attempts) {
            self.shared.tell(Event::EndedByPeer(self.opening.link, self.used)).await;
            return self.put_back(job).await;
        }
        let mut verdicts: Vec<Verdict> = report.attempts.iter().map(judge).collect();
        self.apply_rules(&job, &report.attempts, &mut verdicts).await;
        if verdicts.iter().all(|v| v.ruling == Ruling::Untried) {
            return self.put_back(job).await;
        }
        self.used += job.count();
        let delivered = verdicts.iter().filter(|v| v.ruling == Ruling::Delivered).count();
        self.done += u32::try_from(delivered).unwrap_or(u32::MAX);
        let over = Over {
            site: &self.opening.site,
            source: &self.opening.source.name,
            host: &self.hop.host,
            address: self.hop.address,
            tls: self.connection.tls().unwrap_or("none"),
            uses: self.connection.uses(),
            connect: std::mem::take(&mut self.connect),
            transmit: report.transmit,
        };
        let over = Some((over, self.connection.offers_dsn()));
        self.shared.settle(&job.transaction, &verdicts, job.receive, over).await;
        if self.done > 0 && self.shared.clock.now().since(self.told_at) >= TELL {
            let done = self.take_done();
            self.shared.tell(Event::Did(self.opening.link, done)).await;
        }
        if !self.connection.is_open() {
            // What a rule understood is no trouble of the host: it answers, and was told about.
            let refused = |v: &Verdict| v.ruling != Ruling::Delivered && v.rule.is_empty();
            self.trouble = verdicts.into_iter().find(refused).map(|v| v.text);
        }
    }

    /// True where the receiver ended the connection instead of taking one message more, without a
    /// complaint: nothing was said about this one.
    fn is_farewell(&self, attempts: &[Attempt]) -> bool {
        let config = self.shared.config.get();
        let rules = &config.rules;
        attempts.iter().all(|attempt| match attempt {
            Attempt::Reply { stage: Stage::Mail, reply } => {
                reply.code == 421 && rules.find(&self.hop.host, reply).is_none()
            }
            Attempt::Lost { stage: Stage::Mail | Stage::Idle, in_doubt, .. } => !in_doubt,
            Attempt::NotStarted => true,
            _ => false,
        })
    }

    /// True where the pace was used for a message of this lane just now. Of what was used longer
    /// ago the receiver might see too much at once.
    fn has_paid(&mut self, lane: Lane) -> bool {
        let (now, slack) = (self.shared.clock.now(), self.opening.line.slack());
        self.paid.take().is_some_and(|(of, at)| of == lane && now.since(at) <= slack)
    }

    /// Whether the next job may ride with this one's last dot: its leases last, and the pace and
    /// the rates of its tenant and of its recipients' domains let it go.
    fn may_ride(&mut self) -> bool {
        let Some(next) = self.jobs.pop_front() else { return false };
        let rides = self.may_ride_now(&next);
        self.jobs.push_front(next);
        rides
    }

    fn may_ride_now(&mut self, next: &Job) -> bool {
        let (lane, now) = (next.lane(), self.shared.clock.now());
        let Opening { line, source, .. } = &self.opening;
        // It goes with the last dot, some time from now: where the pace leaves more than one.
        let slack = line.slack().min(self.shared.quotas.slack(next.transaction.domains()));
        let is_loose = self.transmit <= slack && line.available(source, lane, now, 2) > 1;
        if self.quit || self.shared.is_short(next.trusted_until) || !is_loose {
            return false;
        }
        let (line, source) = (Arc::clone(line), Arc::clone(source));
        if !self.has_paid(lane) && line.begin(&source, lane, now).is_err() {
            return false;
        }
        self.paid = Some((lane, now));
        self.permit(&next.transaction).is_ok()
    }

    /// What of a job may not go now waits in the store until it may; the rest is next, and others
    /// go on.
    async fn hold(&mut self, mut job: Job, hold: Hold) {
        let held = match hold {
            Hold::PutOff(from, to, why) => return self.put_off(&job, from, to, &why).await,
            Hold::Later(Holder::Tenant(_)) => job.take_out(|_| true),
            Hold::Later(Holder::Domain(name)) => {
                job.take_out(|delivery| delivery.domain() == Some(&name))
            }
        };
        if !job.transaction.deliveries.is_empty() {
            self.jobs.push_front(job);
        }
        self.shared.release(held).await;
    }

    fn permit(&mut self, transaction: &Transaction) -> Result<(), Hold> {
        let (line, quotas) = (&self.opening.line, &self.shared.quotas);
        self.permit.obtain(transaction, line, quotas, self.shared.clock.now()).map(|_| ())
    }

    /// Defers what the site does not want of this sender now, to some time from `from` to `to`.
    async fn put_off(&self, job: &Job, from: Timestamp, to: Timestamp, why: &str) {
        let share = self.shared.rng.lock().unwrap_or_else(PoisonError::into_inner).f64();
        let text = format!("not tried, since the site wants less of this sender: {why}");
        let verdict = Verdict {
            retry_at: Some(from.after(to.since(from).mul_f64(share))),
            ..Verdict::own(Ruling::Retry, Some(Blame::Source), EnhancedCode(4, 7, 0), text)
        };
        let verdicts = vec![verdict; job.transaction.deliveries.len()];
        self.shared.settle(&job.transaction, &verdicts, job.receive, None).await;
    }

    /// Reads the refusals by the rules: changes the verdicts, and tells what is asked beyond them.
    async fn apply_rules(&self, job: &Job, attempts: &[Attempt], verdicts: &mut [Verdict]) {
        let head = &job.transaction.head;
        let (host, now) = (self.hop.host.as_str(), self.shared.clock.now());
        let config = self.shared.config.get();
        let mut asked: Vec<Complaint> = Vec::new();
        for (attempt, verdict) in attempts.iter().zip(verdicts) {
            let Attempt::Reply { reply, .. } = attempt else { continue };
            let Some(found) = config.rules.find(host, reply) else { continue };
            *verdict = ruled(&found, verdict.clone(), now);
            let parties = Parties {
                tenant: &head.origin.tenant,
                sender: job.transaction.sender(),
                source: &self.opening.source.name,
            };
            let asks = complaint(&found, parties, &verdict.text);
            if let Some(complaint) = asks.filter(|complaint| !asked.contains(complaint)) {
                tell::complaint(&self.opening.site, host, found.rule, &complaint);
                asked.push(complaint);
            }
        }
        for complaint in asked {
            self.shared.tell(Event::Complaint(self.opening.link, complaint)).await;
        }
    }

    /// A job that was not tried: the connection was gone before it began.
    async fn put_back(&mut self, job: Job) {
        if job.way.is_some() && !self.quit {
            self.opening.line.push_front(job);
        } else {
            self.shared.release(job.transaction.leases()).await;
        }
    }

    /// Gives back what is left. What is not loaded yet is released by the loader.
    async fn end(&mut self) {
        if let Some(mut loading) = self.loading.take() {
            loading.close();
            while let Some(job) = loading.recv().await {
                self.put_back(job).await;
            }
        }
        while let Some(job) = self.jobs.pop_back() {
            self.put_back(job).await;
        }
    }
}
