//! The planner in a simulated world: receivers that limit, refuse, stall, vanish and lie, tenants
//! that send at once, and hours that pass in seconds.
//!
//! Each seed is a world (`load`), and all of them keep the same promises, most of which `world`
//! checks at every event. `BULKHEAD_SIM_SEEDS=1000` runs more seeds, `BULKHEAD_SIM_SEED=17` one of
//! them again. A seed fixes the world and what receivers do to each delivery, not the order in
//! which the core goes through its hash tables: what happens again is alike, not the same to the
//! millisecond.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub, reason = "a test has no other users")]

mod load;
mod ramp;
mod report;
mod variety;
mod world;

use bulkhead::base::time::Timestamp;
use bulkhead::deliver::core::Extent;
use bulkhead::policy::site::{Limits, Rate};
use bulkhead::policy::tenant::TenantRule;
use bulkhead::store::Store;
use bulkhead::store::memory::MemoryStore;
use load::setting;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;
use world::ledger::fullest;
use world::receivers::Book;
use world::{START, World};

/// Seeds that run by default: about a minute in a debug build on two cores, with those below.
const SEEDS: u64 = 44;
/// Seeds that run too: where connections that idled for a moment between two messages, or carried
/// direct mail in turns, stayed with who had had more than others.
const ALSO: [u64; 4] = [361, 437, 833, 925];
/// What a tenant may have while others wait, by its fair share.
const SHARE_MAX: f64 = 1.1;
/// What direct mail may take in ms beyond what its receiver needs, but for one in a hundred.
const LATE_MAX: f64 = 1_000.0;
/// By then everything has been delivered or given up.
const END: Duration = Duration::from_secs(6 * 86_400);

/// The fullest window of any rate of any site or domain, by its limit: messages as they are counted
/// and as receivers see them, then new connections likewise.
fn fullest_windows<S: Store>(world: &mut World<S>) -> [f64; 4] {
    let mut worst = [0.0f64; 4];
    for operator in &mut world.operators {
        let Limits {
            rates, rates_per_source, connection_rates, connection_rates_per_source, ..
        } = &operator.limits;
        let mut all = Book::default();
        for book in operator.books.values_mut() {
            let windows = of_book(book, rates_per_source, connection_rates_per_source);
            worst = std::array::from_fn(|n| worst[n].max(windows[n]));
            all.begun.append(&mut book.begun);
            all.seen.append(&mut book.seen);
            all.opened.append(&mut book.opened);
            all.met.append(&mut book.met);
        }
        let windows = of_book(&mut all, rates, connection_rates);
        worst = std::array::from_fn(|n| worst[n].max(windows[n]));
    }
    for rule in &world.config.domains {
        let times = world.to_domains.iter_mut().find(|(domain, _)| domain.as_str() == rule.name);
        for (n, times) in times.into_iter().flat_map(|(_, times)| times).enumerate() {
            worst[n] = worst[n].max(fullest_of(times, &rule.rates));
        }
    }
    worst
}

fn of_book(book: &mut Book, rates: &[Rate], connection_rates: &[Rate]) -> [f64; 4] {
    [
        fullest_of(&mut book.begun, rates),
        fullest_of(&mut book.seen, rates),
        fullest_of(&mut book.opened, connection_rates),
        fullest_of(&mut book.met, connection_rates),
    ]
}

fn fullest_of(times: &mut [Timestamp], rates: &[Rate]) -> f64 {
    let of = |rate: &Rate| fullest(times, rate.count, i64::try_from(rate.per.as_millis()).unwrap());
    rates.iter().map(of).fold(0.0, f64::max)
}

/// The same for the messages of each tenant, to all sites together.
fn fullest_of_tenants<S: Store>(world: &mut World<S>) -> f64 {
    let config = Arc::clone(&world.config);
    let of = |tenant: &TenantRule| {
        let times = world.permitted.get_mut(&tenant.name);
        times.map_or(0.0, |times| fullest_of(times, &tenant.rates))
    };
    config.tenants.iter().map(of).fold(0.0, f64::max)
}

/// What is checked at the end of a world, besides what it checks all the time.
#[derive(Clone)]
struct Seen {
    /// Fullest windows: see [`fullest_windows`].
    windows: [f64; 4],
    /// See [`fullest_of_tenants`].
    tenants: f64,
    /// Greatest share of a tenant at a site by its fair one.
    share: f64,
    /// Connections busy with bulk mail beyond what the reserve leaves, at most.
    over_reserve: u32,
    /// In ms, the 99th of 100 direct messages to sound receivers, beyond what those need.
    late: f64,
}

