//! What one transaction is made of.
//!
//! # Invariants
//! * Nothing of a job is to be seen in leases or backlog before its commit, but for leases that end
//!   with it: those are taken away when the job runs, so that no second job of the batch can use
//!   them, and put back if the commit fails.

use crate::base::id::MessageId;
use crate::store::leases::Held;
use crate::store::shared::{Effect, Shared};
use crate::store::{Lease, QueueId, QueueKey, StoreError};
use rusqlite::{Connection, Result, params};
use std::sync::Arc;

/// Empty queues removed in one transaction.
const FORGET_MAX: usize = 64;

/// A request that changes the database.
pub(super) trait Write: Send {
    /// Where it stands in its transaction.
    fn kind(&self) -> Kind;

    /// Bytes it adds to the transaction, about.
    fn weight(&self) -> usize {
        0
    }

    /// Does its part of the transaction; may be called again after a roll-back. A request that is
    /// wrong in itself notes that and gives `Ok`, having written nothing.
    ///
    /// # Errors
    /// Of the database: the whole transaction fails.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()>;

    /// Tells whoever asked. `Ok` where the transaction is durable and its effects are in force.
    fn finish(self: Box<Self>, committed: std::result::Result<(), StoreError>, shared: &Shared);
}

/// Kinds of jobs, in the order in which they run within one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An operator's: before new mail, so that it never meets deliveries that are born leased
    /// beside it.
    Change,
    /// An outcome.
    Settle,
    /// New mail; the only kind that goes when space is short.
    Accept,
}

/// An open transaction and what it will bring about.
pub(super) struct Tx<'a> {
    pub(super) db: &'a Connection,
    pub(super) shared: &'a Shared,
    /// For after the commit.
    pub(super) effects: Vec<Effect>,
    /// Leases that end with the commit.
    pub(super) taken: Vec<Held>,
    /// Queues that are new with it.
    pub(super) interned: Vec<Arc<QueueKey>>,
    /// Queues that go with it.
    pub(super) forgotten: Vec<(QueueId, Arc<QueueKey>)>,
    /// Greatest id that it brings.
    pub(super) last_id: Option<MessageId>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(db: &'a Connection, shared: &'a Shared) -> Self {
        Self {
            db,
            shared,
            effects: Vec::new(),
            taken: Vec::new(),
            interned: Vec::new(),
            forgotten: Vec::new(),
            last_id: None,
        }
    }

    /// Removes some queues that have long been empty. Before all jobs, which may bring them back.
    pub(super) fn forget_queues(&mut self) -> Result<()> {
        self.forgotten = self.shared.lock().forget(FORGET_MAX);
        for (queue, _) in &self.forgotten {
            self.db.prepare_cached("DELETE FROM queues WHERE id = ?1")?.execute([queue.0])?;
        }
        Ok(())
    }

    /// The number of a scheduled queue, with a row of its own if it is new.
    pub(super) fn intern(&mut self, key: &QueueKey) -> Result<(QueueId, Arc<QueueKey>)> {
        let (id, key, new) = self.shared.lock().names.intern(key);
        if new {
            self.interned.push(Arc::clone(&key));
            self.db.prepare_cached("INSERT INTO queues VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                params![id.0, key.lane.as_str(), key.tenant, key.campaign, key.domain.as_str()],
            )?;
        }
        Ok((id, key))
    }

    /// Ends a lease; `None` where it is stale.
    pub(super) fn take(&mut self, lease: &Lease) -> Option<Held> {
        let held = self.shared.lock().leases.take(lease)?;
        self.taken.push(held);
        Some(held)
    }

    /// Takes back what was done in memory, after a roll-back.
    pub(super) fn undo(self) {
        let mut live = self.shared.lock();
        for held in self.taken {
            live.leases.insert(held);
        }
        for key in self.interned {
            live.names.remove(&key);
        }
        for (queue, key) in self.forgotten {
            live.names.insert(queue, Arc::clone(&key));
            live.names.emptied(queue, key);
        }
    }
}
