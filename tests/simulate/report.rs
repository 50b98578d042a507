//! Five million deliveries over 100,000 domains: how near to the best that is possible they come.
//!
//! # The optimum
//! No scheduler can be quicker than the slowest of these, which all have to be kept:
//! * a site of D newsletters with c connections, r of them reserved, n deliveries to each: every
//!   connection is n deliveries each `connect + transaction(new) + (n - 1) * transaction(riding) +
//!   quit` long, and c - r of them are at work all the time: `D / n * that / (c - r)`;
//! * a site with a rate of N in t, of which newsletters may have nine tenths: `D / (0.9 N / t)`;
//!   for new connections, `D / n` of them;
//! * nine tenths of all connections that there may be: the sum over sites of `D / n * that` by it.
//!
//! A domain's first connections, the lookups and the gathering time are not in it.

use crate::load::{PROVIDERS, Popular, Scenario, defaults, hosts, place, poisson, promise, rule};
use crate::load::{setting, tenants};
use crate::world::receivers::{Answer, Manner, Operator};
use crate::world::stock::Stock;
use crate::world::{Mail, START, World};
use bulkhead::base::random::from_seed;
use bulkhead::base::time::Timestamp;
use bulkhead::mail::message::Lane;
use bulkhead::policy::site::{Limits, Rate};
use std::time::{Duration, Instant};

const DELIVERIES: u64 = 5_000_000;
const DOMAINS: usize = 100_000;
const CAMPAIGNS: u32 = 36;
/// Direct messages a second.
const DIRECT: f64 = 10.0;
/// How long clients hand over direct mail; less than the drain lasts.
const DIRECT_FOR_MS: i64 = 3_000_000;

/// What is promised.
const RATIO_MAX: f64 = 1.15;
const SHARE_MAX: f64 = 1.1;
const LATE_MAX: i64 = 1_000;

/// What each provider takes: connections, reserve, deliveries per connection, messages a second,
/// new connections a minute; 0: no limit. Then there and back, and its time for a message, in ms.
const TAKES: [(u32, u32, u32, u32, u32, i64, i64); 8] = [
    (60, 4, 100, 0, 0, 40, 120),
    (40, 4, 100, 150, 0, 60, 150),
    (30, 3, 20, 0, 400, 50, 80),
    (30, 3, 50, 0, 0, 60, 150),
    (20, 2, 5, 0, 0, 50, 60),
    (10, 2, 20, 80, 0, 25, 20),
    (6, 1, 100, 0, 0, 35, 30),
    (8, 1, 100, 0, 0, 110, 60),
];

fn limits(n: usize) -> Limits {
    let (connections, reserved_for_direct, deliveries_per_connection, per_second, per_minute, ..) =
        TAKES[n];
    let rate = |count: u32, secs| {
        let rate = Rate { count, per: Duration::from_secs(secs) };
        if count > 0 { vec![rate] } else { Vec::new() }
    };
    Limits {
        connections,
        connections_per_source: connections,
        reserved_for_direct,
        deliveries_per_connection,
        recipients_per_transaction: 100,
        rates: rate(per_second, 1),
        rates_per_source: Vec::new(),
        connection_rates: rate(per_minute, 60),
        connection_rates_per_source: Vec::new(),
    }
}

