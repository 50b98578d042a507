//! A rate that a receiver's complaint forced on us, and how it climbs back.
//!
//! A complaint halves what was sent lately. That holds for a while; then the rate climbs in steps,
//! each half as much again, until it is well above what was too fast, and ends. Another complaint
//! on the way halves what holds then.
//!
//! Pure: the rate at any moment follows from the last complaint.

use super::is_same_complaint;
use crate::base::time::Timestamp;
use crate::policy::site::Rate;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
/// A step lasts this share of the time that the rate was held, within these bounds.
const STEP_SHARE: u32 = 2;
const STEP_MIN: Duration = MINUTE;
const STEP_MAX: Duration = Duration::from_secs(1_800);
/// Steps after which any rate is free: 1.5 to the power of this is above 10^8.
const STEPS_MAX: u32 = 48;

/// A forced rate, in messages per hour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// While it is held.
    held: u64,
    /// What climbs above this is free.
    free: u64,
    slowed_at: Timestamp,
    hold_until: Timestamp,
    step: Duration,
}

impl Brake {
    /// After a complaint at `now` about `per_minute` messages, held for `hold`; `before` is what
    /// held until then. Never below `floor` per hour.
    #[must_use]
    pub fn after(
        before: Option<&Self>,
        per_minute: u64,
        floor: u64,
        hold: Duration,
        now: Timestamp,
    ) -> Self {
        let before = before.filter(|brake| brake.per_hour(now).is_some());
        if let Some(same) = before.filter(|brake| is_same_complaint(brake.slowed_at, now)) {
            return same.clone();
        }
        let sent = per_minute.saturating_mul(60).max(1);
        let present =
            before.and_then(|brake| brake.per_hour(now)).unwrap_or(sent).min(sent.max(floor));
        let floor = floor.max(1);
        Self {
            held: (present / 2).max(floor),
            free: before.map_or(0, |brake| brake.free).max(sent.max(floor).saturating_mul(2)),
            slowed_at: now,
            hold_until: now.after(hold),
            step: (hold / STEP_SHARE).clamp(STEP_MIN, STEP_MAX),
        }
    }

    /// Messages per hour just now; `None` once it has ended.
    #[must_use]
    pub fn per_hour(&self, now: Timestamp) -> Option<u64> {
        let mut rate = self.held;
        for _ in 0..self.steps(now) {
            rate = rate.saturating_add(rate.div_ceil(2));
            if rate > self.free {
                return None;
            }
        }
        Some(rate)
    }

    /// The rate just now, by the minute where that is fine enough: a window as short as can be
    /// lets no burst through.
    #[must_use]
    pub fn rate(&self, now: Timestamp) -> Option<Rate> {
        let per_hour = self.per_hour(now)?;
        let (count, per) =
            if per_hour >= 20 * 60 { (per_hour / 60, MINUTE) } else { (per_hour, HOUR) };
        Some(Rate { count: u32::try_from(count).unwrap_or(u32::MAX), per })
    }

    /// When the rate changes next, after `now`.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Timestamp {
        self.hold_until.after(self.step.saturating_mul(self.steps(now)))
    }

    fn steps(&self, now: Timestamp) -> u32 {
        if now < self.hold_until {
            return 0;
        }
        let steps = now.since(self.hold_until).as_millis() / self.step.as_millis().max(1) + 1;
        u32::try_from(steps).unwrap_or(u32::MAX).min(STEPS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);
    const HOLD: Duration = Duration::from_secs(600);

    #[test]
    fn it_halves_holds_climbs_and_ends() {
        let brake = Brake::after(None, 100, 60, HOLD, NOW);
        let at = |seconds: u64| brake.per_hour(NOW.after(Duration::from_secs(seconds)));
        assert_eq!((at(0), at(599)), (Some(3_000), Some(3_000)));
        assert_eq!((at(600), at(899), at(900)), (Some(4_500), Some(4_500), Some(6_750)));
        assert_eq!(at(1_200), Some(10_125));
        assert_eq!(at(1_500), None, "above twice what was too fast");
        assert_eq!(brake.rate(NOW).unwrap().to_string(), "50/min");
        assert_eq!(brake.next_change(NOW), NOW.after(HOLD));
        let later = NOW.after(Duration::from_secs(700));
        assert_eq!(brake.next_change(later), NOW.after(Duration::from_secs(900)));
    }

    #[test]
    fn a_further_complaint_halves_what_holds() {
        let first = Brake::after(None, 100, 60, HOLD, NOW);
        let same = Brake::after(Some(&first), 100, 60, HOLD, NOW.after(Duration::from_secs(5)));
        assert_eq!(first, same, "said by several connections, it is one complaint");
        let later = NOW.after(Duration::from_secs(60));
        let second = Brake::after(Some(&first), 50, 60, HOLD, later);
        assert_eq!(second.per_hour(later), Some(1_500));
        assert_eq!(second.rate(later).unwrap().to_string(), "25/min");
        let mut brake = second;
        for n in 0..20 {
            brake = Brake::after(Some(&brake), 1, 60, HOLD, later.after(MINUTE * n));
        }
        assert_eq!(brake.rate(later.after(MINUTE * 20)).unwrap().to_string(), "60/h", "the floor");
    }

    proptest! {
        #[test]
        fn prop_it_only_climbs_and_always_ends(
            complaints in
                proptest::collection::vec((0u64..100_000, 1u64..7_200, 0u64..5_000), 1..20),
            floor in 1u64..1_000,
        ) {
            let (mut brake, mut now): (Option<Brake>, _) = (None, NOW);
            for (per_minute, hold, pause) in complaints {
                let before = brake.as_ref().and_then(|b| b.per_hour(now));
                let hold = Duration::from_secs(hold);
                let next = Brake::after(brake.as_ref(), per_minute, floor, hold, now);
                let held = next.per_hour(now).unwrap();
                prop_assert!(held >= floor);
                prop_assert!(before.is_none_or(|before| held <= before.max(floor)));
                brake = Some(next);
                now = now.after(Duration::from_secs(pause));
            }
            let brake = brake.unwrap();
            let mut last = 0;
            while let Some(rate) = brake.per_hour(now) {
                prop_assert!(rate >= last);
                last = rate;
                let next = brake.next_change(now);
                prop_assert!(next > now);
                now = next;
                prop_assert!(now < NOW.after(Duration::from_secs(40 * 86_400)), "it never ends");
            }
        }
    }
}
