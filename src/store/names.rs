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
    /// No names; numbers go on after those of `earlier`.
    pub(super) fn after(earlier: &Self) -> Self {
        Self { last: earlier.last, ..Self::default() }
    }

    /// The number of `key` and the one copy of its name; a new number where it has none (then
    /// `true`).
    pub(super) fn intern(&mut self, key: &QueueKey) -> (QueueId, Arc<QueueKey>, bool) {
        if let Some((key, id)) = self.ids.get_key_value(key) {
            return (*id, Arc::clone(key), false);
        }
        let key = Arc::new(key.clone());
        let id = QueueId(self.last + 1);
        self.insert(id, Arc::clone(&key));
        (id, key, true)
    }

    /// A number known from before.
    pub(super) fn insert(&mut self, id: QueueId, key: Arc<QueueKey>) {
        self.last = self.last.max(id.0);
        self.ids.insert(key, id);
    }

    /// Takes back a number that came to nothing; it is not given again.
    pub(super) fn remove(&mut self, key: &QueueKey) {
        self.ids.remove(key);
    }

    /// Notes that a queue has no deliveries now.
    pub(super) fn emptied(&mut self, id: QueueId, key: Arc<QueueKey>) {
        self.idle.push_back((id, key));
    }

    /// Forgets queues that have been empty longest, while more than enough are remembered, at most
    /// `max`; those for which `lives` says so stay.
    pub(super) fn forget(
        &mut self,
        max: usize,
        lives: impl Fn(QueueId) -> bool,
    ) -> Vec<(QueueId, Arc<QueueKey>)> {
        let mut forgotten = Vec::new();
        while self.idle.len() > IDLE_MAX && forgotten.len() < max {
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
        let (first, name, new) = names.intern(&key(0));
        assert!(new);
        assert_eq!(names.intern(&key(0)).0, first);
        names.remove(&name);
        let (second, _, new) = names.intern(&key(0));
        assert!(new && second > first);
    }

    #[test]
    fn forgets_the_longest_empty_and_keeps_the_living() {
        let mut names = Names::default();
        for n in 0..IDLE_MAX + 3 {
            let (id, name, _) = names.intern(&key(n));
            names.emptied(id, name);
        }
        let gone = names.forget(10, |id| id == QueueId(1));
        assert_eq!(gone.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(names.intern(&key(0)).0, QueueId(1));
        assert!(names.intern(&key(1)).2);
    }
}
