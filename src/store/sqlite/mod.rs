//! The embedded engine: SQLite, tables as in queue-schema.sql.
//!
//! ```text
//! accept, settle, change, hold_all ─┐ bounded   ┌──────────────┐ commit  queue.db
//! claim ────────────────────────────┴─────────▶ │ writer thread │ ──────▶ queue.db-wal
//!                                                └──────┬───────┘
//! renew, release, backlog ──▶ leases and backlog, in memory ◀┘
//! bodies, list, show ───────▶ reader connections, on threads that may wait
//! ```
//! A one-recipient message costs three inserts, then three deletes by key; deliveries lie clustered
//! by queue and due time, so that a claim reads them in one sweep, and no index is kept besides.
//!
//! # Absent
//! Leases on disk: they end with the process. Counting queries: see `store::backlog`.

mod accept;
#[cfg(test)]
mod against_model;
mod change;
mod claim;
mod codec;
mod load;
mod read;
mod reader;
mod schema;
mod settle;
mod space;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use self::accept::Accept;
use self::change::HoldAll;
use self::reader::Readers;
use self::settle::Settle;
use self::writer::{Request, Writer};
use super::filter::Matcher;
use super::shared::Shared;
use super::{
    Accepted, Backlog, Change, Changed, Claim, Claimed, Cursor, Filter, Lease, MessageRecord, Page,
    Revision, Settlement, Store, StoreError,
};
use crate::base::id::MessageId;
use crate::base::time::Clock;
use crate::mail::message::NewMessage;
use bytes::Bytes;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the writer.
const WAITING_MAX: usize = 1_024;
/// Longest wait for a place among them.
const BUSY: Duration = Duration::from_secs(5);

/// How the engine is to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Free space, in bytes, below which new mail is refused with [`StoreError::Full`].
    pub free_space_min: u64,
    /// Bytes of a database page, of a new database. 4,096 drains 4-KiB messages over many queues at
    /// half the CPU time of 8,192, which would take in 50-KiB messages a quarter cheaper
    /// (benches/store.rs).
    pub page_size: u32,
    /// Pages in the log after which they are moved to the database.
    pub wal_pages: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { free_space_min: 256 << 20, page_size: 4_096, wal_pages: 4_096 }
    }
}

/// A queue on disk. Clones share it; with the last one it is closed, which waits for writes under
/// way.
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// `None` where it was opened for reading only.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    /// The writer is to be asked for [`Store::room`].
    short: Arc<AtomicBool>,
    /// Greatest id seen; below zero for none.
    last_id: Arc<AtomicI64>,
    /// Keeps other nodes out.
    _lock: Option<File>,
}

impl SqliteStore {
    /// Opens the queue in `dir`, which is created as needed, for this process alone.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] where another process has it or it is of another version;
    /// [`StoreError::Failed`] or [`StoreError::Full`] where it cannot be read or created.
    pub fn open(dir: &Path, clock: Clock, options: Options) -> Result<Self, StoreError> {
        let lock = schema::lock(dir)?;
        let shared = Arc::new(Shared::new(clock));
        let writer = Writer::open(dir.to_owned(), options, shared)?;
        Self::start(writer, dir, lock)
    }

