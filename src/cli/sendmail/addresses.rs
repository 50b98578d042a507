//! Addresses as people write them in header fields and arguments: lists with names, comments and
//! groups (RFC 5322 §3.4). Pure.
//!
//! mail-parser takes a list apart; what it finds counts only where [`Mailbox::parse`] takes it,
//! too, so that nothing doubtful gets into an envelope. A name alone (`root`) is one of this
//! machine.

use crate::base::address::{AddressError, Domain, Mailbox, ReversePath};
use crate::base::text::printable;
use lettre::message::header::{HeaderName, HeaderValue, Headers, To};
use lettre::message::{Mailbox as Named, Mailboxes};
use mail_parser::parsers::MessageStream;
use mail_parser::{Address, HeaderValue as Parsed};

/// One address of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// For people; decoded.
    pub(super) name: Option<String>,
    pub(super) mailbox: Mailbox,
    /// It was written without a domain.
    pub(super) is_local: bool,
}

/// The value of an address field, or an argument with addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) entries: Vec<Entry>,
    /// It has groups, which do not show in `entries`.
    pub(super) has_groups: bool,
}

/// Parses a list; what has no domain is of `home`.
///
/// # Errors
/// A sentence with the address and what is wrong with it.
pub(super) fn parse(value: &[u8], home: &Domain) -> Result<List, String> {
    let mut line = value.trim_ascii_end().to_vec();
    line.push(b'\n');
    let (parts, has_groups) = match MessageStream::new(&line).parse_address() {
        Parsed::Address(Address::List(list)) => (list, false),
        Parsed::Address(Address::Group(groups)) => {
            (groups.into_iter().flat_map(|group| group.addresses).collect(), true)
        }
        _ => (Vec::new(), false),
    };
    // A name beside empty brackets would look like a name alone.
    let has_empty =
        line.split(|b| *b == b'<').skip(1).any(|part| part.trim_ascii().starts_with(b">"));
    let mut entries = Vec::with_capacity(parts.len());
    for part in parts {
        let (name, address) = match (part.name, part.address) {
            (Some(_), None) if has_empty => return Err("an address is empty".to_string()),
            (Some(name), None) if name.contains('@') => {
                return Err(format!("{:?} is no address", printable(name.as_bytes(), 100)));
            }
            (Some(name), None) => (None, name),
            (name, Some(address)) => (name, address),
            (None, None) => continue,
        };
        let mailbox = mailbox(&address, home)
            .map_err(|error| format!("{:?}: {error}", printable(address.as_bytes(), 100)))?;
        let name = name.map(String::from).filter(|name| !name.is_empty());
        entries.push(Entry { name, mailbox, is_local: !address.contains('@') });
    }
    Ok(List { entries, has_groups })
}

/// One address; a name alone is of `home`.
pub(super) fn mailbox(text: &str, home: &Domain) -> Result<Mailbox, AddressError> {
    if text.contains('@') {
        return Mailbox::parse(text);
    }
    Mailbox::parse(&format!("{text}@{home}"))
}

/// An envelope sender as `-f` has it: an address, brackets around it or not, or nothing.
pub(super) fn sender(text: &str, home: &Domain) -> Result<ReversePath, AddressError> {
    let inner = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
    if inner.is_empty() {
        return Ok(ReversePath::Null);
    }
    mailbox(inner, home).map(ReversePath::Mailbox)
}

