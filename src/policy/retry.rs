//! When a deferred delivery is due again.

use std::time::Duration;

/// Waits between attempts of one lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Wait after the first, second, … attempt; the last one goes on for ever. At least one.
    pub waits: Vec<Duration>,
    /// Each wait is drawn from ± this share of it, 0.0 to 0.5.
    pub jitter: f64,
    /// What is not delivered after this is given up.
    pub expire: Duration,
    /// After this, a sender who asked for it (NOTIFY=DELAY) is told of the delay; `None`: never.
    pub delay_notice: Option<Duration>,
}
