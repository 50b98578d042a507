//! Sites: which domains share their MX hosts, under which name, with which limits.
//!
//! [`Directory`] gives each resolved domain its site, [`provider`] knows the big receivers,
//! [`limits`] what may be asked of it and why, [`route`] which of its addresses to try in which
//! order.

mod directory;
pub mod limits;
pub mod provider;
pub mod rate;
pub mod route;
pub mod setting;

pub use directory::{Directory, Placed, Site, SiteId};
pub use limits::{Effective, Limits, Origin};
pub use rate::Rate;

use self::setting::LimitKey;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use crate::policy::quota::{self, DomainRule, Holder};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// `[sites.*]` of the configuration.
#[derive(Clone, Debug)]
pub struct Sites {
    /// `[sites.default]`
    pub default: Limits,
    /// Which of these the file states, and on which line.
    pub default_lines: Vec<(LimitKey, usize)>,
    /// The others, in the order of the file.
    pub rules: Vec<SiteRule>,
}

/// Limits given for a site in the configuration; `None` leaves the value to the provider's or the
/// default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteRule {
    /// A domain that the site serves, or a suffix of the names of its MX hosts; lower case.
    pub name: String,
    /// See [`Limits`].
    pub connections: Option<u32>,
    /// See [`Limits`].
    pub connections_per_source: Option<u32>,
    /// See [`Limits`].
    pub reserved_for_direct: Option<u32>,
    /// See [`Limits`].
    pub deliveries_per_connection: Option<u32>,
    /// See [`Limits`].
    pub recipients_per_transaction: Option<u32>,
    /// See [`Limits`].
    pub rates: Option<Vec<Rate>>,
    /// See [`Limits`].
    pub rates_per_source: Option<Vec<Rate>>,
    /// See [`Limits`].
    pub connection_rates: Option<Vec<Rate>>,
    /// See [`Limits`].
    pub connection_rates_per_source: Option<Vec<Rate>>,
    /// Which of these the file states, and on which line.
    pub lines: Vec<(LimitKey, usize)>,
}

/// One MX host of a domain, with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxHost {
    /// Lower is tried first (RFC 5321 §5.1).
    pub preference: u16,
    /// Lower case, without a final dot.
    pub name: String,
    /// IPv4 and IPv6, as the resolver gave them; at least one.
    pub addresses: Vec<IpAddr>,
}

/// What DNS says about where a domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Hosts by preference, equals in name order; never empty.
    Hosts(Vec<MxHost>),
    /// It takes no mail: null MX (RFC 7505), `556 5.1.10`.
    NullMx,
    /// NXDOMAIN, or neither MX nor address: `550 5.1.2`.
    NoSuchDomain,
    /// We are its best MX host, so that sending would come back to us: `554 5.4.6`.
    Loop,
    /// Only addresses that we must not connect to (private, loopback): `554 5.4.4`, with the
    /// addresses.
    Forbidden(String),
    /// SERVFAIL, time-out, broken answer: `451 4.4.3`, try again later.
    Temporary(String),
}

/// Why a site may or may not be sent to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// It may.
    Open,
    /// Its rate is used up for the moment.
    Throttled,
    /// It was unreachable; one probe at a time until it answers.
    Broken,
}

/// What mail can wait for at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The site does not answer, or asked us to stop for a while.
    Gate,
    /// Its messages in a window, in all or from each source.
    Rate,
    /// Its new connections in a window.
    ConnectionRate,
    /// As many connections as the site welcomes, as far as was learned.
    Window,
    /// As many connections as the configuration allows, in all or from each source.
    Connections,
    /// It does not take mail from the sources that this mail may use, or not now.
    Source,
    /// The connections of the whole node.
    AllConnections,
    /// What all tenants with mail here may send.
    Tenant,
    /// Nothing but the mail before it.
    Turn,
}

/// What the mail of one lane waits for, as the planner decided last.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Waiting {
    /// The lane.
    pub lane: Lane,
    /// What.
    pub limit: Limit,
    /// Since when it is this.
    #[serde(rename = "since_ms")]
    pub since: Timestamp,
    /// Until when, where that is known.
    #[serde(rename = "until_ms")]
    pub until: Option<Timestamp>,
    /// For people.
    pub text: String,
}

/// A tenant that may not send to a site just now, or a domain there that may get nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resting {
    /// Which: `tenant` or `domain`.
    #[serde(flatten)]
    pub whose: Holder,
    /// Until when.
    #[serde(rename = "until_ms")]
    pub until: Timestamp,
    /// For people.
    pub why: String,
}

