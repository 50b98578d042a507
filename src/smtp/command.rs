//! Commands of a client (RFC 5321 §4.1 and extensions), parsed from one line, paths kept as they
//! were spelt.
//!
//! # Invariants
//! * A line with a control character or invalid UTF-8 is no command.
//! * An address is parsed in one way only (`base::address`); what follows it must be parameters.

use super::proxied::{self, Proxied};
use super::reply::EnhancedCode;
use crate::base::address::{AddressError, Domain, Mailbox, PATH_MAX, ReversePath};
use crate::mail::envelope::{BodyType, Notify, Recipient, Ret};
use std::fmt;

/// Longest command line, with its CRLF. RFC 5321 §4.5.3.1.4 has 512 and extensions add to it.
pub const COMMAND_MAX: usize = 4_096;
/// More parameters than a command has.
const PARAMETERS_MAX: usize = 8;
/// Longest `ENVID` (RFC 3461 §4.4).
const ENVID_MAX: usize = 100;
/// Longest `ORCPT` (RFC 3461 §4.2).
const ORCPT_MAX: usize = 500;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `EHLO name`
    Ehlo(String),
    /// `HELO name`
    Helo(String),
    /// `MAIL FROM:<…> …`
    Mail(Mail),
    /// `RCPT TO:<…> …`
    Rcpt(Recipient),
    /// `DATA`
    Data,
    /// `BDAT size [LAST]` (RFC 3030 §2)
    Bdat {
        /// Bytes that follow.
        size: u64,
        /// No more chunks.
        last: bool,
    },
    /// `RSET`
    Rset,
    /// `NOOP`
    Noop,
    /// `VRFY …`
    Vrfy,
    /// `HELP`
    Help,
    /// `QUIT`
    Quit,
    /// `AUTH mechanism [initial-response]` (RFC 4954 §4)
    Auth {
        /// As it was written.
        mechanism: String,
        /// In base64, or `=`.
        initial: Option<String>,
    },
    /// `STARTTLS` (RFC 3207)
    StartTls,
    /// `XCLIENT …`
    Xclient(Proxied),
    /// `XFORWARD …`
    Xforward(Proxied),
    /// A command that SMTP knows and this server does not do.
    NotDone,
    /// A request line of another protocol: somebody has a client of HTTP talk to us.
    OtherProtocol,
}

/// The arguments of MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// `<>` or a mailbox.
    pub reverse_path: ReversePath,
    /// `SIZE=` (RFC 1870)
    pub size: Option<u64>,
    /// `BODY=`
    pub body: BodyType,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `RET=`
    pub ret: Option<Ret>,
    /// `ENVID=`, in xtext.
    pub envid: Option<String>,
}

/// Why a line is no command: what to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reply code.
    pub code: u16,
    /// Enhanced code.
    pub enhanced: EnhancedCode,
    /// For people; holds nothing of what the client said.
    pub text: String,
}

impl Refusal {
    /// An answer.
    #[must_use]
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<String>) -> Self {
        Self { code, enhanced: EnhancedCode(enhanced.0, enhanced.1, enhanced.2), text: text.into() }
    }

    /// There is no space for the message.
    #[must_use]
    pub fn full() -> Self {
        Self::new(452, (4, 3, 1), "Queue is full, try again later")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.code, self.enhanced, self.text)
    }
}

pub(super) fn syntax(text: &str) -> Refusal {
    Refusal::new(501, (5, 5, 4), text)
}

/// Parses a line without its CRLF.
///
/// # Errors
/// What to answer.
pub fn parse(line: &[u8]) -> Result<Command, Refusal> {
    let text = std::str::from_utf8(line).ok().filter(|text| !text.chars().any(char::is_control));
    let text =
        text.ok_or_else(|| Refusal::new(500, (5, 5, 2), "Control character or invalid UTF-8"))?;
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => name(rest).map(Command::Ehlo),
        "HELO" => name(rest).map(Command::Helo),
        "MAIL" => mail(rest).map(Command::Mail),
        "RCPT" => rcpt(rest).map(Command::Rcpt),
        "DATA" => alone(rest, Command::Data),
        "BDAT" => bdat(rest),
        "RSET" => alone(rest, Command::Rset),
        "QUIT" => alone(rest, Command::Quit),
        "NOOP" => Ok(Command::Noop),
        "VRFY" => Ok(Command::Vrfy),
        "HELP" => Ok(Command::Help),
        "STARTTLS" => alone(rest, Command::StartTls),
        "XCLIENT" => proxied::parse(rest).map(Command::Xclient),
        "XFORWARD" => proxied::parse(rest).map(Command::Xforward),
        "AUTH" => auth(rest),
        "EXPN" | "ETRN" | "TURN" | "ATRN" | "SEND" | "SOML" | "SAML" => Ok(Command::NotDone),
        "GET" | "POST" | "PUT" | "HEAD" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH"
        | "PRI" => Ok(Command::OtherProtocol),
        _ => Err(Refusal::new(500, (5, 5, 2), "Command not recognised")),
    }
}

