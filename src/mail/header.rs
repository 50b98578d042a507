//! The header section of a message, as bytes: where it ends, which fields it has, which are taken
//! out, which are added on top. What is not touched stays as it came, byte for byte.

use crate::base::address::{Domain, Mailbox};
use crate::base::id::MessageId;
use crate::base::time::Timestamp;
use memchr::{memchr, memmem};
use std::net::IpAddr;
use std::ops::Range;

/// Length of the header section with the empty line behind it; all of a message that has none.
#[must_use]
pub fn header_len(message: &[u8]) -> usize {
    if message.starts_with(b"\r\n") {
        return 2;
    }
    memmem::find(message, b"\r\n\r\n").map_or(message.len(), |at| at + 4)
}

/// One field: its name, and where it stands with all its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// As written, without the colon.
    pub name: &'a [u8],
    /// With the line ends of its first and its continuation lines.
    pub range: Range<usize>,
}

impl Field<'_> {
    /// True for a field of this name, whatever the case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// What stands behind the colon, without blanks around it; `message` is what it was found in.
    #[must_use]
    pub fn value<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        let field = message.get(self.range.clone()).unwrap_or_default();
        let colon = memchr(b':', field).map_or(field.len(), |at| at + 1);
        field.get(colon..).unwrap_or_default().trim_ascii()
    }
}

/// The fields of a header section (RFC 5322 §2.2). A message whose first line is no field has none;
/// a mailbox file's `From ` line before them, and broken lines among them, are passed over, as
/// readers of mail do.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let from_line = message.starts_with(b"From ") || message.starts_with(b">From ");
    let mut at = if from_line { line_end(message, 0) } else { 0 };
    let mut begun = false;
    std::iter::from_fn(move || {
        let name = loop {
            let rest = message.get(at..).filter(|rest| !rest.is_empty())?;
            match field_name(rest) {
                Some(name) => break name,
                None if !begun || rest.starts_with(b"\r\n") => return None,
                None => at = line_end(message, at),
            }
        };
        begun = true;
        let start = at;
        at = line_end(message, at);
        while matches!(message.get(at), Some(b' ' | b'\t')) {
            at = line_end(message, at);
        }
        Some(Field { name, range: start..at })
    })
}

/// Behind the line that begins at `at`.
fn line_end(message: &[u8], at: usize) -> usize {
    let rest = message.get(at..).unwrap_or_default();
    memchr(b'\n', rest).map_or(message.len(), |end| at + end + 1)
}

/// The name before a colon, where the bytes begin with a field. Blanks before the colon are
/// obsolete and allowed.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|b| *b == b':' || !b.is_ascii_graphic())?;
    let name = line.get(..end)?;
    let colon = line.get(end..)?.iter().find(|b| !matches!(b, b' ' | b'\t'))?;
    (!name.is_empty() && *colon == b':').then_some(name)
}

/// What the header section says that matters to a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Number of `Received:` fields (RFC 5321 §6.3).
    pub hops: usize,
    /// There is a `Date:`.
    pub has_date: bool,
    /// There is a `Message-ID:`.
    pub has_message_id: bool,
    /// The message begins with a field.
    pub has_fields: bool,
    /// Where the fields stand that are to be taken out.
    pub stripped: Vec<Range<usize>>,
}

/// Looks the header section over once. `strip`: names of fields to be taken out.
#[must_use]
pub fn scan(message: &[u8], strip: &[String]) -> Scan {
    let mut scan = Scan::default();
    for field in fields(message) {
        scan.has_fields = true;
        scan.hops += usize::from(field.is("Received"));
        scan.has_date |= field.is("Date");
        scan.has_message_id |= field.is("Message-ID");
        if strip.iter().any(|name| field.is(name)) {
            scan.stripped.push(field.range);
        }
    }
    scan
}

/// How a message came here, for its trace field (RFC 5321 §4.4).
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// The name that the client gave in EHLO or HELO.
    pub helo: &'a str,
    /// Its address.
    pub client: IpAddr,
    /// Our name.
    pub hostname: &'a Domain,
    /// `ESMTP`, `SMTP` or `UTF8SMTP` (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'static str,
    /// The queue id.
    pub id: MessageId,
    /// The recipient, where there is only one: with more, it would tell them of each other.
    pub recipient: Option<&'a Mailbox>,
    /// When.
    pub at: Timestamp,
}

/// The message with its trace field, a missing Date and Message-ID on top, and without the stripped
/// fields.
#[must_use]
pub fn stamped(message: &[u8], scan: &Scan, trace: &Trace<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 512);
    put_received(trace, &mut out);
    if !scan.has_date {
        out.extend_from_slice(format!("Date: {}\r\n", trace.at.rfc5322()).as_bytes());
    }
    if !scan.has_message_id {
        let line = format!("Message-ID: <{}@{}>\r\n", trace.id, trace.hostname);
        out.extend_from_slice(line.as_bytes());
    }
    // What begins without a field is all body: our fields are its header section then.
    if !scan.has_fields && !message.starts_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    let mut at = 0;
    for range in &scan.stripped {
        out.extend_from_slice(message.get(at..range.start).unwrap_or_default());
        at = range.end;
    }
    out.extend_from_slice(message.get(at..).unwrap_or_default());
    out
}

