//! How many may go now, and when the next one may: a generic cell rate algorithm that can be asked.
//!
//! Unlike a limiter that only says yes or no, it tells *when*, so that nothing polls; and it keeps
//! its state when its rate is changed, so that a reload does not hand out the burst again.
//!
//! # Invariant
//! In no window of a rate's length do more than `count` go, at any place of the window, also while
//! the rate is changed (`prop_never_above_the_rates`), and as the receiver sees it a moment later
//! (`prop_lanes_together_keep_to_the_rate`). A small burst makes up for late timers; it is paid for
//! by a slightly slower pace.

use super::site::Rate;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use std::time::Duration;

/// Share of the count that may go at once: a twentieth.
const BURST_SHARE: u32 = 20;
/// What goes is seen by the receiver a little later, and not always by as much. The window is kept
/// as if it were longer by this share, and by this much at most.
const SLACK_SHARE: u32 = 20;
const SLACK_MAX: Duration = Duration::from_secs(2);

/// The state of one rate limit.
#[derive(Clone, Debug)]
pub struct Throttle {
    rate: Rate,
    /// Time between two at the steady pace, in µs.
    interval_us: i64,
    /// How far ahead of the pace one may be, in µs.
    tolerance_us: i64,
    /// The window that is kept, in µs.
    window_us: i64,
    /// When the next is due at the steady pace, µs since 1970.
    due_us: i64,
    /// When the last one went, µs since 1970.
    last_us: i64,
}

impl Throttle {
    /// A limit that nothing has used yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let count = rate.count.max(1);
        let burst = (count / BURST_SHARE).max(1);
        let paced = i64::from(count - (burst - 1));
        let window_us = window_us(rate);
        // Rounded up: a pace never faster than asked for.
        let interval_us = (window_us / paced + i64::from(window_us % paced != 0)).max(1);
        let tolerance_us = interval_us.saturating_mul(i64::from(burst - 1));
        Self { rate, interval_us, tolerance_us, window_us, due_us: i64::MIN, last_us: i64::MIN }
    }

    /// Changes the rate; what went out before still counts, as so many of what may go now, and not
    /// as the time that it took: where more may go, they go at once.
    pub fn retune(&mut self, rate: Rate, now: Timestamp) {
        if rate == self.rate {
            return;
        }
        let (now_us, before) = (micros(now), self.clone());
        *self = Self { last_us: before.last_us, ..Self::new(rate) };
        let owed_us = before.due_us.saturating_sub(now_us);
        if owed_us > 0 {
            let [owed_us, interval_us, interval_before_us] =
                [owed_us, self.interval_us, before.interval_us].map(i64::unsigned_abs);
            let owed_us = (u128::from(owed_us) * u128::from(interval_us))
                .div_ceil(u128::from(interval_before_us));
            self.due_us = now_us.saturating_add(i64::try_from(owed_us).unwrap_or(i64::MAX));
        }
    }

    /// How many may go at `now`, up to `wanted`.
    #[must_use]
    pub fn available(&self, now: Timestamp, wanted: u32) -> u32 {
        if self.is_rested(now) {
            let burst = self.tolerance_us / self.interval_us + 1;
            return u32::try_from(burst).unwrap_or(u32::MAX).min(wanted);
        }
        let ahead = micros(now).saturating_add(self.tolerance_us).saturating_sub(self.due_us);
        if ahead < 0 {
            return 0;
        }
        u32::try_from(ahead / self.interval_us + 1).unwrap_or(u32::MAX).min(wanted)
    }

    /// Uses up `count`, which [`Throttle::available`] allowed.
    pub fn take(&mut self, now: Timestamp, count: u32) {
        let cost = self.interval_us.saturating_mul(i64::from(count));
        let due_us = if self.is_rested(now) { micros(now) } else { self.due_us };
        self.due_us = due_us.saturating_add(cost);
        if count > 0 {
            self.last_us = micros(now);
        }
    }

    /// When at least one may go; not later than `now` where one may go now.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        let at_us = self.due_us.saturating_sub(self.tolerance_us).min(self.clean_us());
        if at_us <= micros(now) { now } else { Timestamp(at_us / 1_000 + 1) }
    }

    /// True where nothing that went out counts any more: it is as if new.
    #[must_use]
    pub fn is_rested(&self, now: Timestamp) -> bool {
        self.due_us.min(self.clean_us()) <= micros(now)
    }

    /// From when on no window holds any that went out. Only where the rate was lowered is that
    /// before they are paid for.
    fn clean_us(&self) -> i64 {
        self.last_us.saturating_add(self.window_us)
    }
}