fn alone(rest: &str, command: Command) -> Result<Command, Refusal> {
    if rest.trim().is_empty() {
        Ok(command)
    } else {
        Err(syntax("This command takes no arguments"))
    }
}

/// The name in EHLO or HELO: anything printable, since many clients have no good one.
fn name(rest: &str) -> Result<String, Refusal> {
    let name = rest.trim();
    if name.is_empty() || name.len() > 255 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(syntax("Your host name is missing or not printable ASCII"));
    }
    Ok(name.to_string())
}

fn auth(rest: &str) -> Result<Command, Refusal> {
    let mut words = rest.split_ascii_whitespace().map(str::to_string);
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
        _ => Err(syntax("Write AUTH mechanism, or AUTH mechanism initial-response")),
    }
}

fn bdat(rest: &str) -> Result<Command, Refusal> {
    let mut words = rest.split_ascii_whitespace();
    let size = words.next().and_then(number).ok_or_else(|| syntax("BDAT takes a size in bytes"))?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(syntax("Only LAST may follow the size")),
    };
    if words.next().is_some() {
        return Err(syntax("Nothing may follow LAST"));
    }
    Ok(Command::Bdat { size, last })
}

/// Decimal digits alone: no sign, no blank.
fn number(text: &str) -> Option<u64> {
    if text.len() > 20 || !is_digits(text) {
        return None;
    }
    text.parse().ok()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A size has up to 20 digits (RFC 1870 §4); the largest ones are beyond any limit alike.
fn message_size(text: &str) -> Option<u64> {
    number(text).or_else(|| (text.len() == 20 && is_digits(text)).then_some(u64::MAX))
}

fn mail(rest: &str) -> Result<Mail, Refusal> {
    let (path, parameters) = path(rest, "FROM:", "MAIL FROM:<address>")?;
    let reverse_path = ReversePath::parse(path)
        .and_then(|path| named(path.domain()).map(|()| path))
        .map_err(|error| bad_address(error, EnhancedCode(5, 1, 7)))?;
    let mut mail = Mail {
        reverse_path,
        size: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    for (keyword, value) in self::parameters(parameters)? {
        match (keyword.as_str(), value) {
            ("SIZE", Some(value)) => {
                mail.size =
                    Some(message_size(value).ok_or_else(|| syntax("SIZE is not a number"))?);
            }
            ("BODY", Some(value)) => {
                mail.body = match value.to_ascii_uppercase().as_str() {
                    "7BIT" => BodyType::SevenBit,
                    "8BITMIME" => BodyType::EightBitMime,
                    _ => return Err(syntax("BODY is neither 7BIT nor 8BITMIME")),
                }
            }
            ("SMTPUTF8", None) => mail.smtputf8 = true,
            ("RET", Some(value)) => {
                mail.ret = Some(match value.to_ascii_uppercase().as_str() {
                    "FULL" => Ret::Full,
                    "HDRS" => Ret::Headers,
                    _ => return Err(syntax("RET is neither FULL nor HDRS")),
                });
            }
            ("ENVID", Some(value)) if is_xtext(value) && value.len() <= ENVID_MAX => {
                mail.envid = Some(value.to_string());
            }
            // Who first sent it is not believed, and not told on (RFC 4954 §5).
            ("AUTH", Some(value)) if value == "<>" || is_xtext(value) => {}
            ("AUTH", Some(_)) => return Err(syntax("AUTH is neither <> nor xtext")),
            ("ENVID", Some(_)) => return Err(syntax("ENVID is not xtext of at most 100 bytes")),
            _ => return Err(unknown_parameter()),
        }
    }
    Ok(mail)
}

fn rcpt(rest: &str) -> Result<Recipient, Refusal> {
    let (path, parameters) = path(rest, "TO:", "RCPT TO:<address>")?;
    let mailbox = Mailbox::parse(path)
        .and_then(|mailbox| named(mailbox.domain()).map(|()| mailbox))
        .map_err(|error| bad_address(error, EnhancedCode(5, 1, 3)))?;
    let mut recipient = Recipient::new(mailbox);
    for (keyword, value) in self::parameters(parameters)? {
        match (keyword.as_str(), value) {
            ("NOTIFY", Some(value)) => recipient.notify = Some(notify(value)?),
            ("ORCPT", Some(value)) if is_orcpt(value) => recipient.orcpt = Some(value.to_string()),
            ("ORCPT", Some(_)) => {
                return Err(syntax("ORCPT is not type;xtext of at most 500 bytes"));
            }
            _ => return Err(unknown_parameter()),
        }
    }
    Ok(recipient)
}

/// No top-level domain is all digits (RFC 3696 §2): what looks so is an IPv4 address without its
/// brackets, or a part of one, and no receiver has it.
fn named(domain: Option<&Domain>) -> Result<(), AddressError> {
    match domain.and_then(|domain| domain.as_str().rsplit('.').next()) {
        Some(last) if is_digits(last) => Err(AddressError::InvalidDomain),
        _ => Ok(()),
    }
}

fn unknown_parameter() -> Refusal {
    Refusal::new(555, (5, 5, 4), "Parameter not recognised or not implemented")
}

fn bad_address(error: AddressError, enhanced: EnhancedCode) -> Refusal {
    Refusal { code: 501, enhanced, text: format!("Bad address: {error}") }
}

/// Each `keyword=value`, or keyword alone; keywords in upper case. What is given twice could be
/// understood in two ways.
fn parameters(text: &str) -> Result<Vec<(String, Option<&str>)>, Refusal> {
    let mut all: Vec<(String, Option<&str>)> = Vec::new();
    for parameter in text.split_ascii_whitespace() {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value)),
            None => (parameter.to_ascii_uppercase(), None),
        };
        if all.iter().any(|(known, _)| *known == keyword) {
            return Err(syntax("A parameter is given twice"));
        }
        if all.len() == PARAMETERS_MAX {
            return Err(unknown_parameter());
        }
        all.push((keyword, value));
    }
    Ok(all)
}

