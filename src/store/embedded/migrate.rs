//! From a queue of schema version 1, which had the bytes of messages in SQLite, to a journal.
//!
//! All messages are written to a new journal, each with its state, before the old database gets
//! another name: a migration that was interrupted begins anew.

use super::carried::{self, Record};
use super::schema;
use super::{codec, space};
use crate::base::id::MessageId;
use crate::observe::store as tell;
use crate::store::StoreError;
use crate::store::journal::disk::Disk;
use crate::store::journal::files::{Log, Told};
use crate::store::journal::frame;
use crate::store::journal::pack::Stored;
use crate::store::journal::record::HOLD;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result as Sql};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes written at once, about.
const BATCH: u64 = 8 << 20;
/// Messages between two lines of the log.
const TOLD_EACH: u64 = 10_000;

/// The old database, once all of it is in the journal.
fn old(dir: &Path) -> PathBuf {
    dir.join("queue.db.v1")
}

/// The same where some of its messages could not be read: it stays.
fn unread(dir: &Path) -> PathBuf {
    dir.join("queue.db.unread")
}

/// Puts a queue of version 1 into a journal, if `dir` has one.
///
/// # Errors
/// Of the disk or the database; the old queue is then as it was.
pub(super) fn migrate(dir: &Path, disk: &impl Disk, segment_size: u64) -> Result<(), StoreError> {
    let path = schema::path(dir);
    match schema::version(&path) {
        Ok(Some(1)) => {}
        // What is wrong with another is for whoever opens it to say.
        _ => return Ok(()),
    }
    let failed = |e| space::store_error(&e);
    for name in disk.names().map_err(failed)? {
        disk.remove(&name).map_err(failed)?;
    }
    let db = schema::open_version_1(&path)?;
    let mut to = Log::open(disk.clone(), &Told::default(), segment_size).map_err(failed)?;
    let left_out = copy(&db, &mut to)?;
    drop(db);
    let name = if left_out > 0 { unread(dir) } else { old(dir) };
    std::fs::rename(&path, &name).and_then(|()| schema::sync(dir)).map_err(failed)?;
    if left_out > 0 {
        tell::left_out(left_out, &name);
    }
    Ok(())
}

/// Removes what is left of a queue of version 1, once a new database has followed the journal.
pub(super) fn finish(dir: &Path) {
    // It only takes space; the next start tries again.
    _ = std::fs::remove_file(old(dir));
}

/// Gives back how many messages could not be read.
fn copy<D: Disk>(db: &Connection, to: &mut Log<D>) -> Result<u64, StoreError> {
    let sql = |e| schema::store_error(&e);
    let ids = |db: &Connection| -> Sql<Vec<i64>> {
        let mut ids = db.prepare("SELECT id FROM messages ORDER BY id")?;
        ids.query_map([], |row| row.get(0))?.collect()
    };
    let ids = ids(db).map_err(sql)?;
    let held: Option<bool> = db
        .query_row("SELECT value FROM meta WHERE key = 'hold_all'", [], |row| row.get(0))
        .optional()
        .map_err(sql)?;
    let mut records: Vec<(u8, Vec<Bytes>)> = Vec::new();
    if held == Some(true) {
        records.push((HOLD, vec![Bytes::from_static(&[1])]));
    }
    let (mut bytes, mut count, mut left_out) = (0, 0, 0);
    for id in ids.into_iter().filter_map(MessageId::from_number) {
        match record(db, id).map_err(sql)? {
            Some(Record { kind, parts, .. }) => {
                bytes += len(&parts);
                records.push((kind, parts));
            }
            None => {
                left_out += 1;
                tell::row_unreadable(&id);
            }
        }
        if bytes >= BATCH {
            write(to, &std::mem::take(&mut records))?;
            bytes = 0;
        }
        count += 1;
        if count % TOLD_EACH == 0 {
            tell::migrating(count);
        }
    }
    write(to, &records)?;
    tell::migrating(count);
    Ok(left_out)
}

fn len(parts: &[Bytes]) -> u64 {
    frame::len(parts.iter().map(Bytes::len).sum()) as u64
}

fn write<D: Disk>(to: &mut Log<D>, records: &[(u8, Vec<Bytes>)]) -> Result<(), StoreError> {
    let failed = |e| space::store_error(&e);
    let mut batch = to.batch(records.iter().map(|(_, parts)| len(parts)).sum()).map_err(failed)?;
    for (kind, parts) in records {
        batch.push(*kind, &parts.iter().map(|part| &**part).collect::<Vec<_>>());
    }
    to.write(batch).map_err(failed)
}

