//! The way of a request into the queue.
//!
//! # Order
//! Whose it is; its body; all of it checked; its key begun. From there on it is worked on to its
//! end, whether the client stays or not: in parts, each built, handed to the store (many wait for
//! one sync), and recorded under the key.
//!
//! What is refused for a while ends the work: the rest is not tried. A repeat with the key goes on
//! there, and tries again what was refused.

use super::body::{self, Bounds, Read};
use super::compose::{Built, Plan, Terms};
use super::keys::{self, Claim};
use super::problem::Problem;
use super::schema::{Draft, Message, Submitted};
use super::{Answer, Api, Guest, json, raw, refuse};
use crate::base::address::Mailbox;
use crate::base::id::MessageId;
use crate::base::random::unforeseeable;
use crate::base::text::hex;
use crate::base::time::Timestamp;
use crate::mail::envelope::{BodyType, Envelope, Recipient};
use crate::mail::header;
use crate::mail::message::NewMessage;
use crate::observe::receive as tell;
use crate::receive::intake::Client;
use crate::smtp::command::Refusal;
use crate::smtp::data::{ChunkReader, DataLimits};
use crate::smtp::server::Received;
use crate::store::Store;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::{Request, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

/// Messages of a request that are taken together, at most; and as many bytes, unless one alone has
/// more.
const PART: usize = 32;
const PART_BYTES: usize = 1 << 20;
/// Memory for a part, in bytes: as it is built, and as it goes to the store.
const PART_MEMORY: usize = 3 * PART_BYTES;
/// Memory for each byte of a request: checked, built, and as it goes to the store.
const FACTOR: usize = 4;
/// Longest key, in bytes.
const KEY_MAX: usize = 255;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a request brings.
enum Offer {
    /// One whole message.
    Whole(Built),
    Plan(Box<Plan>),
}

impl Offer {
    fn count(&self) -> usize {
        match self {
            Self::Whole(_) => 1,
            Self::Plan(plan) => plan.count(),
        }
    }

    fn is_batch(&self) -> bool {
        matches!(self, Self::Plan(plan) if plan.is_batch())
    }

    fn recipients(&self, n: usize) -> Vec<&Mailbox> {
        match self {
            Self::Whole(built) => built.recipients.iter().collect(),
            Self::Plan(plan) => plan.recipients(n),
        }
    }

    fn build(&self, n: usize, now: Timestamp) -> Result<Built, Problem> {
        match self {
            Self::Whole(built) => Ok(Built {
                reverse_path: built.reverse_path.clone(),
                recipients: built.recipients.clone(),
                bytes: built.bytes.clone(),
            }),
            Self::Plan(plan) => {
                let random = unforeseeable::<12>().map_err(|_| {
                    let detail = "the system has no randomness";
                    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
                })?;
                plan.build(n, &hex(&random), now)
            }
        }
    }
}

/// A request that is worked on.
struct Work {
    offer: Arc<Offer>,
    claim: Option<Claim>,
    client: Client,
    guest: Guest,
    begun: Timestamp,
    _memory: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
    _turn: OwnedSemaphorePermit,
}

/// What became of each message that was tried.
type Outcomes = BTreeMap<usize, Result<MessageId, Problem>>;

impl<S: Store> Api<S> {
    /// Takes mail.
    pub(super) async fn submit(
        self: &Arc<Self>,
        request: Request<Incoming>,
        guest: Guest,
    ) -> Result<Answer, Problem> {
        let begun = self.ingress.parts.clock.now();
        let tenant = self.tenant(&request, guest).await?;
        let busy = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once");
        let turn = Arc::clone(&self.work).try_acquire_owned().map_err(busy)?;
        let is_whole = is_whole(request.headers())?;
        let key = key(request.headers())?;
        let query = request.uri().query().unwrap_or_default().to_string();
        let bounds = Bounds {
            size: self.ingress.settings.message_size,
            time: self.terms.request_timeout,
            depot: &self.ingress.depot,
            factor: FACTOR,
            more: if is_whole { 0 } else { PART_MEMORY },
        };
        let Read { bytes, memory, has_more } = body::read(request.into_body(), &bounds).await?;
        let hash = keys::hash(&[&[u8::from(is_whole)], query.as_bytes(), &bytes]);
        let (config, personal) = (self.ingress.parts.config.get(), self.terms.recipients);
        let offer = aside(move || match is_whole {
            true => raw::read(&query, bytes, config.limits.recipients).map(Offer::Whole),
            false => {
                let terms = Terms {
                    hostname: &config.hostname,
                    rules: &config.lanes.rules,
                    recipients: config.limits.recipients,
                    personal,
                    campaign: format!("api-{}", hex(hash.get(..6).unwrap_or_default())),
                };
                plan(&bytes, &query, &terms).map(Box::new).map(Offer::Plan)
            }
        });
        let offer = offer.await??;
        let more = match offer.is_batch() && !has_more {
            true => Some(self.ingress.depot.work(PART_MEMORY).await),
            false => None,
        };
        let more = more.transpose().map_err(|refusal| Problem::from(&refusal))?;
        let claim = key.map(|key| {
            let request =
                keys::Request { tenant: &tenant, key: &key, body: hash, total: offer.count() };
            self.keys.begin(&request, self.terms.keys_memory, begun)
        });
        let work = Work {
            claim: claim.transpose()?,
            offer: Arc::new(offer),
            client: Client { address: guest.address, tenant: Some(tenant), certificate: None },
            guest,
            begun,
            _memory: (memory, more),
            _turn: turn,
        };
        // On its own: a client that hangs up does not leave it half done.
        let api = Arc::clone(self);
        let done = tokio::spawn(async move { api.work(work).await });
        done.await.map_err(|_| failed())
    }

    /// Takes all messages that are not taken yet, and says what became of each.
    async fn work(&self, work: Work) -> Answer {
        let count = work.offer.count();
        let known = work.claim.as_ref().map(|claim| claim.known.clone()).unwrap_or_default();
        let mut outcomes: Outcomes =
            known.into_iter().map(|(n, id)| (n as usize, Ok(id))).collect();
        let mut pending: Vec<usize> = (0..count).filter(|n| !outcomes.contains_key(n)).collect();
        pending.reverse();
        while !pending.is_empty() {
            let part = self.part(&work, &mut pending).await;
            let id = |(n, outcome): (&usize, &Result<MessageId, Problem>)| {
                Some((u32::try_from(*n).ok()?, *outcome.as_ref().ok()?))
            };
            let taken: Vec<_> = part.iter().filter_map(id).collect();
            if let Some(claim) = work.claim.as_ref().filter(|_| !taken.is_empty()) {
                claim.record(taken).await;
            }
            let is_temporary =
                |one: &Result<_, Problem>| one.as_ref().is_err_and(Problem::is_temporary);
            let is_over = part.values().any(is_temporary);
            outcomes.extend(part);
            if is_over {
                break;
            }
        }
        answer(&work.offer, &outcomes)
    }

    /// Builds some of the pending messages, of which the next is the last, and hands them over.
    async fn part(&self, work: &Work, pending: &mut Vec<usize>) -> Outcomes {
        let (offer, now) = (Arc::clone(&work.offer), self.ingress.parts.clock.now());
        let next = pending.last().copied().unwrap_or_default();
        let mut left = std::mem::take(pending);
        let built = aside(move || {
            let (mut built, mut bytes) = (Vec::new(), 0);
            while built.len() < PART && bytes < PART_BYTES {
                let Some(n) = left.pop() else { break };
                let one = offer.build(n, now);
                bytes += one.as_ref().map_or(0, |one| one.bytes.len());
                built.push((n, one));
            }
            (built, left)
        });
        let built = match built.await {
            Ok((built, left)) => {
                *pending = left;
                built
            }
            Err(problem) => return Outcomes::from([(next, Err(problem))]),
        };
        let mut accepting = JoinSet::new();
        let mut outcomes = Outcomes::new();
        for (n, built) in built {
            let prepared = built.and_then(|built| {
                self.prepare(built, work).map_err(|refusal| Problem::from(&refusal))
            });
            match prepared {
                Ok(message) => {
                    let (ingress, begun) = (Arc::clone(&self.ingress), work.begun);
                    let id = message.id;
                    accepting.spawn(async move { (n, id, ingress.accept(message, begun).await) });
                }
                Err(problem) => _ = outcomes.insert(n, Err(problem)),
            }
        }
        while let Some(accepted) = accepting.join_next().await {
            // A task that panicked has no number; its message is then not among the outcomes.
            let Ok((n, id, refusal)) = accepted else { continue };
            let is_taken = refusal.code == 250;
            outcomes.insert(n, is_taken.then_some(id).ok_or_else(|| Problem::from(&refusal)));
        }
        outcomes
    }

    /// What a session would do with a message before it is stored.
    fn prepare(&self, built: Built, work: &Work) -> Result<NewMessage, Refusal> {
        let sender = built.reverse_path.clone();
        let prepared = self.received(built, work).and_then(|received| {
            for recipient in &received.envelope.recipients {
                if let Some(domain) = recipient.mailbox.domain() {
                    // The dispatcher asks again where it could not be told.
                    _ = self.ingress.parts.expected.try_send(domain.clone());
                }
            }
            self.ingress.prepare(received, &work.client)
        });
        prepared.inspect_err(|refusal| tell::message_refused(work.guest.address, &sender, refusal))
    }

    fn received(&self, built: Built, work: &Work) -> Result<Received, Refusal> {
        let Built { reverse_path, recipients, bytes } = built;
        let settings = &self.ingress.settings;
        let limits = DataLimits { size: settings.message_size, line: settings.line_length };
        let (mut reader, mut body) = (ChunkReader::new(limits), Vec::with_capacity(bytes.len()));
        reader.read(&bytes, &mut body);
        reader.finish(&mut body);
        if let Some(found) = reader.fault() {
            return Err(settings.fault(found));
        }
        let section = body.get(..header::header_len(&body)).unwrap_or_default();
        let is_utf8 = |mailbox: &Mailbox| mailbox.is_utf8();
        let smtputf8 = !section.is_ascii()
            || recipients.iter().any(is_utf8)
            || reverse_path.mailbox().is_some_and(is_utf8);
        let envelope = Envelope {
            body: if body.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
            smtputf8,
            recipients: recipients.into_iter().map(Recipient::new).collect(),
            ..Envelope::from(reverse_path)
        };
        let literal = match work.guest.address {
            std::net::IpAddr::V4(v4) => format!("[{v4}]"),
            std::net::IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
        };
        let protocol = if work.guest.is_encrypted { "HTTPS" } else { "HTTP" };
        let (user, forwarded_for) = (work.client.tenant.clone(), None);
        Ok(Received { envelope, helo: literal, user, forwarded_for, protocol, taken: 0, body })
    }
}

/// A message that is one alone is answered for by the status; of many, each has its own.
fn answer(offer: &Offer, outcomes: &Outcomes) -> Answer {
    let mut messages = Vec::new();
    let (mut queued, mut first, mut retry_after) = (0, None, None);
    for n in 0..offer.count() {
        let (id, status, problem) = match outcomes.get(&n) {
            Some(Ok(id)) => (Some(id.to_string()), "queued", None),
            Some(Err(problem)) if problem.is_temporary() => (None, "later", Some(problem)),
            Some(Err(problem)) => (None, "refused", Some(problem)),
            None => (None, "later", None),
        };
        queued += usize::from(id.is_some());
        first = first.or(problem);
        retry_after = retry_after.or(problem.and_then(|problem| problem.retry_after));
        let recipients = offer.recipients(n).into_iter().map(ToString::to_string).collect();
        messages.push(Message { id, status, recipients, problem: problem.cloned() });
    }
    if queued == 0 {
        return refuse(first.unwrap_or(&failed()));
    }
    let mut answer = json(StatusCode::ACCEPTED, &Submitted { messages });
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(hyper::header::RETRY_AFTER, seconds.into());
    }
    answer
}

