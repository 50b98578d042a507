//! Reads attempts back out of our own log, as [`super::delivery`] wrote them, text or JSON.
//!
//! What a collector wrote before an event on its line (a time, a host) is passed over.

use serde::Deserialize;
use std::borrow::Cow;

/// One recipient's attempt, as far as the log tells what the receiver said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// `2026-11-23T00:45:28.114Z`
    pub at: String,
    /// Name of the receiving host; empty where no connection was made.
    pub host: String,
    /// Its reply, or our error.
    pub reply: String,
}

/// The attempt that a line is about, if it is about one: an event `delivery.*`.
#[must_use]
pub fn attempt(line: &str) -> Option<Logged> {
    let mut found = text(line).or_else(|| json(line.get(line.find('{')?..)?))?;
    if let Some(end) = found.host.find('[') {
        found.host.truncate(end);
    }
    Some(found)
}

fn json(line: &str) -> Option<Logged> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        timestamp: Cow<'a, str>,
        #[serde(borrow)]
        message: Cow<'a, str>,
        #[serde(borrow)]
        host: Cow<'a, str>,
        #[serde(borrow)]
        reply: Cow<'a, str>,
    }
    let Event { timestamp, message, host, reply } = serde_json::from_str(line.trim_end()).ok()?;
    message.starts_with("delivery.").then(|| Logged {
        at: timestamp.into_owned(),
        host: host.into_owned(),
        reply: reply.into_owned(),
    })
}

fn text(line: &str) -> Option<Logged> {
    let (before, event) = line.split_once(" INFO delivery.")?;
    if before.contains('"') {
        // A value of another event.
        return None;
    }
    let at = before.split_whitespace().next_back()?.to_string();
    let (_, mut rest) = event.split_once(' ')?;
    let mut found = Logged { at, ..Logged::default() };
    while let Some((key, value)) = rest.split_once('=') {
        let (value, after) = if value.starts_with('"') { quoted(value)? } else { bare(value) };
        match key.trim_start() {
            "host" => found.host = value,
            "reply" => found.reply = value,
            _ => {}
        }
        rest = after;
    }
    Some(found)
}

/// A value up to the next space, and what follows it.
fn bare(text: &str) -> (String, &str) {
    let (value, rest) = text.split_once(' ').unwrap_or((text, ""));
    (value.trim_end().to_string(), rest)
}

/// A string as `Debug` writes it, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '0' => value.push('\0'),
                'u' => {
                    let (hex, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                    value.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                    chars = rest.chars();
                }
                itself => value.push(itself),
            },
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::ReversePath;
    use crate::base::id::IdGenerator;
    use crate::base::text::printable;
    use crate::base::time::Timestamp;
    use crate::mail::envelope::Envelope;
    use crate::mail::message::{Lane, MessageHead, Origin};
    use crate::observe::delivery::{Attempted, Over, Told, delivery_settled};
    use crate::observe::log::tests::written;
    use proptest::prelude::*;
    use std::time::Duration;

    const AT: Timestamp = Timestamp(1_795_394_728_114);

    /// The line of one attempt, from whoever chose this tenant's name.
    fn line(json: bool, tenant: &str, reply: &str) -> String {
        let head = MessageHead {
            id: IdGenerator::after(None).next(AT),
            accepted_at: AT,
            expires_at: AT,
            origin: Origin {
                lane: Lane::Bulk,
                reason: String::new(),
                tenant: tenant.into(),
                campaign: String::new(),
                client: String::new(),
            },
            envelope: Envelope::from(ReversePath::Null),
            size: 1,
            recipient_count: 1,
        };
        let over = Over {
            site: "example.net",
            source: "mx1",
            host: "mx1.example.net",
            address: [192, 0, 2, 7].into(),
            tls: "none",
            uses: 1,
            connect: Duration::ZERO,
            transmit: Duration::ZERO,
        };
        written(json, "info", || {
            delivery_settled(&Attempted {
                head: &head,
                number: 0,
                recipient: "ann@example.net",
                attempts: 1,
                outcome: Told::Deferred(AT),
                reply,
                blame: None,
                rule: "",
                at: AT,
                receive: None,
                over: Some(over),
            });
        })
    }

    fn expected(reply: &str) -> Option<Logged> {
        let (at, host) = (AT.to_string(), "mx1.example.net".to_string());
        Some(Logged { at, host, reply: reply.to_string() })
    }

    #[test]
    fn what_was_written_is_read() {
        for json in [false, true] {
            for reply in ["450 4.2.0 Greylisted", "", "421 \"a\" reply=\"x\" \\x1b ö it's \u{e9}"]
            {
                let line = line(json, "host=\"evil\" reply=\"x", reply);
                assert_eq!(attempt(&line), expected(reply), "{line}");
                let prefixed = format!("Nov 23 00:45:28 web1 bulkhead[7]: {line}");
                assert_eq!(attempt(&prefixed), expected(reply), "{prefixed}");
            }
        }
    }

    #[test]
    fn other_lines_are_passed_over() {
        for line in [
            "",
            "2026-11-23T00:45:28.114Z  INFO message.accepted id=1 reply=\"250 Ok\"",
            "2026-11-23T00:45:28.114Z  INFO x.y from=\"a INFO delivery.failed host=b reply=c\"",
            "2026-11-23T00:45:28.114Z  INFO delivery.failed host=\"mx reply=",
            "{\"timestamp\":\"x\",\"message\":\"message.accepted\",\"host\":\"\",\"reply\":\"\"}",
            "{\"timestamp\":\"x\",\"message\":\"delivery.fai",
        ] {
            assert_eq!(attempt(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_reply_comes_back(reply: String, json: bool) {
            let reply = printable(reply.as_bytes(), 1_000);
            prop_assert_eq!(attempt(&line(json, "t", &reply)), expected(&reply));
        }

        #[test]
        fn no_line_makes_it_panic(rest in "[a-z]{0,4}=?\"?[ -~é\\\\]{0,40}") {
            _ = attempt(&format!("x INFO delivery.failed {rest}"));
            _ = attempt(&format!("{{\"timestamp\":\"{rest}"));
        }
    }
}
