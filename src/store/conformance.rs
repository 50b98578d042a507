//! What every engine must do, as tests over any [`Store`], and random operations against the model.
//!
//! An engine runs them with [`conformance!`]; time is simulated, nothing sleeps.

use super::{
    Backlog, Change, Claim, Claimed, Cursor, DeliveryRecord, Filter, Lease, Outcome, QueueId,
    Revision, Settled, Settlement, State, Store, StoreError,
};
use crate::base::address::{Mailbox, ReversePath};
use crate::base::id::{IdGenerator, MessageId};
use crate::base::time::{Clock, Timestamp};
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, Ret};
use crate::mail::message::{Lane, NewMessage, Origin};
use crate::policy::verdict::Blame;
use bytes::Bytes;
use std::sync::Mutex;
use std::time::Duration;

/// When the simulated clocks begin.
pub(super) const START: Timestamp = Timestamp(1_795_394_728_000);
const TTL: Duration = Duration::from_secs(60);

/// An engine under test.
pub(super) struct Fixture<S> {
    pub(super) store: S,
    pub(super) clock: Clock,
    ids: Mutex<IdGenerator>,
    /// Removed at the end.
    pub(super) dir: Option<tempfile::TempDir>,
}

/// Runs every case on the engine that `$open` gives.
macro_rules! conformance {
    ($open:path) => {
        conformance!($open:
            keeps_all_that_it_is_given,
            claims_what_is_due_oldest_first,
            takes_no_retry_before_its_time,
            obeys_the_limits_of_a_claim,
            leases_each_delivery_once,
            ends_leases_in_time,
            renews_leases_that_are_good,
            gives_released_deliveries_again,
            defers,
            forgets_a_message_with_its_last_delivery,
            gives_born_leased_deliveries_at_once,
            takes_notices_in_with_outcomes,
            refuses_what_it_cannot_keep,
            holds_and_releases,
            keeps_held_ones_held,
            retries_and_deletes,
            holds_everything,
            claims_expired_deliveries,
            counts_the_backlog,
            wakes_those_who_wait,
            lists_page_by_page,
            filters,
            knows_the_last_id,
        );
    };
    ($open:path: $($case:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $case() {
            $crate::store::conformance::$case(&$open()).await;
        })*
    };
}
pub(super) use conformance;

impl<S: Store> Fixture<S> {
    pub(super) fn new(store: S, clock: Clock, dir: Option<tempfile::TempDir>) -> Self {
        let ids = Mutex::new(IdGenerator::after(store.last_id()));
        Self { store, clock, ids, dir }
    }

    /// A bulk message, due now, given up after an hour.
    pub(super) fn message(&self, recipients: &[&str]) -> NewMessage {
        let now = self.clock.now();
        let mut envelope = Envelope::from(ReversePath::parse("news@shop.example").unwrap());
        envelope.recipients =
            recipients.iter().map(|r| Recipient::new(Mailbox::parse(r).unwrap())).collect();
        NewMessage {
            id: self.ids.lock().unwrap().next(now),
            accepted_at: now,
            due_at: now,
            expires_at: now.after(Duration::from_secs(3_600)),
            origin: Origin {
                lane: Lane::Bulk,
                reason: "X-Newsletter: spring".into(),
                tenant: "shop".into(),
                campaign: "spring".into(),
                client: "192.0.2.7".into(),
            },
            envelope,
            body: Bytes::from_static(b"Subject: hello\r\n\r\nhello\r\n"),
        }
    }

    pub(super) async fn accept(&self, recipients: &[&str]) -> MessageId {
        let message = self.message(recipients);
        let id = message.id;
        self.store.accept(message, None).await.unwrap();
        id
    }

    fn queues(&self) -> Vec<QueueId> {
        self.store.backlog(Revision::START).queues.iter().map(|queue| queue.id).collect()
    }

    fn everything(&self) -> Claim {
        Claim {
            queues: self.queues().into_iter().map(|queue| (queue, 1_000)).collect(),
            due_until: self.clock.now(),
            fresh_until: self.clock.now(),
            expired_at: None,
            limit: 1_000,
            ttl: TTL,
        }
    }

    pub(super) async fn claim(&self) -> Vec<Claimed> {
        self.store.claim(self.everything()).await.unwrap()
    }

