//! Limits overridden while the core is at work.

use super::*;
use crate::policy::orders::{Scope, Suspension, ThrottleOrder};
use crate::policy::site::setting::{LimitKey, Setting};

fn order(site: &str, setting: &str, until: Option<Timestamp>) -> ThrottleOrder {
    let setting = Setting::parse(setting).unwrap();
    ThrottleOrder { site: site.into(), setting, since: START, until }
}

fn orders(all: &[ThrottleOrder]) -> Orders {
    let mut orders = Orders::default();
    all.iter().cloned().for_each(|order| _ = orders.set(order).unwrap());
    orders
}

impl World {
    fn set(&mut self, all: &[ThrottleOrder]) {
        self.core.set_orders(orders(all), self.now);
    }

    /// What holds for a site by this name, and whether it is in use.
    fn value(&mut self, name: &str, key: LimitKey) -> (String, bool) {
        let explained = self.core.explain_site(name, self.now);
        let found = explained.limits.iter().find(|effective| effective.key == key).unwrap();
        (format!("{}, {}", found.value, found.origin), explained.in_use)
    }
}

/// Connections that are open and were not told to quit.
fn standing(core: &Core) -> usize {
    core.links.values().filter(|link| link.state != links::LinkState::Ending).count()
}

#[test]
fn an_override_holds_until_its_end_and_is_told() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 1, START);
    world.settle();
    let end = START.after(Duration::from_secs(60));
    world.set(&[order("a.test", "connections=2", Some(end)), order("a.test", "rate=7/s", None)]);
    world.settle();
    assert_eq!(
        world.value("a.test", LimitKey::Connections),
        (format!("2, live (a.test), until {end}"), true)
    );
    assert_eq!(world.value("mx.shared.test", LimitKey::Connections).0.chars().next(), Some('2'));
    assert_eq!(world.next_alarm(|alarm| *alarm == Alarm::Orders), end);
    world.now = end.before(Duration::from_millis(1));
    world.settle();
    assert!(world.value("a.test", LimitKey::Connections).0.starts_with("2, live"));
    world.now = end;
    world.settle();
    assert_eq!(world.told, ["expired"]);
    assert_eq!(world.value("a.test", LimitKey::Connections), ("4, default".into(), true));
    assert_eq!(
        world.value("a.test", LimitKey::Rate),
        ("7/s, live (a.test), until cleared".into(), true)
    );
    world.set(&[]);
    world.settle();
    assert_eq!(world.value("a.test", LimitKey::Rate), ("none, default".into(), true));
    assert!(!world.core.alarms.iter().any(|(_, alarm)| *alarm == Alarm::Orders));
}

#[test]
fn orders_that_ended_meanwhile_are_told_and_never_hold() {
    let mut world = World::new(config(4, 1, 100), 1);
    let end = START.after(Duration::from_secs(1));
    world.set(&[order("a.test", "connections=2", Some(end))]);
    world.now = end;
    world.set(&[order("b.test", "connections=2", Some(end))]);
    world.settle();
    assert_eq!(world.told, ["expired"], "of the one before; the other never held");
    assert!(world.core.orders.is_empty());
}

#[test]
fn suspended_mail_waits_and_other_mail_goes_on() {
    let suspended = |scope: Scope| {
        let mut orders = Orders::default();
        let (reason, since, until) = ("list bought".to_string(), START, None);
        orders.suspend(Suspension { scope, reason, since, until }).unwrap();
        orders
    };
    let text = |text: &str| Some(text.to_string());
    let of_tenant = Scope { tenant: text("tenant1"), ..Scope::default() };
    let at_site = Scope { site: text("mx.shared.test"), ..Scope::default() };
    let of_lane = Scope { lane: Some(Lane::Bulk), ..Scope::default() };
    for (scope, goes, direct) in [(of_tenant, 50, 1), (at_site, 0, 0), (of_lane, 0, 1)] {
        let mut world = World::new(config(4, 1, 100), 1);
        world.enqueue(1, Lane::Bulk, "a.test", 50, START);
        world.enqueue(2, Lane::Bulk, "a.test", 50, START);
        world.core.set_orders(suspended(scope.clone()), START);
        for _ in 0..20 {
            world.settle();
            world.some_link_works(&mut from_seed(1));
        }
        let delivered: u64 = world.delivered.values().sum();
        assert_eq!(delivered, goes, "{scope:?}");
        world.handoff("a.test");
        world.settle();
        assert_eq!((world.direct, world.released), (direct, 1 - direct as usize), "{scope:?}");
        world.core.set_orders(Orders::default(), START);
        world.run(&mut from_seed(1));
        assert_eq!(world.waiting(), 0, "{scope:?}");
    }
}

