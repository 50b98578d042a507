//! Messages with unique ids, dot-stuffing, and the comparison of bytes at both ends.

use std::sync::atomic::{AtomicU64, Ordering};

/// Fields that a relay may put on top of a message.
const ADDED: [&str; 3] = ["received", "date", "message-id"];

/// A complete message: the usual fields, `X-Test-Id`, then `body`. Lines of `body` must end in
/// CRLF.
pub fn message(id: &str, more_fields: &str, body: &str) -> Vec<u8> {
    format!(
        "From: <news@sender.test>\r\nTo: <someone@receiver.test>\r\nSubject: test {id}\r\n\
         Date: Mon, 23 Nov 2026 00:45:28 +0000\r\nMessage-ID: <{id}@sender.test>\r\n\
         X-Test-Id: {id}\r\n{more_fields}\r\n{body}"
    )
    .into_bytes()
}

/// A plain direct message.
pub fn direct(id: &str) -> Vec<u8> {
    message(id, "", "Hello,\r\n.this line begins with a dot\r\n\r\nBye.\r\n")
}

/// A newsletter by its header.
pub fn newsletter(id: &str) -> Vec<u8> {
    message(id, "X-Newsletter: yes\r\n", "News of the day.\r\n")
}

/// An id that no other message of this test process has.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The value of `X-Test-Id`.
pub fn test_id(bytes: &[u8]) -> Option<String> {
    field(bytes, "X-Test-Id")
}

/// The unfolded value of the first field of that name in the header section.
pub fn field(bytes: &[u8], name: &str) -> Option<String> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or(bytes.len());
    let header =
        String::from_utf8_lossy(&bytes[..end]).replace("\r\n ", " ").replace("\r\n\t", " ");
    header.split("\r\n").find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_string())
    })
}

/// `body` as DATA wants it: dots doubled, a final CRLF where there is none, and the last dot.
pub fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut start_of_line = true;
    for (i, &byte) in body.iter().enumerate() {
        if start_of_line && byte == b'.' {
            out.push(b'.');
        }
        out.push(byte);
        start_of_line = byte == b'\n' && i > 0 && body[i - 1] == b'\r';
    }
    if !body.is_empty() && !body.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// The reverse of [`stuffed`] for what stands between 354 and the last dot.
pub fn unstuffed(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data.strip_prefix(b".").unwrap_or(data);
    while let Some(at) = memchr::memmem::find(rest, b"\r\n.") {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

/// Every line end made CRLF, as a sending program does with a file. Bare CRs stay.
pub fn with_crlf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    for (i, &byte) in bytes.iter().enumerate() {
        if byte == b'\n' && (i == 0 || bytes[i - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(byte);
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// True where SMTP has no way to carry these bytes: a NUL, or a CR or LF that is not part of CRLF.
pub fn is_unmailable(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(i, &byte)| match byte {
        0 => true,
        b'\r' => bytes.get(i + 1) != Some(&b'\n'),
        b'\n' => i == 0 || bytes[i - 1] != b'\r',
        _ => false,
    })
}

/// Panics unless `got` is `sent` under added trace fields: one `Received` at least, and `Date` and
/// `Message-ID` only where `sent` has none. Where `sent` begins with no field, an empty line keeps
/// its first line from becoming one.
#[track_caller]
pub fn assert_relayed(sent: &[u8], got: &[u8]) {
    let added = got.strip_suffix(sent).unwrap_or_else(|| {
        panic!("bytes differ at {}\n{}", first_difference(sent, got), String::from_utf8_lossy(got))
    });
    let added = match added.strip_suffix(b"\r\n\r\n") {
        Some(_) if !begins_with_field(sent) => &added[..added.len() - 2],
        _ => added,
    };
    let names = field_names(added);
    assert!(names.iter().any(|n| n == "received"), "no Received field was added: {names:?}");
    for name in names {
        assert!(ADDED.contains(&name.as_str()), "{name} was added");
        let missing = field(header(sent), &name).is_none();
        assert!(name == "received" || missing, "{name} was there already");
    }
}

/// The lines at the front that are fields or their continuation.
fn header(bytes: &[u8]) -> &[u8] {
    let mut end = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let continues = end > 0 && matches!(line.first(), Some(b' ' | b'\t'));
        if !continues && !begins_with_field(line) {
            break;
        }
        end += line.len();
    }
    &bytes[..end]
}

fn begins_with_field(bytes: &[u8]) -> bool {
    let name = bytes.iter().take_while(|b| (33..=126).contains(*b) && **b != b':').count();
    let rest = bytes[name..].trim_ascii_start();
    name > 0 && rest.starts_with(b":")
}

/// For the panic: how far the ends of both agree.
fn first_difference(sent: &[u8], got: &[u8]) -> String {
    let same = sent.iter().rev().zip(got.iter().rev()).take_while(|(a, b)| a == b).count();
    let window = |bytes: &[u8]| {
        let at = bytes.len() - same;
        String::from_utf8_lossy(&bytes[at.saturating_sub(40)..(at + 20).min(bytes.len())])
            .escape_debug()
            .to_string()
    };
    format!("{same} bytes from the end: sent \"{}\", got \"{}\"", window(sent), window(got))
}

/// Names of whole header fields, in lower case; panics where the bytes are anything else. An empty
/// line may end them: the message began without a header section.
#[track_caller]
fn field_names(added: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(added).expect("added fields are UTF-8");
    assert!(text.is_empty() || text.ends_with("\r\n"), "a broken line was added: {text:?}");
    let lines = text.strip_suffix("\r\n\r\n").unwrap_or(text).split_terminator("\r\n");
    lines
        .filter(|line| !line.starts_with([' ', '\t']))
        .map(|line| line.split_once(':').expect("a field").0.to_ascii_lowercase())
        .collect()
}
