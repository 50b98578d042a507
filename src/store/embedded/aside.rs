//! Messages that are born leased, kept out of the index until its next commit: most are settled by
//! then, and cost it nothing.

use super::index::{Arrival, Index};
use crate::base::id::MessageId;
use crate::store::QueueId;
use crate::store::shared::Shared;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// They have one delivery each.
#[derive(Debug, Default)]
pub(super) struct Aside(HashMap<MessageId, Arc<Arrival>>);

impl Aside {
    /// Keeps a message here. False, and it is not, where it has several deliveries or its lease is
    /// over already.
    pub(super) fn keep(&mut self, arrival: &Arc<Arrival>, shared: &Shared) -> bool {
        let [(row, _)] = arrival.rows.as_slice() else { return false };
        let leased = shared.lock().leases.contains(row.key.delivery);
        if leased {
            self.0.insert(arrival.head.id, Arc::clone(arrival));
        }
        leased
    }

    /// Takes a message out that is settled.
    pub(super) fn take(&mut self, message: MessageId) -> Option<Arc<Arrival>> {
        self.0.remove(&message)
    }

    /// Puts those in these queues into the index.
    pub(super) fn settle_down(
        &mut self,
        queues: impl Iterator<Item = QueueId>,
        index: &mut Index,
    ) -> rusqlite::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let queues: HashSet<QueueId> = queues.collect();
        let wanted =
            |arrival: &Arrival| arrival.rows.iter().any(|(row, _)| queues.contains(&row.key.queue));
        self.down_where(wanted, index)
    }

    /// Puts all into the index.
    pub(super) fn all_down(&mut self, index: &mut Index) -> rusqlite::Result<()> {
        self.down_where(|_| true, index)
    }

    fn down_where(
        &mut self,
        wanted: impl Fn(&Arrival) -> bool,
        index: &mut Index,
    ) -> rusqlite::Result<()> {
        for (_, arrival) in self.0.extract_if(|_, arrival| wanted(arrival)) {
            index.begin()?;
            index.insert(&arrival)?;
        }
        Ok(())
    }
}
