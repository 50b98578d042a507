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
use super::provider::{PROVIDERS, Provider};
use super::route::Route;
use super::{Effective, Limits, SiteRule, Sites};
use crate::base::address::is_below;
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

    /// Puts this configuration in place of the one before, and gives back the sites whose names or
    /// limits it changed. `places` are the domains that are known, each with its site and route.
    /// Sites that a new section would gather into one stay apart until DNS is asked of them again.
    pub fn reconfigure<'a>(
        &mut self,
        config: Sites,
        places: impl Iterator<Item = (&'a str, SiteId, &'a Route)>,
    ) -> Vec<SiteId> {
        self.config = config;
        let mut before: HashMap<SiteId, String> = HashMap::new();
        for (id, site) in &mut self.sites {
            before.insert(*id, std::mem::take(&mut site.name));
            site.rules.clear();
        }
        for (domain, id, route) in places {
            let first = first_host(domain, route);
            let Some(site) = self.sites.get_mut(&id) else { continue };
            let provider = site.provider;
            if site.name.is_empty() {
                site.name = own_name(first, provider).to_string();
            }
            let found = self.rules(domain, first, provider);
            self.apply(id, &found);
        }
        let changed = |(id, before): (SiteId, String)| {
            let site = self.sites.get_mut(&id)?;
            if site.name.is_empty() {
                // None of its domains is known any more.
                site.name.clone_from(&before);
            }
            let renamed = site.name != before;
            (self.retune(id) || renamed).then_some(id)
        };
        before.into_iter().filter_map(changed).collect()
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
        self.sites.insert(id, Site::new(own_name(first, provider), provider));
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

/// What a site is called that no section means.
fn own_name<'a>(first: &'a str, provider: Option<&'static Provider>) -> &'a str {
    provider.filter(|p| !p.regional).map_or(first, |p| p.name)
}

/// By which a site of no provider is named, and found by suffixes.
fn first_host<'a>(domain: &'a str, route: &'a Route) -> &'a str {
    route.hosts.first().map_or(domain, |host| host.name.as_str())
}

#[cfg(test)]
mod tests;
