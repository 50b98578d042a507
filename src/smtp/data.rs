//! The bytes of a message on their way in: where they end, and what may not be among them.
//!
//! Line ends are CRLF, and only CRLF.CRLF ends the data. A bare CR, a bare LF or a NUL makes
//! receivers disagree about where a message ends; that is how one message is smuggled in another
//! (CVE-2023-51764 and others). Such a message is read to its real end and then refused, whoever
//! sends it: a hosted site is the likeliest sender of it.
//!
//! # Invariants
//! * Any split of the input gives the same bytes, end and fault (`any_split_gives_the_same`).
//! * After a fault nothing is kept any more: memory is bounded by the size limit.

use memchr::{memchr, memchr2, memchr3};

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A CR without an LF behind it.
    BareCr,
    /// An LF without a CR before it.
    BareLf,
    /// A NUL.
    Nul,
    /// More bytes than allowed.
    TooBig,
    /// A line with more bytes than allowed.
    LongLine,
}

impl Fault {
    /// True where the client cannot be trusted to mean the same end of data as we do.
    #[must_use]
    pub fn is_smuggling(self) -> bool {
        matches!(self, Self::BareCr | Self::BareLf | Self::Nul)
    }

    /// Of several faults the weightiest is told, wherever in the message each one was found.
    fn weight(self) -> u8 {
        match self {
            Self::BareCr | Self::BareLf | Self::Nul => 2,
            Self::LongLine => 1,
            Self::TooBig => 0,
        }
    }
}

/// Most bytes of a message and of one of its lines (with its CRLF).
#[derive(Clone, Copy, Debug)]
pub struct DataLimits {
    /// Of the message.
    pub size: usize,
    /// Of a line.
    pub line: usize,
}

/// Checks bytes in pieces, as they will be stored.
#[derive(Clone, Copy, Debug)]
struct Check {
    limits: DataLimits,
    fault: Option<Fault>,
    /// Bytes so far.
    size: usize,
    /// Bytes of the open line.
    line: usize,
    /// The last byte was a CR.
    after_cr: bool,
}

impl Check {
    fn new(limits: DataLimits) -> Self {
        Self { limits, fault: None, size: 0, line: 0, after_cr: false }
    }

    fn note(&mut self, fault: Fault) {
        if self.fault.is_none_or(|old| fault.weight() > old.weight()) {
            self.fault = Some(fault);
        }
    }

    /// Takes in the next bytes, and appends them to `body` while all is well.
    fn take(&mut self, bytes: &[u8], body: &mut Vec<u8>) {
        self.scan(bytes);
        self.size = self.size.saturating_add(bytes.len());
        if self.size > self.limits.size {
            self.note(Fault::TooBig);
        }
        if self.fault.is_none() {
            body.extend_from_slice(bytes);
        } else {
            *body = Vec::new();
        }
    }

    fn scan(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.after_cr
            && let Some(first) = rest.first()
            && *first != b'\n'
        {
            self.note(Fault::BareCr);
            self.after_cr = false;
        }
        while let Some(at) = memchr3(b'\r', b'\n', 0, rest) {
            let (line, tail) = rest.split_at(at);
            let found = tail.first().copied().unwrap_or_default();
            self.line = self.line.saturating_add(line.len() + 1);
            let (after_cr, mut next) =
                (self.after_cr && at == 0, tail.get(1..).unwrap_or_default());
            self.after_cr = false;
            match found {
                b'\r' => match next.first() {
                    Some(b'\n') => {
                        next = next.get(1..).unwrap_or_default();
                        self.line += 1;
                        self.end_line();
                    }
                    Some(_) => self.note(Fault::BareCr),
                    None => self.after_cr = true,
                },
                b'\n' if after_cr => self.end_line(),
                b'\n' => self.note(Fault::BareLf),
                _ => self.note(Fault::Nul),
            }
            rest = next;
        }
        if !rest.is_empty() {
            self.after_cr = false;
        }
        self.line = self.line.saturating_add(rest.len());
        if self.line > self.limits.line {
            self.note(Fault::LongLine);
        }
    }

    fn end_line(&mut self) {
        if self.line > self.limits.line {
            self.note(Fault::LongLine);
        }
        self.line = 0;
    }
}

/// Reads the data behind DATA: takes dots off, finds the end.
#[derive(Clone, Debug)]
pub struct DataReader {
    check: Check,
    state: State,
}

/// What came before, as far as it matters for the end of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a line.
    LineStart,
    /// Behind a dot at the start of a line; it was not kept.
    Dot,
    /// Behind such a dot and a CR; neither was kept.
    DotCr,
    /// Within a line.
    Line,
    /// Behind a CR within a line; it was kept.
    Cr,
}

impl DataReader {
    /// At the beginning of the data, which is the start of a line.
    #[must_use]
    pub fn new(limits: DataLimits) -> Self {
        Self { check: Check::new(limits), state: State::LineStart }
    }

