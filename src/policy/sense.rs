//! Newsletters without the header: a tenant that sends many messages of one template in a short
//! time.
//!
//! # What tells a newsletter
//! Likeness alone does not: a shop's order confirmations are as alike ([`shape`]) as a mailing. A
//! mailing is a *burst* of one template, to *different* recipients:
//! * Recipients of one template are counted in a sliding window ([`SenseRules::within`]); one that
//!   is among the last few of this template does not count again, so that alarms for one
//!   administrator are no mailing, however many they are.
//! * From [`SenseRules::recipients`] on it is a newsletter. A template older than a day must also
//!   send [`SenseRules::factor`] times what it sends on average of a day: what a busy shop sends
//!   day after day is usual, and a mailing is over before it is a day old.
//! * What was recognised stays a newsletter as long as at least half of that comes, and for
//!   [`SenseRules::quiet`] after it.
//!
//! The first messages of a mailing, up to the threshold, go as direct mail: nothing tells them from
//! others. A shop so busy that one new template of it passes the threshold goes as bulk mail in its
//! busy hours of the template's first day; [`Sense::lasting`] keeps what is usual over a restart.
//! Mail that the sender declares, as newsletter or as none, is not to be looked at here.
//!
//! # Invariants
//! * Nothing is recognised that has fewer recipients than the threshold in every window
//!   (`prop_below_the_threshold_nothing`).
//! * Memory: 2,000 tenants, and 32 templates of each, each in less than 1 KiB; those used longest
//!   ago are forgotten (`prop_memory_is_bounded`).

pub mod shape;
#[cfg(test)]
mod tests;

use super::lru::Lru;
use super::tally::Tally;
use crate::base::time::{Timestamp, human};
use serde::{Deserialize, Serialize};
use shape::Shape;
use std::fmt;
use std::time::Duration;

/// Tenants known.
const TENANTS: usize = 2_000;
/// Templates known of each.
const TEMPLATES: usize = 32;
/// Recipients known of each, who do not count again.
const REPEATED: usize = 16;
const DAY: Duration = Duration::from_secs(86_400);
/// What a further day counts for in the average.
const DAY_SHARE: f64 = 0.25;

/// When messages of one template are a newsletter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseRules {
    /// Recipients within the window; at least 2.
    pub recipients: u32,
    /// The window; at least 10 ms. It slides by a tenth of its length.
    pub within: Duration,
    /// Times what a template older than a day sends on average.
    pub factor: u32,
    /// How long it is one after fewer than half of that came.
    pub quiet: Duration,
}

impl Default for SenseRules {
    fn default() -> Self {
        Self {
            recipients: 50,
            within: Duration::from_secs(300),
            factor: 4,
            quiet: Duration::from_secs(900),
        }
    }
}

/// A message is one of a newsletter. Its text is the reason, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sensed {
    /// The most recipients of alike messages in one window, so far.
    pub alike: u32,
    /// The window.
    pub within: Duration,
    /// When it was recognised.
    pub since: Timestamp,
    /// The subject of the first message of its kind; safe to print.
    pub subject: String,
}

impl fmt::Display for Sensed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = human(self.within);
        write!(
            f,
            "looks like a newsletter: {} recipients of alike messages in {within}",
            self.alike
        )
    }
}

/// What is known of a template, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateStatus {
    /// The subject of its first message; safe to print.
    pub subject: String,
    /// Recipients in the window until now.
    pub recipients: u32,
    /// From how many on it is a newsletter.
    pub threshold: u32,
    /// Recipients on an average day; `None` on the first.
    pub daily: Option<f64>,
    /// When its first message came.
    pub first: Timestamp,
    /// When its last message came.
    pub last: Timestamp,
    /// Where it is a newsletter now.
    pub sensed: Option<Sensed>,
}

/// Of all tenants. What is read back follows default rules until [`Sense::retune`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sense {
    #[serde(skip)]
    rules: SenseRules,
    tenants: Lru<Vec<Template>, TENANTS>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Template {
    shape: Shape,
    first: Timestamp,
    last: Timestamp,
    lately: Tally,
    /// Hashes of the last recipients, the newest first.
    repeated: [u32; REPEATED],
    /// Whole days since the first message, when the last came.
    days: u64,
    /// Recipients since this day began.
    today: u32,
    daily: Option<f64>,
    sensed: Option<Sensed>,
    sensed_until: Timestamp,
}

