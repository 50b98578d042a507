//! What an engine knows without asking its disk: leases and backlog, kept in step.
//!
//! The lock is held for moments only, never over a read or write of the disk, so that
//! [`Store::backlog_part`] may be called from async code.
//!
//! [`Store::backlog_part`]: super::Store::backlog_part

use super::backlog::Tally;
use super::journal::Position;
use super::journal::record::Place;
use super::leases::{Held, Leases, Phase};
use super::names::Names;
use super::row::{Class, Row};
use super::{Backlog, Cursor, Delivery, DeliveryId, Lease, QueueId, QueueKey, Revision};
use crate::base::time::{Clock, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Longest sleep until leases are looked at again.
const NAP_MAX: Duration = Duration::from_secs(3_600);

/// Leases and backlog, shared by all users of one store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    live: Mutex<Live>,
    changed: Notify,
}

/// Leases, backlog, and the queues' names.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) leases: Leases,
    pub(super) tally: Tally,
    pub(super) names: Names,
}

/// A change of the backlog that waits for the commit of what caused it.
#[derive(Debug)]
pub(super) enum Effect {
    /// A delivery arrived.
    Enter { row: Cursor, key: Arc<QueueKey>, class: Class, size: u64 },
    /// A delivery arrived, leased.
    EnterLeased { held: Held, key: Arc<QueueKey> },
    /// A delivery that had arrived can be found by a claim now.
    Landed { row: Cursor, class: Class },
    /// A leased delivery waits again, at another place.
    Unlease { row: Cursor, class: Class },
    /// A lease whose outcome was recorded is over.
    Ended { delivery: DeliveryId },
    /// A waiting delivery waits at another place.
    Shift { row: Cursor, from: Class, to: Class },
    /// A waiting delivery is gone.
    Leave { queue: QueueId, class: Class, size: u64 },
    /// A leased delivery is gone.
    LeaveLeased { queue: QueueId, size: u64 },
    /// Everything is held, or no longer.
    HoldAll(bool),
}

impl Shared {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, live: Mutex::default(), changed: Notify::new() }
    }

    /// Leases and backlog, with the leases ended that have run out.
    pub(super) fn lock(&self) -> MutexGuard<'_, Live> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        for held in live.leases.expire(self.clock.now()) {
            live.tally.unlease(held.row, held.class);
        }
        live
    }

    /// Tells those who wait that the backlog changed.
    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// See [`super::Store::backlog_part`].
    pub(super) fn backlog_part(&self, since: Revision, most: usize) -> Backlog {
        self.lock().tally.since(since, most)
    }

    /// See [`super::Store::changed`]. Wakes when a lease runs out, too.
    pub(super) async fn changed(&self, seen: Revision) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let nap = {
                let live = self.lock();
                if live.tally.revision() != seen {
                    return;
                }
                live.leases.next_end().since(self.clock.now()).min(NAP_MAX)
            };
            // A simulated clock may stand still while we sleep: never spin.
            let nap = nap.max(Duration::from_millis(1));
            let _ = tokio::time::timeout(nap, changed).await;
        }
    }

    /// See [`super::Store::release`].
    pub(super) fn release(&self, leases: &[Lease]) {
        let mut live = self.lock();
        for lease in leases {
            if let Some(held) = live.leases.take(lease) {
                live.tally.unlease(held.row, held.class);
            }
        }
        drop(live);
        self.wake();
    }

    /// See [`super::Store::renew`].
    pub(super) fn renew(&self, leases: Vec<Lease>, ttl: Duration) -> Vec<Lease> {
        let mut live = self.lock();
        let until = self.clock.now().after(ttl);
        leases.into_iter().filter(|lease| !live.leases.renew(lease, until)).collect()
    }

    /// Applies what records up to `at` brought about.
    pub(super) fn apply(&self, effects: Vec<Effect>, at: Position) {
        if effects.is_empty() {
            return;
        }
        let mut live = self.lock();
        for effect in effects {
            if let Some((queue, key)) = live.apply(effect) {
                live.names.emptied(queue, key, at);
            }
        }
        drop(live);
        self.wake();
    }
}

impl Live {
    /// Forgets the names of up to `max` queues that have long been empty, all by records up to
    /// `until`.
    pub(super) fn forget(&mut self, until: Position, max: usize) -> Vec<QueueId> {
        let Self { names, tally, .. } = self;
        names.forget(until, max, |queue| tally.lives(queue))
    }

    /// Gives back the queue that this left empty.
    fn apply(&mut self, effect: Effect) -> Option<(QueueId, Arc<QueueKey>)> {
        match effect {
            Effect::Enter { row, key, class, size } => self.tally.enter(row, &key, class, size),
            Effect::EnterLeased { held, key } => {
                self.tally.enter_leased(held.row, &key, held.size);
                self.leases.insert(held);
            }
            Effect::Unlease { row, class } => self.tally.unlease(row, class),
            Effect::Ended { delivery } => self.leases.end(delivery),
            Effect::Landed { row, class } => {
                if !self.leases.contains(row.delivery) {
                    self.tally.landed(row, class);
                }
            }
            Effect::Shift { row, from, to } => self.tally.shift(row, from, to),
            Effect::HoldAll(hold) => self.tally.hold_all(hold),
            Effect::Leave { queue, class, size } => {
                return self.tally.leave(queue, class, size).map(|key| (queue, key));
            }
            Effect::LeaveLeased { queue, size } => {
                return self.tally.leave_leased(queue, size).map(|key| (queue, key));
            }
        }
        None
    }

    /// Leases a waiting delivery.
    pub(super) fn grant(
        &mut self,
        row: Row,
        until: Timestamp,
        lone: bool,
        place: Place,
    ) -> Delivery {
        let held = self.held(&row, until, lone, place);
        self.leases.insert(held);
        self.tally.lease(row.key.queue, held.class);
        row.delivery(held.fence)
    }

    /// A new lease, not in force yet.
    pub(super) fn held(&mut self, row: &Row, until: Timestamp, lone: bool, place: Place) -> Held {
        let fence = self.leases.next_fence();
        let (row, class, size) = (row.key, row.class(), row.size);
        Held { row, fence, until, class, size, lone, place, phase: Phase::Open }
    }
}
