//! How many messages of each name went to a site in the last minute: what a complaint about one of
//! them halves.

use crate::base::time::Timestamp;
use std::collections::HashMap;

/// Names counted in a minute; of more, the others count as if they had sent nothing.
const NAMES_MAX: usize = 10_000;
const MINUTE_MS: i64 = 60_000;

/// From two counting minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    minute: i64,
    now: HashMap<String, u64>,
    before: HashMap<String, u64>,
}

impl Counts {
    fn turn(&mut self, now: Timestamp) {
        let minute = now.0.div_euclid(MINUTE_MS);
        if minute == self.minute {
            return;
        }
        let last = std::mem::take(&mut self.now);
        self.before = if minute == self.minute + 1 { last } else { HashMap::new() };
        self.minute = minute;
    }

    /// One more of this name.
    pub(super) fn add(&mut self, name: &str, now: Timestamp) {
        self.turn(now);
        if let Some(count) = self.now.get_mut(name) {
            *count += 1;
        } else if self.now.len() < NAMES_MAX {
            self.now.insert(name.to_string(), 1);
        }
    }

    /// In the minute until now.
    pub(super) fn per_minute(&mut self, name: &str, now: Timestamp) -> u64 {
        self.turn(now);
        let of = |counts: &HashMap<String, u64>| counts.get(name).copied().unwrap_or(0);
        let left = u64::try_from(MINUTE_MS - now.0.rem_euclid(MINUTE_MS)).unwrap_or(0);
        of(&self.now) + of(&self.before) * left / MINUTE_MS.unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_minute_counts_and_names_are_bounded() {
        let mut counts = Counts::default();
        let start = Timestamp(1_000 * MINUTE_MS);
        let at = |seconds| start.after(Duration::from_secs(seconds));
        for second in 0..90 {
            counts.add("a", at(second));
            counts.add("a", at(second));
        }
        assert_eq!((counts.per_minute("a", at(90)), counts.per_minute("b", at(90))), (120, 0));
        assert_eq!(counts.per_minute("a", at(150)), 30, "half of the minute before");
        assert_eq!(counts.per_minute("a", at(240)), 0);
        for n in 0..=NAMES_MAX {
            counts.add(&n.to_string(), at(240));
        }
        assert_eq!(counts.now.len(), NAMES_MAX);
    }
}
