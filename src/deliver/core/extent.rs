//! How much the core remembers: what tests hold against the work that there is.

use super::Core;

/// Entries of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Scheduled queues.
    pub queues: usize,
    /// Domains, with what DNS said of them.
    pub domains: usize,
    /// Sites.
    pub sites: usize,
    /// Connections.
    pub links: usize,
    /// Times at which something is to be looked at.
    pub alarms: usize,
}

impl Core {
    /// How much is remembered now.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent {
            queues: self.queues.len(),
            domains: self.domains.len(),
            sites: self.sites.len(),
            links: self.links.len(),
            alarms: self.alarms.len() + self.looks.len(),
        }
    }
}
