//! The embedded engine: the conformance suite, and what only files can do.

use super::{EmbeddedStore, Options, open, schema};
use crate::base::time::{Clock, Timestamp};
use crate::mail::message::NewMessage;
use crate::store::conformance::{Fixture, START, conformance};
use crate::store::journal::simulated::Simulated;
use crate::store::{
    Change, DeliveryRecord, Filter, Lease, Outcome, Revision, Settled, Settlement, State, Store,
    StoreError,
};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn new() -> Fixture<EmbeddedStore> {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(START);
    Fixture::new(reopen(dir.path(), &clock), clock, Some(dir))
}

conformance!(new);

pub(super) fn options() -> Options {
    Options { free_space_min: 0, segment_size: Some(1 << 16), ..Options::default() }
}

fn reopen(dir: &Path, clock: &Clock) -> EmbeddedStore {
    EmbeddedStore::open(dir, clock.clone(), options()).unwrap()
}

/// Closes the store of `f` and opens it again, with `pragma` set on the index's connection.
fn with_pragma(f: Fixture<EmbeddedStore>, pragma: &str) -> Fixture<EmbeddedStore> {
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    let path = dir.as_ref().unwrap().path();
    let disk = open::folder(path).unwrap();
    let parts = open::open(path, disk, clock.clone(), &options()).unwrap();
    parts.indexer.index.as_ref().unwrap().db.execute_batch(pragma).unwrap();
    let store = EmbeddedStore::start(parts, path, schema::lock(path).unwrap()).unwrap();
    Fixture::new(store, clock, dir)
}

/// A store whose journal is on a simulated disk.
fn simulated(disk: &Simulated) -> Fixture<EmbeddedStore> {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(START);
    let parts = open::open(dir.path(), disk.clone(), clock.clone(), &options()).unwrap();
    let lock = schema::lock(dir.path()).unwrap();
    Fixture::new(EmbeddedStore::start(parts, dir.path(), lock).unwrap(), clock, Some(dir))
}

/// Copies a queue as a crash would leave it.
pub(super) fn copy(from: &Path, to: &Path) {
    for file in ["queue.db", "queue.db-wal"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    copy_journal(from, to);
}

/// Copies the journal alone.
pub(super) fn copy_journal(from: &Path, to: &Path) {
    std::fs::create_dir(open::journal(to)).unwrap();
    for entry in std::fs::read_dir(open::journal(from)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), open::journal(to).join(entry.file_name())).unwrap();
    }
}

fn path(f: &Fixture<EmbeddedStore>) -> &Path {
    f.dir.as_ref().unwrap().path()
}

/// A connection of somebody else's, to look and to damage.
fn raw(f: &Fixture<EmbeddedStore>) -> rusqlite::Connection {
    rusqlite::Connection::open(schema::path(path(f))).unwrap()
}

#[tokio::test]
async fn a_second_node_is_refused() {
    let f = new();
    let error = EmbeddedStore::open(path(&f), f.clock.clone(), options()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Incompatible(_)));
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains("data_dir"), "{text}");
}

