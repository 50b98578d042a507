//! How many there were lately: a window that slides in steps, in constant memory.
//!
//! It holds the step that has begun and nine before: between nine tenths of the window and all of
//! it, and so never more than were in some whole window.

use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const STEPS: usize = 10;

/// How many. Each call is given the same window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// The number of the newest step.
    step: i64,
    /// By step, the newest first.
    counts: [u32; STEPS],
}

impl Tally {
    fn turn(&mut self, window: Duration, now: Timestamp) {
        let length = i64::try_from(window.as_millis()).unwrap_or(i64::MAX) / STEPS as i64;
        let step = now.0.div_euclid(length.max(1));
        let gone = step.saturating_sub(self.step);
        // A clock that was put back a little goes on counting where it was.
        match usize::try_from(gone.unsigned_abs()).unwrap_or(STEPS) {
            far if far >= STEPS => *self = Self { step, counts: [0; STEPS] },
            steps if gone > 0 => {
                self.counts.rotate_right(steps);
                self.counts.iter_mut().take(steps).for_each(|count| *count = 0);
                self.step = step;
            }
            _ => {}
        }
    }

    /// So many more.
    pub(super) fn add(&mut self, count: u32, window: Duration, now: Timestamp) {
        self.turn(window, now);
        let [newest, ..] = &mut self.counts;
        *newest = newest.saturating_add(count);
    }

    /// In the window until now.
    pub(super) fn count(&self, window: Duration, now: Timestamp) -> u32 {
        let mut turned = self.clone();
        turned.turn(window, now);
        turned.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn a_clock_put_back_far_starts_anew() {
        let mut tally = Tally::default();
        let now = Timestamp(1_000_000_000);
        tally.add(3, WINDOW, now);
        tally.add(4, WINDOW, now.before(Duration::from_secs(10)));
        assert_eq!(tally.count(WINDOW, now), 7);
        tally.add(5, WINDOW, now.before(WINDOW * 2));
        assert_eq!(tally.count(WINDOW, now.before(WINDOW * 2)), 5);
        tally.add(u32::MAX, WINDOW, Timestamp(i64::MIN));
        tally.add(u32::MAX, WINDOW, Timestamp(i64::MIN));
        assert_eq!(tally.count(WINDOW, Timestamp(i64::MIN)), u32::MAX);
        assert_eq!(tally.count(WINDOW, Timestamp::NEVER), 0);
    }

    proptest! {
        #[test]
        fn prop_between_nine_tenths_and_all_of_the_window(
            events in proptest::collection::vec((0i64..20_000, 0u32..9), 1..100),
        ) {
            let (mut tally, mut now, mut all) = (Tally::default(), 1_000_000_000, Vec::new());
            for (pause, count) in events {
                now += pause;
                tally.add(count, WINDOW, Timestamp(now));
                all.push((now, count));
                let within = |ms: i64| -> u32 {
                    all.iter().filter(|(at, _)| now - at < ms).map(|(_, count)| count).sum()
                };
                let counted = tally.count(WINDOW, Timestamp(now));
                prop_assert!((within(54_000)..=within(60_000)).contains(&counted));
            }
        }
    }
}
