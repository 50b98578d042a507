//! Builds delivery status notifications: `multipart/report` (RFC 6522) with a text for people, a
//! `message/delivery-status` for programs (RFC 3464) and the original or its header section.
//!
//! # Invariants
//! * The report's reverse-path is null, so that no report ever causes another (RFC 5321 §4.5.5).
//! * Where an address or the original's header is not ASCII, the internationalised types are used
//!   (RFC 6533).
//! * No line is longer than 998 bytes but those of the original.

use super::envelope::{Envelope, Notify, Recipient, Ret};
use super::message::{Lane, MessageHead, NewMessage, Origin};
use crate::base::address::{Domain, Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use std::fmt::Write;
use std::time::Duration;

/// Longest diagnostic text in a report, so that its line stays within 998 bytes.
const DIAGNOSTIC_MAX: usize = 900;

/// What is reported (RFC 3464 §2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It will not arrive.
    Failed,
    /// It has not arrived yet; attempts go on.
    Delayed,
    /// The next hop took it, and will not report itself.
    Relayed,
}

impl Action {
    /// As RFC 3464 has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// One recipient of a report.
#[derive(Clone, Debug)]
pub struct Reported<'a> {
    /// The recipient as it was given.
    pub recipient: &'a Recipient,
    /// `5.1.1` (RFC 3463).
    pub status: String,
    /// Reply or error, safe to print.
    pub diagnostic: &'a str,
    /// The diagnostic is a reply of the remote host (RFC 3464 §2.3.6), not our own words.
    pub is_reply: bool,
    /// The host that gave it; empty where none did.
    pub remote: &'a str,
}

/// What a report is about.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// What happened to all of these recipients.
    pub action: Action,
    /// The original.
    pub head: &'a MessageHead,
    /// Its bytes, header section first; may be empty where they could not be read.
    pub original: &'a [u8],
    /// At least one.
    pub recipients: Vec<Reported<'a>>,
}

/// Builds the report as a message of the direct lane to the original's reverse-path, under the
/// given id.
///
/// `None` for an original with a null reverse-path: there is nobody to tell.
#[must_use]
pub fn build(
    report: &Report<'_>,
    hostname: &Domain,
    id: MessageId,
    now: Timestamp,
    expire: Duration,
) -> Option<NewMessage> {
    let to = report.head.envelope.reverse_path.mailbox()?;
    let returned = returned(report);
    let is_utf8 = to.is_utf8()
        || report.head.envelope.smtputf8 && !returned.is_ascii()
        || report.recipients.iter().any(|r| r.recipient.mailbox.is_utf8());
    let body = Writer { report, hostname, id, now, is_utf8, to }.write(returned);
    let mut envelope = Envelope::from(ReversePath::Null);
    // Not declared 8BITMIME, whatever it returns: a host without that is to get it all the same.
    envelope.smtputf8 = is_utf8;
    envelope.recipients = vec![Recipient {
        notify: Some(Notify::default()),
        ..Recipient::new(to.clone().or_at(hostname))
    }];
    Some(NewMessage {
        id,
        accepted_at: now,
        due_at: now,
        expires_at: now.after(expire),
        origin: Origin {
            lane: Lane::Direct,
            reason: format!("delivery report about {}", report.head.id),
            tenant: report.head.origin.tenant.clone(),
            campaign: String::new(),
            client: String::new(),
        },
        envelope,
        body: body.into(),
    })
}

/// The part of the original that goes back: all of it only for a failure, and only where asked (RFC
/// 3461 §4.3).
fn returned<'a>(report: &Report<'a>) -> &'a [u8] {
    if report.action == Action::Failed && report.head.envelope.ret == Some(Ret::Full) {
        report.original
    } else {
        returned_header(report.original)
    }
}

/// Up to the empty line, without it.
fn returned_header(original: &[u8]) -> &[u8] {
    if original.starts_with(b"\r\n") {
        return &[];
    }
    match memchr::memmem::find(original, b"\r\n\r\n") {
        Some(end) => original.get(..end + 2).unwrap_or(original),
        None => original,
    }
}

