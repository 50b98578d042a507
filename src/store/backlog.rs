//! What waits in each scheduled queue, counted as it changes: no query ever counts rows.
//!
//! # Invariants
//! * A reader that asks again with the revision it got sees every queue that changed in between.
//! * `oldest` and `next_due` are never later than the truth; both are exact again once the queue
//!   ran empty.
//! * Everything before a queue's `scan_from` is leased, so that a claim does not look at it again.
//!
//! # Absent
//! Deliveries: the cost of all this follows the number of queues.

use super::row::Class;
use super::{Backlog, Cursor, QueueBacklog, QueueId, QueueKey, Revision, Told};
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// One scheduled queue.
#[derive(Debug)]
struct Entry {
    now: QueueBacklog,
    /// When it last changed.
    revision: u64,
    /// Somebody was told that it is not empty.
    reported: bool,
    /// Claims begin after this.
    scan_from: Option<Cursor>,
    /// Grows when a delivery comes (back): a `scan_from` worked out before is then void.
    arrivals: u64,
    /// Where the search for expired deliveries goes on.
    expiry_from: Option<Cursor>,
}

/// Where a claim begins to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    /// After this; `None`: from the start.
    pub(super) from: Option<Cursor>,
    arrivals: u64,
}

/// Counts per scheduled queue.
#[derive(Debug)]
pub(super) struct Tally {
    queues: BTreeMap<QueueId, Entry>,
    /// By the revision of the last change, direct mail's first.
    order: BTreeSet<(u64, Lane, QueueId)>,
    revision: u64,
    /// The present revision was given to somebody: the next change makes a new one.
    given: bool,
    all_held: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            order: BTreeSet::new(),
            revision: 1,
            given: false,
            all_held: false,
        }
    }
}

impl Tally {
    /// Everything is held.
    pub(super) fn all_held(&self) -> bool {
        self.all_held
    }

    /// Holds everything, or no longer.
    pub(super) fn hold_all(&mut self, hold: bool) {
        self.step();
        self.all_held = hold;
    }

    /// The present revision.
    pub(super) fn revision(&self) -> Revision {
        Revision { at: self.revision, told: None }
    }

    /// A delivery arrived, to wait.
    pub(super) fn enter(&mut self, row: Cursor, key: &Arc<QueueKey>, class: Class, size: u64) {
        self.add(row.queue, key, row.delivery.message.created_at(), size, |entry| {
            *entry.count(class) += 1;
            entry.arrived(row, class);
        });
    }

    /// A delivery arrived that is leased already.
    pub(super) fn enter_leased(&mut self, row: Cursor, key: &Arc<QueueKey>, size: u64) {
        self.add(row.queue, key, row.delivery.message.created_at(), size, |entry| {
            entry.now.leased += 1;
        });
    }

    /// A delivery that was counted as it arrived has its row now: a claim that looked for it in
    /// between found nothing.
    pub(super) fn landed(&mut self, row: Cursor, class: Class) {
        let Some(entry) = self.queues.get_mut(&row.queue) else { return };
        let passed_over =
            entry.now.next_due > row.due_at || entry.scan_from.is_some_and(|from| row <= from);
        if class != Class::Held && passed_over {
            entry.arrived(row, class);
            self.touch(row.queue);
        }
    }

    /// Deliveries found in the store at start, all without leases.
    pub(super) fn found(&mut self, queue: &QueueBacklog) {
        self.add(queue.id, &queue.key, queue.oldest, queue.bytes, |entry| {
            entry.now.ready += queue.ready;
            entry.now.deferred += queue.deferred;
            entry.now.held += queue.held;
            entry.now.next_due = entry.now.next_due.min(queue.next_due);
        });
    }

    fn add(
        &mut self,
        id: QueueId,
        key: &Arc<QueueKey>,
        oldest: Timestamp,
        bytes: u64,
        change: impl FnOnce(&mut Entry),
    ) {
        let entry = self.queues.entry(id).or_insert_with(|| Entry::new(id, Arc::clone(key)));
        entry.now.bytes += bytes;
        entry.now.oldest = entry.now.oldest.min(oldest);
        change(entry);
        self.touch(id);
    }

