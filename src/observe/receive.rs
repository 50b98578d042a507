//! What came in: messages accepted, commands and messages refused.

use crate::base::address::ReversePath;
use crate::base::id::MessageId;
use crate::base::text::printable;
use crate::base::time::Timestamp;
use crate::mail::message::{NewMessage, Origin};
use crate::policy::guard::Block;
use crate::smtp::command::Refusal;
use crate::smtp::server::Refused;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tracing::{debug, error, info, warn};

/// What is told of a message whichever way its accept goes.
#[derive(Debug)]
pub struct Accepting {
    id: MessageId,
    origin: Origin,
    from: String,
    recipients: usize,
    size: usize,
}

impl Accepting {
    /// Of this message.
    #[must_use]
    pub fn of(message: &NewMessage) -> Self {
        Self {
            id: message.id,
            origin: message.origin.clone(),
            from: printable(message.envelope.reverse_path.as_str().as_bytes(), 320),
            recipients: message.envelope.recipients.len(),
            size: message.body.len(),
        }
    }

    /// `message.accepted`: it is durable.
    pub fn accepted(self, receive: Duration) {
        info!(
            target: "bulkhead",
            message = "message.accepted",
            id = %self.id,
            lane = self.origin.lane.as_str(),
            reason = self.origin.reason,
            tenant = self.origin.tenant,
            campaign = self.origin.campaign,
            client = self.origin.client,
            from = self.from,
            recipients = self.recipients,
            size = self.size,
            receive_ms = u64::try_from(receive.as_millis()).unwrap_or(u64::MAX),
        );
    }

    /// `message.refused`: the store did not take it.
    pub fn failed(self, reply: &Refusal, error: &dyn Display) {
        warn!(
            target: "bulkhead",
            message = "message.refused",
            client = self.origin.client,
            from = self.from,
            reply = %reply,
            error = %error,
        );
    }
}

/// `message.refused`: it was not offered to the store.
pub fn message_refused(client: IpAddr, from: &ReversePath, reply: &Refusal) {
    info!(
        target: "bulkhead",
        message = "message.refused",
        client = %client.to_canonical(),
        from = printable(from.as_str().as_bytes(), 320),
        reply = %reply,
    );
}

/// `command.refused`, or `message.refused` where it was no command.
pub fn refused(client: IpAddr, refused: &Refused) {
    let Refused { command, from, reply } = refused;
    let Some(from) = from else {
        return command_refused(client, command, "", reply);
    };
    if command.is_empty() {
        message_refused(client, from, reply);
    } else {
        command_refused(client, command, from.as_str(), reply);
    }
}

fn command_refused(client: IpAddr, command: &str, from: &str, reply: &Refusal) {
    info!(
        target: "bulkhead",
        message = "command.refused",
        client = %client.to_canonical(),
        from = printable(from.as_bytes(), 320),
        command,
        reply = %reply,
    );
}

/// `client.turned_away`: there was no place for a session; with how many others since this was told
/// last.
pub fn turned_away(client: IpAddr, reply: &Refusal, count: u64) {
    let client = client.to_canonical();
    let reply = reply.to_string();
    warn!(target: "bulkhead", message = "client.turned_away", client = %client, count, reply);
}

/// `login.succeeded`
pub fn login_succeeded(client: IpAddr, user: &str) {
    let user = printable(user.as_bytes(), 255);
    debug!(target: "bulkhead", message = "login.succeeded", client = %client, user);
}

/// `login.failed`: a wrong password, or nobody of that name.
pub fn login_failed(client: IpAddr, user: &str) {
    let user = printable(user.as_bytes(), 255);
    info!(target: "bulkhead", message = "login.failed", client = %client, user);
}

/// `login.blocked`: after too many failures.
pub fn login_blocked(block: &Block, now: Timestamp) {
    let whom = printable(block.whom.to_string().as_bytes(), 300);
    let for_s = block.until.since(now).as_secs();
    warn!(target: "bulkhead", message = "login.blocked", whom, for_s, repeated = block.repeated);
}

/// `login.unblocked`: an operator lets somebody log in again.
pub fn login_unblocked(who: &str, user: Option<u32>) {
    let who = printable(who.as_bytes(), 300);
    let user = user.map_or_else(String::new, |user| user.to_string());
    info!(target: "bulkhead", message = "login.unblocked", who, user);
}

/// `key.not_kept`: what became of a request with an Idempotency-Key is known until the node ends,
/// and not after it.
pub fn key_not_kept(file: &Path, error: &std::io::Error) {
    error!(target: "bulkhead", message = "key.not_kept", file = %file.display(), %error);
}

/// `client.handshake_failed`: TLS did not come about.
pub fn handshake_failed(client: IpAddr, error: &std::io::Error) {
    let (client, error) = (client.to_canonical(), error.to_string());
    let error = printable(error.as_bytes(), 200);
    info!(target: "bulkhead", message = "client.handshake_failed", client = %client, error);
}
