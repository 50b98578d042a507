//! Small files of JSON beside the queue: written anew each time, beside the old one and then in its
//! place, so that a crash leaves the one or the other.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What the file holds; the default where there is none.
///
/// # Errors
/// A sentence: it cannot be read, or is not understood.
pub fn read<T: DeserializeOwned + Default>(dir: &Path, name: &str) -> Result<T, String> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error.to_string()),
    }
}

/// Durable when it returns.
///
/// # Errors
/// What the disk says; the old file is there then.
pub fn write(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(name))?;
    // A name is durable once its folder is.
    File::open(dir)?.sync_all()
}

/// Keeps a file that is not understood under another name, which it gives.
pub fn put_aside(dir: &Path, name: &str) -> Option<PathBuf> {
    let aside = dir.join(format!("{name}.damaged"));
    std::fs::rename(dir.join(name), &aside).is_ok().then_some(aside)
}
