//! The embedded engine: the conformance suite, the model, and what only files can do.

use super::{Options, SqliteStore};
use crate::base::time::Clock;
use crate::store::conformance::{Fixture, START, conformance};

fn open() -> Fixture<SqliteStore> {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(START);
    let options = Options { free_space_min: 0, ..Options::default() };
    let store = SqliteStore::open(dir.path(), clock.clone(), options).unwrap();
    Fixture::new(store, clock, Some(dir))
}

conformance!(open);
