//! A message as the queue knows it: its lane, whose it is, and its bytes.

use super::envelope::{Envelope, Recipient};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;

/// Which way a message takes; decided once, stored with it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Straight out, ahead of all bulk mail.
    Direct,
    /// Through the scheduler, grouped by domain and site.
    Bulk,
}

impl Lane {
    /// `direct` or `bulk`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bulk => "bulk",
        }
    }
}

/// One for each lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByLane<T> {
    /// Of direct mail.
    pub direct: T,
    /// Of bulk mail.
    pub bulk: T,
}

impl<T> ByLane<T> {
    /// That of a lane.
    #[must_use]
    pub fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Direct => &self.direct,
            Lane::Bulk => &self.bulk,
        }
    }

    /// That of a lane, to be changed.
    pub fn of_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Direct => &mut self.direct,
            Lane::Bulk => &mut self.bulk,
        }
    }

    /// Both, direct mail's first.
    pub fn iter(&self) -> impl Iterator<Item = (Lane, &T)> {
        [(Lane::Direct, &self.direct), (Lane::Bulk, &self.bulk)].into_iter()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "direct" => Ok(Self::Direct),
            "bulk" => Ok(Self::Bulk),
            _ => Err(format!("{text:?} is not a lane; want direct or bulk")),
        }
    }
}

/// Whose message this is and why it takes its lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The lane.
    pub lane: Lane,
    /// Why, for people: `X-Newsletter: spring`, `no newsletter header`, `delivery report`.
    pub reason: String,
    /// The hosting customer.
    pub tenant: String,
    /// The mailing; empty where there is none.
    pub campaign: String,
    /// Address of the client; empty for what this node wrote itself.
    pub client: String,
}

/// A message on its way into the store. Durable once `Store::accept` returned.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Already in its `Received:` field.
    pub id: MessageId,
    /// When the last byte was here.
    pub accepted_at: Timestamp,
    /// When its deliveries are first due.
    pub due_at: Timestamp,
    /// When what is not delivered by then is given up.
    pub expires_at: Timestamp,
    /// Lane, tenant, campaign.
    pub origin: Origin,
    /// Reverse-path, recipients, parameters.
    pub envelope: Envelope,
    /// Header and body as they will be sent: CRLF line ends, no dot-stuffing.
    pub body: Bytes,
}

/// What the store knows of a message besides its recipients and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageHead {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it is given up.
    pub expires_at: Timestamp,
    /// Lane, tenant, campaign.
    pub origin: Origin,
    /// Without its recipients: those travel with the deliveries.
    pub envelope: Envelope,
    /// Length of the body in bytes.
    pub size: u64,
    /// How many recipients it was accepted for.
    pub recipient_count: u32,
}

impl NewMessage {
    /// The head, and the recipients apart.
    #[must_use]
    pub fn split(&self) -> (MessageHead, &[Recipient]) {
        let mut envelope = Envelope::from(self.envelope.reverse_path.clone());
        envelope.body = self.envelope.body;
        envelope.smtputf8 = self.envelope.smtputf8;
        envelope.ret = self.envelope.ret;
        envelope.envid.clone_from(&self.envelope.envid);
        let head = MessageHead {
            id: self.id,
            accepted_at: self.accepted_at,
            expires_at: self.expires_at,
            origin: self.origin.clone(),
            envelope,
            size: self.body.len() as u64,
            recipient_count: u32::try_from(self.envelope.recipients.len()).unwrap_or(u32::MAX),
        };
        (head, &self.envelope.recipients)
    }
}
