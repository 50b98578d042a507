//! A reply (RFC 5321 §4.2) with its enhanced status code (RFC 3463), and how it is read from the
//! wire.
//!
//! # Invariants
//! * The reader takes any split of the input, and gives the same replies.
//! * Its memory is bounded: a peer that never ends a line or a reply gets an error.

use crate::base::text::printable;
use std::fmt;

/// Longest line of a reply in bytes; RFC 5321 §4.5.3.1.5 has 512.
const LINE_MAX: usize = 4_096;
/// Most lines of a reply.
const LINES_MAX: usize = 64;

/// Longest reply text that is kept, in characters.
pub const REPLY_TEXT_MAX: usize = 1_000;

/// `5.1.1`: class, subject, detail (RFC 3463 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Where the text began with one that fits the code's class.
    pub enhanced: Option<EnhancedCode>,
    /// Lines joined by a space, without the enhanced code; safe to print, at most
    /// [`REPLY_TEXT_MAX`] characters.
    pub text: String,
    /// The lines' texts apart, as EHLO needs them; not safe to print.
    pub lines: Vec<String>,
}

impl Reply {
    /// 2xx.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 5xx.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " {}", self.text) }
    }
}

/// What a peer sent is not a reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not three digits from 200 to 599 with a space, a hyphen or the end behind them.
    #[error("not an SMTP reply: {0:?}")]
    NotAReply(String),
    /// The lines of one reply have different codes.
    #[error("reply changes its code from {0} to {1}")]
    MixedCodes(u16, u16),
    /// More than 4 KiB in a line, or more than 64 lines.
    #[error("reply too long")]
    TooLong,
}

/// Reads replies out of a stream of bytes.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// A line that has not ended yet.
    line: Vec<u8>,
    /// Code and lines of a reply that has not ended yet.
    open: Option<(u16, Vec<Vec<u8>>)>,
}