impl Sense {
    /// That knows nothing yet.
    #[must_use]
    pub fn new(rules: SenseRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Follows these rules from now on.
    pub fn retune(&mut self, rules: SenseRules) {
        if rules.within != self.rules.within {
            let templates = self.tenants.values_mut().flatten();
            templates.for_each(|template| template.lately = Tally::default());
        }
        self.rules = rules;
    }

    /// A message of this tenant and shape to these recipients: counts it, and says whether it is
    /// one of a newsletter.
    pub fn look<'a>(
        &mut self,
        tenant: &str,
        shape: Shape,
        recipients: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> Option<Sensed> {
        let templates = self.tenants.used(tenant, now);
        let at = templates.iter().position(|known| known.shape.is_like(&shape));
        let at = at.unwrap_or_else(|| {
            let oldest = (0..templates.len()).min_by_key(|n| templates.get(*n).map(|t| t.last));
            if let Some(oldest) = oldest.filter(|_| templates.len() >= TEMPLATES) {
                templates.swap_remove(oldest);
            }
            templates.push(Template::new(shape, now));
            templates.len() - 1
        });
        templates.get_mut(at)?.look(recipients, &self.rules, now)
    }

    /// What is known of a tenant's templates, the one used last first.
    #[must_use]
    pub fn explain(&self, tenant: &str, now: Timestamp) -> Vec<TemplateStatus> {
        let templates = self.tenants.get(tenant).into_iter().flatten();
        let mut all: Vec<_> = templates.map(|known| known.explain(&self.rules, now)).collect();
        all.sort_by_key(|status| std::cmp::Reverse(status.last));
        all
    }

    /// What is worth being kept over a restart: templates whose usual mail raises their threshold.
    #[must_use]
    pub fn lasting(&self) -> Self {
        let tenants = self.tenants.picked(|templates| {
            let is_busy = |known: &&Template| known.threshold(&self.rules) > self.rules.recipients;
            let busy: Vec<Template> = templates.iter().filter(is_busy).cloned().collect();
            (!busy.is_empty()).then_some(busy)
        });
        Self { rules: self.rules, tenants }
    }
}

impl Template {
    fn new(shape: Shape, now: Timestamp) -> Self {
        Self {
            shape,
            first: now,
            last: now,
            lately: Tally::default(),
            repeated: [0; REPEATED],
            days: 0,
            today: 0,
            daily: None,
            sensed: None,
            sensed_until: now,
        }
    }

    fn look<'a>(
        &mut self,
        recipients: impl IntoIterator<Item = &'a str>,
        rules: &SenseRules,
        now: Timestamp,
    ) -> Option<Sensed> {
        self.end_days(now);
        if now >= self.sensed_until {
            self.sensed = None;
        }
        let new = recipients.into_iter().filter(|recipient| self.is_new(recipient)).count();
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        self.today = self.today.saturating_add(new);
        self.lately.add(new, rules.within, now);
        self.last = now;
        let (alike, threshold) = (self.lately.count(rules.within, now), self.threshold(rules));
        if alike >= threshold && self.sensed.is_none() {
            let subject = self.shape.subject.clone();
            self.sensed = Some(Sensed { alike, within: rules.within, since: now, subject });
        }
        let sensed = self.sensed.as_mut()?;
        sensed.alike = sensed.alike.max(alike);
        if alike >= threshold.div_ceil(2) {
            self.sensed_until = now.after(rules.quiet);
        }
        Some(sensed.clone())
    }

    fn is_new(&mut self, recipient: &str) -> bool {
        // Zero is nobody's: it stands for those that have not come yet.
        let hash = (shape::hash(recipient.as_bytes()) >> 32) as u32 | 1;
        let is_new = !self.repeated.contains(&hash);
        if is_new {
            self.repeated.rotate_right(1);
            let [newest, ..] = &mut self.repeated;
            *newest = hash;
        }
        is_new
    }

    /// Takes days that are over into the average.
    fn end_days(&mut self, now: Timestamp) {
        let days = now.since(self.first).as_secs() / DAY.as_secs();
        let Some(ended) = days.checked_sub(self.days).filter(|ended| *ended > 0) else { return };
        let day = f64::from(std::mem::take(&mut self.today));
        let average = self.daily.map_or(day, |daily| daily + (day - daily) * DAY_SHARE);
        // On the others nothing came.
        let idle = i32::try_from(ended - 1).unwrap_or(i32::MAX);
        self.daily = Some(average * (1.0 - DAY_SHARE).powi(idle));
        self.days = days;
    }

    fn threshold(&self, rules: &SenseRules) -> u32 {
        let window = rules.within.as_secs_f64() / DAY.as_secs_f64();
        let usual = self.daily.unwrap_or(0.0) * window * f64::from(rules.factor);
        // A cast from a float stops at the largest.
        rules.recipients.max(usual.ceil() as u32)
    }

    fn explain(&self, rules: &SenseRules, now: Timestamp) -> TemplateStatus {
        let mut known = self.clone();
        known.end_days(now);
        TemplateStatus {
            subject: known.shape.subject.clone(),
            recipients: known.lately.count(rules.within, now),
            threshold: known.threshold(rules),
            daily: known.daily,
            first: known.first,
            last: known.last,
            sensed: known.sensed.filter(|_| now < known.sensed_until),
        }
    }
}
