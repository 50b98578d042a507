//! The sites known now: MX rollup.
//!
//! Domains are of one site where they have the same set of MX names, or the same set of addresses
//! behind different names (some receivers give each domain an MX name of its own on the same
//! hosts), or an MX host of one provider. A fact of DNS: computed here, never stored in the queue.
//!
//! # Invariants
//! * A domain is of one site; domains with equal MX names or equal addresses are of the same one.
//! * Memory follows the sites in use: [`Directory::forget`] takes out the rest.

use super::limits::{Sayers, explain, limits};
use super::provider::{PROVIDERS, Provider, is_below};
use super::route::Route;
use super::{Effective, Limits, SiteRule, Sites};
use crate::policy::orders::ThrottleOrder;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Number of a site while it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub u32);

/// One site.
#[derive(Clone, Debug)]
pub struct Site {
    /// For people: the name of the section that was found first, else the provider's, else that of
    /// its first MX host.
    pub name: String,
    /// What it may be burdened with.
    pub limits: Limits,
    provider: Option<&'static Provider>,
    /// Sections that mean it, by their places among all; with a new domain, more may come.
    rules: BTreeSet<usize>,
    /// Names of overrides that mean it.
    called: BTreeSet<String>,
    keys: Vec<Key>,
}

/// What makes two domains be of one site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Name(String),
    Hosts(Vec<String>),
    Addresses(Arc<[IpAddr]>),
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
    config: Sites,
    /// In the order in which they were given.
    overrides: Vec<ThrottleOrder>,
    sites: HashMap<SiteId, Site>,
    by_key: HashMap<Key, SiteId>,
    next: u32,
}

impl Directory {
    /// No site yet.
    #[must_use]
    pub fn new(config: Sites) -> Self {
        Self {
            config,
            overrides: Vec::new(),
            sites: HashMap::new(),
            by_key: HashMap::new(),
            next: 0,
        }
    }

    /// The site of `domain`, whose mail takes this route.
    pub fn place(&mut self, domain: &str, route: &Route) -> Placed {
        let hosts = &route.hosts;
        let mut names: Vec<String> = hosts.iter().map(|h| h.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let first = first_host(domain, route);
        let provider = Provider::of_host(first);
        let found = self.rules(domain, first, provider);

        let mut keys = Vec::new();
        // A provider, and a rule by MX suffix, gather hosts of many names; of suffixes the widest,
        // so that its limits hold for all of them together.
        let rules = found.iter().filter_map(|n| self.config.rules.get(*n));
        let suffixes = rules.map(|rule| &rule.name).filter(|name| is_below(first, name));
        match (provider, suffixes.min_by_key(|name| name.len())) {
            (Some(provider), _) if !provider.regional => {
                keys.push(Key::Name(provider.name.to_string()))
            }
            (_, Some(suffix)) => keys.push(Key::Name(suffix.clone())),
            _ => {}
        }
        keys.push(Key::Hosts(names));
        keys.push(Key::Addresses(Arc::clone(&route.addresses)));
        let known = keys.iter().find_map(|key| self.by_key.get(key).copied());
        let (site, is_new) =
            known.map_or_else(|| (self.open(first, provider), true), |site| (site, false));
        self.learn(site, keys);
        let ruled = self.apply(site, &found);
        let called = self.note_names(site, domain, first);
        if ruled || called {
            self.retune(site);
        }
        Placed { site, changed: is_new || ruled || called }
    }

    /// Puts these overrides in place of those before, and gives back the sites whose limits they
    /// changed. `places` are the domains that are known, each with its site and route: where a
    /// name is new, they are looked through for it.
    pub fn overrule<'a>(
        &mut self,
        overrides: &[ThrottleOrder],
        places: impl Iterator<Item = (&'a str, SiteId, &'a Route)>,
    ) -> Vec<SiteId> {
        let names = |all: &[ThrottleOrder]| -> BTreeSet<String> {
            all.iter().map(|order| order.site.clone()).collect()
        };
        let (before, now) = (names(&self.overrides), names(overrides));
        self.overrides = overrides.to_vec();
        let mut touched = BTreeSet::new();
        for (id, site) in &mut self.sites {
            if !site.called.is_empty() {
                touched.insert(*id);
                site.called.retain(|name| now.contains(name));
            }
        }
        let new: Vec<&String> = now.difference(&before).collect();
        if !new.is_empty() {
            for (domain, id, route) in places {
                let Some(site) = self.sites.get_mut(&id) else { continue };
                let first = first_host(domain, route);
                let meant = new.iter().filter(|name| site.is_called(name, domain, first));
                let meant: Vec<String> = meant.map(|name| (*name).clone()).collect();
                if !meant.is_empty() {
                    site.called.extend(meant);
                    touched.insert(id);
                }
            }
        }
        touched.into_iter().filter(|id| self.retune(*id)).collect()
    }

