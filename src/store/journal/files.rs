//! The journal's files, a ring: appended to at one end, given up at the other.
//!
//! # Invariants
//! * What [`Log::write`] returned `Ok` for is on disk. After a failure the file is never written or
//!   synced again: a new segment says where the synced part of it ended.
//! * Segments are given up oldest first. So whatever is in the journal, what it says of it later
//!   is in it, too: a rebuild never brings back what was settled.
//! * A file has its new name before anything is written to it: no name has two contents.
//! * A segment is as long as it will be from the first, so that a sync of records writes no
//!   metadata.

use super::disk::{Disk, DiskFile};
use super::frame::{self, Position};
use super::scan;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a segment for which a full disk should have room.
const SMALL: u64 = 1 << 20;
/// Files kept to be used again.
const SPARE_MAX: usize = 4;

/// Bytes of a batch's memory that are kept for the next one: fresh pages cost more than copying.
const BUFFER_MAX: usize = 32 << 20;

/// The open files by segment, for those who read beside the log.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Files(Arc<Mutex<BTreeMap<u64, Open>>>);

/// A file that records can be read from.
#[derive(Clone, Debug)]
struct Open {
    file: Arc<dyn DiskFile>,
    size: u64,
}

impl Files {
    /// Opens all segments.
    pub(in crate::store) fn open(disk: &impl Disk) -> io::Result<Self> {
        let files = Self::default();
        for number in numbers(disk)? {
            let file = disk.open(&name(number))?;
            let size = file.size()?;
            files.insert(number, file, size);
        }
        Ok(files)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, number: u64, file: Arc<dyn DiskFile>, size: u64) {
        self.lock().insert(number, Open { file, size });
    }

    /// The file of a segment; `None` once it was given up.
    pub(in crate::store) fn get(&self, segment: u64) -> Option<Arc<dyn DiskFile>> {
        self.lock().get(&segment).map(|open| Arc::clone(&open.file))
    }

    /// The segments, oldest first.
    pub(in crate::store) fn numbers(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// Bytes of the newest segment.
    pub(in crate::store) fn newest_size(&self) -> u64 {
        self.lock().values().next_back().map_or(0, |open| open.size)
    }

    /// Bytes of all segments.
    pub(in crate::store) fn size(&self) -> u64 {
        self.lock().values().map(|open| open.size).sum()
    }
}

/// The files.
#[derive(Debug)]
pub(in crate::store) struct Log<D: Disk> {
    disk: D,
    segment_size: u64,
    current: Segment<D>,
    /// Where the synced part ends.
    end: Position,
    /// Where that of the segment before ends that has one.
    last: Position,
    /// All of them, to be read from.
    files: Files,
    /// Names of files to be used again.
    spare: Vec<String>,
    next_spare: u64,
    /// Of the last batch, for the next one.
    buffer: Vec<u8>,
}

/// Bytes of files that hold nothing yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Reserve {
    /// In the segment that is written to.
    pub(in crate::store) current: u64,
    /// In files that are to be used again.
    pub(in crate::store) spare: u64,
}

impl Reserve {
    /// Both.
    pub(in crate::store) fn in_all(self) -> u64 {
        self.current + self.spare
    }
}

/// One file.
#[derive(Debug)]
struct Segment<D: Disk> {
    number: u64,
    file: Arc<D::File>,
    size: u64,
}

/// Records that are written and synced together.
#[derive(Debug)]
pub(in crate::store) struct Batch {
    begin: Position,
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds a record; gives its place.
    pub(in crate::store) fn push(&mut self, kind: u8, payload: &[&[u8]]) -> Position {
        let offset = self.begin.offset + self.bytes.len() as u64;
        let at = Position { offset, ..self.begin };
        frame::put(&mut self.bytes, at, self.begin.offset, kind, payload);
        at
    }
}

