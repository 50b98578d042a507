//! Hands messages to the relays, over lettre's SMTP connection.
//!
//! A message is one transaction. Recipients whom a relay cannot take now (a 4xx, no connection, a
//! connection that broke) are offered to the next one; what a relay refuses for good is not. A
//! connection is kept for the next message; a relay that could not be reached, or whose connection
//! broke, is not asked again by the same process.
//!
//! lettre opens the connection, does TLS and AUTH, and encodes the data. MAIL and RCPT are sent one
//! by one, since its own `send` knows neither DSN nor an answer for each recipient. Known of it:
//! what a relay says beside STARTTLS in the clear it keeps for later, so that one who can change
//! packets on the way could forge replies: `tls = "tls"` has no such gap.

use super::compose::Message;
use super::settings::{Relay, Security, Settings};
use super::{Exit, Stop};
use crate::base::address::Mailbox;
use crate::base::text::printable;
use crate::mail::envelope::{BodyType, Envelope, Notify, Recipient, Ret};
use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, SmtpConnection, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Ehlo, Mail, Rcpt};
use lettre::transport::smtp::extension::{
    ClientId, Extension, MailBodyParameter, MailParameter, RcptParameter,
};
use std::error::Error as _;
use std::fmt;

/// Longest reply shown or kept, in characters.
const REPLY_MAX: usize = 500;

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// A relay has it.
    Sent,
    /// A relay will never take it.
    Refused(Refusal),
    /// No relay takes it now; why, safe to print.
    Waits(String),
}

/// A refusal for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As it was said, or what we found; safe to print.
    pub(super) text: String,
    /// Which relay.
    pub(super) relay: String,
    /// The reply's code, where it is a reply.
    pub(super) code: Option<u16>,
}

impl Refusal {
    /// The enhanced status code (RFC 3463), said or guessed.
    pub(super) fn status(&self) -> &str {
        let first = self.text.split(' ').next().unwrap_or_default();
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let said = first.starts_with("5.") && first.split('.').filter(|p| is_part(p)).count() == 3;
        match (said, self.code) {
            (true, _) => first,
            (false, None) => "5.6.3",
            (false, Some(_)) => "5.0.0",
        }
    }

    /// What sysexits.h has for it.
    pub(super) fn exit(&self) -> Exit {
        match self.status().get(..3) {
            Some("5.1") => Exit::NoUser,
            Some("5.6") => Exit::DataErr,
            Some("5.7") => Exit::NoPerm,
            _ => Exit::Unavailable,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} said: {code} {}", self.relay, self.text),
            None => write!(f, "{}: {}", self.relay, self.text),
        }
    }
}

/// Why a step of a transaction failed.
enum Trouble {
    /// 5xx.
    Refused { code: Option<u16>, text: String },
    /// 4xx: the connection can be used on.
    Later(String),
    /// The connection is of no use any more.
    Broken(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        // The cause of an error that is a reply is the reply's text.
        let said = error.source().map(ToString::to_string);
        let text = |raw: String| printable(raw.as_bytes(), REPLY_MAX);
        match error.status() {
            Some(code) if error.is_permanent() => {
                let text = text(said.unwrap_or_default());
                Self::Refused { code: Some(code.into()), text }
            }
            Some(code) => Self::Later(text(format!("{code} {}", said.unwrap_or_default()))),
            None => Self::Broken(text(error.to_string())),
        }
    }
}

impl Trouble {
    /// What it means to a recipient.
    fn fate(&self, relay: &str) -> Fate {
        match self {
            Self::Refused { code, text } => {
                let (text, relay) = (text.clone(), relay.to_string());
                Fate::Refused(Refusal { text, relay, code: *code })
            }
            Self::Later(text) => Fate::Waits(format!("{relay} said: {text}")),
            Self::Broken(text) => Fate::Waits(format!("{relay}: {text}")),
        }
    }

    /// It ends the transaction for these.
    fn for_all(self, relay: &str, fates: &mut [&mut Fate]) -> End {
        let fate = self.fate(relay);
        fates.iter_mut().for_each(|each| **each = fate.clone());
        match self {
            Self::Refused { .. } | Self::Later(_) => End::HalfDone,
            Self::Broken(why) => End::Broken(why),
        }
    }
}

/// In what state a transaction leaves its connection.
enum End {
    /// The next message may follow.
    Usable,
    /// The transaction is half done: a new connection is the surest way out of it.
    HalfDone,
    /// Nothing can be said any more.
    Broken(String),
}