#[tokio::test]
async fn another_version_is_refused() {
    let f = new();
    raw(&f).execute("UPDATE meta SET value = 7 WHERE key = 'schema'", []).unwrap();
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    for error in [
        EmbeddedStore::open(dir.as_ref().unwrap().path(), clock.clone(), options()).unwrap_err(),
        EmbeddedStore::open_read_only(dir.as_ref().unwrap().path(), clock).unwrap_err(),
    ] {
        assert!(error.to_string().contains("schema version 7, this build knows 2"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_queue_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(schema::path(dir.path()), "not a database, but long enough to be read").unwrap();
    let error = EmbeddedStore::open(dir.path(), Clock::system(), options()).unwrap_err();
    assert!(error.to_string().contains("queue.db"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(EmbeddedStore::open_read_only(empty.path(), Clock::system()).is_err());
}

#[tokio::test]
async fn reads_without_a_node() {
    let f = new();
    let id = f.accept(&["a@x.example", "b@y.example"]).await;
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    let dir = dir.unwrap();
    let store = EmbeddedStore::open_read_only(dir.path(), clock.clone()).unwrap();
    let f = Fixture::new(store.clone(), clock, None);
    assert_eq!(store.backlog(Revision::START).queues.len(), 2);
    assert_eq!(store.show(id).await.unwrap().unwrap().deliveries.len(), 2);
    assert_eq!(store.list(Filter::default(), None, 9).await.unwrap().deliveries.len(), 2);
    assert!(store.accept(f.message(&["c@x.example"]), None).await.is_err());
    assert!(store.hold_all(true).await.is_err());
}

#[tokio::test]
async fn what_was_accepted_survives_a_crash() {
    let f = new();
    for n in 0..50 {
        f.accept(&[&format!("u{n}@x.example")]).await;
    }
    let crashed = tempfile::tempdir().unwrap();
    copy(path(&f), crashed.path());
    let store = reopen(crashed.path(), &f.clock);
    assert_eq!(store.backlog(Revision::START).queues[0].ready, 50);
    assert_eq!(store.last_id(), f.store.last_id());
    let check: String = rusqlite::Connection::open(schema::path(crashed.path()))
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

#[tokio::test]
async fn the_last_id_survives_its_message() {
    let f = new();
    let id = f.accept(&["a@x.example"]).await;
    let claimed = f.claim().await;
    f.settle(claimed[0].deliveries[0].lease, Outcome::Delivered).await;
    let f = with_pragma(f, "");
    assert_eq!(f.store.last_id(), Some(id));
}

#[tokio::test]
async fn a_settled_message_leaves_no_row() {
    let f = new();
    f.accept(&["a@x.example"]).await;
    f.accept(&["b@x.example", "c@y.example"]).await;
    for claimed in f.claim().await {
        for delivery in claimed.deliveries {
            f.settle(delivery.lease, Outcome::Delivered).await;
        }
    }
    f.list(Filter::default(), 1).await;
    for count in [
        "SELECT count(*) FROM messages",
        "SELECT count(*) FROM segments",
        "SELECT count(*) FROM deliveries",
        "SELECT count(*) FROM settled",
    ] {
        let rows: i64 = raw(&f).query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{count}");
    }
}

fn delivered(lease: Lease) -> Settlement {
    let (outcome, reply) = (Outcome::Delivered, String::new());
    let outcomes = vec![Settled { lease, outcome, reply, blame: None }];
    Settlement { at: START, outcomes, notices: Vec::new() }
}

#[tokio::test]
async fn a_database_that_fails_is_brought_up_from_the_journal() {
    let f = new();
    f.accept(&["a@x.example"]).await;
    f.accept(&["b@x.example"]).await;
    // The first write fails in a way that makes the database be opened anew.
    let f = with_pragma(f, "PRAGMA query_only = ON");
    let claimed = f.claim().await;
    let kept = f.accept(&["c@x.example"]).await;
    let stale = f.store.settle(delivered(claimed[0].deliveries[0].lease)).await.unwrap();
    assert!(stale.is_empty());
    // It is tried again after a moment.
    while f.store.list(Filter::default(), None, 1).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(!f.store.health().index_failed);
    let listed = f.list(Filter::default(), 9).await;
    let states: Vec<_> = listed.iter().map(|record| (record.head.id, record.state)).collect();
    assert_eq!(states, [(claimed[1].head.id, State::Leased), (kept, State::Ready)]);
    assert_eq!(f.claim().await[0].head.id, kept);
}

#[tokio::test]
async fn a_record_that_cannot_be_written_changes_nothing_and_the_store_goes_on() {
    let disk = Simulated::default();
    let f = simulated(&disk);
    f.accept(&["a@x.example"]).await;
    let lease = f.claim().await[0].deliveries[0].lease;
    disk.fail_in(0);
    assert!(matches!(f.store.settle(delivered(lease)).await, Err(StoreError::Failed(_))));
    assert_eq!(f.list(Filter::default(), 9).await[0].state, State::Leased, "the lease stands");
    disk.fail_in(1);
    let refused = f.store.accept(f.message(&["b@x.example"]), None).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))));
    disk.fail_in(0);
    let held = f.store.change(Filter::default(), Change::Hold, None).await;
    assert_eq!(held.unwrap().changed, 0, "it is leased");
    assert!(f.store.hold_all(true).await.is_err());
    assert!(f.store.settle(delivered(lease)).await.unwrap().is_empty());
    f.accept(&["c@x.example"]).await;
    assert_eq!(f.claim().await.len(), 1, "what was refused is not there");
}

#[tokio::test]
async fn a_lost_database_is_made_anew() {
    let f = new();
    for n in 0..20 {
        f.accept(&[&format!("u{n}@x.example"), "b@y.example"]).await;
    }
    let claimed = f.claim().await;
    for (n, claimed) in claimed.iter().enumerate() {
        let at = Timestamp(START.0 + 60_000);
        let outcome = match n % 3 {
            0 => Outcome::Delivered,
            1 => Outcome::Deferred { due_at: at, delay_notified: true },
            _ => Outcome::Failed,
        };
        f.settle(claimed.deliveries[0].lease, outcome).await;
    }
    let rest = claimed.iter().map(|claimed| claimed.deliveries[1].lease).collect();
    f.store.release(rest).await.unwrap();
    let hold = Filter { domains: vec!["y.example".into()], ..Filter::default() };
    f.store.change(hold, Change::Hold, None).await.unwrap();
    let before = f.list(Filter::default(), 99).await;
    let lost = tempfile::tempdir().unwrap();
    copy_journal(path(&f), lost.path());
    let again = Fixture::new(reopen(lost.path(), &f.clock), f.clock.clone(), None);
    let after = again.list(Filter::default(), 99).await;
    let text = |list: &[DeliveryRecord]| {
        let mut text: Vec<String> = list.iter().map(|record| format!("{record:?}")).collect();
        text.sort();
        text
    };
    assert_eq!(text(&after), text(&before));
    let ids: Vec<_> = before.iter().map(|record| record.head.id).collect();
    let (ours, theirs) = (again.store.bodies(ids.clone()).await, f.store.bodies(ids).await);
    assert_eq!(ours.unwrap(), theirs.unwrap());
}

#[tokio::test]
async fn segments_without_messages_are_used_again() {
    let f = new();
    let big = |f: &Fixture<EmbeddedStore>| NewMessage {
        body: Bytes::from(vec![b'x'; 50_000]),
        ..f.message(&["a@x.example"])
    };
    let segments =
        |f: &Fixture<EmbeddedStore>| std::fs::read_dir(open::journal(path(f))).unwrap().count();
    for _ in 0..20 {
        f.store.accept(big(&f), None).await.unwrap();
    }
    let most = segments(&f);
    assert!(most >= 20);
    for claimed in f.claim().await {
        f.settle(claimed.deliveries[0].lease, Outcome::Delivered).await;
    }
    let f = with_pragma(f, "");
    while segments(&f) > 10 {
        f.store.accept(big(&f), None).await.unwrap();
        f.claim().await;
    }
}

#[tokio::test]
async fn segments_are_given_up_while_everything_is_held() {
    let f = new();
    f.store.hold_all(true).await.unwrap();
    for _ in 0..20 {
        let body = Bytes::from(vec![b'x'; 50_000]);
        let message = NewMessage { body, ..f.message(&["a@x.example"]) };
        f.store.accept(message, None).await.unwrap();
    }
    let segments =
        |f: &Fixture<EmbeddedStore>| std::fs::read_dir(open::journal(path(f))).unwrap().count();
    assert!(segments(&f) >= 20);
    f.store.change(Filter::default(), Change::Delete, None).await.unwrap();
    // A start makes a checkpoint.
    let f = with_pragma(f, "");
    while segments(&f) > 10 {
        f.store.accept(f.message(&["b@x.example"]), None).await.unwrap();
    }
    assert!(f.store.backlog(Revision::START).all_held);
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    let dir = dir.unwrap();
    super::rebuild(dir.path(), clock.clone(), |_| {}).unwrap();
    assert!(reopen(dir.path(), &clock).backlog(Revision::START).all_held, "by the journal alone");
}

#[tokio::test]
async fn what_is_stored_compressed_is_read_as_it_came() {
    let f = new();
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    let dir = dir.unwrap();
    let open = |compress| {
        let options = Options { compress, ..options() };
        Fixture::new(
            EmbeddedStore::open(dir.path(), clock.clone(), options).unwrap(),
            clock.clone(),
            None,
        )
    };
    let newsletter = |kib: usize| Bytes::from("Spring is here! ".repeat(kib * 64));
    let mut sent = Vec::new();
    // The longest goes to a thread of its own.
    for (compress, kib) in [(false, 8), (true, 8), (true, 40), (true, 4_000), (false, 9)] {
        let f = open(compress);
        let message = NewMessage { body: newsletter(kib), ..f.message(&["a@x.example"]) };
        sent.push((message.id, message.body.clone()));
        f.store.accept(message, None).await.unwrap();
    }
    let ids: Vec<_> = sent.iter().map(|(id, _)| *id).collect();
    let size: u64 = std::fs::read_dir(open::journal(dir.path()))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size < 1 << 20, "{size}");
    for compress in [true, false] {
        let f = open(compress);
        assert_eq!(f.store.bodies(ids.clone()).await.unwrap(), sent);
        let listed = f.store.list(Filter::default(), None, 9).await.unwrap().deliveries;
        let mut sizes: Vec<u64> = listed.iter().map(|record| record.head.size).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [8 << 10, 8 << 10, 9 << 10, 40 << 10, 4_000 << 10]);
        drop(f);
        super::rebuild(dir.path(), clock.clone(), |_| {}).unwrap();
        assert!(super::check(dir.path(), clock.clone()).unwrap().problems.is_empty());
    }
}

