//! Requests that may be repeated (`Idempotency-Key`): which messages of one were taken, for 24
//! hours, over restarts.
//!
//! # Invariants
//! * What was recorded is on disk before the client hears of it.
//! * A key stands for one body of one customer, and is worked on once at a time.
//! * Memory is bounded, for all and for each customer; the file is at most twice as long as what it
//!   has to say, or 1 MiB.
//!
//! # Doubles
//! A message is in the queue before its key is on disk. A process that dies between the two has
//! sent what it had taken and not recorded: of one request, at most the messages of a part
//! (`submit::PART`). A repeat sends those again, and no others.

mod file;

use self::file::{Line, Writer};
use super::problem::Problem;
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use aws_lc_rs::digest::{Context, SHA256};
use hyper::StatusCode;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a key is known.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3_600);
/// What an entry takes of memory, about, and each message of it.
const ENTRY: u64 = 256;
const MESSAGE: u64 = 32;
/// One customer may have this part of all.
const SHARE: u64 = 4;

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// All keys of a node.
pub(super) struct Keys {
    table: Arc<Mutex<Table>>,
    writer: Writer,
}

/// What is known.
#[derive(Default)]
struct Table {
    entries: HashMap<Hash, Entry>,
    /// The same, the oldest first; some are gone already.
    ages: VecDeque<(Timestamp, Hash)>,
    under_way: HashSet<Hash>,
    weight: u64,
    weight_of: HashMap<String, u64>,
}

struct Entry {
    tenant: String,
    body: Hash,
    /// When it was first seen.
    at: Timestamp,
    /// Messages of the request.
    total: u32,
    taken: BTreeMap<u32, MessageId>,
}

impl Entry {
    fn weight(&self) -> u64 {
        ENTRY + self.tenant.len() as u64 + MESSAGE * u64::from(self.total)
    }
}

impl Table {
    fn change(&mut self, key: Hash, change: impl FnOnce(Option<Entry>) -> Option<Entry>) {
        let old = self.entries.remove(&key);
        if let Some(old) = &old {
            self.weight -= old.weight();
            if let Some(of) = self.weight_of.get_mut(&old.tenant) {
                *of -= old.weight();
                if *of == 0 {
                    self.weight_of.remove(&old.tenant);
                }
            }
        }
        if let Some(new) = change(old) {
            self.weight += new.weight();
            *self.weight_of.entry(new.tenant.clone()).or_default() += new.weight();
            self.entries.insert(key, new);
        }
    }

    fn insert(&mut self, key: Hash, entry: Entry) {
        self.ages.push_back((entry.at, key));
        self.change(key, |_| Some(entry));
    }

    fn keep(&mut self, key: Hash, taken: impl IntoIterator<Item = (u32, MessageId)>) {
        self.change(key, |entry| {
            let mut entry = entry?;
            entry.taken.extend(taken);
            Some(entry)
        });
    }

    fn forget_old(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.ages.front().copied() {
            if now.since(at) < KNOWN_FOR || self.under_way.contains(&key) {
                return;
            }
            self.ages.pop_front();
            if self.entries.get(&key).is_some_and(|entry| entry.at == at) {
                self.change(key, |_| None);
            }
        }
    }

    /// Takes in a line of the file.
    fn read(&mut self, line: Line, now: Timestamp) {
        let Line { key, tenant, body, at, total, taken } = line;
        if now.since(at) >= KNOWN_FOR {
            return;
        }
        let is_it = |entry: &Entry| entry.at == at && entry.body == body;
        if !self.entries.get(&key).is_some_and(is_it) {
            self.insert(key, Entry { tenant, body, at, total, taken: BTreeMap::new() });
        }
        self.keep(key, taken);
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        self.entries.iter().filter(|(_, entry)| !entry.taken.is_empty()).map(|(key, entry)| Line {
            key: *key,
            tenant: entry.tenant.clone(),
            body: entry.body,
            at: entry.at,
            total: entry.total,
            taken: entry.taken.clone().into_iter().collect(),
        })
    }
}

