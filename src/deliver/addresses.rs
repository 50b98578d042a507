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

/// An address that could not be connected to is tried last for so long; so is one that refused one
/// more, while as many stand.
const TRIED_LAST: Duration = Duration::from_secs(60);

/// With more addresses than these, old trouble is forgotten.
const REMEMBERED: usize = 10_000;

/// The addresses in use or in trouble.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<HashMap<IpAddr, Use>>);

#[derive(Debug, Default)]
struct Use {
    from: BTreeMap<SourceId, Count>,
    dead_until: Timestamp,
}

/// Connections to an address from one source.
#[derive(Debug, Default)]
struct Count {
    /// Also those that are being opened.
    open: u32,
    /// Of these, those that stand.
    stand: u32,
    /// While so many stood one was refused, which is believed until then.
    full: u32,
    full_until: Timestamp,
    refused_at: Timestamp,
}

impl Use {
    fn open(&self) -> u32 {
        self.from.values().map(|count| count.open).sum()
    }

    fn open_from(&self, source: SourceId) -> u32 {
        self.from.get(&source).map_or(0, |count| count.open)
    }

    fn is_full(&self, source: SourceId, now: Timestamp) -> bool {
        let is_full = |count: &Count| count.full_until > now && count.open >= count.full;
        self.from.get(&source).is_some_and(is_full)
    }

    fn has_refused(&self, source: SourceId, since: Timestamp) -> bool {
        self.from.get(&source).is_some_and(|count| count.refused_at > since)
    }

    /// The least is the best.
    fn order(&self, preference: u16, source: SourceId, now: Timestamp) -> (bool, bool, u16, u32) {
        (self.dead_until > now, self.is_full(source, now), preference, self.open())
    }
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
            let count = used.from.entry(self.source).or_default();
            count.stand += u32::from(ok && !self.stands);
            if ok && count.stand > count.full {
                count.full_until = Timestamp(0);
            } else if !ok && count.stand > 0 {
                count.refused_at = now;
                // Of fewer it may still count others, that are being opened or have just ended.
                if count.stand >= count.full || count.full_until <= now {
                    (count.full, count.full_until) = (count.stand, now.after(TRIED_LAST));
                }
            }
            let is_dead = !ok && used.from.values().all(|count| count.stand == 0);
            used.dead_until = if is_dead { now.after(TRIED_LAST) } else { Timestamp(0) };
        }
        if all.len() > REMEMBERED {
            all.retain(|_, used| !used.from.is_empty() || used.dead_until > now);
        }
        self.stands |= ok;
    }
}

