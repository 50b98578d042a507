//! A disk that forgets what was not synced, and fails when told to.

use super::disk::{Disk, DiskFile};
use crate::base::random::Rng;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

/// What is written as a whole, or not.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Simulated(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<SimulatedFile>>,
    /// Operations until one fails; `None`: none does.
    fail_in: Option<u64>,
    /// Operations until somebody is told, before it is done.
    watch: Option<(u64, Watcher)>,
}

/// Who is told.
struct Watcher(Box<dyn FnOnce(&Simulated) + Send>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

#[derive(Debug)]
pub(in crate::store) struct SimulatedFile {
    disk: Simulated,
    bytes: Mutex<Bytes>,
}

#[derive(Debug, Default)]
struct Bytes {
    seen: Vec<u8>,
    synced: Vec<u8>,
    /// Written since the last sync.
    dirty: Vec<std::ops::Range<usize>>,
}

impl Simulated {
    /// The `n`-th write or sync from now on fails, and only that.
    pub(in crate::store) fn fail_in(&self, n: u64) {
        self.0.lock().unwrap().fail_in = Some(n);
    }

    /// Calls `watcher` before the `n`-th operation from now on.
    pub(in crate::store) fn watch(&self, n: u64, watcher: impl FnOnce(&Self) + Send + 'static) {
        self.0.lock().unwrap().watch = Some((n, Watcher(Box::new(watcher))));
    }

    fn may_fail(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        match state.watch.take() {
            Some((0, watcher)) => {
                drop(state);
                (watcher.0)(self);
                state = self.0.lock().unwrap();
            }
            Some((n, watcher)) => state.watch = Some((n - 1, watcher)),
            None => {}
        }
        state.fail_in = match state.fail_in {
            Some(0) => {
                state.fail_in = None;
                return Err(io::Error::other("simulated"));
            }
            left => left.map(|n| n - 1),
        };
        Ok(())
    }

    /// The disk after a power cut: of what was not synced, any sectors.
    pub(in crate::store) fn cut(&self, rng: &mut Rng) -> Self {
        let after = Self::default();
        for (name, file) in &self.0.lock().unwrap().files {
            let bytes = file.bytes.lock().unwrap();
            let mut kept = bytes.synced.clone();
            for range in &bytes.dirty {
                let mut at = range.start;
                while at < range.end {
                    let end = ((at / SECTOR + 1) * SECTOR).min(range.end);
                    if rng.bool() {
                        kept[at..end].copy_from_slice(&bytes.seen[at..end]);
                    }
                    at = end;
                }
            }
            let bytes = Bytes { seen: kept.clone(), synced: kept, dirty: Vec::new() };
            let file = SimulatedFile { disk: after.clone(), bytes: Mutex::new(bytes) };
            after.0.lock().unwrap().files.insert(name.clone(), Arc::new(file));
        }
        after
    }
}

impl Disk for Simulated {
    type File = SimulatedFile;

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<SimulatedFile>> {
        let file = self.0.lock().unwrap().files.get(name).cloned();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<SimulatedFile>> {
        self.may_fail()?;
        let empty = vec![0; usize::try_from(size).unwrap()];
        let bytes = Bytes { seen: empty.clone(), synced: empty, dirty: Vec::new() };
        let file = SimulatedFile { disk: self.clone(), bytes: Mutex::new(bytes) };
        let file = Arc::new(file);
        self.0.lock().unwrap().files.insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.may_fail()?;
        let mut state = self.0.lock().unwrap();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.may_fail()?;
        self.0.lock().unwrap().files.remove(name);
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().seen.len() as u64)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let failed = self.disk.may_fail();
        let mut inner = self.bytes.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        // A write that fails may have been done in part.
        let len = if failed.is_err() { bytes.len() / 2 } else { bytes.len() };
        if inner.seen.len() < at + len {
            inner.seen.resize(at + len, 0);
            inner.synced.resize(at + len, 0);
        }
        inner.seen[at..at + len].copy_from_slice(&bytes[..len]);
        inner.dirty.push(at..at + len);
        failed
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let inner = self.bytes.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        let found = inner.seen.get(at..at + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.may_fail()?;
        let mut inner = self.bytes.lock().unwrap();
        inner.synced = inner.seen.clone();
        inner.dirty.clear();
        Ok(())
    }
}