#[test]
fn a_suspension_says_which_domains_its_name_means() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 1, START);
    let mut orders = Orders::default();
    for site in ["shared.test", "elsewhere.test"] {
        let scope = Scope { site: Some(site.to_string()), ..Scope::default() };
        let (reason, since, until) = ("full".to_string(), START, None);
        orders.suspend(Suspension { scope, reason, since, until }).unwrap();
    }
    world.core.set_orders(orders, START);
    world.settle();
    let statuses = world.core.site_status(START);
    let [status] = &statuses[..] else { panic!("{statuses:?}") };
    assert!(status.is_called("shared.test", "a.test"), "a suffix of its MX hosts' names");
    assert!(!status.is_called("shared.test", "b.test"), "not seen there");
    assert!(!status.is_called("elsewhere.test", "a.test"));
    assert!(world.links.is_empty());
}

#[test]
fn where_limits_fall_connections_end() {
    let mut world = World::new(config(6, 1, 1_000), 1);
    for queue in 1..=5 {
        world.enqueue(queue, Lane::Bulk, "a.test", 1_000, START);
    }
    // As many as may be, each with something to send.
    world.core.handle(Event::Expected(Domain::parse("a.test").unwrap()), START);
    world.settle();
    for _ in 0..2 {
        let link = *world.links.keys().next().unwrap();
        world.core.handle(Event::Did(link, 1), world.now);
        world.settle();
    }
    assert_eq!((standing(&world.core), world.links.len()), (5, 5));
    world.set(&[order("a.test", "connections=3", None)]);
    assert_eq!(standing(&world.core), 2, "one is kept for direct mail");
    let quits = world.core.commands.iter().filter(|c| matches!(c, Command::Quit(_))).count();
    assert_eq!(quits, 3);
    world.settle();
    assert_eq!(world.links.len(), 2);
    world.set(&[]);
    let mut rng = from_seed(1);
    world.run(&mut rng);
    assert_eq!(world.delivered.values().sum::<u64>() + world.waiting(), 5_000);
}

#[test]
fn what_was_used_of_a_rate_counts_when_it_is_changed() {
    let mut world = World::new(config(4, 1, 1), 1);
    world.set(&[order("a.test", "connection_rate=1/h", None)]);
    world.handoff("a.test");
    world.settle();
    assert_eq!(world.opened.len(), 1);
    world.set(&[order("a.test", "connection_rate=2/h", None)]);
    world.handoff("a.test");
    world.handoff("a.test");
    world.settle();
    assert_eq!(world.opened.len(), 2, "one was used");
    world.set(&[order("a.test", "connection_rate=none", None)]);
    world.settle();
    assert_eq!(world.opened.len(), 3, "at once, without an event");
}

#[test]
fn a_site_that_comes_later_has_them_from_the_start() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.set(&[order("shared.test", "connections=2", None)]);
    assert_eq!(
        world.value("mx.shared.test", LimitKey::Connections),
        ("2, live (shared.test), until cleared".into(), false)
    );
    world.enqueue(1, Lane::Bulk, "a.test", 1, START);
    world.settle();
    let (shown, in_use) = world.value("a.test", LimitKey::Connections);
    assert_eq!((shown.as_str(), in_use), ("2, live (shared.test), until cleared", true));
}

#[test]
fn an_order_by_a_domain_is_known_before_its_mail_comes() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.enqueue(1, Lane::Bulk, "b.test", 1, START);
    world.settle();
    world.set(&[order("a.test", "connections=2", None)]);
    world.settle();
    let (shown, _) = world.value("b.test", LimitKey::Connections);
    assert_eq!(shown, "2, live (a.test), until cleared", "it has the same hosts");
    for _ in 0..5 {
        world.now = world.now.after(Duration::from_secs(100));
        world.settle();
    }
    assert!(world.core.domains.contains_key(&Domain::parse("a.test").unwrap()));
}

#[test]
fn suspensions_are_kept_for_the_planner_until_their_end() {
    let mut world = World::new(config(4, 1, 100), 1);
    let end = START.after(Duration::from_secs(5));
    let scope = Scope { tenant: Some("c1".into()), ..Scope::default() };
    let mut orders = Orders::default();
    orders
        .suspend(Suspension { scope, reason: "spam".into(), since: START, until: Some(end) })
        .unwrap();
    world.core.set_orders(orders, START);
    assert_eq!(world.core.orders.suspensions().len(), 1);
    world.now = end;
    world.settle();
    assert_eq!((world.core.orders.suspensions().len(), &world.told[..]), (0, &["expired"][..]));
}

#[test]
fn connections_that_are_too_many_from_a_source_end() {
    let names = sources::any();
    let config = sources::with_sources(config(10, 0, 10_000), &["a", "b"], names);
    let mut world = World::new(config, 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(Duration::from_secs(60));
    assert_eq!((world.links_from("a"), world.links_from("b")), (5, 5));
    world.set(&[order("a.test", "connections_per_source=2", None)]);
    world.settle();
    assert_eq!((world.links_from("a"), world.links_from("b")), (2, 2));
    world.deliver(Duration::from_secs(5));
    assert_eq!((world.links_from("a"), world.links_from("b")), (2, 2));
}