    /// True where `name` means the site of this domain with this route, as a section of the
    /// configuration would.
    #[must_use]
    pub fn is_called(&self, site: SiteId, name: &str, domain: &str, route: &Route) -> bool {
        let first = first_host(domain, route);
        self.sites.get(&site).is_some_and(|site| site.is_called(name, domain, first))
    }

    /// The site that goes by this name: its own, its provider's, that of a section, or an MX
    /// host's.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<SiteId> {
        let of_host = |keys: &[Key]| {
            keys.iter()
                .any(|key| matches!(key, Key::Hosts(hosts) if hosts.iter().any(|h| h == name)))
        };
        let find = |test: &dyn Fn(&Site) -> bool| {
            self.sites.iter().filter(|(_, site)| test(site)).map(|(id, _)| *id).min()
        };
        find(&|site| site.name == name)
            .or_else(|| find(&|site| site.provider.is_some_and(|p| p.is_called(name))))
            .or_else(|| find(&|site| self.sections(site).any(|rule| rule.name == name)))
            .or_else(|| find(&|site| of_host(&site.keys)))
    }

    /// Every limit of a site, and who says so.
    #[must_use]
    pub fn explain(&self, site: SiteId) -> Vec<Effective> {
        self.sites.get(&site).map(|site| self.said_of(site)).unwrap_or_default()
    }

    /// The same for a site of which the name alone is known: a domain, an MX host, a provider.
    #[must_use]
    pub fn foresee(&self, name: &str) -> Vec<Effective> {
        let called = PROVIDERS.iter().find(|provider| provider.is_called(name));
        let provider = called.or_else(|| Provider::of_host(name));
        let rules = self.rules(name, name, provider).into_iter().collect();
        let site = Site { rules, ..Site::new(provider.map_or(name, |p| p.name), provider) };
        let means = |order: &&ThrottleOrder| site.is_called(&order.site, name, name);
        let called = self.overrides.iter().filter(means).map(|order| order.site.clone()).collect();
        self.said_of(&Site { called, ..site })
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

    /// The sections that mean the domain's site, by their places: first those by provider, then
    /// those by MX suffix, then the one by the domain itself.
    fn rules(&self, domain: &str, host: &str, provider: Option<&Provider>) -> Vec<usize> {
        let nearness = |rule: &SiteRule| {
            let by_provider = provider.is_some_and(|provider| provider.is_called(&rule.name));
            let means = [by_provider, is_below(host, &rule.name), rule.name == domain];
            means.into_iter().position(|means| means)
        };
        let rules = self.config.rules.iter().enumerate();
        let mut found: Vec<_> = rules.filter_map(|(n, rule)| Some((nearness(rule)?, n))).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, n)| n).collect()
    }

    /// A site's sections, in the order of the file.
    fn sections<'a>(&'a self, site: &'a Site) -> impl Iterator<Item = &'a SiteRule> {
        site.rules.iter().filter_map(|n| self.config.rules.get(*n))
    }

    fn open(&mut self, first: &str, provider: Option<&'static Provider>) -> SiteId {
        let id = SiteId(self.next);
        self.next = self.next.wrapping_add(1);
        let name = provider.filter(|p| !p.regional).map_or(first, |p| p.name);
        self.sites.insert(id, Site::new(name, provider));
        self.retune(id);
        id
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

    /// Remembers the sections that mean a site; true where there is a new one. The first of all
    /// names the site.
    fn apply(&mut self, site: SiteId, rules: &[usize]) -> bool {
        let Some(site) = self.sites.get_mut(&site) else { return false };
        let first = rules.first().filter(|_| site.rules.is_empty());
        if let Some(rule) = first.and_then(|n| self.config.rules.get(*n)) {
            site.name.clone_from(&rule.name);
        }
        let before = site.rules.len();
        site.rules.extend(rules);
        site.rules.len() > before
    }

    /// Remembers the overrides that mean a site by this domain; true where there is a new one.
    fn note_names(&mut self, site: SiteId, domain: &str, first: &str) -> bool {
        let Some(site) = self.sites.get_mut(&site) else { return false };
        let before = site.called.len();
        for order in &self.overrides {
            if !site.called.contains(&order.site) && site.is_called(&order.site, domain, first) {
                site.called.insert(order.site.clone());
            }
        }
        site.called.len() > before
    }

    /// Brings a site's limits up to date; true where they changed.
    fn retune(&mut self, id: SiteId) -> bool {
        let limits = limits(&self.explain(id));
        match self.sites.get_mut(&id) {
            Some(site) if site.limits != limits => {
                site.limits = limits;
                true
            }
            _ => false,
        }
    }

    fn said_of(&self, site: &Site) -> Vec<Effective> {
        let live: Vec<&ThrottleOrder> =
            self.overrides.iter().filter(|order| site.called.contains(&order.site)).collect();
        let rules: Vec<&SiteRule> = self.sections(site).collect();
        explain(Sayers { live: &live, rules: &rules, provider: site.provider, sites: &self.config })
    }
}

