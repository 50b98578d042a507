//! Reply rules: what a receiver's refusal asks of us beyond the one delivery that it answers.
//!
//! [`crate::policy::verdict`] reads a reply by its code. A rule knows the receiver's own words, and
//! says: send slower there, over fewer connections, from another source, nothing for a while, come
//! back at that time, or give up. It says so for the whole site, or only for the source, the tenant
//! or the sender's domain that the receiver complains of.
//!
//! # Strategy
//! * The first rule that matches decides: the operator's own, in the order of the file, then the
//!   built-in ones, of which those for one receiver stand before those for all.
//! * A rule that asks for less, or for a retry, keeps the delivery, even where the reply is
//!   permanent (5xx): our address on a block list is no fault of the recipient.
//! * A wait that the reply itself names is obeyed.
//!
//! # Invariants
//! * Replies 2xx and 3xx match no rule.
//! * Every rule has sample replies, which it matches and which no rule before it takes: one that is
//!   dead or shadowed is refused when it is loaded.
//! * One pass over the reply's text at most, in time linear to its length, for all rules together.

mod builtin;
mod check;
mod codes;
mod effect;
#[cfg(test)]
mod tests;
mod wait;

pub use check::{RuleProblem, mx_suffix, pattern};
pub use codes::CodePattern;
pub use effect::{Parties, complaint, ruled};

use crate::base::address::is_below;
use crate::smtp::reply::Reply;
use codes::Codes;
use regex::RegexSet;
use std::time::Duration;

/// One rule, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is called in the log and on the command line. An own rule replaces the built-in one
    /// of its name.
    pub name: String,
    /// Who wrote it.
    pub origin: Origin,
    /// The receiver's MX host is one of these names or below one ([`mx_suffix`]); empty: any host.
    pub mx: Vec<String>,
    /// What [`CodePattern::parse`] takes; of each kind that is listed, one must fit. Empty: any
    /// refusal.
    pub codes: Vec<String>,
    /// A regular expression that is found somewhere in the reply's text, whatever the case of the
    /// letters; `None`: any text.
    pub text: Option<String>,
    /// What then.
    pub action: Action,
    /// Replies that it must match; at least one.
    pub samples: Vec<Sample>,
}

/// Who wrote a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It came with the program.
    Builtin,
    /// `[[rules]]` of the configuration.
    Config,
}

/// A reply that a rule is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The host that said it.
    pub mx: String,
    /// With its codes, as [`Reply::parse`] takes it.
    pub reply: String,
}

/// What a matching reply leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send slower within the scope for so long; the delivery is tried again by the schedule.
    SlowDown {
        /// Whose mail.
        scope: Scope,
        /// For how long.
        time: Duration,
    },
    /// Send nothing within the scope for so long; the delivery is tried again after that.
    Suspend {
        /// Whose mail.
        scope: Scope,
        /// For how long.
        time: Duration,
    },
    /// Keep fewer connections for so long, at whatever rate.
    FewerConnections(Duration),
    /// Send nothing from the source that was refused for so long; the delivery is tried again at
    /// once from another one that it may use, where there is one.
    TryOtherSource(Duration),
    /// Try this delivery again after so long; nobody is to blame, other mail is not concerned.
    RetryAfter(Duration),
    /// This delivery fails for good, even where the reply is 4xx.
    Fail,
    /// As if no rule matched: an exception from the rules behind it.
    Ignore,
}

impl Action {
    /// As it is written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowDown { .. } => "slow_down",
            Self::Suspend { .. } => "suspend",
            Self::FewerConnections(_) => "fewer_connections",
            Self::TryOtherSource(_) => "try_other_source",
            Self::RetryAfter(_) => "retry_after",
            Self::Fail => "fail",
            Self::Ignore => "ignore",
        }
    }

    /// Whose mail is concerned; `None` where it is the delivery alone.
    #[must_use]
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::SlowDown { scope, .. } | Self::Suspend { scope, .. } => Some(scope),
            Self::FewerConnections(_) => Some(Scope::Site),
            Self::TryOtherSource(_) => Some(Scope::Source),
            Self::RetryAfter(_) | Self::Fail | Self::Ignore => None,
        }
    }

    /// How long it holds, where the reply does not say.
    #[must_use]
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::SlowDown { time, .. } | Self::Suspend { time, .. } => Some(time),
            Self::FewerConnections(time) | Self::TryOtherSource(time) => Some(time),
            Self::RetryAfter(wait) => Some(wait),
            Self::Fail | Self::Ignore => None,
        }
    }
}