fn run(seed: u64) -> Seen {
    let mut scenario = load::scenario(seed);
    variety::add(seed, &mut scenario);
    let config = scenario.config;
    let mut world = World::new(config, seed, scenario.operators, scenario.places, MemoryStore::new);
    world.load(scenario.mail);
    world.run(START.after(END), World::is_done);
    assert_eq!(world.ledger.open(), 0, "neither delivered nor given up at the end");
    assert_eq!(world.queued(), 0, "the store keeps what has ended");
    comes_to_rest(&world);
    forgets(&mut world);
    let late = world.ledger.all_but_one_in(100).map_or(0, |(_, beyond)| beyond);
    let late = f64::from(i32::try_from(late).unwrap());
    let share = world.shares.worst;
    let over_reserve = world.figures.over_reserve;
    let (windows, tenants) = (fullest_windows(&mut world), fullest_of_tenants(&mut world));
    Seen { windows, tenants, share, over_reserve, late }
}

/// Steps follow what happens: one for each event and for each attempt that changes the backlog, and
/// one a second while mail waits.
fn comes_to_rest<S: Store>(world: &World<S>) {
    let seconds = world.now.since(START).as_secs();
    let figures = &world.figures;
    assert!(
        figures.steps <= figures.events + figures.attempts + seconds,
        "{seconds} s, {figures:?}"
    );
}

/// Nothing is remembered of what was done, but for the domains that rules name.
fn forgets<S: Store>(world: &mut World<S>) {
    world.run(world.now.after(Duration::from_secs(7_200)), |_| false);
    let extent = world.core.extent();
    assert_eq!(world.connections(), 0, "connections after the end");
    let rules = world.config.sites.rules.len();
    let most = Extent { domains: rules, sites: rules, alarms: 1, ..Extent::default() };
    assert!(
        extent.domains <= most.domains && extent.sites <= most.sites && extent.links == 0,
        "{extent:?}, expected {most:?}"
    );
    assert_eq!((extent.queues, extent.alarms), (0, 1), "the sweep alone");
}

/// What was seen in the world of a seed, which is run once; `None` where a promise was broken that
/// is checked as it runs.
fn seen(seed: u64) -> Option<Seen> {
    type Worlds = HashMap<u64, Arc<OnceLock<Option<Seen>>>>;
    static WORLDS: LazyLock<Mutex<Worlds>> = LazyLock::new(Mutex::default);
    let world = Arc::clone(WORLDS.lock().unwrap().entry(seed).or_default());
    world.get_or_init(|| std::panic::catch_unwind(|| run(seed)).ok()).clone()
}

/// Runs these seeds, as many at once as there are cores, and says which of them broke a promise.
fn check(seeds: impl Iterator<Item = u64>, promise: impl Fn(&Seen) -> Result<(), String> + Sync) {
    let seeds: Vec<u64> = setting("BULKHEAD_SIM_SEED").map_or_else(|| seeds.collect(), |s| vec![s]);
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let broke = match seen(*seed) {
                Some(seen) => promise(&seen).err(),
                None => Some("see above".to_string()),
            };
            if let Some(why) = broke {
                broken.lock().unwrap().push(format!("BULKHEAD_SIM_SEED={seed}: {why}"));
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(work);
        }
    });
    let broken = broken.into_inner().unwrap();
    assert!(
        broken.is_empty(),
        "{} of {} worlds:\n{}",
        broken.len(),
        seeds.len(),
        broken.join("\n")
    );
}

/// An error where `seen` is more than `most`.
fn at_most(most: f64, seen: f64, what: &str) -> Result<(), String> {
    if seen <= most { Ok(()) } else { Err(format!("{what}: {seen:.3}")) }
}

/// Seeds of one kind (`load`), as many as are asked for; `None`: all of them.
fn some(kind: Option<u64>) -> impl Iterator<Item = u64> {
    let all = 0..setting("BULKHEAD_SIM_SEEDS").unwrap_or(SEEDS);
    all.filter(move |seed| kind.is_none_or(|kind| seed % 4 == kind))
}

#[test]
fn every_world_keeps_the_promises() {
    check(some(None).chain(ALSO), |seen| {
        let [begun, at_receivers, opened, _] = seen.windows;
        at_most(1.0, begun, "messages begun, by the rate")?;
        at_most(1.0, at_receivers, "messages that a receiver saw, by the rate")?;
        at_most(1.0, opened, "connections, by their rate")?;
        at_most(1.0, seen.tenants, "a tenant's messages, by its rate")?;
        at_most(LATE_MAX, seen.late, "ms that direct mail took beyond what receivers need")?;
        at_most(SHARE_MAX, seen.share, "a tenant's mail for a site, by its share")
    });
}

/// Where direct mail that was put off is sent over connections that bulk mail keeps busy, too.
#[test]
fn bulk_mail_never_takes_the_reserve() {
    check(some(Some(2)), |seen| {
        at_most(0.0, f64::from(seen.over_reserve), "connections more than the reserve leaves")
    });
}

/// Where a site greets with 421 at one address after the other, too.
#[test]
fn receivers_see_no_more_new_connections_than_the_rate() {
    check(some(Some(2)), |seen| {
        let [.., met] = seen.windows;
        at_most(1.0, met, "connections that a receiver saw, by their rate")
    });
}
