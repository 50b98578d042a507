//! Numbers for scheduled queues.
//!
//! A queue gets its number when its first delivery arrives and keeps it while it has any. Queues
//! that became empty are remembered for a while, since most come back soon, then forgotten: a relay
//! that ran for years does not keep the names of all its past campaigns.
//!
//! # Invariants
//! * A number is given once: what still holds an old one can never mean another queue by it.

use super::{QueueId, QueueKey};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Empty queues that are remembered.
const IDLE_MAX: usize = 1_024;

/// Which queue has which number.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: HashMap<Arc<QueueKey>, QueueId>,
    /// Queues that became empty, the longest ago first; may have come back since.
    idle: VecDeque<(QueueId, Arc<QueueKey>)>,
    last: i64,
}

impl Names {
    /// The number of `key` and the one copy of its name; a new number where it has none.
    pub(super) fn intern(&mut self, key: &QueueKey) -> (QueueId, Arc<QueueKey>) {
        if let Some((key, id)) = self.ids.get_key_value(key) {
            return (*id, Arc::clone(key));
        }
        let key = Arc::new(key.clone());
        let id = QueueId(self.last + 1);
        self.insert(id, Arc::clone(&key));
        (id, key)
    }

    /// The number that `key` has.
    pub(super) fn id(&self, key: &QueueKey) -> Option<QueueId> {
        self.ids.get(key).copied()
    }

    /// A number known from before.
    pub(super) fn insert(&mut self, id: QueueId, key: Arc<QueueKey>) {
        self.last = self.last.max(id.0);
        self.ids.insert(key, id);
    }

    /// Notes that a queue has no deliveries now.
    pub(super) fn emptied(&mut self, id: QueueId, key: Arc<QueueKey>) {
        self.idle.push_back((id, key));
    }

    /// True where some empty queues could be forgotten.
    pub(super) fn has_idle(&self) -> bool {
        self.idle.len() > IDLE_MAX
    }

    /// Forgets queues that have been empty longest, while more than enough are remembered, at most
    /// `max`; those for which `lives` says so stay.
    pub(super) fn forget(
        &mut self,
        max: usize,
        lives: impl Fn(QueueId) -> bool,
    ) -> Vec<(QueueId, Arc<QueueKey>)> {
        let mut forgotten = Vec::new();
        while self.has_idle() && forgotten.len() < max {
            let Some((id, key)) = self.idle.pop_front() else { break };
            if !lives(id) && self.ids.get(&key) == Some(&id) {
                self.ids.remove(&key);
                forgotten.push((id, key));
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Domain;
    use crate::mail::message::Lane;

    fn key(n: usize) -> QueueKey {
        let domain = Domain::parse(&format!("d{n}.example")).unwrap();
        QueueKey { lane: Lane::Bulk, tenant: "t".into(), campaign: String::new(), domain }
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut names = Names::default();
        let (first, name) = names.intern(&key(0));
        assert_eq!(names.intern(&key(0)).0, first);
        for n in 1..=IDLE_MAX {
            let (id, name) = names.intern(&key(n));
            names.emptied(id, name);
        }
        names.emptied(first, name);
        while names.id(&key(0)).is_some() {
            let (id, name) = names.intern(&key(1));
            names.emptied(id, name);
            names.forget(1, |_| false);
        }
        assert!(names.intern(&key(0)).0 > first);
    }

    #[test]
    fn forgets_the_longest_empty_and_keeps_the_living() {
        let mut names = Names::default();
        for n in 0..IDLE_MAX + 3 {
            let (id, name) = names.intern(&key(n));
            names.emptied(id, name);
        }
        let gone = names.forget(10, |id| id == QueueId(1));
        assert_eq!(gone.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(names.intern(&key(0)).0, QueueId(1));
        assert_eq!((names.id(&key(1)), names.id(&key(2))), (None, None));
    }
}
