//! From a request to the record that is written, and to what is done once it is durable.

use super::inbox::{Arrived, Ended, SettleJob};
use super::index::Arrival;
use super::replay;
use super::writer::{Accept, Reply, Settle};
use crate::base::time::Timestamp;
use crate::mail::message::NewMessage;
use crate::store::journal::Position;
use crate::store::journal::record::{
    self, How, MESSAGE, OUTCOMES, Place, Unreadable, write_head, write_outcomes,
};
use crate::store::row::Class;
use crate::store::shared::{Effect, Live, Shared};
use crate::store::{Accepted, Claimed, Lease, Outcome, Settled, Settlement, StoreError};
use bytes::Bytes;
use std::sync::Arc;

/// A record that is to be written.
pub(super) struct Prepared {
    pub(super) kind: u8,
    parts: Vec<Bytes>,
    pub(super) then: Then,
}

/// What is done once it is durable.
pub(super) enum Then {
    Accept(Box<Accepting>),
    Settle(Box<Settling>),
    /// The index thread goes on.
    Record,
}

impl Prepared {
    /// Length of the payload.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// The payload.
    pub(super) fn parts(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|part| &**part).collect()
    }

    /// It is new mail: refused first when space is short.
    pub(super) fn is_mail(&self) -> bool {
        matches!(self.then, Then::Accept(_))
    }
}

/// A record of the index thread.
pub(super) fn record(kind: u8, parts: Vec<Bytes>) -> Prepared {
    Prepared { kind, parts, then: Then::Record }
}

/// Why this message cannot be taken in, whatever is in the queue.
fn refusal(message: &NewMessage) -> Option<StoreError> {
    let recipients = &message.envelope.recipients;
    let bad = recipients.is_empty() || recipients.iter().any(|r| r.mailbox.domain().is_none());
    bad.then(|| StoreError::Failed("a recipient without a domain, or none".into()))
}

fn unwritable(error: &Unreadable) -> StoreError {
    StoreError::Failed(format!("cannot write a record: {error}"))
}

/// Where a message's bytes are in a record at `frame`.
fn place(frame: Position, payload: usize, body: usize) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { frame, payload: number(payload), body: number(body) }
}

/// A message that is being accepted.
pub(super) struct Accepting {
    message: NewMessage,
    until: Option<Timestamp>,
    head_len: usize,
    reply: Reply<Accepted>,
}

/// An answer that waits until all is seen in memory.
pub(super) enum Answer {
    Accepted { reply: Reply<Accepted>, accepted: Accepted },
    Settled { reply: Reply<Vec<Lease>>, stale: Vec<Lease> },
}

impl Answer {
    /// Gives it. Leases that nobody hears of end.
    pub(super) fn give(self, shared: &Shared) {
        match self {
            Self::Accepted { reply, accepted } => {
                if let Err(Ok(Accepted { claimed: Some(claimed) })) = reply.send(Ok(accepted)) {
                    shared.release(&claimed.leases());
                }
            }
            // Who asked may have gone; the outcomes stand.
            Self::Settled { reply, stale } => _ = reply.send(Ok(stale)),
        }
    }
}

/// The record of a new message; `None` where it was refused.
pub(super) fn accept(accept: Accept) -> Option<Prepared> {
    let Accept { message, stored, until, reply } = accept;
    let head = match refusal(&message) {
        None => write_head(&message).map_err(|error| unwritable(&error)),
        Some(refusal) => Err(refusal),
    };
    match head {
        Err(error) => {
            _ = reply.send(Err(error));
            None
        }
        Ok(head) => {
            let (head_len, kind) = (head.len(), stored.kind(MESSAGE));
            let parts = vec![Bytes::from(head), stored.bytes];
            let accepting = Accepting { message, until, head_len, reply };
            Some(Prepared { kind, parts, then: Then::Accept(Box::new(accepting)) })
        }
    }
}

impl Accepting {
    /// What is to be done now that it is durable. Its deliveries are born leased unless everything
    /// is held.
    pub(super) fn done(
        self,
        frame: Position,
        payload: usize,
        live: &mut Live,
    ) -> (Arrived, Vec<Effect>, Answer) {
        let place = place(frame, payload, self.head_len);
        let arrival = replay::arrive(live, &self.message, place);
        let until = self.until.filter(|_| !live.tally.all_held());
        let lone = arrival.head.recipient_count == 1;
        let mut effects = Vec::with_capacity(arrival.rows.len());
        let mut deliveries = Vec::new();
        for (row, key) in &arrival.rows {
            let (size, key) = (row.size, key.clone());
            match until {
                None => effects.push(Effect::Enter { row: row.key, key, class: row.class(), size }),
                Some(until) => {
                    let held = live.held(row, until, lone, place);
                    deliveries.push(row.clone().delivery(held.fence));
                    effects.push(Effect::EnterLeased { held, key });
                }
            }
        }
        let claimed = until.map(|until| Claimed {
            head: arrival.head.clone(),
            trusted_until: until,
            deliveries,
        });
        let answer = Answer::Accepted { reply: self.reply, accepted: Accepted { claimed } };
        (Arrived { arrival: Arc::new(arrival), born_leased: until.is_some() }, effects, answer)
    }

