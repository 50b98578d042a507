//! What goes over the control socket; see [`super`] for the conversation.

use super::reception::{BlockView, TenantView};
use super::summary::Summary;
use super::why::Explanation;
use crate::base::time::Timestamp;
use crate::mail::message::{Lane, MessageHead};
use crate::policy::fuse::Blown;
use crate::policy::orders::{Suspension, ThrottleOrder};
use crate::policy::site::SiteLimits;
use crate::policy::site::setting::{LimitKey, Setting};
use crate::policy::verdict::Blame;
use crate::store::{DeliveryRecord, Filter, State};
use serde::{Deserialize, Serialize};

/// Longest request in bytes, with its line end.
pub const REQUEST_MAX: usize = 64 * 1024;

/// What a client asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Counts by site.
    Summary {
        /// Of this lane alone.
        #[serde(default)]
        lane: Option<Lane>,
        /// Most sites in the answer, those with most mail first; [`super::summary::SITES_MAX`]
        /// where absent.
        #[serde(default)]
        sites_max: Option<usize>,
    },
    /// Deliveries one by one.
    List {
        /// Which.
        #[serde(default)]
        filter: Filter,
        /// At this site.
        #[serde(default)]
        site: Option<String>,
    },
    /// One message with its deliveries.
    Show {
        /// Its id.
        message: String,
    },
    /// Why mail is where it is.
    Why {
        /// A message id, an address, a domain, a site, or a tenant.
        what: String,
    },
    /// Does something to deliveries that match.
    Change {
        /// What.
        action: Action,
        /// Which.
        #[serde(default)]
        filter: Filter,
        /// At this site.
        #[serde(default)]
        site: Option<String>,
    },
    /// Holds everything, what is to come too.
    HoldAll,
    /// Ends [`Request::HoldAll`]. What was held by a filter stays so; the count tells of how much.
    ReleaseAll,
    /// Reads the configuration file again.
    Reload,
    /// Every limit of a site, and who says so.
    Limits {
        /// By any of its names.
        site: String,
    },
    /// What was ordered and holds now.
    Orders,
    /// Overrides limits of a site.
    ThrottleSet {
        /// By any of its names.
        site: String,
        /// What they are to be.
        settings: Vec<Setting>,
        /// How long, in milliseconds; without an end where absent.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Ends that.
    ThrottleClear {
        /// As it was named then.
        site: String,
        /// Which; all where there are none.
        #[serde(default)]
        keys: Vec<LimitKey>,
    },
    /// Mail of which all that is given here is true is not to be sent.
    Suspend {
        /// See [`crate::policy::orders::Scope`].
        #[serde(default)]
        site: Option<String>,
        /// See there.
        #[serde(default)]
        tenant: Option<String>,
        /// See there.
        #[serde(default)]
        campaign: Option<String>,
        /// See there.
        #[serde(default)]
        lane: Option<Lane>,
        /// For people.
        reason: String,
        /// How long, in milliseconds; without an end where absent.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Who may not log in for now.
    Blocks,
    /// Lets somebody log in again.
    Unblock {
        /// As [`Request::Blocks`] names him.
        who: String,
    },
    /// What is known of tenants.
    Tenants {
        /// Of this one alone.
        #[serde(default)]
        name: Option<String>,
    },
    /// Ends the suspension of exactly this.
    Resume {
        /// See [`crate::policy::orders::Scope`].
        #[serde(default)]
        site: Option<String>,
        /// See there.
        #[serde(default)]
        tenant: Option<String>,
        /// See there.
        #[serde(default)]
        campaign: Option<String>,
        /// See there.
        #[serde(default)]
        lane: Option<Lane>,
        /// Of a tenant: what it was suspended for was right, and so much is usual from now on.
        #[serde(default)]
        as_usual: bool,
    },
}

impl Request {
    /// True where it changes the queue. Orders are no change of that kind: each is logged by
    /// itself.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Change { .. } | Self::HoldAll | Self::ReleaseAll)
    }
}

