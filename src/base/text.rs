//! Text from outside, made safe to show on terminals, in logs and in replies.

use std::fmt::Write;

/// `raw` with every control, bidirectional-override and invalid byte escaped (`\x1b`, `\u{202e}`),
/// cut to `limit` characters, escapes counted in full (then ending in `…`).
///
/// What it gives holds no byte that a terminal acts upon, and no line end.
#[must_use]
pub fn printable(raw: &[u8], limit: usize) -> String {
    let mut out = String::with_capacity(raw.len().min(limit));
    let mut left = limit;
    for chunk in raw.utf8_chunks() {
        let valid = chunk.valid().chars().map(Ok);
        for item in valid.chain(chunk.invalid().iter().map(Err)) {
            let before = out.len();
            match item {
                Ok(c) => push(&mut out, c),
                Err(byte) => _ = write!(out, "\\x{byte:02x}"),
            }
            let width = out.get(before..).map_or(0, |shown| shown.chars().count());
            let Some(rest) = left.checked_sub(width) else {
                out.truncate(before);
                out.push('…');
                return out;
            };
            left = rest;
        }
    }
    out
}

fn push(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c.is_ascii_control() => {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        }
        c if c.is_control() || is_format(c) => {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// Invisible characters that change how their neighbours are shown.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || c == '\u{feff}'
}

/// Two hexadecimal digits in lower case for each byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_acts_upon() {
        assert_eq!(printable(b"a\x1b[31mb\r\nc\xff", 99), "a\\x1b[31mb\\r\\nc\\xff");
        assert_eq!(printable("ö\u{202e}x\u{9b}".as_bytes(), 99), "ö\\u{202e}x\\u{9b}");
    }

    #[test]
    fn cuts_long_text() {
        assert_eq!(printable(b"abcdef", 3), "abc…");
        assert_eq!(printable(b"abc", 3), "abc");
        assert_eq!(printable(b"a\x1b\x1b", 6), "a\\x1b…", "an escape counts in full");
        assert_eq!(printable(b"a\xff\xff", 9), "a\\xff\\xff");
        assert_eq!(printable("äöü".as_bytes(), 2), "äö…");
    }
}
