//! Lines that every receiver takes: 998 bytes and CRLF at most (RFC 5322 §2.1.1, RFC 5321
//! §4.5.3.1.6). Tools write longer ones; here their parts are encoded, as RFC 2045 has it, and
//! their header lines folded.
//!
//! # Invariants
//! * A reader decodes the same content as before. Where that cannot be had, nothing is changed, and
//!   the message has an error.
//! * A part without a long line keeps every byte.
//! * Nothing that a signature covers is touched.
//! * Parts and their depth are bounded, and so is the work.

#[cfg(test)]
mod tests;
mod wrap;

use super::header::{self, Field};
use mail_parser::{MessageParser, MimeHeaders};
use memchr::{memchr, memmem, memrchr};

/// Bytes of a line without its CRLF.
pub const LINE_MAX: usize = 998;
/// Parts within parts within a message.
const DEPTH_MAX: usize = 16;
/// Parts with long lines, at all depths.
const PARTS_MAX: usize = 1_000;

/// Fields that sign a message, by how they begin: what they cover is not told without work, so all
/// of it is (RFC 6376, RFC 8617, RFC 4870).
const SIGNATURES: [&str; 3] = ["DKIM-Signature", "ARC-", "DomainKey-Signature"];

/// Why long lines must stay, and the message cannot be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLong {
    /// Changing it would break its signature.
    #[error("the message is signed and cannot be encoded; encode it before signing")]
    Signed,
    /// A line of a header section with no blank where it could be folded.
    #[error("a header line has no blank to be folded at")]
    Header,
    /// `multipart/signed` and other types whose encoding may not be changed.
    #[error("a part of this type cannot be encoded again")]
    Fixed,
    /// Text before or behind the parts of a multipart.
    #[error("text outside of all parts cannot be encoded")]
    Outside,
    /// Readers could take its structure in several ways.
    #[error("the MIME structure is broken")]
    Unclear,
    /// More parts, or deeper ones, than are looked through.
    #[error("too many parts, or parts nested too deep")]
    TooMany,
}

/// True where a line is longer than [`LINE_MAX`]. Reads about one byte in ten of usual mail.
#[must_use]
pub fn are_long(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while rest.len() > LINE_MAX {
        // A whole line of allowed length ends within this; its last line end is as good as its
        // first: lines between them are shorter still.
        let window = rest.get(..LINE_MAX + 2).unwrap_or(rest);
        match memrchr(b'\n', window) {
            None => return true,
            Some(end) if end > LINE_MAX && !window.ends_with(b"\r\n") => return true,
            Some(end) => rest = rest.get(end + 1..).unwrap_or_default(),
        }
    }
    false
}

/// The message with all its lines short.
///
/// # Errors
/// What forbids it.
pub fn shortened(message: &[u8]) -> Result<Vec<u8>, TooLong> {
    let mut writer = Writer { out: Vec::with_capacity(message.len() * 3 / 2), parts: 0 };
    writer.entity(message, Place { is_message: true, ..Place::default() })?;
    Ok(writer.out)
}

/// Where an entity stands.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// It is a message: the whole one, or one within another.
    is_message: bool,
    /// A part of a `multipart/digest`, which is a message where it says nothing (RFC 2046 §5.1.5).
    in_digest: bool,
    depth: usize,
}

/// How a body is encoded (RFC 2045 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// 7bit, 8bit, binary, or not said.
    Identity,
    Quoted,
    Base64,
    /// Anything else.
    Unknown,
}

/// What a header section says about the body behind it.
struct Head {
    /// In lower case, `text` and `plain`.
    kind: (String, String),
    boundary: Option<String>,
    encoding: Encoding,
}

