//! Message ids: ordered by time, unique on a node, short enough to read out on the phone.

use super::time::Timestamp;
use std::fmt;
use std::str::FromStr;

/// 2025-01-01T00:00:00Z, where ids begin to count.
const EPOCH_MS: i64 = 1_735_689_600_000;
/// Bits below the milliseconds: counter within one millisecond.
const LOW_BITS: u32 = 20;
/// Crockford's base 32: no I, L, O, U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TEXT_LEN: usize = 12;

/// Names one message: milliseconds since 2025 in the upper bits, a counter below. Always positive.
///
/// As text, 12 characters of Crockford's base 32 (`1RW7M2Q80A3F`), whose order is the ids' order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(i64);

impl MessageId {
    /// The id behind a number that [`MessageId::number`] gave.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        (0..1 << 60).contains(&number).then_some(Self(number))
    }

    /// As stored.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// When the id was made.
    #[must_use]
    pub fn created_at(self) -> Timestamp {
        Timestamp((self.0 >> LOW_BITS) + EPOCH_MS)
    }

    /// The least id that can be made at `at`: every message accepted earlier has a smaller one.
    #[must_use]
    pub fn floor(at: Timestamp) -> Self {
        Self((at.0 - EPOCH_MS).clamp(0, (1 << 40) - 1) << LOW_BITS)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_LEN];
        let mut rest = self.0;
        for slot in text.iter_mut().rev() {
            *slot = usize::try_from(rest & 31)
                .ok()
                .and_then(|n| DIGITS.get(n))
                .copied()
                .unwrap_or(b'0');
            rest >>= 5;
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Number of a scheduled queue, interned by the store. Stays the same while the queue has
/// deliveries; is never given to another queue while the store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub i64);

/// The text is not a message id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: want 12 characters such as 1RW7M2Q80A3F")]
pub struct InvalidId;

impl FromStr for MessageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != TEXT_LEN {
            return Err(InvalidId);
        }
        let mut number: i64 = 0;
        for byte in text.bytes().map(|b| b.to_ascii_uppercase()) {
            let digit = DIGITS.iter().position(|d| *d == byte).ok_or(InvalidId)?;
            number = number << 5 | i64::try_from(digit).map_err(|_| InvalidId)?;
        }
        Self::from_number(number).ok_or(InvalidId)
    }
}

/// Makes ids that grow, whatever the clock does.
#[derive(Debug)]
pub struct IdGenerator {
    last: i64,
}

impl IdGenerator {
    /// Begins after `last`, the greatest id ever given out (as the store knows it).
    #[must_use]
    pub fn after(last: Option<MessageId>) -> Self {
        Self { last: last.map_or(0, MessageId::number) }
    }

    /// A new id, greater than all before it.
    pub fn next(&mut self, now: Timestamp) -> MessageId {
        self.last = MessageId::floor(now).number().max(self.last + 1);
        MessageId(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_are_the_same_id() {
        let mut ids = IdGenerator::after(None);
        let a = ids.next(Timestamp(1_795_394_728_114));
        let b = ids.next(Timestamp(1_795_394_728_114));
        assert!(a < b && a.to_string() < b.to_string());
        assert_eq!(b.to_string().parse(), Ok(b));
        assert_eq!(b.to_string().to_lowercase().parse(), Ok(b));
        assert_eq!(a.created_at(), Timestamp(1_795_394_728_114));
        assert!("1RW7M2Q80A3".parse::<MessageId>().is_err());
        assert!("ZZZZZZZZZZZU".parse::<MessageId>().is_err());
    }

    #[test]
    fn ids_grow_when_the_clock_goes_back() {
        let mut ids = IdGenerator::after(None);
        let a = ids.next(Timestamp(1_795_394_728_114));
        let b = ids.next(Timestamp(1_795_394_000_000));
        assert!(b > a);
    }
}
