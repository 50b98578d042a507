//! A set that gives its members back in the order they came: work is done in turn, and the same
//! seed leads to the same run.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// Each member once.
pub(super) struct InOrder<T> {
    order: VecDeque<T>,
    members: HashSet<T>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), members: HashSet::new() }
    }
}

impl<T: Copy + Eq + Hash> InOrder<T> {
    /// Comes last, unless it is there already.
    pub(super) fn insert(&mut self, member: T) {
        if self.members.insert(member) {
            self.order.push_back(member);
        }
    }

    /// The one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<T> {
        let first = self.order.pop_front()?;
        self.members.remove(&first);
        Some(first)
    }

    pub(super) fn extend(&mut self, members: impl IntoIterator<Item = T>) {
        members.into_iter().for_each(|member| self.insert(member));
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}
