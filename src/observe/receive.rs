//! What came in: messages accepted and refused.

use crate::base::address::ReversePath;
use crate::base::id::MessageId;
use crate::base::text::printable;
use crate::mail::message::{NewMessage, Origin};
use crate::smtp::command::Refusal;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;
use tracing::{info, warn};

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
            reply = %format_args!("{} {} {}", reply.code, reply.enhanced, reply.text),
            error = %error,
        );
    }
}

/// `message.refused`: it was not offered to the store.
pub fn message_refused(client: IpAddr, from: &ReversePath, reply: &Refusal) {
    info!(
        target: "bulkhead",
        message = "message.refused",
        client = %client,
        from = printable(from.as_str().as_bytes(), 320),
        reply = %format_args!("{} {} {}", reply.code, reply.enhanced, reply.text),
    );
}

/// `listener.failed`: a connection could not be accepted.
pub fn accept_failed(error: &std::io::Error) {
    warn!(target: "bulkhead", message = "listener.failed", error = %error);
}

/// `store.failed`: leases of a message that the dispatcher had no place for; they end by
/// themselves.
pub fn release_failed(error: &dyn Display) {
    warn!(target: "bulkhead", message = "store.failed", what = "release", error = %error);
}
