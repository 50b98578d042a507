//! Worlds that follow from a seed: receivers, domains, tenants, limits, and the mail they get.
//!
//! Providers have the shares of recipients that they have in the lists of real newsletters; the
//! rest is a long tail of domains, of which some share hosts: by the same MX names, or under names
//! of their own.

use crate::world::receivers::{Answer, Manner, Operator, Place};
use crate::world::{Mail, START};
use bulkhead::base::address::Domain;
use bulkhead::base::random::{Rng, from_seed};
use bulkhead::base::time::Timestamp;
use bulkhead::config::{self, Config};
use bulkhead::policy::quota::DomainRule;
use bulkhead::policy::site::{Limits, MxHost, Rate, SiteRule};
use bulkhead::policy::tenant::TenantRule;
use std::time::Duration;

/// Name, MX hosts, and the share of all recipients in per cent.
pub const PROVIDERS: [(&str, &str, f64); 8] = [
    ("gmail.com", "gmail-smtp-in.l.google.com", 35.0),
    ("outlook.com", "outlook-com.olc.protection.outlook.com", 12.0),
    ("yahoo.com", "mta5.am0.yahoodns.net", 9.0),
    ("office365", "example-com.mail.protection.outlook.com", 5.0),
    ("icloud.com", "mx01.mail.icloud.com", 5.0),
    ("gmx.net", "mx00.emig.gmx.net", 6.0),
    ("orange.fr", "smtp-in.orange.fr", 2.0),
    ("comcast.net", "mx1a1.comcast.net", 2.0),
];

/// A world before anything happens in it.
pub struct Scenario {
    pub config: Config,
    pub operators: Vec<Operator>,
    pub places: Vec<Place>,
    pub mail: Vec<(Timestamp, Mail)>,
    /// Of the places.
    pub popularity: Vec<f64>,
    pub direct_per_second: f64,
}

/// A number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "a test reads its settings")]
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The defaults.
pub fn defaults() -> Config {
    let place =
        config::Place { name: "test".into(), dir: "/".into(), machine: "relay.test".into() };
    Config::parse("", &place).unwrap().config
}

/// A rule that sets everything.
pub fn rule(name: &str, limits: &Limits) -> SiteRule {
    SiteRule {
        lines: Vec::new(),
        name: name.to_string(),
        connections: Some(limits.connections),
        connections_per_source: Some(limits.connections_per_source),
        reserved_for_direct: Some(limits.reserved_for_direct),
        deliveries_per_connection: Some(limits.deliveries_per_connection),
        recipients_per_transaction: Some(limits.recipients_per_transaction),
        rates: Some(limits.rates.clone()),
        rates_per_source: Some(limits.rates_per_source.clone()),
        connection_rates: Some(limits.connection_rates.clone()),
        connection_rates_per_source: Some(limits.connection_rates_per_source.clone()),
    }
}

/// Tenants `t0`, `t1`, … with these weights.
pub fn tenants(weights: &[u32]) -> Vec<TenantRule> {
    let tenant = |(n, weight): (usize, &u32)| TenantRule {
        name: format!("t{n}"),
        weight: *weight,
        ..TenantRule::default()
    };
    weights.iter().enumerate().map(tenant).collect()
}

/// A set of MX hosts of the `n`-th operator, with three addresses.
pub fn hosts(name: &str, n: usize, set: u8) -> Vec<MxHost> {
    let [.., high, low] = u32::try_from(n).unwrap().to_be_bytes();
    let addresses = (0..3).map(|k| [11 + set, high, low, k + 1].into()).collect();
    vec![MxHost { preference: 10, name: name.to_string(), addresses }]
}

/// Which place is named: by popularity.
pub struct Popular(Vec<f64>);

impl Popular {
    pub fn new(popularity: &[f64]) -> Self {
        let mut sum = 0.0;
        Self(popularity.iter().map(|share| (sum += share, sum).1).collect())
    }

    pub fn pick(&self, rng: &mut Rng) -> usize {
        let at = rng.f64() * self.0.last().unwrap();
        self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1)
    }
}

