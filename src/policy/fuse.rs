//! A hacked site's burst: a tenant that sends far more than it ever did, or to people who do not
//! exist, is told of once, so that its mail can be held.
//!
//! # What blows it
//! * *Rate*, of direct mail alone: recipients in a minute and in an hour, against the tenant's
//!   busiest minute and hour lately and a generous floor. That is [`FuseRules::factor`] times what
//!   it did at its busiest, not on average: daily rhythm, Mondays and sales are within it.
//! * *Bounces*, of all its mail: the share of recipients unknown at their hosts among its last
//!   outcomes, once there are enough of them.
//!
//! # Why newsletters are judged by bounces alone
//! A newsletter is a burst by nature, from a tenant that sent nothing for weeks; how fast it comes
//! tells nothing. Bulk mail, declared or recognised ([`super::sense`]), goes out at the receivers'
//! paces and behind everything direct, so that a spam run in that lane has time to show what gives
//! it away: harvested and bought lists are full of dead addresses, grown ones are not. The rate is
//! for what no template groups, and what so leaves at once: spam with a text for each recipient.
//!
//! # How the busiest is learned
//! When an hour with mail is over, its fullest minute and its sum: half of what is more at once, of
//! what is less a little, so that a busiest hour fades in about a week. Nothing is learned of a
//! burst that blew the fuse, unless an operator says that it was right ([`Fuse::accept_as_usual`]).
//! A tenant without a history has the floors alone: one that is busier from its first hour on is
//! told of, and to be accepted so.
//!
//! # Absent
//! Recipients that a tenant never wrote to before: those of a shop's orders are new too, and to
//! remember them all would not be bounded.
//!
//! # Invariants
//! * Told once: a blown fuse tells nothing more until it is reset, or, where [`FuseRules::calm`] is
//!   given, until nothing was too many for so long (`prop_it_is_told_again_after_calm_alone`).
//! * What one tenant does changes nothing for another (`neighbours_are_untouched`), up to 10,000 of
//!   them; of more, those that sent longest ago start anew.

#[cfg(test)]
mod tests;

use super::lru::Lru;
use super::tally::Tally;
use crate::base::time::{Timestamp, human};
use crate::mail::message::Lane;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Tenants known.
const TENANTS: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// How long a tenant is to be calm whose mail goes on, so that its next burst is told of.
pub const CALM: Duration = HOUR;
const HOUR_MS: i64 = 3_600_000;
/// What an hour counts for that was busier than the busiest.
const RISE: f64 = 0.5;
/// And one that was not: one in the hours of a week.
const FALL: f64 = 1.0 / 168.0;
/// Outcomes count half after so long, and once there are this many times the least number.
const OUTCOMES_HALVE: Duration = Duration::from_secs(86_400);
const OUTCOMES_KEPT: u32 = 10;

/// What blows a fuse. The default is generous to any tenant without a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuseRules {
    /// Recipients of direct mail in a minute that are never too many; `None`: minutes are not
    /// looked at.
    pub per_minute: Option<u32>,
    /// The same for an hour.
    pub per_hour: Option<u32>,
    /// Times its busiest that a tenant may send.
    pub factor: u32,
    /// `None`: bounces are not looked at.
    pub bounces: Option<BounceRule>,
    /// A blown fuse is new again once nothing was too many for so long. `None`, where mail waits
    /// for somebody to look: not until it is reset.
    pub calm: Option<Duration>,
}

impl Default for BounceRule {
    fn default() -> Self {
        Self { percent: 15, least: 100 }
    }
}

/// How many recipients may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BounceRule {
    /// From this share on it is too many; 1 to 100.
    pub percent: u32,
    /// Of at least so many outcomes.
    pub least: u32,
}

impl Default for FuseRules {
    fn default() -> Self {
        Self {
            per_minute: Some(200),
            per_hour: Some(2_000),
            factor: 5,
            bounces: Some(BounceRule::default()),
            calm: None,
        }
    }
}

/// Why a tenant's fuse blew. Its text is the reason, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blown {
    /// When.
    pub at: Timestamp,
    /// What was too many.
    pub cause: Cause,
}

/// What was too many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Recipients of direct mail.
    Rate {
        /// In the window.
        recipients: u32,
        /// A minute or an hour.
        within: Duration,
        /// In its busiest one lately.
        busiest: u32,
        /// More than these are too many.
        limit: u32,
    },
    /// Recipients unknown at their hosts.
    Bounces {
        /// So many.
        bounced: u32,
        /// Of so many that were delivered or failed.
        outcomes: u32,
    },
}

impl fmt::Display for Blown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Rate { recipients, within, busiest, limit } => write!(
                f,
                "{recipients} recipients of direct mail in {} (limit {limit}; busiest so far \
                 {busiest})",
                human(*within)
            ),
            Cause::Bounces { bounced, outcomes } => {
                let percent = u64::from(*bounced) * 100 / u64::from(*outcomes).max(1);
                write!(f, "{bounced} of the last {outcomes} recipients are unknown ({percent} %)")
            }
        }
    }
}

