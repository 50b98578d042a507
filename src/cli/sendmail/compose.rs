//! Makes a message of what a program wrote on standard input: lines, envelope, missing fields.
//! Pure.
//!
//! * *Lines.* LF and CRLF, mixed as scripts mix them, become CRLF; a CR that is part of no line end
//!   becomes a blank, as with Postfix: made a line end, it would let a form that bars LF alone put
//!   fields into the header. A NUL is refused. A line of mailboxes (`From ann Mon May…`) is
//!   dropped.
//! * *Recipients.* Those of the arguments and, with `-t`, those of To, Cc and Bcc as well (both, as
//!   with Postfix); of the Resent- fields alone where there are any. Each once.
//! * *Fields.* Bcc goes. Date, Message-ID and From are added where they are missing, and local
//!   names in address fields get a domain, without which big receivers refuse cron's mail. With
//!   `-G` nothing is added or changed, but Bcc goes all the same.
//!
//! All other bytes stay as they came.

use super::addresses::{self, Entry};
use super::args::Request;
use super::{Exit, Stop};
use crate::base::address::{Domain, Mailbox, ReversePath};
use crate::base::id::MessageId;
use crate::base::text::printable;
use crate::base::time::Timestamp;
use crate::mail::envelope::{BodyType, Envelope, Recipient};
use crate::mail::header;
use std::ops::Range;

/// Address fields in which local names get a domain.
const ADDRESS_FIELDS: [&str; 9] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
];

/// A message ready for a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// `envid` as it was given, not in xtext.
    pub(super) envelope: Envelope,
    /// Ends in CRLF.
    pub(super) bytes: Vec<u8>,
}

/// Who sends, where and when.
#[derive(Clone, Debug)]
pub(super) struct Caller<'a> {
    /// Login name.
    pub(super) user: &'a str,
    /// For people; may be empty.
    pub(super) full_name: &'a str,
    /// This machine.
    pub(super) home: &'a Domain,
    /// For the Message-ID.
    pub(super) id: MessageId,
    /// Makes the Message-ID unique beside `id`.
    pub(super) process: u32,
    pub(super) now: Timestamp,
}

/// Takes lines as they come.
#[derive(Debug)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    dot_is_text: bool,
}

impl Lines {
    pub(super) fn new(dot_is_text: bool) -> Self {
        Self { bytes: Vec::new(), dot_is_text }
    }

    /// Takes one line, with its line end if it has one. False once a dot alone ended the message.
    ///
    /// # Errors
    /// [`Exit::DataErr`] for a NUL.
    pub(super) fn push(&mut self, line: &[u8]) -> Result<bool, Stop> {
        let mut line = line.strip_suffix(b"\n").unwrap_or(line);
        // More than one: scripts replace the LF of a CRLF by CRLF.
        while let Some(shorter) = line.strip_suffix(b"\r") {
            line = shorter;
        }
        if line == b"." && !self.dot_is_text {
            return Ok(false);
        }
        if line.contains(&0) {
            return Err(Exit::DataErr.because("the message has a NUL, which mail cannot carry"));
        }
        self.bytes.extend(line.iter().map(|byte| if *byte == b'\r' { b' ' } else { *byte }));
        self.bytes.extend_from_slice(b"\r\n");
        Ok(true)
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All lines, without one of a mailbox file before the first field.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.bytes.starts_with(b"From ")
            && let Some(line) = memchr::memchr(b'\n', &self.bytes)
            && header::fields(&self.bytes).next().is_some_and(|f| f.range.start == line + 1)
        {
            self.bytes.drain(..=line);
        }
        self.bytes
    }
}

/// The message with its envelope.
///
/// # Errors
/// [`Exit::Usage`] where an argument is no address, or nobody is to get it; [`Exit::DataErr`] for
/// addresses of the header, and for bytes that `-B 7BIT` denies.
pub(super) fn message(request: &Request, input: &[u8], by: &Caller<'_>) -> Result<Message, Stop> {
    let own = addresses::mailbox(by.user, by.home)
        .map_err(|error| Exit::Software.because(format!("the caller's name: {error}")))?;
    let path = match &request.sender {
        None => ReversePath::Mailbox(own.clone()),
        Some(text) => addresses::sender(text, by.home).map_err(|error| {
            Exit::Usage.because(format!("-f {}: {error}", printable(text.as_bytes(), 100)))
        })?,
    };
    let from = path.mailbox().unwrap_or(&own).clone();
    let mut envelope = Envelope::from(path);
    envelope.ret = request.ret;
    envelope.envid.clone_from(&request.envid);
    let mailboxes = recipients(request, input, by.home)?;
    envelope.smtputf8 =
        mailboxes.iter().any(Mailbox::is_utf8) || !envelope.reverse_path.as_str().is_ascii();
    envelope.recipients = mailboxes
        .into_iter()
        .map(|mailbox| Recipient { notify: request.notify, ..Recipient::new(mailbox) })
        .collect();
    envelope.body = match request.body {
        Some(BodyType::SevenBit) if !input.is_ascii() => {
            return Err(Exit::DataErr.because("the message has 8-bit bytes, and -B is 7BIT"));
        }
        None if !input.is_ascii() => BodyType::EightBitMime,
        body => body.unwrap_or_default(),
    };
    let name = request.full_name.as_deref().unwrap_or(by.full_name);
    let bytes = stamped(input, (!request.is_relayed).then_some((&from, name)), by);
    Ok(Message { envelope, bytes })
}

