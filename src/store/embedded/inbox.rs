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
use std::fmt;
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
    /// That they change, about.
    pub(super) rows: usize,
}

impl Batch {
    pub(super) fn new(jobs: Vec<Job>, end: Position) -> Self {
        let rows = jobs.iter().map(Job::rows).sum();
        Self { jobs, end, rows }
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
    let batches = Batches::default();
    (Inbox { sender, batches: batches.clone() }, Incoming { receiver, batches })
}

/// The end of those who tell and ask.
#[derive(Clone, Debug)]
pub(super) struct Inbox {
    sender: Sender<Message>,
    batches: Batches,
}

/// The thread's end.
pub(super) struct Incoming {
    receiver: Receiver<Message>,
    batches: Batches,
}

/// What both ends know.
#[derive(Clone, Default)]
struct Batches(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: Vec<Batch>,
    /// Rows of these.
    rows: usize,
    /// And of what the thread has taken and not done.
    behind: usize,
    /// The thread sleeps until it is woken.
    asleep: bool,
    /// The writer waits to be told.
    stalled: bool,
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("behind", &self.lock().behind).finish_non_exhaustive()
    }
}

impl Batches {
    /// Nothing that panics is done under this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// Tells what the journal holds.
    pub(super) fn send(&self, batch: Batch) {
        let urgent = batch.jobs.iter().any(|job| matches!(job, Job::Recorded(_)));
        let mut state = self.batches.lock();
        let worth = state.rows < WORTH && state.rows + batch.rows >= WORTH;
        let wake = urgent || worth || std::mem::take(&mut state.asleep);
        state.rows += batch.rows;
        state.behind += batch.rows;
        state.waiting.push(batch);
        drop(state);
        if wake {
            // Where the thread has ended, the store is closing.
            _ = self.sender.send(Message::Wake);
        }
    }

    /// Rows that are still to be changed there.
    pub(super) fn waiting(&self) -> u64 {
        self.batches.lock().behind as u64
    }

    /// Asks something. False where the thread has ended.
    pub(super) fn ask(&self, message: Message) -> bool {
        self.sender.send(message).is_ok()
    }

    /// True where so much waits that no more should come; `Request::CaughtUp` then follows.
    pub(super) fn is_behind(&self) -> bool {
        let mut state = self.batches.lock();
        let behind = state.behind > BEHIND_MAX;
        state.stalled |= behind;
        behind
    }
}

impl Incoming {
    /// The next request, or that there is something to do; for `nap` at most.
    pub(super) fn next(&self, nap: Duration) -> Result<Message, RecvTimeoutError> {
        let asleep = self.batches.lock().asleep;
        self.receiver.recv_timeout(if asleep { nap } else { nap.min(LINGER) })
    }

    /// All batches that wait. When there are none, the next one wakes the thread.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let mut state = self.batches.lock();
        state.rows = 0;
        state.asleep = state.waiting.is_empty();
        std::mem::take(&mut state.waiting)
    }

    /// Rows were changed. True where the writer is to be told that it may go on.
    pub(super) fn done(&self, rows: usize) -> bool {
        let mut state = self.batches.lock();
        state.behind -= rows;
        state.behind <= BEHIND_MAX / 2 && std::mem::take(&mut state.stalled)
    }
}
