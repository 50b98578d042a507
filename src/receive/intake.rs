//! From a received message to the queue: hops, lane, tenant, trace fields, and the durable accept.

use super::door::Door;
use super::hold::Depot;
use super::logins::Logins;
use super::patience::Patience;
use super::tenants::{Offered, Tenants};
use crate::base::address::{Domain, ReversePath};
use crate::base::id::IdGenerator;
use crate::base::live::Live;
use crate::base::time::{Clock, Timestamp};
use crate::config::Config;
use crate::mail::header::{self, Trace};
use crate::mail::lines;
use crate::mail::message::{Lane, NewMessage};
use crate::observe::receive as tell;
use crate::observe::store as tell_store;
use crate::policy::classify;
use crate::smtp::command::Refusal;
use crate::smtp::server::{Received, Settings};
use crate::store::{Handoff, Store, StoreError};
use rustls::ServerConfig;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long direct deliveries are born leased: as long as the dispatcher's own leases.
const LEASE: Duration = Duration::from_secs(2 * 3_600);

/// How long a client waits for the disk. What is stored after all, later, is delivered; the client
/// then sends it again: better twice than never.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// Who sends a message.
#[derive(Debug)]
pub(super) struct Client {
    /// His address.
    pub(super) address: IpAddr,
    /// The tenant of the user that he has logged in as.
    pub(super) tenant: Option<String>,
    /// The fingerprint of the certificate that he has shown, where a tenant has it.
    pub(super) certificate: Option<String>,
}

/// What the receiving side of a node is made of.
pub struct Parts<S> {
    /// Takes what is received.
    pub store: S,
    /// Followed while it changes.
    pub config: Live<Config>,
    /// The node's.
    pub clock: Clock,
    /// The node's.
    pub ids: Arc<Mutex<IdGenerator>>,
    /// Takes accepted direct mail; where it is full, mail goes by way of the store.
    pub direct: mpsc::Sender<Handoff>,
    /// Takes the domains that mail will go to.
    pub expected: mpsc::Sender<Domain>,
    /// Of every handshake; `None` without a certificate.
    pub tls: Live<Option<Arc<ServerConfig>>>,
    /// What is remembered of tenants.
    pub tenants: Arc<Tenants>,
    /// Who logs in.
    pub logins: Arc<Logins>,
}

/// The receiving side of a node.
pub struct Ingress<S> {
    pub(super) parts: Parts<S>,
    pub(super) settings: Arc<Settings>,
    pub(super) depot: Arc<Depot>,
    pub(super) door: Door,
}

