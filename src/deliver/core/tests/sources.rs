//! From which source mail goes: limits of each, pools, and what receivers refuse.

use super::*;
use crate::policy::feedback::{Ask, Whose};
use crate::policy::orders::ThrottleOrder;
use crate::policy::site::Gate;
use crate::policy::site::setting::Setting;
use crate::policy::source::{SourceRule, Sources};
use crate::policy::tenant::TenantRule;

/// Sources of these names; of each lane and tenant, those that it may use.
pub(super) fn with_sources(mut config: Config, names: &[&str], lanes: ByLane<&[&str]>) -> Config {
    let rule = |name: &&str| SourceRule { name: (*name).into(), ..SourceRule::default() };
    let rules: Vec<SourceRule> = names.iter().map(rule).collect();
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let lanes = ByLane { direct: owned(lanes.direct), bulk: owned(lanes.bulk) };
    config.sources = Sources::new(&rules, &lanes, &config.tenants, &config.hostname);
    config
}

pub(super) fn any() -> ByLane<&'static [&'static str]> {
    ByLane { direct: &[], bulk: &[] }
}

impl World {
    /// Connections from the source of this name.
    pub(super) fn links_from(&self, name: &str) -> usize {
        self.links.values().filter(|fake| fake.source.name == name).count()
    }

    /// The site says of its mail from this source that it wants nothing for a minute.
    fn refuse(&mut self, name: &str) {
        let found = self.links.iter().find(|(_, fake)| fake.source.name == name);
        let (link, whose) = (*found.unwrap().0, Whose::Sources(name.into()));
        let (ask, why) = (Ask::Stop(Duration::from_secs(60)), format!("554 {name} is listed"));
        self.core.handle(Event::Complaint(link, Complaint { ask, whose, why }), self.now);
    }
}

