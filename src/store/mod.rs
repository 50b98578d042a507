//! The queue: what was answered `250` and is not settled yet.
//!
//! One trait, several engines, one conformance suite (`store::conformance`). [`memory`] is the
//! model and the specification; [`embedded`] is the embedded default.
//!
//! # Words
//! A *delivery* is one recipient of a message, the row of the queue. A *scheduled queue* is the
//! deliveries of one lane, tenant, campaign and domain, by due time. A *lease* is a claim on
//! deliveries by this node.
//!
//! # States of a delivery, and how each is left
//! * **ready**: accepted, never tried. Leased by `claim` (or born leased by `accept`); held;
//!   deleted.
//! * **leased**: a connection has it. Left by `settle`, by `release`, by the end of the lease or of
//!   the process.
//! * **deferred**: tried, waits for its due time. As ready.
//! * **held**: waits for an operator. Left by `change`.
//! * **settled**: delivered, failed, expired or deleted: gone; on record in `show` while the
//!   message has other deliveries.

pub mod embedded;
pub mod memory;

mod backlog;
#[cfg(test)]
mod conformance;
mod filter;
mod journal;
mod leases;
mod names;
mod row;
mod shared;

use crate::base::address::Domain;
use crate::base::id::MessageId;
pub use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::mail::envelope::Recipient;
use crate::mail::message::{Lane, MessageHead, NewMessage};
use crate::policy::verdict::Blame;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// A store. Clones share one queue. Futures may be dropped at any time: what was begun is then done
/// or not.
pub trait Store: Clone + Send + Sync + 'static {
    /// Takes a message into the queue. When it returns, the message survives SIGKILL and power
    /// loss.
    ///
    /// The caller gives no id twice, see [`Store::last_id`].
    ///
    /// With `lease`, its deliveries are born leased to this node for that long, unless everything
    /// is held ([`Store::hold_all`]): then `Accepted::claimed` is `None`.
    ///
    /// # Errors
    /// [`StoreError::Full`]: the message is not in the queue. [`StoreError::Busy`],
    /// [`StoreError::Failed`]: nothing is promised; a write under way may still have put it there.
    fn accept(
        &self,
        message: NewMessage,
        lease: Option<Duration>,
    ) -> impl Future<Output = Result<Accepted, StoreError>> + Send;

    /// Leases up to `claim.limit` deliveries, and groups them by message.
    ///
    /// From each queue in turn, oldest due first. A delivery is in at most one live lease; the
    /// fence of one claimed again is greater than before. Fewer than asked for, or none, is no
    /// error: the rest is not due, leased, or held.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is leased then.
    fn claim(&self, claim: Claim) -> impl Future<Output = Result<Vec<Claimed>, StoreError>> + Send;

    /// Prolongs leases to `ttl` from now. Gives back those that are no longer ours.
    ///
    /// # Errors
    /// [`StoreError`]; the leases stand as before.
    fn renew(
        &self,
        leases: Vec<Lease>,
        ttl: Duration,
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// Records outcomes and takes in the notifications they cause, all in one commit. The leases
    /// end. Gives back the leases that were stale: their outcomes were not recorded.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was recorded, the leases stand.
    fn settle(
        &self,
        settlement: Settlement,
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// Ends leases without an outcome; the deliveries are due as before. Stale leases are passed
    /// over.
    ///
    /// # Errors
    /// [`StoreError`]; the leases then end by themselves.
    fn release(&self, leases: Vec<Lease>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The bytes of messages with live deliveries, in the order asked for; missing ones are left
    /// out.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn bodies(
        &self,
        messages: Vec<MessageId>,
    ) -> impl Future<Output = Result<Vec<(MessageId, Bytes)>, StoreError>> + Send;

    /// The scheduled queues that changed after `since` (all of them for [`Revision::START`]). From
    /// memory: cost follows the number of changed queues, not of deliveries. Empty queues that had
    /// been reported appear once, with zero counts.
    fn backlog(&self, since: Revision) -> Backlog {
        self.backlog_part(since, usize::MAX)
    }

    /// The same bit by bit: of those that were there before the reader first asked, `most` at a
    /// time, direct mail's first; with them all that changed since it asked before.
    fn backlog_part(&self, since: Revision, most: usize) -> Backlog;

    /// Waits until the backlog is at another revision than `seen`.
    fn changed(&self, seen: Revision) -> impl Future<Output = ()> + Send;

    /// One page of deliveries that match `filter`, in a stable order, from `after` on.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn list(
        &self,
        filter: Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// One message with all its deliveries, settled ones too while others live.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn show(
        &self,
        message: MessageId,
    ) -> impl Future<Output = Result<Option<MessageRecord>, StoreError>> + Send;

    /// Holds, releases, makes due or deletes the deliveries that match, a bounded slice a call,
    /// from `after` on; call again with `Changed::next` until that is `None`. Leased deliveries are
    /// left alone and counted.
    ///
    /// # Errors
    /// [`StoreError`]; this slice was not changed.
    fn change(
        &self,
        filter: Filter,
        action: Change,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Changed, StoreError>> + Send;

    /// Holds (or no longer holds) all deliveries, those to come too. Survives a restart. While it
    /// is on, `claim` gives nothing.
    ///
    /// # Errors
    /// [`StoreError`]; as before.
    fn hold_all(&self, hold: bool) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Bytes of new mail for which there is space, as far as known; asked before a message is sent,
    /// so that it need not be sent for nothing. From memory while space is not short.
    fn room(&self) -> impl Future<Output = u64> + Send;

    /// The greatest id in the queue or ever in it, as far as known, to begin new ids after.
    fn last_id(&self) -> Option<MessageId>;

    /// How its disk does.
    fn health(&self) -> Health {
        Health::default()
    }
}

/// How a store's disk does, for people and monitors. All is well with the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Health {
    /// How long the write under way has waited for the disk, in ms.
    pub stalled_ms: u64,
    /// Writes since the start, each with its sync.
    pub writes: u64,
    /// Records in them: messages, and outcomes that were settled together.
    pub records: u64,
    /// How many writes took at most so many ms and more than the bound before: bounds and counts.
    pub write_ms: Vec<(u64, u64)>,
    /// Records that are safe, but that the database has still to follow.
    pub behind: u64,
    /// Space for new mail is short.
    pub short: bool,
    /// The database failed; it is tried again, and mail waits meanwhile.
    pub index_failed: bool,
}

