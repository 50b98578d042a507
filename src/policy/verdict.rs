//! From a reply (or its absence) to an outcome, and whose fault it is.
//!
//! # Invariants
//! * Only what the receiving host said about this message or recipient fails it for good; a lost
//!   connection, a greeting or an EHLO never does.
//! * After the last dot without a reply the outcome is unknown: tried again late (RFC 1047), never
//!   failed.

use crate::base::time::Timestamp;
use crate::smtp::client::{Attempt, Stage};
use crate::smtp::reply::{EnhancedCode, Reply};

/// Who is to blame for an attempt that did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// This address: unknown, full, refused. Others at the site are not concerned.
    Recipient,
    /// This message: its size, content or needs.
    Message,
    /// The receiving host or its DNS.
    Site,
    /// Our egress address: listed, limited, unwelcome.
    Source,
    /// This node: a local error.
    Ourselves,
}

impl Blame {
    /// All of them, for readers of stored words.
    pub const ALL: [Self; 5] =
        [Self::Recipient, Self::Message, Self::Site, Self::Source, Self::Ourselves];

    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Site => "site",
            Self::Source => "source",
            Self::Ourselves => "ourselves",
        }
    }
}

/// What an attempt means for its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The next hop took it.
    Delivered,
    /// Try again by the schedule.
    Retry,
    /// Try again, but late: the next hop may have it already (RFC 1047).
    InDoubt,
    /// Never try again.
    Fail,
    /// Its time is over.
    Expired,
    /// It was not tried: as if nothing had happened.
    Untried,
}

/// A ruling with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub ruling: Ruling,
    /// Whose fault; `None` where it is nobody's.
    pub blame: Option<Blame>,
    /// For the notification: `5.1.1` (RFC 3463).
    pub status: EnhancedCode,
    /// Reply or error, safe to print.
    pub text: String,
    /// The text is the peer's reply, not our own words.
    pub is_reply: bool,
    /// When to try again, where the schedule does not say.
    pub retry_at: Option<Timestamp>,
    /// The rule that decided; empty where none did.
    pub rule: String,
}

impl Verdict {
    /// In our own words, by no rule.
    #[must_use]
    pub fn own(ruling: Ruling, blame: Option<Blame>, status: EnhancedCode, text: String) -> Self {
        let (is_reply, retry_at, rule) = (false, None, String::new());
        Self { ruling, blame, status, text, is_reply, retry_at, rule }
    }
}

/// Judges one recipient's attempt.
#[must_use]
pub fn judge(attempt: &Attempt) -> Verdict {
    match attempt {
        Attempt::Reply { stage, reply } => judge_reply(*stage, reply),
        Attempt::Lost { stage, error, in_doubt } => {
            let (ruling, text) = if *in_doubt {
                let text = format!("{error} after the end of data: the outcome is unknown");
                (Ruling::InDoubt, text)
            } else {
                (Ruling::Retry, format!("{error} ({})", stage.as_str()))
            };
            Verdict::own(ruling, Some(Blame::Site), EnhancedCode(4, 4, 2), text)
        }
        Attempt::Unable { code, text } => {
            Verdict::own(Ruling::Fail, Some(Blame::Message), *code, text.clone())
        }
        Attempt::NotStarted => {
            Verdict::own(Ruling::Untried, None, EnhancedCode(4, 4, 2), String::new())
        }
    }
}

fn judge_reply(stage: Stage, reply: &Reply) -> Verdict {
    let ruling = match stage {
        Stage::Dot if reply.is_positive() => Ruling::Delivered,
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Dot
            if reply.is_permanent() && !means_too_many(stage, reply) =>
        {
            Ruling::Fail
        }
        _ => Ruling::Retry,
    };
    let blame = if ruling == Ruling::Delivered { None } else { Some(blame(stage, reply)) };
    let class = match ruling {
        Ruling::Delivered => 2,
        Ruling::Fail => 5,
        _ => 4,
    };
    let status = match reply.enhanced {
        Some(code) if code.0 == class => code,
        _ => EnhancedCode(class, 0, 0),
    };
    Verdict { is_reply: true, ..Verdict::own(ruling, blame, status, reply.to_string()) }
}

