//! Who a message says it is from: the domains of its `From` fields (RFC 5322 §3.6.2).

use crate::base::address::Domain;
use crate::mail::header;
use mail_parser::{Address, HeaderName, HeaderValue, MessageParser};

/// The domains of all addresses in all `From` fields of a header section; none where there is no
/// such field. `None`: one of the addresses cannot be read, or a field has none (an empty group,
/// whose name may look like one), and who reads it in his own way may find anybody there.
#[must_use]
pub fn domains(header: &[u8]) -> Option<Vec<Domain>> {
    let parser = MessageParser::new().default_header_ignore().header_address(HeaderName::From);
    // Where fields begin and end is for us to say: a line of blanks, which the library takes for
    // the end of the section, goes on with the field before it for most readers. Where the section
    // begins with such a line, that is the trace field in front of it.
    let section = [b"X:\r\n", header].concat();
    let mut domains = Vec::new();
    for field in header::fields(&section).filter(|field| field.is("From")) {
        let lines = section.get(field.range).unwrap_or_default().iter();
        let mut line: Vec<u8> = lines.filter(|b| !matches!(b, b'\r' | b'\n')).copied().collect();
        line.extend_from_slice(b"\r\n\r\n");
        let message = parser.parse_headers(&line)?;
        let HeaderValue::Address(address) = message.headers().first()?.value() else { return None };
        let before = domains.len();
        for mailbox in address_list(address) {
            let (_, domain) = mailbox?.rsplit_once('@')?;
            domains.push(Domain::parse(domain).ok()?);
        }
        if domains.len() == before {
            return None;
        }
    }
    Some(domains)
}

fn address_list<'a>(address: &'a Address<'a>) -> impl Iterator<Item = Option<&'a str>> {
    address.iter().map(|mailbox| mailbox.address.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_blanks_and_lines_that_are_no_fields_hide_nobody() {
        for begin in ["", " \r\n", "X: y\r\n:\r\n \r\n", "words\r\n\t\r\n", "X: (\r\n \r\n"] {
            let header = format!("{begin}From: a@one.test,\r\n \r\n b@two.test\r\n\r\n");
            let found = domains(header.as_bytes()).unwrap();
            let found: Vec<&str> = found.iter().map(Domain::as_str).collect();
            assert_eq!(found, ["one.test", "two.test"], "{header:?}");
        }
    }

    #[test]
    fn reads_every_address_of_every_field() {
        let read = |header: &str| {
            let domains = domains(format!("Subject: x\r\n{header}\r\n\r\n").as_bytes())?;
            Some(domains.iter().map(|d| d.as_str().to_string()).collect::<Vec<_>>().join(","))
        };
        for (header, want) in [
            ("From: ann@shop.test", Some("shop.test")),
            ("FROM: \"b@evil.test\" <ann@Shop.test>", Some("shop.test")),
            ("From: =?utf-8?q?b=40evil=2Etest?= <ann@shop.test>", Some("shop.test")),
            (
                "From: a@one.test, B <b@two.test>\r\nFrom: c@three.test",
                Some("one.test,two.test,three.test"),
            ),
            ("From: Friends: a@one.test, b@two.test;", Some("one.test,two.test")),
            ("From:\r\n  ann\r\n  <ann@shop.test>", Some("shop.test")),
            ("X-From: ann@shop.test", Some("")),
            ("From: ann", None),
            ("From: <ann@shop..test>", None),
            ("From: ann@shop.test, victim", None),
            ("From: victim@evil.test:;", None),
            ("From: ann@shop.test\r\nFrom: Friends:;", None),
        ] {
            assert_eq!(read(header).as_deref(), want, "{header}");
        }
    }
}
