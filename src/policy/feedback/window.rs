//! How many connections a site welcomes just now: it begins small, grows with success and shrinks
//! when one is refused or the site asks for less.
//!
//! TCP's slow start and additive increase, multiplicative decrease (RFC 5681) are the model, and
//! Postfix's SCHEDULER_README for what they mean for mail: in slow start each connection that
//! delivers brings one more, so that they double in the time that opening one and delivering over
//! it takes. A refusal tells the number exactly: so
//! many stand, one more was too many. That number is not tried again before a pause that doubles
//! with each vain try; so a receiver with a fixed limit sees one refused connection in many
//! minutes, not a sawtooth.
//!
//! # Invariants
//! * Nothing but success makes it grow, by one, and not beyond twice what is in use
//!   (`prop_growth_is_earned`).
//! * After a refusal it is what stands (`a_refusal_tells_the_number`).

use super::is_same_complaint;
use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Connections to a site that nothing is known of.
const START: u32 = 3;
/// One more after so long, where slow start is over.
const GROW: Duration = Duration::from_secs(10);
/// What was too many once is not tried before this; doubled for each vain try.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_MAX: Duration = Duration::from_secs(3_600);
/// Refusals at a number that was welcome before are believed after so many in a row, each so long
/// after the one before at least: a receiver may still count what has just ended.
const DOUBTS: u32 = 3;
const DOUBT: Duration = Duration::from_secs(1);
/// So long one that has ended is taken to count still, at the first such refusal; doubled with each
/// further one, and halved again after each minute without one.
const LAG: Duration = Duration::from_millis(5);
/// And no longer than this.
pub const LAG_MAX: Duration = Duration::from_secs(1);
const LAG_HALVES: Duration = Duration::from_secs(60);

/// Of the sizes within this time the last one is kept, and so many in all.
const CURVE_STEP: Duration = Duration::from_secs(60);
const CURVE_MAX: usize = 48;

/// A site's congestion window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    size: u32,
    slow_start: bool,
    /// It is as small as it is since one was refused, not because the site asked for less.
    was_refused: bool,
    /// No growth before this, outside of slow start.
    grow_at: Timestamp,
    /// So many were too many, and are not tried before `retry_at`.
    too_many: Option<u32>,
    retry_at: Timestamp,
    patience: Duration,
    slowed_at: Timestamp,
    /// Mail was delivered while so many stood.
    proven: u32,
    /// Refusals at that number or below it, one after the other, and when the last one counted.
    doubts: u32,
    doubted_at: Timestamp,
    /// How long one that has ended still counted, and when that was learned.
    lag: Duration,
    lag_at: Timestamp,
    /// What it was: when, and the size from then on.
    curve: VecDeque<(Timestamp, u32)>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: START,
            slow_start: true,
            was_refused: false,
            grow_at: Timestamp(0),
            too_many: None,
            retry_at: Timestamp(0),
            patience: PATIENCE,
            slowed_at: Timestamp(i64::MIN),
            proven: 0,
            doubts: 0,
            doubted_at: Timestamp(i64::MIN),
            lag: Duration::ZERO,
            lag_at: Timestamp(i64::MIN),
            curve: VecDeque::new(),
        }
    }
}

impl Window {
    /// Connections within what the configuration says: at least `floor`, at most `ceiling`.
    #[must_use]
    pub fn size(&self, floor: u32, ceiling: u32) -> u32 {
        self.size.max(floor).min(ceiling)
    }

    /// Mail was delivered while `used` connections stood, of `ceiling` at most. True where one more
    /// may stand now.
    pub fn delivered(&mut self, used: u32, ceiling: u32, now: Timestamp) -> bool {
        if self.too_many.is_some_and(|count| used >= count) {
            (self.too_many, self.patience) = (None, PATIENCE);
        }
        if self.was_refused && used > self.size {
            // They were under way when one was refused, and are welcome.
            self.set(self.size.max(used.min(ceiling)), now);
        }
        if used >= self.proven {
            self.doubts = 0;
        }
        self.proven = self.proven.max(used);
        // Those that are being opened shall not hold up the others.
        let may_grow = if self.slow_start {
            used.saturating_mul(2) > self.size
        } else {
            used >= self.size && now >= self.grow_at
        };
        let next = self.size.saturating_add(1);
        let refused_lately = self.too_many.is_some_and(|count| next >= count);
        if next > ceiling || !may_grow || refused_lately && now < self.retry_at {
            return false;
        }
        self.set(next, now);
        self.grow_at = now.after(GROW);
        true
    }

