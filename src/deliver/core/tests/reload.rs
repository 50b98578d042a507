//! A changed configuration while the core is at work.

use super::*;
use crate::policy::quota::DomainRule;
use crate::policy::site::setting::LimitKey;
use crate::policy::site::{Rate, SiteRule};
use crate::policy::tenant::TenantRule;

const MINUTE: Duration = Duration::from_secs(60);

fn rate(count: u32) -> Vec<Rate> {
    vec![Rate { count, per: MINUTE }]
}

/// The site takes 600/min; `a.test` so many, where it has a rate.
fn paced(a_test: Option<u32>) -> Config {
    let mut config = config(20, 2, 100);
    config.sites.default.rates = rate(600);
    let limited =
        |count| DomainRule { name: "a.test".into(), rates: rate(count), ..DomainRule::default() };
    config.domains.extend(a_test.map(limited));
    config
}

impl World {
    fn reconfigure(&mut self, config: Config) {
        self.core.reconfigure(Arc::new(config), self.now);
    }

    /// What is delivered of a queue in five minutes.
    fn in_five_minutes(&mut self, queue: i64) -> u64 {
        let before = self.delivered(queue);
        self.deliver(MINUTE * 5);
        self.delivered(queue) - before
    }
}

#[test]
fn a_domains_rate_comes_changes_and_goes() {
    let mut world = World::new(paced(None), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    let free = world.in_five_minutes(1);
    assert!(free > 2_300, "{free} at 600/min of the site");
    for (count, expected) in [(60, 200..=300), (240, 900..=1_200), (60, 200..=300)] {
        world.reconfigure(paced(Some(count)));
        let delivered = world.in_five_minutes(1);
        assert!(expected.contains(&delivered), "{delivered} at {count}/min");
    }
    world.reconfigure(paced(None));
    let free = world.in_five_minutes(1);
    assert!(free > 2_300, "{free} again");
}

#[test]
fn a_tenants_rate_and_weight_follow() {
    let with = |rates: Vec<Rate>, weight| {
        let mut config = config(20, 2, 100);
        let name = "tenant1".into();
        config.tenants.push(TenantRule { name, rates, weight, ..TenantRule::default() });
        config
    };
    // Connections alone set the pace here: what this world's connections claim and give back for
    // want of a site's rate counts as the tenant's turn, and would blur the shares.
    let mut world = World::new(with(Vec::new(), 1), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.enqueue(2, Lane::Bulk, "a.test", 100_000, START);
    let mut each = || [world.in_five_minutes(1), world.delivered(2)];
    let [first, other] = each();
    assert!(first.abs_diff(other) <= 50, "{first} {other}");

    world.reconfigure(with(Vec::new(), 3));
    let before = world.delivered(2);
    let (first, other) = (world.in_five_minutes(1), world.delivered(2) - before);
    // Up to the batches that connections have in hand.
    assert!((14 * other / 5..=16 * other / 5).contains(&first), "{first} {other}");

    world.reconfigure(with(rate(10), 3));
    let limited = world.in_five_minutes(1);
    assert!(limited <= 60, "{limited} at 10/min");
    world.reconfigure(with(Vec::new(), 3));
    let free = world.in_five_minutes(1);
    assert!(free > 3_500, "{free} again");
}

#[test]
fn a_sites_section_comes_and_goes() {
    let with = |connections: Option<u32>| {
        let mut config = config(4, 1, 100);
        let rule = |connections| SiteRule {
            name: "a.test".into(),
            connections: Some(connections),
            lines: vec![(LimitKey::Connections, 7)],
            ..SiteRule::default()
        };
        config.sites.rules.extend(connections.map(rule));
        config
    };
    let mut world = World::new(with(None), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 1, START);
    world.settle();
    let value = |world: &mut World| {
        let explained = world.core.explain_site("a.test", world.now);
        let found = explained.limits.iter().find(|e| e.key == LimitKey::Connections);
        let found = found.unwrap();
        (explained.site.clone(), format!("{}, {}", found.value, found.origin))
    };
    let by_default = ("mx.shared.test".to_string(), "4, default".to_string());
    assert_eq!(value(&mut world), by_default);
    world.reconfigure(with(Some(2)));
    world.settle();
    let said = "2, [sites.\"a.test\"] (line 7)".to_string();
    assert_eq!(value(&mut world), ("a.test".to_string(), said));
    world.reconfigure(with(None));
    world.settle();
    assert_eq!(value(&mut world), by_default);
}
