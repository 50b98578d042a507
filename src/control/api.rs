//! What each request does: the store's work, cut into bounded slices, streamed as responses.

use super::orders::Desk;
use super::outlook::{Outlook, Terms, outlook};
use super::protocol::{Action, Counts, DeliveryView, MessageView, Request, Response};
use super::reception::Reception;
use super::summary::{Question, SITES_MAX, Summary, summarise};
use super::why::{Facts, Place};
use crate::base::id::MessageId;
use crate::base::live::Live;
use crate::base::time::{Clock, Timestamp};
use crate::policy::orders::Orders;
use crate::policy::site::{SiteStatus, by_domain};
use crate::store::{Backlog, Change, DeliveryRecord, Filter, Revision, State, Store, StoreError};
use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;

/// Deliveries asked of the store at a time.
const PAGE: usize = 500;
/// Deliveries explained one by one.
const EXPLAINED_MAX: usize = 20;
/// Pages looked through for a delivery's place.
const PLACE_PAGES: usize = 40;

/// The site facts of a node at this moment.
pub type Sites = Arc<dyn Fn() -> Vec<SiteStatus> + Send + Sync>;

/// Has a node read its configuration again for a user.
pub type Reload = Arc<dyn Fn(Option<u32>) -> Result<(), String> + Send + Sync>;

/// All that requests need. Clones are the same API.
#[derive(Clone)]
pub struct Api<S> {
    /// The queue.
    pub store: S,
    /// For ages and "due now".
    pub clock: Clock,
    /// The node's name; empty where the queue is read without a node.
    pub node: String,
    /// From the dispatcher.
    pub sites: Sites,
    /// From the configuration.
    pub terms: Live<Terms>,
    /// Takes orders; `None` where no node works on the queue.
    pub desk: Option<Arc<Desk>>,
    /// What the receiving side knows; `None` where none runs.
    pub reception: Option<Arc<Reception>>,
    /// Reads the configuration again, for this user; `None` where no node has one.
    pub reload: Option<Reload>,
}

/// Where responses go.
pub trait Sink {
    /// Sends one response on.
    ///
    /// # Errors
    /// [`Gone`]: nobody reads them; the work is to stop.
    fn send(&mut self, response: &Response) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The client went away or does not read.
#[derive(Debug)]
pub struct Gone;

/// The queue and the sites at one moment.
struct View {
    backlog: Backlog,
    statuses: Vec<SiteStatus>,
    outlook: Outlook,
    orders: Orders,
}

impl View {
    fn facts(&self, running: bool, now: Timestamp) -> Facts<'_> {
        let Self { backlog, statuses, outlook, orders } = self;
        let site_of = by_domain(statuses);
        Facts { backlog, statuses, site_of, outlook, orders, running, now }
    }
}

/// Why an answer ended early.
enum Stop {
    Gone,
    Error(String),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Error(error.to_string())
    }
}

impl<S: Store> Api<S> {
    /// Answers one request of a user (by id, where known), to its `done` or `error`.
    ///
    /// # Errors
    /// [`Gone`]: the answer was cut short since nobody reads it.
    pub async fn answer(
        &self,
        request: Request,
        user: Option<u32>,
        out: &mut (impl Sink + Send),
    ) -> Result<(), Gone> {
        match self.work(request, user, out).await {
            Ok(counts) => out.send(&Response::Done(counts)).await,
            Err(Stop::Error(sentence)) => out.send(&Response::Error(sentence)).await,
            Err(Stop::Gone) => Err(Gone),
        }
    }

