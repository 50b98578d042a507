//! What programs write on standard input, and what becomes of it.

use super::*;
use crate::base::id::IdGenerator;
use crate::cli::sendmail::args;
use proptest::prelude::*;

const AT: Timestamp = Timestamp(1_795_394_728_114);
const DATE: &str = "Date: Mon, 23 Nov 2026 00:45:28 +0000\r\n";

fn lines(input: &[u8], dot_is_text: bool) -> Result<Vec<u8>, Stop> {
    let mut lines = Lines::new(dot_is_text);
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        if !lines.push(line)? {
            break;
        }
    }
    Ok(lines.finish())
}

fn compose(arguments: &str, input: &str) -> Result<Message, Stop> {
    let request = args::parse(arguments.split_whitespace().map(Into::into))?;
    let home = Domain::parse("web1.test").unwrap();
    let by = Caller {
        user: "www-data",
        full_name: "Web Server",
        home: &home,
        id: IdGenerator::after(None).next(AT),
        process: 77,
        now: AT,
    };
    message(&request, &lines(input.as_bytes(), request.dot_is_text)?, &by)
}

/// The bytes, and "sender > recipients".
fn done(arguments: &str, input: &str) -> (String, String) {
    let Message { envelope, bytes } = compose(arguments, input).unwrap();
    let to: Vec<&str> = envelope.recipients.iter().map(|r| r.mailbox.as_str()).collect();
    (String::from_utf8(bytes).unwrap(), format!("{} > {}", envelope.reverse_path, to.join(" ")))
}

fn id() -> String {
    format!("Message-ID: <{}.77@web1.test>\r\n", IdGenerator::after(None).next(AT))
}

#[test]
fn line_ends_become_crlf() {
    for (input, want) in [
        ("a\nb\r\nc", "a\r\nb\r\nc\r\n"),
        ("a\r\r\nb\n\r\n", "a\r\nb\r\n\r\n"),
        ("a\rBcc: x@y.de\nb\n", "a Bcc: x@y.de\r\nb\r\n"),
        ("a\n.\nb\n", "a\r\n"),
        ("a\n.\r\nb\n", "a\r\n"),
        ("a\n..\n.b\n", "a\r\n..\r\n.b\r\n"),
        ("From ann Mon May  2\nTo: x\n\n", "To: x\r\n\r\n"),
        ("From here on\n\ntext\n", "From here on\r\n\r\ntext\r\n"),
        ("", ""),
    ] {
        assert_eq!(lines(input.as_bytes(), false).unwrap(), want.as_bytes(), "{input:?}");
    }
    assert_eq!(lines(b"a\n.\nb\n", true).unwrap(), b"a\r\n.\r\nb\r\n");
    assert_eq!(lines(b"a\0b", true).unwrap_err().exit, Exit::DataErr);
}

#[test]
fn what_php_hands_over_gets_what_is_missing() {
    let (bytes, envelope) =
        done("-t -i -fbounce@s.de", "To: ann@a.de\nSubject: Gr\u{fc}\u{df}e\n\nhello\n.\nbye");
    let from = "From: \"Web Server\" <bounce@s.de>\r\n";
    let rest = "To: ann@a.de\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\nhello\r\n.\r\nbye\r\n";
    assert_eq!(bytes, format!("{DATE}{from}{}{rest}", id()));
    assert_eq!(envelope, "bounce@s.de > ann@a.de");
    assert_eq!(
        compose("-t", "To: a@b.de\n\n\u{fc}\n").unwrap().envelope.body,
        BodyType::EightBitMime
    );
    assert_eq!(compose("-t", "To: a@b.de\n\nu\n").unwrap().envelope.body, BodyType::SevenBit);
}

#[test]
fn what_is_there_stays() {
    let whole = "Date: x\r\nFROM: y@z.de\r\nmessage-id: <q@r>\r\nTo: a@b.de\r\n\r\nhello\r\n";
    assert_eq!(done("c@d.de", whole), (whole.to_string(), "www-data@web1.test > c@d.de".into()));
    let bare = "To: root\r\n\r\nhello\r\n";
    assert_eq!(done("-G -F x c@d.de", bare).0, bare, "relayed mail is not touched");
}

