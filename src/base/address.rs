//! Mail addresses as they travel in the envelope (RFC 5321 §4.1.2, RFC 6531 §3.3).
//!
//! Parsed in one way only, kept in the sender's spelling: a local part is never rewritten, a domain
//! is compared in lower case.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Longest local part in bytes (RFC 5321 §4.5.3.1.1).
pub const LOCAL_PART_MAX: usize = 64;
/// Longest domain in bytes (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// Longest path in bytes, with its angle brackets (RFC 5321 §4.5.3.1.3).
pub const PATH_MAX: usize = 256;

/// A domain name (lower case, without a final dot; U-labels allowed) or an address literal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses `example.com`, `münchen.example` or `[192.0.2.1]`, `[IPv6:2001:db8::1]`.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > DOMAIN_MAX {
            return Err(AddressError::DomainTooLong);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let literal = inner.strip_suffix(']').ok_or(AddressError::InvalidLiteral)?;
            let ip = parse_literal(literal).ok_or(AddressError::InvalidLiteral)?;
            return Ok(Self(match ip {
                IpAddr::V4(v4) => format!("[{v4}]").into(),
                IpAddr::V6(v6) => format!("[IPv6:{v6}]").into(),
            }));
        }
        // Measured in lower case, which may be longer, so that every domain parses again.
        let lower = text.to_lowercase();
        if lower.len() > DOMAIN_MAX {
            return Err(AddressError::DomainTooLong);
        }
        if lower.is_empty() || !lower.split('.').all(is_label) {
            return Err(AddressError::InvalidDomain);
        }
        Ok(Self(lower.into()))
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address behind an address literal.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        parse_literal(self.0.strip_prefix('[')?.strip_suffix(']')?)
    }

    /// The part under which the domain was registered (`example.co.uk` of `a.b.example.co.uk`), by
    /// the public suffix list; the domain itself where that list has no answer.
    #[must_use]
    pub fn organisational(&self) -> Self {
        match psl::domain_str(&self.0) {
            Some(found) if self.literal().is_none() => Self(found.into()),
            _ => self.clone(),
        }
    }
}

