//! Looks everything over once a minute, a slice at a time: mail past its time, and state that
//! nothing needs any more. With a million queues, all at once would take longer than a login code
//! may wait.

use super::{Alarm, Core};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// How often each is looked at.
const ROUND: Duration = Duration::from_secs(60);
/// Slices in a round, where there is more than one slice of work.
const SLICES: u32 = 60;
/// The least work that is cut.
const SLICE_MIN: usize = 1_000;

/// Everything in the order of its next look.
#[derive(Default)]
pub(super) struct Rounds {
    queues: VecDeque<QueueId>,
    domains: VecDeque<Domain>,
    sites_at: Timestamp,
}

impl Rounds {
    pub(super) fn add_queue(&mut self, queue: QueueId) {
        self.queues.push_back(queue);
    }

    pub(super) fn add_domain(&mut self, domain: Domain) {
        self.domains.push_back(domain);
    }
}

impl Core {
    /// Looks at what has waited longest for a look.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let all = self.rounds.queues.len().max(self.rounds.domains.len());
        let slices = if all > SLICE_MIN { SLICES } else { 1 };
        self.alarm(now.after(ROUND / slices), Alarm::Sweep);
        for _ in 0..self.rounds.queues.len().div_ceil(slices as usize) {
            let Some(id) = self.rounds.queues.pop_front() else { break };
            if self.queues.contains_key(&id) {
                self.rounds.queues.push_back(id);
                self.sweep_queue(id, now);
            }
        }
        for _ in 0..self.rounds.domains.len().div_ceil(slices as usize) {
            let Some(domain) = self.rounds.domains.pop_front() else { break };
            if !self.forget_domain(&domain, now) {
                self.rounds.domains.push_back(domain);
            }
        }
        if self.rounds.sites_at <= now {
            self.rounds.sites_at = now.after(ROUND);
            self.sweep_sites(now);
        }
    }
}