impl Site {
    /// Its limits are still to be found.
    fn new(name: &str, provider: Option<&'static Provider>) -> Self {
        Self {
            name: name.to_string(),
            limits: limits(&[]),
            provider,
            rules: BTreeSet::new(),
            called: BTreeSet::new(),
            keys: Vec::new(),
        }
    }

    /// By its name, its provider's, the suffix of this host, or this domain.
    fn is_called(&self, name: &str, domain: &str, host: &str) -> bool {
        self.name == name
            || self.provider.is_some_and(|provider| provider.is_called(name))
            || is_below(host, name)
            || domain == name
    }
}

/// By which a site of no provider is named, and found by suffixes.
fn first_host<'a>(domain: &'a str, route: &'a Route) -> &'a str {
    route.hosts.first().map_or(domain, |host| host.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::policy::site::setting::Setting;
    use crate::policy::site::{MxHost, Rate, sites};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn directory(rules: &[(&str, u32)]) -> Directory {
        Directory::new(sites(10, rules))
    }

    fn order(site: &str, setting: &str) -> ThrottleOrder {
        let setting = Setting::parse(setting).unwrap();
        ThrottleOrder { site: site.into(), setting, since: Timestamp(0), until: None }
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
    fn all_sections_that_mean_a_site_hold_for_it() {
        let google = route(&[("aspmx.l.google.com", "192.0.2.1")]);
        let mut d = directory(&[("google.com", 33), ("gmail.com", 4)]);
        let id = d.place("shop.test", &google).site;
        let site = d.get(id).unwrap();
        assert_eq!((site.name.as_str(), site.limits.connections), ("google.com", 4));
        assert_eq!(d.explain(id)[0].origin.to_string(), "[sites.\"gmail.com\"] (line 1)");
        assert_eq!(d.foresee("googlemail.com")[0].value.to_string(), "4");

        let mut d = directory(&[("a.test", 5), ("b.test", 3), ("mail.host", 4), ("c.test", 9)]);
        let hosts = route(&[("mx1.mail.host", "192.0.2.2")]);
        let connections = |d: &Directory, id| {
            let site = d.get(id).unwrap();
            (site.name.clone(), site.limits.connections)
        };
        let id = d.place("a.test", &hosts).site;
        assert_eq!(connections(&d, id), ("mail.host".into(), 4));
        assert!(d.place("b.test", &hosts).changed);
        assert_eq!(connections(&d, id), ("mail.host".into(), 3), "the name stays");
        assert!(d.place("c.test", &hosts).changed, "a section more, if not a stricter one");
        assert!(!d.place("c.test", &hosts).changed);
        assert_eq!(connections(&d, id).1, 3);
        for name in ["mail.host", "a.test", "b.test"] {
            assert_eq!(d.find(name), Some(id), "{name}");
        }
    }

    #[test]
    fn of_two_suffixes_the_wider_gathers_the_hosts() {
        for rules in
            [[("a.mail.host", 3), ("mail.host", 4)], [("mail.host", 4), ("a.mail.host", 3)]]
        {
            let mut d = directory(&rules);
            let a = d.place("a.test", &route(&[("mx.a.mail.host", "192.0.2.1")])).site;
            let b = d.place("b.test", &route(&[("mx.b.mail.host", "192.0.2.2")])).site;
            assert_eq!((a, d.get(a).unwrap().limits.connections), (b, 3));
        }
    }

    proptest! {
        /// Whichever domain is asked for first: what every section says is kept.
        #[test]
        fn prop_sections_hold_in_any_order(
            rules in proptest::collection::btree_map(0usize..8, (1u32..30, 1u32..30), 0..8),
            (places, shuffled) in proptest::collection::vec((0usize..4, 0usize..5), 1..12)
                .prop_flat_map(|places| (Just(places.clone()), Just(places).prop_shuffle())),
        ) {
            const NAMES: [&str; 8] = [
                "d0.test", "d1.test", "d2.test", "mail.host", "b.mail.host", "google.com",
                "gmail.com", "l.google.com",
            ];
            const HOSTS: [&str; 5] = [
                "mx.a.mail.host", "mx.b.mail.host", "mx.other.test", "aspmx.l.google.com",
                "alt1.aspmx.l.google.com",
            ];
            let mut sites = sites(10, &[]);
            for (n, (connections, per_minute)) in &rules {
                sites.rules.push(SiteRule {
                    name: NAMES[*n].into(),
                    connections: Some(*connections),
                    rates: Some(vec![Rate { count: *per_minute, per: Duration::from_secs(60) }]),
                    ..SiteRule::default()
                });
            }
            let found = |places: &[(usize, usize)]| -> BTreeMap<(usize, usize), (SiteId, Limits)> {
                let mut d = Directory::new(sites.clone());
                let place = |(domain, host): &(usize, usize)| {
                    let hosts = route(&[(HOSTS[*host], &format!("192.0.2.{host}"))]);
                    ((*domain, *host), d.place(&format!("d{domain}.test"), &hosts).site)
                };
                let placed: Vec<_> = places.iter().map(place).collect();
                let limits = |id| (id, d.get(id).unwrap().limits.clone());
                placed.into_iter().map(|(place, id)| (place, limits(id))).collect()
            };
            let (one, other) = (found(&places), found(&shuffled));
            prop_assert!(one.values().map(|(_, l)| l).eq(other.values().map(|(_, l)| l)));
            for (n, (connections, per_minute)) in rules {
                let mut gathered = BTreeSet::new();
                for ((domain, host), (id, limits)) in &one {
                    let suffix = is_below(HOSTS[*host], NAMES[n]);
                    let provider = NAMES[n] == "gmail.com" && HOSTS[*host].contains("google");
                    if suffix || provider || format!("d{domain}.test") == NAMES[n] {
                        prop_assert!(limits.connections <= connections);
                        prop_assert!(limits.rates[0].count <= per_minute);
                    }
                    if suffix || provider {
                        gathered.insert(*id);
                    }
                }
                prop_assert!(gathered.len() <= 1, "{} is several sites", NAMES[n]);
            }
        }
    }

    #[test]
    fn a_forgotten_site_leaves_nothing_behind() {
        let mut d = directory(&[]);
        let a = d.place("a.test", &route(&[("mx.a.test", "192.0.2.1")]));
        d.forget(a.site);
        assert!(d.get(a.site).is_none() && d.by_key.is_empty());
        assert!(d.place("a.test", &route(&[("mx.a.test", "192.0.2.1")])).changed);
    }
    #[test]
    fn an_override_is_found_by_every_name_that_a_section_is() {
        let google = route(&[("aspmx.l.google.com", "192.0.2.1")]);
        let other = route(&[("mx1.mail.host", "192.0.2.2")]);
        for (name, domain, hosts) in [
            ("gmail.com", "shop.test", &google),
            ("googlemail.com", "shop.test", &google),
            ("l.google.com", "shop.test", &google),
            ("shop.test", "shop.test", &google),
            ("mail.host", "b.test", &other),
            ("mx1.mail.host", "b.test", &other),
            ("b.test", "b.test", &other),
        ] {
            let orders = [order(name, "connections=3")];
            let mut early = directory(&[]);
            assert_eq!(early.overrule(&orders, std::iter::empty()), []);
            let site = early.place(domain, hosts).site;
            let mut late = directory(&[]);
            let id = late.place(domain, hosts).site;
            let changed = late.overrule(&orders, [(domain, id, hosts)].into_iter());
            assert_eq!(changed, [id], "{name}");
            for (d, id) in [(&early, site), (&late, id)] {
                assert_eq!(d.get(id).unwrap().limits.connections, 3, "{name}");
                assert!(d.is_called(id, name, domain, hosts));
            }
            assert!(!late.place(domain, hosts).changed, "known already");
            assert_eq!(late.overrule(&[], std::iter::empty()), [id]);
            assert_eq!(late.get(id).unwrap().limits.connections, 10, "{name}");
        }
        let mut d = directory(&[]);
        let id = d.place("b.test", &other).site;
        let orders = [order("c.test", "connections=3"), order("host.mail", "connections=3")];
        assert_eq!(d.overrule(&orders, [("b.test", id, &other)].into_iter()), []);
        assert!(d.place("c.test", &other).changed, "served there, too");
        assert_eq!(d.get(id).unwrap().limits.connections, 3);
    }

    #[test]
    fn of_two_overrides_the_later_counts_and_the_section_keeps_the_rest() {
        let mut d = directory(&[("google.com", 33)]);
        let hosts = route(&[("aspmx.l.google.com", "192.0.2.1")]);
        let id = d.place("gmail.com", &hosts).site;
        let places = || [("gmail.com", id, &hosts)].into_iter();
        let orders = [order("gmail.com", "rate=1/s"), order("google.com", "rate=2/s")];
        d.overrule(&orders, places());
        let limits = &d.get(id).unwrap().limits;
        assert_eq!((limits.rates[0].count, limits.connections), (2, 33));
        let [first, second] = orders;
        let swapped = [second, first];
        assert_eq!(d.overrule(&swapped, places()), [id]);
        assert_eq!(d.get(id).unwrap().limits.rates[0].count, 1);
        assert_eq!(d.overrule(&swapped[..1], places()), [id]);
        assert_eq!(d.overrule(&swapped[..1], places()), [], "nothing changed");
    }

    #[test]
    fn regions_of_one_provider_are_sites_of_their_own() {
        let mut d = directory(&[]);
        let eu = d.place("a.test", &route(&[("eu-smtp-inbound-1.mimecast.com", "192.0.2.1")]));
        let us = d.place("b.test", &route(&[("us-smtp-inbound-1.mimecast.com", "192.0.2.2")]));
        assert_ne!(eu.site, us.site);
        let site = d.get(eu.site).unwrap();
        assert_eq!(site.name, "eu-smtp-inbound-1.mimecast.com");
        assert_eq!((site.limits.connections, site.limits.deliveries_per_connection), (10, 100));
    }

    #[test]
    fn what_would_hold_is_told_by_a_name_alone() {
        let mut d = directory(&[("mail.host", 4), ("b.test", 5)]);
        d.overrule(&[order("google.com", "connections=3")], std::iter::empty());
        for (name, shown) in [
            ("gmail.com", "3 live (google.com), until cleared"),
            ("googlemail.com", "3 live (google.com), until cleared"),
            ("aspmx.l.google.com", "3 live (google.com), until cleared"),
            ("mx7.mail.host", "4 [sites.\"mail.host\"] (line 1)"),
            ("b.test", "5 [sites.\"b.test\"] (line 1)"),
            ("icloud.com", "10 provider icloud.com"),
            ("c.test", "10 default"),
        ] {
            let all = d.foresee(name);
            assert_eq!(format!("{} {}", all[0].value, all[0].origin), shown, "{name}");
        }
        let id = d.place("shop.test", &route(&[("aspmx.l.google.com", "192.0.2.1")])).site;
        for name in ["gmail.com", "google.com", "aspmx.l.google.com"] {
            assert_eq!(d.find(name), Some(id), "{name}");
        }
        assert_eq!(d.find("shop.test"), None, "domains are known elsewhere");
    }
}