/// What is known of a tenant, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FuseStatus {
    /// Recipients of direct mail by the minute.
    pub minute: RateStatus,
    /// And by the hour.
    pub hour: RateStatus,
    /// Outcomes that count.
    pub outcomes: u32,
    /// Of them, recipients unknown at their hosts.
    pub bounced: u32,
    /// Where it blew and was not reset.
    pub blown: Option<Blown>,
}

/// Recipients of direct mail, and how many there may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateStatus {
    /// Until now.
    pub recipients: u32,
    /// In the busiest one lately.
    pub busiest: u32,
    /// More are too many; `None`: none are.
    pub limit: Option<u32>,
}

/// Those of all tenants. What is read back follows default rules until [`Fuse::retune`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fuse {
    #[serde(skip)]
    rules: FuseRules,
    tenants: Lru<History, TENANTS>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct History {
    minute: Flow,
    hour: Flow,
    /// The hour, since 1970, that mail last came in.
    hours: i64,
    outcomes: u32,
    bounced: u32,
    /// When the outcomes are halved next.
    halve_at: Timestamp,
    blown: Option<Blown>,
    /// When it last would have blown, where it is blown.
    #[serde(default)]
    over_at: Timestamp,
}

/// Recipients in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Flow {
    tally: Tally,
    /// The fullest window of this hour.
    fullest: u32,
    busiest: f64,
}

impl Flow {
    fn add(&mut self, recipients: u32, window: Duration, now: Timestamp) {
        self.tally.add(recipients, window, now);
        self.fullest = self.fullest.max(self.tally.count(window, now));
    }

    /// The hour is over, and so many after it, in which nothing came.
    fn learn(&mut self, idle: i32) {
        let fullest = f64::from(std::mem::take(&mut self.fullest));
        let share = if fullest > self.busiest { RISE } else { FALL };
        self.busiest += (fullest - self.busiest) * share;
        self.busiest *= (1.0 - FALL).powi(idle);
    }

    /// A cast from a float stops at the largest.
    fn busiest(&self) -> u32 {
        self.busiest.ceil() as u32
    }

    fn limit(&self, floor: Option<u32>, factor: u32) -> Option<u32> {
        floor.map(|floor| floor.max((self.busiest * f64::from(factor)) as u32))
    }

    fn over(&self, rule: (Option<u32>, u32), within: Duration, now: Timestamp) -> Option<Cause> {
        let (recipients, limit) = (self.tally.count(within, now), self.limit(rule.0, rule.1)?);
        let busiest = self.busiest();
        (recipients > limit).then_some(Cause::Rate { recipients, within, busiest, limit })
    }

    fn explain(&self, rule: (Option<u32>, u32), within: Duration, now: Timestamp) -> RateStatus {
        RateStatus {
            recipients: self.tally.count(within, now),
            busiest: self.busiest(),
            limit: self.limit(rule.0, rule.1),
        }
    }

    fn forget_present(&mut self) {
        (self.tally, self.fullest) = (Tally::default(), 0);
    }
}

