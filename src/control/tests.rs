//! The protocol over a real Unix socket, with a store of a few hundred deliveries.

#[cfg(test)]
mod orders;

use super::api::no_sites;
use super::client::{Client, ClientError};
use super::protocol::{Action, Counts, DeliveryView, Request, Response};
use super::*;
use crate::base::address::{Domain, Mailbox, ReversePath};
use crate::base::id::{IdGenerator, MessageId};
use crate::base::time::{Clock, Timestamp};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::message::{Lane, MessageHead, NewMessage, Origin};
use crate::policy::site::{Gate, SiteStatus};
use crate::store::*;
use bytes::Bytes;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) const NOW: Timestamp = Timestamp(1_795_394_728_114);
const PATIENCE: Duration = Duration::from_secs(10);
/// Rows looked at for one page or slice.
const SLICE: u32 = 100;

/// As much of a store as the API asks for: rows in one list, walked by number.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Rows>>);

#[derive(Default)]
struct Rows {
    deliveries: Vec<DeliveryRecord>,
    all_held: bool,
    /// `list` and `change` find nothing, for ever.
    endless: bool,
}

fn matches(filter: &Filter, record: &DeliveryRecord) -> bool {
    let domain = record.recipient.mailbox.domain().map(Domain::as_str).unwrap_or_default();
    let Filter { lane, domains, message, states, .. } = filter;
    lane.is_none_or(|lane| lane == record.head.origin.lane)
        && (domains.is_empty() || domains.iter().any(|d| d == domain))
        && message.as_ref().is_none_or(|id| *id == record.head.id.to_string())
        && (states.is_empty() || states.contains(&record.state))
}

fn cursor(number: u32) -> Cursor {
    let message = MessageId::floor(NOW);
    Cursor { queue: QueueId(1), due_at: NOW, delivery: DeliveryId { message, number } }
}

impl Fake {
    fn walk(
        &self,
        filter: &Filter,
        after: Option<Cursor>,
        mut found: impl FnMut(&mut DeliveryRecord),
    ) -> Option<Cursor> {
        let mut rows = self.0.lock().unwrap();
        let first = after.map_or(0, |cursor| cursor.delivery.number);
        if rows.endless {
            return Some(cursor(first));
        }
        let end = first + SLICE;
        let slice = rows.deliveries.iter_mut().skip(first as usize).take(SLICE as usize);
        slice.filter(|record| matches(filter, record)).for_each(&mut found);
        ((end as usize) < rows.deliveries.len()).then(|| cursor(end))
    }
}

impl Store for Fake {
    async fn accept(&self, _: NewMessage, _: Option<Duration>) -> Result<Accepted, StoreError> {
        Err(StoreError::Busy)
    }

    async fn claim(&self, _: Claim) -> Result<Vec<Claimed>, StoreError> {
        Err(StoreError::Busy)
    }

    async fn renew(&self, _: Vec<Lease>, _: Duration) -> Result<Vec<Lease>, StoreError> {
        Err(StoreError::Busy)
    }

    async fn settle(&self, _: Settlement) -> Result<Vec<Lease>, StoreError> {
        Err(StoreError::Busy)
    }

    async fn release(&self, _: Vec<Lease>) -> Result<(), StoreError> {
        Err(StoreError::Busy)
    }

    async fn bodies(&self, _: Vec<MessageId>) -> Result<Vec<(MessageId, Bytes)>, StoreError> {
        Err(StoreError::Busy)
    }

    fn backlog_part(&self, _: Revision, _: usize) -> Backlog {
        let rows = self.0.lock().unwrap();
        let queue = |record: &DeliveryRecord| {
            let count = |state| u64::from(record.state == state);
            let key = QueueKey {
                lane: record.head.origin.lane,
                tenant: String::new(),
                campaign: String::new(),
                domain: record.recipient.mailbox.domain().unwrap().clone(),
            };
            QueueBacklog {
                id: QueueId(1),
                key: Arc::new(key),
                ready: count(State::Ready),
                deferred: count(State::Deferred),
                leased: count(State::Leased),
                held: count(State::Held),
                bytes: 1,
                oldest: record.head.accepted_at,
                next_due: NOW,
            }
        };
        let queues = rows.deliveries.iter().map(queue).collect();
        Backlog { revision: Revision::START, all_held: rows.all_held, queues }
    }

