//! Numbers for scheduled queues.
//!
//! A queue gets its number when its first delivery arrives and keeps it while it has any. Queues
//! that became empty are remembered for a while, since most come back soon, then forgotten: a relay
//! that ran for years does not keep the names of all its past campaigns.
//!
//! # Invariants
//! * A number is given once: what still holds an old one can never mean another queue by it.

use super::journal::Position;
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
    idle: VecDeque<Idle>,
    /// When each of these last did.
    emptied: HashMap<QueueId, Position>,
    last: i64,
}

#[derive(Debug)]
struct Idle {
    id: QueueId,
    key: Arc<QueueKey>,
    /// Where the journal was then.
    at: Position,
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

    /// Notes that a queue has no deliveries now, by records up to `at`.
    pub(super) fn emptied(&mut self, id: QueueId, key: Arc<QueueKey>, at: Position) {
        self.emptied.insert(id, at);
        self.idle.push_back(Idle { id, key, at });
    }

    /// True where some empty queues could be forgotten.
    pub(super) fn has_idle(&self) -> bool {
        self.idle.len() > IDLE_MAX
    }

    /// Forgets queues that have been empty longest, while more than enough are remembered, at most
    /// `max`; those for which `lives` says so stay, and those that were emptied by records after
    /// `until`: their rows are still to change.
    pub(super) fn forget(
        &mut self,
        until: Position,
        max: usize,
        lives: impl Fn(QueueId) -> bool,
    ) -> Vec<QueueId> {
        let mut forgotten = Vec::new();
        while self.has_idle() && forgotten.len() < max {
            let Some(Idle { id, key, at }) = self.idle.pop_front_if(|idle| idle.at <= until) else {
                break;
            };
            // One that came back and was emptied again is noted again.
            if self.emptied.get(&id) != Some(&at) {
                continue;
            }
            self.emptied.remove(&id);
            if !lives(id) && self.ids.get(&key) == Some(&id) {
                self.ids.remove(&key);
                forgotten.push(id);
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

    const UNTIL: Position = Position { segment: 1, offset: 80 };

    #[test]
    fn a_number_is_never_given_twice() {
        let mut names = Names::default();
        let (first, name) = names.intern(&key(0));
        names.emptied(first, name, UNTIL);
        for n in 1..=IDLE_MAX {
            let (id, name) = names.intern(&key(n));
            names.emptied(id, name, UNTIL);
        }
        names.forget(UNTIL, 1, |_| false);
        assert_eq!(names.id(&key(0)), None);
        assert!(names.intern(&key(0)).0 > first);
    }

    #[test]
    fn forgets_the_longest_empty_and_keeps_the_living() {
        let mut names = Names::default();
        for n in 0..IDLE_MAX + 3 {
            let (id, name) = names.intern(&key(n));
            names.emptied(id, name, UNTIL);
        }
        let gone = names.forget(UNTIL, 10, |id| id == QueueId(1));
        assert_eq!(gone, [QueueId(2), QueueId(3)]);
        assert_eq!(names.intern(&key(0)).0, QueueId(1));
        assert_eq!((names.id(&key(1)), names.id(&key(2))), (None, None));
    }

    #[test]
    fn what_was_emptied_again_or_later_is_remembered() {
        let mut names = Names::default();
        let later = Position { segment: 1, offset: 88 };
        let (again, name) = names.intern(&key(0));
        names.emptied(again, Arc::clone(&name), UNTIL);
        names.emptied(again, name, later);
        for n in 1..IDLE_MAX + 9 {
            let (id, name) = names.intern(&key(n));
            names.emptied(id, name, if n < 3 { UNTIL } else { later });
        }
        let gone = names.forget(UNTIL, 10, |_| false);
        assert_eq!(gone, [], "rows of the next are still to change");
        assert_eq!(names.id(&key(0)), Some(again));
        assert!(names.forget(later, 3, |_| false).contains(&again));
    }
}
