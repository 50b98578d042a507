//! What is taken from each tenant: messages and recipients in windows, counted in slices.
//!
//! # Invariants
//! * In no window more is taken than the rate says; by the grain of a slice, up to a twentieth of
//!   the window longer (`prop_no_window_holds_more`).
//! * Memory is bounded: so many tenants, each with a constant number of slices. Of more tenants the
//!   tenth that was quiet longest is forgotten.

use crate::base::time::Timestamp;
use crate::policy::site::Rate;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// Slices of a window.
const SLICES: i64 = 20;
/// Tenants that are remembered.
const TENANTS_MAX: usize = 20_000;

/// So many of something in the last window of some length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its length in ms.
    per_ms: i64,
    /// The slices that anything was in, by their number since 1970, the oldest first.
    slices: VecDeque<(i64, u64)>,
}

impl Window {
    /// One that nothing was in yet.
    #[must_use]
    pub fn of(rate: Rate) -> Self {
        let per_ms = i64::try_from(rate.per.as_millis()).unwrap_or(i64::MAX);
        Self { per_ms, slices: VecDeque::new() }
    }

    fn slice_ms(&self) -> i64 {
        (self.per_ms / SLICES).max(1)
    }

    fn number(&self, now: Timestamp) -> i64 {
        now.0.div_euclid(self.slice_ms())
    }

    /// How many were in the window that ends now.
    #[must_use]
    pub fn used(&self, now: Timestamp) -> u64 {
        let oldest = self.number(now) - SLICES;
        self.slices.iter().filter(|(number, _)| *number >= oldest).map(|(_, count)| count).sum()
    }

    /// Counts `count` more.
    pub fn add(&mut self, now: Timestamp, count: u64) {
        let number = self.number(now);
        while self.slices.front().is_some_and(|(oldest, _)| *oldest < number - SLICES) {
            self.slices.pop_front();
        }
        match self.slices.back_mut() {
            // A clock that was set back counts on where it was.
            Some((last, counted)) if *last >= number => *counted += count,
            _ => self.slices.push_back((number, count)),
        }
    }

    /// Takes back what was counted just now.
    fn give_back(&mut self, count: u64) {
        if let Some((_, counted)) = self.slices.back_mut() {
            *counted = counted.saturating_sub(count);
        }
    }

    /// When at most `most` of what is in there now will still be.
    fn falls_to(&self, most: u64, now: Timestamp) -> Timestamp {
        let mut left = self.used(now);
        for (number, count) in &self.slices {
            if left <= most {
                break;
            }
            if *number >= self.number(now) - SLICES {
                left -= count;
                if left <= most {
                    return Timestamp((number + SLICES + 1).saturating_mul(self.slice_ms()));
                }
            }
        }
        now
    }
}

/// What a tenant has used of its rates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    messages: Vec<Window>,
    recipients: Vec<Window>,
    last_ms: i64,
}

/// What was taken from each tenant that has a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowances(HashMap<String, Used>);

/// Which limit a message is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub rate: Rate,
    /// Of recipients, not of messages.
    pub of_recipients: bool,
    /// When the message fits; where it never does, having more recipients than the window, when the
    /// window is empty.
    pub until: Timestamp,
}

/// One limit, and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The limit.
    pub rate: Rate,
    /// Of recipients, not of messages.
    pub of_recipients: bool,
    /// In the window that ends now.
    pub used: u64,
}

impl Allowances {
    /// Counts a message with so many recipients, where it fits the tenant's limits.
    ///
    /// # Errors
    /// The limit that it is beyond for the longest; nothing was counted then.
    pub fn take(
        &mut self,
        tenant: &str,
        (messages, recipients): (&[Rate], &[Rate]),
        count: u64,
        now: Timestamp,
    ) -> Result<(), Exceeded> {
        if messages.is_empty() && recipients.is_empty() {
            return Ok(());
        }
        self.make_room(tenant);
        let used = self.0.entry(tenant.to_string()).or_default();
        fit(&mut used.messages, messages);
        fit(&mut used.recipients, recipients);
        used.last_ms = now.0;
        let beyond = |(windows, rates, count, of_recipients)| {
            let windows: &Vec<Window> = windows;
            let rates: &[Rate] = rates;
            let over = windows.iter().zip(rates).filter_map(move |(window, rate)| {
                let most = u64::from(rate.count).saturating_sub(count);
                let fits = window.used(now) + count <= u64::from(rate.count);
                let until = window.falls_to(most, now);
                (!fits).then_some(Exceeded { rate: *rate, of_recipients, until })
            });
            over.collect::<Vec<_>>()
        };
        let over =
            [(&used.messages, messages, 1, false), (&used.recipients, recipients, count, true)];
        if let Some(worst) = over.into_iter().flat_map(beyond).max_by_key(|e| e.until) {
            return Err(worst);
        }
        used.messages.iter_mut().for_each(|window| window.add(now, 1));
        used.recipients.iter_mut().for_each(|window| window.add(now, count));
        Ok(())
    }

    /// The message that was counted just now was not taken after all.
    pub fn give_back(&mut self, tenant: &str, count: u64) {
        if let Some(used) = self.0.get_mut(tenant) {
            used.messages.iter_mut().for_each(|window| window.give_back(1));
            used.recipients.iter_mut().for_each(|window| window.give_back(count));
        }
    }

