//! Whole messages (`message/rfc822`): their envelope from the query or from their own header, their
//! bytes as they came.
//!
//! Only two things are changed: lines that all end in LF alone get CRLF, and `Bcc` is taken out,
//! which readers are not to see (RFC 5322 §3.6.3).

use super::compose::Built;
use super::fields;
use super::problem::Problem;
use crate::base::address::{Mailbox, ReversePath};
use crate::mail::header;
use hyper::StatusCode;
use mail_parser::{Address, HeaderName, HeaderValue, MessageParser};
use memchr::{memchr, memchr_iter};
use std::collections::HashSet;

/// The fields that name recipients.
const READERS: [HeaderName<'static>; 3] = [HeaderName::To, HeaderName::Cc, HeaderName::Bcc];

/// The envelope and the bytes of a message.
pub(super) fn read(query: &str, body: Vec<u8>, recipients: usize) -> Result<Built, Problem> {
    let body = with_crlf(body);
    let section = body.get(..header::header_len(&body)).unwrap_or_default();
    let (mut from, mut to) = (None, Vec::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "from" if from.is_some() => {
                return Err(Problem::of("from", "is there twice").remedy("give it once"));
            }
            "from" if value.is_empty() => from = Some(ReversePath::Null),
            "from" => from = Some(ReversePath::Mailbox(fields::mailbox("from", &value)?)),
            "to" => to.push(fields::mailbox("to", &value)?),
            other => {
                let name = crate::base::text::printable(other.as_bytes(), 80);
                let problem = Problem::new(
                    StatusCode::BAD_REQUEST,
                    format!("{name:?} is no parameter of this request"),
                );
                return Err(problem.remedy("there are from, and to (any number of times)"));
            }
        }
    }
    if to.is_empty() {
        for name in READERS {
            to.extend(addresses(section, name)?);
        }
    }
    let mut seen = HashSet::new();
    to.retain(|mailbox| seen.insert(mailbox.as_str().to_string()));
    if to.is_empty() {
        let problem = Problem::of("to", "is not given, and the message has no To, Cc or Bcc");
        return Err(problem.remedy("give each recipient by a parameter to"));
    }
    if to.len() > recipients {
        let detail = format!("names {} recipients; at most {recipients}", to.len());
        return Err(Problem::of("to", detail).remedy("send the rest in further requests"));
    }
    let reverse_path = match from {
        Some(from) => from,
        None => ReversePath::Mailbox(author(section)?),
    };
    let blind = header::fields(section).filter(|field| field.is("Bcc")).map(|field| field.range);
    let blind: Vec<_> = blind.collect();
    Ok(Built { reverse_path, recipients: to, bytes: without(body, &blind) })
}

/// Who sends it: `Sender`, else the only address of `From` (RFC 5322 §3.6.2).
fn author(section: &[u8]) -> Result<Mailbox, Problem> {
    let mut found = addresses(section, HeaderName::Sender)?;
    if found.is_empty() {
        found = addresses(section, HeaderName::From)?;
    }
    match found.as_slice() {
        [only] => Ok(only.clone()),
        _ => {
            let problem = Problem::of("from", "is not given, and From has not one address");
            Err(problem.remedy("give it by a parameter from"))
        }
    }
}

/// All addresses of the fields of this name.
fn addresses(section: &[u8], name: HeaderName<'static>) -> Result<Vec<Mailbox>, Problem> {
    let parser = MessageParser::new().default_header_ignore().header_address(name.clone());
    let Some(message) = parser.parse_headers(section) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for field in message.headers().iter().filter(|header| header.name == name) {
        let all = match field.value() {
            HeaderValue::Address(Address::List(list)) => list.iter().collect::<Vec<_>>(),
            HeaderValue::Address(Address::Group(groups)) => {
                groups.iter().flat_map(|group| &group.addresses).collect()
            }
            _ => Vec::new(),
        };
        for one in all {
            let text = one.address.as_deref().unwrap_or_default();
            found.push(fields::mailbox(name.as_str(), text)?);
        }
    }
    Ok(found)
}

/// With CRLF, where no line ends in it. What has both is left for the check behind this.
fn with_crlf(body: Vec<u8>) -> Vec<u8> {
    if memchr(b'\r', &body).is_some() {
        return body;
    }
    let mut out = Vec::with_capacity(body.len() + memchr_iter(b'\n', &body).count());
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

fn without(body: Vec<u8>, ranges: &[std::ops::Range<usize>]) -> Vec<u8> {
    if ranges.is_empty() {
        return body;
    }
    let (mut out, mut at) = (Vec::with_capacity(body.len()), 0);
    for range in ranges {
        out.extend_from_slice(body.get(at..range.start).unwrap_or_default());
        at = range.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(query: &str, message: &str) -> Result<(String, Vec<String>, String), Problem> {
        let built = read(query, message.as_bytes().to_vec(), 3)?;
        let to = built.recipients.iter().map(ToString::to_string).collect();
        Ok((built.reverse_path.to_string(), to, String::from_utf8(built.bytes).unwrap()))
    }

    #[test]
    fn the_envelope_is_of_the_query_or_of_the_header() {
        let text = "From: A <a@x.test>\r\nTo: B <b@x.test>, b@x.test\r\nBcc: c@x.test,\r\n \
                    d@x.test\r\nSubject: s\r\n\r\nBcc: body\r\n";
        let rest = "From: A <a@x.test>\r\nTo: B <b@x.test>, b@x.test\r\nSubject: s\r\n\r\nBcc: \
                    body\r\n";
        let (from, to, bytes) = envelope("", text).unwrap();
        assert_eq!(
            (from.as_str(), to.join(" ")),
            ("a@x.test", "b@x.test c@x.test d@x.test".into())
        );
        assert_eq!(bytes, rest);
        let (from, to, _) = envelope("from=&to=e%2Bx%40x.test&to=f@x.test", text).unwrap();
        assert_eq!((from.as_str(), to.join(" ")), ("", "e+x@x.test f@x.test".into()));
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let one = "From: a@x.test\r\nTo: b@x.test\r\n\r\n";
        for (query, text, field) in [
            ("", "From: a@x.test, b@x.test\r\nTo: c@x.test\r\n\r\n", Some("from")),
            ("", "From: a@x.test\r\n\r\n", Some("to")),
            ("", "From: a@x.test\r\nTo: nobody\r\n\r\n", Some("To")),
            ("to=a%0d%0aRCPT", one, Some("to")),
            ("from=a@x.test&from=b@x.test", one, Some("from")),
            ("to=a@x.test&to=b@x.test&to=c@x.test&to=d@x.test", one, Some("to")),
            ("bcc=x@x.test", one, None),
        ] {
            assert_eq!(
                envelope(query, text).unwrap_err().field.as_deref(),
                field,
                "{query} {text}"
            );
        }
    }

    #[test]
    fn lines_that_end_in_lf_alone_get_crlf_and_others_stay() {
        assert_eq!(with_crlf(b"a\n\nb".to_vec()), b"a\r\n\r\nb");
        assert_eq!(with_crlf(b"a\r\nb\n".to_vec()), b"a\r\nb\n");
    }
}
