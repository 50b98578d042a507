//! All tenants of a configuration, found without a search among them: what it takes to find one
//! does not grow with their number (networks: with the number of their lengths).
//!
//! # Invariants
//! * Of several that fit, the first of the configuration is found, as in a plain list
//!   (`prop_finds_what_a_search_finds`).
//! * Whoever changes the list gets a new index with it: it is made when first asked.

use super::{EVERYBODY, Sender, TenantRule};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

/// Their entries, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Register {
    rules: Vec<TenantRule>,
    index: OnceLock<Index>,
}

/// The place of the first entry that has such a value.
#[derive(Clone, Debug, Default)]
struct Index {
    names: HashMap<String, usize>,
    certificates: HashMap<String, usize>,
    tokens: HashMap<String, usize>,
    domains: HashMap<String, usize>,
    networks: HashMap<IpNet, usize>,
    /// The lengths that networks have.
    lengths: BTreeSet<u8>,
}

impl From<Vec<TenantRule>> for Register {
    fn from(rules: Vec<TenantRule>) -> Self {
        Self { rules, index: OnceLock::new() }
    }
}

impl Deref for Register {
    type Target = Vec<TenantRule>;

    fn deref(&self) -> &Self::Target {
        &self.rules
    }
}

impl DerefMut for Register {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.index.take();
        &mut self.rules
    }
}

impl Register {
    /// The tenant of a message: of the user, of the certificate, as named by a web server, or of
    /// the client's network; else of the reverse-path's domain, that is the tenant whose entry has
    /// it, else its organisational domain; else the client's address.
    #[must_use]
    pub fn decide(&self, sender: &Sender<'_>) -> String {
        let (index, domain) = (self.index(), sender.reverse_path.domain());
        let name = |place: &usize| self.rules.get(*place).map(|rule| rule.name.clone());
        let own = || {
            let place = index.by_network(sender.client);
            place.or_else(|| domain.and_then(|domain| index.by_domain(domain.as_str())))
        };
        let of_user = sender.of_user.map(str::to_string);
        of_user
            .or_else(|| index.certificates.get(sender.certificate?).and_then(name))
            .or_else(|| sender.named.map(str::to_string))
            .or_else(|| own().and_then(name))
            .or_else(|| domain.map(|domain| domain.organisational().to_string()))
            .unwrap_or_else(|| sender.client.to_canonical().to_string())
    }

    /// The entry that says what a tenant may: its own, else that for everybody.
    #[must_use]
    pub fn rule(&self, tenant: &str) -> Option<&TenantRule> {
        let names = &self.index().names;
        self.rules.get(*names.get(tenant).or_else(|| names.get(EVERYBODY))?)
    }

    /// Whether somebody is known by the certificate with this fingerprint.
    #[must_use]
    pub fn knows(&self, certificate: &str) -> bool {
        self.index().certificates.contains_key(certificate)
    }

    /// Whose the token with this hash is. How long that takes may tell of hashes, never of tokens.
    #[must_use]
    pub fn of_token(&self, hash: &str) -> Option<&TenantRule> {
        self.rules.get(*self.index().tokens.get(hash)?)
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(&self.rules))
    }
}

impl Index {
    fn of(rules: &[TenantRule]) -> Self {
        let mut index = Self::default();
        for (place, rule) in rules.iter().enumerate() {
            index.names.entry(rule.name.clone()).or_insert(place);
            for print in &rule.certificates {
                index.certificates.entry(print.clone()).or_insert(place);
            }
            for token in &rule.tokens {
                index.tokens.entry(token.clone()).or_insert(place);
            }
            for domain in &rule.sender_domains {
                index.domains.entry(domain.clone()).or_insert(place);
            }
            for network in rule.networks.iter() {
                index.lengths.insert(network.prefix_len());
                index.networks.entry(network.trunc()).or_insert(place);
            }
        }
        index
    }

    fn by_network(&self, client: IpAddr) -> Option<&usize> {
        let client = client.to_canonical();
        // Lengths that are of IPv6 alone make no network of an IPv4 address.
        let networks = self.lengths.iter().filter_map(|length| IpNet::new(client, *length).ok());
        networks.filter_map(|network| self.networks.get(&network.trunc())).min()
    }