/// What became of an accepted message.
#[derive(Debug)]
pub struct Accepted {
    /// Its deliveries, where they were born leased.
    pub claimed: Option<Claimed>,
}

/// Names a scheduled queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    /// The lane.
    pub lane: Lane,
    /// The hosting customer.
    pub tenant: String,
    /// The mailing; empty for none.
    pub campaign: String,
    /// The recipients' domain.
    pub domain: Domain,
}

/// Names a delivery: message and place in its recipient list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    /// The message.
    pub message: MessageId,
    /// Recipient number from 0.
    pub number: u32,
}

/// Proof of a claim on one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The queue it is in.
    pub queue: QueueId,
    /// Its due time when claimed: with queue and id, the key of its row.
    pub due_at: Timestamp,
    /// Greater with every claim.
    pub fence: u64,
}

/// Which deliveries to lease.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Queues and how many from each at most, in this order.
    pub queues: Vec<(QueueId, u32)>,
    /// Only those due at or before this time.
    pub due_until: Timestamp,
    /// The same for those never tried, up to the first that was: a time later than now takes bulk
    /// mail that still gathers, and no retry before its time.
    pub fresh_until: Timestamp,
    /// Instead: those that expired at or before this time, whatever their due time, held ones too.
    pub expired_at: Option<Timestamp>,
    /// In all.
    pub limit: u32,
    /// How long the lease lasts from the start of this call.
    pub ttl: Duration,
}

impl Claim {
    /// True for a delivery due then and tried so often; one that is not ends what is taken of its
    /// queue.
    pub(crate) fn reaches(&self, due_at: Timestamp, attempts: u32) -> bool {
        due_at <= if attempts == 0 { self.due_until.max(self.fresh_until) } else { self.due_until }
    }
}

/// Leased deliveries of one message.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The message.
    pub head: Arc<MessageHead>,
    /// When the leases end; counted from the start of the call that gave them.
    pub trusted_until: Timestamp,
    /// At least one.
    pub deliveries: Vec<Delivery>,
}

impl Claimed {
    /// The claims on its deliveries.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.deliveries.iter().map(|d| d.lease).collect()
    }
}

/// One leased delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The claim.
    pub lease: Lease,
    /// Address and parameters.
    pub recipient: Recipient,
    /// Attempts already made.
    pub attempts: u32,
    /// A delay notification was sent.
    pub delay_notified: bool,
    /// Reply or error of the last attempt; empty before the first.
    pub last_reply: String,
}

impl Delivery {
    /// The recipient's domain.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.recipient.mailbox.domain().map(|domain| domain.as_str())
    }
}

/// Outcomes to record together.
#[derive(Clone, Debug, Default)]
pub struct Settlement {
    /// When.
    pub at: Timestamp,
    /// One per delivery.
    pub outcomes: Vec<Settled>,
    /// Notifications that these outcomes cause (RFC 3464), accepted in the same commit. An outcome
    /// that turns out stale does not keep them out.
    pub notices: Vec<NewMessage>,
}

/// What became of one delivery.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Which.
    pub lease: Lease,
    /// How it ended or when it goes on.
    pub outcome: Outcome,
    /// Reply or error, safe to print, at most 1,000 characters.
    pub reply: String,
    /// Whose fault; `None` where it is nobody's (delivered).
    pub blame: Option<Blame>,
}

/// How an attempt left a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop took it.
    Delivered,
    /// Refused for good.
    Failed,
    /// Given up after its time.
    Expired,
    /// To be tried again.
    Deferred {
        /// When.
        due_at: Timestamp,
        /// A delay notification is among this settlement's notices, or was sent before.
        delay_notified: bool,
    },
}

