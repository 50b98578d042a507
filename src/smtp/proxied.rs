//! Whom a proxy speaks for: the attributes of XCLIENT and XFORWARD (Postfix's XCLIENT_README and
//! XFORWARD_README).
//!
//! Of what such a proxy may send, only the address, the name in EHLO and the login mean something
//! here; all else is checked for its form and forgotten.

use super::command::{Refusal, syntax};
use std::net::{IpAddr, Ipv6Addr};

/// Attributes of XCLIENT that are understood, as EHLO announces them.
pub(super) const XCLIENT: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
/// The same, of XFORWARD.
pub(super) const XFORWARD: &str = "NAME ADDR PORT PROTO HELO IDENT SOURCE";

/// Longest value in bytes.
const VALUE_MAX: usize = 255;

/// What a proxy says of its client; `None` where it says nothing, or does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxied {
    /// `ADDR=`
    pub address: Option<IpAddr>,
    /// `HELO=`
    pub helo: Option<String>,
    /// `LOGIN=`: the user that the proxy has authenticated.
    pub login: Option<String>,
}

/// Parses what follows the verb.
///
/// # Errors
/// What to answer.
pub(super) fn parse(rest: &str) -> Result<Proxied, Refusal> {
    let mut proxied = Proxied::default();
    for word in rest.split_ascii_whitespace() {
        let (name, value) =
            word.split_once('=').ok_or_else(|| syntax("Write ATTRIBUTE=value, apart by blanks"))?;
        let value = value_of(value)?;
        match name.to_ascii_uppercase().as_str() {
            "ADDR" => proxied.address = value.as_deref().map(address).transpose()?,
            "HELO" => proxied.helo = value,
            "LOGIN" => proxied.login = value,
            "NAME" | "PORT" | "PROTO" | "DESTADDR" | "DESTPORT" | "IDENT" | "SOURCE" => {}
            _ => return Err(syntax("Attribute not recognised")),
        }
    }
    Ok(proxied)
}

/// A value without its xtext (RFC 1891 §5); `None` for one that the proxy does not know.
fn value_of(text: &str) -> Result<Option<String>, Refusal> {
    if text.eq_ignore_ascii_case("[UNAVAILABLE]") || text.eq_ignore_ascii_case("[TEMPUNAVAIL]") {
        return Ok(None);
    }
    let wrong = || syntax("Value is not xtext of at most 255 printable bytes");
    let (mut bytes, mut value) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'+' => {
                let digits = [bytes.next(), bytes.next()].map(|b| b.map(char::from));
                let [high, low] = digits.map(|d| d.and_then(|d| d.to_digit(16)));
                let byte = high.zip(low).map(|(high, low)| high * 16 + low);
                byte.and_then(|byte| u8::try_from(byte).ok()).ok_or_else(wrong)?
            }
            byte => byte,
        });
    }
    let value = String::from_utf8(value).map_err(|_| wrong())?;
    let fits = !value.is_empty()
        && value.len() <= VALUE_MAX
        && !value.chars().any(|c| c.is_control() || c.is_whitespace());
    if fits { Ok(Some(value)) } else { Err(wrong()) }
}

/// `192.0.2.1`, or `IPV6:2001:db8::1`.
fn address(text: &str) -> Result<IpAddr, Refusal> {
    let v6 = text.split_at_checked(5).filter(|(tag, _)| tag.eq_ignore_ascii_case("IPV6:"));
    let parsed = match v6 {
        Some((_, rest)) => rest.parse::<Ipv6Addr>().map(IpAddr::from),
        None => text.parse::<IpAddr>(),
    };
    parsed.map(|ip| ip.to_canonical()).map_err(|_| syntax("ADDR is not an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proxies_send() {
        let proxied = |address: Option<&str>, helo: Option<&str>, login: Option<&str>| {
            let text = |text: Option<&str>| text.map(str::to_string);
            let address = address.map(|address| address.parse().unwrap());
            Ok(Proxied { address, helo: text(helo), login: text(login) })
        };
        for (line, want) in [
            ("ADDR=192.0.2.9 NAME=a.test", proxied(Some("192.0.2.9"), None, None)),
            ("addr=IPV6:2001:db8::9 PORT=25", proxied(Some("2001:db8::9"), None, None)),
            ("ADDR=ipv6:::ffff:192.0.2.9", proxied(Some("192.0.2.9"), None, None)),
            ("ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL]", proxied(None, None, None)),
            ("LOGIN=ann+40x.test HELO=web1", proxied(None, Some("web1"), Some("ann@x.test"))),
            ("", proxied(None, None, None)),
        ] {
            assert_eq!(parse(line), want, "{line}");
        }
        for wrong in [
            "ADDR",
            "ADDR=192.0.2",
            "ADDR=",
            "HELO=a+0Ab",
            "HELO=a+0",
            "HELO=a+C3",
            "COLOUR=red",
            "HELO=€€+",
        ] {
            assert_eq!(parse(wrong).unwrap_err().code, 501, "{wrong}");
        }
        assert!(parse(&format!("HELO={}", "a".repeat(256))).is_err());
    }
}
