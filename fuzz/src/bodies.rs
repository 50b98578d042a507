//! What is asserted about every parser of outside bytes, one function per target.
//!
//! A body takes any bytes and must return: a panic, an overflow or a failed assertion is the find.
//! The fuzzer calls them (`targets/`), and so do the stable tests over the corpus
//! (`tests/fuzz_replay.rs`), so nothing here may need the fuzzer.
#![allow(dead_code, unreachable_pub, reason = "each target and the replay use their own part")]

use bulkhead::base::address::{DOMAIN_MAX, Domain, Mailbox, PATH_MAX, ReversePath};
use bulkhead::base::text::printable;
use bulkhead::config::{Config, Place};
use bulkhead::mail::envelope::{Envelope, Recipient};
use bulkhead::smtp::client::{Attempt, Conversation, Opening, Outgoing, Stage};
use bulkhead::smtp::reply::{REPLY_TEXT_MAX, Reply, ReplyError, ReplyReader};
use std::path::PathBuf;

/// A target's body.
pub type Body = fn(&[u8]);

/// All targets by name; each has a folder below `corpus/`.
pub const ALL: &[(&str, Body)] = &[
    ("address", address),
    ("client", client),
    ("config", config),
    ("reply", reply),
    ("text", text),
];

/// What is taken for an address is kept in its spelling, cannot carry a command, and parses again
/// to the same.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(mailbox) = Mailbox::parse(text) {
        assert_eq!(mailbox.as_str(), text);
        assert!(text.len() <= PATH_MAX - 2);
        assert!(!text.contains(|c: char| c.is_control()), "no CR, LF, NUL or ESC");
        assert_eq!(Mailbox::parse(mailbox.as_str()).as_ref(), Ok(&mailbox));
        let relay = Domain::parse("relay.test").expect("a domain");
        let complete = mailbox.clone().or_at(&relay);
        let domain = complete.domain().expect("or_at gives it one");
        assert!(complete.as_str().starts_with(complete.local_part()));
        assert_eq!(
            Domain::parse(domain.as_str()).as_ref(),
            Ok(domain),
            "a domain is in its own form"
        );
        // The list of suffixes may cut, never invent.
        assert!(domain.as_str().ends_with(domain.organisational().as_str()));
        assert_eq!(ReversePath::parse(text).map(|p| p.to_string()).as_deref(), Ok(text));
    }
    if let Ok(domain) = Domain::parse(text) {
        assert!(domain.as_str().len() <= DOMAIN_MAX);
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(&domain), "in its own form");
        assert_eq!(domain.literal().is_some(), text.starts_with('['));
        assert!(!domain.as_str().contains(|c: char| c.is_control() || c.is_whitespace()));
    }
}

/// Nothing that a terminal acts upon is left, and the length is bounded.
pub fn text(data: &[u8]) {
    let (limit, bytes) = data.split_first().map_or((0, data), |(n, rest)| (usize::from(*n), rest));
    let shown = printable(bytes, limit);
    assert!(!shown.contains(|c: char| c.is_control()));
    let bidirectional = |c: char| ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!shown.contains(bidirectional));
    // The longest escape is `\u{10ffff}`.
    assert!(shown.chars().count() <= 10 * limit + 1);
}

/// Replies are the same however the bytes are cut, and safe to show and to keep.
pub fn reply(data: &[u8]) {
    let whole = read_replies(data, data.len().max(1));
    for piece in [1, 2, 7] {
        assert_eq!(read_replies(data, piece), whole, "in pieces of {piece}");
    }
    for reply in &whole.0 {
        assert!((200..600).contains(&reply.code));
        assert!(reply.text.chars().count() <= REPLY_TEXT_MAX + 1);
        assert!(!reply.to_string().contains(|c: char| c.is_control()));
        let class = u16::from(reply.enhanced.map_or(0, |e| e.0));
        assert!(class == 0 || class == reply.code / 100, "an enhanced code fits its code");
    }
}

/// All replies up to the first error, and that.
fn read_replies(data: &[u8], piece: usize) -> (Vec<Reply>, Option<ReplyError>) {
    let mut reader = ReplyReader::default();
    let mut replies = Vec::new();
    for mut input in data.chunks(piece) {
        while !input.is_empty() {
            match reader.read(&mut input) {
                Ok(reply) => replies.extend(reply),
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

/// Whatever a server says, and however it is cut: each recipient ends with one outcome, nothing
/// counts as delivered whose last dot was not sent, and what is sent is clean and bounded.
pub fn client(data: &[u8]) {
    let (piece, data) = data.split_first().map_or((1, data), |(n, rest)| (*n, rest));
    let recipient = |text| Recipient::new(Mailbox::parse(text).expect("an address"));
    let recipients = ["a@d.test", "b@d.test", "ü@d.test"].map(recipient);
    let all: Vec<&Recipient> = recipients.iter().collect();
    let envelope = Envelope::from(ReversePath::Null);
    let of = |recipients, body| Outgoing { envelope: &envelope, recipients, body };
    let messages =
        [of(&all[..2], b"A: 1\r\n\r\n.\r\n"), of(&all[..1], b""), of(&all, b"B: 2\r\n\r\nx")];

    let mut conversation = Conversation::new("relay.test", false);
    let (mut sent, mut done, mut begun, mut delivered) = (Vec::new(), 0, false, 0);
    for input in data.chunks(1 + usize::from(piece % 64)).map(Some).chain([None]) {
        match input {
            Some(input) => conversation.receive(input),
            None => conversation.lose("the end"),
        }
        let ready = *conversation.opening() == Opening::Ready;
        while ready && done < messages.len() {
            if !begun {
                conversation.begin(&messages[done]);
                begun = true;
            }
            conversation.advance(&messages[done], messages.get(done + 1));
            let Some(attempts) = conversation.take() else { break };
            assert_eq!(attempts.len(), messages[done].recipients.len());
            delivered += usize::from(attempts.iter().any(is_delivered));
            (done, begun) = (done + 1, false);
        }
        sent.append(conversation.output());
    }
    let ended = matches!(conversation.opening(), Opening::Failed(..)) || done == messages.len();
    assert!(ended, "after the end every recipient has its outcome");
    let dots = memchr::memmem::find_iter(&sent, b"\r\n.\r\n").count();
    assert!(delivered <= dots, "{delivered} delivered after {dots} dots");
    assert!(sent.len() < 4_096, "{} bytes for three small messages", sent.len());
    let bare = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n');
    assert!(!sent.windows(2).any(bare), "lines end in CRLF alone");
}

fn is_delivered(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Reply { stage: Stage::Dot, reply } if reply.is_positive())
}

/// Any text is a configuration or has problems, each with its place and safe to print.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let place = Place {
        name: "config.toml".to_string(),
        dir: PathBuf::from("/etc/bulkhead"),
        machine: "relay.test".to_string(),
    };
    let lines = text.lines().count().max(1) + 1;
    match Config::parse(text, &place) {
        Ok(explained) => assert!(!explained.config.listen.is_empty(), "a node listens somewhere"),
        Err(errors) => {
            assert!(!errors.problems.is_empty());
            for problem in errors.problems {
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!problem.message.contains(|c: char| c.is_control()), "{}", problem.message);
                assert!(!problem.message.is_empty());
            }
        }
    }
}
