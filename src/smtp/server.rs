//! The server's side of a session (RFC 5321), without IO: bytes in, replies and [`Step`]s out.
//!
//! # States
//! ```text
//! Commands ──DATA──▶ Data ──CRLF.CRLF──▶ Answering ──answer()──▶ Commands
//!     │  ▲───────────── BDAT chunk ───────▶ (LAST) Answering
//!     ├── AUTH ──334──▶ LoggingIn ──▶ Answering ──logged_in(), denied()──▶ Commands
//!     ├── STARTTLS ──▶ Answering ──secured()──▶ Commands, anew
//!     ├── XCLIENT ──▶ Answering ──introduced()──▶ Commands, anew
//!     └── QUIT, 421, nonsense ──▶ Closed
//! ```
//! # Invariants
//! * Replies come in the order of the commands, and are flushed when no more input is at hand (RFC
//!   2920 §3.2).
//! * Memory is bounded: one command line, one message, one reply for each command at hand.
//! * A message that could be read in two ways is refused and ends the session, whoever sends it.
//! * Nothing that was said before the TLS handshake holds after it (RFC 3207 §4.2), but for the
//!   address that a proxy gave by XCLIENT, which is of the connection.
//!
//! # Absent
//! Lanes, tenants, the queue: the shell answers for the message once it has taken it.

mod anew;
mod body;
mod login;
mod replies;
#[cfg(test)]
mod tests;

pub use login::{Login, Logins};

use super::command::{self, COMMAND_MAX, Command, Mail, Refusal};
use super::data::{ChunkReader, DataReader, has_stray_bytes};
use super::proxied::Proxied;
use super::sasl::Exchange;
use crate::base::address::{Domain, ReversePath};
use crate::base::text::printable;
use crate::mail::envelope::{Envelope, Recipient};
use std::net::IpAddr;
use std::sync::Arc;

/// Of a command line that is too long so much is read before the session ends.
const LINE_DRAINED_MAX: usize = 64 << 10;

/// Commands that the log names.
const VERBS: [&str; 20] = [
    "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "QUIT",
    "AUTH", "STARTTLS", "XCLIENT", "XFORWARD", "ETRN", "TURN", "GET", "POST",
];
/// All that the log says of a login.
const AUTH: &str = "AUTH";
/// And of what is no command.
const UNKNOWN: &str = "?";
/// Characters of a refused command in the log.
const COMMAND_SHOWN: usize = 200;
/// So many refusals in a row are told of; a bad list has thousands.
const REFUSALS_TOLD: u32 = 10;

/// What all sessions have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our name.
    pub hostname: Domain,
    /// Bytes of one message (RFC 1870).
    pub message_size: usize,
    /// Bytes of one of its lines.
    pub line_length: usize,
    /// Recipients of one message (RFC 9422).
    pub recipients: usize,
    /// Messages in one session (RFC 9422).
    pub messages: u32,
    /// Commands in one session.
    pub commands: u32,
    /// Errors in one session.
    pub errors: u32,
}

/// How a client stands with us, by its listener and its address.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its address.
    pub client: IpAddr,
    /// It may send to anyone.
    pub may_relay: bool,
    /// Nobody sends here without a login (RFC 6409 §4.3).
    pub must_log_in: bool,
    /// Whether its words are secret.
    pub tls: Tls,
    /// Whether it may log in.
    pub logins: Logins,
    /// It is a proxy whose XCLIENT and XFORWARD are believed.
    pub is_proxy: bool,
}

/// Transport Layer Security of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// There is none here.
    Absent,
    /// It may be had by STARTTLS (RFC 3207).
    Offered,
    /// It is there.
    On,
}

/// A whole message.
#[derive(Debug)]
pub struct Received {
    /// As the client gave it.
    pub envelope: Envelope,
    /// Its name in EHLO or HELO.
    pub helo: String,
    /// Who has logged in.
    pub user: Option<String>,
    /// The client of the client, where a proxy that is believed names it by XFORWARD.
    pub forwarded_for: Option<IpAddr>,
    /// For the trace field: `ESMTP`, `UTF8SMTPS`, … (RFC 3848, RFC 6531 §4.3).
    pub protocol: &'static str,
    /// So many bytes at its beginning were taken out by [`Session::take_body`].
    pub taken: usize,
    /// The bytes behind those, dots taken off.
    pub body: Vec<u8>,
}