    async fn changed(&self, _: Revision) {}

    async fn list(
        &self,
        filter: Filter,
        after: Option<Cursor>,
        _: usize,
    ) -> Result<Page, StoreError> {
        // As a real store does: other tasks get their turn.
        tokio::task::yield_now().await;
        let mut deliveries = Vec::new();
        let next = self.walk(&filter, after, |record| deliveries.push(record.clone()));
        Ok(Page { deliveries, next })
    }

    async fn show(&self, message: MessageId) -> Result<Option<MessageRecord>, StoreError> {
        let rows = self.0.lock().unwrap();
        let of_message = rows.deliveries.iter().filter(|record| record.head.id == message);
        let deliveries: Vec<_> = of_message.cloned().collect();
        let head = deliveries.first().map(|record| Arc::clone(&record.head));
        Ok(head.map(|head| MessageRecord { head, deliveries }))
    }

    async fn change(
        &self,
        filter: Filter,
        action: Change,
        after: Option<Cursor>,
    ) -> Result<Changed, StoreError> {
        tokio::task::yield_now().await;
        let mut changed = Changed::default();
        changed.next = self.walk(&filter, after, |record| match (action, record.state) {
            (_, State::Leased) => changed.leased += 1,
            (Change::Hold, State::Ready) => {
                record.state = State::Held;
                changed.changed += 1;
            }
            (Change::Release, State::Held) => {
                record.state = State::Ready;
                changed.changed += 1;
            }
            _ => {}
        });
        Ok(changed)
    }

    async fn hold_all(&self, hold: bool) -> Result<(), StoreError> {
        self.0.lock().unwrap().all_held = hold;
        Ok(())
    }

    async fn room(&self) -> u64 {
        u64::MAX
    }

    fn last_id(&self) -> Option<MessageId> {
        None
    }
}

/// 300 bulk deliveries over three domains, the first of them leased, in messages of 100.
pub(crate) fn store() -> Fake {
    let fake = Fake::default();
    let mut ids = IdGenerator::after(None);
    let mut rows = fake.0.lock().unwrap();
    for domain in ["a.example", "b.example", "c.example"] {
        let head = Arc::new(MessageHead {
            id: ids.next(NOW),
            accepted_at: NOW,
            expires_at: NOW.after(Duration::from_secs(3_600)),
            origin: Origin {
                lane: Lane::Bulk,
                reason: "X-Newsletter: yes".into(),
                tenant: "t1".into(),
                campaign: String::new(),
                client: "10.0.0.7".into(),
            },
            envelope: Envelope::from(ReversePath::parse("news@t1.example").unwrap()),
            size: 1_000,
            recipient_count: 100,
        });
        rows.deliveries.extend((0..100).map(|number| DeliveryRecord {
            head: Arc::clone(&head),
            number,
            recipient: Recipient::new(Mailbox::parse(&format!("u{number}@{domain}")).unwrap()),
            state: State::Ready,
            attempts: 0,
            due_at: Some(NOW),
            last_at: None,
            last_reply: String::new(),
            blame: None,
        }));
    }
    rows.deliveries[0].state = State::Leased;
    drop(rows);
    fake
}

fn site() -> SiteStatus {
    SiteStatus {
        site: "mx.example".into(),
        domains: vec!["a.example".into(), "b.example".into()],
        connections: 1,
        connections_max: 10,
        rate_per_minute: 60,
        gate: Gate::Open,
        why: String::new(),
        window: 3,
        waiting: Vec::new(),
        resting: Vec::new(),
        also_called: Default::default(),
    }
}