    pub(super) async fn settle(&self, lease: Lease, outcome: Outcome) -> Vec<Lease> {
        let at = self.clock.now();
        let settled = settled(lease, outcome);
        let settlement = Settlement { at, outcomes: vec![settled], notices: Vec::new() };
        self.store.settle(settlement).await.unwrap()
    }

    async fn change(&self, filter: Filter, action: Change) -> (u64, u64) {
        let (mut changed, mut leased, mut after) = (0, 0, None);
        loop {
            let slice = self.store.change(filter.clone(), action, after).await.unwrap();
            changed += slice.changed;
            leased += slice.leased;
            after = slice.next;
            if after.is_none() {
                return (changed, leased);
            }
        }
    }

    pub(super) async fn list(&self, filter: Filter, limit: usize) -> Vec<DeliveryRecord> {
        let (mut all, mut after) = (Vec::new(), None::<Cursor>);
        loop {
            let page = self.store.list(filter.clone(), after, limit).await.unwrap();
            assert!(page.deliveries.len() <= limit);
            all.extend(page.deliveries);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// Ready, deferred, leased, held; in all queues.
    fn counts(&self) -> [u64; 4] {
        counts(&self.store.backlog(Revision::START))
    }
}

fn counts(backlog: &Backlog) -> [u64; 4] {
    backlog.queues.iter().fold([0; 4], |[ready, deferred, leased, held], q| {
        [ready + q.ready, deferred + q.deferred, leased + q.leased, held + q.held]
    })
}

fn settled(lease: Lease, outcome: Outcome) -> Settled {
    let blame = (outcome != Outcome::Delivered).then_some(Blame::Site);
    Settled { lease, outcome, reply: "250 2.0.0 Ok".into(), blame }
}

fn leases(claimed: &[Claimed]) -> Vec<Lease> {
    claimed.iter().flat_map(|c| &c.deliveries).map(|d| d.lease).collect()
}

fn deferred(clock: &Clock, seconds: u64) -> Outcome {
    let due_at = clock.now().after(Duration::from_secs(seconds));
    Outcome::Deferred { due_at, delay_notified: false }
}

pub(super) async fn keeps_all_that_it_is_given<S: Store>(f: &Fixture<S>) {
    let mut message =
        f.message(&["Ann@Example.com", "\"b b\"@[192.0.2.1]", "jörg@münchen.example"]);
    message.envelope.reverse_path = ReversePath::Null;
    message.envelope.body = BodyType::EightBitMime;
    message.envelope.smtputf8 = true;
    message.envelope.ret = Some(Ret::Headers);
    message.envelope.envid = Some("QQ+2B".into());
    message.origin.lane = Lane::Direct;
    message.envelope.recipients[0].notify = Some(Notify::default());
    message.envelope.recipients[1].notify =
        Some(Notify { success: true, failure: false, delay: true });
    message.envelope.recipients[1].orcpt = Some("rfc822;b+20b@x.example".into());
    message.body = Bytes::from(vec![0xff; 100_000]);
    f.store.accept(message.clone(), None).await.unwrap();

    let claimed = f.claim().await;
    let (head, recipients) = message.split();
    assert_eq!(claimed.len(), 1);
    assert_eq!(*claimed[0].head, head);
    let mut found: Vec<Recipient> =
        claimed[0].deliveries.iter().map(|d| d.recipient.clone()).collect();
    found.sort_by_key(|r| recipients.iter().position(|known| known == r));
    assert_eq!(found, recipients);

    let other = f.accept(&["x@y.example"]).await;
    let absent = MessageId::floor(START.before(TTL));
    let bodies = f.store.bodies(vec![other, absent, message.id]).await.unwrap();
    assert_eq!(bodies.len(), 2);
    assert_eq!((bodies[0].0, bodies[1].0), (other, message.id));
    assert_eq!(bodies[1].1, message.body);
}

pub(super) async fn claims_what_is_due_oldest_first<S: Store>(f: &Fixture<S>) {
    let mut late = f.message(&["a@x.example"]);
    late.due_at = START.after(Duration::from_secs(20));
    let mut early = f.message(&["b@x.example"]);
    early.due_at = START.after(Duration::from_secs(10));
    let now = f.message(&["c@x.example"]);
    let order = [now.id, early.id, late.id];
    for message in [late, early, now] {
        f.store.accept(message, None).await.unwrap();
    }
    let claimed = f.claim().await;
    assert_eq!(claimed.len(), 1, "two are not due");
    f.store.release(leases(&claimed)).await.unwrap();
    let ahead = Claim { fresh_until: Timestamp::NEVER, ..f.everything() };
    let claimed = f.store.claim(ahead).await.unwrap();
    assert_eq!(claimed.iter().map(|c| c.head.id).collect::<Vec<_>>(), order);
}

/// Where mail that gathers is taken early.
pub(super) async fn takes_no_retry_before_its_time<S: Store>(f: &Fixture<S>) {
    f.accept(&["tried@x.example"]).await;
    let first = leases(&f.claim().await)[0];
    assert!(f.settle(first, deferred(&f.clock, 10)).await.is_empty());
    for seconds in [5, 20] {
        let mut gathers = f.message(&["new@x.example"]);
        gathers.due_at = START.after(Duration::from_secs(seconds));
        f.store.accept(gathers, None).await.unwrap();
    }
    let early = Claim { fresh_until: START.after(Duration::from_secs(30)), ..f.everything() };
    let taken = leases(&f.store.claim(early.clone()).await.unwrap());
    assert_eq!(taken.len(), 1, "the one before it");
    assert_eq!(f.store.backlog(Revision::START).queues[0].next_due, first_retry());
    f.clock.advance(Duration::from_secs(10));
    let early = Claim { due_until: f.clock.now(), ..early };
    assert_eq!(leases(&f.store.claim(early).await.unwrap()).len(), 2);
}

fn first_retry() -> Timestamp {
    START.after(Duration::from_secs(10))
}

pub(super) async fn obeys_the_limits_of_a_claim<S: Store>(f: &Fixture<S>) {
    for n in 0..5 {
        f.accept(&[&format!("u{n}@x.example"), &format!("v{n}@y.example")]).await;
    }
    let queues: Vec<_> = f.queues().into_iter().zip([3, 3]).collect();
    let claim = Claim { queues, limit: 4, ..f.everything() };
    let claimed = f.store.claim(claim.clone()).await.unwrap();
    let domain = |d: &super::Delivery| d.recipient.mailbox.domain().unwrap().to_string();
    let domains: Vec<String> = claimed.iter().flat_map(|c| &c.deliveries).map(domain).collect();
    assert_eq!(domains.iter().filter(|d| *d == "x.example").count(), 3);
    assert_eq!(domains.len(), 4);
    assert_eq!(claimed.len(), 3, "one message has both its recipients together");
    assert_eq!(leases(&f.store.claim(claim.clone()).await.unwrap()).len(), 4);
    assert_eq!(leases(&f.store.claim(claim.clone()).await.unwrap()).len(), 2);
    assert!(f.store.claim(claim).await.unwrap().is_empty());
}

pub(super) async fn leases_each_delivery_once<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example", "b@x.example"]).await;
    let mut twice = f.everything();
    twice.queues.extend(twice.queues.clone());
    let first = leases(&f.store.claim(twice).await.unwrap());
    assert_eq!(first.len(), 2);
    assert_ne!(first[0].delivery, first[1].delivery);
    assert!(f.claim().await.is_empty());
    assert!(f.settle(first[0], Outcome::Delivered).await.is_empty());
    assert_eq!(f.settle(first[0], Outcome::Failed).await, [first[0]], "settled before");
    let both = [first[1], first[1]].map(|lease| settled(lease, deferred(&f.clock, 0))).to_vec();
    let settlement = Settlement { at: START, outcomes: both, notices: Vec::new() };
    assert_eq!(f.store.settle(settlement).await.unwrap(), [first[1]], "the second is stale");
    assert_eq!(f.claim().await[0].deliveries[0].attempts, 1);
}

pub(super) async fn ends_leases_in_time<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example"]).await;
    let first = f.claim().await;
    assert_eq!(first[0].trusted_until, START.after(TTL));
    f.clock.advance(TTL - Duration::from_millis(1));
    assert!(f.claim().await.is_empty());
    f.clock.advance(Duration::from_millis(1));
    assert_eq!(f.counts(), [1, 0, 0, 0]);
    let second = leases(&f.claim().await);
    let first = leases(&first);
    assert!(second[0].fence > first[0].fence);
    assert_eq!(f.settle(first[0], Outcome::Delivered).await, first);
    f.store.release(first).await.unwrap();
    assert_eq!(f.counts(), [0, 0, 1, 0], "the stale lease ended nothing");
    assert!(f.settle(second[0], Outcome::Delivered).await.is_empty());
}

