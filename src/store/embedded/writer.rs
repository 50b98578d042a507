//! The one thread that promises: it writes the journal, by natural group commit.
//!
//! It takes what waits, writes it in one go, syncs once, hands it on to the index, and answers all.
//! It never waits for company, and never for the index: where that is too far behind, new mail
//! waits here, and whoever sends it is refused in time.
//!
//! # Invariants
//! * Nobody is answered `Ok` before the sync that covers it.
//! * What was synced is seen in memory and handed to the index thread before it is answered.

use super::gauges::Gauges;
use super::inbox::{Batch, Inbox, Job};
use super::prepare::{self, Prepared, Then};
use super::space::{self, Left, Limits, Room};
use crate::base::time::Timestamp;
use crate::mail::message::{Lane, NewMessage};
use crate::observe::store as tell;
use crate::store::journal::Position;
use crate::store::journal::disk::Disk;
use crate::store::journal::files::Log;
use crate::store::journal::frame;
use crate::store::journal::pack::Stored;
use crate::store::shared::Shared;
use crate::store::{Accepted, Lease, Settlement, StoreError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// Requests in one batch.
const BATCH_MAX: usize = 1_024;
/// Bytes of messages in one batch, about. With 8 MiB, messages of 50 KiB came in at a third of the
/// rate and cost four times the CPU time (benches/store.rs, 512 producers).
const BATCH_BYTES_MAX: usize = 2 << 20;
/// A write that takes so long is told of.
const SLOW_MS: u64 = 1_000;
/// Empty queues forgotten at a time: after each commit.
const FORGET_MAX: usize = 4_096;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread is asked for.
pub(super) enum Request {
    /// `Store::accept`.
    Accept(Box<Accept>),
    /// `Store::settle`.
    Settle(Settle),
    /// A record of the index thread, which gets it back in its turn as [`Job::Recorded`].
    Record { kind: u8, payload: Vec<Bytes> },
    /// Bytes of new mail that fit.
    Room { reply: Reply<u64> },
    /// From the index: rows that records up to here changed are committed.
    Forget(Position),
    /// From the index: nothing in this segment, which is the oldest, is needed any more.
    Retire(u64),
    /// From the index: it is not far behind any more.
    CaughtUp,
}

/// `Store::accept` under way.
pub(super) struct Accept {
    pub(super) message: NewMessage,
    /// Its bytes as they will be written.
    pub(super) stored: Stored,
    /// When the leases end that its deliveries are born with.
    pub(super) until: Option<Timestamp>,
    pub(super) reply: Reply<Accepted>,
}

/// `Store::settle` under way.
pub(super) struct Settle {
    pub(super) settlement: Settlement,
    pub(super) reply: Reply<Vec<Lease>>,
}

/// State of the thread.
pub(super) struct Writer<D: Disk> {
    pub(super) dir: PathBuf,
    pub(super) log: Log<D>,
    pub(super) shared: Arc<Shared>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) room: Room,
    pub(super) limits: Limits,
    pub(super) index: Inbox,
    /// New mail that was not looked at yet.
    pub(super) mail: VecDeque<Accept>,
}

