//! Power cuts: at a random operation of the journal the machine stops, now and then after a write
//! or sync that failed. Of the journal's files, what was synced is left and any sectors of what was
//! not; of the database, what a checkpoint moved and any beginning of its log. What was answered
//! must hold, whatever was on its way.
//!
//! `BULKHEAD_POWER_CUTS=5000 cargo test --lib power_cut` for more cuts; each failure prints its
//! seed.

use super::Options;
use super::check::check_on;
use super::tests::options;
use super::{EmbeddedStore, open, schema};
use crate::base::id::MessageId;
use crate::base::random::{Rng, from_seed};
use crate::base::time::{Clock, Timestamp};
use crate::mail::message::{Lane, NewMessage};
use crate::store::conformance::{Fixture, START};
use crate::store::journal::simulated::Simulated;
use crate::store::{
    Change, Claim, DeliveryId, Filter, Lease, Outcome, Revision, Settled, Settlement, State, Store,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Cuts of an ordinary run.
const CUTS: u64 = 150;
/// Cuts of one queue.
const CUTS_IN_A_ROW: u64 = 25;
/// The whole queue is checked after one cut of so many.
const CHECK_EACH: u64 = 5;
/// Operations between two cuts at most, about.
const OPERATIONS: u64 = 60;

/// What must be true of a delivery.
#[derive(Clone, Debug, PartialEq)]
enum Must {
    /// It is being accepted: it is there or not.
    Come,
    /// It is there or not: an answer was on its way.
    Either,
    /// It is there, due then (`None`: held), after so many attempts.
    Wait(Option<Timestamp>, u32),
    /// It is not there.
    BeGone,
}

/// What is known, to be seen by the one who cuts.
#[derive(Clone, Debug, Default)]
struct Known {
    deliveries: BTreeMap<DeliveryId, Must>,
    bodies: BTreeMap<MessageId, Bytes>,
    all_held: Option<bool>,
}

/// What is left after a cut.
struct Left {
    disk: Simulated,
    dir: tempfile::TempDir,
    known: Known,
}

impl Left {
    fn nothing() -> Self {
        let (disk, known) = (Simulated::default(), Known::default());
        Self { disk, dir: tempfile::tempdir().unwrap(), known }
    }
}

/// The database and its log.
fn files(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let log = std::fs::read(dir.join("queue.db-wal")).unwrap_or_default();
    (std::fs::read(schema::path(dir)).unwrap(), log)
}

/// The files of the database as a power cut leaves them; `synced` is how the last checkpoint left
/// them.
fn image(from: &Path, synced: &(Vec<u8>, Vec<u8>), rng: &mut Rng) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (database, mut wal) = files(from);
    let least = match () {
        // Another checkpoint was made, or is being made.
        () if database != synced.0 => wal.len(),
        () if wal.get(..32) == synced.1.get(..32) => synced.1.len(),
        // The log was begun anew since: nothing in it was synced.
        () => 0,
    };
    // Now and then the disk lost the database, too.
    if rng.u32(0..8) > 0 {
        wal.truncate(rng.usize(least.min(wal.len())..=wal.len()));
        std::fs::write(schema::path(dir.path()), &database).unwrap();
        std::fs::write(dir.path().join("queue.db-wal"), &wal).unwrap();
    }
    dir
}

fn start(
    disk: &Simulated,
    dir: tempfile::TempDir,
    clock: &Clock,
    compress: bool,
) -> Fixture<EmbeddedStore> {
    let options = Options { compress, ..options() };
    let parts = open::open(dir.path(), disk.clone(), clock.clone(), &options).unwrap();
    let lock = schema::lock(dir.path()).unwrap();
    let store = EmbeddedStore::start(parts, dir.path(), lock).unwrap();
    Fixture::new(store, clock.clone(), Some(dir))
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a test runs is no setting of a node")]
fn what_was_answered_survives_a_power_cut() {
    let cuts = std::env::var("BULKHEAD_POWER_CUTS").ok().and_then(|text| text.parse().ok());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::simulated(START);
    let mut left = Left::nothing();
    for seed in 0..cuts.unwrap_or(CUTS) {
        if seed.is_multiple_of(CUTS_IN_A_ROW) {
            left = Left::nothing();
        }
        let cut = || runtime.block_on(one_cut(seed, left, &clock));
        left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(cut)).unwrap_or_else(|_| {
            panic!("the power cut of seed {seed}, see above");
        });
    }
}

