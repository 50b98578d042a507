//! Opening the queue: the index is brought up to the journal's end, and what memory holds is worked
//! out.

use super::gauges::Gauges;
use super::inbox::{self, Inbox};
use super::index::{Index, reached};
use super::indexer::Indexer;
use super::replay::{Span, replay};
use super::space::{self, Limits, Room};
use super::writer::{Request, Writer};
use super::{Options, WAITING_MAX, load, migrate, schema};
use crate::base::time::Clock;
use crate::observe::store as tell;
use crate::store::StoreError;
use crate::store::journal::Position;
use crate::store::journal::disk::{Disk, Folder};
use crate::store::journal::files::{Files, Log, Told, numbers};
use crate::store::shared::Shared;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes of a segment, unless the disk is small.
const SEGMENT_SIZE: u64 = 64 << 20;
/// Of a small disk, a segment takes so much of the whole at most.
const SEGMENT_SHARE: u64 = 32;

/// An engine that is ready to run.
pub(super) struct Parts<D: Disk> {
    pub(super) shared: Arc<Shared>,
    pub(super) files: Files,
    pub(super) gauges: Arc<Gauges>,
    pub(super) compress: bool,
    pub(super) writer: Writer<D>,
    pub(super) indexer: Indexer<D>,
    pub(super) inbox: Inbox,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) waiting: mpsc::Receiver<Request>,
}

