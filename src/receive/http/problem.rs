//! What went wrong, as programs are told it: `application/problem+json` (RFC 9457).

use crate::smtp::command::Refusal;
use hyper::StatusCode;
use serde::Serialize;

/// When to come back where nothing says it better, in seconds.
const SOON: u32 = 60;

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// The title says it all.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// The status in words.
    pub(super) title: &'static str,
    /// Of HTTP.
    pub(super) status: u16,
    /// What was wrong.
    pub(super) detail: Box<str>,
    /// Where: `attachments[0].type`, `Idempotency-Key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<Box<str>>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<Box<str>>,
    /// For the header of that name, in seconds.
    #[serde(skip)]
    pub(super) retry_after: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Box<str>>) -> Self {
        let comes_back =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            remedy: None,
            retry_after: comes_back.then_some(SOON),
        }
    }

    /// A field of the request that cannot be taken.
    pub(super) fn of(field: impl Into<Box<str>>, detail: impl Into<Box<str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    pub(super) fn remedy(self, remedy: impl Into<Box<str>>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// It may be gone when the client comes back.
    pub(super) fn is_temporary(&self) -> bool {
        self.retry_after.is_some()
    }
}

/// What an SMTP client would have heard: for a while (4xx), since it is too large, since it is not
/// permitted, or for another reason.
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let status = match (refusal.code, refusal.enhanced.1) {
            (450 | 454, _) | (421, 7) => StatusCode::TOO_MANY_REQUESTS,
            (400..=499, _) => StatusCode::SERVICE_UNAVAILABLE,
            (552, _) => StatusCode::PAYLOAD_TOO_LARGE,
            (_, 7) => StatusCode::FORBIDDEN,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_status() {
        for (refusal, status, temporary) in [
            (Refusal::new(450, (4, 7, 1), "x"), 429, true),
            (Refusal::new(421, (4, 7, 0), "x"), 429, true),
            (Refusal::new(421, (4, 3, 2), "x"), 503, true),
            (Refusal::new(452, (4, 3, 1), "x"), 503, true),
            (Refusal::new(451, (4, 3, 0), "x"), 503, true),
            (Refusal::new(552, (5, 3, 4), "x"), 413, false),
            (Refusal::new(550, (5, 7, 1), "x"), 403, false),
            (Refusal::new(550, (5, 5, 3), "x"), 422, false),
            (Refusal::new(554, (5, 4, 6), "x"), 422, false),
        ] {
            let problem = Problem::from(&refusal);
            assert_eq!((problem.status, problem.is_temporary()), (status, temporary), "{refusal}");
        }
    }
}
