//! Messages with long lines, made by hand and by chance: what a reader sees is what it was.

use super::*;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{Message, PartType};
use proptest::prelude::*;

/// Bytes of the longest line, found the plain way.
fn longest(bytes: &[u8]) -> usize {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    for end in memmem::find_iter(bytes, b"\r\n") {
        lines.push(&bytes[at..end]);
        at = end + 2;
    }
    lines.push(&bytes[at..]);
    lines.into_iter().map(<[u8]>::len).max().unwrap_or_default()
}

/// Types and decoded contents of all parts, in order.
fn contents(message: &[u8]) -> Vec<(String, Vec<u8>)> {
    fn walk(message: &Message<'_>, out: &mut Vec<(String, Vec<u8>)>) {
        for part in &message.parts {
            assert!(!part.is_encoding_problem);
            let kind = part.content_type().map(|kind| format!("{kind:?}")).unwrap_or_default();
            match &part.body {
                PartType::Message(inner) => {
                    out.push((kind, Vec::new()));
                    walk(inner, out);
                }
                PartType::Multipart(_) => out.push((kind, Vec::new())),
                _ => out.push((kind, part.contents().to_vec())),
            }
        }
    }
    let mut out = Vec::new();
    walk(&MessageParser::default().parse(message).unwrap(), &mut out);
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn short(message: &str) -> Result<String, TooLong> {
    shortened(message.as_bytes()).map(|message| text(&message))
}

/// A line that is too long, of letters alone.
fn long() -> String {
    "0123456789".repeat(150)
}

#[test]
fn a_text_becomes_quoted_printable_and_says_so() {
    let message = format!("Subject: x\r\nContent-Type: text/html\r\n\r\n<p>ü = {}\r\n", long());
    let got = short(&message).unwrap();
    let (header, body) = got.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        header,
        "Subject: x\r\nContent-Type: text/html\r\nMIME-Version: 1.0\r\n\
         Content-Transfer-Encoding: quoted-printable"
    );
    assert!(body.starts_with("<p>=C3=BC =3D 0123456789"), "{body}");
    assert!(body.ends_with("\r\n") && longest(body.as_bytes()) <= 76, "{body}");
    assert_eq!(contents(got.as_bytes()), contents(message.as_bytes()));
}

#[test]
fn only_the_part_with_the_long_line_changes() {
    let part = |more: &str, body: &str| format!("--b\r\n{more}\r\n{body}\r\n");
    let short_part = part("Content-Type: text/plain\r\n", "hi =  \r\n");
    let data = "Content-Type: application/x\r\ncontent-transfer-ENCODING: 8bit\r\nX-A: b\r\n";
    let message = |part: &str| {
        format!(
            "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n\
             {short_part}{part}{short_part}--b--\r\nepilogue"
        )
    };
    let got = short(&message(&part(data, &long()))).unwrap();
    let encoded = text(&wrap::base64(long().as_bytes()));
    let wanted = "Content-Type: application/x\r\nX-A: b\r\nContent-Transfer-Encoding: base64\r\n";
    assert_eq!(got, message(&part(wanted, &encoded)));
}

#[test]
fn parts_in_parts_and_messages_in_messages_are_found() {
    let inner = format!(
        "From: x\r\nContent-Type: multipart/alternative; boundary=\"in ner\"\r\n\r\n\
         --in ner\r\n\r\n{}\r\n--in ner  \r\nContent-Type: text/html\r\n\r\n{}\r\n--in ner--",
        long(),
        long()
    );
    for (kind, header) in [("mixed", "Content-Type: message/rfc822\r\n"), ("digest", "")] {
        let message = format!(
            "Content-Type: multipart/{kind}; boundary=outer\r\n\r\n--outer\r\n{header}\r\n\
             {inner}\r\n--outer--\r\n"
        );
        let got = short(&message).unwrap();
        assert!(longest(got.as_bytes()) <= LINE_MAX);
        assert_eq!(got.matches("Transfer-Encoding: quoted-printable").count(), 2, "{got}");
        assert_eq!(contents(got.as_bytes()), contents(message.as_bytes()));
    }
}

#[test]
fn what_is_encoded_already_is_only_broken() {
    let line = "a=3D-".repeat(400);
    for (name, body) in
        [("Quoted-Printable", format!("{line}\t \r\nx=\r\ny\r\n")), ("BASE64", long())]
    {
        let header = format!("MIME-Version: 1.0\r\nContent-Transfer-Encoding: {name}\r\n\r\n");
        let message = format!("{header}{body}");
        let got = short(&message).unwrap();
        assert!(
            got.starts_with(&header) && longest(&got.as_bytes()[header.len()..]) <= 76,
            "{got}"
        );
        assert_eq!(contents(got.as_bytes()), contents(message.as_bytes()));
    }
}

