//! From verdicts to what the store records: outcomes, and the notifications that they cause (RFC
//! 3461, RFC 3464).
//!
//! Pure. Each delivery of a transaction ends as exactly one outcome, or untried.

use super::connection::Transaction;
use crate::base::address::Domain;
use crate::base::id::{IdGenerator, MessageId};
use crate::base::random::Rng;
use crate::base::time::Timestamp;
use crate::config::Retry;
use crate::mail::dsn::{self, Action, Report, Reported};
use crate::mail::message::NewMessage;
use crate::policy::retry::Schedule;
use crate::policy::verdict::{Blame, Ruling, Verdict};
use crate::smtp::reply::EnhancedCode;
use crate::store::{Delivery, Lease, Outcome, Settled, Settlement};

/// An unknown outcome is tried again as late as if so many more attempts had failed (RFC 1047).
const IN_DOUBT_STEPS: u32 = 2;

/// What settling depends on.
pub struct Rules<'a> {
    /// Our name, for the notifications.
    pub hostname: &'a Domain,
    /// Retry schedules.
    pub retry: &'a Retry,
}

/// A transaction's outcomes.
#[derive(Debug)]
pub struct Concluded {
    /// To be recorded.
    pub settlement: Settlement,
    /// The notifications in it, and what they say.
    pub reports: Vec<(MessageId, Action)>,
    /// Deliveries that were not tried.
    pub untried: Vec<Lease>,
}

/// Where an attempt ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer<'a> {
    /// The receiving host; empty where none was reached.
    pub host: &'a str,
    /// It sends notifications itself (offers DSN).
    pub reports: bool,
}

/// Concludes a transaction whose deliveries got these verdicts, in the same order.
pub fn conclude(
    rules: &Rules<'_>,
    transaction: &Transaction,
    verdicts: &[Verdict],
    peer: Peer<'_>,
    now: Timestamp,
    rng: &mut Rng,
    ids: &mut IdGenerator,
) -> Concluded {
    let head = &transaction.head;
    let schedule = rules.retry.of(head.origin.lane);
    let mut concluded = Concluded {
        settlement: Settlement { at: now, ..Settlement::default() },
        reports: Vec::new(),
        untried: Vec::new(),
    };
    let (mut failed, mut delayed, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for (delivery, verdict) in transaction.deliveries.iter().zip(verdicts) {
        if verdict.ruling == Ruling::Untried {
            concluded.untried.push(delivery.lease);
            continue;
        }
        let outcome =
            outcome(schedule, delivery, verdict, (head.accepted_at, head.expires_at), now, rng);
        let recipient = &delivery.recipient;
        match outcome {
            Outcome::Delivered if recipient.notify.is_some_and(|n| n.success) && !peer.reports => {
                relayed.push(reported(delivery, verdict, outcome, peer));
            }
            Outcome::Failed | Outcome::Expired if recipient.wants_failure() => {
                failed.push(reported(delivery, verdict, outcome, peer));
            }
            Outcome::Deferred { delay_notified: true, .. } if !delivery.delay_notified => {
                delayed.push(reported(delivery, verdict, outcome, peer));
            }
            _ => {}
        }
        concluded.settlement.outcomes.push(Settled {
            lease: delivery.lease,
            outcome,
            reply: said(delivery, verdict, outcome),
            blame: verdict.blame,
        });
    }
    let kinds = [(Action::Failed, failed), (Action::Delayed, delayed), (Action::Relayed, relayed)];
    for (action, recipients) in kinds.into_iter().filter(|(_, recipients)| !recipients.is_empty()) {
        let report = Report { action, head, original: &transaction.body, recipients };
        let made: Option<NewMessage> =
            dsn::build(&report, rules.hostname, ids.next(now), now, rules.retry.direct.expire);
        concluded.reports.extend(made.iter().map(|report| (report.id, action)));
        concluded.settlement.notices.extend(made);
    }
    concluded
}

fn outcome(
    schedule: &Schedule,
    delivery: &Delivery,
    verdict: &Verdict,
    (accepted_at, expires_at): (Timestamp, Timestamp),
    now: Timestamp,
    rng: &mut Rng,
) -> Outcome {
    let steps = match verdict.ruling {
        Ruling::Delivered => return Outcome::Delivered,
        Ruling::Expired => return Outcome::Expired,
        Ruling::Fail => return Outcome::Failed,
        Ruling::Retry | Ruling::Untried => 1,
        Ruling::InDoubt => 1 + IN_DOUBT_STEPS,
    };
    if now >= expires_at {
        return Outcome::Expired;
    }
    let late = schedule.delay_notice.is_some_and(|after| now.since(accepted_at) >= after);
    let asked = delivery.recipient.notify.is_some_and(|n| n.delay);
    let due_at = match verdict.retry_at {
        Some(at) => at.max(now).min(expires_at),
        None => schedule.next(delivery.attempts + steps, now, expires_at, rng),
    };
    Outcome::Deferred { due_at, delay_notified: delivery.delay_notified || (late && asked) }
}

/// The text that goes on record: of mail past its time, the last reply says more than its age.
fn said(delivery: &Delivery, verdict: &Verdict, outcome: Outcome) -> String {
    if outcome == Outcome::Expired
        && verdict.ruling == Ruling::Expired
        && !delivery.last_reply.is_empty()
    {
        format!("not delivered in time; last: {}", delivery.last_reply)
    } else {
        verdict.text.clone()
    }
}

fn reported<'a>(
    delivery: &'a Delivery,
    verdict: &'a Verdict,
    outcome: Outcome,
    peer: Peer<'a>,
) -> Reported<'a> {
    let past = outcome == Outcome::Expired && verdict.ruling == Ruling::Expired;
    let last = past && !delivery.last_reply.is_empty();
    Reported {
        recipient: &delivery.recipient,
        // Delivery time expired (RFC 3463 §3.5).
        status: if outcome == Outcome::Expired {
            "5.4.7".into()
        } else {
            verdict.status.to_string()
        },
        diagnostic: if last { &delivery.last_reply } else { &verdict.text },
        is_reply: verdict.is_reply,
        remote: if verdict.is_reply { peer.host } else { "" },
    }
}