#[test]
fn each_source_has_its_connections_and_none_more_than_it_may() {
    let mut config = config(10, 0, 100);
    config.sites.default.connections_per_source = 3;
    let mut world = World::new(with_sources(config, &["a", "b"], any()), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    for _ in 0..600 {
        world.deliver(Duration::from_secs(1));
        assert!(world.links_from("a") <= 3 && world.links_from("b") <= 3);
    }
    world.settle();
    assert_eq!((world.links_from("a"), world.links_from("b")), (3, 3));
    let status = world.core.status(world.now);
    let waits = &status[0].waiting[0];
    assert_eq!(waits.limit, crate::policy::site::Limit::Connections);
    assert!(waits.text.contains("of 3 from each of its sources"), "{}", waits.text);
}

#[test]
fn a_lower_limit_of_each_source_ends_the_connections_that_are_too_many() {
    let mut world = World::new(with_sources(config(10, 0, 100), &["a", "b"], any()), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(Duration::from_secs(300));
    world.settle();
    assert_eq!((world.links_from("a"), world.links_from("b")), (5, 5));
    let setting = Setting::parse("connections_per_source=2").unwrap();
    let site = "a.test".to_string();
    let order = ThrottleOrder { site, setting, since: world.now, until: None };
    let mut orders = Orders::default();
    orders.set(order).unwrap();
    world.core.set_orders(orders, world.now);
    world.settle();
    assert_eq!((world.links_from("a"), world.links_from("b")), (2, 2));
}

#[test]
fn each_lane_goes_from_its_own_pool() {
    let lanes = ByLane { direct: &["a"][..], bulk: &["b"][..] };
    let mut world = World::new(with_sources(config(4, 1, 100), &["a", "b"], lanes), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 1_000, START);
    world.settle();
    assert_eq!((world.links_from("a"), world.links_from("b") > 0), (0, true));
    world.handoff("a.test");
    world.settle();
    assert_eq!((world.direct, world.links_from("a")), (1, 1), "over a connection of its own");
    for link in world.links.keys().copied().collect::<Vec<_>>() {
        world.work(link);
    }
    let from = |world: &World| world.links.values().map(|f| f.source.name.clone()).collect();
    let names: BTreeSet<String> = from(&world);
    assert_eq!(names.len(), 2, "each stays with its own mail");
}

#[test]
fn a_newsletter_connection_gives_way_to_direct_mail_that_it_cannot_take() {
    let lanes = ByLane { direct: &["a"][..], bulk: &["b"][..] };
    let mut world = World::new(with_sources(config(1, 0, 100_000), &["a", "b"], lanes), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(Duration::from_secs(10));
    assert_eq!((world.links_from("a"), world.links_from("b")), (0, 1));
    world.handoff("a.test");
    world.settle();
    assert_eq!((world.direct, world.sources.len()), (1, 2));
    world.deliver(Duration::from_secs(60));
    assert_eq!((world.links_from("a"), world.links_from("b")), (0, 1), "and then they go on");
}

#[test]
fn newsletters_leave_direct_mail_connections_from_each_source() {
    let lanes = ByLane { direct: &["a"][..], bulk: &[][..] };
    let mut config = config(10, 2, 100);
    config.sites.default.connections_per_source = 4;
    let mut world = World::new(with_sources(config, &["a", "b"], lanes), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(Duration::from_secs(300));
    world.settle();
    assert_eq!((world.links_from("a"), world.links_from("b")), (2, 2));
    world.handoff("a.test");
    world.settle();
    assert_eq!((world.direct, world.links_from("a")), (1, 3));
}

#[test]
fn direct_mail_goes_from_a_source_that_may_send_now() {
    let mut config = config(10, 2, 100);
    let rate = crate::policy::site::Rate { count: 2, per: Duration::from_secs(8) };
    config.sites.default.rates_per_source = vec![rate];
    let mut world = World::new(with_sources(config, &["a", "b"], any()), 1);
    for taken in [&[1][..], &[1, 1], &[1, 1]] {
        world.handoff("a.test");
        world.settle();
        // What it went from may send no more for a while; its connection idles.
        for fake in world.links.values().filter(|fake| fake.room < 100) {
            while fake.line.begin(&fake.source, Lane::Direct, world.now).is_ok() {}
        }
        let took: Vec<u32> = world.links.values().map(|fake| 100 - fake.room).collect();
        assert_eq!(took, taken);
    }
    // The third goes from the first of them that may send again.
    world.now = world.next_alarm(|alarm| matches!(alarm, Alarm::Site(_)));
    assert_eq!(world.now.since(START).as_secs(), 7, "a second before it may");
    world.settle();
    assert_eq!(world.direct, 3);
}

#[test]
fn direct_mail_that_no_source_may_send_for_long_waits_in_the_store() {
    let mut config = config(10, 2, 100);
    let rate = crate::policy::site::Rate { count: 1, per: Duration::from_secs(3_600) };
    config.sites.default.rates_per_source = vec![rate];
    let mut world = World::new(with_sources(config, &["a"], any()), 1);
    for _ in 0..3 {
        world.handoff("a.test");
        world.settle();
        let fake = world.links.values().next().unwrap();
        _ = fake.line.begin(&fake.source, Lane::Direct, world.now);
    }
    assert_eq!((world.direct, world.released), (1, 2));
}

#[test]
fn one_that_idles_at_another_host_makes_room_at_its_source() {
    let mut config = config(10, 2, 100);
    config.sites.default.connections_per_source = 1;
    let mut world = World::new(with_sources(config, &["a"], any()), 1);
    world.dns = two_hosts;
    world.handoff("a.test");
    world.settle();
    world.handoff("b.test");
    world.settle();
    assert_eq!((world.direct, world.opened.len(), world.links.len()), (2, 2, 1));
    world.enqueue(1, Lane::Bulk, "a.test", 10, START);
    world.settle();
    assert_eq!((world.opened.len(), world.links.len()), (3, 1));
}

#[test]
fn a_refused_source_rests_and_the_others_go_on() {
    let mut world = World::new(with_sources(config(10, 0, 100), &["a", "b"], any()), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(Duration::from_secs(30));
    assert!(world.links_from("a") > 0 && world.links_from("b") > 0);
    world.refuse("a");
    world.settle();
    assert_eq!(world.links_from("a"), 0);
    let before = world.delivered(1);
    world.deliver(Duration::from_secs(20));
    assert_eq!(world.links_from("a"), 0);
    assert!(world.delivered(1) > before && world.links_from("b") > 0);
    let status = &world.core.status(world.now)[0];
    assert_eq!(status.gate, Gate::Throttled);
    assert!(status.why.starts_with("554 a is listed (source a rests until "), "{}", status.why);

    world.refuse("b");
    world.settle();
    let status = &world.core.status(world.now)[0];
    assert_eq!((status.gate, world.links.len()), (Gate::Broken, 0), "{}", status.why);
    world.handoff("a.test");
    assert_eq!(world.concluded, 0);
    world.settle();
    assert_eq!(world.concluded, 1, "direct mail does not wait in memory");
    // The first of them is forgiven after its minute.
    world.deliver(Duration::from_secs(45));
    assert!(world.links_from("a") > 0);
    assert_eq!(world.links_from("b"), 0);
}

/// A tenant whose mail goes from this source alone.
fn confined(name: &str, source: &str) -> TenantRule {
    TenantRule { name: name.into(), sources: vec![source.into()], ..TenantRule::default() }
}

#[test]
fn mail_whose_sources_are_refused_holds_up_no_other() {
    for lane in [Lane::Direct, Lane::Bulk] {
        let mut config = config(10, 0, 10);
        config.tenants = vec![confined("tenant1", "a"), confined("tenant2", "b")].into();
        let mut world = World::new(with_sources(config, &["a", "b"], any()), 1);
        world.enqueue(1, lane, "a.test", 1_000, START);
        world.enqueue(2, lane, "a.test", 1_000, START);
        world.deliver(Duration::from_secs(2));
        world.refuse("a");
        // Its connections end after ten deliveries each, and others are opened.
        world.deliver(Duration::from_secs(50));
        assert!(world.delivered(2) > 400, "{} of {lane:?}", world.delivered(2));
        assert_eq!((world.links_from("a"), world.links_from("b") > 0), (0, true));
    }
}

#[test]
fn what_is_said_of_the_only_source_is_said_of_all_mail() {
    let mut world = World::new(config(10, 0, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 1_000, START);
    world.settle();
    world.refuse("default");
    world.settle();
    assert_eq!((world.core.status(world.now)[0].gate, world.links.len()), (Gate::Broken, 0));
}

#[test]
fn mail_that_no_source_reaches_does_not_wait_in_memory() {
    let mut config = with_sources(config(4, 0, 100), &["six"], any());
    let rule = SourceRule {
        name: "six".into(),
        addresses: vec!["2001:db8::1".parse().unwrap()],
        hostname: None,
    };
    config.sources = Sources::new(&[rule], &ByLane::default(), &[], &config.hostname);
    let mut world = World::new(config, 1);
    world.handoff("a.test");
    world.enqueue(1, Lane::Bulk, "a.test", 10, START);
    world.settle();
    assert_eq!((world.concluded, world.opened.len()), (1, 0));
    let waits = &world.core.status(world.now)[0].waiting[0];
    assert_eq!(waits.limit, crate::policy::site::Limit::Source);
    assert!(waits.text.contains("family"), "{}", waits.text);
}

#[test]
fn a_small_receiver_sees_the_same_source_each_time() {
    let mut world = World::new(with_sources(config(4, 0, 1), &["a", "b", "c"], any()), 1);
    for _ in 0..10 {
        world.handoff("a.test");
        world.settle();
        world.now = world.now.after(Duration::from_secs(400));
    }
    assert_eq!((world.direct, world.opened.len(), world.sources.len()), (10, 10, 1));
}

#[test]
fn hosts_that_take_no_more_from_one_source_have_mail_from_another() {
    for crowded in ["a", "b"] {
        let mut world = World::new(with_sources(config(4, 1, 100), &["a", "b"], any()), 1);
        world.crowded = Some(crowded);
        world.handoff("a.test");
        world.settle();
        assert_eq!((world.direct, world.links_from(crowded)), (1, 0));
    }
}