    async fn work(
        &self,
        request: Request,
        user: Option<u32>,
        out: &mut (impl Sink + Send),
    ) -> Result<Counts, Stop> {
        match request {
            Request::Summary { lane, sites_max } => {
                let sites_max = sites_max.unwrap_or(SITES_MAX).min(SITES_MAX);
                let question = Question { lane, sites_max, now: self.clock.now() };
                let summary = Box::new(self.summary(question).await?);
                out.send(&Response::Summary(summary)).await?;
                Ok(Counts { count: 1, leased: 0 })
            }
            Request::List { filter, site } => match self.narrow(filter, site)? {
                Some(filter) => self.list(filter, out).await,
                None => Ok(Counts::default()),
            },
            Request::Show { message } => self.show(&message, out).await,
            Request::Why { what } => self.why(&what, out).await,
            Request::Change { action, filter, site } => match self.narrow(filter, site)? {
                Some(filter) => self.change(action, filter, out).await,
                None => Ok(Counts::default()),
            },
            Request::HoldAll => {
                self.store.hold_all(true).await?;
                Ok(Counts::default())
            }
            Request::ReleaseAll => {
                self.store.hold_all(false).await?;
                let queues = self.store.backlog(Revision::START).queues;
                let held = queues.iter().map(|queue| queue.held).sum();
                Ok(Counts { count: held, leased: 0 })
            }
            Request::Reload => {
                let Some(reload) = self.reload.clone() else {
                    return Err(Stop::Error("no node runs: its next start reads the file".into()));
                };
                // On a thread of its own: it waits for the disk.
                let work = aside("reload failed", move || reload(user)).await?;
                work.map_err(Stop::Error)?;
                Ok(Counts::default())
            }
            Request::Blocks | Request::Unblock { .. } => {
                let answer = self.reception()?.answer(&request, user).map_err(Stop::Error)?;
                send_all(&answer, out).await
            }
            Request::Tenants { name } => self.tenants(name, out).await,
            Request::Limits { .. }
            | Request::Orders
            | Request::ThrottleSet { .. }
            | Request::ThrottleClear { .. }
            | Request::Suspend { .. }
            | Request::Resume { .. } => send_all(&self.order(request, user).await?, out).await,
        }
    }

    /// Takes an order; somebody has looked at a tenant whose mail is to go again.
    async fn order(&self, request: Request, user: Option<u32>) -> Result<Vec<Response>, Stop> {
        let Some(desk) = self.desk.clone() else {
            return Err(Stop::Error("no node runs: nobody takes orders".to_string()));
        };
        let looked_at = match &request {
            Request::Resume { tenant: Some(tenant), as_usual, .. } => {
                Some((tenant.clone(), *as_usual))
            }
            _ => None,
        };
        // On a thread of its own: it waits for the disk.
        let work = aside("order failed", move || desk.answer(request, user)).await?;
        let mut answer = work.map_err(Stop::Error)?;
        if let (Some(reception), Some((tenant, as_usual))) = (&self.reception, looked_at) {
            answer.extend(reception.resumed(&tenant, as_usual, user));
        }
        Ok(answer)
    }

    async fn tenants(
        &self,
        name: Option<String>,
        out: &mut (impl Sink + Send),
    ) -> Result<Counts, Stop> {
        let (reception, view) = (self.reception()?, self.view().await?);
        let tenants = aside("cannot look at the tenants", move || {
            reception.tenants(name.as_deref(), &view.backlog, view.orders.suspensions())
        })
        .await?;
        let answer: Vec<_> = tenants.into_iter().map(|t| Response::Tenant(Box::new(t))).collect();
        send_all(&answer, out).await
    }

    fn reception(&self) -> Result<Arc<Reception>, Stop> {
        let sentence = "no node runs: nobody receives mail".to_string();
        self.reception.clone().ok_or(Stop::Error(sentence))
    }

    async fn summary(&self, question: Question) -> Result<Summary, Stop> {
        let (view, api) = (self.view().await?, self.clone());
        aside("summary failed", move || {
            let summary = summarise(&api.node, &view.backlog, &view.statuses, question);
            let suspensions = view.orders.suspensions().to_vec();
            Summary { store: api.store.health(), outlook: view.outlook, suspensions, ..summary }
        })
        .await
    }