/// A server on a socket of its own; it stops when this is dropped.
pub(crate) struct Running {
    dir: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Running {
    pub(crate) async fn start(store: Fake) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = crate::net::unix::bind(&dir.path().join("s"), 0o600).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let clock = Clock::simulated(NOW);
        let desk = Some(Arc::new(orders::desk(dir.path(), &clock)));
        let sites: api::Sites = Arc::new(|| vec![site()]);
        let (node, terms) = ("mx1".into(), Default::default());
        let api = Api { store, clock, node, sites, terms, desk, reception: None, reload: None };
        tokio::spawn(serve(socket, api, async {
            let _ = stopped.await;
        }));
        Self { dir, _stop: stop }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn stream(&self) -> UnixStream {
        UnixStream::connect(self.path().join("s")).await.unwrap()
    }

    async fn client(&self) -> Client<UnixStream> {
        Client::new(self.stream().await)
    }
}

/// The whole answer: what was found, and how it ended.
async fn ask(
    client: &mut Client<UnixStream>,
    request: Request,
) -> (Vec<Response>, Result<Counts, String>) {
    client.send(&request).await.unwrap();
    let mut found = Vec::new();
    loop {
        match client.next().await.unwrap() {
            Response::Done(counts) => return (found, Ok(counts)),
            Response::Error(sentence) => return (found, Err(sentence)),
            Response::Progress(_) => {}
            response => found.push(response),
        }
    }
}

fn list(filter: Filter, site: Option<&str>) -> Request {
    Request::List { filter, site: site.map(str::to_string) }
}

fn change(action: Action, filter: Filter) -> Request {
    Request::Change { action, filter, site: None }
}

fn to(domain: &str) -> Filter {
    Filter { domains: vec![domain.to_string()], ..Filter::default() }
}

#[tokio::test]
async fn answers_one_request_after_the_other() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;

    let (found, done) = ask(&mut client, Request::Summary { lane: None, sites_max: None }).await;
    let [Response::Summary(summary)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((summary.node.as_str(), summary.total.ready, summary.total.leased), ("mx1", 299, 1));
    let sites: Vec<_> = summary.sites.iter().map(|s| (s.site.as_str(), s.total.count())).collect();
    assert_eq!(sites, [("mx.example", 200), ("c.example", 100)]);
    assert!(done.is_ok());

    let (found, done) = ask(&mut client, list(Filter::default(), None)).await;
    assert_eq!((found.len(), done), (300, Ok(Counts { count: 300, leased: 0 })));
    let Response::Delivery(first) = &found[0] else { panic!("{:?}", found[0]) };
    let DeliveryView { message, recipient, state, .. } = &**first;
    assert_eq!((recipient.as_str(), *state), ("u0@a.example", State::Leased));

    let (found, done) = ask(&mut client, Request::Show { message: message.clone() }).await;
    assert!(matches!(&found[0], Response::Message(view) if view.recipients == 100));
    assert_eq!((found.len(), done), (101, Ok(Counts { count: 100, leased: 0 })));
}

#[tokio::test]
async fn a_site_stands_for_its_domains() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;
    let mut count = async |filter: Filter, site: &str| {
        ask(&mut client, list(filter, Some(site))).await.1.unwrap().count
    };
    assert_eq!(count(Filter::default(), "MX.example").await, 200);
    assert_eq!(count(to("B.example"), "mx.example").await, 100);
    assert_eq!(count(to("c.example"), "mx.example").await, 0, "another site's domain");
    assert_eq!(count(Filter::default(), "c.example").await, 100, "no site known: its own name");
    assert_eq!(count(Filter::default(), "a.example").await, 0, "shown under its site");
    assert_eq!(count(Filter::default(), "nowhere.example").await, 0);
}