/// All relays, in the order of the settings.
pub(super) struct Relays<'a> {
    settings: &'a Settings,
    hello: ClientId,
    credentials: Option<Credentials>,
    ca: Vec<Certificate>,
    lines: Vec<Line>,
    /// Tells what is said, on standard error.
    is_verbose: bool,
}

/// The way to one relay.
struct Line {
    relay: Relay,
    state: State,
}

enum State {
    New,
    Open(Box<SmtpConnection>),
    Down(String),
}

impl<'a> Relays<'a> {
    /// Reads the files that the settings name; opens nothing.
    ///
    /// # Errors
    /// [`Exit::Config`] with the file.
    pub(super) fn new(settings: &'a Settings, is_verbose: bool) -> Result<Self, Stop> {
        let read = |path: &std::path::Path| {
            let wrong = |error: &dyn fmt::Display| {
                Exit::Config.because(format!("cannot use {}: {error}", path.display()))
            };
            std::fs::read(path).map_err(|error| wrong(&error))
        };
        let ca = match &settings.ca {
            None => Vec::new(),
            Some(path) => match Certificate::from_pem(&read(path)?) {
                Ok(ca) => vec![ca],
                Err(error) => {
                    let text = format!("cannot use {}: {error}", path.display());
                    return Err(Exit::Config.because(text));
                }
            },
        };
        let credentials = match (&settings.user, &settings.password_file) {
            (Some(user), Some(path)) => {
                let text = String::from_utf8_lossy(&read(path)?).into_owned();
                let password = text.lines().next().unwrap_or_default();
                Some(Credentials::new(user.clone(), password.to_string()))
            }
            _ => None,
        };
        let hello = ClientId::Domain(settings.domain()?.to_string());
        let line = |relay: &Relay| Line { relay: relay.clone(), state: State::New };
        let lines = settings.relays.iter().map(line).collect();
        Ok(Self { settings, hello, credentials, ca, lines, is_verbose })
    }

    /// True where no relay could be reached.
    pub(super) fn are_down(&self) -> bool {
        self.lines.iter().all(|line| matches!(line.state, State::Down(_)))
    }

    /// Why, for each relay that could not be reached.
    pub(super) fn complaints(&self) -> String {
        let down = |line: &Line| match &line.state {
            State::Down(why) => Some(format!("{}: {why}", line.relay)),
            State::New | State::Open(_) => None,
        };
        self.lines.iter().filter_map(down).collect::<Vec<_>>().join("; ")
    }

    /// Offers the message to the relays until each recipient is taken or refused. One fate for each
    /// recipient, in their order.
    pub(super) fn send(&mut self, message: &Message) -> Vec<Fate> {
        let recipients = &message.envelope.recipients;
        let mut fates = vec![Fate::Waits("no relay was asked".into()); recipients.len()];
        for index in 0..self.lines.len() {
            let waits = |fate: &Fate| matches!(fate, Fate::Waits(_));
            if !fates.iter().any(waits) {
                break;
            }
            let Some((relay, mut connection)) = self.open(index) else { continue };
            let mut open: Vec<(&Recipient, &mut Fate)> =
                recipients.iter().zip(&mut fates).filter(|(_, fate)| waits(fate)).collect();
            let done = self.transaction(&relay, &mut connection, message, &mut open);
            self.put_back(index, connection, done);
        }
        // Where no relay could be asked, each one's trouble is the reason.
        let complaints = self.complaints();
        for fate in &mut fates {
            if let Fate::Waits(why) = fate
                && !complaints.is_empty()
                && self.are_down()
            {
                why.clone_from(&complaints);
            }
        }
        fates
    }

    /// The first relay that can be reached, for a dialogue with it.
    pub(super) fn first(&mut self) -> Option<SmtpConnection> {
        (0..self.lines.len()).find_map(|index| self.open(index)).map(|(_, connection)| *connection)
    }

    /// The connection to a relay, a new one where there is none; it is to be put back.
    fn open(&mut self, index: usize) -> Option<(String, Box<SmtpConnection>)> {
        let line = self.lines.get_mut(index)?;
        let name = line.relay.to_string();
        let connection = match std::mem::replace(&mut line.state, State::New) {
            State::Open(connection) => Ok(connection),
            State::Down(why) => Err(why),
            State::New => {
                let relay = line.relay.clone();
                self.connect(&relay).map(Box::new).map_err(|error| {
                    let why = printable(error.to_string().as_bytes(), REPLY_MAX);
                    self.tell(&name, &why);
                    why
                })
            }
        };
        match connection {
            Ok(connection) => Some((name, connection)),
            Err(why) => {
                self.lines.get_mut(index)?.state = State::Down(why);
                None
            }
        }
    }

