//! The thread that keeps the index: it follows the journal, and serves claims and operators in
//! order with what it follows.
//!
//! # Invariants
//! * A lease whose outcome is durable stays until the rows show that: no claim finds the delivery
//!   free before.
//! * While a record of its own is on its way through the journal, nothing is claimed: what the
//!   record is about stays as it was found.
//! * A message that is born leased is kept aside until the next commit; when it is settled by then,
//!   it costs no row.
//! * When the database fails, it is opened anew and brought to where it was from the journal; what
//!   comes meanwhile waits in order, and whoever asks is told.

use super::aside::Aside;
use super::claim;
use super::gauges::Gauges;
use super::inbox::{Arrived, Batch, Ended, Incoming, Job, Message};
use super::index::{Arrival, Ending, Index, reached};
use super::open::set_aside;
use super::operator::{self, Nth, Pending};
use super::reclaim::Reclaim;
use super::replay::{Span, replay};
use super::schema::store_error;
use super::space;
use super::writer::{Reply, Request};
use crate::base::time::Timestamp;
use crate::observe::store as tell;
use crate::store::journal::Position;
use crate::store::journal::disk::Disk;
use crate::store::journal::files::Files;
use crate::store::journal::record::How;
use crate::store::shared::{Effect, Shared};
use crate::store::{Changed, Claim, Claimed, Lease, StoreError};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::WeakSender;

/// How long a transaction stays open.
const COMMIT_AFTER: Duration = Duration::from_secs(1);
/// Rows that it changes at most, about.
const COMMIT_CHANGES: u64 = 20_000;
/// Between two trials to open a database that failed.
const RETRY: Duration = Duration::from_secs(1);

/// State of the thread.
pub(super) struct Indexer<D: Disk> {
    pub(super) dir: PathBuf,
    pub(super) disk: D,
    pub(super) page_size: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) files: Files,
    pub(super) incoming: Incoming,
    pub(super) writer: WeakSender<Request>,
    /// `None` after a failure, until it can be opened again.
    pub(super) index: Option<Index>,
    pub(super) aside: Aside,
    /// Up to here in the journal, all is applied.
    pub(super) reached: Position,
    /// Batches that wait for the database, in order.
    batches: VecDeque<Batch>,
    /// What waits for its record.
    pub(super) pending: Option<Pending>,
    /// Requests that wait for that.
    later: VecDeque<Message>,
    opened_at: Option<Instant>,
    failed_at: Option<Instant>,
    /// It is to be made anew.
    damaged: bool,
    reclaim: Reclaim,
}

/// What is made known once the rows are changed.
#[derive(Default)]
pub(super) struct Done {
    pub(super) effects: Vec<Effect>,
    /// Answers to operators.
    pub(super) changed: Option<(Reply<Changed>, Changed)>,
    pub(super) held: Option<Reply<()>>,
}

impl<D: Disk> Indexer<D> {
    #[expect(clippy::too_many_arguments, reason = "each is one part of the thread's state")]
    pub(super) fn new(
        dir: PathBuf,
        disk: D,
        page_size: u32,
        shared: Arc<Shared>,
        gauges: Arc<Gauges>,
        files: Files,
        incoming: Incoming,
        writer: WeakSender<Request>,
        index: Index,
        reached: Position,
    ) -> Self {
        Self {
            dir,
            disk,
            page_size,
            shared,
            gauges,
            files,
            incoming,
            writer,
            index: Some(index),
            aside: Aside::default(),
            reached,
            batches: VecDeque::new(),
            pending: None,
            later: VecDeque::new(),
            opened_at: None,
            failed_at: None,
            damaged: false,
            reclaim: Reclaim::default(),
        }
    }

