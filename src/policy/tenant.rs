//! Whose message it is, and what that customer may.

mod register;

pub use register::Register;

use crate::base::address::{Domain, ReversePath, is_below};
use crate::base::network::Networks;
use crate::mail::message::Lane;
use crate::policy::site::Rate;
use std::net::IpAddr;

/// The name of the entry for every tenant that has none of its own.
pub const EVERYBODY: &str = "*";
/// In `may_send_as`: the domain that is the tenant's own name.
pub const OWN: &str = "own";

/// Longest name of a tenant, in bytes.
pub const NAME_MAX: usize = 64;

/// Whether this is a tenant's name: letters, digits, and `-_.@`, so that it can stand in logs.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits)
}

/// A tenant from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRule {
    /// Its name, or [`EVERYBODY`].
    pub name: String,
    /// Clients in these networks are its own.
    pub networks: Networks,
    /// Who shows a certificate with one of these SHA-256 fingerprints is its own: 64 hexadecimal
    /// digits in lower case.
    pub certificates: Vec<String>,
    /// Who shows a token with one of these SHA-256 hashes is its own: 64 hexadecimal digits in
    /// lower case. A token is 32 random bytes, which nobody guesses however fast his hash is, so it
    /// needs none of the slowness that keeps passwords.
    pub tokens: Vec<String>,
    /// Reverse-paths at these domains, or below them, are its own; lower case.
    pub sender_domains: Vec<String>,
    /// Domains, or [`OWN`], that its reverse-paths and `From` fields may be at or below; lower
    /// case. None: any.
    pub may_send_as: Vec<String>,
    /// Bytes of one message; `None`: what everybody may.
    pub message_size: Option<u64>,
    /// Recipients of one message; `None`: what everybody may.
    pub recipients: Option<usize>,
    /// Messages that are taken from it in windows; none: no limit.
    pub accept_messages: Vec<Rate>,
    /// Recipients of them.
    pub accept_recipients: Vec<Rate>,
    /// What becomes of messages beyond these.
    pub beyond: Beyond,
    /// Where no header decides, its mail takes this lane.
    pub lane: Lane,
    /// What it sends is watched: newsletters without a header, bursts.
    pub watched: bool,
    /// Its share against other tenants at the same site; 1 to 1,000.
    pub weight: u32,
    /// Messages in windows to all sites together; none: no limit.
    pub rates: Vec<Rate>,
    /// Names of the sources that its mail may use, of both lanes; none: those of the lane.
    pub sources: Vec<String>,
}

/// What becomes of a tenant's messages beyond its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beyond {
    /// They are newsletters: they wait where they delay nobody else's.
    #[default]
    Bulk,
    /// The client keeps them for a while (4xx).
    Defer,
    /// The client gets them back (5xx).
    Refuse,
}

impl Beyond {
    /// As the configuration has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Defer => "defer",
            Self::Refuse => "refuse",
        }
    }
}

/// Without a name: nobody's, not limited, of weight 1.
impl Default for TenantRule {
    fn default() -> Self {
        Self {
            name: String::new(),
            networks: Networks::default(),
            certificates: Vec::new(),
            tokens: Vec::new(),
            sender_domains: Vec::new(),
            may_send_as: Vec::new(),
            message_size: None,
            recipients: None,
            accept_messages: Vec::new(),
            accept_recipients: Vec::new(),
            beyond: Beyond::default(),
            lane: Lane::Direct,
            watched: true,
            weight: 1,
            rates: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl TenantRule {
    /// Whether this tenant, who is called `name`, may send from a domain.
    fn permits(&self, name: &str, domain: &Domain) -> bool {
        let is_own = |of: &String| match of.as_str() {
            OWN => is_below(domain.as_str(), &name.to_ascii_lowercase()),
            of => is_below(domain.as_str(), of),
        };
        self.may_send_as.is_empty() || self.may_send_as.iter().any(is_own)
    }

    /// The first of these domains that this tenant, who is called `name`, may not send as.
    pub fn forbidden<'a>(
        &self,
        name: &str,
        mut domains: impl Iterator<Item = &'a Domain>,
    ) -> Option<&'a Domain> {
        domains.find(|domain| !self.permits(name, domain))
    }
}

/// What is known of who sends a message, the surest first.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The tenant of the user who has logged in.
    pub of_user: Option<&'a str>,
    /// The fingerprint of the client's certificate.
    pub certificate: Option<&'a str>,
    /// The tenant that a web server which is believed names in the message.
    pub named: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
    /// Who gets what comes back.
    pub reverse_path: &'a ReversePath,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_of(name: &str) -> TenantRule {
        TenantRule { name: name.into(), ..TenantRule::default() }
    }

    #[test]
    fn a_site_cannot_send_as_its_neighbour() {
        let may = |as_: &[&str], tenant: &str, domain: &str| {
            let may_send_as = as_.iter().map(|name| (*name).to_string()).collect();
            let domain = Domain::parse(domain).unwrap();
            let rule = TenantRule { may_send_as, ..rule_of("*") };
            rule.forbidden(tenant, [&domain].into_iter()).is_none()
        };
        assert!(may(&[], "a.test", "b.test"));
        assert!(may(&["a.test", "shop.test"], "c1", "news.shop.test"));
        assert!(!may(&["a.test", "shop.test"], "c1", "workshop.test"));
        assert!(may(&[OWN], "Shop.test", "www.shop.test") && may(&[OWN], "shop.test", "shop.test"));
        assert!(!may(&[OWN], "shop.test", "other.test") && !may(&[OWN], "test", "a.other"));
    }
}
