//! Which domains are of one site, and what holds for it.

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
    for rules in [[("a.mail.host", 3), ("mail.host", 4)], [("mail.host", 4), ("a.mail.host", 3)]] {
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