impl ReplyReader {
    /// Takes bytes from the front of `input`, up to the end of one reply.
    ///
    /// # Errors
    /// What makes the stream unusable from here on.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while let Some(end) = memchr::memchr(b'\n', input) {
            let (head, rest) = input.split_at(end + 1);
            *input = rest;
            self.keep(head)?;
            if let Some(reply) = self.end_line()? {
                return Ok(Some(reply));
            }
        }
        let rest = std::mem::take(input);
        self.keep(rest)?;
        Ok(None)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ReplyError> {
        if self.line.len() + bytes.len() > LINE_MAX {
            return Err(ReplyError::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes in a whole line; gives the reply that it ends.
    fn end_line(&mut self) -> Result<Option<Reply>, ReplyError> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let not_a_reply = || ReplyError::NotAReply(printable(line, 80));
        let (digits, rest) = line.split_at_checked(3).ok_or_else(not_a_reply)?;
        let code = match digits {
            [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => return Err(not_a_reply()),
        };
        let (last, text) = match rest {
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(not_a_reply()),
        };
        let (first, mut lines) = self.open.take().unwrap_or((code, Vec::new()));
        if first != code {
            return Err(ReplyError::MixedCodes(first, code));
        }
        if lines.len() == LINES_MAX {
            return Err(ReplyError::TooLong);
        }
        lines.push(text.to_vec());
        if last {
            Ok(Some(Reply::from_lines(code, &lines)))
        } else {
            self.open = Some((code, lines));
            Ok(None)
        }
    }
}

impl Reply {
    /// Reads one reply from text, as people copy it from a log: its lines apart by line ends, or
    /// joined by spaces (`421-4.7.28 one 421 4.7.28 two`).
    ///
    /// # Errors
    /// As [`ReplyReader::read`].
    pub fn parse(text: &str) -> Result<Self, ReplyError> {
        let not_a_reply = || ReplyError::NotAReply(printable(text.as_bytes(), 80));
        let code = text.trim_start().get(..3).ok_or_else(not_a_reply)?;
        let mut text = text.trim().to_string();
        if text.get(3..4) == Some("-") {
            for mark in ['-', ' '] {
                text = text.replace(&format!(" {code}{mark}"), &format!("\n{code}{mark}"));
            }
        }
        let mut reader = ReplyReader::default();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (digits, rest) = line.split_at_checked(3).ok_or_else(not_a_reply)?;
            let rest = match rest.strip_prefix(['-', ' ']) {
                Some(rest) => rest,
                None if rest.is_empty() => rest,
                None => return Err(not_a_reply()),
            };
            // Which line is the last is seen, whatever is left of the hyphens.
            let mark = if lines.peek().is_some() { '-' } else { ' ' };
            if let Some(reply) = reader.read(&mut format!("{digits}{mark}{rest}\n").as_bytes())? {
                return Ok(reply);
            }
        }
        Err(not_a_reply())
    }

    /// Joins the texts of a reply's lines.
    fn from_lines(code: u16, lines: &[Vec<u8>]) -> Self {
        let enhanced =
            lines.first().and_then(|line| split_enhanced(code, line)).map(|(code, _)| code);
        let mut raw = Vec::new();
        for line in lines {
            // Each line repeats the code (RFC 2034 §4).
            let text = match split_enhanced(code, line) {
                Some((found, text)) if Some(found) == enhanced => text,
                _ => line,
            };
            if !raw.is_empty() && !text.is_empty() {
                raw.push(b' ');
            }
            raw.extend_from_slice(text);
        }
        let lines = lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        // By bytes as well: characters may have four.
        raw.truncate(REPLY_TEXT_MAX + 1);
        Self { code, enhanced, text: printable(&raw, REPLY_TEXT_MAX), lines }
    }
}

/// `5.1.1 text` apart, where the class is that of the reply code.
fn split_enhanced(code: u16, line: &[u8]) -> Option<(EnhancedCode, &[u8])> {
    let end = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let mut parts = std::str::from_utf8(word).ok()?.split('.');
    let class: u8 = parts.next()?.parse().ok()?;
    let (subject, detail) = (number(parts.next()?)?, number(parts.next()?)?);
    if parts.next().is_some() || u16::from(class) != code / 100 {
        return None;
    }
    Some((EnhancedCode(class, subject, detail), rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// One to three digits.
fn number(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 3 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(input: &[u8], sizes: &[usize]) -> Result<Vec<Reply>, ReplyError> {
        let (mut reader, mut replies, mut rest) = (ReplyReader::default(), Vec::new(), input);
        let mut sizes = sizes.iter().copied().cycle();
        while !rest.is_empty() {
            let (piece, after) =
                rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            let mut piece = piece;
            while let Some(reply) = reader.read(&mut piece)? {
                replies.push(reply);
            }
            rest = after;
        }
        Ok(replies)
    }

    fn one(input: &[u8]) -> String {
        read_all(input, &[]).unwrap().iter().map(|r| format!("{r}|")).collect()
    }

    #[test]
    fn reads_what_servers_send() {
        assert_eq!(one(b"250 ok\r\n"), "250 ok|");
        assert_eq!(one(b"250\r\n354 \r\n"), "250|354|");
        assert_eq!(one(b"250-a\r\n250-b\r\n250 c\r\n"), "250 a b c|");
        assert_eq!(one(b"550 5.1.1 no\xff\x1b[2J\n"), "550 5.1.1 no\\xff\\x1b[2J|");
        assert_eq!(one(b"550-5.7.1 listed\r\n550 5.7.1 see url\r\n"), "550 5.7.1 listed see url|");
        // A class that does not fit is text.
        assert_eq!(read_all(b"250 5.1.1 x\r\n", &[]).unwrap()[0].enhanced, None);
    }

    #[test]
    fn reads_what_people_copy_from_logs() {
        let parsed = |text: &str| Reply::parse(text).map(|reply| reply.to_string()).ok();
        let whole = Some("421 4.7.28 one two 421 three".to_string());
        assert_eq!(parsed("421 4.7.28 one two 421 three"), whole);
        let whole = Some("421 4.7.28 one two".to_string());
        assert_eq!(parsed(" 421-4.7.28 one 421-4.7.28 two 421 4.7.28\n"), whole);
        assert_eq!(parsed("421-4.7.28 one\r\n421 4.7.28 two\r\n"), whole);
        assert_eq!(parsed("421-4.7.28 one\n421-4.7.28 two"), whole);
        assert_eq!(parsed("550"), Some("550".to_string()));
        for bad in ["", "42", "é5", "greylisted", "421x", "250-a\n251 b", "99 x", "421-a\nb"] {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn keeps_little_of_a_long_text_whatever_is_in_it() {
        for piece in ["w", "\u{1b}", "\u{202e}", "\u{1f4e7}", "\u{1f4e7}\u{1b}\u{1b}"] {
            let line = format!("550 {}\r\n", piece.repeat(4_000 / piece.len()));
            let mut input = line.as_bytes();
            let text = ReplyReader::default().read(&mut input).unwrap().unwrap().text;
            assert!((1_000..2_000).contains(&text.len()), "{} bytes of {piece:?}", text.len());
        }
    }

    #[test]
    fn names_what_is_not_a_reply() {
        for bad in ["hello\r\n", "99 x\r\n", "600 x\r\n", "2500 x\r\n", "\r\n", "150 x\r\n"] {
            assert!(
                matches!(read_all(bad.as_bytes(), &[]), Err(ReplyError::NotAReply(_))),
                "{bad:?}"
            );
        }
        assert_eq!(read_all(b"250-a\r\n251 b\r\n", &[]), Err(ReplyError::MixedCodes(250, 251)));
        assert_eq!(read_all(&b"250-x\r\n".repeat(65), &[]), Err(ReplyError::TooLong));
        assert_eq!(read_all(&b"250 x".repeat(1_000), &[]), Err(ReplyError::TooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            lines in proptest::collection::vec("(250|354|451|550)[ -][ -~]{0,20}\r?\n", 0..20),
            sizes in proptest::collection::vec(1usize..30, 1..10),
        ) {
            let input = lines.concat();
            prop_assert_eq!(read_all(input.as_bytes(), &sizes), read_all(input.as_bytes(), &[]));
        }

        #[test]
        fn what_is_shown_reads_the_same(
            lines in proptest::collection::vec(
                "450-(4\\.2\\.0 )?[!-~][ -~]{0,20}[!-~]\r\n", 1..5,
            ),
        ) {
            let input = format!("{}450 end\r\n", lines.concat());
            let reply = ReplyReader::default().read(&mut input.as_bytes()).unwrap().unwrap();
            let again = Reply::parse(&reply.to_string()).unwrap();
            prop_assert_eq!((again.code, again.enhanced), (reply.code, reply.enhanced));
            prop_assert_eq!(again.text, reply.text);
        }

        #[test]
        fn no_text_makes_parse_panic(text in "[45é][0-9]{0,2}[- \r\n]?.{0,30}") {
            _ = Reply::parse(&text);
        }

        #[test]
        fn no_bytes_make_it_panic(
            input: Vec<u8>,
            sizes in proptest::collection::vec(1usize..9, 1..9),
        ) {
            _ = read_all(&input, &sizes);
        }
    }
}
