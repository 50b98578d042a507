//! Carries out what is noticed of tenants: suspends mail, tells the log, writes to whoever is on
//! call.

use crate::base::address::{Domain, Mailbox, ReversePath};
use crate::base::id::IdGenerator;
use crate::base::live::Live;
use crate::base::text::printable;
use crate::base::time::{Clock, Timestamp};
use crate::config::Config;
use crate::control::Desk;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::message::{Lane, NewMessage, Origin};
use crate::net::webhook;
use crate::observe::store as tell_store;
use crate::observe::tenant as tell;
use crate::policy::orders::{Scope, Suspension};
use crate::receive::tenants::Alert;
use crate::store::Store;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest reason of a suspension (`policy::orders`), in characters.
const REASON_MAX: usize = 200;

/// Pause before an alert is posted again.
const POST_PAUSE: Duration = Duration::from_secs(5);

/// Waits for alerts.
pub(super) struct Watchman<S> {
    pub(super) store: S,
    pub(super) config: Live<Config>,
    pub(super) clock: Clock,
    pub(super) ids: Arc<Mutex<IdGenerator>>,
    pub(super) desk: Arc<Desk>,
}

impl<S: Store> Watchman<S> {
    /// For as long as there may be alerts.
    pub(super) async fn watch(self, mut alerts: mpsc::Receiver<Alert>) {
        while let Some(alert) = alerts.recv().await {
            let suspended = if alert.suspend { Some(self.suspend(&alert).await) } else { None };
            tell::alert(&alert.tenant, &alert.campaign, &alert.why, suspended.as_ref());
            let config = self.config.get();
            if !config.watch.alert_url.is_empty() {
                let post = Post::of(&config.hostname, &alert, suspended.as_ref(), self.clock.now());
                tokio::spawn(post.deliver(config.watch.alert_url.clone()));
            }
            if let Some(to) = &config.watch.alert_to {
                self.write(&config, to, &alert, suspended.as_ref()).await;
            }
        }
    }

    /// Until somebody has looked.
    async fn suspend(&self, alert: &Alert) -> Result<(), String> {
        let scope = Scope {
            tenant: Some(alert.tenant.clone()),
            campaign: Some(alert.campaign.clone()).filter(|name| !name.is_empty()),
            ..Scope::default()
        };
        let reason = printable(alert.why.as_bytes(), REASON_MAX - 1);
        let desk = Arc::clone(&self.desk);
        // On a thread of its own: it waits for the disk.
        let work = tokio::task::spawn_blocking(move || {
            desk.change(|orders, since| {
                orders.suspend(Suspension { scope, reason, since, until: None }).map(|_| ())
            })
        });
        work.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// A letter takes the way of all mail. One that cannot be stored is in the log all the same.
    async fn write(
        &self,
        config: &Config,
        to: &Mailbox,
        alert: &Alert,
        suspended: Option<&Result<(), String>>,
    ) {
        let now = self.clock.now();
        let id = self.ids.lock().unwrap_or_else(PoisonError::into_inner).next(now);
        let mut envelope = Envelope::from(ReversePath::Null);
        envelope.recipients.push(Recipient::new(to.clone()));
        envelope.smtputf8 = to.is_utf8();
        let origin = Origin {
            lane: Lane::Direct,
            reason: "alert".to_string(),
            tenant: config.hostname.to_string(),
            campaign: String::new(),
            client: String::new(),
        };
        let text = letter(&config.hostname, to, alert, suspended, now);
        let message = NewMessage {
            id,
            accepted_at: now,
            due_at: now,
            expires_at: now.after(config.retry.direct.expire),
            origin,
            envelope,
            body: format!("Message-ID: <{id}@{}>\r\n{text}", config.hostname).into_bytes().into(),
        };
        if let Err(error) = self.store.accept(message, None).await {
            tell_store::failed("accept", &error);
        }
    }
}

/// What is posted.
#[derive(Clone, Debug, Serialize)]
struct Post {
    node: String,
    tenant: String,
    /// Empty: all of its mail.
    campaign: String,
    why: String,
    suspended: bool,
    at: String,
}

impl Post {
    fn of(
        node: &Domain,
        alert: &Alert,
        suspended: Option<&Result<(), String>>,
        now: Timestamp,
    ) -> Self {
        Self {
            node: node.to_string(),
            tenant: alert.tenant.clone(),
            campaign: alert.campaign.clone(),
            why: alert.why.clone(),
            suspended: suspended.is_some_and(Result::is_ok),
            at: now.to_string(),
        }
    }

    /// Tries a few times. Who does not hear it finds it in the log.
    async fn deliver(self, url: String) {
        for pause in [POST_PAUSE, POST_PAUSE * 6, Duration::ZERO] {
            let (to, post) = (url.clone(), self.clone());
            let posted = tokio::task::spawn_blocking(move || webhook::post(&to, &post)).await;
            match posted.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(()) => return,
                Err(error) => tell::not_posted(&url, &error),
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// What is written; of ASCII, since names and reasons are safe to print and may hold anything else.
fn letter(
    hostname: &Domain,
    to: &Mailbox,
    alert: &Alert,
    suspended: Option<&Result<(), String>>,
    now: Timestamp,
) -> String {
    let ascii = |text: &str| -> String {
        printable(text.as_bytes(), 400)
            .chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect()
    };
    let (tenant, why) = (ascii(&alert.tenant), ascii(&alert.why));
    let done = match suspended {
        None => "Its mail goes on.".to_string(),
        Some(Ok(())) if alert.campaign.is_empty() => format!(
            "Its mail is suspended: it is taken, and waits.\r\n\r\n  bulkhead tenant show \
             {tenant}\r\n  bulkhead tenant resume {tenant}"
        ),
        Some(Ok(())) => format!(
            "This mailing waits until somebody says\r\n\r\n  bulkhead resume --tenant {tenant} \
             --campaign '{}'",
            ascii(&alert.campaign)
        ),
        Some(Err(error)) => format!("It could not be suspended: {}", ascii(error)),
    };
    format!(
        "Date: {}\r\nFrom: Bulkhead <postmaster@{hostname}>\r\nTo: <{to}>\r\nSubject: {tenant}: \
         {}\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: \
         text/plain\r\n\r\nOn {hostname}, the tenant {tenant}:\r\n\r\n  {why}\r\n\r\n{done}\r\n",
        now.rfc5322(),
        if alert.suspend { "suspended" } else { "noticed" },
    )
}
