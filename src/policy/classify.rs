//! Which lane a message takes, from its header section.
//!
//! Only the header section is parsed, and of it only the fields that a rule names: parsing a whole
//! message costs many times as much.

use crate::base::text::printable;
use crate::mail::message::Lane;
use mail_parser::{HeaderName, HeaderValue, MessageParser};

/// What makes a message a newsletter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// In this order; the first that matches decides.
    pub headers: Vec<HeaderRule>,
    /// Names of fields removed before delivery, in lower case.
    pub strip: Vec<String>,
}

/// One header that marks newsletters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Field name in the configuration's spelling.
    pub name: String,
    /// `None` (`"X-Newsletter"`): `no`, `0`, `false` say direct, `yes`, `1`, `true` say bulk, any
    /// other value says bulk and names the campaign. A pattern (`"Precedence: bulk"`, `*` for any
    /// text): its match says bulk.
    pub pattern: Option<String>,
}

impl HeaderRule {
    /// Parses `Name` or `Name: pattern`.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, pattern) = match text.split_once(':') {
            Some((name, pattern)) => (name.trim(), Some(pattern.trim().to_lowercase())),
            None => (text.trim(), None),
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err(format!(
                "{text:?} is not a header; write \"X-Newsletter\" or \"Precedence: bulk\""
            ));
        }
        if pattern.as_deref() == Some("") {
            return Err(format!(
                "{text:?} has an empty pattern; write \"{name}: *\" for any value"
            ));
        }
        Ok(Self { name: name.to_string(), pattern })
    }
}

/// Longest campaign name and reason in characters.
const TEXT_MAX: usize = 128;

/// The lane of a message, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// The lane.
    pub lane: Lane,
    /// A header decided.
    pub is_marked: bool,
    /// Which one, for people; safe to print.
    pub reason: String,
    /// The mailing that a newsletter belongs to; empty where nothing names one.
    pub campaign: String,
}

/// Classifies a message by its header section.
#[must_use]
pub fn classify(header: &[u8], rules: &Rules) -> Classification {
    let direct = |reason: &str, is_marked| Classification {
        lane: Lane::Direct,
        is_marked,
        reason: reason.to_string(),
        campaign: String::new(),
    };
    let unmarked = || direct("no newsletter header", false);
    let mut parser = MessageParser::new().default_header_ignore().header_text(LIST_ID);
    for rule in &rules.headers {
        parser = parser.header_text(rule.name.clone());
    }
    let Some(message) = parser.parse_headers(header) else { return unmarked() };
    let value = |name: &str| {
        let header =
            message.headers().iter().rev().find(|h| h.name().eq_ignore_ascii_case(name))?;
        Some(header.value().as_text().unwrap_or_default().trim().to_string())
    };
    for rule in &rules.headers {
        let Some(value) = value(&rule.name) else { continue };
        let reason = printable(format!("{}: {value}", rule.name).as_bytes(), TEXT_MAX);
        let campaign = match rule.says(&value) {
            Says::Nothing => continue,
            Says::Direct => return direct(&reason, true),
            Says::Bulk => list_id(message.header(HeaderName::ListId)),
            Says::Campaign => printable(value.as_bytes(), TEXT_MAX),
        };
        return Classification { lane: Lane::Bulk, is_marked: true, reason, campaign };
    }
    unmarked()
}

const LIST_ID: HeaderName<'static> = HeaderName::ListId;

/// What a header's value says about the message.
enum Says {
    Nothing,
    Direct,
    Bulk,
    /// Bulk, and the value names the campaign.
    Campaign,
}

impl HeaderRule {
    fn says(&self, value: &str) -> Says {
        let value = value.to_lowercase();
        match &self.pattern {
            Some(pattern) if matches_pattern(&value, pattern) => Says::Bulk,
            Some(_) => Says::Nothing,
            None => match value.as_str() {
                "no" | "0" | "false" => Says::Direct,
                "yes" | "1" | "true" | "" => Says::Bulk,
                _ => Says::Campaign,
            },
        }
    }
}

