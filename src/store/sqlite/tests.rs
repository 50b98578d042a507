//! The embedded engine: the conformance suite, and what only files can do.

use super::writer::Writer;
use super::{Options, SqliteStore, schema};
use crate::base::time::{Clock, Timestamp};
use crate::mail::message::NewMessage;
use crate::store::conformance::{Fixture, START, conformance};
use crate::store::shared::Shared;
use crate::store::{
    Change, Filter, Outcome, Revision, Settled, Settlement, State, Store, StoreError,
};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn open() -> Fixture<SqliteStore> {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(START);
    Fixture::new(reopen(dir.path(), &clock), clock, Some(dir))
}

conformance!(open);

fn options() -> Options {
    Options { free_space_min: 0, ..Options::default() }
}

fn reopen(dir: &Path, clock: &Clock) -> SqliteStore {
    SqliteStore::open(dir, clock.clone(), options()).unwrap()
}

/// Closes the store of `f` and opens it again, with `pragma` set on the writer's connection.
fn with_pragma(f: Fixture<SqliteStore>, pragma: &str) -> Fixture<SqliteStore> {
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    let path = dir.as_ref().unwrap().path();
    let shared = Arc::new(Shared::new(clock.clone()));
    let writer = Writer::open(path.to_owned(), options(), shared).unwrap();
    writer.db.as_ref().unwrap().execute_batch(pragma).unwrap();
    let store = SqliteStore::start(writer, path, schema::lock(path).unwrap()).unwrap();
    Fixture::new(store, clock, dir)
}

fn path(f: &Fixture<SqliteStore>) -> &Path {
    f.dir.as_ref().unwrap().path()
}

/// A connection of somebody else's, to look and to damage.
fn raw(f: &Fixture<SqliteStore>) -> rusqlite::Connection {
    rusqlite::Connection::open(schema::path(path(f))).unwrap()
}

#[tokio::test]
async fn a_second_node_is_refused() {
    let f = open();
    let error = SqliteStore::open(path(&f), f.clock.clone(), options()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Incompatible(_)));
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains("data_dir"), "{text}");
}

