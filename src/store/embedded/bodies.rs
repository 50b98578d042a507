//! Bytes of messages, read from the journal by position.

use crate::base::id::MessageId;
use crate::observe::store as tell;
use crate::store::journal::disk::DiskFile;
use crate::store::journal::files::Files;
use crate::store::journal::frame::{self, Frame};
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
    for Wanted { id, place, size } in wanted {
        let Some(file) = files.get(place.frame.segment) else { continue };
        match payload(&*file, place)? {
            Some(payload) => found.extend(body(&payload, place, size).map(|body| (id, body))),
            // One that was given up while we read is no damage.
            None if files.get(place.frame.segment).is_none() => {}
            None => tell::record_damaged(&id, place.frame.segment, place.frame.offset),
        }
    }
    Ok(found)
}

/// The payload of a record; `None` where there is none, or not whole.
pub(super) fn payload(file: &dyn DiskFile, place: Place) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; frame::HEADER + place.payload as usize];
    match file.read_at(&mut bytes, place.frame.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let bytes = Bytes::from(bytes);
    let payload = |frame: Frame<'_>| bytes.slice_ref(frame.payload);
    Ok(frame::get(&bytes, place.frame).map(payload))
}

fn body(payload: &Bytes, place: Place, size: u64) -> Option<Bytes> {
    let begin = place.body as usize;
    let end = begin.checked_add(usize::try_from(size).ok()?)?;
    (end <= payload.len()).then(|| payload.slice(begin..end))
}
