//! A small world around the core: counts in place of a store, connections that do as they are told,
//! time that is moved by hand. Everything follows from a seed.

use super::*;
use crate::base::address::{Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::random::{Rng, from_seed};
use crate::config::tests::defaults;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::message::{NewMessage, Origin};
use crate::policy::site::MxHost;
use crate::store::{Claimed, Delivery, DeliveryId, QueueBacklog, QueueKey, Revision};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::Semaphore;

mod feedback;
mod grants;
mod names;
mod opens;
mod orders;
mod pace;
mod reload;
mod slices;
mod sources;

const START: Timestamp = Timestamp(1_795_394_728_000);

fn config(connections: u32, reserved: u32, worth: u32) -> Config {
    let mut config = defaults();
    config.sites.default = Limits {
        connections,
        connections_per_source: 1_000,
        reserved_for_direct: reserved,
        deliveries_per_connection: worth,
        recipients_per_transaction: 100,
        rates: Vec::new(),
        rates_per_source: Vec::new(),
        connection_rates: Vec::new(),
        connection_rates_per_source: Vec::new(),
    };
    config
}

/// One scheduled queue of the world's store.
struct Stock {
    key: Arc<QueueKey>,
    /// Due times of what waits.
    waiting: VecDeque<Timestamp>,
    leased: u64,
}

struct Fake {
    site: String,
    line: Arc<Line>,
    source: Arc<Source>,
    room: u32,
    address: IpAddr,
    /// Claimed and not sent.
    has: Vec<(QueueId, u32)>,
    idle: bool,
    claims: u32,
    lane: Lane,
}

struct World {
    core: Core,
    now: Timestamp,
    stock: BTreeMap<QueueId, Stock>,
    changed: BTreeSet<QueueId>,
    links: BTreeMap<LinkId, Fake>,
    /// Site behind each domain: the address of its host.
    dns: fn(&Domain) -> Resolution,
    reachable: bool,
    /// What is opened to this address is never answered.
    hangs: Option<IpAddr>,
    /// All addresses have as many connections from this source as they take.
    crowded: Option<&'static str>,
    /// Connections that a host takes; one more is refused.
    cap: usize,
    refused: Vec<Timestamp>,
    delivered: BTreeMap<QueueId, u64>,
    direct: u64,
    concluded: u64,
    gave_up: u64,
    told: Vec<&'static str>,
    /// Connections, when each was.
    opened: Vec<Timestamp>,
    /// Where they came from.
    sources: BTreeSet<String>,
    released: usize,
    books: grants::Books,
    next_message: i64,
}

fn shared_mx(_: &Domain) -> Resolution {
    Resolution::Hosts(vec![MxHost {
        preference: 10,
        name: "mx.shared.test".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
    }])
}

/// Two hosts of one site, the second of them for `b.test`.
fn two_hosts(domain: &Domain) -> Resolution {
    let n = if domain.as_str() == "b.test" { 2 } else { 1 };
    Resolution::Hosts(vec![MxHost {
        preference: 10,
        name: "mx.shared.test".into(),
        addresses: vec![[192, 0, 2, n].into()],
    }])
}

impl World {
    fn new(config: Config, seed: u64) -> Self {
        Self {
            core: Core::new(Arc::new(config), from_seed(seed), START),
            now: START,
            stock: BTreeMap::new(),
            changed: BTreeSet::new(),
            links: BTreeMap::new(),
            dns: shared_mx,
            reachable: true,
            hangs: None,
            crowded: None,
            cap: usize::MAX,
            refused: Vec::new(),
            delivered: BTreeMap::new(),
            direct: 0,
            concluded: 0,
            gave_up: 0,
            told: Vec::new(),
            opened: Vec::new(),
            sources: BTreeSet::new(),
            released: 0,
            books: grants::Books::default(),
            next_message: 1,
        }
    }

    fn enqueue(&mut self, queue: i64, lane: Lane, domain: &str, count: usize, due_at: Timestamp) {
        let id = QueueId(queue);
        let stock = self.stock.entry(id).or_insert_with(|| Stock {
            key: Arc::new(QueueKey {
                lane,
                tenant: format!("tenant{}", queue % 3),
                campaign: String::new(),
                domain: Domain::parse(domain).unwrap(),
            }),
            waiting: VecDeque::new(),
            leased: 0,
        });
        stock.waiting.extend(std::iter::repeat_n(due_at, count));
        stock.waiting.make_contiguous().sort_unstable();
        self.changed.insert(id);
    }

    fn handoff(&mut self, domain: &str) {
        self.handoff_to(domain, 1);
    }

    /// A direct message to so many of the domain.
    fn handoff_to(&mut self, domain: &str, count: u16) {
        let id = MessageId::from_number(self.next_message).unwrap();
        self.next_message += 1;
        let recipient = Recipient::new(Mailbox::parse(&format!("ann@{domain}")).unwrap());
        let mut message = NewMessage {
            id,
            accepted_at: self.now,
            due_at: self.now,
            expires_at: Timestamp::NEVER,
            origin: Origin {
                lane: Lane::Direct,
                reason: String::new(),
                tenant: "t".into(),
                campaign: String::new(),
                client: String::new(),
            },
            envelope: Envelope::from(ReversePath::Null),
            body: Default::default(),
        };
        let deliver = |number| Delivery {
            lease: Lease {
                delivery: DeliveryId { message: id, number },
                queue: QueueId(0),
                due_at: self.now,
                fence: 1,
            },
            recipient: recipient.clone(),
            attempts: 0,
            delay_notified: false,
            last_reply: String::new(),
        };
        let deliveries = (0..count).map(|number| deliver(number.into())).collect();
        message.envelope.recipients.push(recipient.clone());
        let claimed = Claimed {
            head: Arc::new(message.split().0),
            trusted_until: Timestamp::NEVER,
            deliveries,
        };
        let handoff = Handoff { claimed, body: Default::default(), receive: Duration::ZERO };
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        self.core.handle(Event::Direct(handoff, Arc::new(room)), self.now);
    }

    fn counts(&self, id: QueueId) -> QueueBacklog {
        let stock = &self.stock[&id];
        QueueBacklog {
            id,
            key: Arc::clone(&stock.key),
            ready: stock.waiting.len() as u64,
            deferred: 0,
            leased: stock.leased,
            held: 0,
            bytes: 0,
            oldest: START,
            next_due: stock.waiting.front().copied().unwrap_or(Timestamp::NEVER),
        }
    }

    /// Brings the core up to date and does what it says, until it says nothing more.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let queues =
                std::mem::take(&mut self.changed).into_iter().map(|q| self.counts(q)).collect();
            let backlog = Backlog { revision: Revision::START, all_held: false, queues };
            self.core.backlog(backlog, self.now);
            let commands = self.core.step(self.now);
            self.check();
            if commands.is_empty() && self.changed.is_empty() {
                return;
            }
            for command in commands {
                self.obey(command);
            }
        }
        panic!("the core does not come to rest");
    }

    fn take(&mut self, claim: &Claim) -> HashMap<QueueId, u32> {
        let mut got = HashMap::new();
        for (id, most) in &claim.queues {
            let Some(stock) = self.stock.get_mut(id) else { continue };
            let first = stock.waiting.iter().take(*most as usize);
            let n = first.take_while(|at| **at <= claim.fresh_until).count();
            stock.waiting.drain(..n);
            stock.leased += n as u64;
            got.insert(*id, u32::try_from(n).unwrap());
            self.changed.insert(*id);
        }
        got
    }

    fn open(&mut self, opening: Opening) {
        let (now, link, address) = (self.now, opening.link, opening.hops[0].address);
        let refused = |why: &str| Event::NotOpened(link, why.into());
        if self.hangs == Some(address) {
            return;
        }
        if self.crowded == Some(&*opening.source.name) {
            return self.core.handle(refused(""), now);
        }
        if self.links.len() >= self.cap {
            self.refused.push(now);
            return self.core.handle(refused("421 too many"), now);
        }
        if !self.reachable {
            return self.core.handle(refused("refused"), now);
        }
        self.opened.push(now);
        self.sources.insert(opening.source.name.clone());
        let fake = Fake {
            site: opening.site.to_string(),
            line: opening.line,
            source: opening.source,
            room: opening.limits.deliveries_per_connection,
            address,
            has: Vec::new(),
            idle: false,
            claims: 0,
            lane: Lane::Direct,
        };
        self.links.insert(link, fake);
        self.core.handle(Event::Opened(link, address), now);
        self.work(link);
    }

    fn obey(&mut self, command: Command) {
        let now = self.now;
        match command {
            Command::Resolve(domain, _) => {
                let answer = (self.dns)(&domain);
                self.core.handle(Event::Resolved(domain, answer), now);
            }
            Command::Open(opening) => self.open(opening),
            Command::Claim(link, claim) => {
                let got =
                    if self.links.contains_key(&link) { self.take(&claim) } else { HashMap::new() };
                let plan = claim.queues.clone();
                let lane = self.stock[&plan[0].0].key.lane;
                if let Some(fake) = self.links.get_mut(&link) {
                    assert!(claim.queues.iter().map(|(_, n)| n).sum::<u32>() <= fake.room);
                    fake.claims += 1;
                    fake.has.extend(got.iter().map(|(q, n)| (*q, *n)));
                    (fake.idle, fake.lane) = (false, lane);
                }
                self.core.handle(Event::Claimed { plan, got }, now);
            }
            Command::Wake(link) => self.work(link),
            Command::Quit(link) => {
                if self.links.remove(&link).is_some() {
                    self.core.handle(Event::Closed { link, done: 0, trouble: None }, now);
                }
            }
            Command::Unreachable(..) => self.told.push("unreachable"),
            Command::Recovered(..) => self.told.push("recovered"),
            Command::Expired(_) => self.told.push("expired"),
            Command::Release(leases) => self.released += leases.len(),
            Command::Conclude(..) => self.concluded += 1,
            Command::GiveUp(claim, _) => {
                let got = self.take(&claim);
                for (id, n) in &got {
                    self.stock.get_mut(id).unwrap().leased -= u64::from(*n);
                    self.gave_up += u64::from(*n);
                }
                if claim.expired_at.is_none() {
                    self.core.handle(Event::Claimed { plan: claim.queues, got }, now);
                }
            }
        }
    }

    /// A connection sends all it has that may go, and asks for more or ends.
    fn work(&mut self, link: LinkId) {
        let Some(fake) = self.links.get_mut(&link) else { return };
        let mut done = 0;
        let claimed: u32 = fake.has.iter().map(|(_, n)| n).sum();
        let now = self.now;
        let next = |fake: &Fake| fake.line.pop(link, (&fake.source, fake.address), fake.room, now);
        while fake.room > claimed
            && let Some(job) = next(fake)
        {
            self.direct += 1;
            fake.room -= job.count();
            done += 1;
        }
        let mut room = fake.room;
        for (queue, n) in std::mem::take(&mut fake.has) {
            let sent = self.begin(queue, n, n);
            (room, done) = (room - sent, done + sent);
        }
        let fake = self.links.get_mut(&link).unwrap();
        (fake.room, fake.idle) = (room, true);
        if room == 0 {
            self.links.remove(&link);
            self.core.handle(Event::Closed { link, done, trouble: None }, self.now);
        } else {
            fake.idle = true;
            let (room, claims) = (fake.room, fake.claims);
            let wants = Event::Wants { link, room, idle: true, claims, done };
            self.core.handle(wants, self.now);
        }
    }

    /// One busy connection, drawn at random, gets its work done.
    fn some_link_works(&mut self, rng: &mut Rng) {
        let busy: Vec<LinkId> =
            self.links.iter().filter(|(_, l)| !l.has.is_empty()).map(|(id, _)| *id).collect();
        if let Some(link) = rng.choice(busy) {
            self.work(link);
        }
    }

    fn waiting(&self) -> u64 {
        self.stock.values().map(|s| s.waiting.len() as u64 + s.leased).sum()
    }

    /// No limit is exceeded.
    fn check(&self) {
        let limits = &self.core.config.sites.default;
        let mut all: HashMap<&str, (u32, u32)> = HashMap::new();
        for link in self.links.values() {
            let (links, bulk) = all.entry(&link.site).or_default();
            *links += 1;
            *bulk += u32::from(!link.has.is_empty() && link.lane == Lane::Bulk);
        }
        for (site, (links, bulk)) in all {
            assert!(links <= limits.connections, "{links} connections to {site}");
            let most = limits.connections.saturating_sub(limits.reserved_for_direct).max(1);
            assert!(bulk <= most, "{bulk} connections to {site} have bulk mail");
        }
    }

    fn next_alarm(&self, of: impl Fn(&Alarm) -> bool) -> Timestamp {
        self.core.alarms.iter().find(|(_, alarm)| of(alarm)).unwrap().0
    }

    /// Moves time to the next alarm.
    fn sleep(&mut self) {
        if let Some(at) = self.core.next_alarm() {
            self.now = at.max(self.now);
        }
    }

    /// Until nothing waits, or patience ends.
    fn run(&mut self, rng: &mut Rng) {
        for _ in 0..20_000 {
            self.settle();
            if self.waiting() == 0 {
                return;
            }
            if self.links.values().all(|l| l.has.is_empty()) {
                self.sleep();
            }
            self.some_link_works(rng);
        }
    }
}