fn put_received(trace: &Trace<'_>, out: &mut Vec<u8>) {
    let tag = if trace.client.is_ipv6() { "IPv6:" } else { "" };
    // Nothing in a name may end it, or begin a comment or the date, for those who read traces.
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_:[]".contains(c) { c } else { '?' };
    let helo: String = trace.helo.chars().map(plain).collect();
    let mut text = format!(
        "Received: from {helo} ([{tag}{}])\r\n\tby {} with {} id {}",
        trace.client, trace.hostname, trace.protocol, trace.id
    );
    if let Some(recipient) = trace.recipient {
        text.push_str(&format!("\r\n\tfor <{recipient}>"));
    }
    text.push_str(&format!("; {}\r\n", trace.at.rfc5322()));
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::IdGenerator;
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp(1_795_394_728_114);

    fn stamp(message: &str, strip: &[&str], recipient: Option<&str>) -> String {
        let hostname = Domain::parse("relay.example").unwrap();
        let recipient = recipient.map(|r| Mailbox::parse(r).unwrap());
        let strip: Vec<String> = strip.iter().map(|s| (*s).to_string()).collect();
        let trace = Trace {
            helo: "web1(",
            client: "10.0.0.7".parse().unwrap(),
            hostname: &hostname,
            protocol: "ESMTP",
            id: IdGenerator::after(None).next(AT),
            recipient: recipient.as_ref(),
            at: AT,
        };
        let scan = scan(message.as_bytes(), &strip);
        String::from_utf8(stamped(message.as_bytes(), &scan, &trace)).unwrap()
    }

    #[test]
    fn adds_the_trace_and_what_is_missing() {
        let got = stamp("Subject: x\r\n\r\nbody\r\n", &[], Some("ann@example.com"));
        let id = IdGenerator::after(None).next(AT);
        assert_eq!(
            got,
            format!(
                "Received: from web1? ([10.0.0.7])\r\n\tby relay.example with ESMTP id {id}\r\n\
                 \tfor <ann@example.com>; Mon, 23 Nov 2026 00:45:28 +0000\r\n\
                 Date: Mon, 23 Nov 2026 00:45:28 +0000\r\nMessage-ID: <{id}@relay.example>\r\n\
                 Subject: x\r\n\r\nbody\r\n"
            )
        );
        let whole = "DATE : x\r\nmessage-id: <a@b>\r\n\r\n";
        assert!(
            stamp(whole, &[], None).ends_with("+0000\r\nDATE : x\r\nmessage-id: <a@b>\r\n\r\n")
        );
        assert!(!stamp(whole, &[], None).contains("for <"));
    }

    #[test]
    fn messages_without_a_header_keep_every_byte_behind_ours() {
        for message in ["", "\r\nbody\r\n", "just text\r\n", " folded: x\r\n", ": x\r\n"] {
            let got = stamp(message, &[], None);
            assert!(got.ends_with(message), "{got:?}");
            let (header, body) = got.split_at(header_len(got.as_bytes()));
            assert!(header.starts_with("Received: ") && header.ends_with("\r\n\r\n"));
            assert_eq!(body, message.strip_prefix("\r\n").unwrap_or(message));
        }
    }

    #[test]
    fn strips_whole_fields_and_only_in_the_header() {
        let message = "Date: x\r\nX-Newsletter: a\r\n b\r\n\tc\r\nMessage-ID: y\r\n\
                       x-newsletter: d\r\n\r\nX-Newsletter: e\r\n";
        let got = stamp(message, &["x-newsletter"], None);
        assert!(
            got.ends_with("+0000\r\nDate: x\r\nMessage-ID: y\r\n\r\nX-Newsletter: e\r\n"),
            "{got}"
        );
    }

    #[test]
    fn a_mailbox_line_hides_no_field() {
        let message = "From ann@example.com Mon May  2 16:07:05 2005\r\nDate: x\r\n\r\nbody\r\n";
        let got = stamp(message, &[], None);
        assert!(got.ends_with(message) && got.matches("Date: ").count() == 1, "{got}");
        assert!(scan(message.as_bytes(), &[]).has_fields);
    }

    #[test]
    fn a_broken_line_hides_no_field() {
        let message = "Subject: x\r\n__\r\nDate: y\r\n\r\nReceived: z\r\n";
        let found = scan(message.as_bytes(), &[]);
        assert!(found.has_date && found.hops == 0);
        assert!(!scan(b"hello\r\nDate: y\r\n\r\n", &[]).has_fields);
    }

    #[test]
    fn counts_hops() {
        let message =
            "Received: a\r\n b\r\nreceived: c\r\nSubject: Received: d\r\n\r\nReceived: e\r\n";
        assert_eq!(scan(message.as_bytes(), &[]).hops, 2);
        assert_eq!(header_len(message.as_bytes()), message.len() - 13);
    }

    proptest! {
        #[test]
        fn any_bytes_are_kept(message: Vec<u8>) {
            let scan = scan(&message, &["subject".into()]);
            prop_assert!(header_len(&message) <= message.len());
            if scan.stripped.is_empty() {
                let text = String::from_utf8_lossy(&message).into_owned();
                prop_assert!(stamp(&text, &[], None).ends_with(&text));
            }
        }
    }
}
