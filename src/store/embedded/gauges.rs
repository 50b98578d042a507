//! What others see of the threads: how the disk does, and how far they are.

use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::store::Health;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Upper bounds of write times, in ms; the last takes the rest.
const BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, u64::MAX];
/// No write is under way.
const IDLE: i64 = i64::MIN;

/// Kept by the threads, read by anybody.
#[derive(Debug)]
pub(super) struct Gauges {
    /// Space is so short that each sender is told of it before he sends.
    pub(super) short: AtomicBool,
    /// The database failed and is not open.
    pub(super) index_failed: AtomicBool,
    /// Greatest id seen; below zero for none.
    last_id: AtomicI64,
    /// When the write under way began.
    began: AtomicI64,
    writes: [AtomicU64; BOUNDS.len()],
    records: AtomicU64,
}

impl Gauges {
    pub(super) fn new(last_id: Option<MessageId>) -> Self {
        Self {
            short: AtomicBool::new(false),
            index_failed: AtomicBool::new(false),
            last_id: AtomicI64::new(last_id.map_or(-1, MessageId::number)),
            began: AtomicI64::new(IDLE),
            writes: Default::default(),
            records: AtomicU64::new(0),
        }
    }

    /// Notes an id.
    pub(super) fn seen(&self, id: MessageId) {
        self.last_id.fetch_max(id.number(), Ordering::Relaxed);
    }

    /// The greatest id seen.
    pub(super) fn last_id(&self) -> Option<MessageId> {
        MessageId::from_number(self.last_id.load(Ordering::Relaxed))
    }

    /// A write begins.
    pub(super) fn begin(&self, now: Timestamp) {
        self.began.store(now.0, Ordering::Relaxed);
    }

    /// It is over; `records` of it are on the disk. Gives back how many ms it took.
    pub(super) fn end(&self, records: u64, now: Timestamp) -> u64 {
        let began = Timestamp(self.began.swap(IDLE, Ordering::Relaxed));
        let ms = u64::try_from(now.since(began).as_millis()).unwrap_or(u64::MAX);
        let bound = BOUNDS.iter().position(|bound| ms <= *bound);
        if let Some(count) = bound.and_then(|bound| self.writes.get(bound)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.records.fetch_add(records, Ordering::Relaxed);
        ms
    }

    /// All of it; `behind` is how many records the index has still to follow.
    pub(super) fn health(&self, behind: u64, now: Timestamp) -> Health {
        let began = self.began.load(Ordering::Relaxed);
        let stalled = (began != IDLE).then(|| now.since(Timestamp(began)).as_millis());
        let counts = self.writes.iter().map(|count| count.load(Ordering::Relaxed));
        let write_ms: Vec<(u64, u64)> = BOUNDS.into_iter().zip(counts).collect();
        Health {
            stalled_ms: stalled.map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            writes: write_ms.iter().map(|(_, count)| count).sum(),
            records: self.records.load(Ordering::Relaxed),
            write_ms,
            behind,
            short: self.short.load(Ordering::Relaxed),
            index_failed: self.index_failed.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_writes_and_of_one_that_stalls() {
        let gauges = Gauges::new(None);
        gauges.begin(Timestamp(100));
        assert_eq!(gauges.end(7, Timestamp(103)), 3);
        gauges.begin(Timestamp(200));
        let health = gauges.health(4, Timestamp(9_200));
        assert_eq!((health.stalled_ms, health.behind), (9_000, 4));
        assert_eq!((health.writes, health.records), (1, 7));
        assert!(health.write_ms.contains(&(5, 1)));
        gauges.end(1, Timestamp(90_000));
        let health = gauges.health(0, Timestamp(99_999));
        assert_eq!((health.stalled_ms, health.write_ms.last()), (0, Some(&(u64::MAX, 1))));
    }
}