impl<D: Disk> Log<D> {
    /// Goes on in a new segment after what [`read`] told of.
    pub(in crate::store) fn open(disk: D, told: &Told, segment_size: u64) -> io::Result<Self> {
        let is_spare = |name: &String| name.ends_with(SPARE);
        let mut spare: Vec<String> = disk.names()?.into_iter().filter(is_spare).collect();
        let files = Files::open(&disk)?;
        let number = files.numbers().last().map_or(1, |number| number + 1);
        let (file, size) = next(&disk, number, scan::BEGIN_LEN, segment_size, &mut spare)?;
        files.insert(number, Arc::clone(&file) as Arc<dyn DiskFile>, size);
        let current = Segment { number, file, size };
        let end = Position { segment: number, offset: 0 };
        let mut log = Self {
            disk,
            segment_size,
            current,
            end,
            last: told.last,
            files,
            spare,
            next_spare: number,
            buffer: Vec::new(),
        };
        log.begin()?;
        Ok(log)
    }

    /// The files, to be read from.
    pub(in crate::store) fn files(&self) -> Files {
        self.files.clone()
    }

    /// Bytes that can be written without taking more of the disk.
    pub(in crate::store) fn reserve(&self) -> Reserve {
        Reserve {
            current: self.current.size.saturating_sub(self.end.offset),
            spare: self.spare.len() as u64 * self.segment_size,
        }
    }

