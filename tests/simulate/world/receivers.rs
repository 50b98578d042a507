//! Simulated receivers: operators of MX hosts with their manners, and the DNS in front of them.
//!
//! What a receiver does to a delivery follows from the seed, the delivery and its attempt alone,
//! not from the order in which things happen.

use bulkhead::base::address::Domain;
use bulkhead::base::time::Timestamp;
use bulkhead::deliver::line::Job;
use bulkhead::policy::site::{Limits, MxHost, Resolution};
use bulkhead::policy::source::SourceId;
use bulkhead::smtp::client::{Attempt, Stage};
use bulkhead::smtp::reply::Reply;
use bulkhead::store::{Delivery, DeliveryId};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// How an operator treats us; all times in ms.
#[derive(Clone, Debug)]
pub struct Manner {
    /// There and back.
    pub rtt: i64,
    /// From the last dot to its reply, besides.
    pub service: i64,
    /// And up to so much more, by chance.
    pub jitter: i64,
    /// Sessions at once; `true`: beyond them TCP is refused, else the greeting says 421.
    pub sessions_max: Option<(u32, bool)>,
    /// Sessions at once at each address; beyond them the greeting says 421.
    pub sessions_each: Option<u32>,
    /// How long a session that is over still counts.
    pub lingers: i64,
    /// Messages in any window of so many ms; `true`: beyond them 421, else 451.
    pub messages_max: Option<(usize, i64, bool)>,
    /// What it says then.
    pub says: &'static str,
    /// From, until, and the source that is on a block list then.
    pub lists: Option<(Timestamp, Timestamp, SourceId)>,
    /// How long a recipient is put off at first.
    pub greylist: i64,
    /// Share of recipients refused with 451 in each attempt.
    pub transient: f64,
    /// Share of recipients refused with 550.
    pub permanent: f64,
    /// Each reply is so late.
    pub tarpit: i64,
    /// From, until, and whether hosts are silent then, else they refuse.
    pub outages: Vec<(Timestamp, Timestamp, bool)>,
    /// Takes one session at first, and one more every 20 s.
    pub slow_start: bool,
    /// Share of transactions after whose last dot the connection is gone; half of them arrived.
    pub drops: f64,
    /// One that rests so long is closed.
    pub idle: Option<i64>,
    /// Of its addresses the first is silent.
    pub first_is_dead: bool,
}

impl Manner {
    /// Answers at once and takes everything.
    pub fn sound(rtt: i64, service: i64) -> Self {
        Self {
            rtt,
            service,
            jitter: 0,
            sessions_max: None,
            sessions_each: None,
            lingers: 0,
            messages_max: None,
            says: "not now",
            lists: None,
            greylist: 0,
            transient: 0.0,
            permanent: 0.0,
            tarpit: 0,
            outages: Vec::new(),
            slow_start: false,
            drops: 0.0,
            idle: None,
            first_is_dead: false,
        }
    }

    fn reply(&self) -> i64 {
        self.rtt + self.tarpit
    }

    /// From SYN to the reply to EHLO.
    pub fn connect(&self) -> i64 {
        self.rtt + 2 * self.reply()
    }

    /// A transaction; one that rode with the dot before has its first replies already.
    pub fn transaction(&self, rode: bool) -> i64 {
        self.reply() * if rode { 1 } else { 2 } + self.service
    }

    /// The goodbye.
    pub fn quit(&self) -> i64 {
        self.reply().min(2_000)
    }
}

/// One receiver.
pub struct Operator {
    /// For people.
    pub name: String,
    /// Sets of MX hosts; its domains have one of them each, or names of their own for the same.
    pub hosts: Vec<Vec<MxHost>>,
    /// How it behaves.
    pub manner: Manner,
    /// What we are told to keep to here.
    pub limits: Limits,
    /// Direct mail is promised to be quick here: it is sound, and the load is what it can take.
    pub promised: bool,
    /// Connections of ours, also those that are being opened.
    pub links: u32,
    /// Of these, busy with bulk mail.
    pub busy: u32,
    /// Sessions that it sees at each address.
    sessions: HashMap<IpAddr, u32>,
    /// Of these, over: until when they count.
    over: VecDeque<(Timestamp, IpAddr)>,
    /// When it refused one more.
    pub refused: Vec<Timestamp>,
    /// Where something is limited, of each source.
    pub books: HashMap<SourceId, Book>,
    first_met: Option<Timestamp>,
    lately: VecDeque<Timestamp>,
    first_tried: HashMap<DeliveryId, Timestamp>,
}

/// What went to an operator from one source, and when.
#[derive(Default)]
pub struct Book {
    /// Connections of ours.
    pub links: u32,
    /// When each connection was ordered, and when the receiver met it.
    pub opened: Vec<Timestamp>,
    pub met: Vec<Timestamp>,
    /// When each message began: as counted, and as the receiver sees it.
    pub begun: Vec<Timestamp>,
    pub seen: Vec<Timestamp>,
}

