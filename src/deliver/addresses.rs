//! Connections per receiver address, across sites, in all and from each source; and addresses that
//! did not answer.
//!
//! Some receivers give every domain an MX name of its own on the same few hosts: a limit by name
//! alone would open over a thousand connections to two addresses.

use crate::base::time::Timestamp;
use crate::policy::site::Limits;
use crate::policy::site::route::Hop;
use crate::policy::source::SourceId;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An address that could not be connected to is tried last for so long.
const DEAD: Duration = Duration::from_secs(60);

/// With more addresses than these, old trouble is forgotten.
const REMEMBERED: usize = 10_000;

/// The addresses in use or in trouble.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<HashMap<IpAddr, Use>>);

#[derive(Debug, Default)]
struct Use {
    /// In the order of their sources.
    open: BTreeMap<SourceId, u32>,
    dead_until: Timestamp,
}

/// One connection's place at an address; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    addresses: Arc<Addresses>,
    address: IpAddr,
    source: SourceId,
}

impl Addresses {
    /// A place at `address` from this source, unless as many are taken as the limits allow.
    #[must_use]
    pub fn take(
        self: &Arc<Self>,
        address: IpAddr,
        source: SourceId,
        limits: &Limits,
    ) -> Option<Slot> {
        let mut all = self.lock();
        let used = all.entry(address).or_default();
        let from_here = used.open.get(&source).copied().unwrap_or(0);
        let in_all: u32 = used.open.values().sum();
        if in_all >= limits.connections || from_here >= limits.connections_per_source {
            return None;
        }
        used.open.insert(source, from_here + 1);
        Some(Slot { addresses: Arc::clone(self), address, source })
    }

    /// Notes whether the address could be connected to.
    pub fn answered(&self, address: IpAddr, ok: bool, now: Timestamp) {
        let mut all = self.lock();
        if let Some(used) = all.get_mut(&address) {
            used.dead_until = if ok { Timestamp(0) } else { now.after(DEAD) };
        }
        if all.len() > REMEMBERED {
            all.retain(|_, used| !used.open.is_empty() || used.dead_until > now);
        }
    }

    /// The same addresses, those that did not answer lately at the end.
    #[must_use]
    pub fn order(&self, hops: Vec<Hop>, now: Timestamp) -> Vec<Hop> {
        let all = self.lock();
        let is_dead = |hop: &Hop| all.get(&hop.address).is_some_and(|used| used.dead_until > now);
        let (dead, mut alive): (Vec<Hop>, Vec<Hop>) = hops.into_iter().partition(is_dead);
        alive.extend(dead);
        alive
    }

    /// Counters cannot be left half changed, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut all = self.addresses.lock();
        let Some(used) = all.get_mut(&self.address) else { return };
        if let Entry::Occupied(mut open) = used.open.entry(self.source) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        if used.open.is_empty() && used.dead_until == Timestamp(0) {
            all.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::site::sites;

    fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn limits(connections: u32, connections_per_source: u32) -> Limits {
        Limits { connections, connections_per_source, ..sites(1, &[]).default }
    }

    #[test]
    fn the_limits_hold_until_a_place_is_free_again() {
        let addresses = Arc::new(Addresses::default());
        let limits = limits(3, 2);
        let take = |address, source| addresses.take(ip(address), SourceId(source), &limits);
        let (first, _second) = (take(1, 0), take(1, 0));
        assert!(first.is_some() && take(1, 0).is_none(), "from one source");
        let _third = take(1, 1);
        assert!(_third.is_some() && take(1, 1).is_none(), "in all");
        assert!(take(2, 0).is_some());
        drop(first);
        assert!(take(1, 1).is_some());
    }

    #[test]
    fn the_dead_are_tried_last_until_they_answer() {
        let addresses = Arc::new(Addresses::default());
        let hops: Vec<Hop> = [1, 2].map(|n| Hop { host: format!("mx{n}"), address: ip(n) }).into();
        let first = |at| addresses.order(hops.clone(), Timestamp(at))[0].address;
        let slot = addresses.take(ip(1), SourceId(0), &limits(1, 1));
        addresses.answered(ip(1), false, Timestamp(0));
        assert_eq!(first(59_000), ip(2));
        assert_eq!(first(60_000), ip(1));
        addresses.answered(ip(1), false, Timestamp(60_000));
        addresses.answered(ip(1), true, Timestamp(60_000));
        assert_eq!(first(60_000), ip(1));
        drop(slot);
        assert_eq!(addresses.lock().len(), 0, "nothing is kept of the sound");
    }
}
