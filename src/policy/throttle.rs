//! How many may go now, and when the next one may: a generic cell rate algorithm that can be asked.
//!
//! Unlike a limiter that only says yes or no, it tells *when*, so that nothing polls; and it keeps
//! its state when its rate is changed, so that a reload does not hand out the burst again.
//!
//! # Invariant
//! In no window of the rate's length do more than `count` go, at any place of the window
//! (`prop_never_above_the_rate`). A small burst makes up for late timers; it is paid for by a
//! slightly slower pace.

use super::site::Rate;
use crate::base::time::Timestamp;

/// Share of the count that may go at once: a twentieth.
const BURST_SHARE: u32 = 20;

/// The state of one rate limit.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// Time between two at the steady pace, in µs.
    interval_us: i64,
    /// How far ahead of the pace one may be, in µs.
    tolerance_us: i64,
    /// When the next is due at the steady pace, µs since 1970.
    due_us: i64,
}

impl Throttle {
    /// A limit that nothing has used yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let mut throttle = Self { interval_us: 1, tolerance_us: 0, due_us: i64::MIN };
        throttle.retune(rate);
        throttle
    }

    /// Changes the rate; what went out before still counts.
    pub fn retune(&mut self, rate: Rate) {
        let count = rate.count.max(1);
        let burst = (count / BURST_SHARE).max(1);
        let per_us = i64::try_from(rate.per.as_micros()).unwrap_or(i64::MAX).max(1);
        let paced = i64::from(count - (burst - 1));
        // Rounded up: a pace never faster than asked for.
        self.interval_us = (per_us / paced + i64::from(per_us % paced != 0)).max(1);
        self.tolerance_us = self.interval_us.saturating_mul(i64::from(burst - 1));
    }

    /// How many may go at `now`, up to `wanted`.
    #[must_use]
    pub fn available(&self, now: Timestamp, wanted: u32) -> u32 {
        let now_us = micros(now);
        let ahead =
            now_us.saturating_add(self.tolerance_us).saturating_sub(self.due_us.max(now_us));
        if self.due_us > now_us.saturating_add(self.tolerance_us) {
            return 0;
        }
        u32::try_from(ahead / self.interval_us + 1).unwrap_or(u32::MAX).min(wanted)
    }

    /// Uses up `count`, which [`Throttle::available`] allowed.
    pub fn take(&mut self, now: Timestamp, count: u32) {
        let cost = self.interval_us.saturating_mul(i64::from(count));
        self.due_us = self.due_us.max(micros(now)).saturating_add(cost);
    }

    /// When at least one may go; not later than `now` where one may go now.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        let at_us = self.due_us.saturating_sub(self.tolerance_us);
        if at_us <= micros(now) { now } else { Timestamp(at_us / 1_000 + 1) }
    }
}

fn micros(at: Timestamp) -> i64 {
    at.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn prop_never_above_the_rate(
            count in 1u32..500,
            per_ms in 100u64..100_000,
            steps in proptest::collection::vec((0i64..3_000, 1u32..200), 1..200),
        ) {
            let rate = Rate { count, per: Duration::from_millis(per_ms) };
            let mut throttle = Throttle::new(rate);
            let (mut now, mut sent) = (Timestamp(1_000_000), Vec::new());
            for (pause, wanted) in steps {
                now = Timestamp(now.0 + pause);
                let n = throttle.available(now, wanted);
                throttle.take(now, n);
                sent.extend(std::iter::repeat_n(now.0, n as usize));
                if n < wanted {
                    prop_assert!(throttle.next_at(now) >= now);
                    prop_assert!(throttle.available(throttle.next_at(now), 1) == 1);
                }
            }
            let per = i64::try_from(per_ms).unwrap();
            for (i, start) in sent.iter().enumerate() {
                let inside = sent[i..].iter().take_while(|t| **t < start + per).count();
                prop_assert!(inside <= count as usize, "{inside} within {per} ms from {start}");
            }
        }

        #[test]
        fn keeps_up_with_the_rate_when_asked_often(count in 20u32..1_000) {
            let mut throttle = Throttle::new(Rate { count, per: Duration::from_secs(1) });
            let mut sent = 0;
            for ms in 0..10_000 {
                let n = throttle.available(Timestamp(ms), 1_000);
                throttle.take(Timestamp(ms), n);
                sent += n;
            }
            prop_assert!(sent >= count * 9, "{sent} of {}", count * 10);
        }
    }

    #[test]
    fn a_new_rate_does_not_forget_what_went_out() {
        let rate = |count| Rate { count, per: Duration::from_secs(60) };
        let mut throttle = Throttle::new(rate(1));
        throttle.take(Timestamp(0), 1);
        throttle.retune(rate(2));
        assert_eq!(throttle.available(Timestamp(1_000), 1), 0);
    }
}