    /// The queue and the sites just now. On a thread of its own: with millions of domains this
    /// takes a while.
    async fn view(&self) -> Result<View, Stop> {
        let api = self.clone();
        aside("cannot look at the queue", move || {
            let (backlog, statuses) = (api.store.backlog(Revision::START), (api.sites)());
            let outlook = outlook(&backlog, &statuses, &api.terms.get(), api.clock.now());
            let orders = api.desk.as_ref().map(|desk| desk.orders()).unwrap_or_default();
            View { backlog, statuses, outlook, orders }
        })
        .await
    }

    async fn list(&self, filter: Filter, out: &mut (impl Sink + Send)) -> Result<Counts, Stop> {
        let mut after = None;
        let mut counts = Counts::default();
        loop {
            let page = self.store.list(filter.clone(), after, PAGE).await?;
            if page.deliveries.is_empty() {
                // A client that went away is noticed by writing to it.
                out.send(&Response::Progress(counts)).await?;
            }
            for record in page.deliveries {
                out.send(&Response::Delivery(Box::new(DeliveryView::from(record)))).await?;
                counts.count += 1;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(counts),
            }
        }
    }

    async fn show(&self, message: &str, out: &mut (impl Sink + Send)) -> Result<Counts, Stop> {
        let id = parse_id(message)?;
        let mut counts = Counts::default();
        if let Some(record) = self.store.show(id).await? {
            out.send(&Response::Message(Box::new(MessageView::from(&*record.head)))).await?;
            for delivery in record.deliveries {
                out.send(&Response::Delivery(Box::new(DeliveryView::from(delivery)))).await?;
                counts.count += 1;
            }
        }
        Ok(counts)
    }

    /// Says why, of each delivery of a message, of each to or from an address, or of all mail to a
    /// domain or of a tenant.
    async fn why(&self, what: &str, out: &mut (impl Sink + Send)) -> Result<Counts, Stop> {
        let (now, running, name) = (self.clock.now(), !self.node.is_empty(), what.to_string());
        let mut records = self.meant(what).await?;
        let count = records.len();
        records.truncate(EXPLAINED_MAX);
        let mut deliveries = Vec::new();
        for record in records {
            let place = self.place(&record, now).await?;
            deliveries.push((record, place));
        }
        let view = self.view().await?;
        let found = aside("why failed", move || {
            let facts = view.facts(running, now);
            if deliveries.is_empty() {
                return [facts.to(&name.to_lowercase()), facts.of(&name)].concat();
            }
            deliveries.iter().map(|(record, place)| facts.delivery(record, *place)).collect()
        })
        .await?;
        let counts = Counts { count: count.max(found.len()) as u64, leased: 0 };
        for explanation in found {
            out.send(&Response::Why(Box::new(explanation))).await?;
        }
        Ok(counts)
    }