impl Fuse {
    /// Without any history.
    #[must_use]
    pub fn new(rules: FuseRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Follows these rules from now on; what blew stays blown.
    pub fn retune(&mut self, rules: FuseRules) {
        self.rules = rules;
    }

    /// A message of the tenant was accepted for so many recipients, in the lane that it takes in
    /// the end. `Some` where that blows the fuse.
    pub fn accepted(
        &mut self,
        tenant: &str,
        lane: Lane,
        recipients: u32,
        now: Timestamp,
    ) -> Option<Blown> {
        if lane == Lane::Bulk {
            return None;
        }
        let FuseRules { per_minute, per_hour, factor, calm, .. } = self.rules;
        let known = self.tenants.used(tenant, now);
        known.end_calm(calm, now);
        if known.blown.is_some() && calm.is_none() {
            return None;
        }
        known.end_hours(now);
        known.minute.add(recipients, MINUTE, now);
        known.hour.add(recipients, HOUR, now);
        let by_minute = known.minute.over((per_minute, factor), MINUTE, now);
        let cause = by_minute.or_else(|| known.hour.over((per_hour, factor), HOUR, now));
        let blown = cause.and_then(|cause| known.blow(cause, now));
        if known.blown.is_some() {
            // Not learned.
            (known.minute.fullest, known.hour.fullest) = (0, 0);
        }
        blown
    }

    /// A recipient of the tenant's mail is done with, in either lane: delivered, or failed.
    /// `hard_bounce`: refused for good, as unknown. `Some` where that blows the fuse.
    pub fn outcome(&mut self, tenant: &str, hard_bounce: bool, now: Timestamp) -> Option<Blown> {
        let FuseRules { bounces, calm, .. } = self.rules;
        let rule = bounces?;
        let known = self.tenants.used(tenant, now);
        known.end_calm(calm, now);
        if known.blown.is_some() && calm.is_none() {
            return None;
        }
        known.count_outcome(hard_bounce, rule, now);
        let (outcomes, bounced) = (known.outcomes, known.bounced);
        let is_share = u64::from(bounced) * 100 >= u64::from(outcomes) * u64::from(rule.percent);
        // What was not unknown proves nothing, whatever came before it.
        let is_too_many = hard_bounce && outcomes >= rule.least && is_share;
        is_too_many.then(|| known.blow(Cause::Bounces { bounced, outcomes }, now)).flatten()
    }

    /// Why the tenant's fuse is blown, where it is.
    #[must_use]
    pub fn blown(&self, tenant: &str) -> Option<&Blown> {
        self.tenants.get(tenant)?.blown.as_ref()
    }

    /// Puts in a new one, after the cause was cured. Gives what had blown it, if anything had.
    pub fn reset(&mut self, tenant: &str) -> Option<Blown> {
        self.tenants.get_mut(tenant)?.renew()
    }

    /// Puts in a new one, where what blew it was right: it counts as the busiest from now on.
    /// Gives what had blown it, if anything had.
    pub fn accept_as_usual(&mut self, tenant: &str) -> Option<Blown> {
        let known = self.tenants.get_mut(tenant)?;
        let blown = known.renew()?;
        if let Cause::Rate { recipients, within, .. } = blown.cause {
            let flow = if within == MINUTE { &mut known.minute } else { &mut known.hour };
            flow.busiest = flow.busiest.max(f64::from(recipients));
        }
        Some(blown)
    }

    /// What is worth being kept over a restart: histories that raise a limit, and what is blown.
    #[must_use]
    pub fn lasting(&self) -> Self {
        let pick = |known: &History| known.is_lasting(&self.rules).then(|| known.clone());
        Self { rules: self.rules, tenants: self.tenants.picked(pick) }
    }

    /// What is known of a tenant; `None` where it sent nothing lately.
    #[must_use]
    pub fn explain(&self, tenant: &str, now: Timestamp) -> Option<FuseStatus> {
        let FuseRules { per_minute, per_hour, factor, calm, .. } = self.rules;
        let mut known = self.tenants.get(tenant)?.clone();
        known.end_calm(calm, now);
        known.end_hours(now);
        Some(FuseStatus {
            minute: known.minute.explain((per_minute, factor), MINUTE, now),
            hour: known.hour.explain((per_hour, factor), HOUR, now),
            outcomes: known.outcomes,
            bounced: known.bounced,
            blown: known.blown,
        })
    }
}

impl History {
    /// Learns of the hours that are over.
    fn end_hours(&mut self, now: Timestamp) {
        let hour = now.0.div_euclid(HOUR_MS);
        let ended = hour.saturating_sub(std::mem::replace(&mut self.hours, hour));
        if ended > 0 {
            let idle = i32::try_from(ended - 1).unwrap_or(i32::MAX);
            self.minute.learn(idle);
            self.hour.learn(idle);
        }
    }

    /// True where it allows more than a tenant without a history has, or is blown.
    fn is_lasting(&self, rules: &FuseRules) -> bool {
        let raises = |flow: &Flow, floor| flow.limit(floor, rules.factor) > floor;
        raises(&self.minute, rules.per_minute)
            || raises(&self.hour, rules.per_hour)
            || self.blown.is_some()
    }

    fn count_outcome(&mut self, hard_bounce: bool, rule: BounceRule, now: Timestamp) {
        if self.outcomes == 0 {
            self.halve_at = now.after(OUTCOMES_HALVE);
        }
        if self.outcomes >= rule.least.saturating_mul(OUTCOMES_KEPT) {
            self.halve_outcomes();
        }
        while self.outcomes > 0 && now >= self.halve_at {
            self.halve_outcomes();
            self.halve_at = self.halve_at.after(OUTCOMES_HALVE);
        }
        self.outcomes = self.outcomes.saturating_add(1);
        self.bounced = self.bounced.saturating_add(u32::from(hard_bounce));
    }

    fn halve_outcomes(&mut self) {
        (self.outcomes, self.bounced) = (self.outcomes / 2, self.bounced / 2);
    }

    /// `None` where it is blown already.
    fn blow(&mut self, cause: Cause, now: Timestamp) -> Option<Blown> {
        self.over_at = now;
        if self.blown.is_some() {
            return None;
        }
        self.blown = Some(Blown { at: now, cause });
        self.blown.clone()
    }

    /// What blew it is neither learned nor counted again.
    fn renew(&mut self) -> Option<Blown> {
        let blown = self.blown.take()?;
        self.minute.forget_present();
        self.hour.forget_present();
        (self.outcomes, self.bounced) = (0, 0);
        Some(blown)
    }

    /// A new one after so much calm.
    fn end_calm(&mut self, calm: Option<Duration>, now: Timestamp) {
        if calm.is_some_and(|calm| now.since(self.over_at) >= calm) {
            self.renew();
        }
    }
}