    /// By the domain or one that it is below.
    fn by_domain(&self, domain: &str) -> Option<&usize> {
        let names = std::iter::successors(Some(domain), |name| Some(name.split_once('.')?.1));
        names.filter_map(|name| self.domains.get(name)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::{ReversePath, is_below};
    use crate::base::network::Networks;
    use proptest::prelude::*;

    fn rule_of(name: &str) -> TenantRule {
        TenantRule { name: name.into(), ..TenantRule::default() }
    }

    fn sender(client: &str, reverse_path: &'static str) -> Sender<'static> {
        let reverse_path = Box::leak(Box::new(ReversePath::parse(reverse_path).unwrap()));
        let client = client.parse().unwrap();
        Sender { of_user: None, certificate: None, named: None, client, reverse_path }
    }

    #[test]
    fn by_network_then_sender_then_domain_then_client() {
        let rule = |name: &str, network: &str, domain: &str| TenantRule {
            networks: Networks::new(vec![Networks::parse_one(network).unwrap()]),
            sender_domains: vec![domain.into()],
            ..rule_of(name)
        };
        let rules = Register::from(vec![
            rule("c1", "10.1.0.0/16", "one.test"),
            rule("c2", "10.2.0.0/16", "two.test"),
        ]);
        for (client, reverse_path, tenant) in [
            ("10.1.2.3", "x@two.test", "c1"),
            ("::ffff:10.2.2.3", "x@one.test", "c2"),
            ("10.3.0.1", "x@news.two.test", "c2"),
            ("10.3.0.1", "x@nottwo.test", "nottwo.test"),
            ("10.3.0.1", "x@a.b.example.co.uk", "example.co.uk"),
            ("10.3.0.1", "", "10.3.0.1"),
            ("::ffff:10.3.0.1", "postmaster", "10.3.0.1"),
        ] {
            assert_eq!(rules.decide(&sender(client, reverse_path)), tenant);
        }
    }

    #[test]
    fn a_login_says_more_than_a_certificate_and_that_more_than_a_web_server() {
        let rules = Register::from(vec![
            TenantRule { certificates: vec!["ab".into()], ..rule_of("certified") },
            TenantRule {
                networks: Networks::new(vec![Networks::parse_one("10.1.0.0/16").unwrap()]),
                ..rule_of("network")
            },
        ]);
        let from = sender("10.1.2.3", "x@one.test");
        assert_eq!(rules.decide(&from), "network");
        let named = Sender { named: Some("site7"), ..from };
        assert_eq!(rules.decide(&named), "site7");
        let unknown = Sender { certificate: Some("cd"), ..named };
        assert_eq!(rules.decide(&unknown), "site7");
        let certified = Sender { certificate: Some("ab"), ..named };
        assert_eq!(rules.decide(&certified), "certified");
        let user = Sender { of_user: Some("ann"), ..certified };
        assert_eq!(rules.decide(&user), "ann");
    }

    #[test]
    fn who_has_no_entry_has_that_for_everybody() {
        let mut rules = Register::from(vec![rule_of("c1")]);
        assert_eq!(rules.rule("c2"), None);
        rules.push(rule_of(EVERYBODY));
        assert_eq!(rules.rule("c1").unwrap().name, "c1");
        assert_eq!(rules.rule("c2").unwrap().name, "*", "found after the list was changed");
    }

    /// What [`Register::decide`] says, by a search in the list.
    fn searched(rules: &[TenantRule], sender: &Sender<'_>) -> String {
        if let Some(tenant) = sender.of_user {
            return tenant.to_string();
        }
        let shows = |rule: &&TenantRule| {
            sender.certificate.is_some_and(|print| rule.certificates.iter().any(|c| c == print))
        };
        if let Some(rule) = rules.iter().find(shows) {
            return rule.name.clone();
        }
        if let Some(tenant) = sender.named {
            return tenant.to_string();
        }
        let domain = sender.reverse_path.domain();
        let sends = |rule: &&TenantRule| {
            let mut own = rule.sender_domains.iter();
            own.any(|name| domain.is_some_and(|domain| is_below(domain.as_str(), name)))
        };
        let by_network = rules.iter().find(|rule| rule.networks.contains(sender.client));
        match (by_network.or_else(|| rules.iter().find(sends)), domain) {
            (Some(rule), _) => rule.name.clone(),
            (None, Some(domain)) => domain.organisational().to_string(),
            (None, None) => sender.client.to_canonical().to_string(),
        }
    }

    /// Few of each kind, so that they meet.
    fn some_address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0..3u8, 0..3u8).prop_map(|(a, b)| IpAddr::from([10, a, 0, b]));
        let v6 = (0..3u16, 0..3u16).prop_map(|(a, b)| [0x2001, a, 0, 0, 0, 0, 0, b].into());
        let mapped = (0..3u16).prop_map(|a| [0, 0, 0, 0, 0, 0xffff, 0x0a00 + a, 0].into());
        prop_oneof![v4, v6, mapped]
    }

    fn some_network() -> impl Strategy<Value = IpNet> {
        (some_address(), prop::sample::select(vec![0, 8, 14, 16, 31, 32, 64, 104, 112, 127, 128]))
            .prop_map(|(ip, length)| {
                let most = if ip.is_ipv4() { 32 } else { 128 };
                IpNet::new(ip, length.min(most)).unwrap().trunc()
            })
    }

    fn some_rule() -> impl Strategy<Value = TenantRule> {
        let some = |text| prop::collection::vec(text, 0..3);
        let networks = prop::collection::vec(some_network(), 0..3);
        ("[a-c*]", some("[a-c]"), some(r"[ab](\.[ab]){0,2}"), networks).prop_map(
            |(name, certificates, sender_domains, networks)| TenantRule {
                name,
                certificates,
                sender_domains,
                networks: Networks::new(networks),
                ..TenantRule::default()
            },
        )
    }

    proptest! {
        #[test]
        fn prop_finds_what_a_search_finds(
            list in prop::collection::vec(some_rule(), 0..8),
            of_user in prop::option::weighted(0.1, "[a-d]"),
            certificate in prop::option::weighted(0.3, "[a-d]"),
            named in prop::option::weighted(0.1, "[a-d]"),
            client in some_address(),
            reverse_path in r"(|x@[ab](\.[ab]){0,3})",
        ) {
            let rules = Register::from(list.clone());
            let reverse_path = ReversePath::parse(&reverse_path).unwrap();
            let sender = Sender {
                of_user: of_user.as_deref(),
                certificate: certificate.as_deref(),
                named: named.as_deref(),
                client,
                reverse_path: &reverse_path,
            };
            let tenant = rules.decide(&sender);
            prop_assert_eq!(&tenant, &searched(&list, &sender));
            let called = |name: &str| list.iter().find(|rule| rule.name == name);
            prop_assert_eq!(rules.rule(&tenant), called(&tenant).or_else(|| called(EVERYBODY)));
            let print = certificate.unwrap_or_default();
            let is_shown = list.iter().any(|rule| rule.certificates.contains(&print));
            prop_assert_eq!(rules.knows(&print), is_shown);
        }
    }
}