    /// The deliveries that a message id or an address stands for.
    async fn meant(&self, what: &str) -> Result<Vec<DeliveryRecord>, Stop> {
        if let Ok(id) = what.parse() {
            let record = self.store.show(id).await?;
            return Ok(record.map(|record| record.deliveries).unwrap_or_default());
        }
        if !what.contains('@') {
            return Ok(Vec::new());
        }
        let what = what.trim_start_matches('<').trim_end_matches('>').to_string();
        let to = Filter { recipient: Some(what.clone()), ..Filter::default() };
        let from = Filter { sender: Some(what), ..Filter::default() };
        for filter in [to, from] {
            let mut after = None;
            loop {
                let page = self.store.list(filter.clone(), after, PAGE).await?;
                if !page.deliveries.is_empty() {
                    return Ok(page.deliveries);
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(Vec::new())
    }

    /// What is due before this delivery, of its campaign to its domain. Counted up to a bound.
    async fn place(&self, record: &DeliveryRecord, now: Timestamp) -> Result<Option<Place>, Stop> {
        let waits = matches!(record.state, State::Ready | State::Deferred);
        let (Some(due_at), true) = (record.due_at, waits) else { return Ok(None) };
        let origin = &record.head.origin;
        let domain = record.recipient.mailbox.domain();
        let filter = Filter {
            lane: Some(origin.lane),
            domains: domain.map(|domain| domain.to_string()).into_iter().collect(),
            tenant: Some(origin.tenant.clone()),
            campaign: Some(origin.campaign.clone()),
            states: vec![State::Ready, State::Deferred],
            ..Filter::default()
        };
        let is_before = |other: &&DeliveryRecord| {
            let due = other.due_at.unwrap_or(now);
            (due, other.head.id, other.number) < (due_at, record.head.id, record.number)
        };
        let (mut before, mut after) = (0, None);
        for _ in 0..PLACE_PAGES {
            let page = self.store.list(filter.clone(), after, PAGE).await?;
            before += page.deliveries.iter().filter(is_before).count() as u64;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(Some(Place { before, at_least: false })),
            }
        }
        Ok(Some(Place { before, at_least: true }))
    }

    async fn change(
        &self,
        action: Action,
        filter: Filter,
        out: &mut (impl Sink + Send),
    ) -> Result<Counts, Stop> {
        let change = match action {
            Action::Hold => Change::Hold,
            Action::Release => Change::Release,
            Action::Retry => Change::Retry(self.clock.now()),
            Action::Delete => Change::Delete,
        };
        let mut after = None;
        let mut counts = Counts::default();
        loop {
            let changed = self.store.change(filter.clone(), change, after).await?;
            counts.count += changed.changed;
            counts.leased += changed.leased;
            match changed.next {
                Some(next) => after = Some(next),
                None => return Ok(counts),
            }
            out.send(&Response::Progress(counts)).await?;
        }
    }

    /// Puts the domains of `site` into the filter, and checks it. `None`: nothing can match.
    fn narrow(&self, mut filter: Filter, site: Option<String>) -> Result<Option<Filter>, Stop> {
        if let Some(message) = &filter.message {
            parse_id(message)?;
        }
        for domain in &mut filter.domains {
            *domain = domain.to_lowercase();
        }
        let Some(site) = site.map(|site| site.to_lowercase()) else { return Ok(Some(filter)) };
        let statuses = (self.sites)();
        let domains = domains_of(&site, &statuses);
        if filter.domains.is_empty() {
            filter.domains = domains.into_iter().collect();
        } else {
            filter.domains.retain(|domain| domains.contains(domain));
        }
        Ok((!filter.domains.is_empty()).then_some(filter))
    }
}

/// Sends a whole answer on.
async fn send_all(answer: &[Response], out: &mut (impl Sink + Send)) -> Result<Counts, Stop> {
    for response in answer {
        out.send(response).await?;
    }
    Ok(Counts { count: answer.len() as u64, leased: 0 })
}

/// Does work that takes a while, or waits for the disk, on a thread of its own.
async fn aside<T: Send + 'static>(
    failed: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stop> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Stop::Error(format!("{failed}: {error}")))
}

/// The domains that the summary counts under `site`.
fn domains_of(site: &str, statuses: &[SiteStatus]) -> HashSet<String> {
    let here = statuses.iter().filter(|status| status.site == site);
    let mut domains: HashSet<String> = here.flat_map(|status| status.domains.clone()).collect();
    let elsewhere =
        statuses.iter().any(|status| status.domains.iter().any(|domain| domain == site));
    if !elsewhere {
        domains.insert(site.to_string());
    }
    domains
}

fn parse_id(text: &str) -> Result<MessageId, Stop> {
    text.parse().map_err(|error| Stop::Error(format!("{text:?} is {error}")))
}

/// Sites of a queue that no node works on: none.
#[must_use]
pub fn no_sites() -> Sites {
    Arc::new(Vec::new)
}