/// Whose mail to the site that replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All.
    Site,
    /// That sent from the same one of our sources.
    Source,
    /// That of the delivery's tenant.
    Tenant,
    /// That from the domain of the delivery's reverse-path.
    SenderDomain,
}

impl Scope {
    /// As it is written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Source => "source",
            Self::Tenant => "tenant",
            Self::SenderDomain => "sender_domain",
        }
    }
}

/// All rules, checked. Cheap to ask; an empty one matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    list: Vec<Entry>,
    /// The texts of those that have one, each at its [`Entry::text`].
    texts: RegexSet,
}

/// A rule, ready to be asked.
#[derive(Clone, Debug)]
struct Entry {
    rule: Rule,
    codes: Codes,
    /// Its place in [`Rules::texts`].
    text: Option<usize>,
}

impl Entry {
    fn fits_host(&self, host: &str) -> bool {
        self.rule.mx.is_empty() || self.rule.mx.iter().any(|suffix| is_below(host, suffix))
    }
}

/// A rule that matches a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'r> {
    /// Which.
    pub rule: &'r Rule,
    /// The wait that the reply names, from 10 s to 24 h: the delivery is not tried again before.
    pub named: Option<Duration>,
}

impl Found<'_> {
    /// How long the action holds: the wait of a [`Action::RetryAfter`] is the named one where there
    /// is one; an [`Action::Suspend`] or [`Action::TryOtherSource`] lasts at least as long as the
    /// reply asks. `None` where the action has no time.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        match self.rule.action {
            Action::RetryAfter(wait) => Some(self.named.unwrap_or(wait)),
            Action::Suspend { time, .. } | Action::TryOtherSource(time) => {
                Some(self.named.map_or(time, |named| named.max(time)))
            }
            action => action.time(),
        }
    }
}

impl Rules {
    /// The rules of the configuration before the built-in ones, less those of the same names.
    ///
    /// # Errors
    /// All that is wrong with `own`.
    pub fn new(own: Vec<Rule>) -> Result<Self, Vec<RuleProblem>> {
        let replaced = |rule: &Rule| own.iter().any(|own| own.name == rule.name);
        let builtin: Vec<Rule> = builtin::rules().filter(|rule| !replaced(rule)).collect();
        check::build(own, builtin)
    }

    /// The rule that decides about a reply of the host `mx`, if any does: [`Action::Ignore`] gives
    /// none, so that the caller need not know of it.
    #[must_use]
    pub fn find(&self, mx: &str, reply: &Reply) -> Option<Found<'_>> {
        self.first(mx, reply).filter(|found| found.rule.action != Action::Ignore)
    }

    /// The first rule that matches, one that says to ignore the reply, too.
    #[must_use]
    pub fn first(&self, mx: &str, reply: &Reply) -> Option<Found<'_>> {
        let rule = &self.list.get(self.first_place(mx, reply)?)?.rule;
        Some(Found { rule, named: wait::named(&reply.text) })
    }

    fn first_place(&self, mx: &str, reply: &Reply) -> Option<usize> {
        if !(400..600).contains(&reply.code) {
            return None;
        }
        let host = mx.trim_end_matches('.').to_lowercase();
        let fits = |entry: &Entry| entry.fits_host(&host) && entry.codes.fit(reply);
        let mut texts = None;
        self.list.iter().position(|entry| {
            fits(entry)
                && entry.text.is_none_or(|place| {
                    texts.get_or_insert_with(|| self.texts.matches(&reply.text)).matched(place)
                })
        })
    }

    /// All of them, in the order they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.list.iter().map(|entry| &entry.rule)
    }
}
