//! The embedded engine: a journal is the promise, SQLite is the queue's state behind it.
//!
//! ```text
//! accept, settle ─▶ writer thread: records, ONE sync, leases and backlog in memory, answers
//!                      │ the same jobs, in order, with the place where their records end
//!                      ▼
//! claim, change ──▶ index thread: rows of queue-schema.sql, committed each second with that place
//! renew, release, backlog ──▶ leases and backlog, in memory
//! list, show ─────▶ reader connections; bodies ──▶ the journal's files, by position
//! ```
//! A message costs one record and one shared sync before its `250`; rows follow in batches. A
//! direct message that is delivered at once costs no row. On start the journal's tail beyond the
//! place that the rows have reached is replayed; a lost queue.db is made anew from the whole.
//!
//! # Absent
//! Leases on disk: they end with the process. Counting queries: see `store::backlog`.

#[cfg(test)]
mod against_model;
mod aside;
mod bodies;
mod carried;
mod carry;
mod check;
mod claim;
mod codec;
mod gauges;
mod inbox;
mod index;
mod indexer;
mod load;
mod migrate;
mod open;
mod operator;
#[cfg(test)]
mod power;
mod prepare;
mod read;
mod reader;
mod reclaim;
mod replay;
mod schema;
mod space;
#[cfg(test)]
mod tests;
mod writer;

pub use self::check::{Checked, Progress, check, rebuild};
pub use self::space::free as free_space;

use self::bodies::Wanted;
use self::gauges::Gauges;
use self::inbox::{Inbox, Message};
use self::open::Parts;
use self::reader::Readers;
use self::schema::store_error;
use self::writer::{Accept, Request, Settle};
use super::filter::Matcher;
use super::journal::disk::{Disk, Folder};
use super::journal::files::Files;
use super::journal::pack::Stored;
use super::shared::Shared;
use super::{
    Accepted, Backlog, Change, Changed, Claim, Claimed, Cursor, Filter, Health, Lease,
    MessageRecord, Page, Revision, Settlement, Store, StoreError,
};
use crate::base::id::MessageId;
use crate::base::time::Clock;
use crate::mail::message::NewMessage;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the writer.
const WAITING_MAX: usize = 1_024;
/// Longest wait for a place among them.
const BUSY: Duration = Duration::from_secs(5);
/// Longer messages are compressed on a thread of their own: one of this size takes about 0.2 ms.
const PACKED_AT_ONCE: usize = 64 << 10;
/// Longest wait of new mail for the disk.
const STALLED: Duration = Duration::from_secs(20);

/// How the engine is to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Free space, in bytes, below which new mail is refused with [`StoreError::Full`].
    pub free_space_min: u64,
    /// Bytes that the queue may take on the disk, about; `None`: as many as there are.
    pub size_max: Option<u64>,
    /// Messages are written compressed.
    pub compress: bool,
    /// Bytes of a database page, of a new database.
    pub page_size: u32,
    /// Bytes of a segment of the journal; `None`: 64 MiB, or less where the disk is small.
    pub segment_size: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            free_space_min: 256 << 20,
            size_max: None,
            compress: false,
            page_size: 4_096,
            segment_size: None,
        }
    }
}

/// A queue on disk. Clones share it; with the last one it is closed, which waits for writes under
/// way.
#[derive(Clone, Debug)]
pub struct EmbeddedStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    files: Files,
    gauges: Arc<Gauges>,
    compress: bool,
    /// `None` where it was opened for reading only.
    running: Option<Running>,
}

/// The threads, and the ways to them.
#[derive(Debug)]
struct Running {
    requests: mpsc::Sender<Request>,
    inbox: Inbox,
    threads: Vec<JoinHandle<()>>,
    /// Keeps other nodes out.
    _lock: File,
}