impl Keys {
    /// Goes on from what an earlier run of the node has left in this folder.
    ///
    /// # Errors
    /// A sentence: the file cannot be read or written.
    pub(super) fn open(dir: &Path, now: Timestamp) -> Result<Self, String> {
        let mut table = Table::default();
        file::read(dir, |line| table.read(line, now))?;
        table.ages.make_contiguous().sort_unstable();
        let table = Arc::new(Mutex::new(table));
        let all = {
            let table = Arc::clone(&table);
            move || lock(&table).lines().map(|line| line.to_bytes()).collect::<Vec<_>>().concat()
        };
        let writer = Writer::start(dir, Box::new(all))?;
        Ok(Self { table, writer })
    }

    /// Begins the work on a request of so many messages, or goes on with it. `most`: bytes that all
    /// entries may take.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: &Request<'_>,
        most: u64,
        now: Timestamp,
    ) -> Result<Claim, Problem> {
        let key = request.hash();
        let mut table = lock(&self.table);
        table.forget_old(now);
        if table.under_way.contains(&key) {
            let detail = "a request with this key is under way";
            let problem = Problem::new(StatusCode::CONFLICT, detail);
            return Err(in_header(problem).remedy("wait for its answer, or ask again later"));
        }
        match table.entries.get(&key) {
            Some(entry) if entry.body != request.body => {
                let detail = "another request had this key in the last 24 hours";
                let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
                return Err(in_header(problem).remedy("give each request a key of its own"));
            }
            Some(_) => {}
            None => {
                let tenant = request.tenant.to_string();
                let total = u32::try_from(request.total).unwrap_or(u32::MAX);
                let (body, taken) = (request.body, BTreeMap::new());
                let entry = Entry { tenant, body, at: now, total, taken };
                let (weight, of) = (entry.weight(), table.weight_of.get(request.tenant));
                let of = of.copied().unwrap_or_default();
                if table.weight + weight > most || of + weight > most / SHARE {
                    let detail = "too many keys in the last 24 hours";
                    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
                    return Err(in_header(problem).remedy("send without a key, or wait"));
                }
                table.insert(key, entry);
            }
        }
        table.under_way.insert(key);
        let known = table.entries.get(&key).map(|entry| entry.taken.clone()).unwrap_or_default();
        drop(table);
        Ok(Claim { keys: Arc::clone(self), key, known })
    }
}

fn in_header(problem: Problem) -> Problem {
    Problem { field: Some("Idempotency-Key".into()), ..problem }
}

/// A request with a key.
pub(super) struct Request<'a> {
    pub(super) tenant: &'a str,
    pub(super) key: &'a [u8],
    /// Of all that it says.
    pub(super) body: Hash,
    /// Messages that it makes.
    pub(super) total: usize,
}

impl Request<'_> {
    /// A customer's keys are his own.
    fn hash(&self) -> Hash {
        hash(&[self.tenant.as_bytes(), self.key])
    }
}

/// Of several texts, one behind the other, and where each ends.
pub(super) fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The work on a request; when dropped, another may begin it again.
pub(super) struct Claim {
    keys: Arc<Keys>,
    key: Hash,
    /// Those of its messages that were taken before.
    pub(super) known: BTreeMap<u32, MessageId>,
}

impl Claim {
    /// Keeps that some of its messages were taken. On disk when it returns; where that cannot be
    /// (the log says so), kept in memory.
    pub(super) async fn record(&self, taken: Vec<(u32, MessageId)>) {
        let line = {
            let mut table = lock(&self.keys.table);
            table.keep(self.key, taken.clone());
            table.entries.get(&self.key).map(|entry| Line {
                key: self.key,
                tenant: entry.tenant.clone(),
                body: entry.body,
                at: entry.at,
                total: entry.total,
                taken,
            })
        };
        if let Some(line) = line {
            self.keys.writer.write(line.to_bytes()).await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = lock(&self.keys.table);
        table.under_way.remove(&self.key);
        // Nothing came of it: the key is as good as new.
        if table.entries.get(&self.key).is_some_and(|entry| entry.taken.is_empty()) {
            table.change(self.key, |_| None);
        }
    }
}

/// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
