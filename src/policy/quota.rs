//! Limits that hold whichever site mail goes to: those of a tenant, and those of a domain.

use super::site::Rate;
use super::site::setting::LimitKey;
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
