//! The JSON that programs send and get, as docs/openapi.yaml describes it (a test holds the two
//! together).

use super::problem::Problem;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A message to be built.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    pub(super) from: Address,
    #[serde(default)]
    pub(super) to: Vec<Address>,
    #[serde(default)]
    pub(super) cc: Vec<Address>,
    #[serde(default)]
    pub(super) bcc: Vec<Address>,
    pub(super) reply_to: Option<Address>,
    /// Where failures are reported; `from` where it is not given, nowhere where it is empty.
    pub(super) envelope_from: Option<String>,
    pub(super) subject: String,
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) attachments: Vec<Attachment>,
    pub(super) newsletter: Option<Newsletter>,
    /// In place of `to`, `cc` and `bcc`: each gets a message of his own.
    #[serde(default)]
    pub(super) recipients: Vec<Personal>,
}

/// `"ann@example.com"`, `"Ann <ann@example.com>"`, or in parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"ann@example.com\" or {\"address\": \"ann@example.com\", \"name\": \
                 \"Ann\"}"
)]
pub(super) enum Address {
    Text(String),
    Parts(Named),
}

/// An address and whose it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) address: String,
    pub(super) name: Option<String>,
}

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attachment {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) content_base64: String,
}

/// Whether it is one, or the campaign it is of.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected true, false, or the name of a campaign")]
pub(super) enum Newsletter {
    Is(bool),
    Campaign(String),
}

/// A reader with a message of his own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Personal {
    pub(super) address: String,
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) substitutions: BTreeMap<String, String>,
}

/// What became of a request.
#[derive(Debug, Serialize)]
pub(super) struct Submitted {
    pub(super) messages: Vec<Message>,
}

/// What became of one message of it.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// `queued`, `refused`, or `later`: not taken now, and may be sent again.
    pub(super) status: &'static str,
    pub(super) recipients: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<Problem>,
}

/// A message in the queue. Times are of the form `2026-11-23T00:45:28.114Z`.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) id: String,
    pub(super) lane: String,
    pub(super) campaign: String,
    pub(super) envelope_from: String,
    pub(super) accepted_at: String,
    pub(super) expires_at: String,
    pub(super) size: u64,
    pub(super) deliveries: Vec<Delivery>,
}

/// One recipient of it.
#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    pub(super) recipient: String,
    /// `ready`, `leased`, `deferred`, `held`, `delivered`, `failed`, `expired` or `deleted`.
    pub(super) state: crate::store::State,
    pub(super) attempts: u32,
    /// When it is tried next; `null` once it is settled.
    pub(super) due_at: Option<String>,
    /// The last attempt.
    pub(super) last_at: Option<String>,
    /// What the receiver said to it.
    pub(super) last_reply: String,
}

/// How the node does.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    /// `ok`, or what keeps it from taking mail.
    pub(super) status: &'static str,
}