pub(super) async fn renews_leases_that_are_good<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example", "b@x.example"]).await;
    let held = leases(&f.claim().await);
    f.settle(held[1], Outcome::Delivered).await;
    f.clock.advance(TTL / 2);
    assert_eq!(f.store.renew(held.clone(), TTL).await.unwrap(), [held[1]]);
    f.clock.advance(TTL / 2);
    assert!(f.claim().await.is_empty());
    f.clock.advance(TTL / 2);
    assert_eq!(f.store.renew(held.clone(), TTL).await.unwrap(), held);
    assert_eq!(leases(&f.claim().await).len(), 1);
}

pub(super) async fn gives_released_deliveries_again<S: Store>(f: &Fixture<S>) {
    for n in 0..4 {
        f.accept(&[&format!("u{n}@x.example")]).await;
    }
    let first = leases(&f.claim().await);
    f.store.release(vec![first[2], first[0]]).await.unwrap();
    assert_eq!(f.counts(), [2, 0, 2, 0]);
    let again = leases(&f.claim().await);
    let order: Vec<_> = again.iter().map(|lease| lease.delivery).collect();
    assert_eq!(order, [first[0].delivery, first[2].delivery]);
    assert_eq!(again[0].due_at, first[0].due_at);
}

pub(super) async fn defers<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example"]).await;
    let lease = leases(&f.claim().await)[0];
    let due_at = START.after(TTL);
    let outcome = Outcome::Deferred { due_at, delay_notified: true };
    let mut settled = settled(lease, outcome);
    settled.reply = "451 4.7.1 Try later".into();
    let outcomes = vec![settled];
    f.store.settle(Settlement { at: START, outcomes, notices: Vec::new() }).await.unwrap();
    assert_eq!(f.counts(), [0, 1, 0, 0]);
    assert_eq!(f.store.backlog(Revision::START).queues[0].next_due, due_at);
    assert!(f.claim().await.is_empty());
    f.clock.advance(TTL);
    let delivery = f.claim().await.remove(0).deliveries.remove(0);
    assert_eq!((delivery.attempts, delivery.delay_notified), (1, true));
    assert_eq!(delivery.last_reply, "451 4.7.1 Try later");
    let record = f.list(Filter::default(), 9).await.remove(0);
    assert_eq!((record.state, record.attempts), (State::Leased, 1));
    assert_eq!((record.last_at, record.blame), (Some(START), Some(Blame::Site)));
}