    /// Takes bytes up to the end of data, and appends those of the message to `body`. Gives how
    /// many were taken, and whether the end was among them.
    pub fn read(&mut self, input: &[u8], body: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            let first = rest.first().copied().unwrap_or_default();
            match (self.state, first) {
                (State::LineStart, b'.') => {
                    self.state = State::Dot;
                    at += 1;
                }
                (State::Dot, b'\r') => {
                    self.state = State::DotCr;
                    at += 1;
                }
                (State::DotCr, b'\n') => return (at + 1, true),
                (State::DotCr, _) => {
                    // Not the end: the CR belongs to the message, and is bare.
                    self.check.take(b"\r", body);
                    self.state = State::Cr;
                }
                (State::Cr, b'\n') => {
                    self.check.take(b"\n", body);
                    self.state = State::LineStart;
                    at += 1;
                }
                _ => at += self.read_lines(rest, body),
            }
        }
        (at, false)
    }

    /// Whole lines and parts of one, up to a line that begins with a dot.
    fn read_lines(&mut self, input: &[u8], body: &mut Vec<u8>) -> usize {
        let mut end = input.len();
        let mut from = 0;
        while let Some(dot) = input.get(from..).and_then(|rest| memchr(b'.', rest)) {
            let dot = from + dot;
            if dot >= 2 && input.get(dot - 2..dot) == Some(b"\r\n") {
                end = dot;
                break;
            }
            from = dot + 1;
        }
        let lines = input.get(..end).unwrap_or_default();
        self.check.take(lines, body);
        self.state = if lines.ends_with(b"\r\n") {
            State::LineStart
        } else if lines.ends_with(b"\r") {
            State::Cr
        } else {
            State::Line
        };
        end
    }

    /// What is wrong with the message, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.check.fault
    }
}

/// Reads the chunks behind BDAT (RFC 3030): no dots, the size says where they end.
#[derive(Clone, Debug)]
pub struct ChunkReader(Check);

impl ChunkReader {
    /// Before the first chunk.
    #[must_use]
    pub fn new(limits: DataLimits) -> Self {
        Self(Check::new(limits))
    }

    /// Takes bytes of a chunk.
    pub fn read(&mut self, input: &[u8], body: &mut Vec<u8>) {
        self.0.take(input, body);
    }