/// Times of a Poisson stream of so many a second, in ms from the start.
pub fn poisson(rng: &mut Rng, per_second: f64, from_ms: i64, until_ms: i64) -> Vec<Timestamp> {
    let (mut times, mut at) = (Vec::new(), from_ms);
    loop {
        #[allow(clippy::cast_possible_truncation)]
        let pause = (-(1.0 - rng.f64()).ln() / per_second * 1_000.0) as i64;
        at += pause;
        if at >= until_ms {
            return times;
        }
        times.push(Timestamp(START.0 + at));
    }
}

/// What the seeds vary most.
struct Shape {
    /// Of ten operators, so many have bad manners.
    faults: u32,
    hosters: usize,
    own_hosts: usize,
    /// Bulk deliveries.
    bulk: u32,
    campaigns: u32,
    direct_per_second: f64,
    minutes: i64,
}

impl Shape {
    fn of(seed: u64, rng: &mut Rng) -> Self {
        match seed % 4 {
            // A bit of everything.
            0 => Self {
                faults: 3,
                hosters: rng.usize(2..8),
                own_hosts: rng.usize(5..40),
                bulk: rng.u32(500..2_500),
                campaigns: rng.u32(2..9),
                direct_per_second: 0.5 + rng.f64() * 2.0,
                minutes: rng.i64(2..12),
            },
            // Tenants contend for few receivers.
            1 => Self {
                faults: 0,
                hosters: rng.usize(1..3),
                own_hosts: 2,
                bulk: rng.u32(13_000..16_000),
                campaigns: rng.u32(3..8),
                direct_per_second: 0.5,
                minutes: 5,
            },
            // Everything breaks.
            2 => Self {
                faults: 9,
                hosters: rng.usize(2..8),
                own_hosts: rng.usize(5..20),
                bulk: rng.u32(1_000..3_000),
                campaigns: rng.u32(2..9),
                direct_per_second: 3.0,
                minutes: rng.i64(2..10),
            },
            // A long tail.
            _ => Self {
                faults: 1,
                hosters: rng.usize(5..20),
                own_hosts: rng.usize(100..300),
                bulk: rng.u32(1_000..3_000),
                campaigns: rng.u32(1..5),
                direct_per_second: 2.0,
                minutes: rng.i64(2..6),
            },
        }
    }
}

/// The world of a seed.
pub fn scenario(seed: u64) -> Scenario {
    let mut rng = from_seed(seed);
    let shape = Shape::of(seed, &mut rng);
    let contests = shape.faults == 0;
    let most = if contests { 4 } else { 6 };
    let weights: Vec<u32> = (0..rng.usize(2..most)).map(|_| rng.u32(1..5)).collect();
    let mut config = defaults();
    config.tenants = tenants(&weights).into();
    config.sites.default = any_limits(&mut rng, false);
    let mut settled = Settled::default();
    for (n, (name, mx, share)) in PROVIDERS.into_iter().enumerate() {
        let limits = any_limits(&mut rng, contests);
        config.sites.rules.push(rule(name, &limits));
        let sets = (0..rng.u8(1..4)).map(|set| hosts(mx, n, set)).collect();
        let operator = Operator::new(name, sets, manner(&mut rng, shape.faults), limits);
        let share = if contests && n == 0 { 4.0 * share } else { share };
        let domains = Domains { count: rng.usize(1..4), share, names_each: false };
        settled.add(&mut rng, operator, &domains);
    }
    for h in 0..shape.hosters + shape.own_hosts {
        let n = settled.operators.len();
        let (is_hoster, mut limits) = (h < shape.hosters, config.sites.default.clone());
        let mx = format!("mx.{}{h}.test", if is_hoster { "hoster" } else { "own" });
        // A rule goes by the names of hosts: one that has a name for each domain is under none.
        let is_ruled = is_hoster && h % 2 == 0;
        if is_ruled {
            limits = any_limits(&mut rng, contests);
            config.sites.rules.push(rule(&format!("hoster{h}.test"), &limits));
        }
        let manner = manner(&mut rng, shape.faults);
        let operator = Operator::new(&mx, vec![hosts(&mx, n, 0)], manner, limits);
        let domains = if is_hoster {
            Domains { count: rng.usize(2..12), share: 3.0, names_each: !is_ruled }
        } else {
            Domains { count: 1, share: 0.3, names_each: false }
        };
        settled.add(&mut rng, operator, &domains);
    }
    let Settled { mut operators, mut places, mut popularity } = settled;
    // Where senders are told of failures.
    let n = operators.len();
    let sets = vec![hosts("mx.senders.test", n, 0)];
    let limits = config.sites.default.clone();
    operators.push(Operator::new("senders", sets, Manner::sound(20, 10), limits));
    places.push(place("senders.test", n, Answer::Hosts(0), 5));
    popularity.push(0.0);
    config.domains = domain_rules(seed, &places);
    let mail = mail(&mut rng, &shape, weights.len(), &popularity);
    let direct_per_second = shape.direct_per_second;
    Scenario { config, operators, places, mail, popularity, direct_per_second }
}

