//! The way to the index thread: batches of the journal, and requests, in order with each other.
//!
//! To wake a thread costs more than what a record costs it. So while the thread is at it, batches
//! wait for company or for a request; then it takes all.
//!
//! # Invariants
//! * A request finds all batches applied that were sent before it.

use super::index::Arrival;
use super::writer::Reply;
use crate::base::time::Timestamp;
use crate::policy::verdict::Blame;
use crate::store::filter::Matcher;
use crate::store::journal::Position;
use crate::store::journal::record::How;
use crate::store::leases::Held;
use crate::store::row::{Class, Due};
use crate::store::shared::Effect;
use crate::store::{Change, Changed, Claim, Claimed, Cursor, QueueId, StoreError};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Rows that may have to be changed here before new mail waits.
const BEHIND_MAX: usize = 20_000;
/// Rows that the thread is woken for,
const WORTH: usize = 256;
/// and how long fewer may wait for more.
const LINGER: Duration = Duration::from_millis(20);

/// What the thread is asked.
pub(super) enum Message {
    /// Nothing: batches wait.
    Wake,
    /// Leases.
    Claim { claim: Claim, until: Timestamp, reply: Reply<Vec<Claimed>> },
    /// An operator's verb.
    Change { matcher: Matcher, action: Change, after: Option<Cursor>, reply: Reply<Changed> },
    /// Hold everything, or no longer.
    HoldAll { hold: bool, reply: Reply<()> },
    /// Commit, so that all is seen by other connections.
    Flush { reply: Reply<()> },
}

/// Jobs in the order of their records, and where the last of these ends.
pub(super) struct Batch {
    pub(super) jobs: Vec<Job>,
    pub(super) end: Position,
}

impl Batch {
    /// Rows that it changes, about.
    pub(super) fn rows(&self) -> usize {
        self.jobs.iter().map(Job::rows).sum()
    }
}

/// One record, as it is applied.
pub(super) enum Job {
    Arrive(Arrived),
    Settle(SettleJob),
    /// The record that the index thread asked for: its place and the length of its payload.
    Recorded(Result<(Position, usize), StoreError>),
    /// Queues that have long been empty.
    Forget(Vec<QueueId>),
}

impl Job {
    fn rows(&self) -> usize {
        match self {
            Self::Arrive(arrived) => arrived.arrival.rows.len(),
            Self::Settle(settle) => settle.outcomes.len() + settle.notices.len(),
            Self::Recorded(_) => 1,
            Self::Forget(queues) => queues.len(),
        }
    }
}

/// A new message.
pub(super) struct Arrived {
    pub(super) arrival: Arc<Arrival>,
    pub(super) born_leased: bool,
}

/// Outcomes with the notifications they cause.
pub(super) struct SettleJob {
    pub(super) at: Timestamp,
    pub(super) outcomes: Vec<Ended>,
    pub(super) notices: Vec<Arrival>,
}

/// What became of a leased delivery.
pub(super) struct Ended {
    pub(super) held: Held,
    pub(super) how: How,
    pub(super) reply: String,
    pub(super) blame: Option<Blame>,
}

impl Ended {
    /// What it does to the backlog.
    pub(super) fn effect(&self) -> Effect {
        let Held { row, class, size, .. } = self.held;
        let How::Deferred { due_at, .. } = self.how else {
            return Effect::LeaveLeased { queue: row.queue, size };
        };
        let held_due = (class == Class::Held).then_some(row.due_at);
        let due = Due { at: row.due_at, held: held_due }.deferred(Timestamp(due_at));
        let class = if due.held.is_some() { Class::Held } else { Class::Deferred };
        Effect::Unlease { row: Cursor { due_at: due.at, ..row }, class }
    }
}

/// Both ends.
pub(super) fn channel() -> (Inbox, Incoming) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let behind = Arc::new(Behind::default());
    (Inbox { sender, behind: Arc::clone(&behind) }, Incoming { receiver, behind })
}

/// The end of those who tell and ask.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    sender: Sender<Message>,
    behind: Arc<Behind>,
}

/// The thread's end.
pub(super) struct Incoming {
    receiver: Receiver<Message>,
    behind: Arc<Behind>,
}

/// What waits there.
#[derive(Default)]
struct Behind {
    batches: Mutex<Batches>,
    /// Of what is in `batches` and with the thread.
    rows: AtomicUsize,
    /// The writer waits to be told.
    stalled: AtomicBool,
}

#[derive(Default)]
struct Batches {
    waiting: Vec<Batch>,
    rows: usize,
    /// The thread sleeps until it is woken.
    asleep: bool,
}

impl std::fmt::Debug for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behind").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Behind {
    /// Nothing that panics is done under this lock.
    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Tells what the journal holds.
    pub(super) fn send(&self, batch: Batch) {
        let count = batch.rows();
        let urgent = batch.jobs.iter().any(|job| matches!(job, Job::Recorded(_)));
        self.behind.rows.fetch_add(count, Ordering::SeqCst);
        let mut batches = self.behind.batches();
        let worth = batches.rows < WORTH && batches.rows + count >= WORTH;
        let wake = urgent || worth || std::mem::take(&mut batches.asleep);
        batches.rows += count;
        batches.waiting.push(batch);
        drop(batches);
        if wake {
            // Where the thread has ended, the store is closing.
            _ = self.sender.send(Message::Wake);
        }
    }

    /// Rows that are still to be changed there.
    pub(super) fn waiting(&self) -> u64 {
        self.behind.rows.load(Ordering::Relaxed) as u64
    }

    /// Asks something. False where the thread has ended.
    pub(super) fn ask(&self, message: Message) -> bool {
        self.sender.send(message).is_ok()
    }

    /// True where so much waits that no more should come; `Request::CaughtUp` then follows.
    pub(super) fn is_behind(&self) -> bool {
        let behind = || self.behind.rows.load(Ordering::SeqCst) > BEHIND_MAX;
        if !behind() {
            return false;
        }
        self.behind.stalled.store(true, Ordering::SeqCst);
        behind()
    }
}

impl Incoming {
    /// The next request, or that there is something to do; for `nap` at most.
    pub(super) fn next(&self, nap: Duration) -> Result<Message, RecvTimeoutError> {
        let asleep = self.behind.batches().asleep;
        self.receiver.recv_timeout(if asleep { nap } else { nap.min(LINGER) })
    }

    /// All batches that wait. When there are none, the next one wakes the thread.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let mut batches = self.behind.batches();
        batches.rows = 0;
        batches.asleep = batches.waiting.is_empty();
        std::mem::take(&mut batches.waiting)
    }

    /// Rows were changed. True where the writer is to be told that it may go on.
    pub(super) fn done(&self, rows: usize) -> bool {
        let left = self.behind.rows.fetch_sub(rows, Ordering::SeqCst) - rows;
        left <= BEHIND_MAX / 2 && self.behind.stalled.swap(false, Ordering::SeqCst)
    }
}