#[tokio::test]
async fn changes_tell_what_they_did_and_what_was_on_a_connection() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;
    let (_, done) = ask(&mut client, change(Action::Hold, to("a.example"))).await;
    assert_eq!(done, Ok(Counts { count: 99, leased: 1 }));
    let held = Filter { states: vec![State::Held], ..Filter::default() };
    assert_eq!(ask(&mut client, list(held.clone(), None)).await.1.unwrap().count, 99);

    assert!(ask(&mut client, Request::HoldAll).await.1.is_ok());
    let (found, _) = ask(&mut client, Request::Summary { lane: None, sites_max: None }).await;
    assert!(matches!(&found[0], Response::Summary(s) if s.all_held && s.total.held == 299));

    let (_, done) = ask(&mut client, Request::ReleaseAll).await;
    assert_eq!(done, Ok(Counts { count: 99, leased: 0 }), "held by a filter: stays so");
    let (_, done) = ask(&mut client, change(Action::Release, held)).await;
    assert_eq!(done, Ok(Counts { count: 99, leased: 0 }));
    let (found, _) = ask(&mut client, Request::Summary { lane: None, sites_max: None }).await;
    assert!(matches!(&found[0], Response::Summary(s) if !s.all_held && s.total.held == 0));
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_answered() {
    let running = Running::start(store()).await;
    let mut client = running.client().await;
    let unknown = Filter { message: Some("x\u{1b}".into()), ..Filter::default() };
    let (_, done) = ask(&mut client, list(unknown, None)).await;
    assert_eq!(
        done,
        Err("\"x\\u{1b}\" is not a message id: want 12 characters such as 1RW7M2Q80A3F".into())
    );
    let (found, done) = ask(&mut client, Request::Show { message: "000000000001".into() }).await;
    assert_eq!((found.len(), done), (0, Ok(Counts::default())));

    let mut stream = running.stream().await;
    for wrong in ["hello", "{}", "{\"verb\":\"list\",\"filtre\":{}}", "{\"verb\":\"stop\"}"] {
        stream.write_all(format!("{wrong}\n").as_bytes()).await.unwrap();
    }
    stream.write_all(b"{\"verb\":\"hold_all\"}\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines.len(), 5, "{answer}");
    assert!(lines[..4].iter().all(|line| line.starts_with("{\"error\":\"not a request: ")));
    assert_eq!(lines[4], "{\"done\":{\"count\":0,\"leased\":0}}");
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off() {
    let running = Running::start(store()).await;
    let mut stream = running.stream().await;
    let flood = vec![b'x'; 2 * REQUEST_MAX];
    // The node may close before it has all of it.
    let _ = stream.write_all(&flood).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 1_000);
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_work() {
    for request in ["{\"verb\":\"list\"}\n", "{\"verb\":\"change\",\"action\":\"hold\"}\n"] {
        let store = store();
        store.0.lock().unwrap().endless = true;
        let api = Api {
            store,
            clock: Clock::system(),
            node: String::new(),
            sites: no_sites(),
            terms: Default::default(),
            desk: None,
            reception: None,
            reload: None,
        };
        let (mut near, far) = UnixStream::pair().unwrap();
        let served = tokio::spawn(async move { serve_one(far, None, &api, PATIENCE).await });
        near.write_all(request.as_bytes()).await.unwrap();
        near.read_u8().await.unwrap();
        drop(near);
        timeout(PATIENCE, served).await.expect("it goes on").unwrap();
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let store = store();
    store.0.lock().unwrap().endless = true;
    let api = Api {
        store,
        clock: Clock::system(),
        node: String::new(),
        sites: no_sites(),
        terms: Default::default(),
        desk: None,
        reception: None,
        reload: None,
    };
    let (mut near, far) = tokio::io::duplex(1_024);
    near.write_all(b"{\"verb\":\"list\"}\n").await.unwrap();
    let impatient = Duration::from_millis(20);
    timeout(PATIENCE, serve_one(far, None, &api, impatient)).await.expect("it waits for ever");
    drop(near);
}

#[tokio::test]
async fn more_clients_than_places_wait_for_their_turn() {
    let running = Running::start(store()).await;
    let mut idle = Vec::new();
    for _ in 0..server::CLIENTS_MAX {
        let mut client = running.client().await;
        assert!(ask(&mut client, Request::ReleaseAll).await.1.is_ok());
        idle.push(client);
    }
    let mut late = running.client().await;
    late.send(&Request::HoldAll).await.unwrap();
    assert!(timeout(Duration::from_millis(50), late.next()).await.is_err(), "it has no place yet");
    idle.pop();
    let answer = timeout(PATIENCE, late.next()).await.unwrap();
    assert!(matches!(answer, Ok(Response::Done(_))));
}

#[tokio::test]
async fn shutdown_closes_connections_and_removes_the_socket() {
    let Running { dir, _stop } = Running::start(store()).await;
    let mut client = Client::new(UnixStream::connect(dir.path().join("s")).await.unwrap());
    assert!(ask(&mut client, Request::HoldAll).await.1.is_ok());
    drop(_stop);
    let end = timeout(PATIENCE, client.next()).await.unwrap();
    assert!(matches!(end, Err(ClientError::Closed | ClientError::Io(_))));
    assert!(!dir.path().join("s").exists());
}