pub(super) async fn forgets_a_message_with_its_last_delivery<S: Store>(f: &Fixture<S>) {
    let id = f.accept(&["a@x.example", "b@y.example", "c@x.example"]).await;
    let mut held = leases(&f.claim().await);
    held.sort_by_key(|lease| lease.delivery);
    let (at, now) = (f.clock.now(), Some(f.clock.now()));
    let outcomes = vec![settled(held[0], Outcome::Delivered), settled(held[2], Outcome::Expired)];
    f.store.settle(Settlement { at, outcomes, notices: Vec::new() }).await.unwrap();
    let record = f.store.show(id).await.unwrap().unwrap();
    assert_eq!(record.head.id, id);
    let seen: Vec<_> =
        record.deliveries.iter().map(|d| (d.number, d.state, d.attempts, d.last_at)).collect();
    assert_eq!(
        seen,
        [(0, State::Delivered, 1, now), (1, State::Leased, 0, None), (2, State::Expired, 0, now)]
    );
    assert_eq!(record.deliveries[0].recipient.mailbox.as_str(), "a@x.example");
    assert_eq!(record.deliveries[0].last_reply, "250 2.0.0 Ok");
    assert_eq!((record.deliveries[0].blame, record.deliveries[0].due_at), (None, None));
    assert_eq!(f.list(Filter::default(), 9).await.len(), 1, "a list shows what is queued");

    f.settle(held[1], Outcome::Failed).await;
    assert!(f.store.show(id).await.unwrap().is_none());
    assert!(f.store.bodies(vec![id]).await.unwrap().is_empty());
    assert_eq!(f.counts(), [0; 4]);
    // The id may come back: nothing of it was left behind.
    let mut again = f.message(&["a@x.example", "b@y.example"]);
    again.id = id;
    f.store.accept(again, None).await.unwrap();
    assert_eq!(f.store.show(id).await.unwrap().unwrap().deliveries.len(), 2);
}