/// Providers, hosters of hundreds of domains, and domains with hosts of their own.
fn scenario(deliveries: u64) -> Scenario {
    let mut rng = from_seed(1);
    let mut config = defaults();
    let weights: Vec<u32> = (0..12).map(|n| 1 + n % 4).collect();
    config.tenants = tenants(&weights).into();
    let (mut operators, mut places, mut popularity) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (name, mx, share)) in PROVIDERS.into_iter().enumerate() {
        let (.., rtt, service) = TAKES[n];
        config.sites.rules.push(rule(name, &limits(n)));
        let manner = Manner::sound(rtt, service);
        operators.push(Operator::new(name, vec![hosts(mx, n, 0)], manner, limits(n)));
        places.push(place(&format!("{}.test", name.replace('.', "-")), n, Answer::Hosts(0), 20));
        popularity.push(share);
    }
    let tail = 100.0 - popularity.iter().sum::<f64>();
    let first = places.len();
    // One in eleven of the tail has its own hosts; hosters have two hundred domains each.
    while places.len() < DOMAINS {
        let at = operators.len();
        let manner = Manner::sound(rng.i64(10..150), rng.i64(5..300));
        let set = vec![hosts(&format!("mx.o{at}.test"), at, 0)];
        operators.push(Operator::new("tail", set, manner, config.sites.default.clone()));
        for d in 0..if at % 20 == 0 { 200 } else { 1 } {
            let answer = if d % 4 == 3 { Answer::OwnName(0) } else { Answer::Hosts(0) };
            let takes = rng.i64(5..80);
            places.push(place(&format!("d{d}.o{at}.test"), at, answer, takes));
            popularity.push(0.0);
        }
    }
    rng.shuffle(&mut places[first..]);
    for (n, share) in popularity[first..].iter_mut().enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let zipf = 1.0 / (n as f64 + 50.0).powf(0.7);
        *share = zipf;
    }
    let all: f64 = popularity[first..].iter().sum();
    popularity[first..].iter_mut().for_each(|share| *share *= tail / all);
    let mail = mail(deliveries, &popularity, weights.len());
    let direct_per_second = DIRECT;
    let mut scenario = Scenario { config, operators, places, mail, popularity, direct_per_second };
    promise(&mut scenario);
    scenario
}

/// All newsletters at once, direct mail all the time.
fn mail(deliveries: u64, popularity: &[f64], tenants: usize) -> Vec<(Timestamp, Mail)> {
    let (mut rng, popular) = (from_seed(2), Popular::new(popularity));
    let mut mail = Vec::new();
    for _ in 0..deliveries {
        // Some campaigns are many times as large as others.
        let campaign = rng.u32(..CAMPAIGNS).min(rng.u32(..CAMPAIGNS));
        let to = popular.pick(&mut rng);
        mail.push((START, Mail::bulk(campaign as usize % tenants, campaign, to)));
    }
    for at in poisson(&mut rng, DIRECT, 60_000, DIRECT_FOR_MS) {
        let (tenant, to) = (rng.usize(..tenants), popular.pick(&mut rng));
        mail.push((at, Mail::direct(tenant, vec![to])));
    }
    mail
}

/// In seconds; and of the site that decides it, its name.
#[allow(clippy::cast_precision_loss)]
fn optimum(scenario: &Scenario) -> (f64, String) {
    let mut newsletters = vec![0u64; scenario.operators.len()];
    for (_, mail) in scenario.mail.iter().filter(|(_, mail)| mail.lane == Lane::Bulk) {
        newsletters[scenario.places[mail.to[0]].operator] += 1;
    }
    let (mut worst, mut busy) = ((0.0, String::new()), 0.0);
    for (operator, newsletters) in scenario.operators.iter().zip(newsletters) {
        let (manner, limits) = (&operator.manner, &operator.limits);
        let each = i64::from(limits.deliveries_per_connection);
        let lasts = manner.connect()
            + manner.transaction(false)
            + manner.quit()
            + (each - 1) * manner.transaction(true);
        let connections = newsletters as f64 / each as f64;
        let seconds = connections * lasts as f64 / 1_000.0;
        busy += seconds;
        let paced = |rate: &Rate| 0.9 * f64::from(rate.count) / rate.per.as_secs_f64();
        let at_work = limits.connections - limits.reserved_for_direct;
        let times = [seconds / f64::from(at_work)]
            .into_iter()
            .chain(limits.rates.iter().map(|rate| newsletters as f64 / paced(rate)))
            .chain(limits.connection_rates.iter().map(|rate| connections / paced(rate)));
        for time in times {
            if PROVIDERS.iter().any(|(name, ..)| *name == operator.name) {
                println!("{:12} {newsletters:9} newsletters, {time:6.0} s at best", operator.name);
            }
            if time > worst.0 {
                worst = (time, operator.name.clone());
            }
        }
    }
    let in_all = busy / (0.9 * scenario.config.delivery.connections as f64);
    println!("all connections: {in_all:6.0} s at best");
    if in_all > worst.0 { (in_all, "all connections".into()) } else { worst }
}

