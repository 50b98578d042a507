//! The paces of one site: of messages and of new connections, over all sources together and from
//! each of them. What goes has to fit both.
//!
//! # Invariants
//! * No window of any rate holds more than it allows (`prop_in_all_and_from_each`); nothing is used
//!   up of one pace where the other says no.
//! * Memory follows the sources that were used, where there are rates for each.

use super::site::{Limits, Rate};
use super::source::SourceId;
use super::throttle::Pace;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use std::collections::BTreeMap;
use std::time::Duration;

/// What goes at a pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Messages: transactions.
    Message,
    /// New connections: each address that is tried.
    Connection,
}

/// Of one site. At first without limits.
#[derive(Clone, Debug, Default)]
pub struct Paces {
    messages: Shared,
    connections: Shared,
}

/// One pace for all, and one for each source.
#[derive(Clone, Debug, Default)]
struct Shared {
    all: Pace,
    each: BTreeMap<SourceId, Pace>,
    rates_of_each: Vec<Rate>,
    /// See [`Pace::slack`].
    slack: Option<Duration>,
}

impl Shared {
    fn retune(&mut self, all: &[Rate], each: &[Rate], now: Timestamp) {
        self.all.retune(all, now);
        self.each.values_mut().for_each(|pace| pace.retune(each, now));
        self.rates_of_each = each.to_vec();
        self.slack = Some(self.all.slack().min(Pace::new(each).slack()));
        if each.is_empty() {
            self.each.clear();
        }
    }

    fn next_from(&self, source: SourceId, lane: Lane, now: Timestamp) -> Timestamp {
        self.each.get(&source).map_or(now, |pace| pace.next_at(lane, now))
    }

    fn begin(&mut self, source: SourceId, lane: Lane, now: Timestamp) -> Result<(), Timestamp> {
        let at = self.next_from(source, lane, now);
        if at > now {
            return Err(at);
        }
        self.all.begin(lane, now)?;
        if !self.rates_of_each.is_empty() {
            let new = || Pace::new(&self.rates_of_each);
            self.each.entry(source).or_insert_with(new).begin(lane, now)?;
        }
        Ok(())
    }

    fn available(&self, source: SourceId, lane: Lane, now: Timestamp, wanted: u32) -> u32 {
        let wanted = self.all.available(lane, now, wanted);
        match self.each.get(&source) {
            Some(pace) => pace.available(lane, now, wanted),
            None if self.rates_of_each.is_empty() => wanted,
            None => Pace::new(&self.rates_of_each).available(lane, now, wanted),
        }
    }

    fn is_rested(&self, now: Timestamp) -> bool {
        self.all.is_rested(now) && self.each.values().all(|pace| pace.is_rested(now))
    }
}

impl Paces {
    /// Follows these limits, of which `rates` holds in place of those for messages in all; what
    /// went out before still counts.
    pub fn retune(&mut self, limits: &Limits, rates: &[Rate], now: Timestamp) {
        let Limits { rates_per_source, connection_rates, connection_rates_per_source, .. } = limits;
        self.messages.retune(rates, rates_per_source, now);
        self.connections.retune(connection_rates, connection_rates_per_source, now);
    }

    fn of(&self, what: What) -> &Shared {
        match what {
            What::Message => &self.messages,
            What::Connection => &self.connections,
        }
    }

    /// Uses up one that begins now, from this source.
    ///
    /// # Errors
    /// When to ask again.
    pub fn begin(
        &mut self,
        what: What,
        source: SourceId,
        lane: Lane,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        match what {
            What::Message => self.messages.begin(source, lane, now),
            What::Connection => self.connections.begin(source, lane, now),
        }
    }

    /// How many messages of the lane may begin now from this source, up to `wanted`.
    #[must_use]
    pub fn available(&self, source: SourceId, lane: Lane, now: Timestamp, wanted: u32) -> u32 {
        self.messages.available(source, lane, now, wanted)
    }

