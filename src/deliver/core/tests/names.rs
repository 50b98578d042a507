//! What DNS says of domains, or fails to say, and whose question comes first.

use super::*;

#[test]
fn a_failing_dns_defers_and_a_dead_domain_fails() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.dns = |domain| match domain.as_str() {
        "null.test" => Resolution::NullMx,
        _ => Resolution::Temporary("SERVFAIL".into()),
    };
    world.enqueue(1, Lane::Bulk, "null.test", 250, START);
    world.enqueue(2, Lane::Bulk, "slow.test", 10, START);
    world.handoff("slow.test");
    world.settle();
    assert_eq!((world.gave_up, world.concluded), (250, 1));
    assert_eq!(world.core.status(world.now)[0].why, "DNS: SERVFAIL");
    world.dns = shared_mx;
    world.run(&mut from_seed(1));
    assert_eq!(world.delivered[&QueueId(2)], 10);
}

#[test]
fn mail_is_not_failed_on_an_old_answer() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.dns = |_| Resolution::NullMx;
    let later = START.after(Duration::from_secs(3_600));
    world.enqueue(1, Lane::Bulk, "a.test", 10, later);
    world.settle();
    world.dns = shared_mx;
    world.run(&mut from_seed(1));
    assert_eq!((world.gave_up, world.delivered[&QueueId(1)]), (0, 10));
}

#[test]
fn a_failing_dns_is_asked_less_and_less_often() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.dns = |_| Resolution::Temporary("SERVFAIL".into());
    world.enqueue(1, Lane::Bulk, "slow.test", 10, START);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        world.settle();
        let next = world.next_alarm(|alarm| matches!(alarm, Alarm::Domain(_)));
        pauses.push(next.since(world.now).as_secs());
        world.now = next;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
}

#[test]
fn direct_mail_does_not_wait_behind_the_look_ups_of_bulk_mail() {
    let mut world = World::new(config(4, 1, 100), 1);
    let domain = Domain::parse("a.test").unwrap();
    let asked = |world: &mut World| -> Vec<Turn> {
        let commands = world.core.step(START);
        let turn = |command| match command {
            Command::Resolve(_, turn) => Some(turn),
            _ => None,
        };
        commands.into_iter().filter_map(turn).collect()
    };
    let mut ask = |turn| {
        world.core.look_up(domain.clone(), turn, START);
        asked(&mut world)
    };
    assert_eq!(ask(Turn::Bulk), [Turn::Bulk]);
    assert_eq!(ask(Turn::Bulk), []);
    assert_eq!(ask(Turn::Direct), [Turn::Direct]);
    for turn in [Turn::Direct, Turn::Expected, Turn::Bulk] {
        assert_eq!(ask(turn), []);
    }
}
