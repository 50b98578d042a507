//! Which known queues are to be looked at: those whose mail falls due, and all of them where a hold
//! or a suspension, which may have concerned any, has come or gone.
//!
//! That may be a great many at once. So they are looked at in slices, direct mail's first, with a
//! pause after each in which whatever happened meanwhile has its turn.

use super::Core;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::mail::message::{ByLane, Lane};
use std::collections::BTreeSet;
use std::time::Duration;

/// Queues looked at in one go, and the pause before the next: a login code may come in between.
pub(super) const LOOKS: usize = 2_000;
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// What is to be looked at, and not before when.
#[derive(Default)]
pub(super) struct Looks {
    of: ByLane<Ahead>,
    paused_until: Timestamp,
}

/// Of one lane.
#[derive(Default)]
struct Ahead {
    /// Whatever their times.
    again: Vec<QueueId>,
    /// Something in them may be due then.
    due: BTreeSet<(Timestamp, QueueId)>,
}

impl Looks {
    /// Something in the queue may be due at `at`.
    pub(super) fn add(&mut self, lane: Lane, queue: QueueId, at: Timestamp) {
        self.of.of_mut(lane).due.insert((at, queue));
    }

    pub(super) fn drop(&mut self, lane: Lane, queue: QueueId, at: Timestamp) {
        self.of.of_mut(lane).due.remove(&(at, queue));
    }

    /// Times at which something may be due.
    pub(super) fn len(&self) -> usize {
        self.of.iter().map(|(_, ahead)| ahead.due.len()).sum()
    }

    /// True while some are still to be looked at, whatever their times.
    pub(super) fn are_behind(&self) -> bool {
        self.of.iter().any(|(_, ahead)| !ahead.again.is_empty())
    }

    /// When the next is looked at.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        let at = self.of.iter().filter_map(|(_, ahead)| ahead.next_at()).min()?;
        Some(at.max(self.paused_until))
    }

    fn pop(&mut self, now: Timestamp) -> Option<QueueId> {
        self.of.direct.pop(now).or_else(|| self.of.bulk.pop(now))
    }
}

impl Ahead {
    fn next_at(&self) -> Option<Timestamp> {
        let due = self.due.first().map(|(at, _)| *at);
        if self.again.is_empty() { due } else { Some(Timestamp(0)) }
    }

    fn pop(&mut self, now: Timestamp) -> Option<QueueId> {
        let is_due = self.due.first().is_some_and(|(at, _)| *at <= now);
        let due = if is_due { self.due.pop_first() } else { None };
        due.map(|(_, queue)| queue).or_else(|| self.again.pop())
    }
}

impl Core {
    /// Looks at the next of them.
    pub(super) fn look(&mut self, now: Timestamp) {
        if self.looks.paused_until > now {
            return;
        }
        for _ in 0..LOOKS {
            let Some(queue) = self.looks.pop(now) else { return };
            self.queue_due(queue, now);
        }
        self.looks.paused_until = now.after(PAUSE);
    }

    /// What holds for any queue may have changed.
    pub(super) fn look_at_all(&mut self) {
        let Self { looks: Looks { of, .. }, queues, .. } = self;
        of.direct.again.clear();
        of.bulk.again.clear();
        for (id, queue) in queues {
            of.of_mut(queue.backlog.key.lane).again.push(*id);
        }
    }
}
