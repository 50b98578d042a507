//! Sites: which domains share their MX hosts, under which name, with which limits.
//!
//! [`Directory`] gives each resolved domain its site, [`provider`] knows the big receivers,
//! [`route`] says which addresses of a site to try in which order.

mod directory;
pub mod provider;
pub mod route;

pub use directory::{Directory, Placed, Site, SiteId};

use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// So many in a window: `100/s`, `6000/min`, `5000/h`, `20000/d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// Length of the window.
    pub per: Duration,
}

/// As it is written in the configuration.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per.as_secs() {
            1 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/min", self.count),
            3_600 => write!(f, "{}/h", self.count),
            86_400 => write!(f, "{}/d", self.count),
            _ => write!(f, "{}/{:?}", self.count, self.per),
        }
    }
}

/// What a site may be burdened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, to the site in all and to any one of its addresses.
    pub connections: u32,
    /// Of these, how many bulk mail never takes; less than `connections` unless that is 1.
    pub reserved_for_direct: u32,
    /// Deliveries over one connection before it is closed.
    pub deliveries_per_connection: u32,
    /// Recipients in one transaction.
    pub recipients_per_transaction: u32,
    /// Messages in windows, all of which hold; none: no limit.
    pub rates: Vec<Rate>,
    /// New connections in windows, all of which hold; none: no limit.
    pub connection_rates: Vec<Rate>,
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
    pub reserved_for_direct: Option<u32>,
    /// See [`Limits`].
    pub deliveries_per_connection: Option<u32>,
    /// See [`Limits`].
    pub recipients_per_transaction: Option<u32>,
    /// See [`Limits`].
    pub rates: Option<Vec<Rate>>,
    /// See [`Limits`].
    pub connection_rates: Option<Vec<Rate>>,
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
    /// Its messages in a window.
    Rate,
    /// Its new connections in a window.
    ConnectionRate,
    /// As many connections as the site welcomes, as far as was learned.
    Window,
    /// As many connections as the configuration allows.
    Connections,
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

/// A tenant that may not send to a site just now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resting {
    /// Which.
    pub tenant: String,
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
    /// Tenants with mail here that may not send.
    pub resting: Vec<Resting>,
}
