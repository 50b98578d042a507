//! `[[rules]]` as the file has them, made into [`Rules`].

use super::check::Misfit;
use crate::policy::rules::{Action, Origin, Rule, RuleProblem, Rules, Sample, Scope};
use std::time::Duration;

/// One `[[rules]]`, key by key.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Draft {
    pub(in crate::config) name: String,
    pub(in crate::config) mx: Vec<String>,
    pub(in crate::config) codes: Vec<String>,
    pub(in crate::config) text: Option<String>,
    pub(in crate::config) verb: Verb,
    pub(in crate::config) scope: Option<Scope>,
    pub(in crate::config) time: Option<Duration>,
    pub(in crate::config) samples: Vec<Sample>,
}

/// The word under `action`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::config) enum Verb {
    SlowDown,
    Suspend,
    FewerConnections,
    TryOtherSource,
    RetryAfter,
    Fail,
    #[default]
    Ignore,
}

impl Draft {
    fn action(&self) -> Result<Action, (&'static [&'static str], String)> {
        let time = |minutes: u64| self.time.unwrap_or(Duration::from_secs(60 * minutes));
        let scope = self.scope.unwrap_or(Scope::Site);
        let action = match self.verb {
            Verb::SlowDown => Action::SlowDown { scope, time: time(30) },
            Verb::Suspend => Action::Suspend { scope, time: time(60) },
            Verb::FewerConnections => Action::FewerConnections(time(15)),
            Verb::TryOtherSource => Action::TryOtherSource(time(60)),
            Verb::RetryAfter => Action::RetryAfter(time(5)),
            Verb::Fail => Action::Fail,
            Verb::Ignore => Action::Ignore,
        };
        let word = action.as_str();
        let takes_scope = matches!(self.verb, Verb::SlowDown | Verb::Suspend);
        if self.scope.is_some() && !takes_scope {
            return Err((&["scope"], format!("has no meaning for {word:?}; remove it")));
        }
        if self.time.is_some() && action.time().is_none() {
            return Err((&["time"], format!("has no meaning for {word:?}; remove it")));
        }
        Ok(action)
    }
}

/// The rules that hold with these own ones.
pub(super) fn build(drafts: &[Draft]) -> Result<Rules, Vec<Misfit>> {
    let mut found = Vec::new();
    let mut own = Vec::new();
    let mut misfit =
        |number, keys, text| found.push(Misfit { section: "rules", number, keys, text });
    for (number, draft) in drafts.iter().enumerate() {
        let action = draft.action().unwrap_or_else(|(keys, text)| {
            misfit(number, keys, text);
            Action::Ignore
        });
        let Draft { name, mx, codes, text, samples, .. } = draft.clone();
        own.push(Rule { name, origin: Origin::Config, mx, codes, text, action, samples });
    }
    match Rules::new(own) {
        Ok(rules) if found.is_empty() => return Ok(rules),
        Ok(_) => {}
        Err(problems) => {
            let placed = |RuleProblem { number, keys, text }| Misfit {
                section: "rules",
                number,
                keys,
                text,
            };
            found.extend(problems.into_iter().map(placed));
        }
    }
    Err(found)
}
