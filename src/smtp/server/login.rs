//! AUTH (RFC 4954): the exchange of a mechanism within a session.
//!
//! The session decodes and answers; whether a password is right, and who may try, the shell says.

use super::{AUTH, Refused, Session, State, Step, Tls, not_done};
use crate::smtp::command::Refusal;
use crate::smtp::sasl::{Exchange, Mechanism, Next, Password, ScramVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Whether a client may log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logins {
    /// There are no users.
    Never,
    /// Once its words are secret.
    WithTls,
    /// In clear, too.
    Always,
}

/// What a login is waiting for. User names are as [`crate::smtp::sasl::user_name`] has them.
#[derive(Debug)]
pub enum Login {
    /// Is it his? [`Session::logged_in`] or [`Session::denied`].
    Password {
        /// Who.
        user: String,
        /// What he sent.
        password: Password,
    },
    /// [`Session::verify`] with that of this user.
    Verifier(String),
    /// His proof was right: [`Session::logged_in`], or [`Session::denied`].
    Proven(String),
    /// It was not: [`Session::denied`].
    Wrong(String),
}

impl Session {
    /// ` AUTH …` of EHLO; nothing where nobody may log in, or somebody has.
    pub(super) fn mechanisms(&self) -> Option<String> {
        let names = Mechanism::ALL.map(Mechanism::name).join(" ");
        (self.may_log_in() && self.user.is_none()).then_some(names)
    }

    fn may_log_in(&self) -> bool {
        match self.standing.logins {
            Logins::Never => false,
            Logins::WithTls => self.standing.tls == Tls::On,
            Logins::Always => true,
        }
    }

    pub(super) fn auth(&mut self, mechanism: &str, initial: Option<&str>) -> Option<Step> {
        let sequence = |text: &str| Err(Refusal::new(503, (5, 5, 1), text));
        let begun = if self.standing.logins == Logins::Never {
            Err(not_done())
        } else if self.user.is_some() {
            sequence("You have logged in already")
        } else if !self.extended {
            sequence("Say EHLO first")
        } else if self.envelope.is_some() {
            sequence("Not in a transaction; RSET to end it")
        } else if !self.may_log_in() {
            Err(Refusal::new(538, (5, 7, 11), "Only with TLS; say STARTTLS first"))
        } else {
            self.begin_login(mechanism, initial)
        };
        match begun {
            Ok(next) => self.after(next),
            Err(refusal) => {
                self.refuse(&refusal);
                None
            }
        }
    }

    fn begin_login(&mut self, mechanism: &str, initial: Option<&str>) -> Result<Next, Refusal> {
        let mechanism = Mechanism::parse(mechanism)
            .ok_or_else(|| Refusal::new(504, (5, 5, 4), "Mechanism not known"))?;
        let initial = match initial {
            None => None,
            // Nothing, and not nothing yet (RFC 4954 §4).
            Some("=") => Some(Vec::new()),
            Some(text) => Some(decode(text.as_bytes())?),
        };
        // Another one each time; nobody can foresee what is in front.
        self.logins += 1;
        let nonce = format!("{}{}", self.nonce, self.logins);
        let (exchange, next) = Exchange::begin(mechanism, initial.as_deref(), &nonce);
        self.exchange = Some(exchange);
        Ok(next)
    }

    /// A line of the client's within an exchange.
    pub(super) fn response(&mut self, line: &[u8]) -> Option<Step> {
        self.state = State::Commands;
        let mut exchange = self.exchange.take()?;
        if line == b"*" {
            self.refuse(&Refusal::new(501, (5, 7, 0), "Login given up"));
            return None;
        }
        match decode(line) {
            Ok(response) => {
                let next = exchange.answer(&response);
                self.exchange = Some(exchange);
                self.after(next)
            }
            Err(refusal) => {
                self.refuse(&refusal);
                None
            }
        }
    }

    fn after(&mut self, next: Next) -> Option<Step> {
        let login = match next {
            Next::Challenge(challenge) => {
                let line = format!("334 {}\r\n", BASE64.encode(challenge));
                self.output.extend_from_slice(line.as_bytes());
                self.state = State::LoggingIn;
                return None;
            }
            Next::Malformed(why) => {
                self.exchange = None;
                self.refuse(&Refusal::new(501, (5, 5, 2), format!("Login given up: {why}")));
                return None;
            }
            Next::Password { user, password } => Login::Password { user, password },
            Next::Verifier(user) => Login::Verifier(user),
            Next::Proven { user } => Login::Proven(user),
            Next::Wrong { user } => Login::Wrong(user),
        };
        self.state = State::Answering;
        Some(Step::Login(login))
    }

    /// Goes on with a user's verifier.
    pub fn verify(&mut self, verifier: ScramVerifier) {
        self.state = State::Commands;
        if let Some(exchange) = &mut self.exchange {
            let next = exchange.with_verifier(verifier);
            self.pending = self.after(next);
        }
    }

    /// He is who he says, and may send to anyone.
    pub fn logged_in(&mut self, user: String) {
        (self.user, self.exchange) = (Some(user), None);
        self.state = State::Commands;
        self.say(235, (2, 7, 0), "Logged in");
    }

    /// He is not, or may not try.
    pub fn denied(&mut self, refusal: &Refusal) {
        self.exchange = None;
        self.state = State::Commands;
        self.refuse(refusal);
        // Told before the next command is read, which may be at hand.
        self.pending = self.refusal.take().map(|refused| {
            let command = AUTH.to_string();
            Step::Refused(Box::new(Refused { command, ..refused }))
        });
    }
}

fn decode(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    BASE64.decode(text).map_err(|_| Refusal::new(501, (5, 5, 2), "Not base64"))
}