pub(super) async fn gives_born_leased_deliveries_at_once<S: Store>(f: &Fixture<S>) {
    let message = f.message(&["a@x.example", "b@y.example"]);
    let claimed = f.store.accept(message.clone(), Some(TTL)).await.unwrap().claimed.unwrap();
    assert_eq!(*claimed.head, message.split().0);
    assert_eq!(claimed.trusted_until, START.after(TTL));
    assert_eq!(claimed.deliveries.len(), 2);
    assert_eq!(f.counts(), [0, 0, 2, 0]);
    assert!(f.claim().await.is_empty());
    assert!(f.settle(claimed.deliveries[0].lease, Outcome::Delivered).await.is_empty());
    f.store.release(vec![claimed.deliveries[1].lease]).await.unwrap();
    assert_eq!(f.claim().await[0].deliveries[0].recipient, message.envelope.recipients[1]);
}

pub(super) async fn takes_notices_in_with_outcomes<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example"]).await;
    let lease = leases(&f.claim().await)[0];
    let notice = f.message(&["news@shop.example"]);
    let outcomes = vec![settled(lease, Outcome::Failed)];
    let mut settlement = Settlement { at: START, outcomes, notices: vec![f.message(&[])] };
    let refused = f.store.settle(settlement.clone()).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "a notice to nobody");
    assert_eq!(f.counts(), [0, 0, 1, 0], "nothing was recorded, the lease stands");
    settlement.notices = vec![notice.clone()];
    assert!(f.store.settle(settlement).await.unwrap().is_empty());
    assert_eq!(f.claim().await[0].head.id, notice.id);
    // A stale outcome does not keep its notice out.
    let notices = vec![f.message(&["other@shop.example"])];
    let outcomes = vec![settled(lease, Outcome::Failed)];
    let stale = f.store.settle(Settlement { at: START, outcomes, notices }).await.unwrap();
    assert_eq!(stale, [lease]);
    assert_eq!(f.claim().await.len(), 1);
}

pub(super) async fn refuses_what_it_cannot_keep<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example"]).await;
    for message in [f.message(&[]), f.message(&["postmaster"])] {
        let refused = f.store.accept(message, Some(TTL)).await;
        assert!(matches!(refused, Err(StoreError::Failed(_))));
    }
    assert_eq!(f.counts(), [1, 0, 0, 0]);
    let wrong = Filter { message: Some("nonsense".into()), ..Filter::default() };
    assert!(f.store.change(wrong, Change::Delete, None).await.is_err());
}

pub(super) async fn holds_and_releases<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example", "b@y.example"]).await;
    f.accept(&["c@x.example"]).await;
    let leased = f.store.claim(Claim { limit: 1, ..f.everything() }).await.unwrap();
    assert_eq!(f.change(Filter::default(), Change::Hold).await, (2, 1));
    assert_eq!(f.counts(), [0, 0, 1, 2]);
    assert_eq!(f.change(Filter::default(), Change::Hold).await, (0, 1), "they are held already");
    assert!(f.claim().await.is_empty());
    let held = Filter { states: vec![State::Held], ..Filter::default() };
    assert!(f.list(held.clone(), 9).await.iter().all(|d| d.due_at == Some(START)));
    f.store.release(leases(&leased)).await.unwrap();
    assert_eq!(f.claim().await.len(), 1);
    assert_eq!(f.change(held, Change::Release).await, (2, 0));
    assert_eq!(leases(&f.claim().await).len(), 2);
}

pub(super) async fn keeps_held_ones_held<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example"]).await;
    f.change(Filter::default(), Change::Hold).await;
    let later = START.after(TTL);
    assert_eq!(f.change(Filter::default(), Change::Retry(later)).await, (1, 0));
    let expired = Claim { expired_at: Some(START.after(TTL * 99)), ..f.everything() };
    let lease = leases(&f.store.claim(expired).await.unwrap())[0];
    assert_eq!(f.counts(), [0, 0, 1, 0]);
    f.settle(lease, deferred(&f.clock, 5)).await;
    assert_eq!(f.counts(), [0, 0, 0, 1]);
    f.change(Filter::default(), Change::Release).await;
    assert_eq!(
        f.list(Filter::default(), 9).await[0].due_at,
        Some(START.after(Duration::from_secs(5)))
    );
    assert_eq!(f.counts(), [0, 1, 0, 0]);
}