    /// A waiting delivery was leased.
    pub(super) fn lease(&mut self, queue: QueueId, class: Class) {
        if let Some(entry) = self.queues.get_mut(&queue) {
            take(entry.count(class), 1);
            entry.now.leased += 1;
            self.touch(queue);
        }
    }

    /// A leased delivery waits again.
    pub(super) fn unlease(&mut self, row: Cursor, class: Class) {
        if let Some(entry) = self.queues.get_mut(&row.queue) {
            take(&mut entry.now.leased, 1);
            *entry.count(class) += 1;
            entry.arrived(row, class);
            self.touch(row.queue);
        }
    }

    /// A waiting delivery moved to `row`.
    pub(super) fn shift(&mut self, row: Cursor, from: Class, to: Class) {
        if let Some(entry) = self.queues.get_mut(&row.queue) {
            take(entry.count(from), 1);
            *entry.count(to) += 1;
            entry.arrived(row, to);
            self.touch(row.queue);
        }
    }

    /// A leased delivery is gone. Gives back the queue's name where that was its last.
    pub(super) fn leave_leased(&mut self, queue: QueueId, size: u64) -> Option<Arc<QueueKey>> {
        self.leave_with(queue, size, |entry| &mut entry.now.leased)
    }

    /// A waiting delivery is gone. Gives back the queue's name where that was its last.
    pub(super) fn leave(
        &mut self,
        queue: QueueId,
        class: Class,
        size: u64,
    ) -> Option<Arc<QueueKey>> {
        self.leave_with(queue, size, |entry| entry.count(class))
    }

    fn leave_with(
        &mut self,
        queue: QueueId,
        size: u64,
        count: impl FnOnce(&mut Entry) -> &mut u64,
    ) -> Option<Arc<QueueKey>> {
        let entry = self.queues.get_mut(&queue)?;
        take(count(entry), 1);
        take(&mut entry.now.bytes, size);
        if !entry.is_empty() {
            self.touch(queue);
            return None;
        }
        let key = Arc::clone(&entry.now.key);
        if entry.reported {
            *entry = Entry {
                reported: true,
                revision: entry.revision,
                ..Entry::new(queue, Arc::clone(&key))
            };
            self.touch(queue);
        } else {
            self.forget(queue);
        }
        Some(key)
    }

    /// True while the queue has deliveries.
    pub(super) fn lives(&self, queue: QueueId) -> bool {
        self.queues.get(&queue).is_some_and(|entry| !entry.is_empty())
    }

    /// Where to look for deliveries to lease; `None` where none waits.
    pub(super) fn scan(&self, queue: QueueId) -> Option<Scan> {
        let entry = self.queues.get(&queue)?;
        let waits = entry.now.waiting() > 0;
        waits.then_some(Scan { from: entry.scan_from, arrivals: entry.arrivals })
    }

    /// Notes that everything up to `to` is leased now and that nothing else is due before
    /// `next_due`, unless a delivery arrived since `scan` was taken.
    pub(super) fn scanned(
        &mut self,
        queue: QueueId,
        scan: Scan,
        to: Option<Cursor>,
        next_due: Timestamp,
    ) {
        if let Some(entry) = self.queues.get_mut(&queue).filter(|e| e.arrivals == scan.arrivals) {
            entry.scan_from = to;
            entry.now.next_due = next_due;
            self.touch(queue);
        }
    }

    /// Where the search for expired deliveries goes on, and sets it for the next time.
    pub(super) fn expiry_from(&mut self, queue: QueueId, next: Option<Cursor>) -> Option<Cursor> {
        let entry = self.queues.get_mut(&queue)?;
        std::mem::replace(&mut entry.expiry_from, next)
    }