/// Several rates at once: what goes has to fit all. None: no limit.
#[derive(Clone, Debug, Default)]
pub struct Throttles(Vec<Throttle>);

impl Throttles {
    /// Limits that nothing has used yet.
    #[must_use]
    pub fn new(rates: &[Rate]) -> Self {
        Self(rates.iter().copied().map(Throttle::new).collect())
    }

    /// Changes the rates; what went out before still counts. A window of a new length begins with
    /// the state of the one that is furthest ahead, since that is all that is known.
    pub fn retune(&mut self, rates: &[Rate], now: Timestamp) {
        let old = std::mem::take(&mut self.0);
        let furthest = old.iter().max_by_key(|throttle| throttle.due_us);
        let retuned = |rate: &Rate| {
            let known = old.iter().find(|throttle| throttle.rate.per == rate.per).or(furthest);
            let mut throttle = known.cloned().unwrap_or_else(|| Throttle::new(*rate));
            throttle.retune(*rate, now);
            throttle
        };
        self.0 = rates.iter().map(retuned).collect();
    }

    /// How many may go at `now`, up to `wanted`.
    #[must_use]
    pub fn available(&self, now: Timestamp, wanted: u32) -> u32 {
        self.0.iter().map(|throttle| throttle.available(now, wanted)).min().unwrap_or(wanted)
    }

    /// Uses up `count`, which [`Throttles::available`] allowed.
    pub fn take(&mut self, now: Timestamp, count: u32) {
        self.0.iter_mut().for_each(|throttle| throttle.take(now, count));
    }

    /// When at least one may go; not later than `now` where one may go now.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        self.binding(now).map_or(now, |(at, _)| at)
    }

    /// The rate that is waited for, and until when; `None` where one may go now.
    #[must_use]
    pub fn binding(&self, now: Timestamp) -> Option<(Timestamp, Rate)> {
        let waits = self.0.iter().map(|throttle| (throttle.next_at(now), throttle.rate));
        waits.filter(|(at, _)| *at > now).max_by_key(|(at, _)| *at)
    }
}

/// Limits of which newsletters leave a tenth to direct mail, which has that at once; and the rest
/// of them, where newsletters leave any.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    rates: Vec<Rate>,
    /// `None` where some window is too small to be shared.
    direct: Option<Throttles>,
    bulk: Throttles,
}

impl Pace {
    /// Limits that nothing has used yet.
    #[must_use]
    pub fn new(rates: &[Rate]) -> Self {
        let mut pace = Self::default();
        pace.retune(rates, Timestamp(0));
        pace
    }

    /// Changes the rates; what went out before still counts.
    pub fn retune(&mut self, rates: &[Rate], now: Timestamp) {
        let share = |rate: &Rate, kept: bool| {
            let of_direct = kept_for_direct(rate.count);
            let count = if kept { of_direct } else { rate.count - of_direct };
            Rate { count, per: rate.per }
        };
        let shares = |kept| -> Vec<Rate> { rates.iter().map(|rate| share(rate, kept)).collect() };
        let may_share = rates.iter().all(|rate| kept_for_direct(rate.count) > 0);
        self.bulk.retune(&shares(false), now);
        if may_share {
            self.direct.get_or_insert_default().retune(&shares(true), now);
        } else {
            self.direct = None;
        }
        self.rates = rates.to_vec();
    }

    /// How many of the lane may go now, up to `wanted`; all of them where there is no limit.
    #[must_use]
    pub fn available(&self, lane: Lane, now: Timestamp, wanted: u32) -> u32 {
        let shared = self.bulk.available(now, wanted);
        match (&self.direct, lane) {
            (Some(kept), Lane::Direct) => {
                kept.available(now, wanted).saturating_add(shared).min(wanted)
            }
            _ => shared,
        }
    }

