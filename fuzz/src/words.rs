//! What others say of a message or a client: balancers, proxies, header sections, bodies.

use bulkhead::base::address::Domain;
use bulkhead::mail::header::{self, header_len};
use bulkhead::net::balancer::{self, HEADER_MAX};
use bulkhead::policy::author;
use bulkhead::policy::sense::shape;
use bulkhead::smtp::command::{self, Command};
use std::slice;

/// A header of the PROXY protocol ends where it ends, however it comes, and what follows it changes
/// nothing.
pub fn balancer(data: &[u8]) {
    let whole = balancer::header(data);
    for end in 0..data.len() {
        let part = balancer::header(&data[..end]);
        match whole {
            Ok(Some(header)) if end >= header.len => assert_eq!(part, whole),
            Ok(_) => assert_eq!(part, Ok(None), "{end} bytes of it"),
            Err(_) => assert!(!matches!(part, Ok(Some(_)))),
        }
    }
    match whole {
        Ok(Some(header)) => {
            assert!((15..=HEADER_MAX.min(data.len())).contains(&header.len));
            assert!(header.client.is_none_or(|client| client == client.to_canonical()));
        }
        Ok(None) => assert!(data.len() < HEADER_MAX),
        Err(_) => {}
    }
}

/// Attributes are understood alike for both commands, values in xtext as without it; what comes of
/// them is printable.
pub fn proxied(data: &[u8]) {
    let parse = |verb: &[u8], rest: &[u8]| match command::parse(&[verb, b" ", rest].concat()) {
        Ok(Command::Xclient(proxied) | Command::Xforward(proxied)) => Some(proxied),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => {
            assert!(matches!(refusal.code, 500 | 501));
            None
        }
    };
    let read = parse(b"XCLIENT", data);
    assert_eq!(parse(b"xforward", data), read);
    let Some(read) = read else { return };
    let mut words = Vec::new();
    if let Some(address) = read.address {
        assert_eq!(address, address.to_canonical());
        words.push(format!("ADDR={}{address}", if address.is_ipv6() { "IPV6:" } else { "" }));
    }
    for (name, value) in [("HELO", &read.helo), ("LOGIN", &read.login)] {
        let Some(value) = value else { continue };
        assert!((1..=255).contains(&value.len()));
        assert!(!value.contains(|c: char| c.is_control() || c.is_whitespace()), "{value:?}");
        let xtext: String = value.bytes().map(|byte| format!("+{byte:02X}")).collect();
        words.push(format!("{name}={xtext}"));
    }
    assert_eq!(parse(b"XCLIENT", words.join(" ").as_bytes()), Some(read), "{words:?}");
}

/// No From is overlooked: each one names a domain, or nobody is believed; and one more in front of
/// the others hides none of them.
pub fn author(data: &[u8]) {
    // With other ends of lines no message comes in.
    let data: Vec<u8> = data
        .iter()
        .filter(|b| !matches!(b, b'\r' | 0))
        .flat_map(|b| if *b == b'\n' { b"\r\n" } else { slice::from_ref(b) })
        .copied()
        .collect();
    let section = &data[..header_len(&data)];
    let Some(found) = author::domains(section) else { return };
    for domain in &found {
        assert_eq!(Domain::parse(domain.as_str()).as_ref(), Ok(domain), "in its own form");
    }
    let fields = header::fields(section).filter(|field| field.is("From")).count();
    assert!(fields <= found.len(), "{fields} fields, {found:?}");
    let starts_with_field = header::fields(section).next().is_some_and(|f| f.range.start == 0);
    if starts_with_field {
        let more = [b"From: one@more.test\r\n", section].concat();
        let more = author::domains(&more).expect("as readable as before");
        assert!(more.iter().any(|domain| domain.as_str() == "more.test"), "{more:?}");
        assert!(found.iter().all(|domain| more.contains(domain)), "{more:?}");
    }
}

/// Any message has a shape, the same for the same message, like itself; and its subject can be
/// shown.
pub fn shape(data: &[u8]) {
    let (header, body) = data.split_at(header_len(data));
    let made = shape::of(header, body, "a@b.test");
    assert_eq!(shape::of(header, body, "z@b.test"), made);
    assert!(made.is_like(&made));
    assert!(made.subject.chars().count() <= 61);
    assert!(!made.subject.contains(|c: char| c.is_control()), "{:?}", made.subject);
    let long = [body, &b" and so on"[..]].concat();
    let cut = shape::of(header, &[&long[..], &b"word ".repeat(4_000)].concat(), "a@b.test");
    let longer = shape::of(header, &[&long[..], &b"word ".repeat(8_000)].concat(), "a@b.test");
    assert_eq!(cut, longer, "what is looked at is bounded");
}
