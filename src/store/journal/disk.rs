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
