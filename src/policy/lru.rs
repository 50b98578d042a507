//! Something known of each name, for a bounded number of names: of more, the tenth that was used
//! longest ago is forgotten.

use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// At most so many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lru<T, const MOST: usize>(HashMap<String, Used<T>>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Used<T> {
    at: Timestamp,
    what: T,
}

impl<T, const MOST: usize> Default for Lru<T, MOST> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Default, const MOST: usize> Lru<T, MOST> {
    /// What is known of a name that is used now; new where nothing is.
    pub(super) fn used(&mut self, name: &str, now: Timestamp) -> &mut T {
        if self.0.len() >= MOST && !self.0.contains_key(name) {
            self.forget_some();
        }
        let used = self.0.entry(name.to_string()).or_default();
        used.at = now;
        &mut used.what
    }
}

impl<T, const MOST: usize> Lru<T, MOST> {
    /// A tenth at once, so that a name is not searched for among all each time.
    fn forget_some(&mut self) {
        let mut times: Vec<Timestamp> = self.0.values().map(|used| used.at).collect();
        let tenth = times.len() / 10;
        if tenth < times.len() {
            let (_, last, _) = times.select_nth_unstable(tenth);
            self.0.retain(|_, used| used.at > *last);
        }
    }

    /// What is known of a name.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name).map(|used| &used.what)
    }

    /// The same, to be changed; it does not count as used.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        self.0.get_mut(name).map(|used| &mut used.what)
    }

    /// What is known of all.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut().map(|used| &mut used.what)
    }

    /// A part of it: of each name what this gives, and when it was used.
    pub(super) fn picked(&self, pick: impl Fn(&T) -> Option<T>) -> Self {
        let pick = |(name, used): (&String, &Used<T>)| {
            Some((name.clone(), Used { at: used.at, what: pick(&used.what)? }))
        };
        Self(self.0.iter().filter_map(pick).collect())
    }

    /// How many names.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_used_longest_ago_go() {
        let mut lru: Lru<u32, 3> = Lru::default();
        for (name, at) in [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("d", 5)] {
            *lru.used(name, Timestamp(at)) += 1;
        }
        let known = ["a", "b", "c", "d"].map(|name| lru.get(name).copied());
        assert_eq!((known, lru.len()), ([Some(2), None, Some(1), Some(1)], 3));

        let mut lru: Lru<u32, 100> = Lru::default();
        (0..=100).for_each(|n| _ = lru.used(&n.to_string(), Timestamp(n)));
        let known = ["10", "11", "100"].map(|name| lru.get(name).is_some());
        assert_eq!((known, lru.len()), ([false, true, true], 90));
    }
}
