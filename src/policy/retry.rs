//! When a deferred delivery is due again.

use crate::base::random::Rng;
use crate::base::time::Timestamp;
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

impl Schedule {
    /// When to try again after the `attempts`-th attempt (from 1) failed at `now`; never later than
    /// `expires_at`, so that giving up is not put off by a long wait.
    ///
    /// The jitter spreads what failed together, so that it does not come back together.
    pub fn next(
        &self,
        attempts: u32,
        now: Timestamp,
        expires_at: Timestamp,
        rng: &mut Rng,
    ) -> Timestamp {
        let index = usize::try_from(attempts).unwrap_or(usize::MAX).saturating_sub(1);
        let wait = self.waits.get(index).or(self.waits.last()).copied().unwrap_or(self.expire);
        let factor = 1.0 + self.jitter * (rng.f64() * 2.0 - 1.0);
        now.after(wait.mul_f64(factor)).min(expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::from_seed;
    use proptest::prelude::*;

    fn schedule() -> Schedule {
        Schedule {
            waits: [30, 120, 300].map(Duration::from_secs).to_vec(),
            jitter: 0.2,
            expire: Duration::from_secs(86_400),
            delay_notice: None,
        }
    }

    proptest! {
        #[test]
        fn waits_stay_within_the_jitter(seed: u64, attempts in 1u32..50) {
            let base = schedule().waits[(attempts as usize - 1).min(2)];
            let mut rng = from_seed(seed);
            let next = schedule().next(attempts, Timestamp(0), Timestamp(i64::MAX), &mut rng);
            let waited = next.since(Timestamp(0));
            let (least, most) = (base.mul_f64(0.79), base.mul_f64(1.21));
            prop_assert!(waited >= least && waited <= most, "{waited:?}");
        }

        #[test]
        fn the_last_try_is_not_put_off_past_the_end(seed: u64, end in 1i64..40_000) {
            let next = schedule().next(9, Timestamp(0), Timestamp(end), &mut from_seed(seed));
            prop_assert_eq!(next, Timestamp(end));
        }
    }
}