/// `*` stands for any text; everything else for itself.
fn matches_pattern(value: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = value.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What stands in the angle brackets of `List-Id: Weekly news <weekly.example.net>` (RFC 2919),
/// else all of it.
fn list_id(value: Option<&HeaderValue<'_>>) -> String {
    let text = value.and_then(HeaderValue::as_text).unwrap_or_default().trim();
    let inner = text.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(id, _)| id);
    printable(inner.unwrap_or(text).as_bytes(), TEXT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(headers: &[&str], message: &str) -> (Lane, String, String) {
        let headers = headers.iter().map(|h| HeaderRule::parse(h).unwrap()).collect();
        let got = classify(message.as_bytes(), &Rules { headers, strip: Vec::new() });
        (got.lane, got.reason, got.campaign)
    }

    #[test]
    fn the_newsletter_header_decides() {
        for (value, lane, campaign) in [
            ("yes", Lane::Bulk, "weekly.example.net"),
            ("1", Lane::Bulk, "weekly.example.net"),
            ("TRUE", Lane::Bulk, "weekly.example.net"),
            ("", Lane::Bulk, "weekly.example.net"),
            ("no", Lane::Direct, ""),
            ("0", Lane::Direct, ""),
            ("False", Lane::Direct, ""),
            ("spring 2026", Lane::Bulk, "spring 2026"),
            ("=?utf-8?q?Fr=C3=BChling?=", Lane::Bulk, "Frühling"),
        ] {
            let message =
                format!("X-NEWSLETTER: {value}\r\nList-Id: News <weekly.example.net>\r\n\r\n");
            let got = classified(&["X-Newsletter"], &message);
            assert_eq!((got.0, got.2.as_str()), (lane, campaign), "{value}: {}", got.1);
        }
        let none = classified(&["X-Newsletter"], "Subject: X-Newsletter: yes\r\n\r\n");
        assert_eq!(none, (Lane::Direct, "no newsletter header".into(), String::new()));
        assert_eq!(classified(&["X-Newsletter"], "").0, Lane::Direct);
    }

    #[test]
    fn patterns_match_values_and_name_no_campaign() {
        let rules = ["X-Newsletter", "Precedence: bulk", "List-Unsubscribe: *"];
        let precedence = classified(&rules, "Precedence: BULK\r\n\r\n");
        assert_eq!(precedence, (Lane::Bulk, "Precedence: BULK".into(), String::new()));
        assert_eq!(classified(&rules, "Precedence: list\r\n\r\n").0, Lane::Direct);
        assert_eq!(classified(&rules, "List-Unsubscribe: <https://x/1>\r\n\r\n").2, "");
        // The first rule that says something decides.
        assert_eq!(
            classified(&rules, "Precedence: bulk\r\nX-Newsletter: no\r\n\r\n").0,
            Lane::Direct
        );
    }

    #[test]
    fn the_reason_is_short_and_safe_to_print() {
        let message = format!("X-Newsletter: a\x1b[2J{}\r\n\r\n", "b".repeat(500));
        let (_, reason, campaign) = classified(&["X-Newsletter"], &message);
        assert!(
            reason.starts_with("X-Newsletter: a\\x1b[2Jb")
                && reason.chars().count() <= TEXT_MAX + 1 + 3
        );
        assert!(campaign.starts_with("a\\x1b"));
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (value, pattern, matches) in [
            ("bulk", "bulk", true),
            ("bulky", "bulk", false),
            ("abc", "a*c", true),
            ("abc", "*", true),
            ("", "*", true),
            ("abxbc", "a*b*c", true),
            ("ab", "a*b*b", false),
            ("mailchimp 3", "mailchimp*", true),
        ] {
            assert_eq!(matches_pattern(value, pattern), matches, "{value} {pattern}");
        }
    }
}
