//! Leases of the one node, in memory: a process that died holds none.
//!
//! # Invariants
//! * A delivery has at most one lease; the fence of a later one is greater.
//! * A lease that has run out is ended before anything else looks at the leases (`Shared::lock`).

use super::journal::record::Place;
use super::row::Class;
use super::{Cursor, DeliveryId, Lease};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use std::collections::BTreeMap;

/// A lease, and what must be known of its delivery when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The delivery's place.
    pub(super) row: Cursor,
    /// Which lease of it this is.
    pub(super) fence: u64,
    /// When it ends by itself.
    pub(super) until: Timestamp,
    /// What the delivery is without it.
    pub(super) class: Class,
    /// Length of the message's body.
    pub(super) size: u64,
    /// The message has no other recipient.
    pub(super) lone: bool,
    /// Where the message's bytes lie, in an engine that keeps them in a journal.
    pub(super) place: Place,
    /// How far its outcome is recorded.
    pub(super) phase: Phase,
}

/// How far the outcome of a lease is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none yet.
    Open,
    /// It is being written: the lease ends with that alone.
    Settling,
    /// It is durable, but the delivery's row does not show it yet. The lease is over for whoever
    /// had it, and keeps others away still.
    Settled,
}

/// All leases.
#[derive(Debug)]
pub(super) struct Leases {
    held: BTreeMap<DeliveryId, Held>,
    last_fence: u64,
    /// None ends before this.
    next_end: Timestamp,
}

impl Default for Leases {
    fn default() -> Self {
        Self { held: BTreeMap::new(), last_fence: 0, next_end: Timestamp::NEVER }
    }
}

impl Leases {
    /// A fence greater than all before.
    pub(super) fn next_fence(&mut self) -> u64 {
        self.last_fence += 1;
        self.last_fence
    }

    /// Begins a lease, or puts one back.
    pub(super) fn insert(&mut self, held: Held) {
        self.next_end = self.next_end.min(held.until);
        self.held.insert(held.row.delivery, held);
    }

    /// True where the delivery is leased.
    pub(super) fn contains(&self, delivery: DeliveryId) -> bool {
        self.held.contains_key(&delivery)
    }

    /// Ends a lease; `None` where it is stale.
    pub(super) fn take(&mut self, lease: &Lease) -> Option<Held> {
        let held = self.held.get(&lease.delivery)?;
        let good = held.fence == lease.fence && held.phase == Phase::Open;
        if good { self.held.remove(&lease.delivery) } else { None }
    }

    /// Notes that the outcome of a lease is being recorded; `None` where it is stale, or that is so
    /// already.
    pub(super) fn begin_settling(&mut self, lease: &Lease) -> Option<Held> {
        let held = self.held.get_mut(&lease.delivery)?;
        let good = held.fence == lease.fence && held.phase == Phase::Open;
        good.then(|| {
            held.phase = Phase::Settling;
            *held
        })
    }

    /// The outcome could not be recorded: the lease stands as before.
    pub(super) fn stop_settling(&mut self, delivery: DeliveryId) {
        if let Some(held) = self.held.get_mut(&delivery) {
            held.phase = Phase::Open;
            self.next_end = self.next_end.min(held.until);
        }
    }

    /// The outcome is durable: the lease is over for whoever had it.
    pub(super) fn settled(&mut self, delivery: DeliveryId) {
        if let Some(held) = self.held.get_mut(&delivery) {
            held.phase = Phase::Settled;
        }
    }

    /// The outcome is in the delivery's row: the lease is over.
    pub(super) fn end(&mut self, delivery: DeliveryId) {
        self.held.remove(&delivery);
    }

    /// Moves the end of a lease; false where it is stale.
    pub(super) fn renew(&mut self, lease: &Lease, until: Timestamp) -> bool {
        match self.held.get_mut(&lease.delivery) {
            Some(held) if held.fence == lease.fence && held.phase != Phase::Settled => {
                held.until = until;
                self.next_end = self.next_end.min(until);
                true
            }
            _ => false,
        }
    }

    /// No lease ends by itself before this.
    pub(super) fn next_end(&self) -> Timestamp {
        self.next_end
    }

    /// Takes out the leases that have run out. Looks at all of them only when one may have: about
    /// once in the time that leases last.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<Held> {
        if now < self.next_end {
            return Vec::new();
        }
        let over = |_: &DeliveryId, held: &mut Held| held.until <= now && held.phase == Phase::Open;
        let ended: Vec<Held> = self.held.extract_if(.., over).map(|(_, held)| held).collect();
        // One that is being settled past its time is looked at again with the next that ends.
        let others = self.held.values().filter(|held| held.phase == Phase::Open);
        self.next_end = others.map(|held| held.until).min().unwrap_or(Timestamp::NEVER);
        ended
    }

    /// Where the bytes of a message with leased deliveries lie, and how many they are.
    pub(super) fn place(&self, message: MessageId) -> Option<(Place, u64)> {
        let first = DeliveryId { message, number: 0 };
        let last = DeliveryId { message, number: u32::MAX };
        self.held.range(first..=last).next().map(|(_, held)| (held.place, held.size))
    }

    /// True where a delivery of the message is leased.
    pub(super) fn any_of(&self, message: MessageId) -> bool {
        self.place(message).is_some()
    }
}