impl EmbeddedStore {
    /// Opens the queue in `dir`, which is created as needed, for this process alone.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] where another process has it or it is of another version;
    /// [`StoreError::Failed`] or [`StoreError::Full`] where it cannot be read or created.
    pub fn open(dir: &Path, clock: Clock, options: Options) -> Result<Self, StoreError> {
        let lock = schema::lock(dir)?;
        let disk = open::folder(dir)?;
        Self::start(open::open(dir, disk, clock, &options)?, dir, lock)
    }

    /// Sets the threads to work.
    fn start<D: Disk>(parts: Parts<D>, dir: &Path, lock: File) -> Result<Self, StoreError> {
        let Parts { shared, files, gauges, compress, writer, indexer, inbox, requests, waiting } =
            parts;
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(run);
            thread.map_err(|e| StoreError::Failed(format!("cannot start a thread: {e}")))
        };
        let threads = vec![
            spawn("store-writer", Box::new(move || writer.run(waiting)))?,
            spawn("store-index", Box::new(move || indexer.run()))?,
        ];
        let readers = Arc::new(Readers::new(dir.to_owned()));
        let running = Some(Running { requests, inbox, threads, _lock: lock });
        Ok(Self(Arc::new(Inner { shared, readers, files, gauges, compress, running })))
    }

    /// Opens the queue in `dir` for `list`, `show`, `bodies` and `backlog` alone; all else fails.
    /// The backlog is that of this moment, and nothing in it is leased.
    ///
    /// # Errors
    /// [`StoreError::Incompatible`] where it is of another version; [`StoreError::Failed`] where
    /// there is none or it cannot be read.
    pub fn open_read_only(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        open::catch_up(dir, &clock)?;
        let db = schema::open_reader(dir)?;
        let shared = Arc::new(Shared::new(clock));
        let read = load::names(&db, &shared).and_then(|()| load::count(&db, &shared));
        let last_id = read.and_then(|()| index::last_id(&db)).map_err(|e| store_error(&e))?;
        let files = Files::open(&Folder(open::journal(dir))).map_err(|e| space::store_error(&e))?;
        Ok(Self(Arc::new(Inner {
            shared,
            readers: Arc::new(Readers::new(dir.to_owned())),
            files,
            gauges: Arc::new(Gauges::new(last_id)),
            compress: false,
            running: None,
        })))
    }

    fn running(&self) -> Result<&Running, StoreError> {
        let why = || StoreError::Failed("the queue was opened for reading only".into());
        self.0.running.as_ref().ok_or_else(why)
    }

    /// Hands a request to the writer and waits for its answer.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let requests = &self.running()?.requests;
        let (reply, answer) = oneshot::channel();
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

    /// Hands a request to the index thread and waits for its answer.
    async fn ask_index<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Message,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        if !self.running()?.inbox.ask(request(reply)) {
            return Err(gone());
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// A message's bytes as they are to be written.
    async fn stored(&self, body: Bytes) -> Result<Stored, StoreError> {
        if !self.0.compress {
            return Ok(Stored::plain(body));
        }
        if body.len() <= PACKED_AT_ONCE {
            return Ok(Stored::packed(body));
        }
        let packed = tokio::task::spawn_blocking(move || Stored::packed(body));
        packed.await.map_err(|_| StoreError::Failed("a compressor broke off".into()))
    }

    /// Makes all that was accepted and settled seen by readers.
    async fn flush(&self) -> Result<(), StoreError> {
        match self.0.running {
            Some(_) => self.ask_index(|reply| Message::Flush { reply }).await,
            None => Ok(()),
        }
    }

    /// The bytes of messages that could be read.
    async fn read(&self, messages: &[MessageId]) -> Result<HashMap<MessageId, Bytes>, StoreError> {
        let wanted = self.places(messages).await?;
        let files = self.0.files.clone();
        let read = tokio::task::spawn_blocking(move || bodies::read(&files, wanted));
        let read = read.await.map_err(|_| StoreError::Failed("a reader broke off".into()))?;
        Ok(read.map_err(|e| space::store_error(&e))?.into_iter().collect())
    }

    /// Where the bytes of messages lie: those with leases from memory, others from the index.
    async fn places(&self, messages: &[MessageId]) -> Result<Vec<Wanted>, StoreError> {
        let (mut wanted, mut others) = (Vec::with_capacity(messages.len()), Vec::new());
        {
            let live = self.0.shared.lock();
            for id in messages {
                match live.leases.place(*id) {
                    Some((place, size)) => wanted.push(Wanted { id: *id, place, size }),
                    None => others.push(*id),
                }
            }
        }
        if !others.is_empty() {
            self.flush().await?;
            let found = self.0.readers.run(move |db| {
                let mut found = Vec::with_capacity(others.len());
                for id in others {
                    let place = read::place(db, id)?;
                    found.extend(place.map(|(place, size)| Wanted { id, place, size }));
                }
                Ok(found)
            });
            wanted.extend(found.await?);
        }
        Ok(wanted)
    }
}

