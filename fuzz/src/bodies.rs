//! What is asserted about every parser of outside bytes, one function per target.
//!
//! A body takes any bytes and must return: a panic, an overflow or a failed assertion is the find.
//! The fuzzer calls them (`targets/`), and so do the stable tests over the corpus
//! (`tests/fuzz_replay.rs`), so nothing here may need the fuzzer.
#![allow(dead_code, unreachable_pub, reason = "each target and the replay use their own part")]

mod dialogue;
mod frames;
mod login;
mod session;
mod words;

use bulkhead::base::address::{DOMAIN_MAX, Domain, Mailbox, PATH_MAX, ReversePath};
use bulkhead::base::id::IdGenerator;
use bulkhead::base::text::printable;
use bulkhead::base::time::Timestamp;
use bulkhead::config::{Config, Place};
use bulkhead::mail::envelope::{Envelope, Recipient};
use bulkhead::mail::header::{self, Trace};
use bulkhead::mail::lines;
use bulkhead::policy::classify::{HeaderRule, Rules, classify};
use bulkhead::smtp::client::{Attempt, Conversation, Opening, Outgoing, Stage};
use bulkhead::smtp::command::{self, Command};
use bulkhead::smtp::data::{ChunkReader, DataLimits, DataReader, Fault};
use bulkhead::smtp::reply::{REPLY_TEXT_MAX, Reply, ReplyError, ReplyReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

pub use dialogue::dialogue;
pub use login::{credential, sasl, users};
pub use session::session;
pub use words::{author, balancer, proxied, shape};

/// A target's body.
pub type Body = fn(&[u8]);

/// All targets by name; each has a folder below `corpus/`.
pub const ALL: &[(&str, Body)] = &[
    ("address", address),
    ("author", author),
    ("balancer", balancer),
    ("client", client),
    ("command", command),
    ("config", config),
    ("credential", credential),
    ("data", data),
    ("dialogue", dialogue),
    ("header", header),
    ("lines", lines),
    ("proxied", proxied),
    ("reply", reply),
    ("sasl", sasl),
    ("session", session),
    ("shape", shape),
    ("text", text),
    ("users", users),
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
    // And `…` where it was cut.
    assert!(shown.chars().count() <= limit + 1);
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

/// A command line is understood or refused with 5xx; what is understood carries nothing that could
/// become a line of its own at the next hop.
pub fn command(data: &[u8]) {
    let clean = |text: &str| assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    match command::parse(data) {
        Err(refusal) => {
            assert!((400..600).contains(&refusal.code), "{}", refusal.code);
            assert_eq!(u16::from(refusal.enhanced.0), refusal.code / 100);
            clean(&refusal.text);
        }
        Ok(Command::Ehlo(name) | Command::Helo(name)) => {
            clean(&name);
            assert!(!name.is_empty());
        }
        Ok(Command::Mail(mail)) => {
            clean(mail.reverse_path.as_str());
            clean(mail.envid.as_deref().unwrap_or_default());
        }
        Ok(Command::Rcpt(recipient)) => {
            clean(recipient.mailbox.as_str());
            let orcpt = recipient.orcpt.as_deref().unwrap_or_default();
            clean(orcpt);
            assert!(!orcpt.contains(' '), "a parameter ends at a blank");
        }
        Ok(_) => {}
    }
}

/// Limits that small inputs can meet.
const SMALL: DataLimits = DataLimits { size: 512, line: 64 };

/// Framing by dots and by chunks: the same however it is cut; only CRLF.CRLF ends it; a body
/// without a fault has CRLF line ends alone; after a fault nothing is kept.
pub fn data(data: &[u8]) {
    let whole = read_data(data, data.len().max(1));
    for piece in [1, 2, 3, 5] {
        assert_eq!(read_data(data, piece), whole, "in pieces of {piece}");
    }
    let (body, end, fault) = whole;
    check_body(&body, fault.is_some());
    let expected = memchr::memmem::find(data, b"\r\n.\r\n").map(|at| at + 5);
    let expected = if data.starts_with(b".\r\n") { Some(3) } else { expected };
    assert_eq!(end, expected, "the end of data is CRLF.CRLF, and nothing else is");

    let chunks = |piece| {
        let (mut reader, mut body) = (ChunkReader::new(SMALL), Vec::new());
        data.chunks(piece).for_each(|chunk| reader.read(chunk, &mut body));
        reader.finish(&mut body);
        (body, reader.fault().map(Fault::is_smuggling))
    };
    let whole = chunks(data.len().max(1));
    for piece in [1, 2, 3, 5] {
        assert_eq!(chunks(piece), whole, "chunks of {piece}");
    }
    check_body(&whole.0, whole.1.is_some());
    if whole.1.is_none() {
        assert!(whole.0.starts_with(data) && whole.0.len() <= data.len() + 2);
    }
}

fn check_body(body: &[u8], refused: bool) {
    assert!(body.len() <= SMALL.size + 2);
    if refused {
        assert!(body.is_empty(), "what is refused is not kept");
    }
    let bare = |pair: &[u8]| (pair[0] == b'\r') != (pair[1] == b'\n');
    let ends = refused || !body.windows(2).any(bare) && !body.contains(&0);
    assert!(ends, "{}", body.escape_ascii());
}

/// Body, where the data ended, and whether something was wrong: `true` for line ends and NUL, which
/// come before sizes. Of two sizes, the one seen first is told; that may depend on the pieces.
fn read_data(data: &[u8], piece: usize) -> (Vec<u8>, Option<usize>, Option<bool>) {
    let (mut reader, mut body, mut at) = (DataReader::new(SMALL), Vec::new(), 0);
    for chunk in data.chunks(piece) {
        let (taken, done) = reader.read(chunk, &mut body);
        at += taken;
        if done {
            return (body, Some(at), reader.fault().map(Fault::is_smuggling));
        }
        assert_eq!(taken, chunk.len(), "before the end all is taken");
    }
    // A body that has not ended may end in half a line end.
    while body.last() == Some(&b'\r') {
        body.pop();
    }
    (body, None, reader.fault().map(Fault::is_smuggling))
}

/// A message keeps its bytes under the added fields, and the header of any message can be read.
pub fn header(data: &[u8]) {
    let (name, hostname) = ("relay.test", Domain::parse("relay.test").expect("a domain"));
    let at = Timestamp(1_795_394_728_114);
    let recipient = Mailbox::parse("r@d.test").ok();
    let trace = Trace {
        helo: name,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        hostname: &hostname,
        protocol: "ESMTP",
        id: IdGenerator::after(None).next(at),
        recipient: recipient.as_ref(),
        at,
    };
    let scan = header::scan(data, &[]);
    let stamped = header::stamped(data, &scan, &trace);
    assert!(stamped.starts_with(b"Received: ") && stamped.ends_with(data));
    let strip = ["x-newsletter".to_string()];
    let stripped = header::stamped(data, &header::scan(data, &strip), &trace);
    assert!(stripped.len() <= stamped.len());
    let still = header::fields(&stripped).filter(|field| field.is("X-Newsletter"));
    assert_eq!(still.count(), 0, "a stripped field is gone");
    let (mut end, length) = (0, header::header_len(data));
    assert!(length <= data.len());
    for field in header::fields(data) {
        assert!(field.range.start >= end, "fields stand one behind the other");
        assert!(field.range.end > end && field.range.end <= data.len());
        end = field.range.end;
    }
    let rules = ["X-Newsletter", "List-Unsubscribe: *", "Precedence: bulk"];
    let headers = rules.map(|rule| HeaderRule::parse(rule).expect("a rule")).to_vec();
    let found = classify(&data[..length], &Rules { headers, strip: Vec::new() });
    for text in [&found.reason, &found.campaign] {
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
        assert!(text.chars().count() < 1_000);
    }
}

/// A message with long lines gets short ones or an error, one with short lines stays as it is.
pub fn lines(data: &[u8]) {
    match lines::shortened(data) {
        Ok(short) if lines::are_long(data) => assert!(!lines::are_long(&short)),
        Ok(same) => assert_eq!(same, data),
        Err(error) => assert!(lines::are_long(data), "{error}"),
    }
}
