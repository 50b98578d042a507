//! How a record lies in a segment: framed so that a torn, stale or flipped one is never taken for
//! whole.
//!
//! ```text
//! magic u32 | kind u8, 3 zeros | length u32 | back u32 | CRC-32C u32 | payload | zeros up to 8
//! ```
//! *back* is how far before it the batch begins that it was written with: a batch is synced as a
//! whole, so a record of a later batch shows that all before that batch was synced.
//!
//! Numbers are little-endian. The checksum covers the frame's place (segment and offset), too: what
//! an earlier use of the file left behind is not valid in its place, whatever it says.
//!
//! # Invariants
//! * A frame begins at a multiple of 8, so that after damage the next whole one is found.

/// Bytes before the payload.
pub(in crate::store) const HEADER: usize = 20;
/// Frames begin at multiples of this.
pub(in crate::store) const ALIGN: usize = 8;
/// `BHJ1`
const MAGIC: [u8; 4] = *b"BHJ1";

/// Where a frame begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct Position {
    /// The segment's number; grows with each use of a file.
    pub(in crate::store) segment: u64,
    /// Bytes from the segment's beginning.
    pub(in crate::store) offset: u64,
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Frame<'a> {
    /// What the payload is.
    pub(in crate::store) kind: u8,
    /// Offset of the first frame of its batch.
    pub(in crate::store) batch: u64,
    pub(in crate::store) payload: &'a [u8],
    /// Bytes that the frame takes, header and padding included.
    pub(in crate::store) len: usize,
}

/// Bytes that a frame with such a payload takes.
pub(in crate::store) fn len(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(ALIGN)
}

/// Appends a frame that will lie at `at`, in a batch that begins at the offset `batch`. The payload
/// comes in parts, so that a message need not be copied together first.
pub(in crate::store) fn put(
    out: &mut Vec<u8>,
    at: Position,
    batch: u64,
    kind: u8,
    payload: &[&[u8]],
) {
    let begin = out.len();
    let size: usize = payload.iter().map(|part| part.len()).sum();
    out.reserve(len(size));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[kind, 0, 0, 0]);
    for number in [size as u64, at.offset - batch] {
        out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }
    let head = seed(at, out.get(begin..).unwrap_or_default());
    let crc = payload.iter().fold(head, |crc, part| crc32c::crc32c_append(crc, part));
    out.extend_from_slice(&crc.to_le_bytes());
    payload.iter().for_each(|part| out.extend_from_slice(part));
    out.resize(begin + len(size), 0);
}

/// The frame at `at`, of which `bytes` is the beginning. `None` where none is, or not all of it.
pub(in crate::store) fn get(bytes: &[u8], at: Position) -> Option<Frame<'_>> {
    let (head, rest) = bytes.split_at_checked(HEADER - 4)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (magic, head_rest) = head.split_first_chunk::<4>()?;
    let (kind, numbers) = head_rest.split_first_chunk::<4>()?;
    let (size, back) = numbers.split_first_chunk::<4>()?;
    let size = u32::from_le_bytes(*size) as usize;
    let batch = at.offset.checked_sub(u64::from(u32::from_le_bytes(*back.first_chunk()?)))?;
    let &[kind, 0, 0, 0] = kind else { return None };
    let payload = rest.get(..size).filter(|_| *magic == MAGIC)?;
    let whole = crc32c::crc32c_append(seed(at, head), payload) == u32::from_le_bytes(*crc);
    whole.then_some(Frame { kind, batch, payload, len: len(size) })
}

/// The place of the next frame's beginning in `bytes`, at a multiple of 8 after `from`: the first
/// that is whole. `base` is where `bytes` begins.
pub(in crate::store) fn find(bytes: &[u8], base: Position, from: usize) -> Option<usize> {
    let mut from = from;
    loop {
        let found = memchr::memmem::find(bytes.get(from..)?, &MAGIC)? + from;
        let at = Position { offset: base.offset + found as u64, ..base };
        if at.offset.is_multiple_of(ALIGN as u64)
            && bytes.get(found..).and_then(|bytes| get(bytes, at)).is_some()
        {
            return Some(found);
        }
        from = found + 1;
    }
}

fn seed(at: Position, head: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&at.segment.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &at.offset.to_le_bytes());
    crc32c::crc32c_append(crc, head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Position = Position { segment: 3, offset: 4_096 };

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, AT, AT.offset - 8, 7, &[payload]);
        out
    }

    #[test]
    fn parts_are_one_payload() {
        let mut out = Vec::new();
        put(&mut out, AT, 4_000, 1, &[b"ab", b"", b"cde"]);
        let frame = get(&out, AT).unwrap();
        assert_eq!((frame.kind, frame.batch, frame.payload), (1, 4_000, &b"abcde"[..]));
        assert_eq!((out.len(), frame.len), (32, 32));
    }

    #[test]
    fn a_frame_is_valid_in_its_place_alone() {
        let out = framed(b"payload");
        assert!(get(&out, AT).is_some());
        assert!(get(&out, Position { segment: 4, ..AT }).is_none());
        assert!(get(&out, Position { offset: 4_104, ..AT }).is_none());
        assert!(get(&[0; 64], AT).is_none() && get(&[], AT).is_none());
    }

    proptest! {
        #[test]
        fn what_is_cut_or_flipped_is_no_frame(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            place: proptest::sample::Index,
            bit in 0u8..8,
        ) {
            let out = framed(&payload);
            prop_assert_eq!(get(&out, AT).unwrap().payload, &payload[..]);
            let whole = HEADER + payload.len();
            prop_assert!(get(&out[..place.index(whole)], AT).is_none());
            let mut flipped = out;
            flipped[place.index(whole)] ^= 1u8 << bit;
            prop_assert!(get(&flipped, AT).is_none());
        }

        #[test]
        fn the_next_whole_frame_is_found(
            before in proptest::collection::vec(any::<u8>(), 0..100),
            payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut bytes = before.clone();
            bytes.extend_from_slice(&MAGIC);
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            let found = bytes.len();
            let at = Position { offset: AT.offset + found as u64, ..AT };
            put(&mut bytes, at, at.offset, 1, &[&payload]);
            prop_assert_eq!(find(&bytes, AT, 0), Some(found));
            prop_assert_eq!(find(&bytes, AT, found + 1), None);
        }
    }
}
