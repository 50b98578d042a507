//! `sendmail.toml`: where the mail of this machine goes.
//!
//! A file of its own, and a small one: a web server has no queue, no lanes and no limits, and every
//! user of the machine must be able to read it. Strict as `config.toml`: what it does not know it
//! refuses, with the place. Without a file the defaults hold: a relay on this machine.

use super::{Exit, Stop};
use crate::base::address::Domain;
use crate::base::text::printable;
use crate::config::{machine_name, unit};
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file lies, unless `bulkhead --config FILE sendmail` names another.
const PATH: &str = "/etc/bulkhead/sendmail.toml";

/// All that the file can say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Asked in this order; the next one where one cannot take the mail.
    #[serde(deserialize_with = "relays")]
    pub(super) relays: Vec<Relay>,
    pub(super) tls: Security,
    /// Certificates (PEM) that alone are trusted to vouch for a relay; else those of the system.
    pub(super) ca: Option<PathBuf>,
    /// For AUTH; with `password_file`.
    pub(super) user: Option<String>,
    /// Its first line is the password.
    pub(super) password_file: Option<PathBuf>,
    /// In EHLO and Message-ID, and behind names that have no domain.
    /// [default: the machine's host name]
    #[serde(deserialize_with = "domain")]
    hostname: Option<Domain>,
    /// Where mail waits that no relay took.
    pub(super) spool: PathBuf,
    /// For the connection and the greeting of one relay.
    #[serde(deserialize_with = "duration")]
    pub(super) connect_timeout: Duration,
    /// For each later reply.
    #[serde(deserialize_with = "duration")]
    pub(super) timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            relays: vec![Relay { host: "127.0.0.1".into(), port: 2525 }],
            tls: Security::None,
            ca: None,
            user: None,
            password_file: None,
            hostname: None,
            spool: "/var/spool/bulkhead".into(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
        }
    }
}

/// How the way to the relays is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Security {
    /// Not at all.
    None,
    /// After STARTTLS, which is demanded; the certificate is verified.
    Starttls,
    /// From the first byte (RFC 8314); the certificate is verified.
    Tls,
}

/// One relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relay {
    /// Name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Settings {
    /// Reads the named file, which must exist, or the usual one, which need not.
    pub(super) fn load(named: Option<&Path>) -> Result<Self, Stop> {
        let path = named.unwrap_or(Path::new(PATH));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
                Ok(Self::default())
            }
            Err(error) => Err(Exit::Config.because(format!(
                "cannot read {}: {error}; every user that sends mail must be able to",
                path.display()
            ))),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Stop> {
        let wrong = |place: String, what: &str| {
            let what = printable(what.replace('\n', "; ").as_bytes(), 500);
            Exit::Config.because(format!("{}{place}: {what}", path.display()))
        };
        let settings: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
            wrong(format!(":{line}:{column}"), error.message())
        })?;
        settings.check().map_err(|what| wrong(String::new(), what))?;
        Ok(settings)
    }

    /// Our name.
    pub(super) fn domain(&self) -> Result<Domain, Stop> {
        let domain = match &self.hostname {
            Some(domain) => Ok(domain.clone()),
            None => Domain::parse(&machine_name()).or_else(|_| Domain::parse("localhost")),
        };
        domain.map_err(|error| Exit::Config.because(format!("no hostname: {error}")))
    }

    /// What no key shows by itself.
    fn check(&self) -> Result<(), &'static str> {
        match (&self.user, &self.password_file, self.tls) {
            (Some(_), None, _) => Err("`user` needs `password_file`"),
            (None, Some(_), _) => Err("`password_file` needs `user`"),
            (Some(_), _, Security::None) => Err("`user` needs tls = \"starttls\" or \"tls\": the \
                                            password would be readable on the way"),
            _ if self.ca.is_some() && self.tls == Security::None => {
                Err("`ca` needs tls = \"starttls\" or \"tls\"")
            }
            _ => Ok(()),
        }
    }
}

fn relays<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Relay>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts.is_empty() {
        return Err(de::Error::custom("no relay; write relays = [\"127.0.0.1:2525\"]"));
    }
    texts.iter().map(|text| relay(text).map_err(de::Error::custom)).collect()
}

fn relay(text: &str) -> Result<Relay, String> {
    let wrong = || format!("{text:?} is not a relay; write it as \"relay.example.net:587\"");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
        None => Domain::parse(host).map_err(|_| wrong())?.to_string(),
    };
    Ok(Relay { host, port })
}

fn domain<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Domain>, D::Error> {
    let text = String::deserialize(from)?;
    Domain::parse(&text).map(Some).map_err(|error| {
        de::Error::custom(format!("{text:?}: {error}; write it as \"web1.example.net\""))
    })
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    match unit::duration(&String::deserialize(from)?) {
        Ok(Duration::ZERO) => Err(de::Error::custom("must be more than \"0s\"")),
        Ok(duration) => Ok(duration),
        Err(error) => Err(de::Error::custom(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("sendmail.toml")).map_err(|stop| {
            assert_eq!(stop.exit, Exit::Config);
            stop.text
        })
    }

    #[test]
    fn an_empty_file_is_a_relay_on_this_machine() {
        let settings = parse("").unwrap();
        assert_eq!(settings.relays[0].to_string(), "127.0.0.1:2525");
        assert_eq!((settings.tls, settings.timeout), (Security::None, Duration::from_secs(60)));
    }

    #[test]
    fn every_key_is_read() {
        let settings = parse(
            "relays = [\"127.0.0.1:2525\", \"Relay2.example.net:587\", \"[::1]:25\"]\n\
             tls = \"starttls\"\nca = \"/etc/ca.pem\"\nuser = \"web1\"\n\
             password_file = \"/etc/pw\"\nhostname = \"web1.example.net\"\nspool = \"/s\"\n\
             connect_timeout = \"2s\"\ntimeout = \"2m\"\n",
        )
        .unwrap();
        let relays: Vec<String> = settings.relays.iter().map(Relay::to_string).collect();
        assert_eq!(relays, ["127.0.0.1:2525", "relay2.example.net:587", "[::1]:25"]);
        assert_eq!(settings.tls, Security::Starttls);
        assert_eq!(settings.domain().unwrap().as_str(), "web1.example.net");
        let times = (settings.connect_timeout.as_secs(), settings.timeout.as_secs());
        assert_eq!((settings.spool.as_path(), times), (Path::new("/s"), (2, 120)));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, error) in [
            ("\nrelay = []", "sendmail.toml:2:1: unknown field `relay`, expected one of `relays`"),
            ("relays = []", "sendmail.toml:1:10: no relay; write relays"),
            ("relays = [\"mx\"]", "write it as \"relay.example.net:587\""),
            ("relays = [\"a b:25\"]", "is not a relay"),
            ("relays = [\"[::x]:25\"]", "is not a relay"),
            ("tls = \"off\"", "sendmail.toml:1:7: unknown variant `off`"),
            ("hostname = \"a b\"", "sendmail.toml:1:12: \"a b\": "),
            ("timeout = \"2\"", "sendmail.toml:1:11: \"2\" is not a duration"),
            ("timeout = \"0s\"", "must be more than"),
            ("user = \"a\"\ntls = \"tls\"", "sendmail.toml: `user` needs `password_file`"),
            ("password_file = \"a\"", "`password_file` needs `user`"),
            ("user = \"a\"\npassword_file = \"b\"", "`user` needs tls"),
            ("ca = \"a\"", "`ca` needs tls"),
        ] {
            let got = parse(text).unwrap_err();
            assert!(got.contains(error), "{text:?}: {got}");
        }
    }
}
