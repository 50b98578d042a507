//! The one thread that writes: natural group commit.
//!
//! It takes what waits, does it in one transaction, commits (one sync of the log), and answers all.
//! It never waits for company: while one commit is under way, the next batch gathers by itself.
//!
//! # Invariants
//! * Nobody is answered `Ok` before the commit that covers it is on disk.
//! * Leases and backlog show only what is committed.
//! * After a sync that failed nothing is taken for granted: the connection is opened anew, SQLite
//!   recovers from its log, and what is kept in memory is worked out again.
//! * Claims write nothing and cost no commit.

use super::Options;
use super::claim;
use super::load;
use super::schema::{self, store_error};
use super::space::{self, Floor};
use super::write::{Kind, Tx, Write};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::observe::store as tell;
use crate::store::shared::Shared;
use crate::store::{Claim, Claimed, Lease, StoreError};
use rusqlite::{Connection, ErrorCode};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests in one transaction.
const BATCH_MAX: usize = 256;
/// Bytes of messages in one transaction, about.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// With room for less new mail than this, in bytes, space is short.
const SHORT: u64 = 64 << 20;
/// How far the recorded greatest id may lag behind.
pub(super) const ID_LAG_MAX: Duration = Duration::from_secs(10);

/// A job that runs within transactions, boxed.
type Job = Box<dyn Write>;

/// What the thread is asked for.
pub(super) enum Request {
    /// Leases.
    Claim {
        claim: Claim,
        until: Timestamp,
        reply: oneshot::Sender<Result<Vec<Claimed>, StoreError>>,
    },
    /// Bytes of new mail that fit.
    Room { reply: oneshot::Sender<Result<u64, StoreError>> },
    /// Anything that changes the database.
    Write(Job),
}

/// State of the thread.
pub(super) struct Writer {
    dir: PathBuf,
    options: Options,
    /// `None` after a failure, until it can be opened again.
    pub(super) db: Option<Connection>,
    pub(super) shared: Arc<Shared>,
    floor: Floor,
    /// Space is so short that each sender is told of it before he sends.
    pub(super) short: Arc<AtomicBool>,
    /// Greatest id seen; below zero for none.
    pub(super) last_id: Arc<AtomicI64>,
    /// As recorded in the database.
    saved_id: Option<MessageId>,
}

impl Writer {
    /// Opens the database and counts what is in it.
    pub(super) fn open(
        dir: PathBuf,
        options: Options,
        shared: Arc<Shared>,
    ) -> Result<Self, StoreError> {
        let floor = Floor::new(options.free_space_min);
        let last_id = Arc::new(AtomicI64::new(-1));
        let (db, saved_id, short) = (None, None, Arc::default());
        let mut writer = Self { dir, options, db, shared, floor, short, last_id, saved_id };
        writer.reopen()?;
        Ok(writer)
    }

