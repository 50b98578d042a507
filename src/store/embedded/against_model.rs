//! Random operations on this engine and on the model, compared step by step: results, backlog,
//! list. Closing, crashing and opening again is one of the operations.

use super::{EmbeddedStore, Options, tests};
use crate::base::time::{Clock, Timestamp};
use crate::mail::message::{Lane, NewMessage};
use crate::store::conformance::{Fixture, START};
use crate::store::memory::MemoryStore;
use crate::store::{
    Change, Claim, Claimed, Filter, Lease, Outcome, QueueBacklog, QueueKey, Revision, Settled,
    Settlement, State, Store,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// One step.
#[derive(Clone, Debug)]
enum Step {
    Accept { to: Vec<(u8, u8)>, direct: bool, due: i64, expires: i64, leased: bool },
    Claim { queues: u8, most: u32, limit: u32, ahead: i64 },
    ClaimExpired,
    Settle { picks: Vec<(u8, End)>, notice: bool },
    Release { picks: Vec<u8> },
    Renew { picks: Vec<u8>, seconds: u64 },
    Change { filter: u8, action: Change },
    HoldAll(bool),
    Advance(u64),
    Reopen { crash: bool },
}

/// How a lease ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Delivered,
    Failed,
    Expired,
    Deferred(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = -5..40_i64;
    let picks = || prop::collection::vec(any::<u8>(), 0..4);
    let end = prop_oneof![
        3 => Just(End::Delivered),
        1 => Just(End::Failed),
        1 => Just(End::Expired),
        3 => seconds.clone().prop_map(End::Deferred),
    ];
    let action = prop_oneof![
        Just(Change::Hold),
        Just(Change::Release),
        Just(Change::Delete),
        (0..40_i64).prop_map(|s| Change::Retry(Timestamp(START.0 + s * 1_000))),
    ];
    let to = prop::collection::vec((0..3_u8, 0..4_u8), 1..5);
    let accept = (to, any::<bool>(), seconds.clone(), 1..60_i64, any::<bool>());
    let claim = (any::<u8>(), 1..5_u32, 1..9_u32, seconds);
    prop_oneof![
        8 => accept.prop_map(|(to, direct, due, expires, leased)| {
            Step::Accept { to, direct, due, expires, leased }
        }),
        6 => claim.prop_map(|(queues, most, limit, ahead)| {
            Step::Claim { queues, most, limit, ahead }
        }),
        1 => Just(Step::ClaimExpired),
        6 => (prop::collection::vec((any::<u8>(), end), 0..5), any::<bool>())
            .prop_map(|(picks, notice)| Step::Settle { picks, notice }),
        2 => picks().prop_map(|picks| Step::Release { picks }),
        1 => (picks(), 1..30_u64).prop_map(|(picks, seconds)| Step::Renew { picks, seconds }),
        2 => (0..5_u8, action).prop_map(|(filter, action)| Step::Change { filter, action }),
        1 => any::<bool>().prop_map(Step::HoldAll),
        3 => (1..25_u64).prop_map(Step::Advance),
        1 => any::<bool>().prop_map(|crash| Step::Reopen { crash }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn does_as_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new();
            for step in steps {
                pair.run(step).await;
                pair.compare().await;
            }
        });
    }
}

/// Both engines, with one clock and leases side by side.
struct Pair {
    disk: Fixture<EmbeddedStore>,
    model: MemoryStore,
    clock: Clock,
    /// Of the engine and of the model; live and stale.
    leases: Vec<(Lease, Lease)>,
    /// Both backlogs as somebody knows them who only follows the changes.
    followed: [Followed; 2],
}

/// Counts by queue: ready, deferred, leased, held, bytes.
type Counts = BTreeMap<QueueKey, [u64; 5]>;

#[derive(Default)]
struct Followed {
    seen: Revision,
    counts: Counts,
}

impl Followed {
    fn follow(&mut self, store: &impl Store) {
        let backlog = store.backlog(self.seen);
        self.seen = backlog.revision;
        for queue in backlog.queues {
            self.counts.insert(QueueKey::clone(&queue.key), counts(&queue));
        }
        self.counts.retain(|_, counts| *counts != [0; 5]);
    }
}

fn counts(queue: &QueueBacklog) -> [u64; 5] {
    [queue.ready, queue.deferred, queue.leased, queue.held, queue.bytes]
}

fn open(dir: &Path, clock: &Clock) -> EmbeddedStore {
    let options = Options {
        free_space_min: 0,
        segment_size: Some(1 << 14),
        compress: true,
        ..Options::default()
    };
    EmbeddedStore::open(dir, clock.clone(), options).unwrap()
}

