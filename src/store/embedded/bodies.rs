//! Bytes of messages, read from the journal by position.

use crate::base::id::MessageId;
use crate::observe::store as tell;
use crate::store::journal::disk::DiskFile;
use crate::store::journal::files::Files;
use crate::store::journal::frame::{self, Frame};
use crate::store::journal::pack::{self, Stored};
use crate::store::journal::record::Place;
use bytes::Bytes;
use std::io;

/// A message's bytes that are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) id: MessageId,
    pub(super) place: Place,
    /// How many they are.
    pub(super) size: u64,
}

/// Reads messages in the order in which they lie in the journal. Those whose record was given up or
/// is damaged are left out; the latter are told of.
pub(super) fn read(files: &Files, mut wanted: Vec<Wanted>) -> io::Result<Vec<(MessageId, Bytes)>> {
    wanted.sort_unstable_by_key(|wanted| wanted.place.frame);
    let mut found = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let Some(stored) = stored(files, wanted)? else { continue };
        match stored.open() {
            Ok(body) => found.push((wanted.id, body)),
            Err(_) => damaged(wanted),
        }
    }
    Ok(found)
}

/// The bytes of a message as they lie in the journal; `None` as for [`read`].
pub(super) fn stored(files: &Files, wanted: Wanted) -> io::Result<Option<Stored>> {
    let Wanted { place, size, .. } = wanted;
    let segment = place.frame.segment;
    let Some(file) = files.get(segment) else { return Ok(None) };
    let stored = record(&*file, place)?.and_then(|record| body(record, place, size));
    // One that was given up while we read is no damage.
    if stored.is_none() && files.get(segment).is_some() {
        damaged(wanted);
    }
    Ok(stored)
}

fn damaged(wanted: Wanted) {
    let frame = wanted.place.frame;
    tell::record_damaged(&wanted.id, frame.segment, frame.offset);
}

/// Kind and payload of a record; `None` where there is none, or not whole.
fn record(file: &dyn DiskFile, place: Place) -> io::Result<Option<(u8, Bytes)>> {
    let mut bytes = vec![0; frame::HEADER + place.payload as usize];
    match file.read_at(&mut bytes, place.frame.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let bytes = Bytes::from(bytes);
    let record = |frame: Frame<'_>| (frame.kind, bytes.slice_ref(frame.payload));
    Ok(frame::get(&bytes, place.frame).map(record))
}

fn body((kind, payload): (u8, Bytes), place: Place, size: u64) -> Option<Stored> {
    let begin = place.body as usize;
    let end = match pack::is_packed(kind) {
        true => payload.len(),
        false => begin.checked_add(usize::try_from(size).ok()?)?,
    };
    (begin <= end && end <= payload.len()).then(|| Stored::found(kind, payload.slice(begin..end)))
}