    fn put_back(&mut self, index: usize, mut connection: Box<SmtpConnection>, end: End) {
        let Some(line) = self.lines.get_mut(index) else { return };
        line.state = match end {
            End::Usable => State::Open(connection),
            End::HalfDone => {
                let _ = connection.quit();
                State::New
            }
            End::Broken(why) => State::Down(why),
        };
    }

    fn connect(&self, relay: &Relay) -> Result<SmtpConnection, Error> {
        let Settings { tls, connect_timeout, timeout, .. } = self.settings;
        let parameters = match tls {
            Security::None => None,
            Security::Starttls | Security::Tls => {
                let store = match self.ca.is_empty() {
                    true => CertificateStore::Default,
                    false => CertificateStore::None,
                };
                let builder = TlsParameters::builder(relay.host.clone()).certificate_store(store);
                let add = |builder: TlsParametersBuilder, ca: &Certificate| {
                    builder.add_root_certificate(ca.clone())
                };
                Some(self.ca.iter().fold(builder, add).build()?)
            }
        };
        let wrapper = parameters.as_ref().filter(|_| *tls == Security::Tls);
        let address = (relay.host.as_str(), relay.port);
        let limit = Some(*connect_timeout);
        let mut connection = SmtpConnection::connect(address, limit, &self.hello, wrapper, None)?;
        if let (Security::Starttls, Some(parameters)) = (tls, &parameters) {
            connection.starttls(parameters, &self.hello)?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials)?;
        }
        // Taking a message may take longer than a greeting. A socket always takes a timeout.
        let _ = connection.set_timeout(Some(*timeout));
        Ok(connection)
    }

    /// One transaction for recipients that wait.
    fn transaction(
        &self,
        relay: &str,
        connection: &mut SmtpConnection,
        message: &Message,
        open: &mut [(&Recipient, &mut Fate)],
    ) -> End {
        let has_dsn = match self.begin(relay, connection, message) {
            Ok(has_dsn) => has_dsn,
            Err(trouble) => {
                let mut fates: Vec<&mut Fate> = open.iter_mut().map(|(_, f)| &mut **f).collect();
                return trouble.for_all(relay, &mut fates);
            }
        };
        let mut taken: Vec<&mut Fate> = Vec::with_capacity(open.len());
        for (recipient, fate) in open.iter_mut() {
            match self.say(relay, connection, rcpt(recipient, has_dsn)) {
                Ok(()) => taken.push(fate),
                Err(trouble) if matches!(trouble, Trouble::Broken(_)) => {
                    taken.push(fate);
                    return trouble.for_all(relay, &mut taken);
                }
                Err(trouble) => **fate = trouble.fate(relay),
            }
        }
        if taken.is_empty() {
            return End::HalfDone;
        }
        // lettre ends the data with CRLF and the dot, whatever it ends with.
        let bytes = message.bytes.strip_suffix(b"\r\n").unwrap_or(&message.bytes);
        let done = self.say(relay, connection, Data).and_then(|()| {
            let reply = connection.message(bytes)?;
            self.tell(relay, &reply.message().collect::<Vec<_>>().join(" "));
            Ok(())
        });
        match done {
            Ok(()) => {
                taken.into_iter().for_each(|fate| *fate = Fate::Sent);
                End::Usable
            }
            Err(trouble) => trouble.for_all(relay, &mut taken),
        }
    }

    /// MAIL, with what the relay offers of what the message needs. True where it offers DSN.
    fn begin(
        &self,
        relay: &str,
        connection: &mut SmtpConnection,
        message: &Message,
    ) -> Result<bool, Trouble> {
        let Envelope { reverse_path, body, smtputf8, ret, envid, recipients } = &message.envelope;
        let lacks = |connection: &SmtpConnection, extension| {
            !connection.server_info().supports_feature(extension)
        };
        let mut parameters = Vec::new();
        if *body == BodyType::EightBitMime {
            if lacks(connection, Extension::EightBitMime) {
                return Err(no("the message has 8-bit bytes, and this relay no 8BITMIME"));
            }
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        if *smtputf8 {
            if lacks(connection, Extension::SmtpUtfEight) {
                return Err(no("an address is not ASCII, and this relay has no SMTPUTF8"));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let wants_dsn =
            ret.is_some() || envid.is_some() || recipients.iter().any(|r| r.notify.is_some());
        let has_dsn = wants_dsn && self.offers_dsn(connection)?;
        if has_dsn {
            let other = |keyword: &str, value: &str| MailParameter::Other {
                keyword: keyword.into(),
                value: Some(value.into()),
            };
            let ret = ret.map(|ret| if ret == Ret::Full { "FULL" } else { "HDRS" });
            parameters.extend(ret.map(|ret| other("RET", ret)));
            parameters.extend(envid.as_ref().map(|envid| other("ENVID", envid)));
        } else if wants_dsn {
            self.tell(relay, "offers no DSN: -N, -R and -V end here");
        }
        let sender = reverse_path.mailbox().map(address);
        self.say(relay, connection, Mail::new(sender, parameters))?;
        Ok(has_dsn)
    }

    /// Asks for the extensions once more: lettre keeps no note of this one.
    fn offers_dsn(&self, connection: &mut SmtpConnection) -> Result<bool, Trouble> {
        let reply = connection.command(Ehlo::new(self.hello.clone()))?;
        Ok(reply.message().skip(1).any(|line| line.trim().eq_ignore_ascii_case("DSN")))
    }

    fn say(
        &self,
        relay: &str,
        connection: &mut SmtpConnection,
        command: impl fmt::Display,
    ) -> Result<(), Trouble> {
        let shown = command.to_string();
        self.tell(relay, &format!("> {}", shown.trim_end()));
        let done = connection.command(command);
        match &done {
            Ok(reply) => self.tell(relay, &reply.message().collect::<Vec<_>>().join(" ")),
            Err(error) => self.tell(relay, &error.to_string()),
        }
        done.map(drop).map_err(Trouble::from)
    }

    fn tell(&self, relay: &str, what: &str) {
        if self.is_verbose {
            super::note(&format!("{relay}: {what}"));
        }
    }
}

impl Drop for Relays<'_> {
    fn drop(&mut self) {
        for line in &mut self.lines {
            if let State::Open(connection) = &mut line.state {
                // The mail is safe, whatever is answered.
                let _ = connection.quit();
            }
        }
    }
}

/// What we find ourselves, before a relay is asked.
fn no(text: &str) -> Trouble {
    Trouble::Refused { code: None, text: text.to_string() }
}

fn address(mailbox: &Mailbox) -> Address {
    let domain = mailbox.domain().map(ToString::to_string).unwrap_or_default();
    Address::new_dangerous(mailbox.local_part(), domain)
}

fn rcpt(recipient: &Recipient, has_dsn: bool) -> Rcpt {
    let value = recipient.notify.filter(|_| has_dsn).map(notify);
    let parameters = value
        .map(|value| RcptParameter::Other { keyword: "NOTIFY".into(), value: Some(value) })
        .into_iter()
        .collect();
    Rcpt::new(address(&recipient.mailbox), parameters)
}

fn notify(notify: Notify) -> String {
    let words = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let words: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    if words.is_empty() { "NEVER".to_string() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_exit_code() {
        let exit = |code, text: &str| Refusal { text: text.into(), relay: "r".into(), code }.exit();
        assert_eq!(exit(Some(550), "5.1.1 No such user"), Exit::NoUser);
        assert_eq!(exit(Some(550), "5.7.1 Relaying not permitted"), Exit::NoPerm);
        assert_eq!(exit(Some(554), "5.6.0 Bare LF"), Exit::DataErr);
        assert_eq!(exit(Some(552), "5.3.4 Too big"), Exit::Unavailable);
        assert_eq!(exit(Some(550), "go away"), Exit::Unavailable);
        assert_eq!(exit(Some(550), ""), Exit::Unavailable);
        assert_eq!(exit(None, "the message has 8-bit bytes"), Exit::DataErr);
    }

    #[test]
    fn commands_are_what_rfc_3461_wants() {
        let mut recipient = Recipient::new(Mailbox::parse("\"a b\"@x.de").unwrap());
        assert_eq!(rcpt(&recipient, true).to_string(), "RCPT TO:<\"a b\"@x.de>\r\n");
        recipient.notify = Some(Notify { success: true, failure: true, delay: false });
        let line = "RCPT TO:<\"a b\"@x.de> NOTIFY=SUCCESS,FAILURE\r\n";
        assert_eq!(rcpt(&recipient, true).to_string(), line);
        recipient.notify = Some(Notify::default());
        assert_eq!(rcpt(&recipient, true).to_string(), "RCPT TO:<\"a b\"@x.de> NOTIFY=NEVER\r\n");
        assert_eq!(rcpt(&recipient, false).to_string(), "RCPT TO:<\"a b\"@x.de>\r\n");
    }
}