pub(super) async fn retries_and_deletes<S: Store>(f: &Fixture<S>) {
    let mut message = f.message(&["a@x.example", "b@x.example", "c@y.example"]);
    message.due_at = START.after(TTL);
    let id = message.id;
    f.store.accept(message, None).await.unwrap();
    let to = |domain: &str| Filter { domains: vec![domain.into()], ..Filter::default() };
    assert_eq!(f.change(to("x.example"), Change::Retry(START)).await, (2, 0));
    assert_eq!(f.change(to("x.example"), Change::Retry(START)).await, (0, 0));
    let claimed = f.store.claim(Claim { limit: 1, ..f.everything() }).await.unwrap();
    assert_eq!(f.change(Filter::default(), Change::Delete).await, (2, 1));
    let states: Vec<State> =
        f.store.show(id).await.unwrap().unwrap().deliveries.iter().map(|d| d.state).collect();
    assert_eq!(states, [State::Leased, State::Deleted, State::Deleted]);
    f.store.release(leases(&claimed)).await.unwrap();
    assert_eq!(f.change(Filter::default(), Change::Delete).await, (1, 0));
    assert!(f.store.show(id).await.unwrap().is_none());
    assert_eq!(f.counts(), [0; 4]);
}

pub(super) async fn holds_everything<S: Store>(f: &Fixture<S>) {
    f.accept(&["a@x.example"]).await;
    f.store.hold_all(true).await.unwrap();
    assert!(f.store.backlog(Revision::START).all_held);
    let accepted = f.store.accept(f.message(&["b@x.example"]), Some(TTL)).await.unwrap();
    assert!(accepted.claimed.is_none());
    assert!(f.claim().await.is_empty());
    let seen = f.store.backlog(Revision::START).revision;
    f.store.hold_all(false).await.unwrap();
    assert!(!f.store.backlog(seen).all_held);
    assert_eq!(leases(&f.claim().await).len(), 2);
}

pub(super) async fn claims_expired_deliveries<S: Store>(f: &Fixture<S>) {
    let mut short = f.message(&["a@x.example", "b@x.example"]);
    short.expires_at = START.after(TTL);
    short.due_at = START.after(TTL * 9);
    f.store.accept(short.clone(), None).await.unwrap();
    f.accept(&["c@x.example"]).await;
    let one = Filter { recipient: Some("A@x.example".into()), ..Filter::default() };
    f.change(one, Change::Hold).await;
    let at = |at| Claim { expired_at: Some(at), limit: 1, ..f.everything() };
    let before = at(START.after(TTL).before(Duration::from_millis(1)));
    assert!(f.store.claim(before).await.unwrap().is_empty());
    for expected in ["b@x.example", "a@x.example"] {
        let claimed = f.store.claim(at(START.after(TTL))).await.unwrap();
        assert_eq!(claimed[0].deliveries[0].recipient.mailbox.as_str(), expected);
        if expected.starts_with('b') {
            f.settle(claimed[0].deliveries[0].lease, Outcome::Expired).await;
        } else {
            f.store.release(leases(&claimed)).await.unwrap();
        }
    }
    assert_eq!(f.counts(), [1, 0, 0, 1], "the held one is held again");
}

pub(super) async fn counts_the_backlog<S: Store>(f: &Fixture<S>) {
    let id = f.accept(&["a@x.example", "b@x.example", "c@y.example"]).await;
    let first = f.store.backlog(Revision::START);
    let x = first.queues.iter().find(|q| q.key.domain.as_str() == "x.example").unwrap();
    let size = f.message(&[]).body.len() as u64;
    assert_eq!((x.ready, x.bytes), (2, 2 * size));
    assert_eq!((x.key.tenant.as_str(), x.key.campaign.as_str()), ("shop", "spring"));
    assert!(x.oldest <= id.created_at() && x.next_due <= START);
    assert!(f.store.backlog(first.revision).queues.is_empty());

    let claim = Claim { queues: vec![(x.id, 9)], ..f.everything() };
    let held = leases(&f.store.claim(claim).await.unwrap());
    let second = f.store.backlog(first.revision);
    assert_eq!(second.queues.iter().map(|q| (q.id, q.leased)).collect::<Vec<_>>(), [(x.id, 2)]);
    assert_eq!(second.queues[0].next_due, Timestamp::NEVER);
    for lease in held {
        f.settle(lease, Outcome::Delivered).await;
    }
    let third = f.store.backlog(second.revision);
    assert_eq!(counts(&third), [0; 4]);
    assert_eq!((third.queues[0].id, third.queues[0].bytes), (x.id, 0));
    assert!(f.store.backlog(third.revision).queues.is_empty(), "told once");
    assert_eq!(f.store.backlog(Revision::START).queues.len(), 1);
}