/// The verdict on mail whose time is over.
#[must_use]
pub fn past_its_time(why: &str) -> Verdict {
    let text = if why.is_empty() {
        "not delivered in time".into()
    } else {
        format!("not delivered in time: {why}")
    };
    Verdict::own(Ruling::Expired, Some(Blame::Site), EnhancedCode(5, 4, 7), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::{Mailbox, ReversePath};
    use crate::base::id::QueueId;
    use crate::base::random::from_seed;
    use crate::mail::envelope::{Envelope, Notify, Recipient};
    use crate::mail::message::{Lane, Origin};
    use crate::policy::verdict::judge;
    use crate::smtp::client::{Attempt, Stage};
    use crate::smtp::reply::Reply;
    use crate::store::DeliveryId;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_795_394_728_114);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn transaction(
        sender: &str,
        recipients: &[(&str, Option<Notify>)],
        age: Duration,
    ) -> Transaction {
        let id = MessageId::floor(NOW.before(age));
        let recipient = |(address, notify): &(&str, Option<Notify>)| Recipient {
            notify: *notify,
            ..Recipient::new(Mailbox::parse(address).unwrap())
        };
        let mut message = NewMessage {
            id,
            accepted_at: NOW.before(age),
            due_at: NOW,
            expires_at: NOW.before(age).after(48 * HOUR),
            origin: Origin {
                lane: Lane::Bulk,
                reason: String::new(),
                tenant: "t".into(),
                campaign: String::new(),
                client: String::new(),
            },
            envelope: Envelope::from(ReversePath::parse(sender).unwrap()),
            body: "Subject: x\r\n\r\nbody\r\n".into(),
        };
        message.envelope.recipients = recipients.iter().map(recipient).collect();
        let (head, recipients) = message.split();
        let deliveries = recipients.iter().zip(0..).map(|(recipient, number)| Delivery {
            lease: Lease {
                delivery: DeliveryId { message: id, number },
                queue: QueueId(1),
                due_at: NOW,
                fence: 1,
            },
            recipient: recipient.clone(),
            attempts: 0,
            delay_notified: false,
            last_reply: String::new(),
        });
        Transaction {
            deliveries: deliveries.collect(),
            head: head.into(),
            body: message.body.clone(),
        }
    }

    fn reply(stage: Stage, code: u16) -> Verdict {
        judge(&Attempt::Reply {
            stage,
            reply: Reply { code, enhanced: None, text: "text".into(), lines: Vec::new() },
        })
    }

    fn run(transaction: &Transaction, verdicts: &[Verdict], peer: Peer<'_>) -> Concluded {
        let schedule = Schedule {
            waits: [1, 2, 3, 4].map(|h| HOUR * h).to_vec(),
            jitter: 0.0,
            expire: 48 * HOUR,
            delay_notice: Some(4 * HOUR),
        };
        let retry = Retry { direct: schedule.clone(), bulk: schedule };
        let hostname = Domain::parse("relay.example").unwrap();
        let rules = Rules { hostname: &hostname, retry: &retry };
        conclude(
            &rules,
            transaction,
            verdicts,
            peer,
            NOW,
            &mut from_seed(1),
            &mut IdGenerator::after(None),
        )
    }

    #[test]
    fn each_recipient_has_its_own_outcome_and_only_failures_are_reported() {
        let t = transaction(
            "s@example.net",
            &[("a@x.test", None), ("b@x.test", None), ("c@x.test", None), ("d@x.test", None)],
            HOUR,
        );
        let untried = judge(&Attempt::NotStarted);
        let got = run(
            &t,
            &[reply(Stage::Dot, 250), reply(Stage::Rcpt, 550), reply(Stage::Rcpt, 451), untried],
            Peer::default(),
        );
        let outcomes: Vec<Outcome> = got.settlement.outcomes.iter().map(|o| o.outcome).collect();
        let deferred = Outcome::Deferred { due_at: NOW.after(HOUR), delay_notified: false };
        assert_eq!(outcomes, [Outcome::Delivered, Outcome::Failed, deferred]);
        assert_eq!(got.untried, [t.deliveries[3].lease]);
        assert_eq!(got.settlement.notices.len(), 1);
        let report = String::from_utf8_lossy(&got.settlement.notices[0].body).into_owned();
        assert!(report.contains("rfc822;b@x.test") && !report.contains("rfc822;a@x.test"));
    }

    #[test]
    fn notify_never_and_null_senders_are_told_nothing() {
        let never = transaction("s@example.net", &[("a@x.test", Some(Notify::default()))], HOUR);
        assert!(
            run(&never, &[reply(Stage::Rcpt, 550)], Peer::default()).settlement.notices.is_empty()
        );
        let null = transaction("", &[("a@x.test", None)], HOUR);
        let got = run(&null, &[reply(Stage::Rcpt, 550)], Peer::default());
        assert_eq!(
            (got.settlement.notices.len(), got.settlement.outcomes[0].outcome),
            (0, Outcome::Failed)
        );
    }

    #[test]
    fn success_is_reported_where_the_next_hop_will_not() {
        let notify = Some(Notify { success: true, ..Notify::default() });
        let t = transaction("s@example.net", &[("a@x.test", notify)], HOUR);
        let ok = [reply(Stage::Dot, 250)];
        assert_eq!(run(&t, &ok, Peer { host: "mx", reports: false }).settlement.notices.len(), 1);
        assert_eq!(run(&t, &ok, Peer { host: "mx", reports: true }).settlement.notices.len(), 0);
    }

    #[test]
    fn a_delay_is_reported_once_and_only_where_asked() {
        let notify = Some(Notify { delay: true, ..Notify::default() });
        let mut t =
            transaction("s@example.net", &[("a@x.test", notify), ("b@x.test", None)], 5 * HOUR);
        let slow = [reply(Stage::Rcpt, 451), reply(Stage::Rcpt, 451)];
        let got = run(&t, &slow, Peer::default()).settlement;
        let told =
            |o: &Settled| matches!(o.outcome, Outcome::Deferred { delay_notified: true, .. });
        assert_eq!(got.outcomes.iter().map(told).collect::<Vec<_>>(), [true, false]);
        assert_eq!(got.notices.len(), 1);
        t.deliveries[0].delay_notified = true;
        assert_eq!(run(&t, &slow, Peer::default()).settlement.notices.len(), 0);
    }

    #[test]
    fn what_is_past_its_time_expires_with_its_last_reply() {
        let mut t = transaction("s@example.net", &[("a@x.test", None)], 49 * HOUR);
        assert_eq!(
            run(&t, &[reply(Stage::Rcpt, 451)], Peer::default()).settlement.outcomes[0].outcome,
            Outcome::Expired
        );
        t.deliveries[0].last_reply = "451 greylisted".into();
        let got = run(&t, &[past_its_time("")], Peer::default()).settlement;
        assert_eq!(got.outcomes[0].reply, "not delivered in time; last: 451 greylisted");
        let report = String::from_utf8_lossy(&got.notices[0].body).into_owned();
        assert!(report.contains("Status: 5.4.7\r\n") && report.contains("451 greylisted"));
    }

    #[test]
    fn a_time_that_the_receiver_names_goes_before_the_schedule() {
        let t = transaction("s@example.net", &[("a@x.test", None)], HOUR);
        let due = |at: Timestamp| {
            let verdict = Verdict { retry_at: Some(at), ..reply(Stage::Rcpt, 451) };
            match run(&t, &[verdict], Peer::default()).settlement.outcomes[0].outcome {
                Outcome::Deferred { due_at, .. } => due_at,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(due(NOW.after(HOUR / 12)), NOW.after(HOUR / 12));
        assert_eq!(due(NOW.after(HOUR * 100)), NOW.after(HOUR * 47), "not beyond its time");
    }

    #[test]
    fn an_unknown_outcome_is_tried_again_late() {
        let t = transaction("s@example.net", &[("a@x.test", None)], HOUR);
        let lost =
            judge(&Attempt::Lost { stage: Stage::Dot, error: "reset".into(), in_doubt: true });
        let got = run(&t, &[lost], Peer::default()).settlement.outcomes[0].outcome;
        assert_eq!(got, Outcome::Deferred { due_at: NOW.after(3 * HOUR), delay_notified: false });
    }
}
