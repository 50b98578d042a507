//! Whose message it is.

use crate::base::address::ReversePath;
use crate::base::network::Networks;
use crate::policy::site::Rate;
use std::net::IpAddr;

/// A tenant from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRule {
    /// Its name.
    pub name: String,
    /// Clients in these networks are its own.
    pub networks: Networks,
    /// Reverse-paths at these domains, or below them, are its own; lower case.
    pub sender_domains: Vec<String>,
    /// Its share against other tenants at the same site; 1 to 1,000.
    pub weight: u32,
    /// Messages in windows to all sites together; none: no limit.
    pub rates: Vec<Rate>,
    /// Names of the sources that its mail may use, of both lanes; none: those of the lane.
    pub sources: Vec<String>,
}

/// Without a name: nobody's, not limited, of weight 1.
impl Default for TenantRule {
    fn default() -> Self {
        Self {
            name: String::new(),
            networks: Networks::default(),
            sender_domains: Vec::new(),
            weight: 1,
            rates: Vec::new(),
            sources: Vec::new(),
        }
    }
}

/// The tenant of a message: by a rule for its client or its reverse-path's domain; else the
/// organisational domain of the reverse-path; else the client's address.
#[must_use]
pub fn decide(rules: &[TenantRule], client: IpAddr, reverse_path: &ReversePath) -> String {
    let domain = reverse_path.domain();
    let sends = |rule: &TenantRule| {
        let is_below = |name: &String| {
            domain.is_some_and(|d| {
                d.as_str()
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
        };
        rule.sender_domains.iter().any(is_below)
    };
    let by_network = rules.iter().find(|rule| rule.networks.contains(client));
    match (by_network.or_else(|| rules.iter().find(|rule| sends(rule))), domain) {
        (Some(rule), _) => rule.name.clone(),
        (None, Some(domain)) => domain.organisational().to_string(),
        (None, None) => client.to_canonical().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_network_then_sender_then_domain_then_client() {
        let rule = |name: &str, network: &str, domain: &str| TenantRule {
            name: name.into(),
            networks: Networks::new(vec![Networks::parse_one(network).unwrap()]),
            sender_domains: vec![domain.into()],
            ..TenantRule::default()
        };
        let rules = [rule("c1", "10.1.0.0/16", "one.test"), rule("c2", "10.2.0.0/16", "two.test")];
        for (client, sender, tenant) in [
            ("10.1.2.3", "x@two.test", "c1"),
            ("::ffff:10.2.2.3", "x@one.test", "c2"),
            ("10.3.0.1", "x@news.two.test", "c2"),
            ("10.3.0.1", "x@nottwo.test", "nottwo.test"),
            ("10.3.0.1", "x@a.b.example.co.uk", "example.co.uk"),
            ("10.3.0.1", "", "10.3.0.1"),
            ("::ffff:10.3.0.1", "postmaster", "10.3.0.1"),
        ] {
            let sender = ReversePath::parse(sender).unwrap();
            assert_eq!(decide(&rules, client.parse().unwrap(), &sender), tenant);
        }
    }
}