impl Head {
    fn read(header: &[u8], place: Place) -> Result<Self, TooLong> {
        let all: Vec<Field<'_>> = header::fields(header).collect();
        let length = all.iter().map(|field| field.range.len()).sum::<usize>();
        let is_sound = header.len() == length || header.get(length..) == Some(b"\r\n");
        let once = |name| all.iter().filter(|field| field.is(name)).count() <= 1;
        if !is_sound || !once("Content-Type") || !once("Content-Transfer-Encoding") {
            return Err(TooLong::Unclear);
        }
        if place.is_message && all.iter().any(is_signature) {
            return Err(TooLong::Signed);
        }
        let parsed = MessageParser::default().parse_headers(header).unwrap_or_default();
        let part = parsed.parts.first();
        let kind = part.and_then(|part| part.content_type());
        let usual = if place.in_digest { ("message", "rfc822") } else { ("text", "plain") };
        Ok(Self {
            kind: kind.map_or((usual.0.into(), usual.1.into()), |kind| {
                let subtype = kind.subtype().unwrap_or_default();
                (kind.ctype().to_ascii_lowercase(), subtype.to_ascii_lowercase())
            }),
            boundary: kind.and_then(|kind| kind.attribute("boundary")).map(str::to_string),
            encoding: encoding(part.and_then(|part| part.content_transfer_encoding())),
        })
    }
}

