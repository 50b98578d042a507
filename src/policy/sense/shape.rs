//! What a message has in common with others made from the same template.
//!
//! *Kind*: the sender's domain and the media type; equal, or the messages are not alike. *Sketch*:
//! of the pairs of neighbouring words in subject and text, the least hash in each of 32 classes
//! ("one permutation" MinHash, Li, Owen, Zhang 2012). Of two messages the share of classes with
//! equal hashes is about the share of pairs that both have; from two in five on they are alike.
//! Another name or number changes a few pairs of a text; another text of the same language and
//! sender has hardly any in common.
//!
//! *Words.* What varies in a mail merge is made equal: a word with a digit in it, a link and an
//! address are all one and the same word, however many of them follow each other. Letters of ASCII
//! have no case. Characters of scripts without blanks between words are words by themselves. Markup
//! is left out: its links carry tokens, and templates of one shop share it whatever they say.
//!
//! Bounded: 12 KiB of the header section, 12 KiB of the body and 500 words are looked at. Charsets
//! are not decoded: what is not UTF-8 is alike where its bytes are.

use crate::base::text::printable;
use crate::mail::header::header_len;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode_char;
use mail_parser::{HeaderName, Message, MessageParser, MimeHeaders};
use memchr::{memchr, memmem};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Of the header section and of the body.
const BYTES: usize = 12 * 1_024;
/// Of the subject and all texts together.
const WORDS: u32 = 500;
/// Parts of a part that are looked at.
const PARTS: usize = 16;
/// Parts in parts.
const DEPTH: u32 = 4;
/// Classes of pairs of words.
const CLASSES: usize = 32;
/// Nothing is in the class.
const NONE: u16 = u16::MAX;
/// From this share on, two are alike: ALIKE.0 in ALIKE.1.
const ALIKE: (usize, usize) = (2, 5);
/// Longest sample of a subject, in characters.
const SUBJECT: usize = 60;

/// A fingerprint; see the head of the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    kind: u64,
    sketch: [u16; CLASSES],
    /// The message's subject, short and safe to print.
    pub subject: String,
}

/// The shape of a message. `header`: with or without the empty line that ends it. `sender`: the
/// reverse-path, without brackets.
#[must_use]
pub fn of(header: &[u8], body: &[u8], sender: &str) -> Shape {
    let first = |bytes: &[u8]| bytes.len().min(BYTES);
    let header = header.get(..first(header)).unwrap_or_default();
    let body = body.get(..first(body)).unwrap_or_default();
    let parser = MessageParser::new()
        .default_header_ignore()
        .header_text(HeaderName::Subject)
        .header_text(HeaderName::ContentTransferEncoding)
        .header_content_type(HeaderName::ContentType);
    let head = parser.parse_headers(header);
    let subject = head.as_ref().and_then(|head| head.subject()).unwrap_or_default();
    let mut sketch = Sketch { classes: [NONE; CLASSES], last: 0, words_left: WORDS };
    sketch.text(subject.as_bytes());
    sketch.part(&parser, head.as_ref(), body, DEPTH);
    let domain = sender.rsplit_once('@').map_or("", |(_, domain)| domain);
    let media = head.as_ref().and_then(|head| head.content_type());
    let media = media.map(|media| (media.ctype(), media.subtype()));
    let (media, subtype) = media.unwrap_or(("text", Some("plain")));
    let kind = format!("{domain} {media}/{}", subtype.unwrap_or_default());
    Shape {
        kind: hash(kind.as_bytes()),
        sketch: sketch.classes,
        subject: printable(subject.as_bytes(), SUBJECT),
    }
}

impl Shape {
    /// True where both were made from one template, as far as can be told.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let pairs = || self.sketch.iter().zip(&other.sketch);
        let either = pairs().filter(|(a, b)| **a != NONE || **b != NONE).count();
        let both = pairs().filter(|(a, b)| a == b && **a != NONE).count();
        self.kind == other.kind && both * ALIKE.1 >= either * ALIKE.0
    }
}

/// FNV-1a, without regard to the case of ASCII letters.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(NOTHING, |hash, b| hash_on(hash, *b))
}

const NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