#[test]
fn domains_of_a_site_share_its_connections() {
    let mut world = World::new(config(10, 2, 100), 1);
    for n in 0..200 {
        world.enqueue(n, Lane::Bulk, &format!("d{n}.test"), 5, START);
    }
    world.run(&mut from_seed(1));
    assert_eq!(world.waiting(), 0);
    assert!(world.opened.len() <= 12, "{} for 1,000 deliveries", world.opened.len());
}

#[test]
fn bulk_mail_gathers_until_it_fills_a_connection() {
    let mut world = World::new(config(10, 2, 100), 1);
    let due = START.after(Duration::from_secs(30));
    world.enqueue(1, Lane::Bulk, "a.test", 60, due);
    world.settle();
    assert!(world.opened.is_empty());
    world.enqueue(2, Lane::Bulk, "b.test", 60, due);
    world.settle();
    assert_eq!(
        (world.opened.len(), world.now),
        (2, START),
        "together they are a connection's worth"
    );
    let mut alone = World::new(config(10, 2, 100), 1);
    alone.enqueue(1, Lane::Bulk, "a.test", 60, due);
    alone.run(&mut from_seed(1));
    assert_eq!((alone.waiting(), alone.now), (0, due));
}

#[test]
fn direct_mail_finds_a_connection_while_bulk_mail_fills_its_share() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.settle();
    assert_eq!(world.links.len(), 3);
    world.handoff("b.test");
    world.settle();
    assert_eq!((world.links.len(), world.direct), (4, 1));
    // The connection stays, idle, for the next one.
    world.handoff("c.test");
    world.settle();
    assert_eq!((world.opened.len(), world.direct), (4, 2));
}

