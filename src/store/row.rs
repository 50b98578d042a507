//! A delivery as both engines keep it, and the pure rules of how it moves.

use super::{Change, Cursor, Delivery, DeliveryRecord, Lease, State};
use crate::base::time::Timestamp;
use crate::mail::envelope::Recipient;
use crate::mail::message::MessageHead;
use crate::policy::verdict::Blame;
use std::sync::Arc;

/// The latest due time that is a point in time; [`Timestamp::NEVER`] is the place of held
/// deliveries.
const LATEST: Timestamp = Timestamp(i64::MAX - 1);

/// What a delivery without a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Never tried.
    Ready,
    /// Tried before.
    Deferred,
    /// Waits for an operator.
    Held,
}

/// When a delivery is due: at a time, or held, with the time to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Where it stands in its queue: its time, or [`Timestamp::NEVER`].
    pub(super) at: Timestamp,
    /// Of a held one, the time it had.
    pub(super) held: Option<Timestamp>,
}

impl Due {
    /// Not held.
    pub(super) fn at(at: Timestamp) -> Self {
        Self { at: at.min(LATEST), held: None }
    }

    /// Held.
    fn held(due: Timestamp) -> Self {
        Self { at: Timestamp::NEVER, held: Some(due.min(LATEST)) }
    }

    /// Deferred to `due`; what is held stays so.
    pub(super) fn deferred(self, due: Timestamp) -> Self {
        if self.held.is_some() { Self::held(due) } else { Self::at(due) }
    }

    /// After `action`; `None` where that changes nothing (or it is a deletion).
    pub(super) fn changed(self, action: Change) -> Option<Self> {
        let new = match (action, self.held) {
            (Change::Hold, None) => Self::held(self.at),
            (Change::Release, Some(due)) => Self::at(due),
            (Change::Retry(due), _) => self.deferred(due),
            (Change::Hold | Change::Release | Change::Delete, _) => self,
        };
        (new != self).then_some(new)
    }
}

/// One delivery.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its place.
    pub(super) key: Cursor,
    /// Of a held one, the due time it had.
    pub(super) held_due: Option<Timestamp>,
    /// Length of the message's body.
    pub(super) size: u64,
    /// Address and parameters.
    pub(super) recipient: Recipient,
    /// Attempts made.
    pub(super) attempts: u32,
    /// A delay notification was sent.
    pub(super) delay_notified: bool,
    /// Last attempt.
    pub(super) last_at: Option<Timestamp>,
    /// Reply or error of the last attempt.
    pub(super) last_reply: String,
    /// Whose fault that was.
    pub(super) blame: Option<Blame>,
}

impl Row {
    /// A delivery as it was accepted.
    pub(super) fn new(key: Cursor, size: u64, recipient: Recipient) -> Self {
        Self {
            key,
            held_due: None,
            size,
            recipient,
            attempts: 0,
            delay_notified: false,
            last_at: None,
            last_reply: String::new(),
            blame: None,
        }
    }

    /// When it is due.
    pub(super) fn due(&self) -> Due {
        Due { at: self.key.due_at, held: self.held_due }
    }

    /// What it is without a lease.
    pub(super) fn class(&self) -> Class {
        match (self.held_due, self.attempts) {
            (Some(_), _) => Class::Held,
            (None, 0) => Class::Ready,
            (None, _) => Class::Deferred,
        }
    }

    /// As shown.
    pub(super) fn state(&self, leased: bool) -> State {
        match self.class() {
            _ if leased => State::Leased,
            Class::Ready => State::Ready,
            Class::Deferred => State::Deferred,
            Class::Held => State::Held,
        }
    }

    /// As given to who leased it.
    pub(super) fn delivery(self, fence: u64) -> Delivery {
        Delivery {
            lease: Lease {
                delivery: self.key.delivery,
                queue: self.key.queue,
                due_at: self.key.due_at,
                fence,
            },
            recipient: self.recipient,
            attempts: self.attempts,
            delay_notified: self.delay_notified,
            last_reply: self.last_reply,
        }
    }

    /// For people.
    pub(super) fn record(self, head: Arc<MessageHead>, state: State) -> DeliveryRecord {
        DeliveryRecord {
            head,
            number: self.key.delivery.number,
            state,
            due_at: Some(self.held_due.unwrap_or(self.key.due_at)),
            recipient: self.recipient,
            attempts: self.attempts,
            last_at: self.last_at,
            last_reply: self.last_reply,
            blame: self.blame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_delivery_goes_back_to_its_due_time() {
        let due = Due::at(Timestamp(5));
        let held = due.changed(Change::Hold).unwrap();
        assert_eq!(held, Due { at: Timestamp::NEVER, held: Some(Timestamp(5)) });
        assert_eq!(held.changed(Change::Release), Some(due));
        let later = held.changed(Change::Retry(Timestamp(9))).unwrap();
        assert_eq!(later.changed(Change::Release), Some(Due::at(Timestamp(9))));
        assert_eq!(held.deferred(Timestamp(9)), later);
    }

    #[test]
    fn what_is_so_already_is_not_changed() {
        let due = Due::at(Timestamp(5));
        assert_eq!(due.changed(Change::Release), None);
        assert_eq!(due.changed(Change::Retry(Timestamp(5))), None);
        assert_eq!(due.changed(Change::Hold).unwrap().changed(Change::Hold), None);
    }

    #[test]
    fn no_due_time_is_mistaken_for_held() {
        assert!(Due::at(Timestamp::NEVER).at < Timestamp::NEVER);
    }
}