    /// Sets the writer to work.
    fn start(writer: Writer, dir: &Path, lock: File) -> Result<Self, StoreError> {
        let (shared, last_id) = (Arc::clone(&writer.shared), Arc::clone(&writer.last_id));
        let short = Arc::clone(&writer.short);
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(waiting))
            .map_err(|e| StoreError::Failed(format!("cannot start a thread: {e}")))?;
        Ok(Self(Arc::new(Inner {
            shared,
            readers: Arc::new(Readers::new(dir.to_owned())),
            requests: Some(requests),
            writer: Some(thread),
            short,
            last_id,
            _lock: Some(lock),
        })))
    }

    /// Opens the queue in `dir` for `list`, `show`, `bodies` and `backlog` alone; all else fails.
    /// The backlog is that of this moment, and nothing in it is leased.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] where it is of another version; [`StoreError::Failed`] where
    /// there is none or it cannot be read.
    pub fn open_read_only(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        let db = schema::open_reader(dir)?;
        let shared = Arc::new(Shared::new(clock));
        let read = load::load(&db, &shared);
        let last_id = read.and_then(|_| load::last_id(&db));
        let last_id = last_id.map_err(|e| schema::store_error(&e))?.map_or(-1, MessageId::number);
        Ok(Self(Arc::new(Inner {
            shared,
            readers: Arc::new(Readers::new(dir.to_owned())),
            requests: None,
            writer: None,
            short: Arc::default(),
            last_id: Arc::new(AtomicI64::new(last_id)),
            _lock: None,
        })))
    }

    /// Hands a request to the writer and waits for its answer.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let Some(requests) = &self.0.requests else {
            return Err(StoreError::Failed("the queue was opened for reading only".into()));
        };
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Failed("the writer ended".into());
        let place = match requests.try_reserve() {
            Ok(place) => place,
            Err(mpsc::error::TrySendError::Closed(())) => return Err(gone()),
            Err(mpsc::error::TrySendError::Full(())) => {
                match tokio::time::timeout(BUSY, requests.reserve()).await {
                    Err(_) => return Err(StoreError::Busy),
                    Ok(place) => place.map_err(|_| gone())?,
                }
            }
        };
        place.send(request(reply));
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer closes last: it then moves the log into the database.
        self.readers.close();
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store for SqliteStore {
    async fn accept(
        &self,
        message: NewMessage,
        lease: Option<Duration>,
    ) -> Result<Accepted, StoreError> {
        let until = lease.map(|ttl| self.0.shared.clock.now().after(ttl));
        let result = Ok(Accepted { claimed: None });
        self.ask(|reply| Request::Write(Box::new(Accept { message, until, result, reply }))).await
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, StoreError> {
        let until = self.0.shared.clock.now().after(claim.ttl);
        self.ask(|reply| Request::Claim { claim, until, reply }).await
    }

    async fn renew(&self, leases: Vec<Lease>, ttl: Duration) -> Result<Vec<Lease>, StoreError> {
        Ok(self.0.shared.renew(leases, ttl))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Vec<Lease>, StoreError> {
        let result = Ok(Vec::new());
        self.ask(|reply| Request::Write(Box::new(Settle { settlement, result, reply }))).await
    }

    async fn release(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        self.0.shared.release(&leases);
        Ok(())
    }

    async fn bodies(
        &self,
        messages: Vec<MessageId>,
    ) -> Result<Vec<(MessageId, Bytes)>, StoreError> {
        self.0.readers.run(move |db| read::bodies(db, &messages)).await
    }

    fn backlog(&self, since: Revision) -> Backlog {
        self.0.shared.backlog(since)
    }

    async fn changed(&self, seen: Revision) {
        self.0.shared.changed(seen).await;
    }

    async fn list(
        &self,
        filter: Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let matcher = Matcher::new(filter)?;
        let shared = Arc::clone(&self.0.shared);
        self.0.readers.run(move |db| read::list(db, &shared, &matcher, after, limit)).await
    }

    async fn show(&self, message: MessageId) -> Result<Option<MessageRecord>, StoreError> {
        let shared = Arc::clone(&self.0.shared);
        self.0.readers.run(move |db| read::show(db, &shared, message)).await
    }

    async fn change(
        &self,
        filter: Filter,
        action: Change,
        after: Option<Cursor>,
    ) -> Result<Changed, StoreError> {
        let matcher = Matcher::new(filter)?;
        let result = Changed::default();
        let job = |reply| change::Change { matcher, action, after, result, reply };
        self.ask(|reply| Request::Write(Box::new(job(reply)))).await
    }

    async fn hold_all(&self, hold: bool) -> Result<(), StoreError> {
        self.ask(|reply| Request::Write(Box::new(HoldAll { hold, reply }))).await
    }

    async fn room(&self) -> u64 {
        if !self.0.short.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        // A writer that does not answer has other news for whoever sends.
        self.ask(|reply| Request::Room { reply }).await.unwrap_or(u64::MAX)
    }

    fn last_id(&self) -> Option<MessageId> {
        MessageId::from_number(self.0.last_id.load(Ordering::Relaxed))
    }
}