pub(super) async fn wakes_those_who_wait<S: Store>(f: &Fixture<S>) {
    f.store.changed(Revision::START).await;
    let seen = f.store.backlog(Revision::START).revision;
    let waits = f.store.changed(seen);
    let acts = async {
        tokio::task::yield_now().await;
        f.accept(&["a@x.example"]).await;
    };
    tokio::join!(waits, acts);
    f.claim().await;
    let seen = f.store.backlog(seen).revision;
    f.clock.advance(TTL);
    f.store.changed(seen).await;
    assert_eq!(f.counts(), [1, 0, 0, 0], "the end of a lease is a change");
}

pub(super) async fn lists_page_by_page<S: Store>(f: &Fixture<S>) {
    for n in 0..7 {
        f.accept(&[&format!("u{n}@x.example"), &format!("u{n}@d{n}.example")]).await;
    }
    let name = |d: &DeliveryRecord| d.recipient.mailbox.as_str().to_owned();
    let whole: Vec<String> = f.list(Filter::default(), 100).await.iter().map(name).collect();
    assert_eq!(whole.len(), 14);
    for limit in [1, 3, 7, 14] {
        let paged: Vec<String> = f.list(Filter::default(), limit).await.iter().map(name).collect();
        assert_eq!(paged, whole);
    }
}

pub(super) async fn filters<S: Store>(f: &Fixture<S>) {
    let first = f.accept(&["a@x.example", "b@y.example"]).await;
    f.clock.advance(TTL);
    let mut other = f.message(&["c@x.example"]);
    other.origin.lane = Lane::Direct;
    other.origin.tenant = "mail".into();
    other.origin.campaign = String::new();
    other.envelope.reverse_path = ReversePath::Null;
    f.store.accept(other.clone(), Some(TTL)).await.unwrap();
    let all = Filter::default();
    for (filter, expected) in [
        (all.clone(), "abc"),
        (Filter { lane: Some(Lane::Bulk), ..all.clone() }, "ab"),
        (Filter { domains: vec!["x.example".into(), "z.example".into()], ..all.clone() }, "ac"),
        (Filter { tenant: Some("mail".into()), ..all.clone() }, "c"),
        (Filter { campaign: Some("spring".into()), ..all.clone() }, "ab"),
        (Filter { sender: Some("<>".into()), ..all.clone() }, "c"),
        (Filter { sender: Some("@SHOP.example".into()), ..all.clone() }, "ab"),
        (Filter { sender: Some("News@shop.example".into()), ..all.clone() }, "ab"),
        (Filter { recipient: Some("@y.example".into()), ..all.clone() }, "b"),
        (Filter { message: Some(first.to_string()), ..all.clone() }, "ab"),
        (
            Filter {
                message: Some(MessageId::floor(START).to_string()),
                states: vec![State::Held],
                ..all.clone()
            },
            "",
        ),
        (Filter { accepted_until: Some(START.0), ..all.clone() }, "ab"),
        (Filter { states: vec![State::Leased], ..all.clone() }, "c"),
        (Filter { states: vec![State::Ready, State::Leased], ..all.clone() }, "abc"),
    ] {
        let mut found: Vec<String> = f
            .list(filter.clone(), 2)
            .await
            .iter()
            .map(|d| d.recipient.mailbox.local_part().to_owned())
            .collect();
        found.sort();
        assert_eq!(found.concat(), expected, "{filter:?}");
    }
}

pub(super) async fn knows_the_last_id<S: Store>(f: &Fixture<S>) {
    assert_eq!(f.store.last_id(), None);
    let id = f.accept(&["a@x.example"]).await;
    f.change(Filter::default(), Change::Delete).await;
    assert_eq!(f.store.last_id(), Some(id));
}