#[test]
fn direct_mail_does_not_wait_for_a_connection_to_another_host() {
    let mut world = World::new(config(10, 2, 100), 1);
    (world.dns, world.hangs) = (two_hosts, Some([192, 0, 2, 1].into()));
    world.enqueue(1, Lane::Direct, "a.test", 1, START);
    world.settle();
    world.handoff("b.test");
    world.settle();
    assert_eq!((world.direct, world.links.len()), (1, 1));
}

#[test]
fn an_idle_connection_is_enough_for_one_direct_message_after_the_other() {
    let mut world = World::new(config(4, 1, 100), 1);
    for n in 1..=10 {
        world.handoff("a.test");
        world.settle();
        assert_eq!((world.direct, world.opened.len()), (n, 1));
    }
}

#[test]
fn an_unreachable_site_keeps_its_mail_and_is_probed() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.reachable = false;
    world.enqueue(1, Lane::Bulk, "a.test", 1_000, START);
    world.handoff("a.test");
    world.settle();
    assert_eq!((world.concluded, world.waiting()), (1, 1_000));
    let status = world.core.status(world.now);
    assert_eq!((status[0].gate, status[0].connections), (crate::policy::site::Gate::Broken, 0));
    assert!(status[0].why.starts_with("refused"));
    let mut pauses = Vec::new();
    for _ in 0..60 {
        let next = world.next_alarm(|alarm| matches!(alarm, Alarm::Site(_)));
        pauses.push(next.since(world.now).as_secs());
        world.now = next;
        world.settle();
    }
    let share = |pause: u64, past: u64| pause.abs_diff((past / 8).clamp(5, 300)) <= 2;
    let grow = (0..60).all(|n| share(pauses[n], pauses[..n].iter().sum()));
    assert!(grow && pauses[59] == 300, "{pauses:?}");
    world.reachable = true;
    world.run(&mut from_seed(1));
    assert_eq!((world.waiting(), &world.told[..]), (0, &["unreachable", "recovered"][..]));
    assert_eq!(world.core.status(world.now)[0].gate, crate::policy::site::Gate::Open);
}

