//! A receiver of which nothing is known: how soon newsletters have the connections that it takes,
//! and how often it has to refuse one.

use crate::load::{defaults, place, tenants};
use crate::world::receivers::{Answer, Manner, Operator};
use crate::world::stock::Stock;
use crate::world::{Mail, START, World};
use bulkhead::policy::site::MxHost;
use std::time::Duration;

/// What the configuration permits: far more than receivers do.
const CONNECTIONS: u32 = 400;
const EACH: u32 = 100;

/// What came of it.
struct Drained {
    /// The least time that the connections need for it, by the time that it took.
    speed: f64,
    /// Connections that were refused, and of these, after the first five seconds.
    refused: usize,
    refused_late: usize,
}

/// Newsletters for one receiver that takes so many `sessions` at each of its addresses.
#[allow(clippy::cast_precision_loss)]
fn drain(newsletters: u32, addresses: u8, sessions: u32, lingers: i64) -> Drained {
    let mut config = defaults();
    config.tenants = tenants(&[1]).into();
    config.lanes.gather = Duration::ZERO;
    config.sites.default.connections = CONNECTIONS;
    config.sites.default.deliveries_per_connection = EACH;
    let host = |n: u8| MxHost {
        preference: 10 + u16::from(n / 2),
        name: format!("mx{n}.capped.test"),
        addresses: vec![[11, 0, 0, n].into()],
    };
    let hosts = (1..=addresses).map(host).collect();
    let manner = Manner { sessions_each: Some(sessions), lingers, ..Manner::sound(20, 10) };
    let lasts = manner.connect()
        + manner.transaction(false)
        + i64::from(EACH - 1) * manner.transaction(true)
        + manner.quit()
        + lingers;
    let connections = f64::from(newsletters) / f64::from(EACH);
    let least = connections * lasts as f64 / f64::from(sessions * u32::from(addresses));
    let operator = Operator::new("capped", vec![hosts], manner, config.sites.default.clone());
    let places = vec![place("capped.test", 0, Answer::Hosts(0), 5)];
    let mut world = World::new(config, 1, vec![operator], places, Stock::new);
    world.load((0..newsletters).map(|_| (START, Mail::bulk(0, 0, 0))).collect());
    world.run(START.after(Duration::from_secs(3_600)), World::is_done);
    assert!(world.is_done(), "not drained in an hour");
    assert_eq!(world.figures.attempts, u64::from(newsletters), "some were deferred");
    let took = world.last_newsletter.since(START).as_millis() as f64;
    let refused = &world.operators[0].refused;
    let late = refused.iter().filter(|at| at.since(START) > Duration::from_secs(5)).count();
    Drained { speed: least / took, refused: refused.len(), refused_late: late }
}

/// 20 sessions at each of five addresses: they are found out by doubling once too often, when as
/// many as it takes ask at each address.
#[test]
fn a_big_receiver_is_used_nearly_as_fast_as_it_permits() {
    let Drained { speed, refused, refused_late } = drain(35_286, 5, 20, 0);
    assert!(speed >= 0.9, "{speed:.3}");
    assert!(refused <= 5 * 100, "{refused} refused");
    assert_eq!(refused_late, 0);
}

#[test]
fn a_small_receiver_refuses_a_few_and_is_used_as_well() {
    for sessions in [1, 2, 3, 5, 10, 20] {
        let Drained { speed, refused, refused_late } = drain(350 * sessions, 1, sessions, 0);
        assert!(speed >= 0.9, "{speed:.3} where it takes {sessions}");
        assert!(refused <= 5 && refused_late <= 1, "{refused} refused where it takes {sessions}");
    }
}

/// It still counts a session that has just ended, as one does whose processes are slow to say so:
/// the next one is refused, which tells nothing of how many it takes.
#[test]
fn a_receiver_that_counts_what_has_ended_is_used_as_well() {
    for lingers in [5, 50, 200] {
        let Drained { speed, refused, .. } = drain(70_000, 5, 20, lingers);
        assert!(speed >= 0.9, "{speed:.3}, {refused} refused, {lingers} ms");
    }
}