/// A site as the on-call staff see it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: String,
    /// Domains found there so far that have mail queued.
    pub domains: Vec<String>,
    /// Open connections.
    pub connections: u32,
    /// Most of them.
    pub connections_max: u32,
    /// Deliveries done in the last minute.
    pub rate_per_minute: u64,
    /// May it be sent to.
    pub gate: Gate,
    /// Last trouble and until when, for people; empty where there is none.
    pub why: String,
    /// Connections that it welcomes, as far as was learned.
    pub window: u32,
    /// What each lane waits for.
    pub waiting: Vec<Waiting>,
    /// Tenants with mail here that may not send, and domains that may get nothing.
    pub resting: Vec<Resting>,
    /// Names by which suspensions mean domains of this site, beside their own names and the site's:
    /// a provider's, a suffix of MX hosts' names.
    #[serde(default)]
    pub also_called: BTreeMap<String, BTreeSet<String>>,
}

impl SiteStatus {
    /// True where an order for the site `name` means mail to this domain of this site.
    #[must_use]
    pub fn is_called(&self, name: &str, domain: &str) -> bool {
        let also = || self.also_called.get(name).is_some_and(|meant| meant.contains(domain));
        name == domain || name == self.site || also()
    }
}

/// The site of each domain that has mail queued, by its place among `statuses`.
#[must_use]
pub fn by_domain(statuses: &[SiteStatus]) -> HashMap<&str, usize> {
    let places = statuses.iter().enumerate();
    places.flat_map(|(n, status)| status.domains.iter().map(move |d| (d.as_str(), n))).collect()
}

/// What holds for a site and how it does, as an operator sees it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SiteLimits {
    /// Its name; where no site is known by the name that was asked for, that.
    pub site: String,
    /// A site is known by that name; else the limits are those that would hold.
    pub in_use: bool,
    /// Domains found there lately.
    pub domains: usize,
    /// Every limit.
    pub limits: Vec<Effective>,
    /// Those of the domain that was asked for, besides; where it has some of its own.
    #[serde(default)]
    pub of_domain: Vec<Effective>,
    /// Open connections.
    pub connections: u32,
    /// Deliveries done in the last minute.
    pub rate_per_minute: u64,
    /// May it be sent to; `None` where it is not in use.
    pub gate: Option<Gate>,
    /// Last trouble and until when, for people; empty where there is none.
    pub why: String,
    /// What its replies and refusals taught us; `None` where it is not in use.
    #[serde(default)]
    pub learned: Option<Lessons>,
    /// What goes there from each of our sources, where there are several.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
}

/// What goes to a site from one of our sources.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub source: String,
    /// Open connections.
    pub connections: u32,
    /// Deliveries done in the last minute.
    pub rate_per_minute: u64,
    /// Until when the site wants less from it, or nothing; `None` where it did not complain.
    #[serde(rename = "until_ms")]
    pub until: Option<Timestamp>,
    /// No more than this; `None` with `until`: nothing.
    pub rate: Option<Rate>,
    /// What the site said.
    pub why: String,
}

/// What a site taught us: this holds, as long as it is less than the limits.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lessons {
    /// Connections that it welcomes.
    pub window: u32,
    /// What that was before, by the minute: ms since 1970, and how many from then on.
    pub curve: Vec<(Timestamp, u32)>,
    /// Messages, after it complained.
    pub rate: Option<Rate>,
    /// When that changes next.
    #[serde(rename = "rate_until_ms")]
    pub rate_until: Option<Timestamp>,
    /// Deliveries after which it ends connections.
    pub deliveries_per_connection: Option<u32>,
}

impl SiteLimits {
    /// What would hold for a site of which the name alone is known.
    #[must_use]
    pub fn foreseen(name: &str, directory: &Directory, domains: &[DomainRule]) -> Self {
        Self {
            site: name.to_string(),
            in_use: false,
            domains: 0,
            limits: directory.foresee(name),
            of_domain: quota::explain(domains, name),
            connections: 0,
            rate_per_minute: 0,
            gate: None,
            why: String::new(),
            learned: None,
            sources: Vec::new(),
        }
    }
}

/// Limits for tests: connections of all sites, and of some.
#[cfg(test)]
pub(crate) fn sites(connections: u32, rules: &[(&str, u32)]) -> Sites {
    let default = Limits {
        connections,
        connections_per_source: 1_000,
        reserved_for_direct: 2,
        deliveries_per_connection: 100,
        recipients_per_transaction: 100,
        rates: Vec::new(),
        rates_per_source: Vec::new(),
        connection_rates: Vec::new(),
        connection_rates_per_source: Vec::new(),
    };
    let rule = |(name, connections): &(&str, u32)| SiteRule {
        name: (*name).to_string(),
        connections: Some(*connections),
        lines: vec![(LimitKey::Connections, 1)],
        ..SiteRule::default()
    };
    Sites { default, default_lines: Vec::new(), rules: rules.iter().map(rule).collect() }
}