#[test]
fn header_lines_are_folded_at_blanks() {
    let names = |count: usize| "<some.one@example.com>, ".repeat(count);
    for (count, folds) in [(30, 0), (60, 1), (4_000, 97)] {
        let message = format!("To: {}z\r\nSubject: x\r\n\r\nhi\r\n", names(count));
        let got = short(&message).unwrap();
        assert!(longest(got.as_bytes()) <= LINE_MAX);
        assert_eq!(got.replace("\r\n ", " "), message);
        assert_eq!(got.matches("\r\n ").count(), folds);
    }
    let blanks = " ".repeat(2_000);
    for line in [long(), format!("x{blanks}y"), format!("x{blanks}"), blanks.clone()] {
        assert_eq!(short(&format!("Subject: x\r\nX:{line}\r\n\r\n")), Err(TooLong::Header));
    }
}

#[test]
fn what_may_not_be_changed_is_refused() {
    use TooLong::*;
    let multipart = |kind: &str, part: &str| {
        let kind = format!("Content-Type: multipart/{kind}; boundary=b\r\n\r\n");
        format!("{kind}--b\r\n{part}\r\n--b--\r\n")
    };
    let long = long();
    let simple = format!("\r\n{long}");
    let mut deep = simple.clone();
    for n in 0..20 {
        let header = format!("Content-Type: multipart/mixed; boundary=b{n}b\r\n\r\n");
        deep = format!("{header}--b{n}b\r\n{deep}\r\n--b{n}b--\r\n");
    }
    for (message, error) in [
        (format!("DKIM-Signature: v=1\r\n{simple}"), Signed),
        (format!("arc-seal: i=1\r\n{simple}"), Signed),
        (format!("DKIM-Signature: v=1; b={long} x\r\n\r\n"), Signed),
        (
            multipart(
                "mixed",
                &format!("Content-Type: message/rfc822\r\n\r\nDKIM-Signature: x\r\n{simple}"),
            ),
            Signed,
        ),
        (multipart("signed", &simple), Fixed),
        (multipart("ENCRYPTED", &simple), Fixed),
        (multipart("report", &format!("Content-Type: message/delivery-status\r\n{simple}")), Fixed),
        (format!("Content-Transfer-Encoding: x-uuencode\r\n{simple}"), Fixed),
        (
            format!(
                "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n{simple}"
            ),
            Fixed,
        ),
        (format!("Content-Transfer-Encoding: base64\r\n{}", multipart("mixed", &simple)), Unclear),
        (format!("Content-Type: text/plain\r\nContent-Type: text/html\r\n{simple}"), Unclear),
        (format!("Content-Type: multipart/mixed\r\n{simple}"), Unclear),
        (format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--bb\r\n{simple}"), Unclear),
        (format!("no field\r\n{simple}"), Unclear),
        (multipart("mixed", &simple).replace("--b--", "--b-"), Unclear),
        (format!("{}{long}", multipart("mixed", "\r\n")), Outside),
        (multipart("mixed", "\r\n").replacen("--b", &format!("{long}\r\n--b"), 1), Outside),
        (deep, TooMany),
        (multipart("mixed", &format!("{simple}\r\n--b\r\n").repeat(1_001)), TooMany),
    ] {
        assert_eq!(short(&message), Err(error), "{}", &message[..message.len().min(300)]);
    }
    // Signed, or of a fixed kind, and with nothing too long in it.
    let signed = multipart("signed", "\r\nhi").replace("=b", "=c").replace("--b", "--c");
    let short_lines = format!("DKIM-Signature: v=1\r\n\r\n{}\r\n", "x".repeat(998));
    for message in [short_lines, multipart("mixed", &signed)] {
        assert_eq!(short(&message).as_deref(), Ok(message.as_str()));
    }
    let beside = multipart("mixed", &format!("{simple}\r\n--b\r\n{signed}"));
    assert!(short(&beside).unwrap().contains(&signed));
}

#[test]
fn no_soft_break_makes_a_delimiter() {
    // Wherever a line is broken, `--b` and `--b--` may begin the next one.
    for shift in 1..7 {
        let line = "x".repeat(shift) + &"--b--b".repeat(300);
        let html = format!("Content-Type: text/html\r\n\r\n{line}");
        let quoted = format!("Content-Transfer-Encoding: quoted-printable\r\n\r\n{line}");
        for part in [html, quoted] {
            let message = format!(
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{part}\r\n--b--\r\n"
            );
            let got = short(&message).unwrap();
            let delimiters = got.split("\r\n").filter(|line| line.starts_with("--b"));
            assert_eq!(delimiters.collect::<Vec<_>>(), ["--b", "--b--"], "{got}");
        }
    }
}

/// A part as bytes, with its header section.
fn entity() -> impl Strategy<Value = Vec<u8>> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| multipart(&parts)),
            // Not one right within another: mail-parser's own checks fail on that.
            1 => prop_oneof![leaf(), inner.prop_map(|inner| multipart(&[inner]))].prop_map(|inner| {
                [b"Content-Type: message/rfc822\r\n\r\nSubject: within\r\n", &inner[..]].concat()
            }),
        ]
    })
}