/// Opens what is left, holds it against what is known, works on, and cuts.
async fn one_cut(seed: u64, left: Left, clock: &Clock) -> Left {
    let mut rng = from_seed(seed);
    let Left { disk, dir, known } = left;
    if seed.is_multiple_of(CHECK_EACH) {
        let checked = check_on(dir.path(), &disk, clock.clone()).unwrap();
        assert_eq!(checked.problems, Vec::<String>::new());
    }
    let f = start(&disk, dir, clock, rng.bool());
    let known = Arc::new(Mutex::new(hold_against(&f, known).await));
    let found: Arc<Mutex<Option<Left>>> = Arc::default();
    // The list came after the checkpoint that is made at a start; the next is far.
    {
        let (known, found, from) =
            (Arc::clone(&known), Arc::clone(&found), f.dir.as_ref().unwrap().path().to_owned());
        let mut rng = from_seed(seed ^ 0xdead);
        let synced = files(&from);
        disk.watch(rng.u64(0..OPERATIONS), move |disk| {
            let known = known.lock().unwrap().clone();
            let dir = image(&from, &synced, &mut rng);
            let disk = disk.cut(&mut rng);
            *found.lock().unwrap() = Some(Left { disk, dir, known });
        });
    }
    if rng.bool() {
        // A write or sync fails before that.
        disk.fail_in(rng.u64(0..OPERATIONS));
    }
    let mut leases: Vec<Lease> = Vec::new();
    while found.lock().unwrap().is_none() {
        // Several at once, so that batches have company and a cut meets some of them.
        tokio::join!(
            accept(&f, &known, rng.u64(..)),
            accept(&f, &known, rng.u64(..)),
            settle(&f, &known, &mut leases, rng.u64(..)),
        );
        match rng.u32(0..10) {
            0 => change(&f, &known, rng.u64(..)).await,
            1 => hold_all(&f, &known, rng.bool()).await,
            2 => drop(f.store.list(Filter::default(), None, 1).await.unwrap()),
            3 => clock.advance(Duration::from_secs(1)),
            _ => {}
        }
    }
    let left = found.lock().unwrap().take();
    left.unwrap()
}

/// Gives back what is known now.
async fn hold_against(f: &Fixture<EmbeddedStore>, known: Known) -> Known {
    if let Some(hold) = known.all_held {
        assert_eq!(f.store.backlog(Revision::START).all_held, hold);
    }
    let mut after = Known::default();
    let mut ids: Vec<MessageId> = Vec::new();
    for record in f.list(Filter::default(), 9_999).await {
        let delivery = DeliveryId { message: record.head.id, number: record.number };
        let due = (record.state != State::Held).then_some(record.due_at).flatten();
        let must = Must::Wait(due, record.attempts);
        match known.deliveries.get(&delivery) {
            Some(Must::Come | Must::Either) | None => {}
            Some(known) => assert_eq!(&must, known, "{delivery:?}"),
        }
        after.deliveries.insert(delivery, must);
        ids.push(record.head.id);
    }
    for (delivery, must) in &known.deliveries {
        let there = after.deliveries.contains_key(delivery);
        assert!(there || !matches!(must, Must::Wait(..)), "{delivery:?} {must:?} is lost");
    }
    ids.dedup();
    for (id, body) in f.store.bodies(ids.clone()).await.unwrap() {
        assert!(known.bodies.get(&id).is_none_or(|known| *known == body), "{id}");
        after.bodies.insert(id, body);
    }
    assert!(ids.iter().all(|id| after.bodies.contains_key(id)), "a body is lost");
    after.all_held = Some(f.store.backlog(Revision::START).all_held);
    after
}

fn set(known: &Mutex<Known>, delivery: DeliveryId, must: Must) {
    known.lock().unwrap().deliveries.insert(delivery, must);
}

async fn accept(f: &Fixture<EmbeddedStore>, known: &Mutex<Known>, seed: u64) {
    let mut rng = from_seed(seed);
    let to = ["a@x.example", "b@y.example", "c@x.example"];
    let count = if rng.bool() { 1 } else { rng.usize(1..=3) };
    let mut message = f.message(&to[..count]);
    // Half of them cannot be packed.
    let words = if rng.bool() { 1 } else { rng.usize(1..3_000) };
    let word: Vec<u8> = (0..words).map(|_| rng.u8(..)).collect();
    message.body = word.repeat(rng.usize(0..=3_000 / words)).into();
    if rng.bool() {
        message.origin.lane = Lane::Direct;
    }
    expect(known, &message);
    let lease = rng.bool().then_some(Duration::from_secs(30));
    // One that was refused may be there or not: nobody was told 250.
    let Ok(accepted) = f.store.accept(message.clone(), lease).await else { return };
    came(known, &message);
    let Some(claimed) = accepted.claimed.filter(|_| rng.bool()) else { return };
    // Settled before it was ever in a table.
    for delivery in claimed.deliveries {
        set(known, delivery.lease.delivery, Must::Either);
        settle_one(f, known, delivery.lease, 0, &mut rng).await;
    }
}

fn numbers(message: &NewMessage) -> impl Iterator<Item = DeliveryId> {
    let (id, count) = (message.id, u32::try_from(message.envelope.recipients.len()).unwrap());
    (0..count).map(move |number| DeliveryId { message: id, number })
}

