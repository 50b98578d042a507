//! Limits that hold whichever site mail goes to: those of a tenant, and those of a domain.

use super::site::Rate;
use super::site::limits::{Effective, Origin, Stated};
use super::site::setting::{LimitKey, Value};
use serde::{Deserialize, Serialize};

/// Whose rate it is: of all mail of a tenant, or of all mail to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder<S = String> {
    /// A tenant's.
    Tenant(S),
    /// A domain's.
    Domain(S),
}

impl Holder<&str> {
    /// With a name of its own.
    #[must_use]
    pub fn owned(self) -> Holder {
        match self {
            Self::Tenant(name) => Holder::Tenant(name.to_string()),
            Self::Domain(name) => Holder::Domain(name.to_string()),
        }
    }
}

impl Holder {
    /// As questions name it.
    #[must_use]
    pub fn as_ref(&self) -> Holder<&str> {
        match self {
            Self::Tenant(name) => Holder::Tenant(name),
            Self::Domain(name) => Holder::Domain(name),
        }
    }
}

/// `[domains."example.com"]`: limits of one domain, besides those of its site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainRule {
    /// The domain; lower case.
    pub name: String,
    /// Messages in windows, all of which hold; none: no limit.
    pub rates: Vec<Rate>,
    /// Recipients in one transaction; `None`: as its site has it.
    pub recipients_per_transaction: Option<u32>,
    /// Which of these the file states, and on which line.
    pub lines: Vec<(LimitKey, usize)>,
}

impl DomainRule {
    /// What it states, in the order of the configuration.
    #[must_use]
    pub fn explain(&self) -> Vec<Effective> {
        let recipients = self.recipients_per_transaction.map(Value::Count);
        let rates = (!self.rates.is_empty()).then(|| Value::Rates(self.rates.clone()));
        let stated = [(LimitKey::RecipientsPerTransaction, recipients), (LimitKey::Rate, rates)];
        let effective = |(key, value): (LimitKey, Option<Value>)| {
            let section = format!("[domains.\"{}\"]", self.name);
            let line = self.lines.iter().find(|(known, _)| *known == key).map(|(_, line)| *line);
            let origin = Origin::Config { stated: vec![Stated { section, line }] };
            Some(Effective { key, value: value?, origin })
        };
        stated.into_iter().filter_map(effective).collect()
    }
}

/// What is stated for the domain of this name; empty where it has no limits of its own.
#[must_use]
pub fn explain(rules: &[DomainRule], name: &str) -> Vec<Effective> {
    rules.iter().find(|rule| rule.name == name).map(DomainRule::explain).unwrap_or_default()
}
