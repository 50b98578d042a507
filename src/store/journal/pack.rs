//! A message's bytes as they lie in a record: as they are, or as one zstd frame (RFC 8878).

use super::record::Unreadable;
use bytes::Bytes;
use std::cell::RefCell;
use std::io;
use zstd::bulk::{Compressor, Decompressor};

/// The fast one: newsletters become a quarter to a third, and of the levels above it even the
/// slowest saves but a twentieth more (docs/performance.md: `[store] compression`).
const LEVEL: i32 = 1;
/// Shorter messages are left as they are.
const LEAST: usize = 512;
/// No message is longer, in bytes: what says so is damaged.
const MOST: u64 = 1 << 30;
/// In the kind of a record: the message's bytes, last in it, are packed.
const PACKED: u8 = 0x80;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Bytes of a message for a record.
#[derive(Clone, Debug)]
pub(in crate::store) struct Stored {
    packed: bool,
    /// As they lie there.
    pub(in crate::store) bytes: Bytes,
}

impl Stored {
    /// As they are.
    pub(in crate::store) fn plain(bytes: Bytes) -> Self {
        Self { packed: false, bytes }
    }

    /// Packed, where that makes them shorter.
    pub(in crate::store) fn packed(bytes: Bytes) -> Self {
        match pack(&bytes).filter(|packed| packed.len() < bytes.len()) {
            Some(packed) => Self { packed: true, bytes: packed.into() },
            None => Self::plain(bytes),
        }
    }

    /// From a record of this kind.
    pub(in crate::store) fn found(kind: u8, bytes: Bytes) -> Self {
        Self { packed: is_packed(kind), bytes }
    }

    /// The kind of a record that ends with them.
    pub(in crate::store) fn kind(&self, base: u8) -> u8 {
        if self.packed { base | PACKED } else { base }
    }

    /// As they will be sent.
    ///
    /// # Errors
    /// Where they are not what [`Stored::packed`] made.
    pub(in crate::store) fn open(self) -> Result<Bytes, Unreadable> {
        if !self.packed {
            return Ok(self.bytes);
        }
        let wrong = || Unreadable::Value("packed bytes");
        let size = zstd::zstd_safe::get_frame_content_size(&self.bytes).ok().flatten();
        let size = size.filter(|size| *size <= MOST).and_then(|size| usize::try_from(size).ok());
        unpack(&self.bytes, size.ok_or_else(wrong)?).map(Bytes::from).map_err(|_| wrong())
    }
}

/// What ends a record of this kind is packed.
pub(in crate::store) fn is_packed(kind: u8) -> bool {
    kind & PACKED != 0
}

/// The kind of a record without what it says of the bytes.
pub(in crate::store) fn base(kind: u8) -> u8 {
    kind & !PACKED
}

/// `None` where it would not pay or fails: then they are kept as they are.
fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < LEAST {
        return None;
    }
    COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = match compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL).ok()?),
        };
        compressor.compress(bytes).ok()
    })
}

fn unpack(bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        decompressor.decompress(bytes, size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_opens_as_it_was(
            body in proptest::collection::vec(any::<u8>(), 0..2_000),
            times in 1usize..9,
        ) {
            let body = Bytes::from(body.repeat(times));
            let stored = Stored::packed(body.clone());
            prop_assert!(stored.bytes.len() <= body.len());
            prop_assert_eq!(base(stored.kind(3)), 3);
            let found = Stored::found(stored.kind(3), stored.bytes.clone());
            prop_assert_eq!(found.open().unwrap(), body);
        }

        #[test]
        fn other_bytes_are_refused_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut framed = vec![0x28, 0xB5, 0x2F, 0xFD];
            framed.extend_from_slice(&bytes);
            _ = Stored { packed: true, bytes: bytes.into() }.open();
            _ = Stored { packed: true, bytes: framed.into() }.open();
        }
    }

    #[test]
    fn a_newsletter_is_packed_and_one_cut_short_is_refused() {
        let body = Bytes::from("<td><a href=\"https://shop.test/x\">offer</a></td>\r\n".repeat(99));
        let stored = Stored::packed(body.clone());
        assert_eq!(stored.kind(1), 1 | PACKED);
        assert!(stored.bytes.len() * 4 < body.len());
        let cut = stored.bytes.slice(..stored.bytes.len() - 1);
        assert!(Stored { packed: true, bytes: cut }.open().is_err());
    }
}
