//! What is in a journal: its frames in order, and what is missing between them. Pure but for the
//! reading of whole files.
//!
//! # Invariants
//! * What was synced and is damaged is told of, never passed over: each segment says where the one
//!   before it ended.
//! * What was written and never synced may be there or not; nobody was promised it.
//! * What a failed write left behind does not count: it lies behind that end.

use super::frame::{self, Frame, Position};

/// The first frame of a segment: where the one before it ended.
pub(in crate::store) const BEGIN: u8 = 0;
/// Its length in bytes.
pub(in crate::store) const BEGIN_LEN: u64 = 40;

/// Something in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Item<'a> {
    /// A record.
    Frame(Position, Frame<'a>),
    /// So many bytes from here on were a record, and are none any more.
    Damage(Position, u64),
}

/// The items of a segment from `from` on, and where the last of them ends. `end`, where it is
/// known, is where the synced part ended.
pub(in crate::store) fn items(
    bytes: &[u8],
    from: Position,
    end: Option<u64>,
) -> (Vec<Item<'_>>, u64) {
    let bytes = match end.and_then(|end| usize::try_from(end).ok()) {
        Some(end) => bytes.get(..end).unwrap_or(bytes),
        None => bytes,
    };
    let mut items = Vec::new();
    let mut at = from;
    loop {
        let place = usize::try_from(at.offset).unwrap_or(usize::MAX);
        let rest = bytes.get(place..).unwrap_or_default();
        if let Some(frame) = frame::get(rest, at) {
            items.push(Item::Frame(at, frame));
            at.offset += frame.len as u64;
            continue;
        }
        let next = frame::find(rest, at, 1);
        let next = next.filter(|next| end.is_some() || is_synced(rest, at, *next));
        let next = next.map(|next| at.offset + next as u64);
        let Some(next) = next.or(end.filter(|end| *end > at.offset)) else {
            return (items, at.offset);
        };
        items.push(Item::Damage(at, next - at.offset));
        at.offset = next;
    }
}

/// True where the batch of what was at `at`, with which `bytes` begins, was synced: a later batch
/// follows. One that was torn apart was not, and nothing came after it but the rest of itself.
/// `next` is where in `bytes` the first whole frame is.
fn is_synced(bytes: &[u8], at: Position, next: usize) -> bool {
    let mut next = Some(next);
    while let Some(found) = next {
        let place = Position { offset: at.offset + found as u64, ..at };
        let Some(frame) = bytes.get(found..).and_then(|bytes| frame::get(bytes, place)) else {
            return false;
        };
        if frame.batch > at.offset {
            return true;
        }
        next = frame::find(bytes, at, found + frame.len);
    }
    false
}

/// Where the segment before ended, as the first frame of a segment says.
pub(in crate::store) fn previous(bytes: &[u8], segment: u64) -> Option<Position> {
    let at = Position { segment, offset: 0 };
    let frame = frame::get(bytes, at).filter(|frame| frame.kind == BEGIN)?;
    let (segment, offset) = frame.payload.split_first_chunk::<8>()?;
    let offset = offset.first_chunk::<8>()?;
    Some(Position { segment: u64::from_le_bytes(*segment), offset: u64::from_le_bytes(*offset) })
}

