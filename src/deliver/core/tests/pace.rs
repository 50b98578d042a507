//! Rates of messages and of connections.

use super::*;
use crate::policy::site::{Gate, Rate};

fn rate(count: u32, secs: u64) -> Rate {
    Rate { count, per: Duration::from_secs(secs) }
}

#[test]
fn a_rate_is_waited_for_not_polled() {
    let mut config = config(4, 1, 100);
    config.sites.default.rates = vec![rate(10, 10)];
    let mut world = World::new(config, 1);
    world.enqueue(1, Lane::Bulk, "a.test", 30, START);
    let mut steps = 0;
    while world.waiting() > 0 && steps < 500 {
        world.settle();
        steps += 1;
        // The connections keep to the pace themselves; here it is kept for them.
        for link in world.links.keys().copied().collect::<Vec<_>>() {
            let fake = &world.links[&link];
            let count = fake.has.iter().map(|(_, n)| *n).sum::<u32>();
            for _ in 0..count {
                _ = fake.line.begin(&fake.source, Lane::Bulk, world.now);
            }
            if count > 0 {
                world.work(link);
            }
        }
        world.settle();
        world.sleep();
    }
    assert_eq!(world.waiting(), 0);
    assert!(steps < 100, "{steps} wake-ups for 30 messages");
    assert!(world.now.since(START) >= Duration::from_secs(25), "{:?}", world.now.since(START));
}

#[test]
fn a_site_says_which_rate_it_waits_for() {
    let mut config = config(4, 1, 10);
    config.sites.default.connection_rates = vec![rate(2, 60)];
    let mut world = World::new(config, 1);
    world.enqueue(1, Lane::Bulk, "a.test", 40, START);
    world.settle();
    let status = world.core.status(world.now).remove(0);
    assert_eq!((status.gate, status.connections), (Gate::Throttled, 1));
    assert!(status.why.starts_with("2/min new connections are used up (until "), "{}", status.why);
    world.run(&mut from_seed(1));
    let status = world.core.status(world.now).remove(0);
    assert_eq!((world.waiting(), status.gate), (0, Gate::Open), "nothing waits for it");
}

#[test]
fn a_site_without_mail_keeps_what_it_used_of_its_rates() {
    let minutes = |world: &mut World, count: u32| {
        for _ in 0..count {
            world.now = world.now.after(Duration::from_secs(60));
            world.settle();
        }
    };
    for by_message in [true, false] {
        let mut config = config(4, 1, 1);
        match by_message {
            true => config.sites.default.rates = vec![rate(1, 3_600)],
            false => config.sites.default.connection_rates = vec![rate(1, 3_600)],
        }
        let mut world = World::new(config, 1);
        world.handoff("a.test");
        world.settle();
        assert_eq!(world.opened.len(), 1);
        if by_message {
            // As the connection does, which is gone by now.
            let lines = world.core.sites.values().map(|site| &site.line);
            let source = world.core.config.sources.iter().next().unwrap();
            let begin = |line: &Arc<Line>| line.begin(source, Lane::Direct, world.now);
            let begun: Vec<_> = lines.map(begin).collect();
            assert_eq!(begun, [Ok(())]);
        }
        minutes(&mut world, 30);
        world.handoff("a.test");
        minutes(&mut world, 20);
        assert_eq!(world.opened.len(), 1, "the hour is not over");
        minutes(&mut world, 11);
        assert_eq!((world.opened.len(), world.direct), (2, 2));
        minutes(&mut world, 70);
        assert!(world.core.sites.is_empty(), "and is forgotten then");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn connections_are_opened_no_faster_than_their_rates(
        seed: u64,
        counts in (1u32..30, 1u32..100),
        waiting in 1usize..400,
        direct in 0usize..30,
    ) {
        let rates = vec![rate(counts.0, 10), rate(counts.1, 600)];
        let mut config = config(10, 2, 7);
        config.sites.default.connection_rates.clone_from(&rates);
        let mut world = World::new(config, seed);
        let mut rng = from_seed(seed);
        world.enqueue(1, Lane::Bulk, "a.test", waiting, START);
        for _ in 0..direct {
            world.handoff("b.test");
            world.settle();
        }
        world.run(&mut rng);
        for _ in 0..10_000 {
            // The last of the direct mail may wait for a connection.
            if world.direct == direct as u64 {
                break;
            }
            world.sleep();
            world.settle();
        }
        prop_assert_eq!((world.waiting(), world.direct), (0, direct as u64));
        for Rate { count, per } in rates {
            for (n, begin) in world.opened.iter().enumerate() {
                let inside = world.opened[n..].iter().take_while(|at| at.since(*begin) < per);
                prop_assert!(inside.count() <= count as usize);
            }
        }
    }
}