impl<D: Disk> Writer<D> {
    /// Serves requests until nobody is left to ask.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            // Mail that waits here is served without a new request, unless the index is behind.
            let first = match self.mail.is_empty() || self.index.is_behind() {
                true => match requests.blocking_recv() {
                    Some(request) => Some(request),
                    None => return,
                },
                false => requests.try_recv().ok(),
            };
            let jobs = self.gather(first, &mut requests);
            if !jobs.is_empty() {
                self.write(jobs);
            }
        }
    }

    /// Takes what waits: outcomes first.
    fn gather(
        &mut self,
        first: Option<Request>,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Vec<Prepared> {
        let mut jobs = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        for _ in 0..BATCH_MAX {
            let Some(request) = next else { break };
            self.take(request, &mut jobs);
            bytes += jobs.last().map_or(0, Prepared::len);
            next = if bytes < BATCH_BYTES_MAX { requests.try_recv().ok() } else { None };
        }
        // One that was taken out of the channel beyond the limit.
        if let Some(request) = next {
            self.take(request, &mut jobs);
        }
        if self.index.is_behind() {
            // Whoever was refused in the meantime takes no memory.
            self.mail.retain(|accept| !accept.reply.is_closed());
        } else {
            self.gather_mail(&mut jobs, bytes);
        }
        jobs
    }

    fn gather_mail(&mut self, jobs: &mut Vec<Prepared>, mut bytes: usize) {
        while bytes < BATCH_BYTES_MAX && jobs.len() < BATCH_MAX {
            let Some(accept) = self.mail.pop_front() else { break };
            if accept.reply.is_closed() {
                continue;
            }
            let lane = accept.message.origin.lane;
            let Some(prepared) = prepare::accept(accept) else { continue };
            let size = frame::len(prepared.len()) as u64;
            let now = self.shared.clock.now();
            let probe = || left(&self.dir, &self.log, self.limits);
            match self.room.take(size, lane, now, probe) {
                Ok(()) => {
                    bytes += prepared.len();
                    jobs.push(prepared);
                }
                Err(why) => self.undo(prepared, &StoreError::Full(why)),
            }
        }
        self.note_room(0);
    }

    fn take(&mut self, request: Request, jobs: &mut Vec<Prepared>) {
        match request {
            Request::Accept(accept) => self.mail.push_back(*accept),
            Request::Settle(settle) => jobs.extend(prepare::settle(settle, &self.shared)),
            Request::Record { kind, payload } => jobs.push(prepare::record(kind, payload)),
            Request::Room { reply } => _ = reply.send(Ok(self.note_room(self.limits.short()))),
            Request::Forget(committed) => {
                let queues = self.shared.lock().forget(committed, FORGET_MAX);
                if !queues.is_empty() {
                    let jobs = vec![Job::Forget(queues)];
                    self.index.send(Batch::new(jobs, self.log.end()));
                }
            }
            Request::Retire(segment) => {
                // Those before it, too, which failed when it was their turn.
                while self.log.oldest().is_some_and(|oldest| oldest <= segment) {
                    if let Err(error) = self.log.retire_oldest() {
                        tell::failed("retire", &error);
                        break;
                    }
                }
                self.room.freed();
            }
            // Being woken is all.
            Request::CaughtUp => {}
        }
    }

    /// Bytes of new mail that fit, `least` of them by news of now; notes whether that is little.
    fn note_room(&mut self, least: u64) -> u64 {
        let now = self.shared.clock.now();
        let probe = || left(&self.dir, &self.log, self.limits);
        let left = self.room.left(least, Lane::Direct, now, probe);
        self.gauges.short.store(left.bulk < self.limits.short(), Ordering::Relaxed);
        left.all
    }

    /// One batch, or two: when space runs out, the second without new mail, since outcomes free
    /// space.
    fn write(&mut self, jobs: Vec<Prepared>) {
        let Err((error, jobs)) = self.try_write(jobs) else { return };
        tell::failed("journal", &error);
        let error = space::store_error(&error);
        let (mail, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(Prepared::is_mail);
        let again = matches!(error, StoreError::Full(_)) && !mail.is_empty();
        mail.into_iter().for_each(|job| self.undo(job, &error));
        match again {
            true if others.is_empty() => {}
            true => {
                if let Err((error, jobs)) = self.try_write(others) {
                    let error = space::store_error(&error);
                    jobs.into_iter().for_each(|job| self.undo(job, &error));
                }
            }
            false => others.into_iter().for_each(|job| self.undo(job, &error)),
        }
    }

    fn try_write(&mut self, jobs: Vec<Prepared>) -> Result<(), (io::Error, Vec<Prepared>)> {
        let len = jobs.iter().map(|job| frame::len(job.len()) as u64).sum();
        let mut batch = match self.log.batch(len) {
            Ok(batch) => batch,
            Err(error) => return Err((error, jobs)),
        };
        let places: Vec<Position> =
            jobs.iter().map(|job| batch.push(job.kind, &job.parts())).collect();
        self.gauges.begin(self.shared.clock.now());
        let written = self.log.write(batch);
        let count = if written.is_ok() { jobs.len() } else { 0 };
        let ms = self.gauges.end(count as u64, self.shared.clock.now());
        if ms >= SLOW_MS {
            tell::slow(ms, count);
        }
        if let Err(error) = written {
            return Err((error, jobs));
        }
        self.done(jobs, &places);
        Ok(())
    }

    /// Hands on what is durable, makes it seen, and answers.
    fn done(&mut self, jobs: Vec<Prepared>, places: &[Position]) {
        let (mut forward, mut effects, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let mut live = self.shared.lock();
        for (job, at) in jobs.into_iter().zip(places) {
            let payload = job.len();
            match job.then {
                Then::Accept(accepted) => {
                    let (arrived, made, answer) = accepted.done(*at, payload, &mut live);
                    self.gauges.seen(arrived.arrival.head.id);
                    forward.push(Job::Arrive(arrived));
                    effects.extend(made);
                    answers.push(answer);
                }
                Then::Settle(settled) => {
                    let (job, made, answer) = settled.done(*at, payload, &mut live);
                    job.notices.iter().for_each(|notice| self.gauges.seen(notice.head.id));
                    effects.extend(made);
                    forward.push(Job::Settle(job));
                    answers.push(answer);
                }
                Then::Record => forward.push(Job::Recorded(Ok((*at, payload)))),
            }
        }
        drop(live);
        // Seen first, so that the index finds the leases of what is born leased.
        self.shared.apply(effects, self.log.end());
        self.index.send(Batch::new(forward, self.log.end()));
        answers.into_iter().for_each(|answer| answer.give(&self.shared));
    }

    /// Takes back what was prepared, and says why.
    fn undo(&mut self, job: Prepared, error: &StoreError) {
        match job.then {
            Then::Accept(accepted) => accepted.undo(error),
            Then::Settle(settled) => settled.undo(error, &self.shared),
            Then::Record => {
                let jobs = vec![Job::Recorded(Err(error.clone()))];
                self.index.send(Batch::new(jobs, self.log.end()));
            }
        }
    }
}

/// How much is left for new mail.
fn left<D: Disk>(dir: &Path, log: &Log<D>, limits: Limits) -> io::Result<Left> {
    let reserve = log.reserve();
    let journal = log.files().size().saturating_sub(reserve.current);
    limits.left(dir, journal + space::database(dir), reserve)
}