    /// Up to `max` queues with deliveries, from `from` on, by number.
    pub(super) fn from(&self, from: QueueId, max: usize) -> Vec<(QueueId, Arc<QueueKey>)> {
        self.queues
            .range(from..)
            .filter(|(_, entry)| !entry.is_empty())
            .take(max)
            .map(|(id, entry)| (*id, Arc::clone(&entry.now.key)))
            .collect()
    }

    /// The name of a queue with deliveries.
    pub(super) fn key(&self, queue: QueueId) -> Option<Arc<QueueKey>> {
        self.queues.get(&queue).map(|entry| Arc::clone(&entry.now.key))
    }

    /// See [`super::Store::backlog_part`]. Empty queues are forgotten once told to a reader that
    /// follows changes. One that changes while the older ones are told may be told of again with
    /// those.
    pub(super) fn since(&mut self, since: Revision, most: usize) -> Backlog {
        self.given = true;
        let (seen, told) = match since {
            Revision::START => (self.revision, Some((0, Lane::Direct, QueueId(0)))),
            Revision { at, told } => (at, told),
        };
        let seen = (seen, Lane::Bulk, QueueId(i64::MAX));
        let rest = told.into_iter().flat_map(|told| {
            self.order.range((Bound::Excluded(told), Bound::Included(seen))).take(most)
        });
        let mut changed: Vec<Told> = rest.copied().collect();
        let told = changed.last().copied().filter(|_| changed.len() == most);
        changed.extend(self.order.range((Bound::Excluded(seen), Bound::Unbounded)));
        let mut queues = Vec::with_capacity(changed.len());
        for (_, _, id) in changed {
            let Some(entry) = self.queues.get_mut(&id) else { continue };
            if entry.is_empty() && since == Revision::START {
                continue;
            }
            queues.push(entry.now.clone());
            entry.reported = true;
            if entry.is_empty() {
                self.forget(id);
            }
        }
        let revision = Revision { told, ..self.revision() };
        Backlog { revision, all_held: self.all_held, queues }
    }

    fn forget(&mut self, queue: QueueId) {
        if let Some(entry) = self.queues.remove(&queue) {
            self.order.remove(&(entry.revision, entry.now.key.lane, queue));
        }
    }

    /// Begins a new revision, unless nobody knows of the present one yet.
    fn step(&mut self) {
        if self.given {
            self.given = false;
            self.revision += 1;
        }
    }

    /// Notes a change of `queue`.
    fn touch(&mut self, queue: QueueId) {
        self.step();
        let Some(entry) = self.queues.get_mut(&queue) else { return };
        if entry.now.waiting() == 0 {
            entry.now.next_due = Timestamp::NEVER;
        }
        if entry.revision != self.revision {
            let lane = entry.now.key.lane;
            self.order.remove(&(entry.revision, lane, queue));
            entry.revision = self.revision;
            self.order.insert((self.revision, lane, queue));
        }
    }
}

impl Entry {
    fn new(id: QueueId, key: Arc<QueueKey>) -> Self {
        let now = QueueBacklog {
            id,
            key,
            ready: 0,
            deferred: 0,
            leased: 0,
            held: 0,
            bytes: 0,
            oldest: Timestamp::NEVER,
            next_due: Timestamp::NEVER,
        };
        Self { now, revision: 0, reported: false, scan_from: None, arrivals: 0, expiry_from: None }
    }

    fn is_empty(&self) -> bool {
        self.now.ready + self.now.deferred + self.now.leased + self.now.held == 0
    }

    fn count(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Ready => &mut self.now.ready,
            Class::Deferred => &mut self.now.deferred,
            Class::Held => &mut self.now.held,
        }
    }

    /// A delivery waits at `row` from now on.
    fn arrived(&mut self, row: Cursor, class: Class) {
        self.arrivals += 1;
        if class == Class::Held {
            return;
        }
        self.now.next_due = self.now.next_due.min(row.due_at);
        if self.scan_from.is_some_and(|from| row <= from) {
            self.scan_from = None;
        }
    }
}