#[test]
fn draining_ends_idle_connections_and_takes_no_new_work() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.handoff("a.test");
    world.settle();
    assert_eq!(world.links.len(), 1);
    world.core.drain();
    world.handoff("a.test");
    world.enqueue(1, Lane::Bulk, "a.test", 10, START);
    world.settle();
    assert!(world.core.is_idle());
    assert_eq!((world.released, world.waiting(), world.opened.len()), (1, 10, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn everything_is_delivered_once_within_the_limits(
        seed: u64,
        connections in 1u32..6,
        worth in 1u32..40,
        queues in proptest::collection::vec(
            (any::<bool>(), 0u8..8, 1usize..200, 0i64..60_000),
            1..20,
        ),
        direct in 0usize..30,
    ) {
        let mut rng = from_seed(seed);
        let mut world = World::new(config(connections, 2.min(connections - 1), worth), seed);
        world.dns = |domain| {
            // Two of three domains share a host.
            let n = domain.as_str().as_bytes().get(1).map_or(0, |b| b % 3);
            Resolution::Hosts(vec![MxHost {
                preference: 10,
                name: format!("mx{}.test", n / 2),
                addresses: vec![[192, 0, 2, n / 2].into()],
            }])
        };
        let mut total = 0;
        for (i, (bulk, domain, count, wait)) in (1i64..).zip(&queues) {
            let lane = if *bulk { Lane::Bulk } else { Lane::Direct };
            world.enqueue(i, lane, &format!("d{domain}.test"), *count, Timestamp(START.0 + wait));
            total += *count as u64;
            if rng.bool() {
                world.settle();
            }
        }
        for n in 0..direct {
            world.handoff(&format!("d{}.test", n % 8));
            world.settle();
            world.some_link_works(&mut rng);
        }
        world.run(&mut rng);
        prop_assert_eq!(world.waiting(), 0);
        prop_assert_eq!(world.delivered.values().sum::<u64>(), total);
        prop_assert_eq!(world.direct, direct as u64);
    }
}