/// True where `host` is `suffix` or a name below it; both in lower case.
#[must_use]
pub fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 5321 sub-domain, plus `_` (in use) and any non-ASCII character (RFC 6531 U-label).
fn is_label(label: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || is_wide(c);
    !label.is_empty()
        && label.len() <= 63
        && label.chars().all(ok)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A character that RFC 6531 allows beyond ASCII.
fn is_wide(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

fn parse_literal(text: &str) -> Option<IpAddr> {
    match text.split_at_checked(5) {
        Some((tag, v6)) if tag.eq_ignore_ascii_case("ipv6:") => {
            v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// A recipient or sender address: `local-part@domain`, or `postmaster` alone (RFC 5321 §4.1.1.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox {
    text: Arc<str>,
    /// Where the `@` stands; `None` for a bare `postmaster`.
    at: Option<u16>,
    domain: Option<Domain>,
}

impl Mailbox {
    /// Parses the inside of a path's angle brackets (a source route is not accepted here).
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > PATH_MAX - 2 {
            return Err(AddressError::PathTooLong);
        }
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self { text: text.into(), at: None, domain: None });
        }
        let at = local_part_end(text)?;
        let (local, rest) = text.split_at(at);
        if local.len() > LOCAL_PART_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        let domain = Domain::parse(rest.strip_prefix('@').ok_or(AddressError::NoDomain)?)?;
        Ok(Self { text: text.into(), at: u16::try_from(at).ok(), domain: Some(domain) })
    }

    /// As the client spelt it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Before the `@`, quotes kept.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.at.and_then(|at| self.text.get(..usize::from(at))).unwrap_or(&self.text)
    }

    /// After the `@`; `None` for a bare `postmaster`.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// This mailbox with a domain put to a bare `postmaster`.
    #[must_use]
    pub fn or_at(self, domain: &Domain) -> Self {
        if self.domain.is_some() {
            return self;
        }
        let at = u16::try_from(self.text.len()).ok();
        Self { text: format!("{}@{domain}", self.text).into(), at, domain: Some(domain.clone()) }
    }

    /// True where the address needs SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn is_utf8(&self) -> bool {
        !self.text.is_ascii()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// Length of the local part: a dot-string or a quoted string (RFC 5321 §4.1.2).
fn local_part_end(text: &str) -> Result<usize, AddressError> {
    let end = if text.starts_with('"') {
        quoted_string_end(text).ok_or(AddressError::InvalidLocalPart)?
    } else {
        text.find('@').ok_or(AddressError::NoDomain)?
    };
    let local = &text[..end];
    let atom = |part: &str| !part.is_empty() && part.chars().all(is_atext);
    if local.starts_with('"') || local.split('.').all(atom) {
        Ok(end)
    } else {
        Err(AddressError::InvalidLocalPart)
    }
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_wide(c)
}

fn quoted_string_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        let printable = (' '..='~').contains(&c) || (!c.is_ascii() && !c.is_control());
        match c {
            _ if !printable => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// Where bounces go: a mailbox, or nowhere (`<>`, RFC 5321 §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReversePath {
    /// `<>`: a notification itself; never answered with another.
    Null,
    /// Failures are reported to this mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Parses what stands between the angle brackets; empty is the null reverse-path.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { Mailbox::parse(text).map(Self::Mailbox) }
    }

    /// Without angle brackets; empty for the null reverse-path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.mailbox().map_or("", Mailbox::as_str)
    }

    /// The mailbox, if there is one.
    #[must_use]
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// The domain of the mailbox, if there is one.
    #[must_use]
    pub fn domain(&self) -> Option<&Domain> {
        self.mailbox().and_then(Mailbox::domain)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `@domain`.
    #[error("address has no domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("invalid local part")]
    InvalidLocalPart,
    /// More than 64 bytes before the `@`.
    #[error("local part longer than 64 bytes")]
    LocalPartTooLong,
    /// Not a host name.
    #[error("invalid domain")]
    InvalidDomain,
    /// More than 255 bytes after the `@`.
    #[error("domain longer than 255 bytes")]
    DomainTooLong,
    /// `[…]` without an IPv4 address or `IPv6:` and an IPv6 address.
    #[error("invalid address literal")]
    InvalidLiteral,
    /// More than 254 bytes in all.
    #[error("address longer than 254 bytes")]
    PathTooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_spelling_of_what_it_accepts() {
        for text in [
            "ann@example.com",
            "A.b+c@Example.COM",
            "\"a b\"@example.com",
            "\"a\\\"@b\"@example.com",
            "x@[192.0.2.1]",
            "x@[IPv6:2001:db8::1]",
            "jörg@münchen.example",
            "postmaster",
            "Postmaster",
            "a%b@c_d.example",
        ] {
            assert_eq!(Mailbox::parse(text).map(|m| m.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn names_what_is_wrong() {
        use AddressError::*;
        for (text, error) in [
            ("ann", NoDomain),
            ("", NoDomain),
            ("@example.com", InvalidLocalPart),
            ("a..b@example.com", InvalidLocalPart),
            (".a@example.com", InvalidLocalPart),
            ("a b@example.com", InvalidLocalPart),
            ("\"a@example.com", InvalidLocalPart),
            ("\"a\"b@example.com", NoDomain),
            ("a@b@example.com", InvalidDomain),
            ("a@", InvalidDomain),
            ("a@example..com", InvalidDomain),
            ("a@example.com.", InvalidDomain),
            ("a@-x.com", InvalidDomain),
            ("a@[1.2.3]", InvalidLiteral),
            ("a@[::1]", InvalidLiteral),
            ("a\u{7}@example.com", InvalidLocalPart),
            ("a@exam\u{1b}ple.com", InvalidDomain),
        ] {
            assert_eq!(Mailbox::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Mailbox::parse(&format!("{}@x.de", "a".repeat(65))), Err(LocalPartTooLong));
    }

    #[test]
    fn finds_parts() {
        let mailbox = Mailbox::parse("\"a@b\"@Sub.Example.co.uk").unwrap();
        assert_eq!(mailbox.local_part(), "\"a@b\"");
        let domain = mailbox.domain().unwrap();
        assert_eq!(domain.as_str(), "sub.example.co.uk");
        assert_eq!(domain.organisational().as_str(), "example.co.uk");
        let home = Domain::parse("relay.example").unwrap();
        assert_eq!(
            Mailbox::parse("postmaster").unwrap().or_at(&home).as_str(),
            "postmaster@relay.example"
        );
    }
}
