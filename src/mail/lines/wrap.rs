//! Bytes in short lines: quoted-printable and base64 (RFC 2045 §6.7, §6.8), new or with lines that
//! are too long, and folded header fields (RFC 5322 §2.2.3).

use super::LINE_MAX;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest line of both encodings.
const ENCODED_MAX: usize = 76;

/// In quoted-printable. Line ends stay line ends; any bytes decode to just themselves.
pub(super) fn quoted(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() * 5 / 4);
    for (line, end) in lines(body) {
        let mut escaped = Vec::with_capacity(line.len() + 16);
        for (at, byte) in line.iter().enumerate() {
            let is_last = at + 1 == line.len();
            match byte {
                b' ' | b'\t' if !is_last => escaped.push(*byte),
                b'=' | b' ' | b'\t' => escape(*byte, &mut escaped),
                b'-' if at == 0 => escape(*byte, &mut escaped),
                _ if byte.is_ascii_graphic() => escaped.push(*byte),
                _ => escape(*byte, &mut escaped),
            }
        }
        break_softly(&escaped, &mut out);
        out.extend_from_slice(end);
    }
    out
}

/// Quoted-printable with its lines broken. Blanks at the end of a line mean nothing (RFC 2045 §6.7,
/// rule 3), and must not come to mean something by a break among them.
pub(super) fn quoted_again(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() * 21 / 20);
    for (line, end) in lines(body) {
        let is_short = line.len() <= ENCODED_MAX;
        break_softly(if is_short { line } else { line.trim_ascii_end() }, &mut out);
        out.extend_from_slice(end);
    }
    out
}

/// A line in pieces, each but the last with a soft break behind it; none within an escape.
fn break_softly(line: &[u8], out: &mut Vec<u8>) {
    let mut rest = line;
    loop {
        let mut room = ENCODED_MAX;
        // A piece that begins with a hyphen could be taken for a delimiter of parts.
        if rest.len() < line.len()
            && let Some(behind) = rest.strip_prefix(b"-")
        {
            escape(b'-', out);
            (rest, room) = (behind, ENCODED_MAX - 3);
        }
        if rest.len() <= room {
            out.extend_from_slice(rest);
            return;
        }
        // One for the `=` of the break.
        let room = room - 1;
        let (piece, tail) = rest.split_at(match rest.get(room - 2..room) {
            Some([b'=', _]) => room - 2,
            Some([_, b'=']) => room - 1,
            _ => room,
        });
        out.extend_from_slice(piece);
        out.extend_from_slice(b"=\r\n");
        rest = tail;
    }
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 15)]);
}

/// In base64. What ends with a line end does so afterwards.
pub(super) fn base64(body: &[u8]) -> Vec<u8> {
    wrapped(STANDARD.encode(body).as_bytes(), body.ends_with(b"\r\n"))
}

/// Base64 with its lines as they should be.
pub(super) fn base64_again(body: &[u8]) -> Vec<u8> {
    let letters: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    wrapped(&letters, body.ends_with(b"\r\n"))
}

fn wrapped(letters: &[u8], ended: bool) -> Vec<u8> {
    let mut out = letters.chunks(ENCODED_MAX).collect::<Vec<_>>().join(&b"\r\n"[..]);
    if ended {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Puts a header field with its long lines folded: a CRLF before a blank, so that unfolding gives
/// the same. `None` where a line has no blank in reach.
pub(super) fn fold(field: &[u8], out: &mut Vec<u8>) -> Option<()> {
    for (line, end) in lines(field) {
        let mut rest = line;
        while rest.len() > LINE_MAX {
            // No piece may be blanks alone: there is text before the fold, and behind it.
            let begin = rest.len() - rest.trim_ascii_start().len();
            let places = begin + 1..rest.trim_ascii_end().len().min(LINE_MAX + 1);
            let is_blank = |at: &usize| matches!(rest.get(*at), Some(b' ' | b'\t'));
            let (piece, tail) = rest.split_at(places.rev().find(is_blank)?);
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
            rest = tail;
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(end);
    }
    Some(())
}

/// Lines and their CRLF; the last one may have none. A bare CR or LF is part of a line.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memmem::find(rest, b"\r\n");
        let (line, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let (end, tail) = tail.split_at(tail.len().min(2));
        rest = tail;
        Some((line, end))
    })
}