fn gone() -> StoreError {
    StoreError::Failed("the store is closed".into())
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The index thread closes last: it then moves its log into the database.
        self.readers.close();
        if let Some(Running { requests, inbox, threads, _lock }) = self.running.take() {
            drop((requests, inbox));
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}

impl Store for EmbeddedStore {
    async fn accept(
        &self,
        message: NewMessage,
        lease: Option<Duration>,
    ) -> Result<Accepted, StoreError> {
        let until = lease.map(|ttl| self.0.shared.clock.now().after(ttl));
        let stored = self.stored(message.body.clone()).await?;
        let accept = |reply| Request::Accept(Box::new(Accept { message, stored, until, reply }));
        let accept = self.ask(accept);
        tokio::time::timeout(STALLED, accept).await.unwrap_or(Err(StoreError::Busy))
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, StoreError> {
        let until = self.0.shared.clock.now().after(claim.ttl);
        self.ask_index(|reply| Message::Claim { claim, until, reply }).await
    }

    async fn renew(&self, leases: Vec<Lease>, ttl: Duration) -> Result<Vec<Lease>, StoreError> {
        Ok(self.0.shared.renew(leases, ttl))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Vec<Lease>, StoreError> {
        self.ask(|reply| Request::Settle(Settle { settlement, reply })).await
    }

    async fn release(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        self.0.shared.release(&leases);
        Ok(())
    }

    async fn bodies(
        &self,
        messages: Vec<MessageId>,
    ) -> Result<Vec<(MessageId, Bytes)>, StoreError> {
        let mut found = self.read(&messages).await?;
        let missing: Vec<MessageId> =
            messages.iter().filter(|id| !found.contains_key(id)).copied().collect();
        if !missing.is_empty() {
            // Carried on to another segment, perhaps, between the look at where they were and the
            // reading.
            found.extend(self.read(&missing).await?);
        }
        Ok(messages.iter().filter_map(|id| Some((*id, found.get(id)?.clone()))).collect())
    }

    fn backlog_part(&self, since: Revision, most: usize) -> Backlog {
        self.0.shared.backlog_part(since, most)
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
        self.flush().await?;
        let shared = Arc::clone(&self.0.shared);
        self.0.readers.run(move |db| read::list(db, &shared, &matcher, after, limit)).await
    }

    async fn show(&self, message: MessageId) -> Result<Option<MessageRecord>, StoreError> {
        self.flush().await?;
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
        self.ask_index(|reply| Message::Change { matcher, action, after, reply }).await
    }

    async fn hold_all(&self, hold: bool) -> Result<(), StoreError> {
        self.ask_index(|reply| Message::HoldAll { hold, reply }).await
    }

    async fn room(&self) -> u64 {
        if !self.0.gauges.short.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        // A writer that does not answer has other news for whoever sends.
        self.ask(|reply| Request::Room { reply }).await.unwrap_or(u64::MAX)
    }

    fn last_id(&self) -> Option<MessageId> {
        self.0.gauges.last_id()
    }

    fn health(&self) -> Health {
        let behind = self.0.running.as_ref().map_or(0, |running| running.inbox.waiting());
        self.0.gauges.health(behind, self.0.shared.clock.now())
    }
}