/// The first frame of a segment after one that ended at `previous`.
pub(in crate::store) fn begin(out: &mut Vec<u8>, segment: u64, previous: Position) {
    let at = Position { segment, offset: 0 };
    let (number, offset) = (previous.segment.to_le_bytes(), previous.offset.to_le_bytes());
    frame::put(out, at, 0, BEGIN, &[&number, &offset]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEGMENT: u64 = 9;

    /// A segment with these payloads, and where each of its frames begins.
    fn segment(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut places) = (Vec::new(), vec![]);
        begin(&mut bytes, SEGMENT, Position { segment: 8, offset: 77 });
        for payload in payloads {
            places.push(bytes.len() as u64);
            let at = Position { segment: SEGMENT, offset: bytes.len() as u64 };
            frame::put(&mut bytes, at, at.offset, 1, &[payload]);
        }
        (bytes, places)
    }

    fn payloads(items: &[Item<'_>]) -> Vec<Vec<u8>> {
        let payload = |item: &Item<'_>| match item {
            Item::Frame(_, frame) if frame.kind != BEGIN => Some(frame.payload.to_vec()),
            _ => None,
        };
        items.iter().filter_map(payload).collect()
    }

    const START: Position = Position { segment: SEGMENT, offset: 0 };

    fn any_payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..12)
    }

    #[test]
    fn a_segment_knows_the_end_of_the_one_before() {
        let (bytes, _) = segment(&[]);
        assert_eq!(previous(&bytes, SEGMENT), Some(Position { segment: 8, offset: 77 }));
        assert_eq!(previous(&bytes, SEGMENT + 1), None);
        assert_eq!(previous(&[0; 64], SEGMENT), None);
    }

    #[test]
    fn damage_in_a_batch_of_many_is_told_when_another_batch_follows() {
        for (first, synced) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
            let (mut bytes, mut places) = (Vec::new(), Vec::new());
            begin(&mut bytes, SEGMENT, Position { segment: 8, offset: 77 });
            for batch in [0..3, 3..5] {
                let begin = bytes.len() as u64;
                for n in batch {
                    places.push(bytes.len());
                    let at = Position { segment: SEGMENT, offset: bytes.len() as u64 };
                    frame::put(&mut bytes, at, begin, 1, &[&[n; 9]]);
                }
            }
            bytes[places[first] + frame::HEADER] ^= 1;
            let (items, _) = items(&bytes, START, None);
            let mut rest: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 9]).collect();
            // Of the last batch nobody knows whether it was ever whole.
            if synced {
                _ = rest.remove(first)
            } else {
                rest.truncate(first)
            }
            assert_eq!(payloads(&items), rest);
            assert_eq!(items.iter().any(|item| matches!(item, Item::Damage(..))), synced);
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(all in any_payloads(), stale in any_payloads()) {
            let (mut bytes, _) = segment(&all);
            let end = bytes.len() as u64;
            // Behind it lies what an earlier use of the file left.
            let (old, _) = segment(&stale);
            bytes.extend_from_slice(&old);
            let (items, last) = items(&bytes, START, None);
            prop_assert_eq!(payloads(&items), all);
            prop_assert_eq!(last, end);
        }

        #[test]
        fn a_torn_tail_is_the_end(all in any_payloads(), cut: proptest::sample::Index) {
            let (bytes, places) = segment(&all);
            let cut = cut.index(bytes.len());
            let whole = |(n, place): (usize, &u64)| {
                *place as usize + frame::HEADER + all[n].len() <= cut
            };
            let count = places.iter().enumerate().take_while(|p| whole(*p)).count();
            let (items, _) = items(&bytes[..cut], START, None);
            prop_assert_eq!(payloads(&items), &all[..count]);
            prop_assert!(!items.iter().any(|item| matches!(item, Item::Damage(..))));
        }

        #[test]
        fn a_flip_costs_one_record_and_is_told(
            all in any_payloads(),
            hit: proptest::sample::Index,
            place: proptest::sample::Index,
        ) {
            let (mut bytes, places) = segment(&all);
            let hit = hit.index(all.len());
            let at = places[hit] as usize + place.index(frame::HEADER + all[hit].len());
            bytes[at] ^= 0x10;
            let end = bytes.len() as u64;
            let (items, last) = items(&bytes, START, Some(end));
            let mut rest = all.clone();
            rest.remove(hit);
            prop_assert_eq!(payloads(&items), rest);
            let lost = Position { segment: SEGMENT, offset: places[hit] };
            let len = frame::len(all[hit].len()) as u64;
            prop_assert!(items.contains(&Item::Damage(lost, len)));
            prop_assert_eq!(last, end);
        }

        #[test]
        fn what_lies_behind_the_known_end_does_not_count(all in any_payloads()) {
            let (bytes, places) = segment(&all);
            let (items, last) = items(&bytes, START, Some(places[all.len() - 1]));
            prop_assert_eq!(payloads(&items), &all[..all.len() - 1]);
            prop_assert_eq!(last, places[all.len() - 1]);
        }
    }
}
