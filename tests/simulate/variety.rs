//! What some of the worlds have besides: several sources, limits of each, receivers that say what
//! they want or have a source on a block list, and customers with a rate of their own.
//!
//! It follows from the seed, too, and changes nothing else of the seed's world. Where tenants
//! contend (`load`), nobody is kept back by a pool or a rate of his own: shares could not be
//! judged.

use crate::load::{Scenario, promise};
use crate::world::START;
use crate::world::receivers::Operator;
use bulkhead::base::random::{Rng, from_seed};
use bulkhead::mail::message::ByLane;
use bulkhead::policy::site::{Limits, Rate, SiteRule};
use bulkhead::policy::source::{SourceId, SourceRule, Sources};
use std::time::Duration;

/// What receivers say when they were sent too much too fast.
const SAYS: [&str; 4] = [
    "not now",
    "4.7.1 Error: too many messages from 192.0.2.7",
    "4.7.0 Low reputation of your sending domain",
    "4.7.0 Too many connections, try again in 2 minutes",
];

/// How long in ms a receiver that limits sessions still counts one that is over.
const LINGERS: [i64; 3] = [0, 20, 500];

/// Adds what the world of this seed has.
pub fn add(seed: u64, scenario: &mut Scenario) {
    let mut rng = from_seed(seed ^ 0x5eed);
    let contests = seed % 4 == 1;
    let count = if rng.bool() { rng.u16(2..5) } else { 1 };
    if !contests {
        tenants(&mut rng, scenario, count);
    }
    let names: Vec<String> = (0..count).map(name).collect();
    let rule = |name: &String| SourceRule { name: name.clone(), ..SourceRule::default() };
    let rules: Vec<SourceRule> = names.iter().map(rule).collect();
    let mut pool = || match rng.u32(..3) {
        0 if !contests => vec![names[rng.usize(..names.len())].clone()],
        _ => Vec::new(),
    };
    let lanes = ByLane { direct: pool(), bulk: pool() };
    let config = &mut scenario.config;
    config.sources = Sources::new(&rules, &lanes, &config.tenants, &config.hostname);
    for operator in &mut scenario.operators {
        manners(&mut rng, operator, count);
        if operator.manner.sessions_max.is_some() {
            operator.manner.lingers = LINGERS[usize::try_from(seed % 3).unwrap()];
        }
    }
    if count > 1 {
        limits(&mut rng, scenario, contests);
    }
    promise(scenario);
}

fn name(n: u16) -> String {
    format!("s{n}")
}

/// Some send from a source of their own, some have a rate.
fn tenants(rng: &mut Rng, scenario: &mut Scenario, sources: u16) {
    for tenant in scenario.config.tenants.iter_mut() {
        if rng.u32(..4) == 0 {
            tenant.sources = vec![name(rng.u16(..sources))];
        }
        if rng.u32(..4) == 0 {
            let (secs, times) = [(1, 1), (60, 20)][rng.usize(..2)];
            let count = rng.u32(2..40) * times;
            tenant.rates = vec![Rate { count, per: Duration::from_secs(secs) }];
        }
    }
}

fn manners(rng: &mut Rng, operator: &mut Operator, sources: u16) {
    operator.manner.says = SAYS[rng.usize(..SAYS.len())];
    if sources > 1 && operator.manner.messages_max.is_some() {
        let from = START.after(Duration::from_secs(rng.u64(..300)));
        let until = from.after(Duration::from_secs(rng.u64(60..7_200)));
        operator.manner.lists = Some((from, until, SourceId(rng.u16(..sources))));
    }
}

/// Of each source, for all sites alike or for those with a section.
fn limits(rng: &mut Rng, scenario: &mut Scenario, ample: bool) {
    let mut of_each = |limits: &mut Limits| {
        let least = if ample { 4 } else { 1 };
        if rng.bool() && limits.connections > least {
            limits.connections_per_source = rng.u32(least..limits.connections);
        }
        if rng.u32(..4) == 0 {
            let count = if ample { rng.u32(20..60) } else { rng.u32(1..30) };
            limits.rates_per_source = vec![Rate { count, per: Duration::from_secs(1) }];
        }
        if rng.u32(..6) == 0 {
            let count = if ample { rng.u32(5..20) } else { rng.u32(1..10) };
            limits.connection_rates_per_source = vec![Rate { count, per: Duration::from_secs(1) }];
        }
    };
    let sites = &mut scenario.config.sites;
    let before = sites.default.clone();
    of_each(&mut sites.default);
    for operator in &mut scenario.operators {
        // Providers' sections have their names, others that of the only host below.
        let host = operator.hosts[0][0].name.clone();
        let is_meant = |rule: &&mut SiteRule| {
            operator.name == rule.name || host.strip_prefix("mx.") == Some(&rule.name)
        };
        match sites.rules.iter_mut().find(is_meant) {
            None if operator.limits == before => operator.limits = sites.default.clone(),
            None => {}
            Some(rule) => {
                of_each(&mut operator.limits);
                let Limits {
                    connections_per_source,
                    rates_per_source,
                    connection_rates_per_source,
                    ..
                } = &operator.limits;
                rule.connections_per_source = Some(*connections_per_source);
                rule.rates_per_source = Some(rates_per_source.clone());
                rule.connection_rates_per_source = Some(connection_rates_per_source.clone());
            }
        }
    }
}
