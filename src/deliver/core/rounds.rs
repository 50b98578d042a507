//! Looks, when it is time, at mail past its end and at state that nothing needs any more: each
//! queue when its oldest mail ends, each domain a while after its last use.

use super::{Alarm, Core};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How often it is looked whether something is due, and what is unused is forgotten after this.
const ROUND: Duration = Duration::from_secs(60);
/// Looks in one go, and the pause before the next: a login code may come in between.
const LOOKS: usize = 2_000;
const PAUSE: Duration = Duration::from_millis(20);

/// What is to be looked at, the next first.
#[derive(Default)]
pub(super) struct Rounds {
    /// When their oldest mail ends.
    queues: BTreeSet<(Timestamp, QueueId)>,
    /// Unused since a round before that time.
    domains: VecDeque<(Timestamp, Domain)>,
    sites_at: Timestamp,
}

impl Rounds {
    pub(super) fn add_queue(&mut self, queue: QueueId, at: Timestamp) {
        self.queues.insert((at, queue));
    }

    pub(super) fn drop_queue(&mut self, queue: QueueId, at: Timestamp) {
        self.queues.remove(&(at, queue));
    }

    pub(super) fn add_domain(&mut self, domain: Domain, now: Timestamp) {
        self.domains.push_back((now.after(ROUND), domain));
    }
}

impl Core {
    /// Looks at what is due for it.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let mut looks = 0..LOOKS;
        while self.rounds.queues.first().is_some_and(|(at, _)| *at <= now)
            && looks.next().is_some()
            && let Some((_, id)) = self.rounds.queues.pop_first()
        {
            self.sweep_queue(id, now);
        }
        while self.rounds.domains.front().is_some_and(|(at, _)| *at <= now)
            && looks.next().is_some()
            && let Some((_, domain)) = self.rounds.domains.pop_front()
        {
            self.sweep_domain(domain, now);
        }
        if self.rounds.sites_at <= now {
            self.rounds.sites_at = now.after(ROUND);
            self.sweep_sites(now);
        }
        let pause = if looks.is_empty() { PAUSE } else { ROUND };
        self.alarm(now.after(pause), Alarm::Sweep);
    }
}