#[test]
fn recipients_come_from_arguments_and_header() {
    let input = "To: a@x.de, B <b@x.de>\nCc: c@x.de,\n d@x.de\nbcc: e@x.de,\n\tf@x.de\n\nx\n";
    let (bytes, envelope) = done("-t g@x.de b@x.de,h@x.de", input);
    assert_eq!(
        envelope.split(" > ").nth(1),
        Some("g@x.de b@x.de h@x.de a@x.de c@x.de d@x.de e@x.de f@x.de")
    );
    assert!(!bytes.contains("e@x.de") && !bytes.contains("f@x.de"), "{bytes}");
    assert!(bytes.ends_with("To: a@x.de, B <b@x.de>\r\nCc: c@x.de,\r\n d@x.de\r\n\r\nx\r\n"));
    let resent = "To: a@x.de\nResent-To: b@x.de\nResent-Bcc: c@x.de\n\nTo: d@x.de\n";
    let (bytes, envelope) = done("-t", resent);
    assert_eq!(envelope.split(" > ").nth(1), Some("b@x.de c@x.de"));
    assert!(bytes.ends_with("To: a@x.de\r\nResent-To: b@x.de\r\n\r\nTo: d@x.de\r\n"), "{bytes}");
    let (bytes, _) = done("z@x.de", "Bcc: a@x.de\nTo: b@x.de\n\nx\n");
    assert!(!bytes.contains("Bcc"), "goes without -t, too");
}

#[test]
fn cron_is_made_presentable() {
    let (bytes, envelope) = done(
        "-FCronDaemon -i -B8BITMIME -oem root",
        "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web1> date\n\nMon\n",
    );
    assert_eq!(
        bytes,
        format!(
            "{DATE}{}From: \"Cron Daemon\" <root@web1.test>\r\nTo: root@web1.test\r\n\
             Subject: Cron <root@web1> date\r\n\r\nMon\r\n",
            id()
        )
    );
    assert_eq!(envelope, "www-data@web1.test > root@web1.test");
}

#[test]
fn a_message_without_a_header_gets_one() {
    for (input, body) in [("just text\n", "just text\r\n"), ("\nbody\n", "body\r\n")] {
        let (bytes, _) = done("-F Jörg -f <> a@b.de", input);
        let from = "From: =?utf-8?b?SsO2cmc=?= <www-data@web1.test>\r\n";
        assert_eq!(bytes, format!("{DATE}{from}{}\r\n{body}", id()));
    }
}

#[test]
fn mistakes_have_their_exit_code() {
    for (arguments, input, exit, text) in [
        ("", "x", Exit::Usage, "no recipient; name one"),
        ("-t", "Subject: x\n\nx", Exit::Usage, "no recipient in To, Cc or Bcc"),
        ("-t", "To: undisclosed-recipients:;\n\nx", Exit::Usage, "no recipient in To"),
        ("-t", "To: a@b.de, c@\n\nx", Exit::DataErr, "To: \"c@\": invalid domain"),
        ("-t", "Bcc: a@b.de c@d.de\n\nx", Exit::DataErr, "Bcc: "),
        ("a@b.de -fa@b.de,c@d.de", "x", Exit::Usage, "-f a@b.de,c@d.de: "),
        ("a@b.de -f -X/tmp/x@b.de> SIZE", "x", Exit::Usage, "-f "),
        ("a@", "x", Exit::Usage, "recipient \"a@\": "),
        ("-B7BIT a@b.de", "\u{fc}", Exit::DataErr, "-B is 7BIT"),
    ] {
        let stop = compose(arguments, input).unwrap_err();
        assert_eq!(stop.exit, exit, "{arguments}: {}", stop.text);
        assert!(stop.text.contains(text), "{arguments}: {}", stop.text);
    }
}

proptest! {
    /// Whatever is written: CRLF alone, no NUL, and one header section that ends where it should.
    #[test]
    fn any_input_is_a_message(input: Vec<u8>, dot_is_text: bool) {
        let Ok(got) = lines(&input, dot_is_text) else {
            prop_assert!(input.contains(&0));
            return Ok(());
        };
        let mut text = got.as_slice();
        while let Some(at) = memchr::memchr2(b'\r', b'\n', text) {
            prop_assert!(text[at..].starts_with(b"\r\n"));
            text = &text[at + 2..];
        }
        prop_assert!(text.is_empty());
    }

    /// No recipient of a Bcc is left in what is sent, and the body is what was written.
    #[test]
    fn bcc_is_secret(
        before in "(X-[A-Z]{1,5}: [a-z ]{0,20}\n( [a-z]{0,9}\n)?){0,3}",
        fold in prop::bool::ANY,
        body in "[a-zA-Z:@. \n]{0,60}",
    ) {
        let fold = if fold { "\n\t" } else { " " };
        let input = format!("{before}BCC:{fold}secret@x.de\nTo: a@x.de\n\n{body}");
        let (bytes, envelope) = done("-t -i", &input);
        prop_assert!(!bytes.contains("secret@x.de"));
        prop_assert!(envelope.contains("secret@x.de"));
        let (_, got) = bytes.split_once("\r\n\r\n").unwrap();
        let want = body.replace('\n', "\r\n");
        prop_assert_eq!(got.trim_end_matches("\r\n"), want.trim_end_matches("\r\n"));
    }
}