impl Addresses {
    /// A place at the best of these addresses that is not at its limit; it is among them no more.
    ///
    /// Those that did not answer lately come last, and before them those that have as many
    /// connections from this source as they take. Among equals, the one with the fewest connections
    /// comes first. What refused one from this source `since` then, while others stood, is left
    /// out.
    pub fn take(
        self: &Arc<Self>,
        hops: &mut Vec<Hop>,
        (source, limits): (SourceId, &Limits),
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<(Hop, Slot)> {
        let mut all = self.lock();
        let order = |(_, hop): &(usize, &Hop)| match all.get(&hop.address) {
            Some(used) => used.order(hop.preference, source, now),
            None => (false, false, hop.preference, 0),
        };
        let is_free = |(_, hop): &(usize, &Hop)| {
            all.get(&hop.address).is_none_or(|used| {
                since.is_none_or(|at| !used.has_refused(source, at))
                    && used.open() < limits.connections
                    && used.open_from(source) < limits.connections_per_source
            })
        };
        let (at, _) = hops.iter().enumerate().filter(is_free).min_by_key(order)?;
        let hop = hops.remove(at);
        all.entry(hop.address).or_default().from.entry(source).or_default().open += 1;
        let (addresses, address) = (Arc::clone(self), hop.address);
        Some((hop, Slot { addresses, address, source, stands: false }))
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
        if let Entry::Occupied(mut from) = used.from.entry(self.source) {
            let count = from.get_mut();
            count.open = count.open.saturating_sub(1);
            count.stand = count.stand.saturating_sub(u32::from(self.stands));
            if count.open == 0 {
                from.remove();
            }
        }
        if used.from.is_empty() && used.dead_until == Timestamp(0) {
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

    fn hops(all: &[(u8, u16)]) -> Vec<Hop> {
        let hop = |(n, preference): &(u8, u16)| Hop {
            host: format!("mx{n}"),
            preference: *preference,
            address: ip(*n),
        };
        all.iter().map(hop).collect()
    }

    /// The address of the best, and its place.
    fn best(addresses: &Arc<Addresses>, of: &[Hop], at: i64) -> (IpAddr, Slot) {
        let limits = (SourceId(0), &limits(9, 9));
        let (hop, slot) = addresses.take(&mut of.to_vec(), limits, None, Timestamp(at)).unwrap();
        (hop.address, slot)
    }

    #[test]
    fn the_limits_hold_until_a_place_is_free_again() {
        let addresses = Arc::new(Addresses::default());
        let limits = limits(3, 2);
        let take = |n, source| {
            let mut hops = hops(&[(n, 10)]);
            let slot = addresses.take(&mut hops, (SourceId(source), &limits), None, Timestamp(0));
            assert_eq!(hops.is_empty(), slot.is_some());
            slot
        };
        let (first, _second) = (take(1, 0), take(1, 0));
        assert!(first.is_some() && take(1, 0).is_none(), "from one source");
        let _third = take(1, 1);
        assert!(_third.is_some() && take(1, 1).is_none(), "in all");
        assert!(take(2, 0).is_some());
        drop(first);
        assert!(take(1, 1).is_some());
    }

    #[test]
    fn equals_have_as_many_connections_and_others_are_tried_after_them() {
        let addresses = Arc::new(Addresses::default());
        let hops = hops(&[(1, 20), (2, 10), (3, 10), (4, 10)]);
        let taken: Vec<(IpAddr, Slot)> = (0..6).map(|_| best(&addresses, &hops, 0)).collect();
        let each = |n| taken.iter().filter(|(at, _)| *at == ip(n)).count();
        assert_eq!([1, 2, 3, 4].map(each), [0, 2, 2, 2]);
    }

    #[test]
    fn the_full_are_tried_after_others_until_one_ends_there_or_they_take_more() {
        let addresses = Arc::new(Addresses::default());
        let all = hops(&[(1, 10), (2, 20)]);
        let first = |source, at| {
            let limits = (SourceId(source), &limits(9, 9));
            addresses.take(&mut all.clone(), limits, None, Timestamp(at)).unwrap().0.address
        };
        let dial = |n, ok, at| {
            let (_, mut slot) = best(&addresses, &hops(&[(n, 10)]), at);
            slot.answered(ok, Timestamp(at));
            slot
        };
        let mut stand = vec![dial(1, true, 0), dial(1, true, 0)];
        dial(1, false, 0);
        assert_eq!(first(0, 0), ip(2));
        assert_eq!(first(1, 0), ip(1), "it takes more from another source");
        assert_eq!(first(0, 60_000), ip(1), "after a minute it is tried again");
        let again = (SourceId(0), &limits(9, 9));
        let mut full = hops(&[(1, 10)]);
        let now = Timestamp(1);
        assert!(addresses.take(&mut full, again, Some(Timestamp(-1)), now).is_none());
        assert!(addresses.take(&mut full, again, Some(Timestamp(0)), now).is_some());
        stand.pop();
        assert_eq!(first(0, 1), ip(1), "one ended");
        stand.push(dial(1, true, 2));
        assert_eq!(first(0, 3), ip(2));
        stand.push(dial(1, true, 4));
        assert_eq!(first(0, 5), ip(1), "it takes more");
    }

    #[test]
    fn the_dead_are_tried_last_until_they_answer() {
        let addresses = Arc::new(Addresses::default());
        let both = hops(&[(1, 10), (2, 10)]);
        let first = |at| best(&addresses, &both, at).0;
        let place = |n| best(&addresses, &hops(&[(n, 10)]), 0).1;
        let refused = |at| place(1).answered(false, Timestamp(at));
        refused(0);
        assert_eq!(first(59_000), ip(2));
        assert_eq!(first(60_000), ip(1));
        refused(60_000);
        let mut slots = [1, 2, 2].map(place);
        slots.iter_mut().for_each(|slot| slot.answered(true, Timestamp(60_000)));
        assert_eq!(first(60_000), ip(1));
        refused(60_000);
        assert_eq!(first(60_000), ip(2), "not dead, but full");
        drop(slots);
        assert_eq!(addresses.lock().len(), 0, "nothing is kept of the sound");
    }
}
