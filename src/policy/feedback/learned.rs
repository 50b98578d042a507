//! What was learned of sites that are not in use just now, and of all of them over a restart.

use super::Feedback;
use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// Sites remembered; of more, those that were used longest ago are forgotten.
const SITES_MAX: usize = 10_000;
/// What a receiver welcomed so long ago says nothing about today.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);

/// By the site's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned(HashMap<String, Memory>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    feedback: Feedback,
    /// When it was in use.
    used_ms: Timestamp,
}

impl Learned {
    /// Remembers a site that is used now, unless there is nothing to remember.
    pub fn keep(&mut self, site: &str, feedback: &Feedback, now: Timestamp) {
        if feedback.is_forgettable(now) {
            self.0.remove(site);
        } else {
            let feedback = feedback.clone();
            self.0.insert(site.to_string(), Memory { feedback, used_ms: now });
        }
    }

    /// What is remembered of a site that comes into use; forgotten here.
    pub fn take(&mut self, site: &str) -> Feedback {
        self.0.remove(site).map(|memory| memory.feedback).unwrap_or_default()
    }

    /// True where the same is known of the same sites, whenever they were used.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let same = |(site, memory): (&String, &Memory)| {
            other.0.get(site).is_some_and(|other| other.feedback == memory.feedback)
        };
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }

    /// Forgets what is old, and what is too much.
    pub fn sweep(&mut self, now: Timestamp) {
        self.0.retain(|_, memory| now.since(memory.used_ms) < REMEMBERED);
        if self.0.len() > SITES_MAX {
            let mut used: Vec<Timestamp> = self.0.values().map(|memory| memory.used_ms).collect();
            used.sort_unstable();
            let oldest = used.get(used.len() - SITES_MAX).copied().unwrap_or(now);
            self.0.retain(|_, memory| memory.used_ms >= oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_394_728_000);

    fn taught() -> Feedback {
        let mut feedback = Feedback::default();
        feedback.window.refused(7, NOW);
        feedback
    }

    #[test]
    fn it_is_remembered_for_days_and_taken_once() {
        let mut learned = Learned::default();
        learned.keep("a", &taught(), NOW);
        learned.keep("b", &Feedback::default(), NOW);
        let text = serde_json::to_string(&learned).unwrap();
        let mut learned: Learned = serde_json::from_str(&text).unwrap();
        assert_eq!(learned.0.len(), 1, "nothing is known of b");
        learned.sweep(NOW.after(REMEMBERED / 2));
        assert_eq!((learned.take("a"), learned.take("a")), (taught(), Feedback::default()));
        learned.keep("a", &taught(), NOW);
        learned.sweep(NOW.after(REMEMBERED));
        assert_eq!(learned.take("a"), Feedback::default());
    }

    #[test]
    fn of_too_many_the_oldest_are_forgotten() {
        let mut learned = Learned::default();
        for n in 0..SITES_MAX + 500 {
            let used = NOW.after(Duration::from_millis(n as u64));
            learned.keep(&n.to_string(), &taught(), used);
        }
        learned.sweep(NOW);
        assert_eq!(learned.0.len(), SITES_MAX);
        assert_eq!((learned.take("499"), learned.take("500")), (Feedback::default(), taught()));
    }
}