    /// After the last chunk: a CR at its end is bare; a message that does not end with a line end
    /// gets one, since DATA could not carry it on without.
    pub fn finish(&mut self, body: &mut Vec<u8>) {
        if std::mem::take(&mut self.0.after_cr) {
            self.0.note(Fault::BareCr);
            *body = Vec::new();
        }
        if self.0.fault.is_none() && self.0.line > 0 {
            body.extend_from_slice(b"\r\n");
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// What is wrong with the message, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.0.fault
    }
}

/// True where a command line holds what may not be in one: a bare CR or a NUL.
#[must_use]
pub fn has_stray_bytes(line: &[u8]) -> bool {
    memchr2(b'\r', 0, line).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: DataLimits = DataLimits { size: 200, line: 40 };

    /// Message, fault, and what was left behind the end.
    type Read = Option<(Vec<u8>, Option<Fault>, Vec<u8>)>;

    fn read(input: &[u8], sizes: &[usize]) -> Read {
        let (mut reader, mut body) = (DataReader::new(LIMITS), Vec::new());
        let mut sizes = sizes.iter().copied().cycle();
        let mut at = 0;
        while at < input.len() {
            let end = (at + sizes.next().unwrap_or(input.len())).min(input.len()).max(at + 1);
            let (taken, done) = reader.read(&input[at..end], &mut body);
            at += taken;
            if done {
                return Some((body, reader.fault(), input[at..].to_vec()));
            }
            assert_eq!(at, end);
        }
        None
    }

    /// Byte by byte, as simple as can be.
    fn naive(input: &[u8]) -> Read {
        let mut seen = b"\r\n".to_vec();
        for (at, byte) in input.iter().enumerate() {
            seen.push(*byte);
            if seen.ends_with(b"\r\n.\r\n") {
                let wire = &seen[2..seen.len() - 3];
                let text: Vec<u8> = wire
                    .split_inclusive(|b| *b == b'\n')
                    .scan(true, |start, line| {
                        let dot = *start && line.starts_with(b".");
                        *start = line.ends_with(b"\r\n");
                        Some(if dot { line[1..].to_vec() } else { line.to_vec() })
                    })
                    .flatten()
                    .collect();
                let fault = naive_fault(&text);
                let body = if fault.is_none() { text } else { Vec::new() };
                return Some((body, fault, input[at + 1..].to_vec()));
            }
        }
        None
    }

    fn naive_fault(text: &[u8]) -> Option<Fault> {
        let mut faults = Vec::new();
        for (at, byte) in text.iter().enumerate() {
            match byte {
                0 => faults.push(Fault::Nul),
                b'\r' if text.get(at + 1) != Some(&b'\n') => faults.push(Fault::BareCr),
                b'\n' if at == 0 || text[at - 1] != b'\r' => faults.push(Fault::BareLf),
                _ => {}
            }
        }
        if let Some(first) = faults.first() {
            return Some(*first);
        }
        let long = text.split_inclusive(|b| *b == b'\n').any(|line| line.len() > LIMITS.line);
        match (text.len() > LIMITS.size, long) {
            (true, _) => Some(Fault::TooBig),
            (false, true) => Some(Fault::LongLine),
            (false, false) => None,
        }
    }

    #[test]
    fn takes_dots_off_and_finds_the_end() {
        for (wire, body, rest) in [
            (".\r\n", "", ""),
            ("a\r\n.\r\nQUIT\r\n", "a\r\n", "QUIT\r\n"),
            ("..\r\n.\r\n", ".\r\n", ""),
            ("..x\r\n...\r\n.\r\n", ".x\r\n..\r\n", ""),
            ("\r\n.\r\n", "\r\n", ""),
            (".a\r\n.\r\n", "a\r\n", ""),
        ] {
            assert_eq!(
                read(wire.as_bytes(), &[]),
                Some((body.into(), None, rest.into())),
                "{wire:?}"
            );
        }
    }

    #[test]
    fn no_false_end_is_an_end_and_all_are_faults() {
        for (end, fault) in [
            ("\n.\n", Fault::BareLf),
            ("\n.\r\n", Fault::BareLf),
            ("\r.\r\n", Fault::BareCr),
            ("\r.\r", Fault::BareCr),
            ("\r\n.\n", Fault::BareLf),
            ("\r\n.\rx", Fault::BareCr),
            ("\r\n.\r\r\n", Fault::BareCr),
            ("\n\n.\r\n", Fault::BareLf),
            ("\r\r\n.\rx\r\n", Fault::BareCr),
            ("\r\n\0.\r\n", Fault::Nul),
            ("\r\n.\0\r\n", Fault::Nul),
        ] {
            let wire = format!("one{end}MAIL FROM:<x@y>\r\n.\r\n");
            let (body, got, rest) = read(wire.as_bytes(), &[]).unwrap();
            assert_eq!((body.len(), got, rest.len()), (0, Some(fault), 0), "{end:?}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let line = |n: usize| format!("{}\r\n.\r\n", "x".repeat(n));
        assert_eq!(read(line(38).as_bytes(), &[]).unwrap().1, None);
        assert_eq!(read(line(39).as_bytes(), &[]).unwrap().1, Some(Fault::LongLine));
        let lines = |n: usize| format!("{}.\r\n", "12345678\r\n".repeat(n));
        assert_eq!(read(lines(20).as_bytes(), &[]).unwrap().1, None);
        assert_eq!(read(lines(21).as_bytes(), &[]).unwrap().1, Some(Fault::TooBig));
    }

    #[test]
    fn chunks_are_checked_across_their_borders() {
        for (chunks, fault, body) in [
            (&["a\r", "\nb"][..], None, "a\r\nb\r\n"),
            (&["a\r", "b"], Some(Fault::BareCr), ""),
            (&["a", "\nb"], Some(Fault::BareLf), ""),
            (&["a\r"], Some(Fault::BareCr), ""),
            (&["", ".\r\n"], None, ".\r\n"),
            (&[], None, ""),
        ] {
            let (mut reader, mut got) = (ChunkReader::new(LIMITS), Vec::new());
            chunks.iter().for_each(|chunk| reader.read(chunk.as_bytes(), &mut got));
            reader.finish(&mut got);
            assert_eq!((reader.fault(), got.as_slice()), (fault, body.as_bytes()), "{chunks:?}");
        }
    }

    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("\r\n"),
            Just("."),
            Just("\r"),
            Just("\n"),
            Just("a"),
            Just("\0"),
            Just("\r\n.\r\n"),
            Just("aaaaaaaaaaaaaaaaaaaa"),
            Just("\r\n..")
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            wire in wire(),
            sizes in proptest::collection::vec(1usize..9, 1..9),
        ) {
            prop_assert_eq!(read(&wire, &sizes), read(&wire, &[]));
        }

        #[test]
        fn agrees_with_the_naive_reader(wire in wire()) {
            let (ours, naive) = (read(&wire, &[]), naive(&wire));
            // The naive one sees all bytes before it judges; which of several faults is told may
            // differ.
            let plain = |read: Read| {
                read.map(|(body, fault, rest)| (body, fault.map(Fault::is_smuggling), rest))
            };
            prop_assert_eq!(plain(ours), plain(naive));
        }
    }
}
