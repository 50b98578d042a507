//! What the journal asks of a disk, so that a simulated one can lose what was not synced.

use rustix::fs::{FallocateFlags, fallocate};
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// One folder of files. Clones are the same folder.
pub(in crate::store) trait Disk: Clone + Debug + Send + 'static {
    /// An open file.
    type File: DiskFile;

    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<Self::File>>;

    /// Makes an empty file of so many bytes, in place of one that may be there. It is there after a
    /// crash.
    fn create(&self, name: &str, size: u64) -> io::Result<Arc<Self::File>>;

    /// Gives a file another name, for good.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, for good.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A file that is written and read at positions.
pub(in crate::store) trait DiskFile: Debug + Send + Sync + 'static {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Writes all of it.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Reads all of it.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns when what was written is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Clone, Debug)]
pub(in crate::store) struct Folder(pub(in crate::store) PathBuf);

impl Folder {
    /// Names are durable once their folder is synced.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Disk for Folder {
    type File = File;

    fn names(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<std::fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
        std::fs::read_dir(&self.0)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<File>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.0.join(name))?))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<File>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(self.0.join(name))?;
        match fallocate(&file, FallocateFlags::empty(), 0, size) {
            Ok(()) => {}
            // Not every file system can; the file then grows as it is written.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        file.sync_all()?;
        self.sync()?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.0.join(name))?;
        self.sync()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A disk that forgets what was not synced, and fails when told to.
#[cfg(test)]
pub(in crate::store) mod simulated {
    use super::{Disk, DiskFile};
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

        fn may_fail(&self) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
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
}