    /// How much of each limit a tenant has used.
    #[must_use]
    pub fn usage(
        &self,
        tenant: &str,
        (messages, recipients): (&[Rate], &[Rate]),
        now: Timestamp,
    ) -> Vec<Usage> {
        let used = self.0.get(tenant);
        let of = |rates: &[Rate], of_recipients: bool| -> Vec<Usage> {
            let windows = used.map(|u| if of_recipients { &u.recipients } else { &u.messages });
            let used = |rate: &Rate| {
                let per_ms = Window::of(*rate).per_ms;
                windows.and_then(|all| all.iter().find(|w| w.per_ms == per_ms))
            };
            let usage = |rate: &Rate| {
                let used = used(rate).map_or(0, |window| window.used(now));
                Usage { rate: *rate, of_recipients, used }
            };
            rates.iter().map(usage).collect()
        };
        [of(messages, false), of(recipients, true)].concat()
    }

    /// A tenth at once, so that not all are searched for each new tenant.
    fn make_room(&mut self, tenant: &str) {
        if self.0.len() < TENANTS_MAX || self.0.contains_key(tenant) {
            return;
        }
        let mut times: Vec<i64> = self.0.values().map(|used| used.last_ms).collect();
        let (_, last, _) = times.select_nth_unstable(TENANTS_MAX / 10 - 1);
        self.0.retain(|_, used| used.last_ms > *last);
    }
}

/// One window for each rate; those of the same length keep what they have counted.
fn fit(windows: &mut Vec<Window>, rates: &[Rate]) {
    let fits = windows.len() == rates.len()
        && windows
            .iter()
            .zip(rates)
            .all(|(window, rate)| window.per_ms == Window::of(*rate).per_ms);
    if fits {
        return;
    }
    let before = std::mem::take(windows);
    let kept = |rate: &Rate| {
        let new = Window::of(*rate);
        before.iter().find(|window| window.per_ms == new.per_ms).cloned().unwrap_or(new)
    };
    *windows = rates.iter().map(kept).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const START: i64 = 1_795_394_728_000;
    const HOUR: i64 = 3_600_000;

    fn rates(text: &str) -> Vec<Rate> {
        Rate::parse_list(text).unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp(START + ms)
    }

    #[test]
    fn what_is_used_up_is_there_again_when_it_leaves_the_window() {
        let (messages, recipients) = (rates("3/h"), rates("100/d"));
        let limits = (messages.as_slice(), recipients.as_slice());
        let mut all = Allowances::default();
        for ms in [0, 1_000, HOUR / 2] {
            assert_eq!(all.take("shop", limits, 10, at(ms)), Ok(()));
        }
        let over = all.take("shop", limits, 10, at(HOUR / 2)).unwrap_err();
        assert_eq!((over.rate.to_string(), over.of_recipients), ("3/h".into(), false));
        assert!(over.until > at(HOUR) && over.until <= at(HOUR + HOUR / 10), "{over:?}");
        assert_eq!(all.take("other", limits, 10, at(HOUR / 2)), Ok(()), "by tenant");
        assert_eq!(all.take("shop", limits, 10, over.until), Ok(()));
        let over = all.take("shop", limits, 61, at(HOUR * 5)).unwrap_err();
        assert_eq!((over.rate.to_string(), over.of_recipients), ("100/d".into(), true));
        assert_eq!(all.take("shop", limits, 60, at(HOUR * 5)), Ok(()));
        let used: Vec<u64> =
            all.usage("shop", limits, at(HOUR * 5)).iter().map(|u| u.used).collect();
        assert_eq!(used, [1, 100]);
        all.give_back("shop", 60);
        assert_eq!(all.take("shop", limits, 60, at(HOUR * 5)), Ok(()));
    }

    #[test]
    fn other_limits_keep_what_windows_of_the_same_length_have_counted() {
        let mut all = Allowances::default();
        let (before, after) = (rates("3/h"), rates("5/h,100/d"));
        (0..3).for_each(|_| all.take("shop", (&before, &[]), 1, at(0)).unwrap());
        let mut taken = 0;
        while all.take("shop", (&after, &[]), 1, at(1)).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 2);
    }

    #[test]
    fn tenants_that_are_remembered_are_bounded() {
        let (mut all, limits) = (Allowances::default(), rates("3/h"));
        let mut take = |name: String, n| all.take(&name, (&limits, &[]), 1, at(n)).unwrap();
        let count = i64::try_from(TENANTS_MAX).unwrap();
        (0..count).for_each(|n| take(format!("t{n}"), n));
        take("t0".to_string(), count);
        (0..100).for_each(|n| take(format!("new{n}"), count + n));
        assert_eq!(all.0.len(), TENANTS_MAX - TENANTS_MAX / 10 + 100);
        let known = ["t0", "t1", "t2000", "t2001", "new0"].map(|name| all.0.contains_key(name));
        assert_eq!(known, [true, false, false, true, true]);
    }

    proptest! {
        #[test]
        fn prop_no_window_holds_more(
            count in 1_u32..20,
            per_s in prop::sample::select(vec![1_u64, 60, 3_600]),
            steps in prop::collection::vec((0_i64..200_000, 1_u64..5), 1..200),
        ) {
            let rate = Rate { count, per: Duration::from_secs(per_s) };
            let (mut all, mut now, mut taken) = (Allowances::default(), START, Vec::new());
            for (wait, recipients) in steps {
                now += wait * i64::try_from(per_s).unwrap() / 3_600;
                match all.take("t", (&[], &[rate]), recipients, Timestamp(now)) {
                    Ok(()) => taken.push((now, recipients)),
                    Err(over) => {
                        prop_assert!(over.until >= Timestamp(now));
                        let slack = i64::try_from(per_s).unwrap() * 1_100;
                        prop_assert!(over.until <= Timestamp(now + slack), "it ends");
                    }
                }
            }
            for (end, _) in &taken {
                let begin = end - i64::try_from(per_s).unwrap() * 1_000;
                let within = taken.iter().filter(|(at, _)| *at > begin && at <= end);
                prop_assert!(within.map(|(_, n)| n).sum::<u64>() <= u64::from(count));
            }
        }
    }
}
