//! What became of every delivery, and how quickly.
//!
//! # Checked as it happens
//! * A delivery ends once; delivered means that a receiver has it.
//! * A receiver gets it once, and once more for each time that the outcome was made unknowable.

use bulkhead::base::time::Timestamp;
use bulkhead::store::{DeliveryId, Outcome};
use std::collections::HashMap;

/// The books.
#[derive(Default)]
pub struct Ledger {
    entries: HashMap<DeliveryId, Entry>,
    /// Direct mail under way to receivers that are promised to get it at once.
    watched: HashMap<DeliveryId, Watched>,
    /// In ms, of direct mail that was delivered: how long it took, and how much of that the
    /// receiver did not need for itself.
    pub latencies: Vec<(i64, i64)>,
    pub delivered: u64,
    pub failed: u64,
    pub expired: u64,
    /// Beyond the first, of any delivery.
    pub copies: u64,
}

#[derive(Default)]
struct Entry {
    arrived: u8,
    doubts: u8,
    ended: bool,
}

struct Watched {
    since: Timestamp,
    needs: i64,
}

impl Ledger {
    /// Taken into the queue.
    pub fn accepted(&mut self, delivery: DeliveryId) {
        let before = self.entries.insert(delivery, Entry::default());
        assert!(before.is_none(), "{delivery:?} was accepted twice");
    }

    /// Its receiver needs so many ms, and it is to be there a second after those.
    pub fn watch(&mut self, delivery: DeliveryId, since: Timestamp, needs: i64) {
        self.watched.insert(delivery, Watched { since, needs });
    }

    /// A receiver has it.
    pub fn arrived(&mut self, delivery: DeliveryId) {
        let entry = self.entries.get_mut(&delivery).expect("mail that nobody sent arrived");
        assert!(!entry.ended, "{delivery:?} arrived after its end");
        entry.arrived = entry.arrived.saturating_add(1);
        self.copies += u64::from(entry.arrived > 1);
        assert!(
            entry.arrived <= 1 + entry.doubts,
            "{delivery:?} arrived {} times, {} outcomes unknown",
            entry.arrived,
            entry.doubts
        );
    }

    /// Nobody can know whether a receiver has it.
    pub fn doubted(&mut self, delivery: DeliveryId) {
        if let Some(entry) = self.entries.get_mut(&delivery) {
            entry.doubts = entry.doubts.saturating_add(1);
        }
    }

    /// An outcome was recorded.
    pub fn settled(&mut self, delivery: DeliveryId, outcome: Outcome, now: Timestamp) {
        let entry = self.entries.get_mut(&delivery).expect("an outcome of mail that is not there");
        assert!(!entry.ended, "{delivery:?} ended before: {outcome:?}");
        let counter = match outcome {
            Outcome::Deferred { .. } => return,
            Outcome::Delivered => &mut self.delivered,
            Outcome::Failed => &mut self.failed,
            Outcome::Expired => &mut self.expired,
        };
        *counter += 1;
        entry.ended = true;
        if outcome == Outcome::Delivered {
            assert!(entry.arrived > 0, "{delivery:?} counts as delivered, and no receiver has it");
        }
        if let Some(Watched { since, needs }) = self.watched.remove(&delivery) {
            let took = now.0 - since.0;
            self.latencies.push((took, took - needs));
        }
    }

    /// Deliveries that have not ended.
    pub fn open(&self) -> u64 {
        self.entries.len() as u64 - self.ended()
    }

    /// Deliveries that have ended.
    pub fn ended(&self) -> u64 {
        self.delivered + self.failed + self.expired
    }

    /// The latency that all but one in `of` direct messages stay within: whole, and beyond what
    /// the receiver needs. Of fewer messages there is none.
    pub fn all_but_one_in(&self, of: usize) -> Option<(i64, i64)> {
        let rank = self.latencies.len().checked_sub(self.latencies.len() / of + 1)?;
        let nth = |mut times: Vec<i64>| {
            times.sort_unstable();
            times[rank]
        };
        let whole = nth(self.latencies.iter().map(|(took, _)| *took).collect());
        Some((whole, nth(self.latencies.iter().map(|(_, beyond)| *beyond).collect())))
    }
}

/// The fullest window: events in any window of `per_ms`, as a share of `most`. Puts them in order.
#[allow(clippy::cast_precision_loss)]
pub fn fullest(times: &mut [Timestamp], most: u32, per_ms: i64) -> f64 {
    times.sort_unstable();
    let (mut first, mut fullest) = (0, 0);
    for (n, at) in times.iter().enumerate() {
        while times[first].0 + per_ms <= at.0 {
            first += 1;
        }
        fullest = fullest.max(n - first + 1);
    }
    fullest as f64 / f64::from(most)
}