/// What to do with deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Not to be sent until released.
    Hold,
    /// No longer held.
    Release,
    /// Due now.
    Retry,
    /// Gone, without a notification.
    Delete,
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// To [`Request::Summary`].
    Summary(Box<Summary>),
    /// To [`Request::List`] and [`Request::Show`].
    Delivery(Box<DeliveryView>),
    /// To [`Request::Show`].
    Message(Box<MessageView>),
    /// To [`Request::Why`].
    Why(Box<Explanation>),
    /// To [`Request::Limits`].
    Limits(Box<SiteLimits>),
    /// An override that holds, or that was cleared.
    Throttle(Box<ThrottleOrder>),
    /// A suspension that holds, or that was ended.
    Suspension(Box<Suspension>),
    /// An alert that [`Request::Resume`] ended.
    Alert(Box<Blown>),
    /// To [`Request::Blocks`] and [`Request::Unblock`].
    Block(Box<BlockView>),
    /// To [`Request::Tenants`].
    Tenant(Box<TenantView>),
    /// The work goes on; sums so far.
    Progress(Counts),
    /// The answer is complete.
    Done(Counts),
    /// The answer ends here; a sentence for people.
    Error(String),
}

/// Sums over the deliveries of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Shown, or changed.
    pub count: u64,
    /// Matched, but on a connection now and so left alone.
    pub leased: u64,
}

/// A message without its recipients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageView {
    /// Its id.
    pub message: String,
    /// Its lane.
    pub lane: Lane,
    /// Why it takes that lane.
    pub reason: String,
    /// Whose it is.
    pub tenant: String,
    /// Its mailing; empty for none.
    pub campaign: String,
    /// Address of the client it came from; empty for what the node wrote itself.
    pub client: String,
    /// Reverse-path without angle brackets; empty for the null one.
    pub sender: String,
    /// Bytes.
    pub size: u64,
    /// Recipients it was accepted for.
    pub recipients: u32,
    /// When it was accepted.
    pub accepted_ms: i64,
    /// When it is given up.
    pub expires_ms: i64,
}

/// A delivery and what one wants to know of its message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryView {
    /// Its message.
    pub message: String,
    /// Recipient number from 0.
    pub number: u32,
    /// Its lane.
    pub lane: Lane,
    /// Where it stands.
    pub state: State,
    /// Whose it is.
    pub tenant: String,
    /// Its mailing; empty for none.
    pub campaign: String,
    /// Reverse-path without angle brackets; empty for the null one.
    pub sender: String,
    /// Recipient without angle brackets.
    pub recipient: String,
    /// When its message was accepted.
    pub accepted_ms: i64,
    /// Attempts made.
    pub attempts: u32,
    /// When it is tried next; `None` once settled.
    pub due_ms: Option<i64>,
    /// Last attempt, or when it was settled.
    pub last_ms: Option<i64>,
    /// What came of the last attempt; empty before the first.
    pub last_reply: String,
    /// Whose fault that was.
    pub blame: Option<Blame>,
}

impl From<&MessageHead> for MessageView {
    fn from(head: &MessageHead) -> Self {
        Self {
            message: head.id.to_string(),
            lane: head.origin.lane,
            reason: head.origin.reason.clone(),
            tenant: head.origin.tenant.clone(),
            campaign: head.origin.campaign.clone(),
            client: head.origin.client.clone(),
            sender: head.envelope.reverse_path.to_string(),
            size: head.size,
            recipients: head.recipient_count,
            accepted_ms: head.accepted_at.0,
            expires_ms: head.expires_at.0,
        }
    }
}

impl From<DeliveryRecord> for DeliveryView {
    fn from(record: DeliveryRecord) -> Self {
        let head = &record.head;
        let ms = |at: Timestamp| at.0;
        Self {
            message: head.id.to_string(),
            number: record.number,
            lane: head.origin.lane,
            state: record.state,
            tenant: head.origin.tenant.clone(),
            campaign: head.origin.campaign.clone(),
            sender: head.envelope.reverse_path.to_string(),
            recipient: record.recipient.mailbox.to_string(),
            accepted_ms: head.accepted_at.0,
            attempts: record.attempts,
            due_ms: record.due_at.map(ms),
            last_ms: record.last_at.map(ms),
            last_reply: record.last_reply,
            blame: record.blame,
        }
    }
}