#[tokio::test]
async fn another_version_is_refused() {
    let f = open();
    raw(&f).execute("UPDATE meta SET value = 7 WHERE key = 'schema'", []).unwrap();
    let Fixture { store, clock, dir, .. } = f;
    drop(store);
    for error in [
        SqliteStore::open(dir.as_ref().unwrap().path(), clock.clone(), options()).unwrap_err(),
        SqliteStore::open_read_only(dir.as_ref().unwrap().path(), clock).unwrap_err(),
    ] {
        assert!(error.to_string().contains("schema version 7, this build knows 1"), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_queue_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(schema::path(dir.path()), "not a database, but long enough to be read").unwrap();
    let error = SqliteStore::open(dir.path(), Clock::system(), options()).unwrap_err();
    assert!(error.to_string().contains("queue.db"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(SqliteStore::open_read_only(empty.path(), Clock::system()).is_err());
}

#[tokio::test]
async fn reads_without_a_node() {
    let f = open();
    let id = f.accept(&["a@x.example", "b@y.example"]).await;
    let store = SqliteStore::open_read_only(path(&f), f.clock.clone()).unwrap();
    assert_eq!(store.backlog(Revision::START).queues.len(), 2);
    assert_eq!(store.show(id).await.unwrap().unwrap().deliveries.len(), 2);
    assert_eq!(store.list(Filter::default(), None, 9).await.unwrap().deliveries.len(), 2);
    assert!(store.accept(f.message(&["c@x.example"]), None).await.is_err());
    assert!(store.hold_all(true).await.is_err());
}

#[tokio::test]
async fn what_was_accepted_survives_a_crash() {
    let f = open();
    for n in 0..50 {
        f.accept(&[&format!("u{n}@x.example")]).await;
    }
    let crashed = tempfile::tempdir().unwrap();
    for file in ["queue.db", "queue.db-wal"] {
        std::fs::copy(path(&f).join(file), crashed.path().join(file)).unwrap();
    }
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
    let f = open();
    let id = f.accept(&["a@x.example"]).await;
    let claimed = f.claim().await;
    f.settle(claimed[0].deliveries[0].lease, Outcome::Delivered).await;
    let f = with_pragma(f, "");
    assert_eq!(f.store.last_id(), Some(id));
}

#[tokio::test]
async fn a_settled_message_leaves_no_row() {
    let f = open();
    f.accept(&["a@x.example"]).await;
    f.accept(&["b@x.example", "c@y.example"]).await;
    for claimed in f.claim().await {
        for delivery in claimed.deliveries {
            f.settle(delivery.lease, Outcome::Delivered).await;
        }
    }
    for count in [
        "SELECT count(*) FROM messages",
        "SELECT count(*) FROM bodies",
        "SELECT count(*) FROM deliveries",
        "SELECT count(*) FROM settled",
    ] {
        let rows: i64 = raw(&f).query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{count}");
    }
}

#[tokio::test]
async fn a_failed_write_changes_nothing_and_the_store_goes_on() {
    let f = open();
    f.accept(&["a@x.example"]).await;
    // The first write fails in a way that makes the writer open its database anew.
    let f = with_pragma(f, "PRAGMA query_only = ON");
    let lease = f.claim().await[0].deliveries[0].lease;
    let settlement = || Settlement {
        at: START,
        outcomes: vec![Settled {
            lease,
            outcome: Outcome::Delivered,
            reply: String::new(),
            blame: None,
        }],
        notices: Vec::new(),
    };
    assert!(matches!(f.store.settle(settlement()).await, Err(StoreError::Failed(_))));
    let record = f.list(Filter::default(), 9).await.remove(0);
    assert_eq!(record.state, State::Leased, "the lease stands");
    assert!(f.store.settle(settlement()).await.unwrap().is_empty());
    f.accept(&["b@x.example"]).await;
    assert_eq!(f.claim().await.len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_mail_and_takes_outcomes() {
    let f = open();
    let f = with_pragma(f, "PRAGMA max_page_count = 100");
    let big = |f: &Fixture<SqliteStore>| NewMessage {
        body: Bytes::from(vec![b'x'; 50_000]),
        ..f.message(&["a@x.example"])
    };
    let mut taken = 0;
    let error = loop {
        match f.store.accept(big(&f), None).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(taken > 0);
    let claimed = f.claim().await;
    assert_eq!(claimed.len(), taken);
    let outcome = f.settle(claimed[0].deliveries[0].lease, Outcome::Delivered);
    let (stale, refused) = tokio::join!(outcome, async {
        // In the same batch or the next: the outcome is not dragged down.
        let mut huge = big(&f);
        huge.body = Bytes::from(vec![b'x'; 500_000]);
        f.store.accept(huge, None).await
    });
    assert!(stale.is_empty() && matches!(refused, Err(StoreError::Full(_))));
    f.store.accept(big(&f), None).await.unwrap();
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
    let store = SqliteStore::open(dir.path(), clock.clone(), options).unwrap();
    let f = Fixture::new(store, clock, Some(dir));
    f.clock.advance(Duration::from_secs(1));
    let refused = f.store.accept(f.message(&["b@x.example"]), None).await;
    assert!(matches!(refused, Err(StoreError::Full(_))));
    let lease = f.claim().await[0].deliveries[0].lease;
    assert!(f.settle(lease, Outcome::Delivered).await.is_empty());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_no_other() {
    let f = open();
    for user in ["a", "b", "c"] {
        f.accept(&[&format!("{user}@x.example")]).await;
    }
    let damage = "UPDATE deliveries SET recipient = 'nobody' WHERE recipient LIKE 'b@%'";
    raw(&f).execute(damage, []).unwrap();
    assert_eq!(f.claim().await.len(), 2);
    assert_eq!(f.list(Filter::default(), 9).await.len(), 2);
}

#[tokio::test]
async fn an_answer_that_nobody_hears_leases_nothing() {
    let f = open();
    let message = f.message(&["a@x.example"]);
    let mut accept = Box::pin(f.store.accept(message, Some(Duration::from_secs(60))));
    // Begun, then dropped.
    assert!(futures_poll_once(&mut accept).await);
    drop(accept);
    f.accept(&["b@x.example"]).await;
    let mut seen = Revision::START;
    loop {
        let backlog = f.store.backlog(Revision::START);
        if backlog.queues.iter().map(|queue| queue.ready).sum::<u64>() == 2 {
            break;
        }
        f.store.changed(std::mem::replace(&mut seen, backlog.revision)).await;
    }
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
    let f = Arc::new(open());
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
    let f = Arc::new(open());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..QUEUES {
        let f = Arc::clone(&f);
        tasks.spawn(async move { f.accept(&[&format!("u@d{n}.example")]).await });
    }
    while tasks.join_next().await.is_some() {}
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
    f.accept(&["u@d0.example"]).await;
    let before = rows();
    f.accept(&["u@d0.example"]).await;
    assert!(rows() < before && before < QUEUES, "a slice with each commit");
    assert_eq!(f.claim().await.len(), 2);
}

#[tokio::test]
async fn a_claim_reads_the_clustered_table_in_order() {
    let f = open();
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
