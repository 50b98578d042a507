//! How long a client may take: as long as the limits say, and less while nearly all places are
//! taken, so that who does not use his leaves it to another.

use crate::config::ReceiveLimits;
use std::time::Duration;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// In a crowd, who is silent or deaf for so long loses his place.
const CROWDED: Duration = Duration::from_secs(10);
/// The same, within a message.
const CROWDED_BLOCK: Duration = Duration::from_secs(30);
/// In a crowd, a message that has come for so long must come at this pace, in bytes a second.
const CROWDED_PACE: u64 = 1 << 10;

/// With one client at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    command: Duration,
    block: Duration,
    message: Duration,
    is_crowded: bool,
}

impl Patience {
    pub(super) fn new(limits: &ReceiveLimits, is_crowded: bool) -> Self {
        Self {
            command: limits.command_timeout,
            block: limits.data_timeout,
            message: limits.message_timeout,
            is_crowded,
        }
    }

    fn least(self, usual: Duration, crowded: Duration) -> Duration {
        if self.is_crowded { usual.min(crowded) } else { usual }
    }

    pub(super) fn with_handshake(self) -> Duration {
        self.least(HANDSHAKE, CROWDED)
    }

    /// Until a command is there, or the replies to some are taken.
    pub(super) fn with_command(self) -> Duration {
        self.least(self.command, CROWDED)
    }

    /// Until the next bytes of a message.
    pub(super) fn with_block(self) -> Duration {
        self.least(self.block, CROWDED_BLOCK)
    }

    /// From the first byte of a message to its last, where so many have come.
    pub(super) fn with_message(self, come: u64) -> Duration {
        let at_pace = Duration::from_secs(come / CROWDED_PACE);
        self.least(self.message, CROWDED_BLOCK + at_pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_makes_it_short_but_leaves_a_slow_line_its_time() {
        let second = Duration::from_secs(1);
        let limits = ReceiveLimits {
            command_timeout: 300 * second,
            data_timeout: 180 * second,
            message_timeout: 3_600 * second,
            ..ReceiveLimits::default()
        };
        let of = |is_crowded| Patience::new(&limits, is_crowded);
        let all = |p: Patience| [p.with_handshake(), p.with_command(), p.with_block()];
        assert_eq!(all(of(false)), [30 * second, 300 * second, 180 * second]);
        assert_eq!(all(of(true)), [10 * second, 10 * second, 30 * second]);
        assert_eq!(of(false).with_message(0), 3_600 * second);
        // A byte now and then gains nothing.
        assert_eq!(of(true).with_message(40), 30 * second);
        assert_eq!(of(true).with_message(1_000 << 10), 1_030 * second);
        assert_eq!(of(true).with_message(1 << 30), 3_600 * second);
    }

    #[test]
    fn a_crowd_never_makes_it_longer() {
        let limits = ReceiveLimits::default();
        let crowded = Patience::new(&limits, true);
        assert!(crowded.with_command().is_zero() && crowded.with_message(1 << 40).is_zero());
    }
}
