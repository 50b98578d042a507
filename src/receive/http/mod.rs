//! Mail by HTTP: what a program sends as JSON or as a whole message goes the way of a message that
//! came by SMTP, and 202 means what 250 means there.
//!
//! # Ways
//! `server` takes connections, [`Api::answer`] says what a request is for, `tokens` whose it is,
//! `body` reads it in bounds. `compose` and `raw` make messages of it, `submit` hands them to
//! [`Ingress`], and `keys` remembers what became of those that may be sent again.
//!
//! # Absent
//! Browsers (no CORS, no cookies), lists of messages, and what the queue has forgotten: a message
//! is known as long as one of its deliveries is not settled.

mod body;
mod compose;
mod fields;
mod keys;
#[cfg(test)]
mod openapi;
mod problem;
mod raw;
mod schema;
mod server;
mod status;
mod submit;
mod template;
mod tokens;

pub use tokens::hash as token_hash;

use self::keys::Keys;
use self::problem::Problem;
use super::Ingress;
use super::door::Door;
use crate::config::{Config, Http, ReceiveLimits};
use crate::store::Store;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What can be asked for.
const ROUTES: [(Method, &str); 4] = [
    (Method::POST, "/v1/messages"),
    (Method::GET, "/v1/messages/{id}"),
    (Method::GET, "/healthz"),
    (Method::GET, "/openapi.yaml"),
];

/// The description of all this.
const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

/// A disk that has not answered for so long is not well.
const STALLED_MS: u64 = 10_000;

type Answer = Response<Full<Bytes>>;

/// The interface of a node.
pub struct Api<S> {
    ingress: Arc<Ingress<S>>,
    keys: Arc<Keys>,
    door: Door,
    /// Requests being worked on, their clients gone or not.
    work: Arc<Semaphore>,
    terms: Http,
}

/// Who asks, and how he came.
#[derive(Clone, Copy, Debug)]
struct Guest {
    address: IpAddr,
    is_encrypted: bool,
}

impl<S: Store> Api<S> {
    /// Goes on from what an earlier run of the node has left.
    ///
    /// # Errors
    /// A sentence: what is remembered of requests cannot be read or written.
    pub fn open(ingress: Arc<Ingress<S>>, config: &Config) -> Result<Self, String> {
        let terms = config.http.clone();
        let keys = Keys::open(&config.data_dir, ingress.parts.clock.now())?;
        let door = Door::new(&ReceiveLimits {
            sessions: terms.connections,
            sessions_per_address: terms.connections_per_address,
            strangers: terms.connections,
            ..ReceiveLimits::default()
        });
        Ok(Self {
            keys: Arc::new(keys),
            door,
            work: Arc::new(Semaphore::new(terms.connections)),
            ingress,
            terms,
        })
    }

    /// Answers a request.
    async fn answer(self: &Arc<Self>, request: Request<Incoming>, guest: Guest) -> Answer {
        let path = request.uri().path().to_string();
        let id = path.strip_prefix("/v1/messages/").filter(|id| !id.is_empty());
        let route = if id.is_some() { "/v1/messages/{id}" } else { &path };
        let method = ROUTES.iter().find(|(_, path)| *path == route).map(|(method, _)| method);
        let Some(method) = method else {
            let problem = Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path");
            return refuse(&problem.remedy("GET /openapi.yaml says what there is"));
        };
        if request.method() != method {
            let detail = format!("this path takes {method} alone");
            let mut answer = refuse(&Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail));
            if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
                answer.headers_mut().insert(ALLOW, allowed);
            }
            return answer;
        }
        let answer = match (route, id) {
            ("/v1/messages", _) => self.submit(request, guest).await,
            (_, Some(id)) => self.show(&request, id, guest).await,
            ("/healthz", _) => Ok(self.health().await),
            _ => Ok(text("application/yaml", OPENAPI)),
        };
        answer.unwrap_or_else(|problem| refuse(&problem))
    }

    /// Whose a request is.
    async fn tenant<B>(&self, request: &Request<B>, guest: Guest) -> Result<String, Problem> {
        let parts = &self.ingress.parts;
        let config = parts.config.get();
        let known = (&*config, &*parts.logins);
        tokens::tenant(request.headers(), known, guest.address, parts.clock.now()).await
    }

    async fn health(&self) -> Answer {
        let store = &self.ingress.parts.store;
        let health = store.health();
        let (code, status) = if health.stalled_ms > STALLED_MS {
            (StatusCode::SERVICE_UNAVAILABLE, "the disk hangs")
        } else if store.room().await == 0 {
            (StatusCode::SERVICE_UNAVAILABLE, "no space is left for the queue")
        } else {
            (StatusCode::OK, "ok")
        };
        json(code, &schema::Health { status })
    }
}

fn answer_of(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn text(kind: &'static str, text: &'static str) -> Answer {
    answer_of(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()))
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    answer_of(status, "application/json", serde_json::to_vec(value).unwrap_or_default().into())
}

/// Tells a problem, in the header, too, where it belongs there.
fn refuse(problem: &Problem) -> Answer {
    let body = serde_json::to_vec(problem).unwrap_or_default().into();
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = answer_of(status, "application/problem+json", body);
    if let Some(seconds) = problem.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}
