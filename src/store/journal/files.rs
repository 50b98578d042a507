//! The journal's files: appended to and synced by one writer, read by position by others, used
//! again when nothing in them lives.
//!
//! # Invariants
//! * What [`Log::write`] returned `Ok` for is on disk. After a failure the file is never written or
//!   synced again: a new segment says where the synced part of it ended.
//! * A file is renamed to its new number before anything is written to it: no number has two
//!   contents.
//! * A segment is as long as was asked for from its first byte on, so that a sync of records needs
//!   no metadata.

use super::frame::{self, Position};
use super::scan;
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of an ordinary segment.
pub(super) const SEGMENT: u64 = 64 << 20;
/// Bytes of a segment's first frame.
const BEGIN: u64 = 32;
/// Files kept to be used again.
const SPARE_MAX: usize = 4;

/// The files.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    segment_size: u64,
    current: Segment,
    /// Where the synced part ends.
    end: Position,
    /// Where that of the segment before ends that has one.
    last: Position,
    sealed: BTreeMap<u64, Segment>,
    spare: Vec<Segment>,
}

/// One file.
#[derive(Clone, Debug)]
struct Segment {
    number: u64,
    file: Arc<File>,
    size: u64,
}

/// Records that are written and synced together.
#[derive(Debug)]
pub(super) struct Batch {
    begin: Position,
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds a record; gives its place.
    pub(super) fn push(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
        let offset = self.begin.offset + self.bytes.len() as u64;
        let at = Position { offset, ..self.begin };
        frame::put(&mut self.bytes, at, kind, payload);
        at
    }
}

impl Log {
    /// Goes on after `last`, the place where what is to be kept ends, in a new segment.
    pub(super) fn open(dir: &Path, last: Position, segment_size: u64) -> io::Result<Self> {
        let mut sealed = BTreeMap::new();
        for number in numbers(dir)? {
            let file = OpenOptions::new().read(true).write(true).open(path(dir, number))?;
            let size = file.metadata()?.len();
            sealed.insert(number, Segment { number, file: Arc::new(file), size });
        }
        let number = sealed.last_key_value().map_or(1, |(number, _)| number + 1);
        let current = create(dir, number, segment_size)?;
        let end = Position { segment: number, offset: 0 };
        let (dir, spare) = (dir.to_owned(), Vec::new());
        let mut log = Self { dir, segment_size, current, end, last, sealed, spare };
        log.begin()?;
        Ok(log)
    }

    /// A batch of records that take so many bytes, as [`frame::len`] counts them.
    pub(super) fn batch(&mut self, len: u64) -> io::Result<Batch> {
        if self.current.size - self.end.offset < len {
            self.roll(len)?;
        }
        let bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        Ok(Batch { begin: self.end, bytes })
    }

    /// Writes a batch and syncs it.
    pub(super) fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let file = &self.current.file;
        let written = file.write_all_at(&batch.bytes, batch.begin.offset);
        match written.and_then(|()| file.sync_data()) {
            Ok(()) => {
                self.end.offset = batch.begin.offset + batch.bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Nothing is known of the file's pages any more. Where no new one can be made
                // either, the next batch tries again.
                self.current.size = self.end.offset;
                Err(error)
            }
        }
    }

    /// Where the synced part ends.
    pub(super) fn end(&self) -> Position {
        self.end
    }

    /// The file that a record lies in, to be read without the log.
    pub(super) fn file(&self, segment: u64) -> Option<Arc<File>> {
        let sealed = || self.sealed.get(&segment).map(|sealed| &sealed.file);
        let file = (self.current.number == segment).then_some(&self.current.file).or_else(sealed);
        file.cloned()
    }

    /// Gives up a segment in which nothing lives: it is used again, or removed.
    pub(super) fn retire(&mut self, number: u64) -> io::Result<()> {
        let Some(segment) = self.sealed.remove(&number) else { return Ok(()) };
        if self.spare.len() < SPARE_MAX && segment.size == self.segment_size {
            self.spare.push(segment);
            return Ok(());
        }
        std::fs::remove_file(path(&self.dir, number))
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        let others = self.sealed.values().chain(&self.spare).map(|segment| segment.size);
        self.current.size + others.sum::<u64>()
    }

    /// Goes on in a new segment, which takes at least one batch of `len` bytes.
    fn roll(&mut self, len: u64) -> io::Result<()> {
        let number = self.current.number + 1;
        let size = (len + BEGIN).max(self.segment_size);
        let next = match self.spare.pop() {
            Some(spare) if size == self.segment_size => reuse(&self.dir, spare, number)?,
            spare => {
                self.spare.extend(spare);
                create(&self.dir, number, size)?
            }
        };
        let previous = std::mem::replace(&mut self.current, next);
        self.sealed.insert(previous.number, previous);
        // A segment whose first frame could not be written is as if it had not been.
        if self.end.offset > 0 {
            self.last = self.end;
        }
        self.end = Position { segment: number, offset: 0 };
        self.begin()
    }

    /// The first frame of a segment.
    fn begin(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        scan::begin(&mut bytes, self.current.number, self.last);
        self.write(&Batch { begin: self.end, bytes })
    }
}

/// Numbers of the segments in a folder, in order.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        numbers.extend(number.and_then(|number| u64::from_str_radix(number, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment's file.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

fn create(dir: &Path, number: u64, size: u64) -> io::Result<Segment> {
    let mut options = OpenOptions::new();
    // One that is there was made before a crash, and nothing was written to it.
    let file = options.read(true).write(true).create(true).truncate(true).open(path(dir, number))?;
    match fallocate(&file, FallocateFlags::empty(), 0, size) {
        Ok(()) => {}
        // Not every file system can; the file then grows as it is written.
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(Segment { number, file: Arc::new(file), size })
}

fn reuse(dir: &Path, spare: Segment, number: u64) -> io::Result<Segment> {
    std::fs::rename(path(dir, spare.number), path(dir, number))?;
    sync_dir(dir)?;
    Ok(Segment { number, ..spare })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