fn is_signature(field: &Field<'_>) -> bool {
    let begins = |name: &str| {
        let begin = field.name.get(..name.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
    };
    SIGNATURES.into_iter().any(begins)
}

fn encoding(name: Option<&str>) -> Encoding {
    match name.map(|name| name.trim().to_ascii_lowercase()).as_deref() {
        None | Some("7bit" | "8bit" | "binary") => Encoding::Identity,
        Some("quoted-printable") => Encoding::Quoted,
        Some("base64") => Encoding::Base64,
        Some(_) => Encoding::Unknown,
    }
}

struct Writer {
    out: Vec<u8>,
    /// Entities with long lines so far.
    parts: usize,
}

impl Writer {
    /// A message or a part: a header section and a body.
    fn entity(&mut self, bytes: &[u8], place: Place) -> Result<(), TooLong> {
        if !are_long(bytes) {
            self.out.extend_from_slice(bytes);
            return Ok(());
        }
        self.parts += 1;
        if self.parts > PARTS_MAX || place.depth > DEPTH_MAX {
            return Err(TooLong::TooMany);
        }
        let (header, body) = bytes.split_at(header::header_len(bytes));
        let head = Head::read(header, place)?;
        if !are_long(body) {
            self.header(header, None, place)?;
            self.out.extend_from_slice(body);
            return Ok(());
        }
        let below = Place { depth: place.depth + 1, ..Place::default() };
        match (head.kind.0.as_str(), head.kind.1.as_str(), head.encoding) {
            ("multipart", "signed" | "encrypted", _) | (_, _, Encoding::Unknown) => {
                Err(TooLong::Fixed)
            }
            ("multipart", subtype, Encoding::Identity) => {
                self.header(header, None, place)?;
                let boundary = head.boundary.filter(|boundary| !boundary.is_empty());
                let boundary = boundary.ok_or(TooLong::Unclear)?;
                self.parts(body, &boundary, Place { in_digest: subtype == "digest", ..below })
            }
            ("message", "rfc822" | "global", Encoding::Identity) => {
                self.header(header, None, place)?;
                self.entity(body, Place { is_message: true, ..below })
            }
            // RFC 2045 §6.4: these have no encoding of their own.
            ("multipart", ..) => Err(TooLong::Unclear),
            ("message", ..) => Err(TooLong::Fixed),
            (kind, _, encoding) => self.leaf(header, body, kind == "text", encoding, place),
        }
    }

    fn leaf(
        &mut self,
        header: &[u8],
        body: &[u8],
        is_text: bool,
        encoding: Encoding,
        place: Place,
    ) -> Result<(), TooLong> {
        let (new, body) = match encoding {
            Encoding::Identity if is_text => (Some("quoted-printable"), wrap::quoted(body)),
            Encoding::Identity => (Some("base64"), wrap::base64(body)),
            // Encoded already, in lines that no encoder should write.
            Encoding::Quoted => (None, wrap::quoted_again(body)),
            Encoding::Base64 => (None, wrap::base64_again(body)),
            Encoding::Unknown => return Err(TooLong::Fixed),
        };
        self.header(header, new, place)?;
        self.out.extend_from_slice(&body);
        Ok(())
    }

    /// A header section with its long lines folded, and with this encoding of the body.
    fn header(
        &mut self,
        header: &[u8],
        encoding: Option<&str>,
        place: Place,
    ) -> Result<(), TooLong> {
        let (mut has_version, mut length) = (false, 0);
        for field in header::fields(header) {
            let bytes = header.get(field.range.clone()).unwrap_or_default();
            length = field.range.end;
            has_version |= field.is("MIME-Version");
            if encoding.is_some() && field.is("Content-Transfer-Encoding") {
                continue;
            }
            wrap::fold(bytes, &mut self.out).ok_or(TooLong::Header)?;
        }
        if let Some(encoding) = encoding {
            if place.is_message && !has_version {
                self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
            }
            let field = format!("Content-Transfer-Encoding: {encoding}\r\n");
            self.out.extend_from_slice(field.as_bytes());
        }
        self.out.extend_from_slice(header.get(length..).unwrap_or_default());
        Ok(())
    }

    /// The body of a multipart (RFC 2046 §5.1.1): what stands between delimiters, each with the
    /// CRLF before it.
    fn parts(&mut self, body: &[u8], boundary: &str, place: Place) -> Result<(), TooLong> {
        let mut at = 0;
        let (mut is_outside, mut is_closed) = (true, false);
        let mut delimiters = Delimiters { body, boundary: format!("--{boundary}"), at: 0 };
        while !is_closed && let Some(found) = delimiters.next() {
            self.piece(body.get(at..found.start).unwrap_or_default(), is_outside, place)?;
            self.out.extend_from_slice(body.get(found.start..found.end).unwrap_or_default());
            (at, is_outside, is_closed) = (found.end, found.is_last, found.is_last);
        }
        let rest = body.get(at..).unwrap_or_default();
        // Readers differ in what they make of a last part without end.
        if !is_closed && are_long(rest) {
            return Err(TooLong::Unclear);
        }
        self.piece(rest, is_outside, place)
    }

    fn piece(&mut self, piece: &[u8], is_outside: bool, place: Place) -> Result<(), TooLong> {
        if !is_outside {
            return self.entity(piece, place);
        }
        if are_long(piece) {
            return Err(TooLong::Outside);
        }
        self.out.extend_from_slice(piece);
        Ok(())
    }
}

/// A line between parts, with the CRLF before it and its own.
struct Delimiter {
    start: usize,
    end: usize,
    /// No part follows.
    is_last: bool,
}

/// Finds lines of `--boundary` or `--boundary--`, with blanks behind at most: what only begins so
/// is text.
struct Delimiters<'a> {
    body: &'a [u8],
    boundary: String,
    at: usize,
}

impl Delimiters<'_> {
    fn next(&mut self) -> Option<Delimiter> {
        loop {
            let rest = self.body.get(self.at..)?;
            let found = self.at + memmem::find(rest, self.boundary.as_bytes())?;
            let (before, line) = self.body.split_at(found);
            let end = memchr(b'\n', line).map_or(line.len(), |end| end + 1);
            let begins_line = found == 0 || before.ends_with(b"\r\n");
            let behind = line.get(self.boundary.len()..end).unwrap_or_default();
            let last = behind.strip_prefix(b"--");
            let is_blank = last.unwrap_or(behind).trim_ascii().is_empty();
            // The CRLF belongs to the delimiter, unless it ends the one before.
            let start = if found >= self.at + 2 { found - 2 } else { found };
            self.at = found + if begins_line && is_blank { end } else { self.boundary.len() };
            if begins_line && is_blank {
                return Some(Delimiter { start, end: self.at, is_last: last.is_some() });
            }
        }
    }
}