/// What a reader knows of the backlog; equality is all that can be asked of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// All changes up to this one,
    at: u64,
    /// except those of queues that come after this place.
    told: Option<Told>,
}

/// A queue's place in the order of last changes.
type Told = (u64, Lane, QueueId);

impl Revision {
    /// Nothing.
    pub const START: Self = Self { at: 0, told: None };
}

/// Changed scheduled queues.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    /// Ask for what comes after this next time.
    pub revision: Revision,
    /// Everything is held.
    pub all_held: bool,
    /// The changed queues.
    pub queues: Vec<QueueBacklog>,
}

/// What waits in one scheduled queue.
#[derive(Clone, Debug)]
pub struct QueueBacklog {
    /// Its number.
    pub id: QueueId,
    /// Its name.
    pub key: Arc<QueueKey>,
    /// Deliveries never tried, neither leased nor held.
    pub ready: u64,
    /// Deliveries tried before, neither leased nor held.
    pub deferred: u64,
    /// Deliveries on a connection.
    pub leased: u64,
    /// Deliveries that wait for an operator.
    pub held: u64,
    /// Sum of the message sizes of all these.
    pub bytes: u64,
    /// No delivery was accepted before this; may be earlier than the truth.
    pub oldest: Timestamp,
    /// No unleased delivery is due before this; may be earlier than the truth. [`Timestamp::NEVER`]
    /// where nothing waits.
    pub next_due: Timestamp,
}

impl QueueBacklog {
    /// Deliveries that can be claimed once they are due.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.ready + self.deferred
    }
}

/// Which deliveries; all that is given must hold.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// In this lane.
    pub lane: Option<Lane>,
    /// To one of these domains (lower case). Empty: any.
    pub domains: Vec<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this campaign.
    pub campaign: Option<String>,
    /// With this reverse-path (ASCII case ignored; `<>` is the null one), or from `@domain`.
    pub sender: Option<String>,
    /// To this address (ASCII case ignored), or to `@domain`.
    pub recipient: Option<String>,
    /// Of this message.
    pub message: Option<String>,
    /// Accepted at or before this time, ms since 1970.
    pub accepted_until: Option<i64>,
    /// In one of these states. Empty: any.
    pub states: Vec<State>,
}

/// State of a delivery, as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Never tried.
    Ready,
    /// On a connection.
    Leased,
    /// Tried before.
    Deferred,
    /// Waits for an operator.
    Held,
    /// Taken by the next hop.
    Delivered,
    /// Refused for good.
    Failed,
    /// Given up.
    Expired,
    /// By an operator.
    Deleted,
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Queue of the last delivery looked at.
    pub queue: QueueId,
    /// Its due time.
    pub due_at: Timestamp,
    /// Its id.
    pub delivery: DeliveryId,
}

/// A page of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// What matched, at most as many as asked for; may be few or none on a page that is not the
    /// last, since a page also ends after a bounded number of rows looked at.
    pub deliveries: Vec<DeliveryRecord>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// One delivery, for people.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    /// Its message.
    pub head: Arc<MessageHead>,
    /// Its number in the message.
    pub number: u32,
    /// Address and parameters.
    pub recipient: Recipient,
    /// Where it stands.
    pub state: State,
    /// Attempts made.
    pub attempts: u32,
    /// Due time; of a held delivery, the one it had. `None` once settled.
    pub due_at: Option<Timestamp>,
    /// Last attempt, or when it was settled.
    pub last_at: Option<Timestamp>,
    /// Reply or error of the last attempt.
    pub last_reply: String,
    /// Whose fault that was.
    pub blame: Option<Blame>,
}

/// One message, for people.
#[derive(Debug)]
pub struct MessageRecord {
    /// The message.
    pub head: Arc<MessageHead>,
    /// All its deliveries by number.
    pub deliveries: Vec<DeliveryRecord>,
}

/// What to do with deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not to be sent until released.
    Hold,
    /// No longer held; due as before it was held.
    Release,
    /// Due at this time (held ones stay held).
    Retry(Timestamp),
    /// Gone, without a notification.
    Delete,
}

/// What [`Store::change`] did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed {
    /// Deliveries changed.
    pub changed: u64,
    /// Deliveries that matched but are on a connection now.
    pub leased: u64,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Too much waits for the disk, or the disk hangs; what was asked for may still be done when it
    /// goes on. Temporary.
    #[error("the store is busy: the disk has not kept up with what waits for it")]
    Busy,
    /// No space; nothing was stored. Temporary.
    #[error("no space left for the queue: {0}")]
    Full(String),
    /// Reading or writing failed; nothing was stored.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The database is damaged; what it held can be made anew from the journal.
    #[error("{0}")]
    Damaged(String),
    /// The files are not what this build can open.
    #[error("{0}")]
    Incompatible(String),
}

/// A direct message on its way from a session to a connection, past the queue.
#[derive(Debug)]
pub struct Handoff {
    /// Its deliveries, born leased.
    pub claimed: Claimed,
    /// Its bytes, still in memory.
    pub body: Bytes,
    /// From the first byte of DATA to the durable accept.
    pub receive: Duration,
}
