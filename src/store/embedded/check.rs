//! Whether a queue is whole, and how its database is made anew. For a queue that no node has.

use super::index::Index;
use super::open::{self, follow, journal, set_aside};
use super::replay::{Span, replay};
use super::{Options, schema, space};
use crate::base::time::Clock;
use crate::store::StoreError;
use crate::store::journal::Position;
use crate::store::journal::disk::{Disk, Folder};
use crate::store::journal::files::numbers;
use crate::store::shared::Shared;
use rusqlite::Connection;
use std::path::Path;

/// Problems of one kind that are told one by one.
const TOLD_MAX: usize = 10;

/// What a check found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Checked {
    /// Files of the journal.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Messages in the queue.
    pub messages: u64,
    /// Deliveries that are not settled.
    pub deliveries: u64,
    /// What is wrong, for people; nothing where all is well.
    pub problems: Vec<String>,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Segments that were read,
    pub segments: u64,
    /// of so many.
    pub of: u64,
    /// Records so far.
    pub records: u64,
}

/// What a comparison takes, in both databases. Numbers of queues may differ.
const DELIVERIES: &str = "SELECT message, number, lane, tenant, campaign, domain, due_at, \
     held_due, size, attempts, delay_notified, recipient, notify, orcpt, last_at, last_reply, \
     blame FROM SCHEMA.deliveries JOIN SCHEMA.queues ON queues.id = queue";
const MESSAGES: &str = "SELECT id, recipient_count, accepted_at, expires_at, lane, reason, tenant, \
     campaign, client, reverse_path, body_type, smtputf8, ret, envid, size, open, segment, offset, \
     payload, body FROM SCHEMA.messages";
const SETTLED: &str = "SELECT * FROM SCHEMA.settled";
const SEGMENTS: &str = "SELECT number, messages, bytes FROM SCHEMA.segments";

/// Checks every record of the journal, and the database against what the journal says. Needs space
/// for a second database.
///
/// # Errors
/// [`StoreError::Incompatible`] where a node has the queue; others where it cannot be read at all.
pub fn check(dir: &Path, clock: Clock) -> Result<Checked, StoreError> {
    let _lock = schema::lock(dir)?;
    check_on(dir, &Folder(journal(dir)), clock)
}

/// As [`check`], with the journal on any disk.
pub(super) fn check_on(dir: &Path, disk: &impl Disk, clock: Clock) -> Result<Checked, StoreError> {
    let shared = Shared::new(clock.clone());
    let mut checked = Checked::default();
    let page_size = Options::default().page_size;
    let index = match open::try_follow(dir, disk, &shared, page_size, &mut |_, _| {}) {
        Ok((index, _)) => index,
        Err(StoreError::Damaged(why)) => {
            checked.problems.push(format!("{why}; `bulkhead queue rebuild` makes it anew"));
            return Ok(checked);
        }
        Err(error) => return Err(error),
    };
    let sql = |e| schema::store_error(&e);
    damage(&index.db, &mut checked).map_err(sql)?;

    let other = dir.join("check.tmp");
    remove(&other);
    let io = |e| space::store_error(&e);
    std::fs::create_dir(&other).map_err(io)?;
    let compared = compare(&index.db, disk, &other, clock, &mut checked);
    remove(&other);
    compared?;
    checked.segments = numbers(disk).map_err(io)?.len() as u64;
    (checked.messages, checked.deliveries) = counts(&index.db).map_err(sql)?;
    Ok(checked)
}

/// Messages and deliveries.
fn counts(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let both = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM deliveries)";
    db.query_row(both, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn remove(dir: &Path) {
    // What stays in the way is told of by whoever meets it.
    _ = std::fs::remove_dir_all(dir);
}

/// What SQLite itself finds.
fn damage(db: &Connection, checked: &mut Checked) -> rusqlite::Result<()> {
    let mut found = db.prepare("PRAGMA integrity_check(10)")?;
    let mut rows = found.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            checked.problems.push(format!("queue.db: {text}"));
        }
    }
    Ok(())
}