    /// It was not stored.
    pub(super) fn undo(self, error: &StoreError) {
        _ = self.reply.send(Err(error.clone()));
    }
}

/// Outcomes that are being recorded.
pub(super) struct Settling {
    at: Timestamp,
    outcomes: Vec<Ended>,
    notices: Vec<NewMessage>,
    /// Where in the payload each notice's bytes begin.
    bodies: Vec<usize>,
    stale: Vec<Lease>,
    reply: Reply<Vec<Lease>>,
}

/// The record of outcomes; their leases are marked. `None` where there is nothing to record.
pub(super) fn settle(settle: Settle, shared: &Shared) -> Option<Prepared> {
    let Settle { settlement: Settlement { at, outcomes, notices }, reply } = settle;
    let refused = notices.iter().find_map(refusal);
    let heads: Result<Vec<Vec<u8>>, Unreadable> = notices.iter().map(write_head).collect();
    let heads = match (refused, heads) {
        (None, Ok(heads)) => heads,
        (Some(error), _) => {
            _ = reply.send(Err(error));
            return None;
        }
        (None, Err(error)) => {
            _ = reply.send(Err(unwritable(&error)));
            return None;
        }
    };
    let (mut ended, mut written, mut stale) = (Vec::new(), Vec::new(), Vec::new());
    let mut live = shared.lock();
    for Settled { lease, outcome, reply, blame } in outcomes {
        let Some(held) = live.leases.begin_settling(&lease) else {
            stale.push(lease);
            continue;
        };
        let how = how(outcome);
        let domain = live.tally.key(held.row.queue).map(|key| key.domain.to_string());
        written.push(record::Ended {
            message: lease.delivery.message.number(),
            number: lease.delivery.number,
            domain: domain.unwrap_or_default().into(),
            due_at: held.row.due_at.0,
            how,
            reply: reply.clone().into(),
            blame,
        });
        ended.push(Ended { held, how, reply, blame });
    }
    drop(live);
    if ended.is_empty() && notices.is_empty() {
        _ = reply.send(Ok(stale));
        return None;
    }
    let parts: Vec<(Vec<u8>, Bytes)> =
        heads.into_iter().zip(notices.iter().map(|notice| notice.body.clone())).collect();
    let first = match write_outcomes(at, written, &parts) {
        Ok(first) => first,
        Err(error) => {
            stand(&ended, shared);
            _ = reply.send(Err(unwritable(&error)));
            return None;
        }
    };
    let (mut payload, mut bodies, mut len) = (vec![Bytes::from(first)], Vec::new(), 0);
    len += payload.first().map_or(0, Bytes::len);
    for (head, body) in parts {
        bodies.push(len + head.len());
        len += head.len() + body.len();
        payload.extend([Bytes::from(head), body]);
    }
    let then =
        Then::Settle(Box::new(Settling { at, outcomes: ended, notices, bodies, stale, reply }));
    Some(Prepared { kind: OUTCOMES, parts: payload, then })
}

fn how(outcome: Outcome) -> How {
    match outcome {
        Outcome::Delivered => How::Delivered,
        Outcome::Failed => How::Failed,
        Outcome::Expired => How::Expired,
        Outcome::Deferred { due_at, delay_notified } => {
            How::Deferred { due_at: due_at.0, delay_notified }
        }
    }
}

/// The leases stand as before.
fn stand(ended: &[Ended], shared: &Shared) {
    let mut live = shared.lock();
    ended.iter().for_each(|ended| live.leases.stop_settling(ended.held.row.delivery));
}

impl Settling {
    /// What is to be done now that it is durable.
    pub(super) fn done(
        self,
        frame: Position,
        payload: usize,
        live: &mut Live,
    ) -> (SettleJob, Vec<Effect>, Answer) {
        let mut effects: Vec<Effect> = Vec::with_capacity(self.outcomes.len());
        for ended in &self.outcomes {
            live.leases.settled(ended.held.row.delivery);
            effects.push(ended.effect());
        }
        let mut notices: Vec<Arrival> = Vec::with_capacity(self.notices.len());
        for (notice, body) in self.notices.iter().zip(self.bodies) {
            let arrival = replay::arrive(live, notice, place(frame, payload, body));
            effects.extend(arrival.rows.iter().map(|(row, key)| Effect::Enter {
                row: row.key,
                key: key.clone(),
                class: Class::Ready,
                size: row.size,
            }));
            notices.push(arrival);
        }
        let Self { at, outcomes, stale, reply, .. } = self;
        (SettleJob { at, outcomes, notices }, effects, Answer::Settled { reply, stale })
    }

    /// They were not recorded.
    pub(super) fn undo(self, error: &StoreError, shared: &Shared) {
        stand(&self.outcomes, shared);
        _ = self.reply.send(Err(error.clone()));
    }
}
