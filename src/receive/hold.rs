//! Where a message is while it comes in: a small one in its session, a larger one in the memory for
//! those, beyond that on disk. So a slow client with a large message takes disk, not memory. Once
//! all of it is there, it is worked on in other memory, which nobody holds who waits for a client.
//!
//! # Invariants
//! * Who waits for memory holds none, and is served in his turn.
//! * A file here has no name: it ends with the process, whatever ends that.

use crate::config::Config;
use crate::observe::store as tell;
use crate::smtp::command::Refusal;
use crate::store::embedded::free_space;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// A message of this many bytes needs no room: the limit on sessions bounds such ones.
const SMALL: usize = 64 << 10;
/// A larger one than this, in bytes, goes to disk even while there is memory.
const LARGE: usize = 1 << 20;
/// Memory that a growing message asks for at a time, in KiB.
const GROWTH_KIB: usize = 512;
/// Disk that it asks for at a time, in bytes.
const BLOCK: usize = 1 << 20;
/// How long a message that is all there waits for memory: its client has sent it already, and waits
/// longer than that (RFC 5321 §4.5.3.2.6).
const PATIENCE: Duration = Duration::from_secs(60);

/// What all who receive share.
#[derive(Debug)]
pub(super) struct Depot {
    /// KiB of memory for what comes in.
    arriving: Arc<Semaphore>,
    /// KiB of memory for what has come.
    working: Arc<Semaphore>,
    /// All of that.
    working_kib: usize,
    /// Blocks of disk.
    disk: Arc<Semaphore>,
    dir: PathBuf,
    /// Bytes that are to stay free there.
    free_min: u64,
}

impl Depot {
    pub(super) fn new(config: &Config) -> Self {
        let count = |bytes: u64, unit: usize| {
            usize::try_from(bytes.div_ceil(unit as u64)).unwrap_or(usize::MAX)
        };
        let half_kib = count(config.limits.memory / 2, 1_024).min(u32::MAX as usize);
        let room = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            arriving: room(half_kib),
            working: room(half_kib),
            working_kib: half_kib,
            disk: room(count(config.limits.disk, BLOCK)),
            dir: config.data_dir.clone(),
            free_min: config.store.free_space_min,
        }
    }

    /// Memory to work on a message that takes so many bytes of it; one that takes more than there
    /// is has all of it.
    pub(super) async fn work(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let kib = bytes.div_ceil(1_024).min(self.working_kib);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.working).acquire_many_owned(kib);
        timeout(PATIENCE, room).await.ok().and_then(Result::ok).ok_or_else(too_many)
    }

    /// Takes more blocks of disk until there are `count`.
    fn reserve(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        count: usize,
    ) -> Result<(), Refusal> {
        let more = count.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return Ok(());
        }
        let least = self.free_min.saturating_add((more * BLOCK) as u64);
        if free_space(&self.dir).is_ok_and(|free| free < least) {
            return Err(Refusal::full());
        }
        take(&self.disk, held, more).then_some(()).ok_or_else(too_many)
    }
}

/// Takes so many more, if they are there.
fn take(from: &Arc<Semaphore>, held: &mut Option<OwnedSemaphorePermit>, more: usize) -> bool {
    let Ok(more) = u32::try_from(more) else { return false };
    let Ok(more) = Arc::clone(from).try_acquire_many_owned(more) else { return false };
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
    true
}

/// What holds one message while it comes in.
#[derive(Debug)]
pub(super) struct Hold {
    depot: Arc<Depot>,
    /// Bytes of memory that are needed for each of the message's.
    factor: usize,
    memory: Option<OwnedSemaphorePermit>,
    file: Option<File>,
    disk: Option<OwnedSemaphorePermit>,
}

impl Hold {
    pub(super) fn new(depot: &Arc<Depot>, factor: usize) -> Self {
        Self { depot: Arc::clone(depot), factor, memory: None, file: None, disk: None }
    }

    /// True where the `size` bytes that follow the `taken` first ones of a message may stay where
    /// they are. Otherwise they are to be [`put`](Self::put).
    pub(super) fn fits(&mut self, taken: usize, size: usize) -> bool {
        if taken == 0 {
            // Of a message before this one.
            self.forget();
        }
        if size <= SMALL {
            self.memory = None;
            return true;
        }
        if taken > 0 || size > LARGE {
            return false;
        }
        let held = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let need = (size * self.factor).div_ceil(1_024);
        need <= held || take(&self.depot.arriving, &mut self.memory, (need - held).max(GROWTH_KIB))
    }

    /// Puts bytes of a message where they take no memory; `offset` is how many came before them.
    ///
    /// # Errors
    /// The answer to the client, whose message is to be given up.
    pub(super) async fn put(&mut self, offset: usize, bytes: Vec<u8>) -> Result<(), Refusal> {
        self.depot.reserve(&mut self.disk, (offset + bytes.len()).div_ceil(BLOCK))?;
        let (depot, file) = (Arc::clone(&self.depot), self.file.take());
        let written = aside(move || {
            let file = file.map_or_else(|| tempfile::tempfile_in(&depot.dir), Ok)?;
            file.write_all_at(&bytes, offset as u64)?;
            Ok(file)
        });
        (self.file, self.memory) = (Some(written.await?), None);
        Ok(())
    }

    /// The whole message, with the memory that it takes as long as it is worked on: `taken` bytes
    /// that were put, and the rest. Where some were put, there is memory for `more` bytes besides.
    ///
    /// # Errors
    /// The answer to the client.
    pub(super) async fn whole(
        &mut self,
        taken: usize,
        rest: Vec<u8>,
        more: usize,
    ) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
        let memory = self.memory.take();
        if taken == 0 {
            return Ok((rest, memory));
        }
        let size = taken + rest.len();
        let room = self.depot.work(size * self.factor + more).await?;
        let file = self.file.take();
        let read = aside(move || {
            let file = file.ok_or(io::ErrorKind::NotFound)?;
            let mut all = Vec::with_capacity(size);
            all.resize(taken, 0);
            file.read_exact_at(&mut all, 0)?;
            all.extend_from_slice(&rest);
            Ok(all)
        });
        let all = read.await?;
        self.disk = None;
        Ok((all, Some(room)))
    }

    fn forget(&mut self) {
        // To give back so much of a disk takes milliseconds.
        if let Some(file) = self.file.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(file));
        }
        self.disk = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Does what may wait for the disk.
async fn aside<T: Send + 'static>(
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let done = spawn_blocking(what).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::full(),
        _ => {
            tell::failed("message on its way in", &error);
            Refusal::new(451, (4, 3, 0), "Message not stored, try again later")
        }
    })
}

fn too_many() -> Refusal {
    Refusal::new(452, (4, 3, 1), "Too many large messages at once, try again later")
}
