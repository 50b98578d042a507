//! What the journal says: a record alone holds all that is needed to rebuild its rows.
//!
//! A message is written as its head, by postcard, and its bytes as they are; so these can be read
//! by position alone; or packed, which the kind then says (see `pack`).

use super::frame::Position;
use super::pack::{self, Stored};
use crate::base::address::{AddressError, Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, Ret};
use crate::mail::message::{Lane, NewMessage, Origin};
use crate::policy::verdict::Blame;
use crate::store::State;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A new message.
pub(in crate::store) const MESSAGE: u8 = 1;
/// What became of deliveries.
pub(in crate::store) const OUTCOMES: u8 = 2;
/// A message written again at the front, with what became of its deliveries.
pub(in crate::store) const CARRIED: u8 = 3;
/// Everything is held (payload 1), or no longer (0).
pub(in crate::store) const HOLD: u8 = 4;

/// Where the bytes of a message lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Place {
    /// The frame of its record.
    pub(in crate::store) frame: Position,
    /// Length of that frame's payload.
    pub(in crate::store) payload: u32,
    /// Where in the payload its bytes begin.
    pub(in crate::store) body: u32,
}

/// Why bytes that were whole are no record of a kind that this build knows.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum Unreadable {
    /// Another build wrote it, or we are wrong.
    #[error("not a record of this version: {0}")]
    Codec(#[from] postcard::Error),
    /// An address that we would not have written.
    #[error("not an address: {0}")]
    Address(#[from] AddressError),
    /// A value that we would not have written.
    #[error("not a value of {0}")]
    Value(&'static str),
}

/// A message's record without its bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    id: i64,
    accepted_at: i64,
    due_at: i64,
    expires_at: i64,
    lane: Lane,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    tenant: Cow<'a, str>,
    campaign: Cow<'a, str>,
    client: Cow<'a, str>,
    reverse_path: Cow<'a, str>,
    eight_bit: bool,
    smtputf8: bool,
    ret_full: Option<bool>,
    envid: Option<Cow<'a, str>>,
    recipients: Vec<To<'a>>,
}

/// One recipient.
#[derive(Debug, Serialize, Deserialize)]
struct To<'a> {
    #[serde(borrow)]
    mailbox: Cow<'a, str>,
    /// 1 SUCCESS, 2 FAILURE, 4 DELAY.
    notify: Option<u8>,
    orcpt: Option<Cow<'a, str>>,
}

/// The head of a message's record; its bytes follow.
pub(in crate::store) fn write_head(message: &NewMessage) -> Result<Vec<u8>, Unreadable> {
    let envelope = &message.envelope;
    let to = |recipient: &'_ Recipient| To {
        mailbox: Cow::Owned(recipient.mailbox.as_str().to_owned()),
        notify: recipient.notify.map(Notify::bits),
        orcpt: recipient.orcpt.clone().map(Cow::Owned),
    };
    let head = Head {
        id: message.id.number(),
        accepted_at: message.accepted_at.0,
        due_at: message.due_at.0,
        expires_at: message.expires_at.0,
        lane: message.origin.lane,
        reason: Cow::Borrowed(&message.origin.reason),
        tenant: Cow::Borrowed(&message.origin.tenant),
        campaign: Cow::Borrowed(&message.origin.campaign),
        client: Cow::Borrowed(&message.origin.client),
        reverse_path: Cow::Borrowed(envelope.reverse_path.as_str()),
        eight_bit: envelope.body == BodyType::EightBitMime,
        smtputf8: envelope.smtputf8,
        ret_full: envelope.ret.map(|ret| ret == Ret::Full),
        envid: envelope.envid.as_deref().map(Cow::Borrowed),
        recipients: envelope.recipients.iter().map(to).collect(),
    };
    Ok(postcard::to_allocvec(&head)?)
}

