//! What a site has taught us: how many connections it welcomes, how fast, and how much over one.
//!
//! Learned from replies and refusals, within the floor and the ceiling that the configuration
//! gives; kept over a restart.

pub mod brake;
mod counts;
pub mod learned;
pub mod scoped;
pub mod window;

use self::brake::Brake;
use self::window::Window;
use crate::base::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Connections that hear the same complaint within this time tell of one thing.
const ONE_COMPLAINT: Duration = Duration::from_secs(10);
/// A site that ends connections after so many deliveries is believed for so long.
const BELIEVED: Duration = Duration::from_secs(86_400);

/// What a receiver asks for by a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Half as much, held for so long; then bit by bit more.
    Slower(Duration),
    /// Half as many connections, and no more for so long.
    Fewer(Duration),
    /// Nothing for so long.
    Stop(Duration),
}

/// Whose mail to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All.
    Everyones,
    /// A tenant's.
    Tenants(String),
    /// That from a domain, lower case.
    Senders(String),
    /// That sent from one of our sources.
    Sources(String),
}

/// A reply that asks for something, as a rule understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What for.
    pub ask: Ask,
    /// Whose mail it is about.
    pub whose: Whose,
    /// The reply, for people.
    pub why: String,
}

/// True where a complaint at `now` says what one at `before` said.
fn is_same_complaint(before: Timestamp, now: Timestamp) -> bool {
    before <= now && now.since(before) < ONE_COMPLAINT
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    /// Connections.
    pub window: Window,
    /// Rate; `None` where no complaint came.
    pub brake: Option<Brake>,
    /// Deliveries over one connection.
    pub spent: Spent,
}

impl Feedback {
    /// True where there is nothing in it that a site seen for the first time would not have.
    #[must_use]
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        self.window.curve().next().is_none()
            && self.brake.as_ref().is_none_or(|brake| brake.per_hour(now).is_none())
            && self.spent.most(now).is_none()
    }
}

/// How many deliveries a site takes over one connection, where it ends connections by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The last connection that it ended had had so many.
    last: Option<u32>,
    most: Option<u32>,
    until: Timestamp,
}

impl Spent {
    /// The site ended a connection after so many deliveries, between two messages. Two in a row
    /// that agree are no accident.
    pub fn ended_after(&mut self, deliveries: u32, now: Timestamp) {
        if deliveries > 0 && self.last == Some(deliveries) {
            (self.most, self.until) = (Some(deliveries), now.after(BELIEVED));
        }
        self.last = Some(deliveries);
    }

    /// Deliveries over one connection, where it is known to end them.
    #[must_use]
    pub fn most(&self, now: Timestamp) -> Option<u32> {
        self.most.filter(|_| now < self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_connections_that_end_alike_teach_a_limit() {
        let mut spent = Spent::default();
        let now = Timestamp(1_000);
        for n in [20, 7, 20, 1] {
            spent.ended_after(n, now);
            assert_eq!(spent.most(now), None);
        }
        spent.ended_after(20, now);
        spent.ended_after(20, now);
        assert_eq!(spent.most(now), Some(20));
        assert_eq!(spent.most(now.after(BELIEVED)), None);
    }

    #[test]
    fn what_was_learned_survives_as_text() {
        let mut feedback = Feedback::default();
        let now = Timestamp(1_000_000);
        assert!(feedback.is_forgettable(now));
        feedback.window.refused(7, now);
        feedback.brake = Some(Brake::after(None, 100, 1, Duration::from_secs(60), now));
        assert!(!feedback.is_forgettable(now));
        let text = serde_json::to_string(&feedback).unwrap();
        assert_eq!(serde_json::from_str::<Feedback>(&text).unwrap(), feedback);
    }
}
