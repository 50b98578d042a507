//! What is asserted about every parser of outside bytes, one function per target.
//!
//! A body takes any bytes and must return: a panic, an overflow or a failed assertion is the find.
//! The fuzzer calls them (`targets/`), and so do the stable tests over the corpus
//! (`tests/fuzz_replay.rs`), so nothing here may need the fuzzer.
#![allow(dead_code, unreachable_pub, reason = "each target and the replay use their own part")]

use bulkhead::base::address::{DOMAIN_MAX, Domain, Mailbox, PATH_MAX, ReversePath};
use bulkhead::base::text::printable;

/// A target's body.
pub type Body = fn(&[u8]);

/// All targets by name; each has a folder below `corpus/`.
pub const ALL: &[(&str, Body)] = &[("address", address), ("text", text)];

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