/// A message from a record of this kind, and how many of the bytes are its head.
pub(in crate::store) fn read_message(
    kind: u8,
    payload: &Bytes,
) -> Result<(NewMessage, usize), Unreadable> {
    let (head, body): (Head<'_>, &[u8]) = postcard::take_from_bytes(payload)?;
    let head_len = payload.len() - body.len();
    let body = Stored::found(kind, payload.slice(head_len..)).open()?;
    let mut envelope = Envelope::from(ReversePath::parse(&head.reverse_path)?);
    envelope.body = if head.eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit };
    envelope.smtputf8 = head.smtputf8;
    envelope.ret = head.ret_full.map(|full| if full { Ret::Full } else { Ret::Headers });
    envelope.envid = head.envid.map(Cow::into_owned);
    for to in head.recipients {
        envelope.recipients.push(Recipient {
            mailbox: Mailbox::parse(&to.mailbox)?,
            notify: to.notify.map(Notify::from_bits),
            orcpt: to.orcpt.map(Cow::into_owned),
        });
    }
    let message = NewMessage {
        id: MessageId::from_number(head.id).ok_or(Unreadable::Value("a message id"))?,
        accepted_at: Timestamp(head.accepted_at),
        due_at: Timestamp(head.due_at),
        expires_at: Timestamp(head.expires_at),
        origin: Origin {
            lane: head.lane,
            reason: head.reason.into_owned(),
            tenant: head.tenant.into_owned(),
            campaign: head.campaign.into_owned(),
            client: head.client.into_owned(),
        },
        envelope,
        body,
    };
    Ok((message, head_len))
}

/// What became of deliveries, as written. The notifications that it caused are in the same frame:
/// both are kept, or neither.
#[derive(Debug, Serialize, Deserialize)]
struct Outcomes<'a> {
    at: i64,
    #[serde(borrow)]
    ended: Vec<Ended<'a>>,
    /// Lengths of the notifications' records, which follow.
    notices: Vec<u64>,
}

/// What became of one delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Ended<'a> {
    pub(in crate::store) message: i64,
    pub(in crate::store) number: u32,
    /// With the message's lane, tenant and campaign, the name of its queue.
    #[serde(borrow)]
    pub(in crate::store) domain: Cow<'a, str>,
    /// Its place in that queue.
    pub(in crate::store) due_at: i64,
    pub(in crate::store) how: How,
    pub(in crate::store) reply: Cow<'a, str>,
    pub(in crate::store) blame: Option<Blame>,
}

/// How an attempt, or an operator, left a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) enum How {
    /// The next hop took it.
    Delivered,
    /// Refused for good.
    Failed,
    /// Given up.
    Expired,
    /// By an operator.
    Deleted,
    /// To be tried again.
    Deferred {
        /// When; of a held one, once it is released.
        due_at: i64,
        /// A delay notification was sent.
        delay_notified: bool,
    },
    /// By an operator: due at another time, or held.
    Moved {
        /// Its new place in its queue.
        due_at: i64,
        /// Of a held one, the due time it goes back to.
        held_due: Option<i64>,
    },
}

/// The record of outcomes: its head, to be followed by each notice's head and bytes.
pub(in crate::store) fn write_outcomes(
    at: Timestamp,
    ended: Vec<Ended<'_>>,
    notices: &[(Vec<u8>, Bytes)],
) -> Result<Vec<u8>, Unreadable> {
    let notices = notices.iter().map(|(head, body)| (head.len() + body.len()) as u64).collect();
    Ok(postcard::to_allocvec(&Outcomes { at: at.0, ended, notices })?)
}

/// What became of deliveries, and the notifications, each with the place of its bytes in the
/// payload.
pub(in crate::store) fn read_outcomes(payload: &Bytes) -> Result<OutcomesRead<'_>, Unreadable> {
    let (outcomes, rest): (Outcomes<'_>, &[u8]) = postcard::take_from_bytes(payload)?;
    let mut at = payload.len() - rest.len();
    let mut notices = Vec::new();
    for len in outcomes.notices {
        let end = usize::try_from(len).ok().and_then(|len| at.checked_add(len));
        let end = end.filter(|end| *end <= payload.len());
        let end = end.ok_or(Unreadable::Value("a notice's length"))?;
        let (notice, head_len) = read_message(MESSAGE, &payload.slice(at..end))?;
        notices.push((notice, at + head_len));
        at = end;
    }
    Ok(OutcomesRead { at: Timestamp(outcomes.at), ended: outcomes.ended, notices })
}