impl<S: Store> Ingress<S> {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: Parts<S>) -> Self {
        let now = parts.config.get();
        let limits = &now.limits;
        let settings = Settings {
            hostname: now.hostname.clone(),
            message_size: usize::try_from(limits.message_size).unwrap_or(usize::MAX),
            line_length: limits.line_length,
            recipients: limits.recipients,
            messages: limits.messages,
            commands: limits.commands,
            errors: limits.errors,
        };
        Self {
            settings: Arc::new(settings),
            depot: Arc::new(Depot::new(&now)),
            door: Door::new(limits),
            parts,
        }
    }

    /// How long clients may take at this moment.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(&self.parts.config.get().limits, self.door.is_crowded())
    }

    /// Puts a message into the queue. What it gives is the answer to the client; 250 is given only
    /// once the message is durable.
    pub(super) async fn take(
        &self,
        received: Received,
        client: &Client,
        begun: Timestamp,
    ) -> Refusal {
        let sender = received.envelope.reverse_path.clone();
        match self.prepare(received, client) {
            Ok(message) => self.accept(message, begun).await,
            Err(refusal) => {
                tell::message_refused(client.address, &sender, &refusal);
                refusal
            }
        }
    }

    pub(super) fn prepare(
        &self,
        received: Received,
        client: &Client,
    ) -> Result<NewMessage, Refusal> {
        let Received { mut envelope, helo, user: _, forwarded_for, protocol, taken: _, body } =
            received;
        let (config, now) = (self.parts.config.get(), self.parts.clock.now());
        let header = body.get(..header::header_len(&body)).unwrap_or_default();
        let (mut strip, named) =
            (Cow::from(&config.lanes.rules.strip), &config.relay.tenant_header);
        if !named.is_empty() {
            strip.to_mut().push(named.clone());
        }
        let scan = header::scan(header, &strip);
        // What begins without a field is all body.
        let header = if scan.has_fields { header } else { &[] };
        if header.len() > config.limits.header_size {
            return Err(header_too_large(config.limits.header_size));
        }
        if scan.hops > config.limits.hops {
            return Err(Refusal::new(554, (5, 4, 6), format!("Too many hops ({})", scan.hops)));
        }
        let offered = Offered {
            client,
            envelope: &envelope,
            header,
            body: body.get(header.len()..).unwrap_or_default(),
            class: classify::classify(header, &config.lanes.rules),
        };
        let mut origin = self.parts.tenants.admit(&config, offered, now)?;
        if let Some(client) = forwarded_for {
            origin.client = client.to_string();
        }
        for recipient in &mut envelope.recipients {
            recipient.mailbox = recipient.mailbox.clone().or_at(&config.hostname);
        }
        if let ReversePath::Mailbox(sender) = &mut envelope.reverse_path {
            *sender = sender.clone().or_at(&config.hostname);
        }
        let id = self.parts.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now);
        let recipient = match envelope.recipients.as_slice() {
            [only] => Some(&only.mailbox),
            _ => None,
        };
        let hostname = &config.hostname;
        let trace = Trace {
            helo: &helo,
            client: client.address,
            hostname,
            protocol,
            id,
            recipient,
            at: now,
        };
        let body = with_short_lines(header::stamped(&body, &scan, &trace))?.into();
        let (due_at, expire) = match origin.lane {
            Lane::Direct => (now, config.retry.direct.expire),
            Lane::Bulk => (now.after(config.lanes.gather), config.retry.bulk.expire),
        };
        Ok(NewMessage {
            id,
            accepted_at: now,
            due_at,
            expires_at: now.after(expire),
            origin,
            envelope,
            body,
        })
    }

    pub(super) async fn accept(&self, message: NewMessage, begun: Timestamp) -> Refusal {
        let (id, body) = (message.id, message.body.clone());
        let told = tell::Accepting::of(&message);
        let (tenant, recipients) =
            (message.origin.tenant.clone(), message.envelope.recipients.len());
        let lease = (message.origin.lane == Lane::Direct).then_some(LEASE);
        let stored = timeout(STORE_PATIENCE, self.parts.store.accept(message, lease)).await;
        let accepted = match stored.unwrap_or(Err(StoreError::Busy)) {
            Ok(accepted) => accepted,
            Err(error) => {
                let refusal = unstored(&error);
                self.parts.tenants.give_back(&tenant, recipients);
                told.failed(&refusal, &error);
                return refusal;
            }
        };
        let receive = self.parts.clock.now().since(begun);
        told.accepted(receive);
        if let Some(claimed) = accepted.claimed {
            let handoff = Handoff { claimed, body, receive };
            if let Err(unsent) = self.parts.direct.try_send(handoff) {
                // The dispatcher is busy: the message is an ordinary due delivery of the direct
                // lane.
                let leases = unsent.into_inner().claimed.leases();
                if let Err(error) = self.parts.store.release(leases).await {
                    tell_store::failed("release", &error);
                }
            }
        }
        Refusal::new(250, (2, 0, 0), format!("Queued as {id}"))
    }
}

pub(super) fn header_too_large(most: usize) -> Refusal {
    Refusal::new(552, (5, 3, 4), format!("Header section larger than {most} bytes"))
}

/// The message as every receiver takes it.
fn with_short_lines(message: Vec<u8>) -> Result<Vec<u8>, Refusal> {
    if !lines::are_long(&message) {
        return Ok(message);
    }
    lines::shortened(&message).map_err(|error| {
        let text = format!("Line longer than {} bytes: {error}", lines::LINE_MAX);
        Refusal::new(554, (5, 6, 0), text)
    })
}

/// What the client is told when the store did not take its message.
fn unstored(error: &StoreError) -> Refusal {
    match error {
        StoreError::Full(_) => Refusal::full(),
        StoreError::Busy
        | StoreError::Damaged(_)
        | StoreError::Failed(_)
        | StoreError::Incompatible(_) => {
            Refusal::new(451, (4, 3, 0), "Message not stored, try again later")
        }
    }
}