/// Where the journal lies in a data directory.
pub(super) fn journal(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// The journal's folder, made as needed.
pub(super) fn folder(dir: &Path) -> Result<Folder, StoreError> {
    let path = journal(dir);
    let failed = |e| StoreError::Failed(format!("cannot create {}: {e}", path.display()));
    std::fs::create_dir_all(&path).map_err(failed)?;
    Ok(Folder(path))
}

/// Opens the queue in `dir` with its journal on `disk`.
pub(super) fn open<D: Disk>(
    dir: &Path,
    disk: D,
    clock: Clock,
    options: &Options,
) -> Result<Parts<D>, StoreError> {
    let shared = Arc::new(Shared::new(clock));
    let segment_size = options.segment_size.unwrap_or_else(|| segment_size(dir, options));
    migrate::migrate(dir, &disk, segment_size)?;
    let (index, told) = follow(dir, &disk, &shared, options.page_size, &mut |_, _| {})?;
    migrate::finish(dir);
    load::count(&index.db, &shared).map_err(|e| schema::store_error(&e))?;
    let failed = |e| space::store_error(&e);
    let log = Log::open(disk.clone(), &told, segment_size).map_err(failed)?;
    let gauges = Arc::new(Gauges::new(index.last_id));
    let (requests, waiting) = mpsc::channel(WAITING_MAX);
    let (inbox, incoming) = inbox::channel();
    let files = log.files();
    let indexer = Indexer::new(
        dir.to_owned(),
        disk,
        options.page_size,
        Arc::clone(&shared),
        Arc::clone(&gauges),
        files.clone(),
        incoming,
        requests.downgrade(),
        index,
        told.last,
    );
    let writer = Writer {
        dir: dir.to_owned(),
        log,
        shared: Arc::clone(&shared),
        gauges: Arc::clone(&gauges),
        room: Room::default(),
        limits: Limits { free_min: options.free_space_min, size_max: options.size_max },
        index: inbox.clone(),
        mail: VecDeque::new(),
    };
    let compress = options.compress;
    Ok(Parts { shared, files, gauges, compress, writer, indexer, inbox, requests, waiting })
}

/// The index, brought up to the journal's end, and what the journal says. A database that is
/// damaged is put aside and made anew.
pub(super) fn follow(
    dir: &Path,
    disk: &impl Disk,
    shared: &Shared,
    page_size: u32,
    progress: &mut dyn FnMut(Position, u64),
) -> Result<(Index, Told), StoreError> {
    let followed = match try_follow(dir, disk, shared, page_size, progress) {
        Err(StoreError::Damaged(why)) if has_segments(disk) => {
            tell::index_damaged(&why);
            set_aside(dir, "damaged").map_err(|e| space::store_error(&e))?;
            try_follow(dir, disk, shared, page_size, progress)
        }
        other => other,
    };
    let (index, told) = followed?;
    for (at, bytes) in &told.damage {
        tell::journal_damaged(at.segment, at.offset, *bytes);
        if let Err(error) = keep(dir, disk, *at, *bytes) {
            tell::failed("keep damaged bytes", &error);
        }
    }
    Ok((index, told))
}

fn has_segments(disk: &impl Disk) -> bool {
    numbers(disk).is_ok_and(|numbers| !numbers.is_empty())
}

/// As [`follow`], but a damaged database stays as it is.
pub(super) fn try_follow(
    dir: &Path,
    disk: &impl Disk,
    shared: &Shared,
    page_size: u32,
    progress: &mut dyn FnMut(Position, u64),
) -> Result<(Index, Told), StoreError> {
    let mut index = Index::open(dir, page_size)?;
    let from = reached(&index.db).map_err(|e| schema::store_error(&e))?;
    load::names(&index.db, shared).map_err(|e| schema::store_error(&e))?;
    let numbers = numbers(disk).map_err(|e| space::store_error(&e))?;
    if from > Position::default() && !numbers.contains(&from.segment) {
        return Err(StoreError::Incompatible(format!(
            "queue.db in {} has followed the journal into segment {:016x}, which is not there: \
             restore the folder journal, or remove queue.db to go on with what is left of it",
            dir.display(),
            from.segment
        )));
    }
    let told = replay(&mut index, disk, Span { from, until: None }, shared, |at, records| {
        if records > 0 {
            tell::replaying(at.segment, records);
        }
        progress(at, records);
    })?;
    Ok((index, told))
}

/// Where bytes are kept that were a record once.
pub(super) fn damaged(dir: &Path) -> PathBuf {
    dir.join("damaged")
}

/// Keeps damaged bytes of the journal, whose segment is used again some day.
fn keep(dir: &Path, disk: &impl Disk, at: Position, bytes: u64) -> io::Result<()> {
    let folder = damaged(dir);
    std::fs::create_dir_all(&folder)?;
    let file = Files::open(disk)?.get(at.segment).ok_or(io::ErrorKind::NotFound)?;
    let mut kept = vec![0; usize::try_from(bytes).unwrap_or(0)];
    file.read_at(&mut kept, at.offset)?;
    std::fs::write(folder.join(format!("{:016x}-{}", at.segment, at.offset)), kept)
}

/// Gives the database another name, if there is one.
pub(super) fn set_aside(dir: &Path, suffix: &str) -> io::Result<()> {
    for (from, to) in aside(dir, suffix) {
        match std::fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    schema::sync(dir)
}

/// Removes a database that was put aside.
pub(super) fn remove_aside(dir: &Path, suffix: &str) {
    for (_, path) in aside(dir, suffix) {
        // It only takes space.
        _ = std::fs::remove_file(path);
    }
}

/// The files of the database, the one that counts last, and their other names.
fn aside(dir: &Path, suffix: &str) -> [(PathBuf, PathBuf); 3] {
    ["-shm", "-wal", ""].map(|part| {
        let (from, to) = (format!("queue.db{part}"), format!("queue.db.{suffix}{part}"));
        (dir.join(from), dir.join(to))
    })
}

/// Brings the index of a queue that no node has up to its journal's end, so that all that was
/// accepted is seen. Where that cannot be done, what is there has to do.
pub(super) fn catch_up(dir: &Path, clock: &Clock) -> Result<(), StoreError> {
    if !schema::path(dir).exists() && !journal(dir).exists() {
        return Ok(());
    }
    let Ok(_lock) = schema::lock(dir) else { return Ok(()) };
    let shared = Shared::new(clock.clone());
    let page_size = Options::default().page_size;
    match follow(dir, &Folder(journal(dir)), &shared, page_size, &mut |_, _| {}) {
        Ok(_) => Ok(()),
        Err(error @ (StoreError::Incompatible(_) | StoreError::Damaged(_))) => Err(error),
        Err(error) => {
            tell::failed("follow", &error);
            Ok(())
        }
    }
}

fn segment_size(dir: &Path, options: &Options) -> u64 {
    let total = space::total(dir).unwrap_or(u64::MAX);
    let share = total.min(options.size_max.unwrap_or(u64::MAX)) / SEGMENT_SHARE;
    (share & !0xf_ffff).clamp(1 << 20, SEGMENT_SIZE)
}