/// `BULKHEAD_SIM_DELIVERIES=100000` runs a smaller one.
#[test]
#[ignore = "minutes in a release build: `cargo test --release --test simulate -- --ignored`"]
#[allow(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures")]
fn report() {
    let deliveries = setting("BULKHEAD_SIM_DELIVERIES").unwrap_or(DELIVERIES);
    let begun = Instant::now();
    let mut scenario = scenario(deliveries);
    let (optimum, where_) = optimum(&scenario);
    let mail = std::mem::take(&mut scenario.mail);
    let Scenario { config, operators, places, .. } = scenario;
    let mut world = World::new(config, 1, operators, places, Stock::new);
    world.load(mail);
    let mut most = world.core.extent();
    for minute in 1..60 * 24 {
        world.run(Timestamp(START.0 + minute * 60_000), World::is_done);
        let extent = world.core.extent();
        most.queues = most.queues.max(extent.queues);
        (most.domains, most.sites) =
            (most.domains.max(extent.domains), most.sites.max(extent.sites));
        (most.links, most.alarms) = (most.links.max(extent.links), most.alarms.max(extent.alarms));
        if world.is_done() {
            break;
        }
    }
    assert!(world.is_done() && world.queued() == 0, "not drained in a day");
    let simulated = world.last_newsletter.since(START).as_secs_f64();
    let wall = begun.elapsed();
    let windows = crate::fullest_windows(&mut world);
    let [whole, beyond] = [2, 100].map(|of| world.ledger.all_but_one_in(of).unwrap_or_default());
    let figures = &world.figures;
    let each = |count: u64| count as f64 / world.ledger.delivered as f64;
    println!("deliveries                    {}", world.ledger.delivered);
    println!("simulated until the last newsletter  {simulated:.0} s");
    println!("optimum                       {optimum:.0} s ({where_})");
    println!("ratio                         {:.3}", simulated / optimum);
    println!("fullest windows (messages, as seen; connections, as seen)  {windows:.3?}");
    println!(
        "greatest share by the fair one  {:.3} in {} spans",
        world.shares.worst, world.shares.spans
    );
    println!(
        "direct mail                   {} of {}",
        world.ledger.latencies.len(),
        figures.handed
    );
    println!("direct p50, p99               {} ms, {} ms", whole.0, beyond.0);
    println!("direct p99 beyond what its receiver needs  {} ms", beyond.1);
    println!("connections opened            {}", figures.opens);
    println!("core steps                    {} ({:.2} each)", figures.steps, each(figures.steps));
    println!("most at once                  {most:?}");
    println!("longest step                  {:.0} ms", figures.longest.as_secs_f64() * 1e3);
    println!("wall time                     {:.0} s", wall.as_secs_f64());
    println!(
        "planner                       {:.2} us each",
        figures.planning.as_secs_f64() * 1e6 / world.ledger.delivered as f64
    );
    assert!(simulated <= RATIO_MAX * optimum, "slower than it could be");
    assert!(windows.iter().all(|fullest| *fullest <= 1.0), "a rate was exceeded");
    assert_eq!(figures.over_reserve, 0, "bulk mail took the reserve");
    assert!(
        world.shares.spans > 0 && world.shares.worst <= SHARE_MAX,
        "tenants had more than their share"
    );
    assert!(beyond.1 <= LATE_MAX, "direct mail waited");
}