fn multipart(parts: &[Vec<u8>]) -> Vec<u8> {
    // What is within another is shorter: no boundary is that of a multipart around it.
    let boundary = format!("=_{:09}", parts.concat().len());
    let header = format!("Content-Type: multipart/mixed;\r\n\tboundary=\"{boundary}\"\r\n\r\n");
    let mut out = format!("{header}preamble").into_bytes();
    for part in parts {
        out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        out.extend_from_slice(part);
    }
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    out
}

fn leaf() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![
        "",
        "Content-Type: text/plain; charset=iso-8859-1\r\n",
        "Content-Type: text/html;\r\n charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n",
        "content-transfer-encoding:7BIT\r\nContent-Type: image/png\r\nContent-ID: <x@y>\r\n",
        "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n",
    ]);
    (kind, body()).prop_map(|(kind, body)| [kind.as_bytes(), b"\r\n", &body].concat())
}

/// Lines of all lengths, with what encodings must mind; no boundary is among them.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => prop::sample::select(b"ab= \t.-?".to_vec()),
        1 => 0x20_u8..0x7f,
        1 => 0xa0_u8..=0xff,
    ];
    let length = prop_oneof![4 => 0_usize..80, 1 => 990_usize..1_010, 1 => 1_000_usize..3_000];
    let line = (prop::collection::vec(byte, 40), length)
        .prop_map(|(bytes, length)| bytes.into_iter().cycle().take(length).collect::<Vec<u8>>());
    (prop::collection::vec(line, 0..5), any::<bool>()).prop_map(|(lines, is_ended)| {
        let mut body = lines.join(&b"\r\n"[..]);
        if is_ended {
            body.extend_from_slice(b"\r\n");
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_reader_sees_what_was_there(entity in entity()) {
        let message = [b"Subject: x\r\n", &entity[..]].concat();
        let got = shortened(&message).unwrap();
        prop_assert!(longest(&got) <= LINE_MAX);
        prop_assert_eq!(contents(&got), contents(&message));
        prop_assert_eq!(shortened(&got).unwrap(), got.clone());
        if longest(&message) <= LINE_MAX {
            prop_assert_eq!(got, message);
        }
    }

    #[test]
    fn quoted_printable_gives_back_any_lines(body in body(), again in any::<bool>()) {
        let once = wrap::quoted(&body);
        let quoted = if again { wrap::quoted_again(&once) } else { once };
        prop_assert!(quoted.is_ascii() && longest(&quoted) <= 76);
        prop_assert_eq!(quoted_printable_decode(&quoted).unwrap(), body);
    }

    #[test]
    fn long_lines_are_seen_whatever_is_before_them(
        lengths in prop::collection::vec(prop_oneof![0_usize..200, 980_usize..1_010], 0..12),
        is_ended in any::<bool>(),
    ) {
        let lines: Vec<_> = lengths.iter().map(|length| "x".repeat(*length)).collect();
        let message = lines.join("\r\n") + if is_ended { "\r\n" } else { "" };
        prop_assert_eq!(are_long(message.as_bytes()), lengths.iter().any(|l| *l > LINE_MAX));
    }

    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec(piece(), 0..30)) {
        if let Ok(got) = shortened(&pieces.concat()) {
            prop_assert!(!are_long(&got));
        }
    }
}

/// What structures are made of.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        Just(b"\r\n".to_vec()),
        Just(b"\r\n--b\r\n".to_vec()),
        Just(b"--b--".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"Content-Type: multipart/mixed; boundary=b\r\n".to_vec()),
        Just(b"Content-Type: message/rfc822\r\n".to_vec()),
        Just(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n".to_vec()),
        Just(b"Content-Transfer-Encoding: base64\r\n".to_vec()),
        Just(b"Content-Transfer-Encoding: quoted-printable\r\n".to_vec()),
        Just(b"X: ".to_vec()),
        Just(vec![b'='; 1_200]),
        Just(vec![b'x'; 999]),
        Just([b'x', b' '].repeat(700)),
    ]
}