/// `NEVER`, or some of `SUCCESS`, `FAILURE`, `DELAY` (RFC 3461 §4.1).
fn notify(value: &str) -> Result<Notify, Refusal> {
    let wrong = || syntax("NOTIFY is NEVER, or a list of SUCCESS, FAILURE, DELAY");
    let mut notify = Notify::default();
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(notify);
    }
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => return Err(wrong()),
        }
    }
    Ok(notify)
}

/// `addr-type;xtext`, where the address of type utf-8 may be UTF-8 (RFC 6533 §3).
fn is_orcpt(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let utf8 = kind.eq_ignore_ascii_case("utf-8") && !address.chars().any(char::is_whitespace);
    value.len() <= ORCPT_MAX && atom && !address.is_empty() && (utf8 || is_xtext(address))
}

/// RFC 3461 §4: printable ASCII without `+` and `=`, or `+` and two upper-case hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let mut bytes = value.bytes();
    let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    while let Some(byte) = bytes.next() {
        let ok = match byte {
            b'+' => hex(bytes.next()) && hex(bytes.next()),
            b'=' => false,
            _ => byte.is_ascii_graphic(),
        };
        if !ok {
            return false;
        }
    }
    !value.is_empty()
}

/// The inside of the angle brackets behind `FROM:` or `TO:`, and what follows them. A source route
/// is dropped (RFC 5321 §4.1.1.3, appendix C).
fn path<'a>(rest: &'a str, keyword: &str, usage: &str) -> Result<(&'a str, &'a str), Refusal> {
    let wrong = || syntax(&format!("Write {usage}"));
    let (head, tail) = rest.trim_start().split_at_checked(keyword.len()).ok_or_else(wrong)?;
    if !head.eq_ignore_ascii_case(keyword) {
        return Err(wrong());
    }
    let inner = tail.trim_start().strip_prefix('<').ok_or_else(wrong)?;
    let end = path_end(inner).ok_or_else(wrong)?;
    let (path, after) = inner.split_at(end);
    let parameters = after.strip_prefix('>').unwrap_or_default();
    if path.len() > PATH_MAX * 2 || !(parameters.is_empty() || parameters.starts_with(' ')) {
        return Err(wrong());
    }
    let path = match path.strip_prefix('@') {
        Some(route) => after_route(route).ok_or_else(wrong)?,
        None => path,
    };
    Ok((path, parameters))
}

