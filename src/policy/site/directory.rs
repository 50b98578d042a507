//! The sites known now: MX rollup.
//!
//! Domains are of one site where they have the same set of MX names, or the same set of addresses
//! behind different names (some receivers give each domain an MX name of its own on the same
//! hosts), or an MX host of one provider. A fact of DNS: computed here, never stored in the queue.
//!
//! # Invariants
//! * A domain is of one site; domains with equal MX names or equal addresses are of the same one.
//! * Memory follows the sites in use: [`Directory::forget`] takes out the rest.

use super::provider::{Provider, is_below, limits};
use super::route::Route;
use super::{Limits, SiteRule};
use std::collections::HashMap;
use std::net::IpAddr;

/// Number of a site while it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub u32);

/// One site.
#[derive(Clone, Debug)]
pub struct Site {
    /// For people: the provider's or the rule's name, else that of its first MX host.
    pub name: String,
    /// What it may be burdened with.
    pub limits: Limits,
    provider: Option<&'static Provider>,
    /// A rule by name is final; one by domain may still come.
    has_rule: bool,
    keys: Vec<Key>,
}

/// What makes two domains be of one site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Name(String),
    Hosts(Vec<String>),
    Addresses(Vec<IpAddr>),
}

/// Where a domain was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The site.
    pub site: SiteId,
    /// The site is new, or its limits changed.
    pub changed: bool,
}

/// All sites in use.
#[derive(Debug)]
pub struct Directory {
    default: Limits,
    rules: Vec<SiteRule>,
    sites: HashMap<SiteId, Site>,
    by_key: HashMap<Key, SiteId>,
    next: u32,
}

impl Directory {
    /// No site yet.
    #[must_use]
    pub fn new(default: Limits, rules: Vec<SiteRule>) -> Self {
        Self { default, rules, sites: HashMap::new(), by_key: HashMap::new(), next: 0 }
    }

    /// The site of `domain`, whose mail takes this route.
    pub fn place(&mut self, domain: &str, route: &Route) -> Placed {
        let hosts = &route.hosts;
        let mut names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let first = hosts.first().map_or(domain, |h| h.name.as_str());
        let provider = Provider::of_host(first);
        let rule = self.rule(domain, first, provider).cloned();

        let mut keys = Vec::new();
        // A provider, and a rule by MX suffix, gather hosts of many names.
        let by_suffix = rule.as_ref().is_some_and(|r| is_below(first, &r.name));
        match (provider, &rule) {
            (Some(provider), _) => keys.push(Key::Name(provider.name.to_string())),
            (None, Some(rule)) if by_suffix => keys.push(Key::Name(rule.name.clone())),
            _ => {}
        }
        keys.push(Key::Hosts(names));
        keys.push(Key::Addresses(route.addresses.clone()));
        let known = keys.iter().find_map(|key| self.by_key.get(key).copied());
        let (site, is_new) =
            known.map_or_else(|| (self.open(first, provider), true), |site| (site, false));
        self.learn(site, keys);
        let ruled = self.apply(site, rule.as_ref());
        Placed { site, changed: is_new || ruled }
    }

    /// The site's data while it is known.
    #[must_use]
    pub fn get(&self, site: SiteId) -> Option<&Site> {
        self.sites.get(&site)
    }

    /// Takes out a site that nothing uses any more.
    pub fn forget(&mut self, site: SiteId) {
        for key in self.sites.remove(&site).map(|s| s.keys).unwrap_or_default() {
            self.by_key.remove(&key);
        }
    }

    /// The section that holds for the domain: by provider, by MX suffix, by the domain itself.
    fn rule(&self, domain: &str, host: &str, provider: Option<&Provider>) -> Option<&SiteRule> {
        let find = |test: &dyn Fn(&SiteRule) -> bool| self.rules.iter().find(|r| test(r));
        provider
            .and_then(|p| find(&|r| p.is_called(&r.name)))
            .or_else(|| find(&|r| is_below(host, &r.name)))
            .or_else(|| find(&|r| r.name == domain))
    }

    fn open(&mut self, name: &str, provider: Option<&'static Provider>) -> SiteId {
        let site = SiteId(self.next);
        self.next = self.next.wrapping_add(1);
        self.sites.insert(
            site,
            Site {
                name: provider.map_or(name, |p| p.name).to_string(),
                limits: limits(&self.default, provider, None),
                provider,
                has_rule: false,
                keys: Vec::new(),
            },
        );
        site
    }