fn recipients(request: &Request, input: &[u8], home: &Domain) -> Result<Vec<Mailbox>, Stop> {
    let mut found: Vec<Mailbox> = Vec::new();
    let mut add = |entries: Vec<Entry>| {
        for Entry { mailbox, .. } in entries {
            if !found.contains(&mailbox) {
                found.push(mailbox);
            }
        }
    };
    for text in &request.recipients {
        let list = addresses::parse(text.as_bytes(), home);
        add(list.map_err(|error| Exit::Usage.because(format!("recipient {error}")))?.entries);
    }
    if request.from_header {
        let resent = header::fields(input).any(|f| is_one_of(&f, &RESENT));
        for field in header::fields(input) {
            if is_one_of(&field, if resent { &RESENT } else { &PLAIN }) {
                let list = addresses::parse(value(input, &field), home);
                let name = String::from_utf8_lossy(field.name).into_owned();
                add(list.map_err(|e| Exit::DataErr.because(format!("{name}: {e}")))?.entries);
            }
        }
    }
    match (found.is_empty(), request.from_header) {
        (false, _) => Ok(found),
        (true, true) => Err(Exit::Usage.because("no recipient in To, Cc or Bcc")),
        (true, false) => Err(Exit::Usage.because("no recipient; name one, or use -t")),
    }
}

const PLAIN: [&str; 3] = ["To", "Cc", "Bcc"];
const RESENT: [&str; 3] = ["Resent-To", "Resent-Cc", "Resent-Bcc"];

fn is_one_of(field: &header::Field<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| field.is(name))
}

/// Behind the colon.
fn value<'a>(message: &'a [u8], field: &header::Field<'_>) -> &'a [u8] {
    let whole = message.get(field.range.clone()).unwrap_or_default();
    let colon = memchr::memchr(b':', whole).map_or(whole.len(), |at| at + 1);
    whole.get(colon..).unwrap_or_default()
}

/// With missing fields on top, in the name of `from` (none where nothing is to be added), without
/// Bcc, and with a domain behind every local name.
fn stamped(input: &[u8], from: Option<(&Mailbox, &str)>, by: &Caller<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len() + 512);
    let scan = header::scan(input, &["Bcc".to_string(), "Resent-Bcc".to_string()]);
    let mut changes: Vec<(Range<usize>, String)> =
        scan.stripped.iter().map(|range| (range.clone(), String::new())).collect();
    if let Some((mailbox, name)) = from {
        if !scan.has_date {
            out.extend_from_slice(format!("Date: {}\r\n", by.now.rfc5322()).as_bytes());
        }
        if !header::fields(input).any(|field| field.is("From")) {
            let name = Some(name.to_string()).filter(|name| !name.is_empty());
            let entry = Entry { name, mailbox: mailbox.clone(), is_local: false };
            out.extend_from_slice(
                addresses::field("From", &[entry]).unwrap_or_default().as_bytes(),
            );
        }
        if !scan.has_message_id {
            let line = format!("Message-ID: <{}.{}@{}>\r\n", by.id, by.process, by.home);
            out.extend_from_slice(line.as_bytes());
        }
        changes.extend(header::fields(input).filter_map(|field| qualified(input, &field, by.home)));
        changes.sort_by_key(|(range, _)| range.start);
    }
    // What begins without a field is all body: our fields are its header section then.
    if !scan.has_fields && !input.starts_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    let mut at = 0;
    for (range, instead) in changes {
        out.extend_from_slice(input.get(at..range.start).unwrap_or_default());
        out.extend_from_slice(instead.as_bytes());
        at = range.end;
    }
    out.extend_from_slice(input.get(at..).unwrap_or_default());
    out
}

/// An address field with a local name, and what it becomes. One that cannot be read stays.
fn qualified(
    input: &[u8],
    field: &header::Field<'_>,
    home: &Domain,
) -> Option<(Range<usize>, String)> {
    if !is_one_of(field, &ADDRESS_FIELDS) {
        return None;
    }
    let list = addresses::parse(value(input, field), home).ok()?;
    if list.has_groups || !list.entries.iter().any(|entry| entry.is_local) {
        return None;
    }
    let name = std::str::from_utf8(field.name).ok()?;
    Some((field.range.clone(), addresses::field(name, &list.entries)?))
}

#[cfg(test)]
mod tests;
