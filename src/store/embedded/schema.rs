//! Opening the database file: who may, with which settings, and only in the version this build
//! knows.

use crate::store::StoreError;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of queue-schema.sql.
pub(super) const VERSION: i64 = 2;
const SCHEMA: &str = include_str!("../../../queue-schema.sql");
/// Statements kept prepared on a connection: more than there are.
const STATEMENTS: usize = 64;
/// Wait for another process that looks at the file.
const BUSY: Duration = Duration::from_secs(2);

/// The database file in a data directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("queue.db")
}

/// Why SQLite did not do it, in the store's words.
pub(super) fn store_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged(error.to_string())
        }
        _ => StoreError::Failed(error.to_string()),
    }
}

/// Takes the data directory for this process alone, until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let refuse =
        |why: String| StoreError::Incompatible(format!("cannot lock {}: {why}", path.display()));
    std::fs::create_dir_all(dir)
        .map_err(|e| StoreError::Incompatible(format!("cannot create {}: {e}", dir.display())))?;
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|e| refuse(e.to_string()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(refuse(error.to_string())),
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.take(20).read_to_string(&mut owner);
            return Err(refuse(format!(
                "process {} uses this queue; stop it, or give this node a data_dir of its own",
                owner.trim()
            )));
        }
    }
    // For the message above alone; the lock holds without it.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = writeln!(file, "{}", std::process::id());
    Ok(file)
}

/// The page size is taken by a new database alone; the log's size is bounded after a checkpoint,
/// which is made when the journal wants it.
fn settings(db: &Connection, page_size: u32) -> rusqlite::Result<()> {
    db.pragma_update(None, "page_size", page_size)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    db.pragma_update(None, "cache_size", -32_768)?;
    db.pragma_update(None, "temp_store", "MEMORY")
}

/// A connection that writes; creates the file where there is none.
pub(super) fn open_writer(dir: &Path, page_size: u32) -> Result<Connection, StoreError> {
    open_file(&path(dir), page_size)
}

/// As [`open_writer`], of any file.
pub(super) fn open_file(path: &Path, page_size: u32) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags)?;
    settings(&db, page_size).map_err(|e| failed(path, &e))?;
    let create = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    if create.map_err(|e| failed(path, &e))? == 0 {
        let schema =
            format!("BEGIN; {SCHEMA}; INSERT INTO meta VALUES ('schema', {VERSION}); COMMIT;");
        db.execute_batch(&schema).map_err(|e| failed(path, &e))?;
    }
    check_version(&db, path)?;
    Ok(db)
}

/// The version of a database; `None` where there is no file, or nothing in it.
pub(super) fn version(path: &Path) -> Result<Option<i64>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags)?;
    let tables = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    if tables.map_err(|e| failed(path, &e))? == 0 {
        return Ok(None);
    }
    let version = db.query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0));
    version.map(Some).map_err(|e| failed(path, &e))
}

/// A database of version 1, all of it in its one file, and quick to be read message by message.
pub(super) fn open_version_1(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags)?;
    let prepare = "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE; \
                   CREATE INDEX IF NOT EXISTS by_message ON deliveries (message);";
    db.execute_batch(prepare).map_err(|e| failed(path, &e))?;
    Ok(db)
}

/// Makes names in a directory durable.
pub(super) fn sync(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A connection that reads.
pub(super) fn open_reader(dir: &Path) -> Result<Connection, StoreError> {
    let path = path(dir);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(&path, flags)?;
    db.execute_batch("PRAGMA cache_size = -4096; PRAGMA temp_store = MEMORY;")
        .map_err(|e| failed(&path, &e))?;
    check_version(&db, &path)?;
    Ok(db)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let db = Connection::open_with_flags(path, flags).map_err(|e| failed(path, &e))?;
    db.busy_timeout(BUSY).map_err(|e| failed(path, &e))?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

fn check_version(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let version: Result<i64, _> =
        db.query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0));
    match version {
        Ok(VERSION) => Ok(()),
        Ok(other) => Err(other_version(path, other)),
        Err(error) => Err(failed(path, &error)),
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> StoreError {
    let text = || format!("cannot open queue {}: {error}", path.display());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(text()),
        Some(ErrorCode::DiskFull) => StoreError::Full(text()),
        _ => StoreError::Failed(text()),
    }
}

/// The error for a database of another version than this build's.
pub(super) fn other_version(path: &Path, version: i64) -> StoreError {
    let remedy = match version < VERSION {
        true => "start a node of this build once, which brings it forward",
        false => "use the build that wrote it, or another data_dir",
    };
    StoreError::Incompatible(format!(
        "cannot open queue {}: schema version {version}, this build knows {VERSION}; {remedy}",
        path.display()
    ))
}
