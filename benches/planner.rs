//! What planning costs for each delivery, with ever more scheduled queues.
//!
//! `cargo bench --bench planner [-- QUEUES …]`: the world of `tests/simulate`, with ten sites that
//! have the same number of domains each, ten tenants with ten campaigns each, and so a hundred
//! queues for each domain. All queues have the same mail due, and each delivery is followed by
//! another, so that their number stays. The planner's time is that of all calls of `Core`; the
//! store, connections and receivers of the world are not in it.
// A measurement: it reads the clock and gives up loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
#![allow(clippy::cast_precision_loss)]

#[path = "../tests/simulate/world/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod world;

use bulkhead::base::address::Domain;
use bulkhead::base::time::Timestamp;
use bulkhead::config::{self, Config};
use bulkhead::policy::site::{Limits, MxHost};
use bulkhead::policy::tenant::TenantRule;
use std::time::{Duration, Instant};
use world::receivers::{Answer, Manner, Operator, Place};
use world::stock::Stock;
use world::{Figures, Mail, World};

const SITES: usize = 10;
const TENANTS: usize = 10;
const CAMPAIGNS: usize = 10;
/// Due in each queue: enough for all connections of a site with the fewest queues, too.
const MAIL: usize = 5;
const WARM_UP: u64 = 50_000;
const MEASURED: u64 = 300_000;
/// What the greatest cost may be by the least.
const SPREAD_MAX: f64 = 1.3;

fn main() {
    let args = std::env::args().skip(1).filter_map(|arg| arg.parse().ok());
    let mut sizes: Vec<usize> = args.collect();
    if sizes.is_empty() {
        sizes = vec![1_000, 100_000, 1_000_000];
    }
    println!("queues     first look   us each   longest step   steps each   simulated/s   wall s");
    let costs: Vec<f64> = sizes.into_iter().map(measure).collect();
    let (least, most) = costs.iter().fold((f64::MAX, 0.0f64), |(a, b), c| (a.min(*c), b.max(*c)));
    println!("greatest by least: {:.2}", most / least);
    assert!(most <= SPREAD_MAX * least, "what planning costs grows with the queues");
}

/// Gives µs for each delivery.
fn measure(queues: usize) -> f64 {
    let begun = Instant::now();
    let mut world = world(queues / (TENANTS * CAMPAIGNS));
    for _ in 0..MAIL {
        for place in 0..world.places.len() {
            for campaign in 0..TENANTS * CAMPAIGNS {
                let number = u32::try_from(campaign).unwrap();
                world.accept(&Mail::bulk(campaign % TENANTS, number, place));
            }
        }
    }
    world.run(Timestamp::NEVER, |world| world.core.extent().queues == queues);
    let Figures { planning: first, longest, .. } = world.figures;
    run(&mut world, WARM_UP);
    world.figures = Figures { longest, ..Figures::default() };
    let (from, since) = (world.ledger.delivered, world.now);
    run(&mut world, from + MEASURED);
    let delivered = (world.ledger.delivered - from) as f64;
    assert_eq!(world.core.extent().queues, queues, "their number stays");
    let each = world.figures.planning.as_secs_f64() * 1e6 / delivered;
    println!(
        "{queues:9}  {:7.2} s   {each:7.2}   {:9.1} ms   {:10.2}   {:11.0}   {:6.0}",
        first.as_secs_f64(),
        world.figures.longest.as_secs_f64() * 1e3,
        world.figures.steps as f64 / delivered,
        delivered / world.now.since(since).as_secs_f64(),
        begun.elapsed().as_secs_f64(),
    );
    each
}

fn run(world: &mut World<Stock>, delivered: u64) {
    world.run(Timestamp::NEVER, |world| world.ledger.delivered >= delivered);
}

fn world(domains: usize) -> World<Stock> {
    let at = config::Place { name: "bench".into(), dir: "/".into(), machine: "relay.test".into() };
    let mut config = Config::parse("", &at).unwrap().config;
    config.lanes.gather = Duration::ZERO;
    config.sites.default = Limits {
        connections: 5,
        connections_per_source: 5,
        reserved_for_direct: 1,
        deliveries_per_connection: 100,
        recipients_per_transaction: 100,
        rates: Vec::new(),
        rates_per_source: Vec::new(),
        connection_rates: Vec::new(),
        connection_rates_per_source: Vec::new(),
    };
    let tenant = |n| TenantRule { name: format!("t{n}"), ..TenantRule::default() };
    config.tenants = (0..TENANTS).map(tenant).collect::<Vec<_>>().into();
    let operator = |n: u8| {
        let addresses = vec![[11, 0, 0, n].into()];
        let host = MxHost { preference: 10, name: format!("mx{n}.test"), addresses };
        let manner = Manner { jitter: 100, ..Manner::sound(40, 20) };
        Operator::new(&host.name.clone(), vec![vec![host]], manner, config.sites.default.clone())
    };
    let operators: Vec<Operator> = (0..SITES).map(|n| operator(u8::try_from(n).unwrap())).collect();
    let place = |n: usize| Place {
        name: Domain::parse(&format!("d{n}.test")).unwrap(),
        operator: n % SITES,
        answer: Answer::Hosts(0),
        takes: 20,
    };
    let places = (0..domains).map(place).collect();
    let mut world = World::new(config, 1, operators, places, Stock::new);
    world.refill = true;
    world
}