fn compare(
    db: &Connection,
    disk: &impl Disk,
    other: &Path,
    clock: Clock,
    checked: &mut Checked,
) -> Result<(), StoreError> {
    let mut anew = Index::open(other, Options::default().page_size)?;
    let span = Span { from: Position::default(), until: None };
    let told = replay(&mut anew, disk, span, &Shared::new(clock), |_, records| {
        checked.records = records;
    })?;
    drop(anew);
    for (at, bytes) in &told.damage {
        checked.problems.push(format!(
            "journal: {bytes} bytes at offset {} of segment {:016x} were a record and are damaged",
            at.offset, at.segment
        ));
    }
    let sql = |e| schema::store_error(&e);
    let path = schema::path(other);
    // What is compared may be larger than memory.
    db.pragma_update(None, "temp_store", "FILE").map_err(sql)?;
    db.execute("ATTACH ?1 AS anew", [path.to_string_lossy()]).map_err(sql)?;
    for (what, select) in [
        ("message", MESSAGES),
        ("delivery", DELIVERIES),
        ("settled delivery", SETTLED),
        ("segment", SEGMENTS),
    ] {
        for (first, second, sentence) in [
            ("main", "anew", "in queue.db, but not so in the journal"),
            ("anew", "main", "in the journal, but not so in queue.db"),
        ] {
            let (first, second) = (in_schema(select, first), in_schema(select, second));
            differ(db, what, sentence, &format!("{first} EXCEPT {second}"), checked)
                .map_err(sql)?;
        }
    }
    db.execute("DETACH anew", []).map_err(sql)?;
    Ok(())
}

fn in_schema(select: &str, schema: &str) -> String {
    select.replace("SCHEMA", schema)
}

fn differ(
    db: &Connection,
    what: &str,
    sentence: &str,
    select: &str,
    checked: &mut Checked,
) -> rusqlite::Result<()> {
    let mut statement = db.prepare(select)?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        if count <= TOLD_MAX {
            let id: i64 = row.get(0)?;
            let name = match crate::base::id::MessageId::from_number(id) {
                Some(id) if what != "segment" => id.to_string(),
                _ => format!("{id:016x}"),
            };
            checked.problems.push(format!("{what} of {name}: {sentence}"));
        }
    }
    if count > TOLD_MAX {
        let more = count - TOLD_MAX;
        checked.problems.push(format!("{what}: {more} more are {sentence}"));
    }
    Ok(())
}

/// Makes the database anew from the journal. One that is interrupted is gone on with at the next
/// start.
///
/// # Errors
/// [`StoreError::Incompatible`] where a node has the queue or there is no journal; others where it
/// cannot be read or written.
pub fn rebuild(
    dir: &Path,
    clock: Clock,
    mut progress: impl FnMut(Progress),
) -> Result<Checked, StoreError> {
    let _lock = schema::lock(dir)?;
    let (disk, shared) = (Folder(journal(dir)), Shared::new(clock));
    let numbers = numbers(&disk).unwrap_or_default();
    if numbers.is_empty() {
        let none = format!("{} has no journal to make a queue from", dir.display());
        return Err(StoreError::Incompatible(none));
    }
    let version = schema::version(&schema::path(dir));
    if let Ok(Some(version)) = version
        && version != schema::VERSION
    {
        // Its messages are not in a journal.
        return Err(schema::other_version(&schema::path(dir), version));
    }
    set_aside(dir, "old").map_err(|e| space::store_error(&e))?;
    let of = numbers.len() as u64;
    let told = &mut |at: Position, records| {
        let segments = numbers.iter().filter(|number| **number < at.segment).count() as u64;
        progress(Progress { segments, of, records });
    };
    let (index, said) = follow(dir, &disk, &shared, Options::default().page_size, told)?;
    let (messages, deliveries) = counts(&index.db).map_err(|e| schema::store_error(&e))?;
    let problems = said.damage.iter().map(|(at, bytes)| {
        format!(
            "{bytes} bytes of segment {:016x} at {} are damaged; they are kept in {}",
            at.segment,
            at.offset,
            open::damaged(dir).display()
        )
    });
    let rebuilt =
        Checked { segments: of, records: 0, messages, deliveries, problems: problems.collect() };
    open::remove_aside(dir, "old");
    Ok(rebuilt)
}
