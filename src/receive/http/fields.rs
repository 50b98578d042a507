//! Single fields of a request, checked: nothing in one may end it and begin another.

use super::problem::Problem;
use super::schema::{Address, Named};
use crate::base::address::Mailbox;
use lettre::message::Mailbox as Display;
use lettre::message::header::HeaderName;

/// Fields that are made from others of the request, or by who signs and relays the message.
const OURS: [&str; 12] = [
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "mime-version",
    "received",
    "return-path",
    "dkim-signature",
];
/// Beginnings of such.
const OUR_KINDS: [&str; 3] = ["content-", "resent-", "arc-"];

/// An address, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) mailbox: Mailbox,
    pub(super) name: Option<String>,
}

impl Person {
    /// As the message shows it.
    pub(super) fn display(&self) -> Display {
        let domain = self.mailbox.domain().map(ToString::to_string).unwrap_or_default();
        let address = lettre::Address::new_dangerous(self.mailbox.local_part(), domain);
        Display::new(self.name.clone(), address)
    }
}

/// A text of one line.
pub(super) fn line(field: &str, text: &str) -> Result<(), Problem> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        let problem = Problem::of(field, "holds a line end, a NUL, or another control character");
        return Err(problem.remedy("take it out: this text has to fit into one line"));
    }
    Ok(())
}

/// A text of many lines, with plain line ends.
pub(super) fn lines(field: &str, text: &str) -> Result<String, Problem> {
    if text.contains('\0') {
        return Err(Problem::of(field, "holds a NUL").remedy("take it out"));
    }
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

pub(super) fn mailbox(field: &str, text: &str) -> Result<Mailbox, Problem> {
    line(field, text)?;
    let wrong = |what: String| Problem::of(field, what).remedy("write it as ann@example.com");
    let mailbox = Mailbox::parse(text).map_err(|error| wrong(error.to_string()))?;
    if mailbox.domain().is_none() {
        return Err(wrong("has no domain".to_string()));
    }
    Ok(mailbox)
}

pub(super) fn person(field: &str, address: &Address) -> Result<Person, Problem> {
    let (address, name) = match address {
        Address::Text(text) => match text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
            Some((name, address)) => (address, Some(name.trim().trim_matches('"'))),
            None => (text.as_str(), None),
        },
        Address::Parts(Named { address, name }) => (address.as_str(), name.as_deref()),
    };
    named(field, address, name)
}

pub(super) fn named(field: &str, address: &str, name: Option<&str>) -> Result<Person, Problem> {
    line(field, name.unwrap_or_default())?;
    let name = name.filter(|name| !name.is_empty()).map(str::to_string);
    Ok(Person { mailbox: mailbox(field, address)?, name })
}

pub(super) fn people(field: &str, list: &[Address]) -> Result<Vec<Person>, Problem> {
    let each = |(n, address)| person(&format!("{field}[{n}]"), address);
    list.iter().enumerate().map(each).collect()
}

/// The name of a field that a program may give itself.
pub(super) fn header_name(name: &str) -> Result<HeaderName, Problem> {
    let field = || format!("headers.{}", crate::base::text::printable(name.as_bytes(), 80));
    let is_name = name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    let found = HeaderName::new_from_ascii(name.to_string()).ok().filter(|_| is_name);
    let Some(found) = found else {
        let problem = Problem::of(field(), "is not the name of a header field");
        return Err(problem.remedy("write 1 to 76 ASCII characters without spaces and colons"));
    };
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&lower.as_str()) || OUR_KINDS.iter().any(|kind| lower.starts_with(kind)) {
        let problem = Problem::of(field(), "is a field that the message gets by itself");
        return Err(problem.remedy("use the field of the request that it is made of, or none"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn people_are_read_in_every_form() {
        let text = |text: &str| person("to", &Address::Text(text.to_string()));
        let plain = text("ann@a.test").unwrap();
        assert_eq!((plain.mailbox.as_str(), plain.name), ("ann@a.test", None));
        let named = text("\"Ann B.\" <ann@a.test>").unwrap();
        assert_eq!((named.mailbox.as_str(), named.name.as_deref()), ("ann@a.test", Some("Ann B.")));
        for wrong in ["", "ann", "postmaster", "a@b@c", "<a@b.test", "ann@a.test\r\nBcc: x@y.test"]
        {
            let problem = text(wrong).unwrap_err();
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some("to")), "{wrong:?}");
        }
    }

    #[test]
    fn the_messages_own_fields_cannot_be_given() {
        for name in ["X-Id", "List-Unsubscribe", "References", "Message-ID"] {
            assert!(header_name(name).is_ok(), "{name}");
        }
        for name in ["From", "bCC", "Content-Type", "Resent-To", "", "a b", "a:b", "ä", "a\r\nb"] {
            assert_eq!(header_name(name).unwrap_err().status, 422, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_or_address_has_a_second_line(name in ".*", address in ".*") {
            if let Ok(person) = named("to", &address, Some(&name)) {
                let mut headers = lettre::message::header::Headers::new();
                let all = lettre::message::Mailboxes::new().with(person.display());
                headers.set(lettre::message::header::To::from(all));
                let text = headers.to_string();
                let folded = text.replace("\r\n ", " ");
                prop_assert_eq!(folded.matches(['\r', '\n']).count(), 2, "{:?}", text);
            }
        }
    }
}
