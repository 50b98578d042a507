//! How many connections are opened, and how they share what there is.

use super::*;
use crate::policy::tenant::TenantRule;

#[test]
fn opens_a_connection_per_connections_worth() {
    let mut world = World::new(config(10, 2, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 250, START);
    world.settle();
    assert_eq!(world.links.len(), 3);
    world.run(&mut from_seed(1));
    assert_eq!((world.waiting(), world.opened.len()), (0, 3));
}

#[test]
fn a_slow_receiver_gets_more_connections_bit_by_bit() {
    let mut world = World::new(config(10, 2, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 200, START);
    // Nothing is known of it: no more than a few stand until it has taken something.
    for (second, links) in [2, 3, 3, 3].into_iter().enumerate() {
        world.now = START.after(Duration::from_secs(second as u64));
        world.settle();
        assert_eq!(world.links.len(), links, "after {second} s");
    }
    for links in [4, 5, 6, 7, 8, 8] {
        let link = *world.links.keys().next().unwrap();
        let claims = world.links[&link].claims;
        let wants = Event::Wants { link, room: 0, idle: false, claims, done: 1 };
        world.core.handle(wants, world.now);
        world.now = world.now.after(Duration::from_secs(1));
        world.settle();
        assert_eq!(world.links.len(), links);
    }
}

#[test]
fn of_what_is_left_each_takes_its_share() {
    let mut world = World::new(config(10, 2, 20), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 32, START);
    world.settle();
    let has = |link: &Fake| link.has.iter().map(|(_, n)| n).sum::<u32>();
    let each: Vec<u32> = world.links.values().map(has).collect();
    assert_eq!(each, [20, 6], "the first was alone; of the 12 left the other takes half");
}

/// Two tenants, each with mail for other hosts of one site, and as many connections as it takes:
/// one that direct mail has used in between is not for whoever has its hosts, but for whoever had
/// less.
#[test]
fn an_idle_connection_leaves_newsletters_to_who_is_behind_at_other_hosts() {
    let mut config = config(4, 1, 100);
    config.tenants.push(TenantRule { name: "tenant2".into(), weight: 3, ..TenantRule::default() });
    let mut world = World { dns: two_hosts, ..World::new(config, 1) };
    (0..4).for_each(|_| world.handoff("a.test"));
    world.settle();
    world.enqueue(1, Lane::Bulk, "a.test", 4_000, START);
    world.enqueue(2, Lane::Bulk, "b.test", 4_000, START);
    let mut rng = from_seed(7);
    while world.delivered(1) + world.delivered(2) < 3_000 {
        (0..2).for_each(|_| world.handoff("a.test"));
        world.settle();
        world.some_link_works(&mut rng);
        world.settle();
        world.now = world.now.after(Duration::from_millis(50));
    }
    let (one, three) = (world.delivered(1), world.delivered(2));
    assert!(three >= 5 * one / 2, "{one} at weight 1, {three} at weight 3");
}
