//! From a received message to the queue: hops, lane, tenant, trace fields, and the durable accept.

use super::door::Door;
use crate::base::address::{Domain, ReversePath};
use crate::base::id::IdGenerator;
use crate::base::live::Live;
use crate::base::time::{Clock, Timestamp};
use crate::config::Config;
use crate::mail::header::{self, Trace};
use crate::mail::message::{Lane, NewMessage, Origin};
use crate::observe::receive as tell;
use crate::observe::store as tell_store;
use crate::policy::{classify, tenant};
use crate::smtp::command::Refusal;
use crate::smtp::server::{Received, Settings};
use crate::store::{Handoff, Store, StoreError};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// How long direct deliveries are born leased: as long as the dispatcher's own leases.
const LEASE: Duration = Duration::from_secs(2 * 3_600);

/// How long a client waits for the disk. What is stored after all, later, is delivered; the client
/// then sends it again: better twice than never.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// The receiving side of a node.
pub struct Ingress<S> {
    pub(super) store: S,
    pub(super) config: Live<Config>,
    pub(super) clock: Clock,
    ids: Arc<Mutex<IdGenerator>>,
    direct: mpsc::Sender<Handoff>,
    pub(super) expected: mpsc::Sender<Domain>,
    pub(super) settings: Arc<Settings>,
    /// Memory for messages being received, in KiB.
    pub(super) room: Arc<Semaphore>,
    pub(super) door: Door,
}

impl<S: Store> Ingress<S> {
    /// `direct` takes accepted direct mail, `expected` the domains that mail will go to; when
    /// either is full, mail goes by way of the store.
    #[must_use]
    pub fn new(
        store: S,
        config: Live<Config>,
        clock: Clock,
        ids: Arc<Mutex<IdGenerator>>,
        direct: mpsc::Sender<Handoff>,
        expected: mpsc::Sender<Domain>,
    ) -> Self {
        let now = config.get();
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
        let room = usize::try_from(limits.memory / 1_024).unwrap_or(usize::MAX);
        Self {
            store,
            clock,
            ids,
            direct,
            expected,
            settings: Arc::new(settings),
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            door: Door::new(limits),
            config,
        }
    }

    /// Puts a message into the queue. What it gives is the answer to the client; 250 is given only
    /// once the message is durable.
    pub(super) async fn take(
        &self,
        received: Received,
        client: IpAddr,
        begun: Timestamp,
    ) -> Refusal {
        let sender = received.envelope.reverse_path.clone();
        match self.prepare(received, client) {
            Ok(message) => self.accept(message, begun).await,
            Err(refusal) => {
                tell::message_refused(client, &sender, &refusal);
                refusal
            }
        }
    }

    fn prepare(&self, received: Received, client: IpAddr) -> Result<NewMessage, Refusal> {
        let Received { mut envelope, helo, protocol, body } = received;
        let (config, now) = (self.config.get(), self.clock.now());
        let header = body.get(..header::header_len(&body)).unwrap_or_default();
        let scan = header::scan(header, &config.lanes.rules.strip);
        // What begins without a field is all body.
        let header = if scan.has_fields { header } else { &[] };
        if header.len() > config.limits.header_size {
            let text = format!("Header section larger than {} bytes", config.limits.header_size);
            return Err(Refusal::new(552, (5, 3, 4), text));
        }
        if scan.hops > config.limits.hops {
            return Err(Refusal::new(554, (5, 4, 6), format!("Too many hops ({})", scan.hops)));
        }
        let class = classify::classify(header, &config.lanes.rules);
        let origin = Origin {
            lane: class.lane,
            reason: class.reason,
            tenant: tenant::decide(&config.tenants, client, &envelope.reverse_path),
            campaign: class.campaign,
            client: client.to_canonical().to_string(),
        };
        for recipient in &mut envelope.recipients {
            recipient.mailbox = recipient.mailbox.clone().or_at(&config.hostname);
        }
        if let ReversePath::Mailbox(sender) = &mut envelope.reverse_path {
            *sender = sender.clone().or_at(&config.hostname);
        }
        let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now);
        let recipient = match envelope.recipients.as_slice() {
            [only] => Some(&only.mailbox),
            _ => None,
        };
        let hostname = &config.hostname;
        let trace = Trace {
            helo: &helo,
            client: client.to_canonical(),
            hostname,
            protocol,
            id,
            recipient,
            at: now,
        };
        let body = header::stamped(&body, &scan, &trace).into();
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

    async fn accept(&self, message: NewMessage, begun: Timestamp) -> Refusal {
        let (id, body) = (message.id, message.body.clone());
        let told = tell::Accepting::of(&message);
        let lease = (message.origin.lane == Lane::Direct).then_some(LEASE);
        let stored = timeout(STORE_PATIENCE, self.store.accept(message, lease)).await;
        let accepted = match stored.unwrap_or(Err(StoreError::Busy)) {
            Ok(accepted) => accepted,
            Err(error) => {
                let refusal = unstored(&error);
                told.failed(&refusal, &error);
                return refusal;
            }
        };
        let receive = self.clock.now().since(begun);
        told.accepted(receive);
        if let Some(claimed) = accepted.claimed {
            let handoff = Handoff { claimed, body, receive };
            if let Err(unsent) = self.direct.try_send(handoff) {
                // The dispatcher is busy: the message is an ordinary due delivery of the direct
                // lane.
                let leases = unsent.into_inner().claimed.leases();
                if let Err(error) = self.store.release(leases).await {
                    tell_store::failed("release", &error);
                }
            }
        }
        Refusal::new(250, (2, 0, 0), format!("Queued as {id}"))
    }
}

/// What the client is told when the store did not take its message.
fn unstored(error: &StoreError) -> Refusal {
    match error {
        StoreError::Full(_) => Refusal::new(452, (4, 3, 1), "Queue is full, try again later"),
        StoreError::Busy
        | StoreError::Damaged(_)
        | StoreError::Failed(_)
        | StoreError::Incompatible(_) => {
            Refusal::new(451, (4, 3, 0), "Message not stored, try again later")
        }
    }
}