    /// A batch of records that take so many bytes, as [`frame::len`] counts them.
    pub(in crate::store) fn batch(&mut self, len: u64) -> io::Result<Batch> {
        if self.end.offset == 0 || self.current.size.saturating_sub(self.end.offset) < len {
            self.roll(len)?;
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        bytes.reserve(usize::try_from(len).unwrap_or(0));
        Ok(Batch { begin: self.end, bytes })
    }

    /// Writes a batch and syncs it.
    pub(in crate::store) fn write(&mut self, batch: Batch) -> io::Result<()> {
        let file = &self.current.file;
        let written = file.write_at(&batch.bytes, batch.begin.offset);
        let written = written.and_then(|()| file.sync());
        let end = batch.begin.offset + batch.bytes.len() as u64;
        if batch.bytes.capacity() <= BUFFER_MAX {
            self.buffer = batch.bytes;
        }
        match written {
            Ok(()) => {
                self.end.offset = end;
                Ok(())
            }
            Err(error) => {
                // Nothing is known of its pages any more: the next batch goes elsewhere.
                self.current.size = 0;
                Err(error)
            }
        }
    }

    /// Where the synced part ends.
    pub(in crate::store) fn end(&self) -> Position {
        // A segment whose first frame could not be written is as if it had not been.
        if self.end.offset > 0 { self.end } else { self.last }
    }

    /// The oldest segment, unless it is the one that is written to.
    pub(in crate::store) fn oldest(&self) -> Option<u64> {
        let oldest = self.files.lock().keys().next().copied();
        oldest.filter(|number| *number != self.current.number)
    }

    /// Gives up the oldest segment: nothing in it is needed any more.
    pub(in crate::store) fn retire_oldest(&mut self) -> io::Result<()> {
        let Some(number) = self.oldest() else { return Ok(()) };
        let size = self.files.lock().get(&number).map(|open| open.size);
        let used = size == Some(self.segment_size) && self.spare.len() < SPARE_MAX;
        let spare = format!("{:016x}{SPARE}", self.next_spare);
        let done = match used {
            true => self.disk.rename(&name(number), &spare),
            false => self.disk.remove(&name(number)),
        };
        match done {
            Ok(()) if used => {
                self.next_spare += 1;
                self.spare.push(spare);
            }
            Ok(()) => {}
            // Only its folder could not be synced, the last time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.files.lock().remove(&number);
        Ok(())
    }

    /// Goes on in a new segment, which takes at least one batch of `len` bytes.
    fn roll(&mut self, len: u64) -> io::Result<()> {
        let number = self.current.number + 1;
        let least = len + scan::BEGIN_LEN;
        let (file, size) = next(&self.disk, number, least, self.segment_size, &mut self.spare)?;
        self.files.insert(number, Arc::clone(&file) as Arc<dyn DiskFile>, size);
        let previous = std::mem::replace(&mut self.current, Segment { number, file, size });
        if self.end.offset > 0 {
            self.last = self.end;
        } else {
            // Its first frame could not be written: it is as if it had not been. Where it cannot
            // be removed, the next start gives it up with the others.
            self.files.lock().remove(&previous.number);
            _ = self.disk.remove(&name(previous.number));
        }
        self.end = Position { segment: number, offset: 0 };
        self.begin()
    }

    /// The first frame of a segment.
    fn begin(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        scan::begin(&mut bytes, self.current.number, self.last);
        self.write(Batch { begin: self.end, bytes })
    }
}

/// The file of the next segment, of `size` bytes or `least` where that is more. On a full disk a
/// small one has to do, so that what is queued can leave.
fn next<D: Disk>(
    disk: &D,
    number: u64,
    least: u64,
    size: u64,
    spare: &mut Vec<String>,
) -> io::Result<(Arc<D::File>, u64)> {
    // Where the renaming fails, nobody knows which name it has: the next start will.
    if least <= size
        && let Some(name_of_spare) = spare.pop()
    {
        disk.rename(&name_of_spare, &name(number))?;
        let file = disk.open(&name(number))?;
        let size = file.size()?;
        return Ok((file, size));
    }
    let (size, small) = (size.max(least), SMALL.max(least));
    match disk.create(&name(number), size) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull && size > small => {
            Ok((disk.create(&name(number), small)?, small))
        }
        created => Ok((created?, size)),
    }
}

/// How files that can be used again are named.
const SPARE: &str = ".spare";

/// Makes sure that what was read is on the disk: a process that died may have written it and never
/// synced it, or in vain. Only pages that are written anew are looked at by a sync.
fn secure(file: &impl DiskFile, bytes: &[u8], range: Range<u64>) -> io::Result<()> {
    let place = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    let read = bytes.get(place(range.start)..place(range.end)).unwrap_or_default();
    file.write_at(read, range.start)?;
    file.sync()
}

/// Numbers of the segments, in order.
pub(in crate::store) fn numbers(disk: &impl Disk) -> io::Result<Vec<u64>> {
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(".log")?, 16).ok();
    let mut numbers: Vec<u64> = disk.names()?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment's file.
fn name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// What a journal says.
#[derive(Debug, Default)]
pub(in crate::store) struct Told {
    /// Where what is to be kept ends: for [`Log::open`].
    pub(in crate::store) last: Position,
    /// Places where a record was, and how many bytes of it.
    pub(in crate::store) damage: Vec<(Position, u64)>,
}

/// Reads all records from `from` on, before `until` where that is given, in order; one segment is
/// in memory at a time. Without `until`, all that is given is on the disk for good.
pub(in crate::store) fn read<E: From<io::Error>>(
    disk: &impl Disk,
    from: Position,
    until: Option<Position>,
    mut record: impl FnMut(Position, u8, Bytes) -> Result<(), E>,
) -> Result<Told, E> {
    let numbers = numbers(disk)?;
    let before = befores(disk, &numbers)?;
    let mut told = Told { last: from, ..Told::default() };
    for number in numbers {
        let first = Position { segment: number, offset: 0 };
        if number < from.segment || until.is_some_and(|until| until <= first) {
            continue;
        }
        // Who came next tells where this one ended.
        let end = match before.range(number + 1..).next() {
            Some((_, before)) if before.segment == number => Some(before.offset),
            // It never held anything that was synced.
            Some((_, before)) if before.segment < number => continue,
            // Nobody came next, or who did is damaged.
            _ => None,
        };
        let end = match until {
            Some(until) if until.segment == number => Some(until.offset),
            _ => end,
        };
        let begin = if number == from.segment { from } else { first };
        let file = disk.open(&name(number))?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
        file.read_at(&mut bytes, 0)?;
        let bytes = Bytes::from(bytes);
        let (items, last) = scan::items(&bytes, begin, end);
        if last == 0 {
            // Its first frame was never written.
            continue;
        }
        if end.is_none() && until.is_none() {
            secure(&*file, &bytes, begin.offset..last)?;
        }
        for item in items {
            match item {
                scan::Item::Frame(at, frame) if frame.kind != scan::BEGIN => {
                    record(at, frame.kind, bytes.slice_ref(frame.payload))?;
                }
                scan::Item::Frame(..) => {}
                scan::Item::Damage(at, len) => told.damage.push((at, len)),
            }
        }
        told.last = Position { segment: number, offset: last };
    }
    Ok(told)
}

/// Where each segment says that the one before it ended; those are left out whose first frame is
/// damaged, or was never written.
fn befores(disk: &impl Disk, numbers: &[u64]) -> io::Result<BTreeMap<u64, Position>> {
    let mut before = BTreeMap::new();
    for number in numbers {
        let file = disk.open(&name(*number))?;
        let mut head = vec![0; usize::try_from(file.size()?.min(scan::BEGIN_LEN)).unwrap_or(0)];
        file.read_at(&mut head, 0)?;
        before.extend(scan::previous(&head, *number).map(|previous| (*number, previous)));
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Simulated;
    use super::*;
    use crate::base::random::from_seed;
    use proptest::prelude::*;

    const SIZE: u64 = 1_024;
    const NOWHERE: Position = Position { segment: 0, offset: 0 };

    fn all(disk: &Simulated) -> (Vec<Vec<u8>>, Told) {
        let mut records = Vec::new();
        let told = read::<io::Error>(disk, NOWHERE, None, |_, _, payload| {
            records.push(payload.to_vec());
            Ok(())
        });
        let told = told.unwrap();
        (records, told)
    }

    fn write(log: &mut Log<Simulated>, payloads: &[Vec<u8>]) -> io::Result<Vec<Position>> {
        let len = payloads.iter().map(|payload| frame::len(payload.len()) as u64).sum();
        let mut batch = log.batch(len)?;
        let places = payloads.iter().map(|payload| batch.push(1, &[payload])).collect();
        log.write(batch).map(|()| places)
    }

    /// Payloads of these sizes and a little more, none like another.
    fn payloads(sizes: &[usize], number: &mut u32) -> Vec<Vec<u8>> {
        let mut payload = |size: &usize| {
            *number += 1;
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(4 + size, 0xa5);
            payload
        };
        sizes.iter().map(&mut payload).collect()
    }

    #[derive(Clone, Debug)]
    enum Act {
        Write(Vec<usize>),
        /// A write in which the n-th operation fails.
        Fail(Vec<usize>, u64),
        Reopen,
        Follow,
        Retire,
        /// Of the machine.
        Crash(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        let sizes = || proptest::collection::vec(0usize..400, 1..4);
        prop_oneof![
            6 => sizes().prop_map(Act::Write),
            2 => (sizes(), 0u64..4).prop_map(|(sizes, n)| Act::Fail(sizes, n)),
            1 => Just(Act::Reopen),
            1 => Just(Act::Follow),
            1 => Just(Act::Retire),
            2 => any::<u64>().prop_map(Act::Crash),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_was_written_is_there_after_any_fault(
            acts in proptest::collection::vec(act(), 1..25),
        ) {
            let mut disk = Simulated::default();
            let mut log = Log::open(disk.clone(), &Told::default(), SIZE).unwrap();
            // Payloads that were written, with their places; and those that may have been.
            let mut kept: Vec<(Vec<u8>, Position)> = vec![];
            let mut doubtful: Vec<Vec<u8>> = vec![];
            let mut number = 0u32;
            for act in acts {
                match act {
                    Act::Write(sizes) | Act::Fail(sizes, _) if sizes.is_empty() => {}
                    Act::Write(ref sizes) | Act::Fail(ref sizes, _) => {
                        if let Act::Fail(_, n) = act {
                            disk.fail_in(n);
                        }
                        let payloads = payloads(sizes, &mut number);
                        match write(&mut log, &payloads) {
                            Ok(places) => kept.extend(payloads.into_iter().zip(places)),
                            Err(_) => doubtful.extend(payloads),
                        }
                        disk.fail_in(u64::MAX);
                    }
                    Act::Retire => {
                        if let Some(oldest) = log.oldest() {
                            log.retire_oldest().unwrap();
                            kept.retain(|(_, at)| at.segment != oldest);
                        }
                    }
                    Act::Reopen | Act::Follow | Act::Crash(_) => {
                        if let Act::Crash(seed) = act {
                            disk = disk.cut(&mut from_seed(seed));
                        }
                        // From where an index may be that has followed all of it, or anew.
                        let from = if matches!(act, Act::Follow) { log.end() } else { NOWHERE };
                        let told = read::<io::Error>(&disk, from, None, |_, _, _| Ok(()));
                        log = Log::open(disk.clone(), &told.unwrap(), SIZE).unwrap();
                    }
                }
                let (found, told) = all(&disk);
                prop_assert_eq!(&told.damage, &vec![]);
                let sure: Vec<&Vec<u8>> = found.iter().filter(|p| !doubtful.contains(p)).collect();
                prop_assert_eq!(sure, kept.iter().map(|(p, _)| p).collect::<Vec<_>>());
                for (payload, at) in &kept {
                    let file = log.files().get(at.segment).unwrap();
                    let mut bytes = vec![0; frame::len(payload.len())];
                    file.read_at(&mut bytes, at.offset).unwrap();
                    prop_assert_eq!(frame::get(&bytes, *at).unwrap().payload, &payload[..]);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn a_flip_anywhere_costs_one_record_and_is_told(
            batches in
                proptest::collection::vec(proptest::collection::vec(0usize..300, 1..5), 2..20),
            hit: proptest::sample::Index,
        ) {
            let disk = Simulated::default();
            let mut log = Log::open(disk.clone(), &Told::default(), SIZE).unwrap();
            // Payloads of each batch with their places.
            let mut written: Vec<Vec<(Vec<u8>, Position)>> = Vec::new();
            let mut number = 0u32;
            for sizes in &batches {
                let payloads = payloads(sizes, &mut number);
                let places = write(&mut log, &payloads).unwrap();
                written.push(payloads.into_iter().zip(places).collect());
            }
            // Any byte up to the last batch, of which nobody could say whether it was torn.
            let last = written.pop().unwrap();
            let until = last[0].1;
            let mut bytes: Vec<Position> = Vec::new();
            for number in numbers(&disk).unwrap() {
                let records = written.iter().flatten().filter(|(_, at)| at.segment == number);
                let begin = (number < until.segment || until.offset >= scan::BEGIN_LEN)
                    .then_some((0, 36));
                let frames = records.map(|(p, at)| (at.offset, frame::HEADER + p.len()));
                for (offset, len) in begin.into_iter().chain(frames) {
                    bytes.extend((0..len as u64).map(|n| {
                        Position { segment: number, offset: offset + n }
                    }));
                }
            }
            let hit = bytes[hit.index(bytes.len())];
            let file = disk.open(&name(hit.segment)).unwrap();
            let mut byte = [0];
            file.read_at(&mut byte, hit.offset).unwrap();
            file.write_at(&[byte[0] ^ 0x20], hit.offset).unwrap();
            let is_hit = |(p, at): &(Vec<u8>, Position)| {
                let frame = at.offset..at.offset + (frame::HEADER + p.len()) as u64;
                at.segment == hit.segment && frame.contains(&hit.offset)
            };
            let rest = written.iter().flatten().chain(&last).filter(|record| !is_hit(record));
            let rest: Vec<Vec<u8>> = rest.map(|(payload, _)| payload.clone()).collect();
            let (found, told) = all(&disk);
            prop_assert_eq!(found, rest);
            prop_assert_eq!(told.damage.len(), 1);
            // And it goes on behind it.
            prop_assert_eq!(told.last, log.end());
        }
    }
}