/// What the shell is to do next.
#[derive(Debug)]
pub enum Step {
    /// Flush the output and read.
    Read,
    /// A recipient at this domain was accepted: its MX will be needed.
    Recipient(Domain),
    /// A command or a message was refused, as the client has been told; for the log.
    Refused(Box<Refused>),
    /// Take the message, then [`Session::answer`].
    Message(Box<Received>),
    /// Flush the output, forget what else was read, shake hands, then [`Session::secured`].
    StartTls,
    /// Somebody logs in.
    Login(Login),
    /// A proxy speaks for somebody else from now on: [`Session::introduced`].
    Introduce(Box<Proxied>),
    /// Flush the output and close.
    Close,
}

/// What was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The command, safe to print; of others than MAIL and RCPT only the verb, or `?`, since the
    /// rest may be a password. Empty for a message.
    pub command: String,
    /// The reverse-path of the transaction that it is in.
    pub from: Option<ReversePath>,
    /// The reply.
    pub reply: Refusal,
}

#[derive(Debug)]
enum State {
    Commands,
    /// The rest of a command line that was too long.
    LongLine,
    /// A line is the response to a challenge (RFC 4954 §4).
    LoggingIn,
    Data(DataReader),
    /// This much of a chunk is still to come.
    Chunk {
        left: u64,
        last: bool,
    },
    /// The same, of a chunk that nobody wants; then this is answered.
    Unwanted {
        left: u64,
        answer: Refusal,
    },
    Answering,
    Closed,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    standing: Standing,
    output: Vec<u8>,
    state: State,
    helo: Option<String>,
    extended: bool,
    /// Who has logged in.
    user: Option<String>,
    /// A login under way.
    exchange: Option<Exchange>,
    /// Logins that were begun.
    logins: u32,
    /// What makes each of them another one.
    nonce: String,
    /// What the shell has to do first.
    pending: Option<Step>,
    /// By XFORWARD, of the next transaction.
    forwarded: Option<Proxied>,
    envelope: Option<Envelope>,
    /// Bytes of the message that were taken out.
    taken: usize,
    /// Those behind them.
    body: Vec<u8>,
    /// Since the first BDAT of a message.
    chunks: Option<ChunkReader>,
    /// The message is refused for want of room, whatever else comes of it.
    overflow: Option<Refusal>,
    /// Bytes of a line that is too long.
    drained: usize,
    commands: u32,
    /// Since the last message that was accepted.
    errors: u32,
    /// Refused recipients; counted apart, since one bad list has many.
    refused: usize,
    /// What was refused just now.
    refusal: Option<Refused>,
    /// Refusals since the last message that was accepted.
    refusals: u32,
    messages: u32,
    /// Bytes of mail that there is space for.
    room: u64,
}

impl Session {
    /// A session with a client. The greeting is in the output. `nonce`: printable ASCII without
    /// commas that nobody can foresee.
    #[must_use]
    pub fn new(settings: Arc<Settings>, standing: Standing, nonce: String) -> Self {
        let mut session = Self {
            settings,
            standing,
            output: Vec::with_capacity(512),
            state: State::Commands,
            helo: None,
            extended: false,
            user: None,
            exchange: None,
            logins: 0,
            nonce,
            pending: None,
            forwarded: None,
            envelope: None,
            taken: 0,
            body: Vec::new(),
            chunks: None,
            overflow: None,
            drained: 0,
            commands: 0,
            errors: 0,
            refused: 0,
            refusal: None,
            refusals: 0,
            messages: 0,
            room: u64::MAX,
        };
        session.greet();
        session
    }

    /// Replies to be written; the shell takes them out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Says for how many bytes of new mail there is space: MAIL is refused for want of it.
    pub fn set_room(&mut self, bytes: u64) {
        self.room = bytes;
    }

    /// True while the client sends a message.
    #[must_use]
    pub fn is_in_message(&self) -> bool {
        matches!(self.state, State::Data(_) | State::Chunk { .. } | State::Unwanted { .. })
            || self.chunks.is_some()
    }

    /// The message so far, but for what was taken out; empty where it is given up.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Bytes of it that were taken out.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Takes out the message so far, for the shell to keep, with how many bytes were taken out
    /// before.
    pub fn take_body(&mut self) -> (usize, Vec<u8>) {
        let (before, body) = (self.taken, std::mem::take(&mut self.body));
        self.taken += body.len();
        (before, body)
    }