/// Domains of an operator.
struct Domains {
    count: usize,
    /// Of all recipients, in per cent, the first has that.
    share: f64,
    /// Some have a name of their own for its hosts.
    names_each: bool,
}

/// Operators and their domains so far.
#[derive(Default)]
struct Settled {
    operators: Vec<Operator>,
    places: Vec<Place>,
    popularity: Vec<f64>,
}

impl Settled {
    fn add(&mut self, rng: &mut Rng, operator: Operator, domains: &Domains) {
        let (n, is_small) = (self.operators.len(), domains.share < 5.0);
        for d in 0..domains.count {
            let name = match PROVIDERS.get(n) {
                Some((name, _, _)) if d == 0 && name.contains('.') => (*name).to_string(),
                _ => format!("d{d}.o{n}.test"),
            };
            let set = rng.usize(..operator.hosts.len());
            let answer = match rng.u32(..100) {
                0 if is_small => Answer::NoSuchDomain,
                1 if is_small => Answer::NullMx,
                2 if is_small => Answer::FailingUntil(START.after(minutes(rng.u64(1..60)))),
                3..40 if domains.names_each => Answer::OwnName(set),
                _ => Answer::Hosts(set),
            };
            self.places.push(place(&name, n, answer, rng.i64(1..60)));
            #[allow(clippy::cast_precision_loss)]
            self.popularity.push(domains.share / (d + 1) as f64);
        }
        self.operators.push(operator);
    }
}