/// Old servers say 552 for "too many recipients": to be taken as 452 (RFC 5321 §4.5.3.1.10).
fn means_too_many(stage: Stage, reply: &Reply) -> bool {
    stage == Stage::Rcpt
        && reply.code == 552
        && reply.enhanced.is_none_or(|e| e == EnhancedCode(5, 5, 3))
}

/// By the reply's subject (RFC 3463 §3), else by the stage.
fn blame(stage: Stage, reply: &Reply) -> Blame {
    if reply.code == 421 || means_too_many(stage, reply) {
        return Blame::Site;
    }
    match (reply.enhanced.map(|e| (e.1, e.2)), stage) {
        // Policy: about our address at the door, about the message once it has been seen.
        (Some((7, _)), Stage::Dot) => Blame::Message,
        (Some((7, _)), _) => Blame::Source,
        // Sender's address.
        (Some((1, 7 | 8)), _) | (Some((3, 4)), _) | (Some((6, _)), _) => Blame::Message,
        (Some((1 | 2, _)), _) => Blame::Recipient,
        (Some((3 | 4, _)), _) => Blame::Site,
        (_, Stage::Rcpt) if reply.is_permanent() => Blame::Recipient,
        (_, Stage::Mail | Stage::Data | Stage::Dot) if reply.is_permanent() => Blame::Message,
        _ => Blame::Site,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruled(
        stage: Stage,
        code: u16,
        enhanced: Option<(u8, u16, u16)>,
    ) -> (Ruling, Option<Blame>, String) {
        let enhanced = enhanced.map(|(a, b, c)| EnhancedCode(a, b, c));
        let verdict = judge(&Attempt::Reply {
            stage,
            reply: Reply { code, enhanced, text: "why".into(), lines: Vec::new() },
        });
        (verdict.ruling, verdict.blame, verdict.status.to_string())
    }

    #[test]
    fn rules_by_stage_code_and_subject() {
        use Blame::{Message, Recipient, Site, Source};
        use Ruling::{Delivered, Fail, Retry};
        for (stage, code, enhanced, ruling, blame, status) in [
            (Stage::Dot, 250, Some((2, 0, 0)), Delivered, None, "2.0.0"),
            (Stage::Rcpt, 550, Some((5, 1, 1)), Fail, Some(Recipient), "5.1.1"),
            (Stage::Rcpt, 550, None, Fail, Some(Recipient), "5.0.0"),
            (Stage::Rcpt, 452, Some((4, 2, 2)), Retry, Some(Recipient), "4.2.2"),
            (Stage::Rcpt, 450, None, Retry, Some(Site), "4.0.0"),
            (Stage::Rcpt, 552, None, Retry, Some(Site), "4.0.0"),
            (Stage::Rcpt, 552, Some((5, 2, 2)), Fail, Some(Recipient), "5.2.2"),
            (Stage::Rcpt, 554, Some((5, 7, 1)), Fail, Some(Source), "5.7.1"),
            (Stage::Mail, 552, Some((5, 3, 4)), Fail, Some(Message), "5.3.4"),
            (Stage::Mail, 451, Some((4, 7, 1)), Retry, Some(Source), "4.7.1"),
            (Stage::Dot, 554, Some((5, 7, 1)), Fail, Some(Message), "5.7.1"),
            (Stage::Dot, 451, None, Retry, Some(Site), "4.0.0"),
            (Stage::Dot, 421, Some((4, 7, 28)), Retry, Some(Site), "4.7.28"),
            (Stage::Greeting, 554, Some((5, 7, 1)), Retry, Some(Source), "4.0.0"),
            (Stage::Ehlo, 550, None, Retry, Some(Site), "4.0.0"),
        ] {
            assert_eq!(
                ruled(stage, code, enhanced),
                (ruling, blame, status.to_string()),
                "{code} {enhanced:?} at {}",
                stage.as_str()
            );
        }
    }

    #[test]
    fn a_lost_connection_fails_nothing() {
        for in_doubt in [false, true] {
            let lost =
                Attempt::Lost { stage: Stage::Dot, error: "connection reset".into(), in_doubt };
            let want = if in_doubt { Ruling::InDoubt } else { Ruling::Retry };
            assert_eq!(judge(&lost).ruling, want);
        }
        assert_eq!(judge(&Attempt::NotStarted).ruling, Ruling::Untried);
    }
}