    /// When a message of the lane may begin, from whichever source.
    #[must_use]
    pub fn next_at(&self, lane: Lane, now: Timestamp) -> Timestamp {
        self.messages.all.next_at(lane, now)
    }

    /// When the pace of this source, by itself, lets the next of the lane go; not later than `now`
    /// where it does now.
    #[must_use]
    pub fn next_from(&self, what: What, source: SourceId, lane: Lane, now: Timestamp) -> Timestamp {
        self.of(what).next_from(source, lane, now)
    }

    /// The rate over all sources that newsletters wait for, and until when.
    #[must_use]
    pub fn binding(&self, what: What, now: Timestamp) -> Option<(Timestamp, Rate)> {
        self.of(what).all.binding(now)
    }

    /// See [`Pace::slack`].
    #[must_use]
    pub fn slack(&self) -> Duration {
        self.messages.slack.unwrap_or(Duration::MAX)
    }

    /// True where nothing that went out counts any more: it is as if new.
    #[must_use]
    pub fn is_rested(&self, now: Timestamp) -> bool {
        self.messages.is_rested(now) && self.connections.is_rested(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::site::sites;
    use proptest::prelude::*;

    const PER: i64 = 20_000;

    fn limits(all: u32, each: u32) -> Limits {
        let rate = |count| Rate { count, per: Duration::from_millis(PER.unsigned_abs()) };
        let default = sites(10, &[]).default;
        Limits { rates: vec![rate(all)], rates_per_source: vec![rate(each)], ..default }
    }

    fn fullest(times: &[i64]) -> usize {
        let inside = |(n, start): (usize, &i64)| {
            times[n..].iter().take_while(|at| **at < start + PER).count()
        };
        times.iter().enumerate().map(inside).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn prop_in_all_and_from_each(
            all in 1u32..200,
            each in 1u32..200,
            steps in proptest::collection::vec(
                (0i64..2_000, 0u16..3, 1u32..30, any::<bool>()),
                1..200,
            ),
        ) {
            let mut paces = Paces::default();
            let limits = limits(all, each);
            paces.retune(&limits, &limits.rates, Timestamp(0));
            let (mut now, mut sent) = (Timestamp(1_000_000), Vec::new());
            let mut by_source = vec![Vec::new(); 3];
            for (pause, source, wanted, direct) in steps {
                now = Timestamp(now.0 + pause);
                let lane = if direct { Lane::Direct } else { Lane::Bulk };
                let from = SourceId(source);
                let may = paces.available(from, lane, now, wanted);
                let begin = || paces.begin(What::Message, from, lane, now).is_ok();
                let begun = std::iter::repeat_with(begin).take(wanted as usize);
                let begun = begun.take_while(|begun| *begun).count();
                prop_assert_eq!(begun, may as usize);
                sent.extend(std::iter::repeat_n(now.0, begun));
                by_source[usize::from(source)].extend(std::iter::repeat_n(now.0, begun));
            }
            prop_assert!(fullest(&sent) <= all as usize);
            for times in by_source {
                prop_assert!(fullest(&times) <= each as usize);
            }
        }
    }

    #[test]
    fn a_source_that_is_done_leaves_the_others_their_share() {
        let mut paces = Paces::default();
        let limits = limits(100, 1);
        paces.retune(&limits, &limits.rates, Timestamp(0));
        let now = Timestamp(1_000_000);
        let [a, b] = [SourceId(0), SourceId(1)];
        assert!(paces.begin(What::Message, a, Lane::Bulk, now).is_ok());
        let next = paces.next_from(What::Message, a, Lane::Bulk, now);
        assert!(next > now);
        assert_eq!(paces.begin(What::Message, a, Lane::Bulk, now), Err(next));
        assert_eq!(paces.next_at(Lane::Bulk, now), now, "nothing is waited for in all");
        assert!(paces.begin(What::Message, b, Lane::Bulk, now).is_ok());
        assert_eq!(paces.available(a, Lane::Bulk, now, 9), 0);
        assert!(!paces.is_rested(now) && paces.is_rested(now.after(Duration::from_secs(60))));
    }
}
