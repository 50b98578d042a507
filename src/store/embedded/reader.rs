//! Connections that read, beside the writer and never in its way.

use super::schema::{self, store_error};
use crate::store::StoreError;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Readers at once.
const READERS: usize = 4;

/// A few connections, opened as needed.
#[derive(Debug)]
pub(super) struct Readers {
    dir: PathBuf,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, permits: Semaphore::new(READERS), idle: Mutex::default() }
    }

    /// Runs `read` on a thread that may wait for the disk.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let gone = |_| StoreError::Failed("the store is closed".into());
        let _permit = self.permits.acquire().await.map_err(gone)?;
        let readers = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let db = match readers.take() {
                Some(db) => db,
                None => schema::open_reader(&readers.dir)?,
            };
            let result = read(&db).map_err(|e| store_error(&e));
            // After an error the connection is dropped: the next one starts afresh.
            if result.is_ok() {
                readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            }
            result
        });
        task.await.unwrap_or_else(|_| Err(StoreError::Failed("a reader broke off".into())))
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Closes what is idle.
    pub(super) fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