/// One domain.
pub fn place(name: &str, operator: usize, answer: Answer, takes: i64) -> Place {
    Place { name: Domain::parse(name).unwrap(), operator, answer, takes }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// Anything that a configuration may say; `ample`: nothing that holds up a contest for long.
fn any_limits(rng: &mut Rng, ample: bool) -> Limits {
    let connections = if ample { rng.u32(4..16) } else { rng.u32(1..16) };
    let reserved = if connections == 1 { 0 } else { rng.u32(0..connections.min(4)) };
    let rate = |rng: &mut Rng, counts: std::ops::Range<u32>| {
        let windows = [(1, 1), (60, 20), (3_600, 400)];
        let (secs, times) = windows[rng.usize(..if ample { 1 } else { windows.len() })];
        Rate { count: rng.u32(counts) * times, per: Duration::from_secs(secs) }
    };
    let mut limits = Limits {
        connections,
        connections_per_source: connections,
        reserved_for_direct: reserved,
        deliveries_per_connection: rng.u32(1..if ample { 200 } else { 120 }),
        recipients_per_transaction: rng.u32(1..100),
        rates: Vec::new(),
        rates_per_source: Vec::new(),
        connection_rates: Vec::new(),
        connection_rates_per_source: Vec::new(),
    };
    if rng.u32(..3) == 0 {
        limits.rates.push(rate(rng, if ample { 40..100 } else { 1..40 }));
    }
    if rng.u32(..4) == 0 {
        limits.connection_rates.push(rate(rng, if ample { 5..20 } else { 1..10 }));
    }
    limits
}

/// One domain in twelve has limits of its own.
fn domain_rules(seed: u64, places: &[Place]) -> Vec<DomainRule> {
    let mut rng = from_seed(seed ^ 2);
    let limited: Vec<_> = places.iter().filter(|_| rng.u32(..12) == 0).collect();
    let mut rule = |place: &Place| {
        let rate = |count, secs| Rate { count, per: Duration::from_secs(secs) };
        let rates = match rng.u32(..4) {
            0 => vec![rate(rng.u32(1..20), 1)],
            1 => vec![rate(rng.u32(10..400), 60), rate(rng.u32(200..2_000), 3_600)],
            2 => vec![rate(rng.u32(1..60), 600)],
            _ => Vec::new(),
        };
        let recipients_per_transaction = Some(rng.u32(1..10));
        let name = place.name.to_string();
        DomainRule { name, rates, recipients_per_transaction, lines: Vec::new() }
    };
    limited.into_iter().map(&mut rule).collect()
}

/// How an operator behaves; `faults` in ten badly.
fn manner(rng: &mut Rng, faults: u32) -> Manner {
    let mut manner = Manner::sound(rng.i64(2..120), rng.i64(1..300));
    if rng.u32(..10) >= faults {
        return manner;
    }
    for _ in 0..rng.u32(1..4) {
        match rng.u32(..11) {
            0 => manner.sessions_max = Some((rng.u32(1..8), rng.bool())),
            1 => {
                let window = rng.i64(1_000..60_000);
                manner.messages_max = Some((rng.usize(1..100), window, rng.bool()));
            }
            2 => manner.greylist = 300_000,
            3 => manner.transient = rng.f64() * 0.4,
            4 => manner.permanent = rng.f64() * 0.2,
            5 => manner.tarpit = rng.i64(500..20_000),
            6 | 7 => {
                let from = START.after(Duration::from_secs(rng.u64(..600)));
                let until = from.after(Duration::from_secs(rng.u64(10..4_000)));
                manner.outages.push((from, until, rng.bool()));
            }
            8 => manner.slow_start = true,
            9 => manner.drops = rng.f64() * 0.2,
            _ => manner.first_is_dead = true,
        }
    }
    manner.jitter = rng.i64(0..100);
    if rng.u32(..3) == 0 {
        manner.idle = Some(rng.i64(100..9_000));
    }
    manner
}

/// Direct mail is to be quick where a receiver is sound, some connection is free for it, no rate
/// makes it wait for more than a tenth of a second, and it is no more than a quarter of what the
/// reserve can take.
pub fn promise(scenario: &mut Scenario) {
    let Scenario { operators, places, popularity, direct_per_second, .. } = scenario;
    let all: f64 = popularity.iter().sum();
    for (n, operator) in operators.iter_mut().enumerate() {
        let here = places.iter().zip(&*popularity).filter(|(place, _)| place.operator == n);
        let load = *direct_per_second * here.map(|(_, share)| share).sum::<f64>() / all;
        let (manner, limits) = (&operator.manner, &operator.limits);
        let is_sound =
            format!("{manner:?}") == format!("{:?}", Manner::sound(manner.rtt, manner.service));
        #[allow(clippy::cast_precision_loss)]
        let takes = manner.transaction(false) as f64 / 1_000.0;
        let quick =
            |rate: &Rate| f64::from(rate.count) / rate.per.as_secs_f64() >= 10.0 + 40.0 * load;
        operator.promised = is_sound
            && load * takes <= 0.25 * f64::from(limits.reserved_for_direct)
            && limits.rates.iter().chain(&limits.connection_rates).all(quick)
            && limits.rates_per_source.iter().all(quick)
            && limits.connection_rates_per_source.iter().all(quick);
    }
}

fn mail(
    rng: &mut Rng,
    shape: &Shape,
    tenants: usize,
    popularity: &[f64],
) -> Vec<(Timestamp, Mail)> {
    let popular = Popular::new(popularity);
    let mut mail = Vec::new();
    for campaign in 0..shape.campaigns {
        let tenant =
            if (campaign as usize) < tenants { campaign as usize } else { rng.usize(..tenants) };
        // A contest begins at once.
        let mut at = if shape.faults == 0 { 0 } else { rng.i64(0..shape.minutes * 60_000) };
        for _ in 0..shape.bulk / shape.campaigns {
            at += i64::from(rng.u32(..8) == 0);
            let to = popular.pick(rng);
            mail.push((Timestamp(START.0 + at), Mail::bulk(tenant, campaign, to)));
        }
    }
    for at in poisson(rng, shape.direct_per_second, 0, shape.minutes * 60_000) {
        let mut to: Vec<usize> = (0..rng.usize(1..4)).map(|_| popular.pick(rng)).collect();
        to.dedup();
        let tenant = rng.usize(..tenants);
        mail.push((at, Mail::direct(tenant, to)));
    }
    mail.sort_by_key(|(at, _)| *at);
    mail
}