    /// Takes from the front of `input`. Gives how much was taken; to be called again, with the
    /// rest, until it says [`Step::Read`] or [`Step::Close`].
    pub fn step(&mut self, input: &[u8]) -> (usize, Step) {
        if let Some(step) = self.pending.take() {
            return (0, step);
        }
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let name: fn(&[u8]) -> String = match self.state {
                State::Commands => shown,
                State::LoggingIn => |line| (if is_long(line) { UNKNOWN } else { AUTH }).to_string(),
                State::LongLine => |_| UNKNOWN.to_string(),
                _ => |_| String::new(),
            };
            let (taken, step) = match &mut self.state {
                State::Closed => return (input.len(), Step::Close),
                State::Answering => return (at, Step::Read),
                State::Commands | State::LongLine | State::LoggingIn => self.read_line(rest),
                State::Data(reader) => {
                    let (taken, done) = reader.read(rest, &mut self.body);
                    let fault = reader.fault();
                    if fault.is_some() || self.overflow.is_some() {
                        self.forget_body();
                    }
                    (taken, if done { self.end_data(fault) } else { Some(Step::Read) })
                }
                State::Chunk { .. } | State::Unwanted { .. } => self.read_chunk(rest),
            };
            at += taken;
            if let Some(mut refused) = self.refusal.take() {
                refused.command = name(rest.get(..taken).unwrap_or_default());
                return (at, Step::Refused(Box::new(refused)));
            }
            if let Some(step) = step {
                return (at, step);
            }
        }
    }

    /// One command line, if it is all there.
    fn read_line(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if input.len() < COMMAND_MAX && !matches!(self.state, State::LongLine) {
                return (0, Some(Step::Read));
            }
            self.state = State::LongLine;
            self.drained = self.drained.saturating_add(input.len());
            if self.drained > LINE_DRAINED_MAX {
                self.give_up(&Refusal::new(421, (4, 7, 0), "Line without end"));
                return (input.len(), None);
            }
            return (input.len(), Some(Step::Read));
        };
        let line = input.get(..end).unwrap_or_default();
        let step = if matches!(self.state, State::LongLine) || line.len() >= COMMAND_MAX {
            (self.state, self.drained) = (State::Commands, 0);
            self.exchange = None;
            self.refuse(&Refusal::new(500, (5, 5, 2), "Line too long"));
            None
        } else {
            match line.strip_suffix(b"\r").filter(|line| !has_stray_bytes(line)) {
                Some(line) => self.command(line),
                None => {
                    // A client that ends lines in another way could mean another end of data, too.
                    self.refuse(&Refusal::new(
                        500,
                        (5, 5, 2),
                        "Lines end in CRLF; no bare CR, LF or NUL",
                    ));
                    self.state = State::Closed;
                    None
                }
            }
        };
        (end + 1, step)
    }

    fn command(&mut self, line: &[u8]) -> Option<Step> {
        self.commands += 1;
        if self.commands > self.settings.commands {
            self.give_up(&Refusal::new(421, (4, 7, 0), "Too many commands"));
            return None;
        }
        if matches!(self.state, State::LoggingIn) {
            return self.response(line);
        }
        match command::parse(line) {
            Ok(Command::Auth { mechanism, initial }) => {
                return self.auth(&mechanism, initial.as_deref());
            }
            Ok(Command::Rcpt(recipient)) => return self.rcpt(recipient),
            Ok(Command::Bdat { size, last }) => self.bdat(size, last),
            Ok(Command::StartTls) => return self.start_tls(),
            Ok(Command::Xclient(proxied)) => return self.xclient(proxied),
            Ok(command) => self.simple(command),
            // A bad address in a long list is a bad recipient, not nonsense.
            Err(refusal) if is_verb(line, b"RCPT") => self.refuse_recipient(&refusal),
            Err(refusal) => {
                self.refuse(&refusal);
                // How many bytes of a message follow is not known: none may be read as commands.
                if is_verb(line, b"BDAT") {
                    self.state = State::Closed;
                }
            }
        }
        None
    }

    fn simple(&mut self, command: Command) {
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::Mail(mail) => self.mail(mail),
            Command::Data => self.data(),
            Command::Rset => {
                self.reset();
                self.say(250, (2, 0, 0), "Reset");
            }
            Command::Noop => self.say(250, (2, 0, 0), "Ok"),
            Command::Vrfy => self.say(252, (2, 1, 5), "Not verified; send the message and see"),
            Command::Help => self.say(
                214,
                (2, 0, 0),
                "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT",
            ),
            Command::Quit => {
                self.say(221, (2, 0, 0), "Bye");
                self.state = State::Closed;
            }
            Command::Xforward(proxied) => self.xforward(proxied),
            Command::OtherProtocol => {
                self.give_up(&Refusal::new(421, (4, 7, 0), "This is SMTP"));
            }
            Command::NotDone
            | Command::Rcpt(_)
            | Command::Bdat { .. }
            | Command::StartTls
            | Command::Auth { .. }
            | Command::Xclient(_) => self.refuse(&not_done()),
        }
    }

    fn hello(&mut self, name: String, extended: bool) {
        self.reset();
        (self.helo, self.extended) = (Some(name), extended);
        if extended { self.say_extensions() } else { self.say_plain(250) }
    }

    fn mail(&mut self, mail: Mail) {
        let refusal = if self.helo.is_none() {
            Refusal::new(503, (5, 5, 1), "Say EHLO first")
        } else if self.standing.must_log_in && self.user.is_none() {
            Refusal::new(530, (5, 7, 0), "Log in first")
        } else if self.envelope.is_some() {
            Refusal::new(503, (5, 5, 1), "MAIL was already given; RSET to begin anew")
        } else if self.messages >= self.settings.messages {
            return self.give_up(&Refusal::new(
                421,
                (4, 7, 0),
                "Too many messages in this session, reconnect",
            ));
        } else if mail.size.is_some_and(|size| size > self.settings.message_size as u64) {
            self.too_big()
        } else if mail.size.unwrap_or_default().max(1) > self.room {
            Refusal::full()
        } else if !mail.smtputf8 && mail.reverse_path.mailbox().is_some_and(|m| m.is_utf8()) {
            Refusal::new(553, (5, 6, 7), "Address is not ASCII; SMTPUTF8 is needed")
        } else {
            let mut envelope = Envelope::from(mail.reverse_path);
            (envelope.body, envelope.smtputf8) = (mail.body, mail.smtputf8);
            (envelope.ret, envelope.envid) = (mail.ret, mail.envid);
            self.envelope = Some(envelope);
            return self.say(250, (2, 1, 0), "Ok");
        };
        self.refuse(&refusal);
    }

    fn rcpt(&mut self, recipient: Recipient) -> Option<Step> {
        let Some(envelope) = self.envelope.as_mut().filter(|_| self.chunks.is_none()) else {
            self.refuse(&Refusal::new(503, (5, 5, 1), "Say MAIL first"));
            return None;
        };
        let refusal = if !self.standing.may_relay && self.user.is_none() {
            let text = format!("Relaying not permitted for {}", self.standing.client);
            Refusal::new(550, (5, 7, 1), text)
        } else if envelope.recipients.len() >= self.settings.recipients {
            Refusal::new(452, (4, 5, 3), "Too many recipients")
        } else if recipient.is_utf8() && !envelope.smtputf8 {
            Refusal::new(553, (5, 6, 7), "Address is not ASCII; SMTPUTF8 is needed")
        } else {
            let domain = recipient.mailbox.domain().cloned();
            envelope.recipients.push(recipient);
            self.say(250, (2, 1, 5), "Ok");
            return domain.map(Step::Recipient);
        };
        self.refuse_recipient(&refusal);
        None
    }

    /// Answers for the message that was taken out.
    pub fn answer(&mut self, answer: &Refusal) {
        self.state = State::Commands;
        self.put(answer);
        if answer.code < 400 {
            (self.errors, self.refusals) = (0, 0);
        } else {
            self.count_error();
        }
    }

    /// Says this and ends the session.
    pub fn abort(&mut self, refusal: &Refusal) {
        self.put(refusal);
        self.state = State::Closed;
    }

    fn reset(&mut self) {
        self.forwarded = None;
        self.envelope = None;
        self.forget_body();
        self.chunks = None;
        self.overflow = None;
    }
}

fn not_done() -> Refusal {
    Refusal::new(502, (5, 5, 1), "Command not implemented")
}

/// A command line for the log.
fn shown(line: &[u8]) -> String {
    if is_long(line) {
        return UNKNOWN.to_string();
    }
    let line = line.trim_ascii_end();
    if is_verb(line, b"MAIL ") || is_verb(line, b"RCPT ") {
        return printable(line, COMMAND_SHOWN);
    }
    let known = VERBS.iter().find(|verb| is_verb(line, verb.as_bytes()));
    (*known.unwrap_or(&UNKNOWN)).to_string()
}

/// With its LF.
fn is_long(line: &[u8]) -> bool {
    line.len() > COMMAND_MAX
}

fn is_verb(line: &[u8], verb: &[u8]) -> bool {
    line.get(..verb.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(verb))
}