/// As [`read_outcomes`] gives it.
#[derive(Debug)]
pub(in crate::store) struct OutcomesRead<'a> {
    /// When.
    pub(in crate::store) at: Timestamp,
    /// What became of deliveries.
    pub(in crate::store) ended: Vec<Ended<'a>>,
    /// Notifications, and where in the payload their bytes begin.
    pub(in crate::store) notices: Vec<(NewMessage, usize)>,
}

/// What became of a message's deliveries, to go before its head and bytes in a record that stands
/// for all of its records so far.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Carried {
    /// Deliveries that are open.
    pub(in crate::store) open: Vec<Open>,
    /// Those that are not.
    pub(in crate::store) closed: Vec<Closed>,
}

/// A delivery that is open.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Open {
    pub(in crate::store) number: u32,
    pub(in crate::store) due_at: i64,
    pub(in crate::store) held_due: Option<i64>,
    pub(in crate::store) attempts: u32,
    pub(in crate::store) delay_notified: bool,
    pub(in crate::store) last_at: Option<i64>,
    pub(in crate::store) last_reply: String,
    pub(in crate::store) blame: Option<Blame>,
}

/// A delivery that is settled.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Closed {
    pub(in crate::store) number: u32,
    pub(in crate::store) state: State,
    pub(in crate::store) attempts: u32,
    pub(in crate::store) at: i64,
    pub(in crate::store) reply: String,
    pub(in crate::store) blame: Option<Blame>,
}

/// The beginning of a record that carries a message on; its head and bytes follow.
pub(in crate::store) fn write_carried(carried: &Carried) -> Result<Vec<u8>, Unreadable> {
    Ok(postcard::to_allocvec(carried)?)
}

/// What was carried on, the message, and where in the payload its bytes begin.
pub(in crate::store) fn read_carried(
    kind: u8,
    payload: &Bytes,
) -> Result<(Carried, NewMessage, usize), Unreadable> {
    let (carried, rest): (Carried, &[u8]) = postcard::take_from_bytes(payload)?;
    let begin = payload.len() - rest.len();
    let (message, head_len) = read_message(kind, &payload.slice(begin..))?;
    Ok((carried, message, begin + head_len))
}