/// What a claim gave, without what engines may choose: queue numbers and fences.
fn view(claimed: &[Claimed]) -> String {
    let mut text = String::new();
    for group in claimed {
        text += &format!("{:?} until {}\n", group.head, group.trusted_until);
        for d in &group.deliveries {
            let (id, due) = (d.lease.delivery, d.lease.due_at);
            let tried = (d.attempts, d.delay_notified, &d.last_reply);
            text += &format!("  {id:?} due {due} {:?} {tried:?}\n", d.recipient);
        }
    }
    text
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::simulated(START);
        let disk = Fixture::new(open(dir.path(), &clock), clock.clone(), Some(dir));
        let model = MemoryStore::new(clock.clone());
        Self { disk, model, clock, leases: Vec::new(), followed: Default::default() }
    }

    fn at(&self, seconds: i64) -> Timestamp {
        Timestamp(self.clock.now().0 + seconds * 1_000)
    }

    fn picked(&self, picks: &[u8]) -> (Vec<Lease>, Vec<Lease>) {
        let pick = |n: &u8| self.leases.get(usize::from(*n) % self.leases.len().max(1)).copied();
        picks.iter().filter_map(pick).unzip()
    }

    async fn run(&mut self, step: Step) {
        match step {
            Step::Accept { to, direct, due, expires, leased } => {
                let mut message = self.message(&to, direct);
                message.due_at = self.at(due);
                message.expires_at = self.at(expires);
                let lease = leased.then_some(Duration::from_secs(20));
                let ours = self.disk.store.accept(message.clone(), lease).await.unwrap();
                let theirs = self.model.accept(message, lease).await.unwrap();
                self.leased(&Vec::from_iter(ours.claimed), &Vec::from_iter(theirs.claimed));
            }
            Step::Claim { queues, most, limit, ahead } => {
                self.claim(queues, most, limit, self.at(ahead), None).await;
            }
            Step::ClaimExpired => self.claim(255, 99, 99, START, Some(self.clock.now())).await,
            Step::Settle { picks, notice } => self.settle(&picks, notice).await,
            Step::Release { picks } => {
                let (ours, theirs) = self.picked(&picks);
                self.disk.store.release(ours).await.unwrap();
                self.model.release(theirs).await.unwrap();
            }
            Step::Renew { picks, seconds } => {
                let (ours, theirs) = self.picked(&picks);
                let ttl = Duration::from_secs(seconds);
                let ours = self.disk.store.renew(ours, ttl).await.unwrap();
                let theirs = self.model.renew(theirs, ttl).await.unwrap();
                same_deliveries(&ours, &theirs);
            }
            Step::Change { filter, action } => self.change(filter, action).await,
            Step::HoldAll(hold) => {
                self.disk.store.hold_all(hold).await.unwrap();
                self.model.hold_all(hold).await.unwrap();
            }
            Step::Advance(seconds) => self.clock.advance(Duration::from_secs(seconds)),
            Step::Reopen { crash } => self.reopen(crash).await,
        }
    }

    fn message(&self, to: &[(u8, u8)], direct: bool) -> NewMessage {
        let to: Vec<String> = to.iter().map(|(n, d)| format!("u{n}@d{d}.example")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let mut message = self.disk.message(&to);
        if direct {
            message.origin.lane = Lane::Direct;
        }
        message
    }

    /// Notes leases that both gave alike.
    fn leased(&mut self, ours: &[Claimed], theirs: &[Claimed]) {
        assert_eq!(view(ours), view(theirs));
        let leases = |c: &[Claimed]| -> Vec<Lease> {
            c.iter().flat_map(|c| &c.deliveries).map(|d| d.lease).collect()
        };
        self.leases.extend(leases(ours).into_iter().zip(leases(theirs)));
    }

    async fn claim(
        &mut self,
        chosen: u8,
        most: u32,
        limit: u32,
        due_until: Timestamp,
        expired_at: Option<Timestamp>,
    ) {
        let queues = |store: &dyn Fn() -> Vec<QueueBacklog>| {
            let mut queues = store();
            queues.sort_by(|a, b| a.key.cmp(&b.key));
            let chosen = (0..).zip(queues).filter(|(n, _)| chosen & (1 << (n % 8)) != 0);
            chosen.map(|(_, queue)| (queue.id, most)).collect::<Vec<_>>()
        };
        let ttl = Duration::from_secs(15);
        let fresh_until = due_until.after(Duration::from_secs(5));
        let claim = |queues| Claim { queues, due_until, fresh_until, expired_at, limit, ttl };
        let ours = queues(&|| self.disk.store.backlog(Revision::START).queues);
        let theirs = queues(&|| self.model.backlog(Revision::START).queues);
        let ours = self.disk.store.claim(claim(ours)).await.unwrap();
        let theirs = self.model.claim(claim(theirs)).await.unwrap();
        self.leased(&ours, &theirs);
    }

    async fn settle(&mut self, picks: &[(u8, End)], notice: bool) {
        let (numbers, ends): (Vec<u8>, Vec<End>) = picks.iter().copied().unzip();
        let (ours, theirs) = self.picked(&numbers);
        let outcomes = |leases: &[Lease]| -> Vec<Settled> {
            leases
                .iter()
                .zip(&ends)
                .map(|(lease, end)| Settled {
                    lease: *lease,
                    outcome: match end {
                        End::Delivered => Outcome::Delivered,
                        End::Failed => Outcome::Failed,
                        End::Expired => Outcome::Expired,
                        End::Deferred(s) => {
                            Outcome::Deferred { due_at: self.at(*s), delay_notified: *s > 20 }
                        }
                    },
                    reply: format!("{end:?}"),
                    blame: None,
                })
                .collect()
        };
        let notices: Vec<NewMessage> =
            notice.then(|| self.message(&[(0, 0)], true)).into_iter().collect();
        let settlement = |leases: &[Lease]| Settlement {
            at: self.clock.now(),
            outcomes: outcomes(leases),
            notices: notices.clone(),
        };
        let ours = self.disk.store.settle(settlement(&ours)).await.unwrap();
        let theirs = self.model.settle(settlement(&theirs)).await.unwrap();
        same_deliveries(&ours, &theirs);
    }

    async fn change(&mut self, filter: u8, action: Change) {
        let filter = match filter {
            0 => Filter::default(),
            1 => Filter { lane: Some(Lane::Bulk), ..Filter::default() },
            2 => Filter { domains: vec!["d1.example".into()], ..Filter::default() },
            3 => Filter { recipient: Some("u1@d2.example".into()), ..Filter::default() },
            _ => Filter { states: vec![State::Held, State::Deferred], ..Filter::default() },
        };
        let ours = self.disk.store.change(filter.clone(), action, None).await.unwrap();
        let theirs = self.model.change(filter, action, None).await.unwrap();
        assert_eq!((ours.changed, ours.leased), (theirs.changed, theirs.leased));
        assert!(ours.next.is_none() && theirs.next.is_none());
    }

    /// Leases do not live on; all else does.
    async fn reopen(&mut self, crash: bool) {
        if crash {
            let copy = tempfile::tempdir().unwrap();
            tests::copy(self.disk.dir.as_ref().unwrap().path(), copy.path());
            self.disk.store = open(copy.path(), &self.clock);
            self.disk.dir = Some(copy);
        } else {
            let dir = self.disk.dir.take().unwrap();
            self.disk.store = open(tempfile::tempdir().unwrap().path(), &self.clock);
            self.disk.store = open(dir.path(), &self.clock);
            self.disk.dir = Some(dir);
        }
        let (_, theirs) = self.leases.drain(..).unzip::<_, _, Vec<_>, Vec<_>>();
        self.model.release(theirs).await.unwrap();
        self.followed[0] = Followed::default();
    }

    async fn compare(&mut self) {
        let records = |mut list: Vec<crate::store::DeliveryRecord>| {
            list.sort_by_key(|d| (d.head.id, d.number));
            list.iter().map(|d| format!("{d:?}")).collect::<Vec<_>>()
        };
        let ours = self.disk.store.list(Filter::default(), None, 9_999).await.unwrap();
        let theirs = self.model.list(Filter::default(), None, 9_999).await.unwrap();
        let waits =
            |d: &&crate::store::DeliveryRecord| matches!(d.state, State::Ready | State::Deferred);
        let first_due = theirs.deliveries.iter().filter(waits).filter_map(|d| d.due_at).min();
        let messages: Vec<_> = theirs.deliveries.iter().map(|d| d.head.id).collect();
        assert_eq!(records(ours.deliveries), records(theirs.deliveries));
        if let Some(id) = messages.first() {
            let ours = self.disk.store.show(*id).await.unwrap().unwrap();
            let theirs = self.model.show(*id).await.unwrap().unwrap();
            assert_eq!(records(ours.deliveries), records(theirs.deliveries));
        }
        let bodies = self.disk.store.bodies(messages.clone()).await.unwrap();
        assert_eq!(bodies, self.model.bodies(messages).await.unwrap());
        assert_eq!(self.disk.store.last_id(), self.model.last_id());

        let now = self.disk.store.backlog(Revision::START);
        assert_eq!(now.all_held, self.model.backlog(Revision::START).all_held);
        let next_due = now.queues.iter().map(|queue| queue.next_due).min();
        assert!(next_due.unwrap_or(Timestamp::NEVER) <= first_due.unwrap_or(Timestamp::NEVER));
        self.followed[0].follow(&self.disk.store);
        self.followed[1].follow(&self.model);
        let whole: Counts =
            now.queues.iter().map(|q| (QueueKey::clone(&q.key), counts(q))).collect();
        assert_eq!(whole, self.followed[0].counts);
        assert_eq!(whole, self.followed[1].counts);
    }
}

fn same_deliveries(ours: &[Lease], theirs: &[Lease]) {
    let ids = |leases: &[Lease]| leases.iter().map(|l| l.delivery).collect::<Vec<_>>();
    assert_eq!(ids(ours), ids(theirs));
}