fn hash_on(hash: u64, b: u8) -> u64 {
    (hash ^ u64::from(b.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
}

/// What stands for all that varies: of no word.
const VARIABLE: u64 = 1;

struct Sketch {
    classes: [u16; CLASSES],
    last: u64,
    words_left: u32,
}

impl Sketch {
    /// The texts of a message's part, and of the parts in it.
    fn part(
        &mut self,
        parser: &MessageParser,
        head: Option<&Message<'_>>,
        body: &[u8],
        depth: u32,
    ) {
        let media = head.and_then(|head| head.content_type());
        if let Some(boundary) = media.and_then(|media| media.attribute("boundary")) {
            for part in parts(body, boundary).take(PARTS) {
                if depth == 0 || self.words_left == 0 {
                    return;
                }
                let (header, body) = part.split_at(header_len(part));
                self.part(parser, parser.parse_headers(header).as_ref(), body, depth - 1);
            }
        } else if media.is_none_or(|media| media.ctype().eq_ignore_ascii_case("text")) {
            let encoding = head.and_then(|head| head.content_transfer_encoding());
            let decoded = match encoding.unwrap_or_default().to_ascii_lowercase().as_str() {
                "quoted-printable" => Some(unquoted(body)),
                "base64" => base64_decode(body),
                _ => None,
            };
            let text = decoded.map_or(Cow::Borrowed(body), Cow::Owned);
            match media.and_then(|media| media.subtype()) {
                Some(html) if html.eq_ignore_ascii_case("html") => {
                    visible(&text).for_each(|piece| self.text(piece));
                }
                _ => self.text(&text),
            }
        }
    }

    fn text(&mut self, text: &[u8]) {
        for chunk in text.split(u8::is_ascii_whitespace) {
            if self.words_left == 0 {
                return;
            }
            // A link, an address, a query.
            if chunk.iter().any(|b| matches!(b, b'/' | b'@' | b'=' | b'_')) {
                self.word(VARIABLE);
                continue;
            }
            let mut word = NOTHING;
            for b in chunk {
                match b {
                    b'-' | b'\'' => {}
                    b'0'..=b'9' => word = VARIABLE,
                    // The rest of a character: of a letter, or of what is between words.
                    0x80..=0xbf if word == NOTHING => {}
                    b'a'..=b'z' | b'A'..=b'Z' | 0x80..=0xbf | 0xc3..=0xdf => {
                        word = if word == VARIABLE { word } else { hash_on(word, *b) };
                    }
                    // Of three bytes and more, but punctuation: a word by itself.
                    0xe0..=0xe1 | 0xe3.. => {
                        self.word(word);
                        word = hash_on(NOTHING, *b);
                    }
                    _ => self.word(std::mem::replace(&mut word, NOTHING)),
                }
            }
            self.word(word);
        }
    }

    fn word(&mut self, word: u64) {
        let is_repeated = word == VARIABLE && self.last == VARIABLE;
        if word == NOTHING || is_repeated || self.words_left == 0 {
            return;
        }
        self.words_left -= 1;
        // The last steps of MurmurHash3: each bit of the pair changes each bit of the hash.
        let mut pair = self.last.rotate_left(1) ^ word;
        pair = (pair ^ (pair >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        pair = (pair ^ (pair >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.last = word;
        let class = usize::try_from(pair >> 59).unwrap_or_default();
        if let Some(least) = self.classes.get_mut(class) {
            *least = (*least).min((pair >> 32) as u16);
        }
    }
}

/// The parts of a multipart body (RFC 2046 §5.1.1), the last as far as it is there.
fn parts<'a>(body: &'a [u8], boundary: &str) -> impl Iterator<Item = &'a [u8]> {
    let delimiter = format!("--{boundary}");
    let starts: Vec<usize> = memmem::find_iter(body, delimiter.as_bytes()).collect();
    let ends = starts.iter().skip(1).copied().chain([body.len()]).collect::<Vec<_>>();
    starts.into_iter().zip(ends).filter_map(move |(start, end)| {
        let part = body.get(start + delimiter.len()..end)?;
        let line = memchr(b'\n', part)?;
        part.get(line + 1..).filter(|_| !part.starts_with(b"--"))
    })
}

/// What quoted-printable stands for (RFC 2045 §6.7), by stretches: the library's goes byte by
/// byte, which takes several times as long. What is broken or cut off stays as it is.
fn unquoted(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = memchr(b'=', rest) {
        let (plain, quoted) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = match quoted {
            [_, b'\r', b'\n', rest @ ..] => rest,
            [_, high, low, behind @ ..] => match quoted_printable_decode_char(*high, *low) {
                Some(byte) => {
                    out.push(byte);
                    behind
                }
                None => {
                    out.push(b'=');
                    quoted.get(1..).unwrap_or_default()
                }
            },
            cut_off => {
                out.extend_from_slice(cut_off);
                &[]
            }
        };
    }
    out.extend_from_slice(rest);
    out
}

/// What HTML shows: what stands outside of tags, comments, styles and scripts.
fn visible(html: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(html);
    std::iter::from_fn(move || {
        let from = rest?;
        let (piece, tag) = from.split_at(memchr(b'<', from).unwrap_or(from.len()));
        let is =
            |name: &[u8]| tag.get(1..=name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name));
        let behind = match tag.get(1) {
            Some(b'!') if is(b"!--") => memmem::find(tag, b"-->").map(|at| at + 3),
            // Up to the tag that ends it.
            Some(b's' | b'S') if is(b"style") || is(b"script") => memmem::find(tag, b"</"),
            _ => memchr(b'>', tag).map(|at| at + 1),
        };
        rest = behind.and_then(|at| tag.get(at..));
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(header: &str, body: &str) -> [u16; CLASSES] {
        of(header.as_bytes(), body.as_bytes(), "").sketch
    }

    #[test]
    fn numbers_links_and_addresses_are_all_the_same() {
        let body = |number: &str, link: &str, address: &str| {
            sketch(
                "",
                &format!("Pay {number} EUR at {link}, or write to {address} ({number}).\r\n"),
            )
        };
        let one = body("7", "https://a.example", "ann@a.example");
        assert_eq!(body("INV-12ab 34 x9", "http://b.example/?u=A", "Bob@b.example"), one);
        assert_ne!(body("seven", "https://a.example", "ann@a.example"), one);
    }

    #[test]
    fn the_encoding_does_not_matter() {
        let media = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: ";
        let plain = sketch("", "Die Größe der Käufer, und wie sie wächst\r\n");
        let quoted = "Die Gr=C3=B6=C3=9Fe der K=\r\n=C3=A4ufer, und w=\r\nie sie w=c3=a4chst\r\n";
        assert_eq!(sketch(&format!("{media}Quoted-Printable\r\n\r\n"), quoted), plain);
        let base64 = "RGllIEdyw7bDn2UgZGVyIEvDpHVm\r\nZXIsIHVuZCB3aWUgc2llIHfDpGNoc3QNCg==\r\n";
        assert_eq!(sketch(&format!("{media}BASE64\r\n\r\n"), base64), plain);
        let html =
            "<style>a{}</style>Die <i class=x>Gr&ouml;&szlig;e</i><!-- > no --> steht<BR>hier";
        let shown = "Die Gr&ouml;&szlig;e steht hier";
        assert_eq!(sketch("Content-Type: text/HTML\r\n\r\n", html), sketch("", shown));
    }

    #[test]
    fn what_is_broken_or_cut_off_stays_as_it_is() {
        for (quoted, plain) in [
            ("a=3D=\r\nb=20", "a=b "),
            ("=zz=", "=zz="),
            ("x=4", "x=4"),
            ("=C3=B6=\r", "ö=\r"),
            ("==3D", "=="),
        ] {
            assert_eq!(unquoted(quoted.as_bytes()), plain.as_bytes(), "{quoted:?}");
        }
    }

    #[test]
    fn parts_are_told_apart_and_the_last_may_be_cut_off() {
        let body = b"preamble\r\n--b\r\none\r\n--b \r\ntwo\r\n--b--\r\nepilogue\r\n";
        assert_eq!(parts(body, "b").collect::<Vec<_>>(), [b"one\r\n", b"two\r\n"]);
        assert_eq!(parts(b"--b\r\non", "b").collect::<Vec<_>>(), [b"on"]);
        assert_eq!(parts(b"--b", "b").count(), 0);
    }
}