struct Writer<'a> {
    report: &'a Report<'a>,
    hostname: &'a Domain,
    id: MessageId,
    now: Timestamp,
    is_utf8: bool,
    to: &'a Mailbox,
}

impl Writer<'_> {
    fn write(&self, returned: &[u8]) -> Vec<u8> {
        let boundary = format!("report-{}", self.id);
        let mut out = String::new();
        let _ = self.header(&mut out, &boundary, self.is_utf8 || !returned.is_ascii());
        let _ = self.text(&mut out, &boundary);
        let _ = self.status(&mut out, &boundary);
        let whole = returned.len() != returned_header(self.report.original).len();
        let kind = match (whole, self.is_utf8) {
            (true, false) => "message/rfc822",
            (true, true) => "message/global",
            (false, false) => "text/rfc822-headers",
            (false, true) => "message/global-headers",
        };
        let _ = write!(out, "--{boundary}\r\nContent-Type: {kind}\r\n");
        if !returned.is_ascii() {
            out.push_str("Content-Transfer-Encoding: 8bit\r\n");
        }
        out.push_str("\r\n");
        let mut bytes = out.into_bytes();
        bytes.extend_from_slice(returned);
        bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        bytes
    }

    fn header(&self, out: &mut String, boundary: &str, eight_bit: bool) -> std::fmt::Result {
        let subject = match self.report.action {
            Action::Failed => "Undelivered mail returned to sender",
            Action::Delayed => "Delayed mail (still being retried)",
            Action::Relayed => "Mail passed on to the recipient's server",
        };
        write!(out, "Date: {}\r\n", self.now.rfc5322())?;
        write!(out, "From: Mail Delivery System <postmaster@{}>\r\n", self.hostname)?;
        write!(out, "To: <{}>\r\n", self.to)?;
        write!(out, "Subject: {subject}\r\n")?;
        write!(out, "Message-ID: <{}@{}>\r\n", self.id, self.hostname)?;
        // RFC 3834 §5: no vacation reply to a report.
        write!(out, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")?;
        if eight_bit {
            // What holds 8-bit parts is 8-bit itself (RFC 2045 §6.4).
            write!(out, "Content-Transfer-Encoding: 8bit\r\n")?;
        }
        write!(out, "Content-Type: multipart/report; report-type=delivery-status;\r\n")?;
        write!(out, "\tboundary=\"{boundary}\"\r\n\r\n")
    }

    fn text(&self, out: &mut String, boundary: &str) -> std::fmt::Result {
        let until = self.report.head.expires_at.rfc5322();
        let news = match self.report.action {
            Action::Failed => {
                "could not be delivered to the recipients below. It will not be tried again.".into()
            }
            Action::Delayed => format!(
                "has not been delivered yet to the recipients below. You need not do\r\n\
                 anything: attempts go on until {until}."
            ),
            Action::Relayed => {
                "was passed on to the servers of the recipients below, which do not\r\n\
                                confirm delivery."
                    .to_string()
            }
        };
        write!(out, "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\n")?;
        if self.is_utf8 {
            write!(out, "Content-Transfer-Encoding: 8bit\r\n")?;
        }
        write!(out, "\r\nThis is the mail system at {}.\r\n\r\n", self.hostname)?;
        write!(out, "Your message of {}\r\n{news}\r\n", self.report.head.accepted_at.rfc5322())?;
        for r in &self.report.recipients {
            write!(out, "\r\n  <{}>\r\n", r.recipient.mailbox)?;
            if !r.diagnostic.is_empty() {
                let said = if r.remote.is_empty() { "" } else { " said" };
                let who = ascii(or(r.remote, "reason"));
                let mut why = ascii(r.diagnostic);
                why.truncate(DIAGNOSTIC_MAX.saturating_sub(who.len()));
                write!(out, "    {who}{said}: {why}\r\n")?;
            }
        }
        write!(out, "\r\nQueue id of the message: {}\r\n\r\n", self.report.head.id)
    }

    fn status(&self, out: &mut String, boundary: &str) -> std::fmt::Result {
        let kind =
            if self.is_utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
        write!(out, "--{boundary}\r\nContent-Type: {kind}\r\n")?;
        if self.is_utf8 {
            write!(out, "Content-Transfer-Encoding: 8bit\r\n")?;
        }
        write!(out, "\r\n")?;
        if let Some(envid) = &self.report.head.envelope.envid {
            write!(out, "Original-Envelope-Id: {}\r\n", ascii(&from_xtext(envid)))?;
        }
        write!(out, "Reporting-MTA: dns; {}\r\n", self.hostname)?;
        write!(out, "Arrival-Date: {}\r\n", self.report.head.accepted_at.rfc5322())?;
        for r in &self.report.recipients {
            out.push_str("\r\n");
            self.recipient(out, r)?;
        }
        out.push_str("\r\n");
        Ok(())
    }

    fn recipient(&self, out: &mut String, r: &Reported<'_>) -> std::fmt::Result {
        let action = self.report.action.as_str();
        if let Some(orcpt) = &r.recipient.orcpt {
            let (kind, address) = orcpt.split_once(';').unwrap_or(("rfc822", orcpt));
            let address = from_xtext(address);
            let address = if self.is_utf8 { address } else { ascii(&address) };
            write!(out, "Original-Recipient: {kind};{address}\r\n")?;
        }
        let kind = if r.recipient.mailbox.is_utf8() { "utf-8" } else { "rfc822" };
        write!(out, "Final-Recipient: {kind};{}\r\n", r.recipient.mailbox)?;
        write!(out, "Action: {action}\r\nStatus: {}\r\n", r.status)?;
        if !r.remote.is_empty() {
            write!(out, "Remote-MTA: dns; {}\r\n", ascii(r.remote))?;
        }
        if !r.diagnostic.is_empty() {
            let kind = if r.is_reply { "smtp" } else { "x-bulkhead" };
            write!(out, "Diagnostic-Code: {kind}; {}\r\n", ascii(r.diagnostic))?;
        }
        write!(out, "Last-Attempt-Date: {}\r\n", self.now.rfc5322())?;
        if self.report.action == Action::Delayed {
            write!(out, "Will-Retry-Until: {}\r\n", self.report.head.expires_at.rfc5322())?;
        }
        Ok(())
    }
}

fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

/// What was meant by xtext (RFC 3461 §4); control characters stay as they were written.
fn from_xtext(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte.filter(|b| !b.is_ascii_control())) {
            (b'+', Some(byte)) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_string())
}

/// One line of printable ASCII, cut to [`DIAGNOSTIC_MAX`].
fn ascii(text: &str) -> String {
    text.chars()
        .take(DIAGNOSTIC_MAX)
        .map(|c| if (' '..='~').contains(&c) { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::IdGenerator;
    use crate::mail::envelope::BodyType;
    use mail_parser::{MessageParser, MimeHeaders};

    const ORIGINAL: &[u8] = b"Subject: hello\r\nFrom: shop@example.net\r\n\r\nline\r\n";
    const NOW: Timestamp = Timestamp(1_795_394_728_114);

    fn head(reverse_path: &str) -> MessageHead {
        let id = IdGenerator::after(None).next(NOW);
        let mut message = NewMessage {
            id,
            accepted_at: NOW,
            due_at: NOW,
            expires_at: NOW.after(Duration::from_secs(432_000)),
            origin: Origin {
                lane: Lane::Bulk,
                reason: "X-Newsletter".into(),
                tenant: "c1842".into(),
                campaign: "spring".into(),
                client: "10.0.0.7".into(),
            },
            envelope: Envelope::from(ReversePath::parse(reverse_path).unwrap()),
            body: ORIGINAL.into(),
        };
        message.envelope.envid = Some("QQ314159".into());
        message.split().0
    }

    fn report(
        head: &MessageHead,
        action: Action,
        address: &str,
        original: &[u8],
    ) -> Option<NewMessage> {
        let mut recipient = Recipient::new(Mailbox::parse(address).unwrap());
        recipient.orcpt = Some("rfc822;bob+2Bx@example.com".into());
        let recipients = vec![Reported {
            recipient: &recipient,
            status: "5.1.1".into(),
            diagnostic: "550 5.1.1 No such user\u{7}ö",
            is_reply: true,
            remote: "mx.example.com",
        }];
        let report = Report { action, head, original, recipients };
        let hostname = Domain::parse("relay.example").unwrap();
        let id = IdGenerator::after(Some(head.id)).next(NOW);
        build(&report, &hostname, id, NOW, Duration::from_secs(432_000))
    }

    #[test]
    fn is_a_report_that_another_program_understands() {
        let head = head("shop@example.net");
        let made = report(&head, Action::Failed, "bob@example.com", ORIGINAL).unwrap();
        assert_eq!(made.envelope.reverse_path, ReversePath::Null);
        assert_eq!(made.envelope.recipients[0].mailbox.as_str(), "shop@example.net");
        assert_eq!((made.origin.lane, made.origin.tenant.as_str()), (Lane::Direct, "c1842"));

        let parsed = MessageParser::default().parse(&made.body[..]).unwrap();
        let kind = parsed.content_type().unwrap();
        assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
        assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
        let text = std::str::from_utf8(&made.body).unwrap();
        for line in [
            "Content-Type: message/delivery-status",
            "Content-Type: text/rfc822-headers",
            "Original-Envelope-Id: QQ314159",
            "Reporting-MTA: dns; relay.example",
            "Original-Recipient: rfc822;bob+x@example.com",
            "Final-Recipient: rfc822;bob@example.com",
            "Action: failed",
            "Status: 5.1.1",
            "Remote-MTA: dns; mx.example.com",
            "Diagnostic-Code: smtp; 550 5.1.1 No such user??",
            "Subject: hello",
        ] {
            assert!(text.split("\r\n").any(|l| l == line), "{line:?} is not in\n{text}");
        }
        assert!(!text.contains("\r\nline\r\n"), "the body goes back only where asked");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    }

    #[test]
    fn the_whole_message_goes_back_only_for_a_failure_and_where_asked() {
        let mut head = head("shop@example.net");
        head.envelope.ret = Some(Ret::Full);
        let failed = report(&head, Action::Failed, "bob@example.com", ORIGINAL).unwrap();
        assert!(memchr::memmem::find(&failed.body, ORIGINAL).is_some());
        let delayed = report(&head, Action::Delayed, "bob@example.com", ORIGINAL).unwrap();
        assert!(memchr::memmem::find(&delayed.body, b"Will-Retry-Until: ").is_some());
        assert!(memchr::memmem::find(&delayed.body, b"\r\nline\r\n").is_none());
    }

    #[test]
    fn addresses_beyond_ascii_take_the_international_types() {
        let head = head("shop@example.net");
        let made = report(&head, Action::Failed, "jörg@example.com", ORIGINAL).unwrap();
        assert!(made.envelope.smtputf8);
        let text = std::str::from_utf8(&made.body).unwrap();
        let (top, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(top.contains("\r\nContent-Transfer-Encoding: 8bit\r\n"));
        assert!(text.contains("Content-Type: message/global-delivery-status\r\n"));
        assert!(text.contains("Final-Recipient: utf-8;jörg@example.com\r\n"));
    }

    #[test]
    fn what_was_never_declared_goes_back_to_any_host() {
        let latin = b"Subject: J\xf6rg\r\n\r\n\xe4\r\n";
        let made = report(&head("shop@example.net"), Action::Failed, "bob@example.com", latin);
        let made = made.unwrap();
        assert_eq!((made.envelope.smtputf8, made.envelope.body), (false, BodyType::SevenBit));
        let contains = |text: &[u8]| memchr::memmem::find(&made.body, text).is_some();
        assert!(contains(b"Content-Type: message/delivery-status\r\n"));
        assert!(contains(b"Content-Type: text/rfc822-headers\r\n"));
        assert!(contains(b"Content-Transfer-Encoding: 8bit\r\n"));
        assert!(contains(b"Subject: J\xf6rg\r\n"));
    }

    #[test]
    fn nobody_is_told_of_a_report_that_failed() {
        assert!(report(&head(""), Action::Failed, "bob@example.com", ORIGINAL).is_none());
    }
}