fn failed() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the request failed here")
}

/// Whether the body is a whole message.
fn is_whole(headers: &HeaderMap) -> Result<bool, Problem> {
    let wrong = |detail: &str| {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .remedy("send application/json or message/rfc822, not compressed")
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(wrong("the body is compressed"));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(false),
        "message/rfc822" => Ok(true),
        _ => Err(wrong("the Content-Type is not one that is taken here")),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = all.next() else { return Ok(None) };
    let fits =
        (1..=KEY_MAX).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
    if !fits || all.next().is_some() {
        let detail = format!("is not one key of 1 to {KEY_MAX} visible ASCII characters");
        let problem = Problem::of("Idempotency-Key", detail);
        return Err(problem.remedy("make a new UUID for each request that is not a repeat"));
    }
    Ok(Some(key.as_bytes().to_vec()))
}

/// Reads and checks JSON.
fn plan(bytes: &[u8], query: &str, terms: &Terms<'_>) -> Result<Plan, Problem> {
    if !query.is_empty() {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "JSON takes no query parameters");
        return Err(problem.remedy("give all that there is to say in the body"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let draft: Draft = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        let detail = crate::base::text::printable(error.to_string().as_bytes(), 400);
        match error.is_data() {
            true => Problem::of(path, detail).remedy("GET /openapi.yaml says what it may be"),
            false => Problem::new(StatusCode::BAD_REQUEST, format!("this is not JSON: {detail}")),
        }
    })?;
    reader.end().map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("more than one JSON value: {error}"))
    })?;
    Plan::check(draft, terms)
}

/// Work for the processor, where it keeps nobody waiting.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|_| failed())
}