fn take(count: &mut u64, n: u64) {
    debug_assert!(*count >= n, "a count of the backlog fell below zero");
    *count = count.saturating_sub(n);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Domain;
    use crate::base::id::MessageId;
    use crate::store::DeliveryId;

    fn key(domain: &str) -> Arc<QueueKey> {
        let domain = Domain::parse(domain).unwrap();
        Arc::new(QueueKey { lane: Lane::Bulk, tenant: "t".into(), campaign: String::new(), domain })
    }

    fn row(queue: i64, due: i64, message: i64) -> Cursor {
        let message = MessageId::from_number(message).unwrap();
        let delivery = DeliveryId { message, number: 0 };
        Cursor { queue: QueueId(queue), due_at: Timestamp(due), delivery }
    }

    fn counts(backlog: &Backlog) -> Vec<(i64, u64, u64)> {
        backlog.queues.iter().map(|q| (q.id.0, q.waiting(), q.leased)).collect()
    }

    #[test]
    fn tells_what_changed_and_once_what_became_empty() {
        let mut tally = Tally::default();
        tally.enter(row(1, 5, 1), &key("a.example"), Class::Ready, 10);
        tally.enter(row(2, 5, 2), &key("b.example"), Class::Ready, 10);
        let first = tally.since(Revision::START, usize::MAX);
        assert_eq!(counts(&first), [(1, 1, 0), (2, 1, 0)]);
        assert!(tally.since(first.revision, usize::MAX).queues.is_empty());
        tally.lease(QueueId(1), Class::Ready);
        assert!(tally.leave_leased(QueueId(1), 10).is_some());
        let second = tally.since(first.revision, usize::MAX);
        assert_eq!(counts(&second), [(1, 0, 0)]);
        assert_eq!(second.queues[0].next_due, Timestamp::NEVER);
        assert_eq!(counts(&tally.since(Revision::START, usize::MAX)), [(2, 1, 0)]);
        assert!(tally.since(second.revision, usize::MAX).queues.is_empty());
    }

    #[test]
    fn a_long_one_is_told_in_parts_and_what_changes_meanwhile_at_once() {
        let mut tally = Tally::default();
        let direct = QueueKey { lane: Lane::Direct, ..QueueKey::clone(&key("a.example")) };
        (1..=5).for_each(|n| tally.enter(row(n, 5, n), &key("a.example"), Class::Ready, 10));
        tally.enter(row(6, 5, 6), &Arc::new(direct), Class::Ready, 10);
        let first = tally.since(Revision::START, 2);
        assert_eq!(counts(&first), [(6, 1, 0), (1, 1, 0)]);
        assert_ne!(first.revision, tally.revision(), "there is more to ask for");
        for queue in [1, 4] {
            tally.lease(QueueId(queue), Class::Ready);
        }
        let second = tally.since(first.revision, 2);
        assert_eq!(counts(&second), [(2, 1, 0), (3, 1, 0), (1, 0, 1), (4, 0, 1)]);
        let third = tally.since(second.revision, 2);
        assert_eq!(counts(&third)[0], (5, 1, 0));
        let last = tally.since(third.revision, 2);
        assert_eq!(last.revision, tally.revision());
    }

    #[test]
    fn a_queue_that_nobody_saw_leaves_no_trace() {
        let mut tally = Tally::default();
        tally.enter_leased(row(1, 5, 1), &key("a.example"), 10);
        assert!(tally.leave_leased(QueueId(1), 10).is_some());
        assert!(tally.queues.is_empty() && tally.order.is_empty());
    }

    #[test]
    fn an_arrival_voids_a_scan_under_way() {
        let mut tally = Tally::default();
        tally.enter(row(1, 5, 1), &key("a.example"), Class::Ready, 10);
        let scan = tally.scan(QueueId(1)).unwrap();
        tally.enter(row(1, 4, 2), &key("a.example"), Class::Ready, 10);
        tally.scanned(QueueId(1), scan, Some(row(1, 5, 1)), Timestamp::NEVER);
        assert!(tally.scan(QueueId(1)).unwrap().from.is_none());
        assert_eq!(tally.since(Revision::START, usize::MAX).queues[0].next_due, Timestamp(4));
    }
}