/// `None` where something of it cannot be read.
fn record(db: &Connection, id: MessageId) -> Sql<Option<Record>> {
    let number = id.number();
    let head = db
        .prepare_cached(
            "SELECT id, accepted_at, expires_at, lane, reason, tenant, campaign, client, \
             reverse_path, body_type, smtputf8, ret, envid, size, recipient_count \
             FROM messages WHERE id = ?1",
        )?
        .query_row([number], codec::head)
        .map(Arc::new);
    let body = db
        .prepare_cached("SELECT bytes FROM bodies WHERE message = ?1")?
        .query_row([number], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)));
    let (Ok(head), Ok(body)) = (head, body) else { return Ok(None) };
    let mut open = db.prepare_cached(concat!(
        "SELECT ",
        codec::row_columns!(),
        " FROM deliveries WHERE message = ?1 ORDER BY number"
    ))?;
    let open: Sql<Vec<_>> = open.query_map([number], codec::row)?.collect();
    let mut closed = db.prepare_cached(
        "SELECT number, state, attempts, recipient, notify, orcpt, at, reply, blame \
         FROM settled WHERE message = ?1 ORDER BY number",
    )?;
    let closed: Sql<Vec<_>> =
        closed.query_map([number], |row| codec::settled(row, &head))?.collect();
    let (Ok(open), Ok(closed)) = (open, closed) else { return Ok(None) };
    Ok(carried::record(&head, &open, &closed, Stored::plain(body)).ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::super::{EmbeddedStore, open};
    use super::*;
    use crate::base::time::{Clock, Timestamp};
    use crate::store::conformance::START;
    use crate::store::{Filter, Revision, State, Store};

    /// What version 1 wrote: a message half delivered, one deferred, one held; all are held.
    const OLD: &str = include_str!("version_1.sql");

    #[tokio::test]
    async fn a_queue_of_version_1_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        Connection::open(schema::path(dir.path())).unwrap().execute_batch(OLD).unwrap();
        // What an interrupted trial left.
        std::fs::create_dir(open::journal(dir.path())).unwrap();
        std::fs::write(open::journal(dir.path()).join("0000000000000001.log"), "torn").unwrap();
        for _ in 0..2 {
            let store =
                EmbeddedStore::open(dir.path(), Clock::simulated(START), options()).unwrap();
            assert!(store.backlog(Revision::START).all_held);
            let mut list = store.list(Filter::default(), None, 9).await.unwrap().deliveries;
            list.sort_by_key(|d| d.head.id);
            let seen: Vec<_> = list
                .iter()
                .map(|d| (d.recipient.mailbox.as_str(), d.state, d.attempts, d.due_at))
                .collect();
            let at = |n| Some(Timestamp(n));
            assert_eq!(
                seen,
                [
                    ("b@y.example", State::Ready, 0, at(1_795_394_728_000)),
                    ("c@x.example", State::Deferred, 2, at(1_795_394_788_000)),
                    ("d@x.example", State::Held, 1, at(1_795_394_799_000)),
                ]
            );
            let shown = store.show(list[0].head.id).await.unwrap().unwrap();
            let first = &shown.deliveries[0];
            assert_eq!((first.state, first.last_reply.as_str()), (State::Delivered, "250 ok"));
            let ids: Vec<_> = list.iter().map(|d| d.head.id).collect();
            let bodies = store.bodies(ids).await.unwrap();
            assert_eq!(bodies[0].1, "Subject: one\r\n\r\n1\r\n");
            assert_eq!(bodies[2].1, "Subject: three\r\n\r\n3\r\n");
        }
        assert!(!old(dir.path()).exists());
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(schema::path(dir.path())).unwrap();
        db.execute_batch(OLD).unwrap();
        db.execute("DELETE FROM bodies WHERE message = (SELECT max(id) FROM messages)", [])
            .unwrap();
        drop(db);
        let store = EmbeddedStore::open(dir.path(), Clock::simulated(START), options()).unwrap();
        assert_eq!(store.list(Filter::default(), None, 9).await.unwrap().deliveries.len(), 2);
        drop(store);
        let kept = Connection::open(unread(dir.path())).unwrap();
        let count = kept.query_row("SELECT count(*) FROM messages", [], |row| row.get::<_, u64>(0));
        assert!(count.unwrap() > 0);
    }
}
