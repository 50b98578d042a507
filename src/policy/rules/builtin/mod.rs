//! The rules that come with the program, written from what receivers publish about their replies.
//!
//! They are made for what costs others: a receiver that rates our address is slowed for what comes
//! from there, one that rates a sender's domain for that domain alone, and greylisting for nobody.
//! What concerns one message (an unknown user, failed authentication, content) has no rule: its
//! code says it all.

mod anywhere;
mod receivers;

use super::{Action, Origin, Rule, Sample, Scope};
use std::time::Duration;

/// A rule as a constant.
struct Builtin {
    name: &'static str,
    mx: &'static [&'static str],
    codes: &'static [&'static str],
    text: &'static str,
    action: Action,
    /// Host and reply.
    samples: &'static [(&'static str, &'static str)],
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const fn slow(scope: Scope, time: Duration) -> Action {
    Action::SlowDown { scope, time }
}

/// Our address is refused: others may not be.
const fn closed(time: Duration) -> Action {
    Action::TryOtherSource(time)
}

/// All of them, in the order they are asked.
pub(super) fn rules() -> impl Iterator<Item = Rule> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    receivers::ALL.iter().chain(anywhere::ALL).map(move |rule| Rule {
        name: rule.name.to_string(),
        origin: Origin::Builtin,
        mx: words(rule.mx),
        codes: words(rule.codes),
        text: Some(rule.text.to_string()),
        action: rule.action,
        samples: rule
            .samples
            .iter()
            .map(|(mx, reply)| Sample { mx: mx.to_string(), reply: reply.to_string() })
            .collect(),
    })
}