#[tokio::test]
async fn below_the_floor_of_free_space_no_mail_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(START);
    let before = reopen(dir.path(), &clock);
    let f = Fixture::new(before, clock.clone(), None);
    f.accept(&["a@x.example"]).await;
    drop(f);
    let options = Options { free_space_min: u64::MAX, ..options() };
    let store = EmbeddedStore::open(dir.path(), clock.clone(), options).unwrap();
    let f = Fixture::new(store, clock, Some(dir));
    f.clock.advance(Duration::from_secs(1));
    let refused = f.store.accept(f.message(&["b@x.example"]), None).await;
    assert!(matches!(refused, Err(StoreError::Full(_))));
    let lease = f.claim().await[0].deliveries[0].lease;
    assert!(f.settle(lease, Outcome::Delivered).await.is_empty());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_no_other() {
    let f = new();
    for user in ["a", "b", "c"] {
        f.accept(&[&format!("{user}@x.example")]).await;
    }
    f.list(Filter::default(), 9).await;
    let damage = "UPDATE deliveries SET recipient = 'nobody' WHERE recipient LIKE 'b@%'";
    raw(&f).execute(damage, []).unwrap();
    assert_eq!(f.claim().await.len(), 2);
    assert_eq!(f.list(Filter::default(), 9).await.len(), 2);
}