/// A message is on its way.
fn expect(known: &Mutex<Known>, message: &NewMessage) {
    let mut known = known.lock().unwrap();
    known.bodies.insert(message.id, message.body.clone());
    known.deliveries.extend(numbers(message).map(|delivery| (delivery, Must::Come)));
}

/// A message was answered; somebody may have had it already.
fn came(known: &Mutex<Known>, message: &NewMessage) {
    let mut known = known.lock().unwrap();
    for delivery in numbers(message) {
        if known.deliveries.get(&delivery) == Some(&Must::Come) {
            known.deliveries.insert(delivery, Must::Wait(Some(message.due_at), 0));
        }
    }
}

async fn settle(
    f: &Fixture<EmbeddedStore>,
    known: &Mutex<Known>,
    leases: &mut Vec<Lease>,
    seed: u64,
) {
    let mut rng = from_seed(seed);
    let queues = f.store.backlog(Revision::START).queues;
    let queues = queues.iter().map(|queue| (queue.id, 3)).collect();
    let due_until = f.clock.now().after(Duration::from_secs(60));
    let ttl = Duration::from_secs(30);
    let fresh_until = due_until;
    let claim = Claim { queues, due_until, fresh_until, expired_at: None, limit: 4, ttl };
    for claimed in f.store.claim(claim).await.unwrap() {
        for delivery in claimed.deliveries {
            set(known, delivery.lease.delivery, Must::Either);
            settle_one(f, known, delivery.lease, delivery.attempts, &mut rng).await;
            leases.push(delivery.lease);
        }
    }
}

/// Settles a delivery that nobody else settles, or gives it back.
async fn settle_one(
    f: &Fixture<EmbeddedStore>,
    known: &Mutex<Known>,
    lease: Lease,
    attempts: u32,
    rng: &mut Rng,
) {
    let due_at = f.clock.now().after(Duration::from_secs(rng.u64(0..60)));
    let (outcome, must) = match rng.u32(0..4) {
        0 => (
            Outcome::Deferred { due_at, delay_notified: false },
            Must::Wait(Some(due_at), attempts + 1),
        ),
        1 => (Outcome::Failed, Must::BeGone),
        _ => (Outcome::Delivered, Must::BeGone),
    };
    let notices = match outcome {
        Outcome::Failed => vec![f.message(&["news@shop.example"])],
        _ => Vec::new(),
    };
    notices.iter().for_each(|notice| expect(known, notice));
    let outcomes = vec![Settled { lease, outcome, reply: "250 ok".into(), blame: None }];
    let settlement = Settlement { at: f.clock.now(), outcomes, notices: notices.clone() };
    let Ok(stale) = f.store.settle(settlement).await else { return };
    if stale.is_empty() {
        set(known, lease.delivery, must);
    }
    notices.iter().for_each(|notice| came(known, notice));
}

async fn change(f: &Fixture<EmbeddedStore>, known: &Mutex<Known>, seed: u64) {
    let mut rng = from_seed(seed);
    let filter = Filter { domains: vec!["y.example".into()], ..Filter::default() };
    let action = match rng.u32(0..4) {
        0 => Change::Hold,
        1 => Change::Release,
        2 => Change::Retry(f.clock.now()),
        _ => Change::Delete,
    };
    let numbers = |known: &Known| -> Vec<DeliveryId> { known.deliveries.keys().copied().collect() };
    // Any of them may be changed; what became of it is looked up afterwards.
    let before = known.lock().unwrap().clone();
    for delivery in numbers(&before).into_iter().filter(|delivery| delivery.number == 1) {
        set(known, delivery, Must::Either);
    }
    // One that failed may have reached the disk all the same, and is then done by the next start.
    if f.store.change(filter, action, None).await.is_err() {
        return;
    }
    let list = f.list(Filter::default(), 9_999).await;
    for delivery in numbers(&before).into_iter().filter(|delivery| delivery.number == 1) {
        let record = list
            .iter()
            .find(|record| (record.head.id, record.number) == (delivery.message, delivery.number));
        let must = match record {
            None => Must::BeGone,
            Some(record) => {
                let due = (record.state != State::Held).then_some(record.due_at).flatten();
                Must::Wait(due, record.attempts)
            }
        };
        // What another has on the way stays unknown.
        if !matches!(before.deliveries.get(&delivery), Some(Must::Come | Must::Either)) {
            set(known, delivery, must);
        }
    }
}

async fn hold_all(f: &Fixture<EmbeddedStore>, known: &Mutex<Known>, hold: bool) {
    known.lock().unwrap().all_held = None;
    if f.store.hold_all(hold).await.is_ok() {
        known.lock().unwrap().all_held = Some(hold);
    }
}