/// What came of a connection attempt, and how long that took.
pub type Dialed = (Result<(), String>, i64);

/// One transaction as it will go.
#[derive(Debug)]
pub struct Exchange {
    pub attempts: Vec<Attempt>,
    pub lasts: i64,
    /// The connection is open afterwards.
    pub open: bool,
    /// The last dot was sent, so that the next could ride with it.
    pub dotted: bool,
    /// The receiver has what it was sent, though nobody may have heard of it.
    pub arrived: Vec<bool>,
}

impl Operator {
    pub fn new(name: &str, hosts: Vec<Vec<MxHost>>, manner: Manner, limits: Limits) -> Self {
        Self {
            name: name.to_string(),
            hosts,
            manner,
            limits,
            promised: false,
            links: 0,
            busy: 0,
            sessions: HashMap::new(),
            over: VecDeque::new(),
            refused: Vec::new(),
            books: HashMap::new(),
            first_met: None,
            lately: VecDeque::new(),
            first_tried: HashMap::new(),
        }
    }

    /// What went there from a source.
    pub fn book(&mut self, source: SourceId) -> &mut Book {
        self.books.entry(source).or_default()
    }

    fn outage(&self, now: Timestamp) -> Option<bool> {
        let covers =
            |(from, until, _): &&(Timestamp, Timestamp, bool)| *from <= now && now < *until;
        self.manner.outages.iter().find(covers).map(|(_, _, silent)| *silent)
    }

    /// An attempt to connect; a session begins where it succeeds.
    pub fn dial(
        &mut self,
        (source, address): (SourceId, IpAddr),
        now: Timestamp,
        connect_timeout: i64,
    ) -> Dialed {
        let manner = &self.manner;
        let is_first = self.hosts.iter().flatten().any(|h| h.addresses.first() == Some(&address));
        if manner.first_is_dead && is_first || self.outage(now) == Some(true) {
            return (Err("connect: timed out".into()), connect_timeout);
        }
        if self.outage(now).is_some() {
            return (Err("connect: connection refused".into()), manner.rtt);
        }
        let is_over = |(at, _): &mut (Timestamp, IpAddr)| *at <= now;
        while let Some((_, address)) = self.over.pop_front_if(is_over) {
            *self.sessions.entry(address).or_default() -= 1;
        }
        let met = *self.first_met.get_or_insert(now);
        let warm = u32::try_from(now.since(met).as_secs() / 20).unwrap_or(u32::MAX);
        let warm = if manner.slow_start { warm.saturating_add(1) } else { u32::MAX };
        let (most, by_tcp) = manner.sessions_max.unwrap_or((u32::MAX, false));
        let (rtt, all) = (manner.rtt, self.sessions.values().sum::<u32>());
        let here = self.sessions.entry(address).or_default();
        let is_full = all >= most.min(warm);
        if is_full || manner.sessions_each.is_some_and(|most| *here >= most) {
            self.refused.push(now);
            if is_full && by_tcp {
                return (Err("connect: connection refused".into()), rtt);
            }
            self.book(source).met.push(now);
            return (Err("greeting: 421 4.7.0 too many sessions".into()), rtt * 2);
        }
        *here += 1;
        self.book(source).met.push(now);
        (Ok(()), self.manner.connect())
    }

    /// A session is over.
    pub fn hang_up(&mut self, address: IpAddr, now: Timestamp) {
        self.over.push_back((Timestamp(now.0 + self.manner.lingers), address));
    }