    /// Uses up one.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin(&mut self, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        let at = self.next_at(lane, now);
        if at > now {
            return Err(at);
        }
        let kept = self.direct.as_mut().filter(|_| lane == Lane::Direct);
        let kept = kept.filter(|kept| kept.available(now, 1) > 0);
        kept.unwrap_or(&mut self.bulk).take(now, 1);
        Ok(())
    }

    /// When one of the lane may go; not later than `now` where one may go now.
    #[must_use]
    pub fn next_at(&self, lane: Lane, now: Timestamp) -> Timestamp {
        let shared = self.bulk.next_at(now);
        match (&self.direct, lane) {
            (Some(kept), Lane::Direct) => kept.next_at(now).min(shared),
            _ => shared,
        }
    }

    /// How much later than it began a message may be seen, so that the receiver sees the rates
    /// kept, too. The longest time where there is no limit.
    #[must_use]
    pub fn slack(&self) -> Duration {
        self.rates.iter().map(|rate| slack(*rate)).min().unwrap_or(Duration::MAX)
    }

    /// True where nothing that went out counts any more: it is as if new.
    #[must_use]
    pub fn is_rested(&self, now: Timestamp) -> bool {
        let kept = self.direct.iter().flat_map(|kept| &kept.0);
        kept.chain(&self.bulk.0).all(|throttle| throttle.is_rested(now))
    }

    /// The rate that newsletters wait for, and until when. Of a share of it, the whole is named.
    #[must_use]
    pub fn binding(&self, now: Timestamp) -> Option<(Timestamp, Rate)> {
        let (at, share) = self.bulk.binding(now)?;
        let whole = self.rates.iter().find(|rate| rate.per == share.per);
        Some((at, whole.copied().unwrap_or(share)))
    }
}

/// The window that is kept.
fn window_us(rate: Rate) -> i64 {
    let window = rate.per.saturating_add(slack(rate));
    i64::try_from(window.as_micros()).unwrap_or(i64::MAX).max(1)
}

fn slack(rate: Rate) -> Duration {
    (rate.per / SLACK_SHARE).min(SLACK_MAX)
}

/// A tenth, rounded up; nothing of a single one.
pub(super) fn kept_for_direct(count: u32) -> u32 {
    if count > 1 { count.div_ceil(10) } else { 0 }
}