    /// Serves requests until nobody is left to ask.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let jobs = self.gather(first, &mut requests);
            if !jobs.is_empty() {
                self.write(jobs);
            }
        }
        if let (Some(db), Some(id)) = (&self.db, self.last_id())
            && let Err(error) = load::save_last_id(db, id)
        {
            tell::failed("close", &error);
        }
    }

    /// Takes what waits. Claims are served at once: they need no commit.
    fn gather(&mut self, first: Request, requests: &mut mpsc::Receiver<Request>) -> Vec<Job> {
        let mut jobs = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Claim { claim, until, reply } => self.claim(&claim, until, reply),
                Request::Room { reply } => _ = reply.send(Ok(self.room(SHORT))),
                Request::Write(job) => {
                    bytes += job.weight();
                    jobs.push(job);
                }
            }
            count += 1;
            let full = count >= BATCH_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full { None } else { requests.try_recv().ok() };
        }
        jobs.sort_by_key(|job| job.kind());
        jobs
    }

    fn claim(
        &mut self,
        claim: &Claim,
        until: Timestamp,
        reply: oneshot::Sender<Result<Vec<Claimed>, StoreError>>,
    ) {
        if reply.is_closed() {
            return;
        }
        let result = match self.reopen() {
            Err(error) => Err(error),
            Ok(()) => match &self.db {
                None => return,
                Some(db) => claim::claim(db, &self.shared, claim, until).map_err(|error| {
                    let told = store_error(&error);
                    self.failed(&error);
                    told
                }),
            },
        };
        if let Err(Ok(unheard)) = reply.send(result) {
            let leases: Vec<Lease> = unheard.iter().flat_map(Claimed::leases).collect();
            self.shared.release(&leases);
        }
    }

    /// Bytes of new mail that fit, `least` of them by news of now; notes whether that is little.
    fn room(&mut self, least: u64) -> u64 {
        let wanted = self.options.free_space_min.saturating_add(space::needed(SHORT));
        let probe = || space::probe(&self.dir, self.db.as_ref(), wanted);
        let room = self.floor.room(least, self.shared.clock.now(), probe);
        self.short.store(room < SHORT, Ordering::Relaxed);
        room
    }

    /// One transaction, or two: when space runs out, the second without new mail, since outcomes
    /// free space.
    fn write(&mut self, mut jobs: Vec<Job>) {
        let mail = jobs.iter().filter(|job| job.kind() == Kind::Accept).map(|job| job.weight());
        let mail = mail.sum::<usize>() as u64;
        let wanted = self.options.free_space_min.saturating_add(space::needed(mail));
        let probe = || space::probe(&self.dir, self.db.as_ref(), wanted);
        if let Err(why) = self.floor.take(mail, self.shared.clock.now(), probe) {
            jobs = self.refuse_mail(jobs, &StoreError::Full(why));
        }
        self.room(0);
        let mut result = self.commit(&mut jobs);
        if let Err(full @ StoreError::Full(_)) = &result {
            jobs = self.refuse_mail(jobs, full);
            result = self.commit(&mut jobs);
        }
        if jobs.iter().any(|job| job.kind() != Kind::Accept) {
            self.floor.freed();
        }
        for job in jobs {
            job.finish(result.clone(), &self.shared);
        }
    }

    /// Answers new mail with an error and gives back the other jobs.
    fn refuse_mail(&self, jobs: Vec<Job>, error: &StoreError) -> Vec<Job> {
        let (mail, others): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| job.kind() == Kind::Accept);
        for job in mail {
            job.finish(Err(error.clone()), &self.shared);
        }
        others
    }

    fn commit(&mut self, jobs: &mut [Job]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.reopen()?;
        let Some(db) = self.db.take() else { return Ok(()) };
        let mut tx = Tx::new(&db, &self.shared);
        match transaction(&mut tx, jobs, self.saved_id) {
            Ok(saved_id) => {
                let (effects, last_id) = (tx.effects, tx.last_id);
                self.shared.apply(effects);
                self.saved_id = saved_id;
                if let Some(id) = last_id {
                    self.last_id.fetch_max(id.number(), Ordering::Relaxed);
                }
                self.db = Some(db);
                Ok(())
            }
            Err(error) => {
                tx.undo();
                self.db = Some(db);
                self.failed(&error);
                Err(store_error(&error))
            }
        }
    }

    /// Rolls back; closes the database unless the error was harmless to it.
    fn failed(&mut self, error: &rusqlite::Error) {
        tell::failed("transaction", &error);
        let harmless = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::ConstraintViolation
            )
        );
        let rolled_back = self
            .db
            .as_ref()
            .is_some_and(|db| db.is_autocommit() || db.execute_batch("ROLLBACK").is_ok());
        if !(harmless && rolled_back) {
            self.db = None;
        }
    }

    /// Opens the database, if it is not open.
    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.db.is_some() {
            return Ok(());
        }
        let db = schema::open_writer(&self.dir, self.options.page_size, self.options.wal_pages)?;
        load::load(&db, &self.shared).map_err(|e| store_error(&e))?;
        self.saved_id = load::recorded_id(&db).map_err(|e| store_error(&e))?;
        if let Some(id) = load::last_id(&db).map_err(|e| store_error(&e))? {
            self.last_id.fetch_max(id.number(), Ordering::Relaxed);
        }
        self.db = Some(db);
        Ok(())
    }

    fn last_id(&self) -> Option<MessageId> {
        MessageId::from_number(self.last_id.load(Ordering::Relaxed))
    }
}

/// Runs the jobs and commits. Gives back the greatest id on record.
fn transaction(
    tx: &mut Tx<'_>,
    jobs: &mut [Job],
    saved_id: Option<MessageId>,
) -> rusqlite::Result<Option<MessageId>> {
    let db = tx.db;
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    tx.forget_queues()?;
    for job in jobs {
        job.run(tx)?;
    }
    let mut saved_id = saved_id;
    if let Some(id) = tx.last_id {
        let recorded = saved_id.map_or(Timestamp(0), MessageId::created_at);
        if id.created_at() >= recorded.after(ID_LAG_MAX) {
            load::save_last_id(db, id)?;
            saved_id = Some(id);
        }
    }
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(saved_id)
}