    /// How a transaction that begins now will go. `rode`: its first commands came with the dot of
    /// the one before; `used`: the session carried mail before.
    pub fn exchange(
        &mut self,
        seed: u64,
        (job, source): (&Job, SourceId),
        now: Timestamp,
        (rode, used): (bool, bool),
    ) -> Exchange {
        let deliveries = &job.transaction.deliveries;
        let all = |attempt: &Attempt, lasts: i64, open: bool| Exchange {
            attempts: vec![attempt.clone(); deliveries.len()],
            lasts,
            open,
            dotted: false,
            arrived: vec![false; deliveries.len()],
        };
        let short = self.manner.reply();
        if self.outage(now).is_some() {
            let error = "closed by the peer".to_string();
            let lost = Attempt::Lost { stage: Stage::Mail, error, in_doubt: false };
            return all(&lost, short, false);
        }
        let listed = |(from, until, listed)| listed == source && from <= now && now < until;
        if self.manner.lists.is_some_and(listed) {
            let said = "Service unavailable; Client host [192.0.2.7] blocked using a list";
            return all(&reply(Stage::Mail, 554, said), short, true);
        }
        if let Some((most, window, closes)) = self.manner.messages_max {
            while self.lately.front().is_some_and(|at| at.0 + window <= now.0) {
                self.lately.pop_front();
            }
            if self.lately.len() >= most {
                let refusal = match (closes, used) {
                    // Enough of this session, no word about the message.
                    (true, true) => Attempt::NotStarted,
                    (true, false) => reply(Stage::Mail, 421, self.manner.says),
                    (false, _) => reply(Stage::Mail, 451, self.manner.says),
                };
                return all(&refusal, short, !closes);
            }
            self.lately.push_back(now);
        }
        let attempts: Vec<Attempt> = deliveries.iter().map(|d| self.judge(seed, d, now)).collect();
        let ok = |attempt: &Attempt| matches!(attempt, Attempt::Reply { stage: Stage::Dot, .. });
        let taken: Vec<bool> = attempts.iter().map(ok).collect();
        if !taken.contains(&true) {
            return Exchange { attempts, ..all(&Attempt::NotStarted, short, true) };
        }
        let first = deliveries.first().map_or(0, |d| number(d.lease.delivery) + tries(d));
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let more = (draw(seed, 5, first) * self.manner.jitter as f64) as i64;
        let lasts = self.manner.transaction(rode) + more;
        let dotted = Exchange { attempts, lasts, open: true, dotted: true, arrived: taken };
        if draw(seed, 3, first) < self.manner.drops {
            return dotted.dropped(draw(seed, 4, first) < 0.5);
        }
        dotted
    }

    fn judge(&mut self, seed: u64, delivery: &Delivery, now: Timestamp) -> Attempt {
        let id = number(delivery.lease.delivery);
        if self.manner.greylist > 0 {
            let first = *self.first_tried.entry(delivery.lease.delivery).or_insert(now);
            if now.0 < first.0 + self.manner.greylist {
                return reply(Stage::Rcpt, 451, "not now");
            }
        }
        if draw(seed, 1, id) < self.manner.permanent {
            reply(Stage::Rcpt, 550, "not here")
        } else if draw(seed, 2, id + tries(delivery)) < self.manner.transient {
            reply(Stage::Rcpt, 451, "not now")
        } else {
            reply(Stage::Dot, 250, "taken")
        }
    }
}

impl Exchange {
    /// The same, with the connection gone after the last dot.
    fn dropped(mut self, arrived: bool) -> Self {
        for (attempt, has) in self.attempts.iter_mut().zip(&mut self.arrived) {
            if *has {
                let error = "closed by the peer".to_string();
                *attempt = Attempt::Lost { stage: Stage::Dot, error, in_doubt: true };
                *has = arrived;
            }
        }
        self.open = false;
        self
    }
}

fn reply(stage: Stage, code: u16, text: &str) -> Attempt {
    let text = text.to_string();
    Attempt::Reply { stage, reply: Reply { code, enhanced: None, text, lines: Vec::new() } }
}

fn number(delivery: DeliveryId) -> u64 {
    let message = u64::try_from(delivery.message.number()).unwrap();
    message.wrapping_mul(31).wrapping_add(u64::from(delivery.number))
}

fn tries(delivery: &Delivery) -> u64 {
    u64::from(delivery.attempts).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
}

/// A number from 0 to 1 that follows from all three (splitmix64).
#[allow(clippy::cast_precision_loss)]
pub fn draw(seed: u64, what: u64, of: u64) -> f64 {
    let mut z = seed ^ what.rotate_left(48) ^ of.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// One domain of the world.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: Domain,
    pub operator: usize,
    /// What DNS says.
    pub answer: Answer,
    /// How long DNS takes, in ms.
    pub takes: i64,
}

/// What DNS says of a domain.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This one of the operator's sets.
    Hosts(usize),
    /// An MX host of a name of its own, with this set's addresses.
    OwnName(usize),
    /// Nothing until then.
    FailingUntil(Timestamp),
    NoSuchDomain,
    NullMx,
}

impl Place {
    pub fn resolve(&self, operators: &[Operator], now: Timestamp) -> Resolution {
        let sets = &operators[self.operator].hosts;
        match &self.answer {
            Answer::Hosts(n) => Resolution::Hosts(sets[*n].clone()),
            Answer::OwnName(n) => {
                let addresses = sets[*n].iter().flat_map(|h| h.addresses.clone()).collect();
                let name = format!("mx.{}", self.name);
                Resolution::Hosts(vec![MxHost { preference: 10, name, addresses }])
            }
            Answer::FailingUntil(until) if now < *until => {
                Resolution::Temporary("SERVFAIL".to_string())
            }
            Answer::FailingUntil(_) => Resolution::Hosts(sets[0].clone()),
            Answer::NoSuchDomain => Resolution::NoSuchDomain,
            Answer::NullMx => Resolution::NullMx,
        }
    }

    /// True where DNS finds it at all times.
    pub fn is_sound(&self) -> bool {
        matches!(self.answer, Answer::Hosts(_) | Answer::OwnName(_))
    }
}