/// An address field with its line end, folded, names encoded (RFC 2047). `None` where `field` is no
/// name of a field, or there is no entry.
pub(super) fn field(field: &str, entries: &[Entry]) -> Option<String> {
    let name = HeaderName::new_from_ascii(field.to_string()).ok()?;
    let mut list = Mailboxes::new();
    for Entry { name, mailbox, .. } in entries {
        let domain = mailbox.domain().map(ToString::to_string).unwrap_or_default();
        let address = lettre::Address::new_dangerous(mailbox.local_part(), domain);
        list.push(Named::new(name.clone(), address));
    }
    let mut headers = Headers::new();
    // Encoded as a To, which all address fields are like.
    headers.set(To::from(list));
    let encoded = headers.to_string();
    let value = encoded.strip_prefix("To: ")?.trim_end();
    headers = Headers::new();
    headers.insert_raw(HeaderValue::dangerous_new_pre_encoded(
        name,
        value.to_string(),
        value.to_string(),
    ));
    (!entries.is_empty()).then(|| headers.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn home() -> Domain {
        Domain::parse("web1.test").unwrap()
    }

    fn found(value: &str) -> Result<Vec<String>, String> {
        let list = parse(value.as_bytes(), &home())?;
        Ok(list.entries.iter().map(|entry| entry.mailbox.to_string()).collect())
    }

    #[test]
    fn lists_are_taken_apart() {
        for (value, addresses) in [
            (" ann@a.de\r\n", "ann@a.de"),
            (" Ann <ann@a.de>, \"B, C\" <b@b.de>,\r\n\tc@c.de\r\n", "ann@a.de b@b.de c@c.de"),
            ("team: a@a.de, b@b.de;, c@c.de", "a@a.de b@b.de c@c.de"),
            ("undisclosed-recipients:;", ""),
            ("=?utf-8?q?J=C3=B6rg?= <j@x.de> (a comment)", "j@x.de"),
            ("Jörg <jörg@münchen.test>", "jörg@münchen.test"),
            ("\"x@evil.test\" <a@a.de>", "a@a.de"),
            ("<\"a b\"@x.de>", "\"a b\"@x.de"),
            ("root (Cron Daemon)", "root@web1.test"),
            ("root, Postmaster", "root@web1.test Postmaster@web1.test"),
            (", ,a@a.de", "a@a.de"),
            ("", ""),
        ] {
            assert_eq!(
                found(value).map(|list| list.join(" ")).as_deref(),
                Ok(addresses),
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_doubtful_is_refused() {
        for value in [
            "a@a.de b@b.de",
            "<a@a.de> <b@b.de>",
            "a b@a.de",
            "a@",
            "Ann Smith",
            "\"Ann\" <>",
            "Ann < >",
            "<@relay.test:a@a.de>",
            "=?utf-8?q?a@b.de?=",
            "a@a.de>,<b",
            "-X/tmp/x y",
        ] {
            assert!(found(value).is_err(), "{value}: {:?}", found(value));
        }
        assert_eq!(found("a..b@c.de").unwrap_err(), "\"a..b@c.de\": invalid local part");
    }

    #[test]
    fn senders_may_be_empty() {
        let parse = |text| sender(text, &home()).map(|path| path.to_string());
        assert_eq!(parse("").as_deref(), Ok(""));
        assert_eq!(parse("<>").as_deref(), Ok(""));
        assert_eq!(parse("<a@b.de>").as_deref(), Ok("a@b.de"));
        assert_eq!(parse("root").as_deref(), Ok("root@web1.test"));
        assert!(parse("a@b.de -X/tmp/x").is_err() && parse("a@b.de> SIZE=1").is_err());
        assert!(parse("Ann <a@b.de>").is_err());
    }

    #[test]
    fn fields_are_written_for_every_reader() {
        let entries = |value: &str| parse(value.as_bytes(), &home()).unwrap().entries;
        let write = |name, value| field(name, &entries(value)).unwrap();
        assert_eq!(
            write("From", "root (Cron Daemon)"),
            "From: \"Cron Daemon\" <root@web1.test>\r\n"
        );
        assert_eq!(write("To", "root, Ann <a@b.de>"), "To: root@web1.test, Ann <a@b.de>\r\n");
        assert_eq!(write("cc", "Jörg <j@x.de>"), "cc: =?utf-8?b?SsO2cmc=?= <j@x.de>\r\n");
        assert_eq!(field("From", &[]), None);
    }

    proptest! {
        #[test]
        fn what_is_found_is_an_address(value: Vec<u8>) {
            if let Ok(list) = parse(&value, &home()) {
                for entry in list.entries {
                    prop_assert_eq!(Mailbox::parse(entry.mailbox.as_str()), Ok(entry.mailbox));
                }
            }
        }

        #[test]
        fn a_written_field_is_one_field(name in "\\PC{0,200}") {
            let mailbox = Mailbox::parse("a@b.de").unwrap();
            let entry = Entry { name: Some(name), mailbox, is_local: false };
            let text = field("From", &[entry]).unwrap();
            prop_assert!(text.is_ascii() && text.ends_with("\r\n"));
            let fields: Vec<_> = crate::mail::header::fields(text.as_bytes()).collect();
            prop_assert_eq!(fields.len(), 1);
            prop_assert_eq!(fields[0].range.end, text.len());
            let back = parse(&text.as_bytes()[5..], &home());
            prop_assert_eq!(&back.unwrap().entries[0].mailbox.to_string(), "a@b.de");
        }
    }
}