/// The messages that a record holds; none where it cannot be read.
pub(in crate::store) fn messages(kind: u8, payload: &Bytes) -> Vec<MessageId> {
    let id = |bytes: &[u8]| {
        let (head, _): (Head<'_>, &[u8]) = postcard::take_from_bytes(bytes).ok()?;
        MessageId::from_number(head.id)
    };
    match pack::base(kind) {
        MESSAGE => id(payload).into_iter().collect(),
        CARRIED => match postcard::take_from_bytes::<Carried>(payload) {
            Ok((_, rest)) => id(rest).into_iter().collect(),
            Err(_) => Vec::new(),
        },
        OUTCOMES => {
            let notices = read_outcomes(payload).map(|outcomes| outcomes.notices);
            notices.unwrap_or_default().into_iter().map(|(notice, _)| notice.id).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(
        reason: String,
        recipients: &[(u8, Option<u8>, Option<String>)],
        body: Vec<u8>,
    ) -> NewMessage {
        let mut envelope = Envelope::from(ReversePath::parse("Ann@s.test").unwrap());
        (envelope.body, envelope.ret) = (BodyType::EightBitMime, Some(Ret::Headers));
        envelope.envid = Some("QQ+2B1".into());
        envelope.recipients = recipients
            .iter()
            .map(|(n, notify, orcpt)| Recipient {
                mailbox: Mailbox::parse(&format!("r{n}@D{n}.test")).unwrap(),
                notify: notify.map(Notify::from_bits),
                orcpt: orcpt.clone(),
            })
            .collect();
        NewMessage {
            id: MessageId::from_number(77).unwrap(),
            accepted_at: Timestamp(5),
            due_at: Timestamp(6),
            expires_at: Timestamp(-7),
            origin: Origin {
                lane: Lane::Bulk,
                reason,
                tenant: "t".into(),
                campaign: String::new(),
                client: "192.0.2.1".into(),
            },
            envelope,
            body: body.into(),
        }
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(
            reason in "\\PC{0,20}",
            recipients in proptest::collection::vec(
                (
                    any::<u8>(),
                    proptest::option::of(0u8..8),
                    proptest::option::of("rfc822;[a-z]{1,9}"),
                ),
                1..6,
            ),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let written = message(reason, &recipients, body);
            let mut payload = write_head(&written).unwrap();
            let head_len = payload.len();
            payload.extend_from_slice(&written.body);
            let payload = Bytes::from(payload);
            let (read, len) = read_message(MESSAGE, &payload).unwrap();
            prop_assert_eq!(messages(MESSAGE, &payload), [written.id]);
            prop_assert_eq!(len, head_len);
            prop_assert_eq!(format!("{read:?}"), format!("{written:?}"));
        }

        #[test]
        fn outcomes_are_read_with_their_notices(
            deliveries in
                proptest::collection::vec((any::<i64>(), any::<u32>(), "\\PC{0,9}"), 0..5),
            bodies in proptest::collection::vec("[a-z]{0,40}", 0..3),
        ) {
            let hows = [
                How::Delivered,
                How::Deferred { due_at: 5, delay_notified: true },
                How::Moved { due_at: 5, held_due: None },
            ];
            let ended: Vec<Ended<'_>> = deliveries.iter().zip(hows.iter().cycle()).map(
                |((message, number, reply), how)| Ended {
                    message: *message,
                    number: *number,
                    domain: "d.test".into(),
                    due_at: 9,
                    how: *how,
                    reply: reply.into(),
                    blame: Some(Blame::Site),
                },
            ).collect();
            let notices: Vec<NewMessage> = bodies
                .iter()
                .map(|body| message("report".into(), &[(1, None, None)], body.clone().into()))
                .collect();
            let parts: Vec<(Vec<u8>, Bytes)> =
                notices.iter().map(|n| (write_head(n).unwrap(), n.body.clone())).collect();
            let mut payload = write_outcomes(Timestamp(3), ended.clone(), &parts).unwrap();
            for (head, body) in &parts {
                payload.extend_from_slice(head);
                payload.extend_from_slice(body);
            }
            let payload = Bytes::from(payload);
            let read = read_outcomes(&payload).unwrap();
            prop_assert_eq!((read.at, &read.ended), (Timestamp(3), &ended));
            prop_assert_eq!(read.notices.len(), notices.len());
            prop_assert_eq!(messages(OUTCOMES, &payload).len(), notices.len());
            for ((notice, at), written) in read.notices.iter().zip(&notices) {
                prop_assert_eq!(format!("{notice:?}"), format!("{written:?}"));
                prop_assert_eq!(&payload[*at..*at + written.body.len()], &written.body[..]);
            }
        }

        #[test]
        fn a_message_is_carried_on_with_its_state(body in "[a-z]{0,40}", reply in "\\PC{0,9}") {
            let written = message("r".into(), &[(1, None, None), (2, None, None)], body.into());
            let open = Open {
                number: 0,
                due_at: 7,
                held_due: Some(9),
                attempts: 3,
                delay_notified: true,
                last_at: Some(4),
                last_reply: reply.clone(),
                blame: Some(Blame::Site),
            };
            let (state, blame) = (State::Failed, None);
            let closed = Closed { number: 1, state, attempts: 1, at: 3, reply, blame };
            let carried = Carried { open: vec![open], closed: vec![closed] };
            let mut payload = write_carried(&carried).unwrap();
            payload.extend_from_slice(&write_head(&written).unwrap());
            let begin = payload.len();
            payload.extend_from_slice(&written.body);
            let payload = Bytes::from(payload);
            let (again, read, at) = read_carried(CARRIED, &payload).unwrap();
            prop_assert_eq!(messages(CARRIED, &payload), [written.id]);
            prop_assert_eq!((again, at), (carried, begin));
            prop_assert_eq!(format!("{read:?}"), format!("{written:?}"));
        }

        #[test]
        fn other_bytes_are_refused_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = Bytes::from(bytes);
            _ = read_message(MESSAGE, &bytes);
            _ = read_outcomes(&bytes);
            _ = read_carried(CARRIED, &bytes);
            for kind in [MESSAGE, OUTCOMES, CARRIED] {
                _ = messages(kind, &bytes);
            }
        }
    }
}