fn micros(at: Timestamp) -> i64 {
    at.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Several windows, and changes of their counts on the way: no window holds more than the
        /// most that was allowed while it lasted.
        #[test]
        fn prop_never_above_the_rates(
            windows in proptest::collection::vec(100u64..100_000, 1..4),
            counts in proptest::collection::vec(1u32..500, 4),
            steps in proptest::collection::vec(
                (0i64..3_000, 1u32..200, proptest::option::weighted(0.1, 0usize..4)),
                1..200,
            ),
        ) {
            let rates = |turn: usize| -> Vec<Rate> {
                let rate = |(n, per): (usize, &u64)| Rate {
                    count: counts[(n + turn) % counts.len()],
                    per: Duration::from_millis(*per),
                };
                windows.iter().enumerate().map(rate).collect()
            };
            let mut throttles = Throttles::new(&rates(0));
            let mut now = Timestamp(1_000_000);
            // When, and the turn of that time.
            let (mut sent, mut turns): (Vec<i64>, _) = (Vec::new(), vec![(now.0, 0)]);
            for (pause, wanted, next) in steps {
                now = Timestamp(now.0 + pause);
                if let Some(turn) = next {
                    throttles.retune(&rates(turn), now);
                    turns.push((now.0, turn));
                }
                let n = throttles.available(now, wanted);
                throttles.take(now, n);
                sent.extend(std::iter::repeat_n(now.0, n as usize));
                if n < wanted {
                    let next_at = throttles.next_at(now);
                    prop_assert!(next_at > now || n > 0);
                    prop_assert_eq!(throttles.binding(now).is_some(), next_at > now);
                    prop_assert!(throttles.available(next_at, 1) == 1);
                }
            }
            for (n, per) in windows.iter().enumerate() {
                let per = i64::try_from(*per).unwrap();
                for (i, start) in sent.iter().enumerate() {
                    let inside = sent[i..].iter().take_while(|t| **t < start + per).count();
                    let before = turns.iter().rposition(|(at, _)| at <= start).unwrap();
                    let while_it_lasted =
                        turns[before..].iter().take_while(|(at, _)| *at < start + per);
                    let most = while_it_lasted.map(|(_, turn)| rates(*turn)[n].count).max();
                    prop_assert!(
                        inside <= most.unwrap() as usize,
                        "{inside} within {per} ms from {start}, {most:?} allowed"
                    );
                }
            }
        }

        /// Both lanes out of one limit.
        #[test]
        fn prop_lanes_together_keep_to_the_rate(
            count in 1u32..200,
            steps in proptest::collection::vec((0i64..2_000, 1u32..30, any::<bool>()), 1..200),
        ) {
            let per = Duration::from_secs(20);
            let mut pace = Pace::new(&[Rate { count, per }]);
            let slack = i64::try_from(pace.slack().as_millis()).unwrap();
            let (mut now, mut sent) = (Timestamp(1_000_000), Vec::new());
            for (n, (pause, wanted, direct)) in steps.into_iter().enumerate() {
                now = Timestamp(now.0 + pause);
                let lane = if direct { Lane::Direct } else { Lane::Bulk };
                let may = pace.available(lane, now, wanted);
                let begun = (0..wanted).take_while(|_| pace.begin(lane, now).is_ok()).count();
                prop_assert_eq!(begun, may as usize);
                // Some are seen at once and some late.
                let seen = if n % 3 == 0 { now.0 + slack } else { now.0 };
                sent.extend(std::iter::repeat_n(seen, begun));
            }
            sent.sort_unstable();
            for (i, start) in sent.iter().enumerate() {
                let inside = sent[i..].iter().take_while(|at| **at < start + 20_000).count();
                prop_assert!(inside <= count as usize, "{inside} of {count}");
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
        let rate = |count, secs| Rate { count, per: Duration::from_secs(secs) };
        for new in [rate(2, 60), rate(2, 61)] {
            let mut throttles = Throttles::new(&[rate(1, 60)]);
            throttles.take(Timestamp(0), 1);
            throttles.retune(&[rate(9, 1), new], Timestamp(0));
            assert_eq!(throttles.available(Timestamp(1_000), 1), 0);
        }
    }

    #[test]
    fn where_more_may_go_it_goes_at_once_and_where_less_not_later_than_in_a_window() {
        let rate = |count, secs| Rate { count, per: Duration::from_secs(secs) };
        let (now, then) = (Timestamp(0), |secs: i64| Timestamp(secs * 1_000));
        let mut throttles = Throttles::new(&[rate(10, 3_600)]);
        throttles.take(now, 1);
        assert!(throttles.next_at(now) > then(350));
        throttles.retune(&[rate(6_000, 60)], now);
        assert!(throttles.next_at(now) <= then(1));
        throttles.take(now, throttles.available(now, 1_000));
        throttles.retune(&[rate(1, 60)], now);
        assert!(throttles.next_at(now) > then(59) && throttles.next_at(now) <= then(63));
    }

    #[test]
    fn the_window_that_is_waited_for_is_named() {
        let [second, day] = [(10, 1), (5, 86_400)]
            .map(|(count, secs)| Rate { count, per: Duration::from_secs(secs) });
        let mut pace = Pace::new(&[second, day]);
        assert_eq!(pace.binding(Timestamp(0)), None);
        assert!(pace.begin(Lane::Bulk, Timestamp(0)).is_ok());
        let (at, rate) = pace.binding(Timestamp(0)).unwrap();
        assert_eq!((rate, rate.to_string().as_str()), (day, "5/d"));
        assert!(at.0 > 86_400_000 / 5, "newsletters have four of the five: {at}");
        assert!(
            pace.begin(Lane::Direct, Timestamp(0)).is_ok(),
            "and direct mail the fifth, at once"
        );
        assert_eq!(pace.begin(Lane::Bulk, Timestamp(0)), Err(at));
    }

    #[test]
    fn newsletters_leave_a_tenth() {
        let mut pace = Pace::new(&[Rate { count: 100, per: Duration::from_secs(10) }]);
        let mut sent = 0;
        for ms in 0..10_000 {
            while pace.begin(Lane::Bulk, Timestamp(ms)).is_ok() {
                sent += 1;
            }
        }
        assert!((80..=90).contains(&sent), "{sent}");
        assert!(pace.begin(Lane::Direct, Timestamp(10_000)).is_ok());
    }
}