    fn learn(&mut self, id: SiteId, keys: Vec<Key>) {
        for key in keys {
            let before = self.by_key.insert(key.clone(), id);
            if before == Some(id) {
                continue;
            }
            // A key has one site, and a site its own keys: else a forgotten one would live on.
            if let Some(site) = before.and_then(|before| self.sites.get_mut(&before)) {
                site.keys.retain(|known| *known != key);
            }
            if let Some(site) = self.sites.get_mut(&id) {
                site.keys.push(key);
            }
        }
    }

    /// The first rule found for one of a site's domains is the site's.
    fn apply(&mut self, site: SiteId, rule: Option<&SiteRule>) -> bool {
        let (Some(site), Some(rule)) = (self.sites.get_mut(&site), rule) else { return false };
        if site.has_rule {
            return false;
        }
        site.has_rule = true;
        site.name.clone_from(&rule.name);
        site.limits = limits(&self.default, site.provider, Some(rule));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::site::MxHost;

    fn directory(rules: &[(&str, u32)]) -> Directory {
        let default = Limits {
            connections: 10,
            reserved_for_direct: 2,
            deliveries_per_connection: 100,
            recipients_per_transaction: 100,
            rates: Vec::new(),
            connection_rates: Vec::new(),
        };
        let rule = |(name, connections): &(&str, u32)| SiteRule {
            name: (*name).to_string(),
            connections: Some(*connections),
            ..SiteRule::default()
        };
        Directory::new(default, rules.iter().map(rule).collect())
    }

    fn route(hosts: &[(&str, &str)]) -> Route {
        let host = |(name, address): &(&str, &str)| MxHost {
            preference: 10,
            name: (*name).into(),
            addresses: vec![address.parse().unwrap()],
        };
        Route::new(hosts.iter().map(host).collect())
    }

    #[test]
    fn domains_with_the_same_mx_set_are_one_site() {
        let mut d = directory(&[]);
        let hosts = route(&[("mx1.shared.test", "192.0.2.1"), ("mx2.shared.test", "192.0.2.2")]);
        let a = d.place("a.test", &hosts);
        let b = d.place("b.test", &hosts);
        assert_eq!(a.site, b.site);
        assert!(a.changed && !b.changed);
        assert_ne!(d.place("c.test", &route(&[("mx.c.test", "192.0.2.3")])).site, a.site);
        assert_eq!(d.get(a.site).unwrap().name, "mx1.shared.test");
    }

    #[test]
    fn names_of_their_own_on_the_same_addresses_are_one_site() {
        let mut d = directory(&[]);
        let a = d.place("a.test", &route(&[("a.mail.test", "192.0.2.1")]));
        let b = d.place("b.test", &route(&[("b.mail.test", "192.0.2.1")]));
        assert_eq!(a.site, b.site);
        // A rotated answer keeps the site by its names.
        assert_eq!(d.place("b.test", &route(&[("b.mail.test", "192.0.2.9")])).site, a.site);
    }

    #[test]
    fn a_provider_is_one_site_and_goes_by_any_of_its_names() {
        let mut d = directory(&[("google.com", 33)]);
        let a = d.place("gmail.com", &route(&[("gmail-smtp-in.l.google.com", "192.0.2.1")]));
        let b = d.place("shop.test", &route(&[("aspmx.l.google.com", "192.0.2.2")]));
        assert_eq!(a.site, b.site);
        let site = d.get(a.site).unwrap();
        assert_eq!((site.name.as_str(), site.limits.connections), ("google.com", 33));
    }

    #[test]
    fn a_rule_by_domain_holds_for_all_who_share_its_hosts() {
        let mut d = directory(&[("b.test", 3), ("mail.host", 4)]);
        let hosts = route(&[("mx.shared.test", "192.0.2.1")]);
        let a = d.place("a.test", &hosts);
        assert_eq!(d.get(a.site).unwrap().limits.connections, 10);
        let b = d.place("b.test", &hosts);
        assert!(b.site == a.site && b.changed);
        assert_eq!(d.get(a.site).unwrap().limits.connections, 3);
        let c = d.place("c.test", &route(&[("mx7.mail.host", "192.0.2.7")]));
        let e = d.place("e.test", &route(&[("mx8.mail.host", "192.0.2.8")]));
        assert_eq!((c.site, d.get(c.site).unwrap().limits.connections), (e.site, 4));
    }

    #[test]
    fn a_forgotten_site_leaves_nothing_behind() {
        let mut d = directory(&[]);
        let a = d.place("a.test", &route(&[("mx.a.test", "192.0.2.1")]));
        d.forget(a.site);
        assert!(d.get(a.site).is_none() && d.by_key.is_empty());
        assert!(d.place("a.test", &route(&[("mx.a.test", "192.0.2.1")])).changed);
    }
}