    /// A new connection was refused, or ended before it took anything, while `standing` others
    /// stood. False where that teaches nothing yet: as many were welcome before, and a receiver may
    /// still count one that has just ended.
    pub fn refused(&mut self, standing: u32, now: Timestamp) -> bool {
        if standing < self.proven {
            self.lags(now);
            let is_another = now.since(self.doubted_at) >= DOUBT;
            if is_another {
                (self.doubts, self.doubted_at) = (self.doubts + 1, now);
            }
            if !is_another || self.doubts <= DOUBTS {
                return false;
            }
        }
        let standing = standing.max(1);
        (self.proven, self.doubts) = (standing, 0);
        // One of several that were opened together says nothing new.
        if self.too_many.is_some() && now >= self.retry_at {
            self.patience = self.patience.saturating_mul(2).min(PATIENCE_MAX);
        }
        if self.too_many.is_none() || now >= self.retry_at {
            self.retry_at = now.after(self.patience);
        }
        self.too_many = Some(standing.saturating_add(1));
        self.set(standing, now);
        (self.slow_start, self.was_refused) = (false, true);
        self.grow_at = now.after(GROW);
        true
    }

    /// One of several that were opened together says nothing new.
    fn lags(&mut self, now: Timestamp) {
        let lag = self.lag(now);
        if now.since(self.lag_at) > lag {
            self.lag = (lag * 2).clamp(LAG, LAG_MAX);
            self.lag_at = now;
        }
    }

