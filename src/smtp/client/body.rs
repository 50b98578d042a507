//! A message as DATA wants it: dot-stuffed, ended by a lone dot (RFC 5321 §4.5.2).

use memchr::memmem;

/// Puts a message out slice by slice.
#[derive(Debug, Default)]
pub(super) struct Stuffer {
    at: usize,
}

impl Stuffer {
    /// Appends up to about `most` bytes of `body`, the same one at each call; at its end the lone
    /// dot, and true.
    pub(super) fn put(&mut self, body: &[u8], most: usize, out: &mut Vec<u8>) -> bool {
        let end = body.len().min(self.at.saturating_add(most));
        out.reserve(end.saturating_sub(self.at) + 8);
        if self.at == 0 && body.first() == Some(&b'.') {
            out.push(b'.');
        }
        // The line end of a dot at the very place where a slice begins is in the slice before.
        let mut from = self.at.saturating_sub(2);
        while let Some(found) = body.get(from..).and_then(|rest| memmem::find(rest, b"\r\n.")) {
            let dot = from + found + 2;
            if dot >= end {
                break;
            }
            if let Some(piece) = body.get(self.at..dot) {
                out.extend_from_slice(piece);
            }
            out.push(b'.');
            self.at = dot;
            from = dot;
        }
        if let Some(piece) = body.get(self.at..end.max(self.at)) {
            out.extend_from_slice(piece);
        }
        self.at = end.max(self.at);
        if self.at < body.len() {
            return false;
        }
        if !body.is_empty() && !body.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuff(body: &[u8], most: usize) -> Vec<u8> {
        let (mut stuffer, mut out) = (Stuffer::default(), Vec::new());
        while !stuffer.put(body, most, &mut out) {}
        out
    }

    /// What a receiver makes of it, byte by byte.
    fn unstuff(data: &[u8]) -> Vec<u8> {
        let lines = data.strip_suffix(b".\r\n").unwrap().split_inclusive(|b| *b == b'\n');
        lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line).to_vec()).collect()
    }

    #[test]
    fn stuffs_dots_at_line_starts_only() {
        for (body, data) in [
            ("", ".\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a.b\r\n.\r\n..c\r\n", "a.b\r\n..\r\n...c\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&stuff(body.as_bytes(), 99)), data);
        }
    }

    proptest! {
        #[test]
        fn the_receiver_gets_what_was_sent(
            lines in proptest::collection::vec("[.a\r]{0,4}", 0..20),
            most in 1usize..12,
        ) {
            let body: String = lines.iter().map(|line| line.replace('\r', "") + "\r\n").collect();
            let data = stuff(body.as_bytes(), most);
            prop_assert_eq!(unstuff(&data), body.as_bytes());
            let ends = memmem::find_iter(&data, b"\r\n.\r\n").count();
            prop_assert_eq!(ends, usize::from(!body.is_empty()));
            prop_assert_eq!(stuff(body.as_bytes(), usize::MAX), data);
        }
    }
}
