//! An operator's verbs: hold, release, retry, delete; of what matches, or of everything.
//!
//! What is to be changed is found here, written to the journal, and changed when the record comes
//! back in its turn. Until then nothing is claimed, so that it stays as it was found.

use super::carried::Record;
use super::carry::Carried;
use super::index::{Ending, Index};
use super::indexer::{Done, Indexer};
use super::read::{self, Found};
use super::schema::store_error;
use super::writer::{Reply, Request};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::store::filter::Matcher;
use crate::store::journal::Position;
use crate::store::journal::disk::Disk;
use crate::store::journal::record::{Ended, HOLD, How, OUTCOMES, Place, write_outcomes};
use crate::store::row::Row;
use crate::store::shared::Effect;
use crate::store::{Change as Action, Changed, Cursor, State, StoreError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Deliveries that one slice changes: as long as others may wait for the thread.
const SLICE_MAX: usize = 1_000;

/// What waits for its record.
pub(super) enum Pending {
    /// A slice.
    Change(Slice),
    /// Everything is to be held, or no longer.
    Hold { hold: bool, reply: Reply<()> },
    /// Messages are written again at the journal's front: those whose records are still to come,
    /// and where in these the messages' bytes begin.
    Carry(VecDeque<(MessageId, u32)>),
}

/// A record that came back.
pub(super) struct Nth {
    /// Which of those that came back together, from 0.
    pub(super) nth: usize,
    pub(super) at: Position,
    /// Length of its payload.
    pub(super) payload: usize,
}

/// What is to become of some deliveries.
pub(super) struct Slice {
    at: Timestamp,
    changes: Vec<OneChange>,
    result: Changed,
    reply: Reply<Changed>,
}

struct OneChange {
    row: Row,
    lone: bool,
    how: How,
}

impl OneChange {
    /// `None` where nothing is to change.
    fn new(found: &Found, action: Action) -> Option<Self> {
        let how = match action {
            Action::Delete => How::Deleted,
            _ => {
                let due = found.row.due().changed(action)?;
                How::Moved { due_at: due.at.0, held_due: due.held.map(|held| held.0) }
            }
        };
        Some(Self { row: found.row.clone(), lone: found.head.recipient_count == 1, how })
    }

    fn effect(&self) -> Effect {
        let (row, from) = (&self.row, self.row.class());
        let How::Moved { due_at, held_due } = self.how else {
            return Effect::Leave { queue: row.key.queue, class: from, size: row.size };
        };
        let mut moved = row.clone();
        moved.key.due_at = Timestamp(due_at);
        moved.held_due = held_due.map(Timestamp);
        Effect::Shift { row: moved.key, from, to: moved.class() }
    }
}

/// Finds a slice and has it recorded.
pub(super) fn change<D: Disk>(
    indexer: &mut Indexer<D>,
    matcher: &Matcher,
    action: Action,
    after: Option<Cursor>,
    reply: Reply<Changed>,
) {
    let Some(index) = &mut indexer.index else {
        _ = reply.send(Err(Indexer::<D>::broken()));
        return;
    };
    let mut found: Vec<Found> = Vec::new();
    let mut leased = 0;
    let scanned = indexer.aside.all_down(index).and_then(|()| {
        read::scan(&index.db, &indexer.shared, matcher, after, |one| {
            match one.state {
                State::Leased => leased += 1,
                _ => found.push(one),
            }
            if found.len() < SLICE_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
    });
    let next = match scanned {
        Ok(next) => next,
        Err(error) => {
            _ = reply.send(Err(store_error(&error)));
            indexer.failed("change", &error);
            return;
        }
    };
    let changes: Vec<OneChange> =
        found.iter().filter_map(|found| OneChange::new(found, action)).collect();
    let result = Changed { changed: changes.len() as u64, leased, next };
    if changes.is_empty() {
        _ = reply.send(Ok(result));
        return;
    }
    let at = indexer.shared.clock.now();
    let record = record(indexer, &changes, at);
    let slice = Slice { at, changes, result, reply };
    match record {
        Ok(record) => ask(indexer, OUTCOMES, vec![record], Pending::Change(slice)),
        Err(error) => _ = slice.reply.send(Err(error)),
    }
}

fn record<D: Disk>(
    indexer: &Indexer<D>,
    changes: &[OneChange],
    at: Timestamp,
) -> Result<Bytes, StoreError> {
    let live = indexer.shared.lock();
    let ended = |change: &OneChange| {
        let key = change.row.key;
        let domain = live.tally.key(key.queue).map(|key| key.domain.to_string());
        Ended {
            message: key.delivery.message.number(),
            number: key.delivery.number,
            domain: domain.unwrap_or_default().into(),
            due_at: key.due_at.0,
            how: change.how,
            reply: "".into(),
            blame: None,
        }
    };
    let written = write_outcomes(at, changes.iter().map(ended).collect(), &[]);
    let failed = |error| StoreError::Failed(format!("cannot write a record: {error}"));
    written.map(Bytes::from).map_err(failed)
}

/// Has it recorded that everything is held, or no longer.
pub(super) fn hold_all<D: Disk>(indexer: &mut Indexer<D>, hold: bool, reply: Reply<()>) {
    let payload = vec![Bytes::copy_from_slice(&[u8::from(hold)])];
    ask(indexer, HOLD, payload, Pending::Hold { hold, reply });
}

/// Sends a record on its way and waits for it.
pub(super) fn ask<D: Disk>(
    indexer: &mut Indexer<D>,
    kind: u8,
    payload: Vec<Bytes>,
    pending: Pending,
) {
    if indexer.tell(Request::Record { kind, payload }) {
        indexer.pending = Some(pending);
    } else {
        pending.fail(&StoreError::Failed("the store is closing".into()));
    }
}

/// Has messages written again at the journal's front.
pub(super) fn carry<D: Disk>(indexer: &mut Indexer<D>, slice: Vec<Carried>) {
    let mut sent = VecDeque::new();
    for Carried { id, record: Record { kind, parts, body } } in slice {
        if indexer.tell(Request::Record { kind, payload: parts }) {
            sent.push_back((id, body));
        }
    }
    indexer.pending = (!sent.is_empty()).then_some(Pending::Carry(sent));
}

/// A record came back and its rows are changed, or it could not be written.
pub(super) fn recorded<D: Disk>(
    indexer: &mut Indexer<D>,
    error: Option<StoreError>,
    done: &mut Done,
) {
    match (indexer.pending.take(), error) {
        (Some(Pending::Carry(mut carried)), _) => {
            // One that could not be written stays where it is.
            carried.pop_front();
            if !carried.is_empty() {
                indexer.pending = Some(Pending::Carry(carried));
            }
        }
        (Some(pending), Some(error)) => pending.fail(&error),
        (Some(Pending::Change(slice)), None) => {
            done.effects.extend(slice.changes.iter().map(OneChange::effect));
            done.changed = Some((slice.reply, slice.result));
        }
        (Some(Pending::Hold { hold, reply }), None) => {
            done.effects.push(Effect::HoldAll(hold));
            done.held = Some(reply);
        }
        (None, _) => {}
    }
}

impl Pending {
    /// Changes the rows.
    pub(super) fn apply(&self, index: &mut Index, nth: &Nth) -> rusqlite::Result<()> {
        match self {
            Self::Carry(carried) => match carried.get(nth.nth) {
                Some((message, body)) => {
                    let payload = u32::try_from(nth.payload).unwrap_or(u32::MAX);
                    let place = Place { frame: nth.at, payload, body: *body };
                    index.carry(*message, place).map(|_| ())
                }
                None => Ok(()),
            },
            Self::Change(slice) => slice.apply(index),
            Self::Hold { hold, .. } => index.hold_all(*hold, nth.at),
        }
    }

    fn fail(self, error: &StoreError) {
        match self {
            Self::Change(slice) => _ = slice.reply.send(Err(error.clone())),
            Self::Hold { reply, .. } => _ = reply.send(Err(error.clone())),
            Self::Carry(_) => {}
        }
    }
}

impl Slice {
    fn apply(&self, index: &mut Index) -> rusqlite::Result<()> {
        for change in &self.changes {
            let (row, lone, how) = (change.row.key, change.lone, change.how);
            index.apply(&Ending { row, lone, how, at: self.at, reply: "", blame: None })?;
        }
        Ok(())
    }
}