/// The mailbox behind a source route, which is left out (RFC 5321 §4.1.2, appendix C): `route` is
/// what follows its first `@`.
fn after_route(route: &str) -> Option<&str> {
    let (hosts, mailbox) = route.split_once(':')?;
    let mut hosts = hosts.split(",@");
    let sound = hosts.all(|host| Domain::parse(host).is_ok()) && !mailbox.is_empty();
    sound.then_some(mailbox)
}

/// The `>` that ends a path: not one in a quoted local part.
fn path_end(inner: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recipient(line: &str) -> Result<String, (u16, String)> {
        match parse(line.as_bytes()) {
            Ok(Command::Rcpt(recipient)) => Ok(recipient.mailbox.to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err((refusal.code, refusal.enhanced.to_string())),
        }
    }

    #[test]
    fn keeps_addresses_as_they_were_spelt() {
        for (line, address) in [
            ("RCPT TO:<ann@example.com>", "ann@example.com"),
            ("rcpt to: <Ann@Example.COM> ", "Ann@Example.COM"),
            ("RCPT TO:<postmaster>", "postmaster"),
            ("RCPT TO:<\"a b\\\">\"@example.com>", "\"a b\\\">\"@example.com"),
            ("RCPT TO:<@a.test,@b.test:ann@example.com>", "ann@example.com"),
            ("RCPT TO:<ann@[192.0.2.1]>", "ann@[192.0.2.1]"),
            ("RCPT TO:<jörg@example.com> NOTIFY=NEVER", "jörg@example.com"),
        ] {
            assert_eq!(recipient(line).as_deref(), Ok(address), "{line}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_an_address() {
        let code = |code: u16, enhanced: &str| Err((code, enhanced.to_string()));
        for (line, answer) in [
            ("RCPT TO:ann@example.com", code(501, "5.5.4")),
            ("RCPT TO:<ann@example.com", code(501, "5.5.4")),
            ("RCPT <ann@example.com>", code(501, "5.5.4")),
            ("RCPT TO:<ann>", code(501, "5.1.3")),
            ("RCPT TO:<>", code(501, "5.1.3")),
            ("RCPT TO:<ann@example.com.>", code(501, "5.1.3")),
            ("RCPT TO:<ann@x@example.com>", code(501, "5.1.3")),
            ("RCPT TO:<ann@192.0.2.1>", code(501, "5.1.3")),
            ("RCPT TO:<ann@example.com>x", code(501, "5.5.4")),
            ("RCPT TO:<ann@example.com> FOO=1", code(555, "5.5.4")),
            ("RCPT TO:<ann@exam\u{1b}ple.com>", code(500, "5.5.2")),
            ("RCPT TO:<ann\0@example.com>", code(500, "5.5.2")),
        ] {
            assert_eq!(recipient(line), answer, "{line:?}");
        }
        assert_eq!(parse(b"RCPT TO:<\xff@example.com>").unwrap_err().code, 500);
    }

    #[test]
    fn reads_all_parameters() {
        let Ok(Command::Mail(mail)) =
            parse(b"MAIL FROM:<> SIZE=100 body=8bitmime SMTPUTF8 RET=HDRS ENVID=QQ+2B1")
        else {
            panic!("MAIL");
        };
        assert_eq!(mail.reverse_path, ReversePath::Null);
        assert_eq!(
            (mail.size, mail.body, mail.smtputf8),
            (Some(100), BodyType::EightBitMime, true)
        );
        assert_eq!((mail.ret, mail.envid.as_deref()), (Some(Ret::Headers), Some("QQ+2B1")));
        let Ok(Command::Rcpt(rcpt)) =
            parse(b"RCPT TO:<a@b.test> NOTIFY=success,DELAY ORCPT=rfc822;a+2Bx@b.test")
        else {
            panic!("RCPT");
        };
        assert_eq!(rcpt.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!(rcpt.orcpt.as_deref(), Some("rfc822;a+2Bx@b.test"));
        for bad in [
            "MAIL FROM:<> SIZE=-1",
            "MAIL FROM:<> SIZE",
            "MAIL FROM:<> BODY=BINARYMIME",
            "MAIL FROM:<> RET=NONE",
            "MAIL FROM:<> ENVID=a=b",
            "MAIL FROM:<> ENVID=+2b",
            "RCPT TO:<a@b.test> NOTIFY=NEVER,SUCCESS",
            "RCPT TO:<a@b.test> NOTIFY=",
            "RCPT TO:<a@b.test> ORCPT=a@b.test",
            "MAIL FROM:<a@b.test> AUTH=a+b",
            "MAIL FROM:<a@b.test> AUTH",
            "MAIL FROM:<> SIZE=1 size=2",
            "MAIL FROM:<@a.test:>",
            "RCPT TO:<@junk junk,,,:a@b.test>",
            "RCPT TO:<@a.test,b.test:a@b.test>",
            "RCPT TO:<a@b.test> NOTIFY=NEVER NOTIFY=FAILURE",
            "RCPT TO:<a@b.test> A B C D E F G H I J",
        ] {
            let code = parse(bad.as_bytes()).unwrap_err().code;
            assert!(code == 501 || code == 555, "{bad}: {code}");
        }
    }

    #[test]
    fn knows_the_verbs() {
        for (line, command) in [
            ("ehlo web1", Ok(Command::Ehlo("web1".into()))),
            ("HELO [10.0.0.1]", Ok(Command::Helo("[10.0.0.1]".into()))),
            ("DATA", Ok(Command::Data)),
            ("BDAT 86 last", Ok(Command::Bdat { size: 86, last: true })),
            ("BDAT 0", Ok(Command::Bdat { size: 0, last: false })),
            ("NOOP whatever", Ok(Command::Noop)),
            ("quit", Ok(Command::Quit)),
            ("STARTTLS", Ok(Command::StartTls)),
            ("STARTTLS now", Err(501)),
            ("AUTH", Err(501)),
            ("AUTH PLAIN a b", Err(501)),
            (
                "auth plain =",
                Ok(Command::Auth { mechanism: "plain".into(), initial: Some("=".into()) }),
            ),
            ("TURN", Ok(Command::NotDone)),
            ("GET / HTTP/1.1", Ok(Command::OtherProtocol)),
            ("DATA now", Err(501)),
            ("EHLO", Err(501)),
            ("BDAT x", Err(501)),
            ("BDAT 1 LAST x", Err(501)),
            ("", Err(500)),
            ("MAILFROM:<a@b>", Err(500)),
        ] {
            assert_eq!(parse(line.as_bytes()).map_err(|r| r.code), command, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line: Vec<u8>) {
            _ = parse(&line);
        }

        #[test]
        fn nothing_that_looks_like_a_command_makes_it_panic(
            path in "(MAIL FROM|RCPT TO):?<?[\"\\\\<>@:,a. ]{0,12}>?",
            parameter in " ?(SIZE|NOTIFY|ORCPT|ENVID)?=?[a-z;+0-9]{0,5}",
        ) {
            _ = parse(format!("{path}{parameter}").as_bytes());
        }

        /// Where smtp-proto has no known trap (quotes, literals, bare postmaster), both read the
        /// same addresses.
        #[test]
        fn agrees_with_another_parser(
            local in "[a-z0-9.+-]{1,12}",
            domain in "[a-z0-9-]{1,8}(\\.[a-z0-9-]{1,8}){0,2}",
        ) {
            let line = format!("RCPT TO:<{local}@{domain}>");
            let wire = format!("{line}\r\n");
            let theirs = smtp_proto::Request::parse(&mut wire.as_bytes().iter());
            if let Ok(ours) = recipient(&line) {
                let smtp_proto::Request::Rcpt { to } = theirs.unwrap() else { panic!("RCPT") };
                prop_assert_eq!(to.address, ours);
            }
        }
    }
}