#[tokio::test]
async fn an_answer_that_nobody_hears_leases_nothing() {
    let f = new();
    let message = f.message(&["a@x.example"]);
    let mut accept = Box::pin(f.store.accept(message, Some(Duration::from_secs(60))));
    // Begun, then dropped.
    assert!(futures_poll_once(&mut accept).await);
    drop(accept);
    f.accept(&["b@x.example"]).await;
    // The first may have been on its way already; then it waits like any other.
    let queues = f.store.backlog(Revision::START).queues;
    assert_eq!(queues.iter().map(|queue| queue.leased).sum::<u64>(), 0);
    assert!((1..=2).contains(&queues[0].ready));
}

/// Polls once; true where it is not done.
async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn many_producers_share_commits_and_all_is_kept() {
    let f = Arc::new(new());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..400 {
        let f = Arc::clone(&f);
        tasks.spawn(async move { f.accept(&[&format!("u{n}@d{}.example", n % 7)]).await });
    }
    while tasks.join_next().await.is_some() {}
    let claimed = f.claim().await;
    assert_eq!(claimed.len(), 400);
    assert!(claimed.iter().all(|c| c.trusted_until > Timestamp(START.0)));
}

#[tokio::test]
async fn queues_long_empty_are_removed() {
    const QUEUES: usize = 1_100;
    let f = Arc::new(new());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..QUEUES {
        let f = Arc::clone(&f);
        tasks.spawn(async move { f.accept(&[&format!("u@d{n}.example")]).await });
    }
    while tasks.join_next().await.is_some() {}
    f.list(Filter::default(), 1).await;
    let rows = || {
        let count = "SELECT count(*) FROM queues";
        raw(&f).query_row(count, [], |row| row.get::<_, usize>(0)).unwrap()
    };
    assert_eq!(rows(), QUEUES);
    let mut after = None;
    loop {
        let slice = f.store.change(Filter::default(), Change::Delete, after).await.unwrap();
        after = slice.next;
        if after.is_none() {
            break;
        }
    }
    let mut count = 0;
    while rows() == QUEUES {
        // A slice with each commit.
        f.accept(&["u@d0.example"]).await;
        f.list(Filter::default(), 1).await;
        count += 1;
    }
    assert_eq!(f.claim().await.len(), count);
}

#[tokio::test]
async fn a_claim_reads_the_clustered_table_in_order() {
    let f = new();
    let plan: Vec<String> = raw(&f)
        .prepare(&format!("EXPLAIN QUERY PLAN {}", super::read::ROWS_AFTER))
        .unwrap()
        .query_map([1, 2, 3, 4], |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        plan,
        ["SEARCH deliveries USING PRIMARY KEY (queue=? AND (due_at,message,number)>(?,?,?))"]
    );
}
