//! The keys on disk: a file that grows by a line for each part of a request, and is now and then
//! written anew with what still counts.
//!
//! A line is its CRC-32C in eight hexadecimal digits, a blank, and JSON. One that does not fit its
//! sum was being written when the machine stopped, and nobody has heard of it.

use super::Hash;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::observe::receive as tell;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// The file in the node's folder.
const NAME: &str = "http-keys";
/// A file of this size is not written anew.
const LEAST: u64 = 1 << 20;
/// Lines that wait for the disk.
const WAITING: usize = 1_024;

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) key: Hash,
    pub(super) tenant: String,
    pub(super) body: Hash,
    pub(super) at: Timestamp,
    pub(super) total: u32,
    pub(super) taken: Vec<(u32, MessageId)>,
}

/// The same as JSON.
#[derive(Serialize, Deserialize)]
struct Json {
    key: Hash,
    tenant: String,
    body: Hash,
    at: i64,
    total: u32,
    taken: Vec<(u32, String)>,
}

impl Line {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let json = Json {
            key: self.key,
            tenant: self.tenant.clone(),
            body: self.body,
            at: self.at.0,
            total: self.total,
            taken: self.taken.iter().map(|(number, id)| (*number, id.to_string())).collect(),
        };
        let text = serde_json::to_string(&json).unwrap_or_default();
        format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes())).into_bytes()
    }

    /// `None` for what was not written by [`Line::to_bytes`].
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        let (sum, text) = text.split_once(' ')?;
        if u32::from_str_radix(sum, 16) != Ok(crc32c::crc32c(text.as_bytes())) {
            return None;
        }
        let Json { key, tenant, body, at, total, taken } = serde_json::from_str(text).ok()?;
        let read = |(number, id): (u32, String)| Some((number, id.parse::<MessageId>().ok()?));
        let taken = taken.into_iter().map(read).collect::<Option<_>>()?;
        Some(Self { key, tenant, body, at: Timestamp(at), total, taken })
    }
}

/// Reads all lines that are whole.
pub(super) fn read(dir: &Path, mut take: impl FnMut(Line)) -> Result<(), String> {
    let path = dir.join(NAME);
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    while reader.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if let Some(line) = Line::parse(&line) {
            take(line);
        }
        line.clear();
    }
    Ok(())
}

/// Gives all that counts, as lines.
pub(super) type All = Box<dyn Fn() -> Vec<u8> + Send>;

/// Writes lines, all that wait with one sync.
pub(super) struct Writer(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>);

impl Writer {
    /// Begins with a file that holds what counts, and no more.
    pub(super) fn start(dir: &Path, all: All) -> Result<Self, String> {
        let (lines, waiting) = mpsc::channel(WAITING);
        let path = dir.join(NAME);
        let mut disk = Disk { path, all, file: None, len: 0, most: LEAST };
        let shown = disk.path.display().to_string();
        disk.renew().map_err(|error| format!("cannot write {shown}: {error}"))?;
        tokio::spawn(run(disk, waiting));
        Ok(Self(lines))
    }

    /// Returns once the line is on disk, or the log has said why it is not.
    pub(super) async fn write(&self, line: Vec<u8>) {
        let (done, written) = oneshot::channel();
        if self.0.send((line, done)).await.is_ok() {
            _ = written.await;
        }
    }
}

async fn run(mut disk: Disk, mut waiting: mpsc::Receiver<(Vec<u8>, oneshot::Sender<()>)>) {
    let mut lines = Vec::new();
    while waiting.recv_many(&mut lines, WAITING).await > 0 {
        let (lines, done): (Vec<_>, Vec<_>) = lines.drain(..).unzip();
        let work = move || {
            if let Err(error) = disk.append(&lines.concat()) {
                tell::key_not_kept(&disk.path, &error);
                // Begun anew with the next line, since nobody knows what is in it.
                disk.file = None;
            }
            disk
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(back) => disk = back,
            Err(_) => return,
        }
        done.into_iter().for_each(|done| _ = done.send(()));
    }
}

struct Disk {
    path: PathBuf,
    all: All,
    /// `None`: it has to be made anew.
    file: Option<File>,
    len: u64,
    /// A longer one is written anew.
    most: u64,
}

impl Disk {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| self.len <= self.most) else {
            // What is to be appended counts already.
            return self.renew();
        };
        file.write_all(lines)?;
        file.sync_data()?;
        self.len += lines.len() as u64;
        Ok(())
    }

    /// Puts a file with what counts in place of the old one; a crash leaves the one or the other.
    fn renew(&mut self) -> io::Result<()> {
        let bytes = (self.all)();
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        // A name is durable once its folder is.
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.len = bytes.len() as u64;
        self.most = LEAST.max(2 * self.len);
        self.file = Some(file);
        Ok(())
    }
}