    /// How long the receiver still counts a connection that has ended.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Duration {
        let halvings = now.since(self.lag_at).as_secs() / LAG_HALVES.as_secs();
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.lag / 2u32.checked_pow(halvings).unwrap_or(u32::MAX)
    }

    /// The site asked for less: half of the `used` connections, and no growth for `hold`. True
    /// where that is news.
    pub fn slowed(&mut self, used: u32, hold: Duration, now: Timestamp) -> bool {
        if is_same_complaint(self.slowed_at, now) {
            return false;
        }
        self.set((self.size.min(used.max(1)) / 2).max(1), now);
        (self.slow_start, self.was_refused) = (false, false);
        self.grow_at = now.after(hold);
        self.slowed_at = now;
        true
    }

    /// Nobody answers at the site: when it comes back, it is as if new, and starts with one.
    pub fn collapsed(&mut self, now: Timestamp) {
        self.set(1, now);
        *self = Self { size: 1, curve: std::mem::take(&mut self.curve), ..Self::default() };
    }

    /// Its last sizes, by the minute: from when, and how many.
    pub fn curve(&self) -> impl Iterator<Item = (Timestamp, u32)> {
        self.curve.iter().copied()
    }

    fn set(&mut self, size: u32, now: Timestamp) {
        if size == self.size {
            return;
        }
        self.size = size;
        match self.curve.back_mut() {
            Some((at, last)) if now.since(*at) < CURVE_STEP => *last = size,
            _ => self.curve.push_back((now, size)),
        }
        if self.curve.len() > CURVE_MAX {
            self.curve.pop_front();
        }
    }

    /// When what was too many once is tried again; `None` where nothing was refused lately.
    #[must_use]
    pub fn retry_at(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.retry_at.max(self.grow_at);
        (self.too_many.is_some_and(|count| self.size.saturating_add(1) >= count) && at > now)
            .then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn seconds(n: u64) -> Timestamp {
        NOW.after(Duration::from_secs(n))
    }

    #[test]
    fn success_opens_it_quickly_up_to_the_ceiling() {
        let mut window = Window::default();
        let mut successes = 0;
        while window.size(1, 20) < 20 {
            let used = window.size(1, 20);
            assert!(window.delivered(used, 20, NOW));
            successes += 1;
        }
        assert_eq!(successes, 17);
        assert!(!window.delivered(20, 20, NOW), "the ceiling holds");
        assert_eq!(window.size(1, 8), 8, "a lower ceiling holds at once");
    }

    #[test]
    fn a_refusal_tells_the_number() {
        let mut window = Window { size: 16, ..Window::default() };
        // Of sixteen opened together eleven stand.
        for _ in 0..5 {
            window.refused(11, NOW);
        }
        assert_eq!((window.size(1, 100), window.retry_at(NOW)), (11, Some(seconds(60))));
        assert!(!window.delivered(11, 100, seconds(59)));
        assert!(window.delivered(11, 100, seconds(60)));
        window.refused(11, seconds(61));
        assert_eq!(window.retry_at(seconds(61)), Some(seconds(61 + 120)), "twice as long");
        assert!(window.delivered(11, 100, seconds(200)));
        assert!(!window.delivered(12, 100, seconds(201)), "one more, and not at once another");
        assert!(window.delivered(12, 100, seconds(210)), "welcome: it goes on growing");
    }

    #[test]
    fn those_under_way_when_one_is_refused_count_too() {
        let mut window = Window::default();
        (0..3).for_each(|_| assert!(window.delivered(3, 100, NOW)));
        assert!(!window.delivered(3, 100, NOW), "twice as many, and no more");
        window.refused(3, NOW);
        assert_eq!(window.size(1, 100), 3);
        window.delivered(5, 100, NOW);
        assert_eq!((window.size(1, 100), window.retry_at(NOW)), (5, None));
        window.delivered(9, 100, NOW);
        assert_eq!(window.size(1, 100), 9, "and the others");
        assert!(!window.delivered(9, 100, seconds(9)), "slow start is over");
        assert!(window.delivered(9, 100, seconds(10)));
        window.slowed(10, GROW, seconds(11));
        window.delivered(10, 100, seconds(12));
        assert_eq!(window.size(1, 100), 5, "not those that stood when it asked for less");
    }

    #[test]
    fn one_that_ends_as_another_begins_is_no_lesson_and_a_lower_limit_is() {
        let mut window = Window { size: 8, slow_start: false, ..Window::default() };
        window.delivered(8, 100, NOW);
        for n in 0..10 {
            assert!(!window.refused(7, seconds(n)), "the old one still counts there");
            window.delivered(8, 8, seconds(n));
        }
        assert_eq!(window.size(1, 8), 8);
        assert!(!(0..10).any(|_| window.refused(4, seconds(20))), "together they tell no more");
        let believed = (1..10).position(|n| window.refused(4, seconds(20 + n)));
        assert_eq!((believed, window.size(1, 100)), (Some(2), 4));
    }

    #[test]
    fn how_long_one_that_has_ended_counts_is_learned_and_forgotten() {
        let mut window = Window { proven: 8, ..Window::default() };
        let mut now = NOW;
        assert_eq!(window.lag(now), Duration::ZERO);
        for lag in [5u32, 10, 20, 40, 80, 160, 320, 640, 1_000, 1_000] {
            (0..3).for_each(|_| _ = window.refused(7, now));
            assert_eq!(
                window.lag(now),
                Duration::from_millis(lag.into()),
                "together they tell no more"
            );
            now = Timestamp(now.0 + i64::from(lag) + 1);
            window.delivered(8, 100, now);
        }
        let later = |minutes: u64| now.after(Duration::from_secs(60 * minutes));
        assert_eq!(window.lag(later(2)), Duration::from_millis(250));
        assert_eq!(window.lag(later(40)), Duration::ZERO);
    }

    #[test]
    fn its_curve_is_kept_by_the_minute_and_bounded() {
        let mut window = Window::default();
        for _ in 0..5 {
            window.delivered(window.size, 100, NOW);
        }
        window.slowed(8, GROW, seconds(30));
        window.delivered(4, 100, seconds(90));
        assert_eq!(window.curve().collect::<Vec<_>>(), [(NOW, 4), (seconds(90), 5)]);
        for n in 2..200 {
            window.slowed(9, GROW, seconds(n * 240));
            window.delivered(window.size, 100, seconds(n * 240 + 120));
        }
        assert_eq!(window.curve().count(), CURVE_MAX);
    }

    #[test]
    fn a_complaint_halves_it_once() {
        let mut window = Window { size: 16, ..Window::default() };
        let hold = Duration::from_secs(600);
        assert!(window.slowed(12, hold, NOW));
        assert!(!window.slowed(12, hold, seconds(1)));
        assert_eq!(window.size(1, 100), 6);
        assert!(!window.delivered(6, 100, seconds(599)));
        assert!(window.delivered(6, 100, seconds(600)));
        assert!(!window.delivered(7, 100, seconds(601)));
        assert!(window.delivered(7, 100, seconds(610)));
        assert_eq!(window.size(1, 100), 8);
        (0..9).for_each(|n| _ = window.slowed(8, hold, seconds(700 + n * 20)));
        assert_eq!((window.size(1, 100), window.size(2, 100)), (1, 2), "the floor holds");
    }

    proptest! {
        #[test]
        fn prop_growth_is_earned(
            events in proptest::collection::vec((0u8..4, 0u32..40, 0i64..30_000), 0..200),
        ) {
            let (floor, ceiling) = (1, 30);
            let mut window = Window::default();
            let mut now = NOW;
            for (kind, n, pause) in events {
                now = Timestamp(now.0 + pause);
                let before = window.size(floor, ceiling);
                match kind {
                    0 | 1 => {
                        let used = n.min(ceiling);
                        let grew = window.delivered(used, ceiling, now);
                        let after = window.size(floor, ceiling);
                        let stand = before.max(used);
                        prop_assert!((before..=stand + 1).contains(&after));
                        prop_assert!(!grew || after > before);
                        prop_assert!(after == before || after <= 2 * used);
                    }
                    2 => {
                        let standing = n.min(before.saturating_sub(1));
                        let learned = window.refused(standing, now);
                        let size = if learned { standing.max(1) } else { before };
                        prop_assert_eq!(window.size(floor, ceiling), size);
                    }
                    _ => {
                        window.slowed(before, Duration::from_secs(60), now);
                        prop_assert!(window.size(floor, ceiling) <= before);
                    }
                }
                prop_assert!((floor..=ceiling).contains(&window.size(floor, ceiling)));
            }
        }
    }
}