    /// Follows and serves until nobody is left to tell or ask.
    pub(super) fn run(mut self) {
        self.reclaim.committed(self.reached, 0);
        self.checkpoint();
        loop {
            let message = match self.pending.is_none().then(|| self.later.pop_front()).flatten() {
                Some(message) => Ok(message),
                None => self.incoming.next(self.nap()),
            };
            self.batches.extend(self.incoming.batches());
            self.work();
            match message {
                Ok(Message::Wake) => {}
                Ok(request) if self.pending.is_some() => self.later.push_back(request),
                Ok(request) => self.serve(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.tick();
        }
        self.commit();
        self.checkpoint();
    }

    /// Until something is due.
    fn nap(&self) -> Duration {
        match (self.opened_at, self.failed_at) {
            (_, Some(at)) => RETRY.saturating_sub(at.elapsed()),
            (Some(at), None) => COMMIT_AFTER.saturating_sub(at.elapsed()).min(self.reclaim.nap()),
            (None, None) => self.reclaim.nap(),
        }
    }

    /// What time brings.
    fn tick(&mut self) {
        if self.failed_at.is_some_and(|at| at.elapsed() >= RETRY) {
            self.recover();
        }
        if self.index.as_ref().is_some_and(Index::is_open) {
            self.opened_at.get_or_insert_with(now);
        }
        let changes = self.index.as_ref().map_or(0, |index| index.changes);
        let due = self.opened_at.is_some_and(|at| at.elapsed() >= COMMIT_AFTER);
        if due || changes >= COMMIT_CHANGES {
            self.commit();
        }
        self.reclaim();
    }

    /// Applies the batches that wait.
    fn work(&mut self) {
        while let (Some(index), Some(batch)) = (&mut self.index, self.batches.front()) {
            let mut done = Done::default();
            let applied = index.begin().and_then(|()| {
                apply(index, &mut self.aside, &self.shared, batch, self.pending.as_ref(), &mut done)
            });
            if let Err(error) = applied {
                self.failed("index", &error);
                return;
            }
            let Some(batch) = self.batches.pop_front() else { return };
            self.reached = batch.end;
            self.finish(batch, done);
        }
    }

    /// Makes known what was applied, and answers.
    fn finish(&mut self, batch: Batch, mut done: Done) {
        let (rows, batch_end) = (batch.rows, batch.end);
        for job in batch.jobs {
            if let Job::Recorded(result) = job {
                operator::recorded(self, result.err(), &mut done);
            }
        }
        self.shared.apply(done.effects, batch_end);
        if let Some((reply, changed)) = done.changed {
            _ = reply.send(Ok(changed));
        }
        if let Some(reply) = done.held {
            _ = reply.send(Ok(()));
        }
        if self.incoming.done(rows) {
            self.tell(Request::CaughtUp);
        }
    }

    /// Tells the writer something. False where it is gone: the store is closing.
    pub(super) fn tell(&self, request: Request) -> bool {
        self.writer.upgrade().is_some_and(|writer| writer.blocking_send(request).is_ok())
    }

    fn serve(&mut self, request: Message) {
        match request {
            Message::Claim { claim, until, reply } => self.claim(&claim, until, reply),
            Message::Flush { reply } => {
                self.commit();
                _ = reply.send(self.index.as_ref().map(|_| ()).ok_or_else(Self::broken));
            }
            Message::Change { matcher, action, after, reply } => {
                operator::change(self, &matcher, action, after, reply);
            }
            Message::HoldAll { hold, reply } => operator::hold_all(self, hold, reply),
            Message::Wake => {}
        }
    }

    /// Why nothing can be asked.
    pub(super) fn broken() -> StoreError {
        StoreError::Failed("queue.db cannot be read or written now; it is tried again".into())
    }

    fn claim(&mut self, claim: &Claim, until: Timestamp, reply: Reply<Vec<Claimed>>) {
        if reply.is_closed() {
            return;
        }
        let Some(index) = &mut self.index else {
            _ = reply.send(Err(Self::broken()));
            return;
        };
        let queues = claim.queues.iter().map(|(queue, _)| *queue);
        let result = self
            .aside
            .settle_down(queues, index)
            .and_then(|()| claim::claim(&index.db, &self.shared, claim, until));
        let result = result.map_err(|error| {
            let told = store_error(&error);
            self.failed("claim", &error);
            told
        });
        if let Err(Ok(unheard)) = reply.send(result) {
            let leases: Vec<Lease> = unheard.iter().flat_map(Claimed::leases).collect();
            self.shared.release(&leases);
        }
    }

    /// Commits all that is applied.
    pub(super) fn commit(&mut self) {
        let Some(index) = self.index.as_mut().filter(|index| index.is_open()) else { return };
        let settled_down = self.aside.all_down(index);
        let changes = index.changes;
        let committed = settled_down.and_then(|()| index.commit(self.reached));
        self.opened_at = None;
        match committed {
            Ok(()) => {
                self.reclaim.committed(self.reached, changes);
                if self.shared.lock().names.has_idle() {
                    self.tell(Request::Forget(self.reached));
                }
            }
            Err(error) => self.failed("commit", &error),
        }
    }

    /// Moves what was committed into the database file, so that the journal need not keep it.
    pub(super) fn checkpoint(&mut self) {
        let Some(index) = self.index.as_ref().filter(|index| !index.is_open()) else { return };
        if let Err(error) = self.reclaim.checkpoint(&index.db) {
            self.failed("checkpoint", &error);
        }
    }

    /// Closes the database; it is opened again in a moment.
    pub(super) fn failed(&mut self, what: &str, error: &rusqlite::Error) {
        tell::failed(what, error);
        self.damaged |= matches!(store_error(error), StoreError::Damaged(_));
        self.index = None;
        self.gauges.index_failed.store(true, Ordering::Relaxed);
        self.opened_at = None;
        self.failed_at = Some(now());
    }

    /// Opens the database and brings it to where it was.
    fn recover(&mut self) {
        self.failed_at = Some(now());
        match self.reopened() {
            Ok(index) => {
                self.aside = Aside::default();
                self.index = Some(index);
                self.gauges.index_failed.store(false, Ordering::Relaxed);
                self.failed_at = None;
                self.reclaim.recovered();
                self.reclaim.committed(self.reached, 0);
                self.work();
            }
            Err(error) => {
                tell::failed("reopen", &error);
                self.damaged |= matches!(error, StoreError::Damaged(_));
            }
        }
    }

    fn reopened(&mut self) -> Result<Index, StoreError> {
        if self.damaged {
            tell::index_damaged(&"it is made anew");
            set_aside(&self.dir, "damaged").map_err(|e| space::store_error(&e))?;
            // The next failure is one of the new database: this one stays aside.
            self.damaged = false;
        }
        let mut index = Index::open(&self.dir, self.page_size)?;
        let from = reached(&index.db).map_err(|e| store_error(&e))?;
        let span = Span { from, until: Some(self.reached) };
        replay(&mut index, &self.disk, span, &self.shared, |_, _| {})?;
        Ok(index)
    }

    /// Moves commits to the database file, and gives up segments that are not needed any more.
    fn reclaim(&mut self) {
        let short = self.gauges.short.load(Ordering::Relaxed);
        if self.reclaim.is_due(short) {
            self.checkpoint();
        }
        self.give_up();
        if self.pending.is_none() {
            self.carry(short);
        }
    }

    /// Gives up the oldest segments as far as nothing in them is needed. Where everything is held,
    /// and one of them says so, that is recorded again first.
    fn give_up(&mut self) {
        let held = self.shared.lock().tally.all_held();
        while let Some(index) = &self.index
            && let Some(segment) = self.reclaim.empty(&self.files, index)
        {
            if held && segment >= index.hold_in {
                if self.pending.is_none() && self.reclaim.may_hold_again() {
                    // Nobody waits for it.
                    operator::hold_all(self, true, tokio::sync::oneshot::channel().0);
                }
                return;
            }
            self.reclaim.retired(segment);
            self.tell(Request::Retire(segment));
        }
    }

    /// Goes on with emptying the oldest segment, where too much of the journal is not needed.
    fn carry(&mut self, short: bool) {
        let Some(index) = &self.index else { return };
        match self.reclaim.carry(index, &self.disk, &self.shared, &self.files, short) {
            Ok(slice) if slice.is_empty() => {}
            Ok(slice) => operator::carry(self, slice),
            Err(error) => self.failed("carry", &error),
        }
    }
}

/// Changes the rows as a batch says, and notes what is to be made known then.
fn apply(
    index: &mut Index,
    aside: &mut Aside,
    shared: &Shared,
    batch: &Batch,
    pending: Option<&Pending>,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let mut recorded = 0;
    for job in &batch.jobs {
        match job {
            Job::Arrive(Arrived { arrival, born_leased }) => {
                index.last_id = index.last_id.max(Some(arrival.head.id));
                index.count(arrival.place, arrival.head.size);
                if !(*born_leased && aside.keep(arrival, shared)) {
                    insert(index, arrival, done)?;
                }
            }
            Job::Settle(settle) => {
                for ended in &settle.outcomes {
                    end(index, aside, ended, settle.at, done)?;
                }
                for notice in &settle.notices {
                    index.count(notice.place, notice.head.size);
                    insert(index, notice, done)?;
                }
            }
            Job::Recorded(result) => {
                if let (Some(pending), Ok((at, payload))) = (pending, result) {
                    pending.apply(index, &Nth { nth: recorded, at: *at, payload: *payload })?;
                }
                recorded += 1;
            }
            Job::Forget(queues) => {
                for queue in queues {
                    index.forget(*queue)?;
                }
            }
        }
    }
    Ok(())
}

fn insert(index: &mut Index, arrival: &Arrival, done: &mut Done) -> rusqlite::Result<()> {
    if !index.insert(arrival)? {
        tell::duplicate(&arrival.head.id);
        index.discount(arrival.place.frame.segment, arrival.head.size);
    }
    let landed = |row: &crate::store::row::Row| Effect::Landed { row: row.key, class: row.class() };
    done.effects.extend(arrival.rows.iter().map(|(row, _)| landed(row)));
    Ok(())
}

/// The end of an attempt.
fn end(
    index: &mut Index,
    aside: &mut Aside,
    ended: &Ended,
    at: Timestamp,
    done: &mut Done,
) -> rusqlite::Result<()> {
    let Ended { held, how, reply, blame } = ended;
    let row = held.row;
    let kept = aside.take(row.delivery.message);
    // Over before the row is told of, so that it can be claimed.
    done.effects.push(Effect::Ended { delivery: row.delivery });
    if let How::Deferred { .. } = how {
        if let Some(arrival) = &kept {
            index.insert(arrival)?;
        }
        if let Effect::Unlease { row, class } = ended.effect() {
            done.effects.push(Effect::Landed { row, class });
        }
    } else if let Some(arrival) = kept {
        index.discount(arrival.place.frame.segment, arrival.head.size);
        return Ok(());
    }
    let (lone, how, blame) = (held.lone, *how, *blame);
    if !index.apply(&Ending { row, lone, how, at, reply, blame })? {
        tell::outcome_without_row(&row.delivery.message, row.delivery.number);
    }
    Ok(())
}

/// For pauses of this thread, whatever the clock of the queue says.
#[expect(clippy::disallowed_methods, reason = "a pause, not a time that is kept")]
pub(super) fn now() -> Instant {
    Instant::now()
}
