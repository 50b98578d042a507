//! Texts that several keys want in the same form. Every error is a sentence that names the text.

use crate::base::address::{Domain, Mailbox};
use crate::base::network::Networks;
use crate::config::ListenAddress;
use crate::config::value::{Read, Value};
use crate::policy::classify::HeaderRule;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `None` for the machine's own.
pub(super) fn hostname(text: &str) -> Result<Option<Domain>, String> {
    if text.is_empty() { Ok(None) } else { domain(text).map(Some) }
}

pub(super) fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| format!("{text:?} is not a host name: {error}"))
}

pub(super) fn domain_name(text: &str) -> Result<String, String> {
    domain(text).map(|domain| domain.as_str().to_string())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a path"));
    }
    Ok(PathBuf::from(text))
}

/// With a domain.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let mailbox = Mailbox::parse(text).ok().filter(|mailbox| mailbox.domain().is_some());
    mailbox.ok_or_else(|| format!("{text:?} is not an address; write it as oncall@example.net"))
}

/// Of HTTP; empty for none.
pub(super) fn url(text: &str) -> Result<String, String> {
    let has_scheme = text.starts_with("https://") || text.starts_with("http://");
    let is_plain = text.bytes().all(|b| b.is_ascii_graphic());
    if text.is_empty() || (has_scheme && is_plain) {
        return Ok(text.to_string());
    }
    Err(format!("{text:?} is not an address of the web; write it as https://chat.example.net/hook"))
}

/// `None` for none.
pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

pub(super) fn listen_address(text: &str) -> Result<ListenAddress, String> {
    match text.strip_prefix("unix:") {
        Some(file) => path(file).map(ListenAddress::Unix),
        None => socket(text).map(ListenAddress::Tcp),
    }
}

pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address with a port; write it as 127.0.0.1:25 or [::1]:25")
    })
}

/// Of a certificate; the colons may be left out.
pub(super) fn fingerprint(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(digits.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not a SHA-256 fingerprint; write its 64 hexadecimal digits"))
}

/// The SHA-256 of a token, as `bulkhead tenant-token` prints it.
pub(super) fn token_hash(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    // Not shown: it may be the token itself.
    Err("one of `tokens` is not the hash of a token; write the 64 hexadecimal digits that \
         `bulkhead tenant-token` prints"
        .to_string())
}

pub(super) fn tenant_name(text: &str) -> Result<String, String> {
    name(text, "a tenant's", "-_.@")
}

pub(super) fn source_name(text: &str) -> Result<String, String> {
    name(text, "a source's", "-_.")
}

pub(super) fn rule_name(text: &str) -> Result<String, String> {
    name(text, "a rule's", "-_.")
}

/// A name without spaces, for logs.
fn name(text: &str, whose: &str, marks: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || marks.contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        return Ok(text.to_string());
    }
    let marks: Vec<String> = marks.chars().map(String::from).collect();
    let marks = marks.join(" ");
    Err(format!("{text:?} is not {whose} name; write 1 to 64 letters, digits, or {marks}"))
}

/// Names of sources.
pub(super) fn names(value: Value<'_>) -> Read<Vec<String>> {
    value.list("\"mx1\"", |v| v.parsed("\"mx1\"", source_name))
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let wrong = |why: &str| format!("{text:?} {why}; write one of this machine's addresses");
    let address: IpAddr = text.parse().map_err(|_| wrong("is not an address"))?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(wrong("is not an address to send from"));
    }
    Ok(address.to_canonical())
}

pub(super) fn networks(value: Value<'_>) -> Read<Networks> {
    let each = |v: Value<'_>| v.parsed("\"10.0.0.0/8\"", Networks::parse_one);
    value.list("\"10.0.0.0/8\"", each).map(Networks::new)
}

pub(super) fn headers(value: Value<'_>) -> Read<Vec<HeaderRule>> {
    value.list("\"X-Newsletter\"", |v| v.parsed("\"X-Newsletter\"", HeaderRule::parse))
}

pub(super) fn header_name(value: Value<'_>) -> Read<String> {
    value.parsed("\"X-Newsletter\"", |text| match HeaderRule::parse(text)? {
        HeaderRule { name, pattern: None } => Ok(name.to_lowercase()),
        HeaderRule { name, .. } => {
            Err(format!("{text:?} has a pattern; this goes by name, write {name:?}"))
        }
    })
}

pub(super) fn waits(value: Value<'_>) -> Read<Vec<Duration>> {
    let waits = value.list("\"30s\", \"2m\"", |v| v.duration("1s", "1d"))?;
    if waits.is_empty() {
        value.said("is empty; write at least one wait, such as [\"10m\"]")
    } else {
        Ok(waits)
    }
}

/// A level, or `target=level`; several apart by commas.
pub(super) fn level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let fits = |part: &str| {
        let (target, level) = part.rsplit_once('=').unwrap_or(("bulkhead", part));
        let target_fits = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        !target.is_empty() && target.chars().all(target_fits) && LEVELS.contains(&level)
    };
    if text.split(',').all(fits) {
        Ok(text.to_string())
    } else {
        Err(format!("{text:?} is not a level; write one of {}", LEVELS.join(", ")))
    }
}
