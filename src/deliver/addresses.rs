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
    /// Connections from each source, also those that are being opened.
    open: BTreeMap<SourceId, u32>,
    /// Of these, those that stand.
    stand: u32,
    dead_until: Timestamp,
}

/// One connection's place at an address; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    addresses: Arc<Addresses>,
    address: IpAddr,
    source: SourceId,
    stands: bool,
}

impl Slot {
    /// Notes whether the address could be connected to. One that has connections is not dead: it
    /// takes no more just now.
    pub fn answered(&mut self, ok: bool, now: Timestamp) {
        let mut all = self.addresses.lock();
        if let Some(used) = all.get_mut(&self.address) {
            used.stand += u32::from(ok && !self.stands);
            let is_dead = !ok && used.stand == 0;
            used.dead_until = if is_dead { now.after(DEAD) } else { Timestamp(0) };
        }
        if all.len() > REMEMBERED {
            all.retain(|_, used| !used.open.is_empty() || used.dead_until > now);
        }
        self.stands |= ok;
    }
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
        Some(Slot { addresses: Arc::clone(self), address, source, stands: false })
    }

    /// The same addresses, those that did not answer lately at the end; among equals, the one with
    /// the fewest connections first: where each takes so many, that is the one that takes one more.
    #[must_use]
    pub fn order(&self, mut hops: Vec<Hop>, now: Timestamp) -> Vec<Hop> {
        let all = self.lock();
        hops.sort_by_cached_key(|hop| {
            let used = all.get(&hop.address);
            let is_dead = used.is_some_and(|used| used.dead_until > now);
            (is_dead, hop.preference, used.map_or(0, |used| used.open.values().sum::<u32>()))
        });
        hops
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
        used.stand = used.stand.saturating_sub(u32::from(self.stands));
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

    fn hops(all: &[(u8, u16)]) -> Vec<Hop> {
        let hop = |(n, preference): &(u8, u16)| Hop {
            host: format!("mx{n}"),
            preference: *preference,
            address: ip(*n),
        };
        all.iter().map(hop).collect()
    }

    #[test]
    fn equals_have_as_many_connections_and_others_are_tried_after_them() {
        let addresses = Arc::new(Addresses::default());
        let mut slots = Vec::new();
        for _ in 0..6 {
            let hops = addresses.order(hops(&[(1, 20), (2, 10), (3, 10), (4, 10)]), Timestamp(0));
            assert_eq!(hops[3].address, ip(1));
            slots.push(addresses.take(hops[0].address, SourceId(0), &limits(9, 9)).unwrap());
        }
        let each = |n| slots.iter().filter(|slot| slot.address == ip(n)).count();
        assert_eq!([1, 2, 3, 4].map(each), [0, 2, 2, 2]);
    }

    #[test]
    fn the_dead_are_tried_last_until_they_answer() {
        let addresses = Arc::new(Addresses::default());
        let hops = hops(&[(1, 10), (2, 10)]);
        let first = |at| addresses.order(hops.clone(), Timestamp(at))[0].address;
        let take = || addresses.take(ip(1), SourceId(0), &limits(9, 9)).unwrap();
        let refused = |at| take().answered(false, Timestamp(at));
        refused(0);
        assert_eq!(first(59_000), ip(2));
        assert_eq!(first(60_000), ip(1));
        refused(60_000);
        let place = |n| addresses.take(ip(n), SourceId(0), &limits(9, 9)).unwrap();
        let mut slots = [1, 2, 2].map(place);
        slots.iter_mut().for_each(|slot| slot.answered(true, Timestamp(60_000)));
        assert_eq!(first(60_000), ip(1));
        refused(60_000);
        assert_eq!(first(60_000), ip(1), "it has a connection, and the fewest");
        drop(slots);
        assert_eq!(addresses.lock().len(), 0, "nothing is kept of the sound");
    }
}
