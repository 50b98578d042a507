//! SASL exchanges for AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, and SCRAM-SHA-256 (RFC 5802,
//! RFC 7677) without channel binding.
//!
//! An [`Exchange`] takes what the client says, decoded, and answers with what comes [`Next`]. The
//! session has the base64, the `*` that cancels, and the replies; whoever knows the users checks
//! passwords and looks up verifiers. User names come out in one form ([`user_name`]), which is
//! the one to look up, to count and to log.
//!
//! # Invariants
//! * A user is proven once, and only after his password or his proof was found right.
//! * An exchange that went wrong, or that is over, takes nothing more.
//!
//! # Absent
//! Acting for somebody else: an authorisation identity is empty or the user's own.

mod scram;

pub use scram::ScramVerifier;

use scram::Scram;
use std::borrow::Cow;
use std::fmt;

/// Longest user name, in bytes.
pub const USER_MAX: usize = 255;
/// Longest password, in bytes.
pub const PASSWORD_MAX: usize = 1_024;
/// Longest decoded response of a client, in bytes.
const RESPONSE_MAX: usize = 4_096;

const TOO_LONG: &str = "the response is too long";
const NOT_TEXT: &str = "the response is not UTF-8 text";
const OUT_OF_TURN: &str = "the exchange is over";

/// How a client shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616: the password itself.
    Plain,
    /// The same in two steps; never standardised, widely used.
    Login,
    /// RFC 7677: a proof that the client knows the password.
    ScramSha256,
}

impl Mechanism {
    /// All there are, the strongest first.
    pub const ALL: [Self; 3] = [Self::ScramSha256, Self::Plain, Self::Login];

    /// By its name, without regard to case (RFC 4422 §3.1).
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// As EHLO and AUTH have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }
}

/// A password, prepared by SASLprep (RFC 4013), so that one that is typed on another system is the
/// same. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Prepares what somebody typed.
    ///
    /// # Errors
    /// What follows "the password": it is empty, too long, or has characters that none may have.
    /// No stored password equals one that is refused here.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        prepare(text, PASSWORD_MAX).map(|text| Self(text.into_owned()))
    }

    /// Its bytes, for who checks it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A user name as it is compared: prepared by SASLprep, ASCII letters in lower case.
///
/// # Errors
/// What follows "the name": it is empty, longer than [`USER_MAX`], or has characters that none may
/// have.
pub fn user_name(text: &str) -> Result<String, &'static str> {
    let name = prepare(text, USER_MAX)?.to_ascii_lowercase();
    // Small letters compose where large ones do not: h and a macron below.
    prepare(&name, USER_MAX).map(Cow::into_owned)
}

fn prepare(text: &str, most: usize) -> Result<Cow<'_, str>, &'static str> {
    if text.len() > most {
        return Err("is too long");
    }
    let prepared = stringprep::saslprep(text);
    let prepared = prepared.map_err(|_| "has characters that RFC 4013 does not permit")?;
    match prepared.len() {
        0 => Err("is empty"),
        length if length > most => Err("is too long"),
        _ => Ok(prepared),
    }
}

/// What follows what the client said.
#[derive(Debug)]
pub enum Next {
    /// Send this (334) and give what comes back to [`Exchange::answer`].
    Challenge(Vec<u8>),
    /// The caller checks this password; the exchange is over.
    Password {
        /// As [`user_name`] has it.
        user: String,
        /// What the client sent.
        password: Password,
    },
    /// The caller goes on with [`Exchange::with_verifier`] of this user; of one that it does not
    /// know or that has none, with a made-up one ([`ScramVerifier::made_up`]).
    Verifier(String),
    /// He is who he says (235).
    Proven {
        /// As [`user_name`] has it.
        user: String,
    },
    /// Not what the mechanism has at this place (501), and why.
    Malformed(&'static str),
    /// He is not who he says (535).
    Wrong {
        /// As [`user_name`] has it.
        user: String,
    },
}

/// One run of a mechanism.
#[derive(Debug)]
pub struct Exchange(State);

#[derive(Debug)]
enum State {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    Scram(Box<Scram>),
    Over,
}

impl Exchange {
    /// Begins with AUTH. `initial` is the initial response, decoded, empty where the client sent
    /// `=` (RFC 4954 §4).
    ///
    /// `nonce` is of printable ASCII without commas, different each time and not to be foreseen;
    /// SCRAM alone uses it.
    #[must_use]
    pub fn begin(mechanism: Mechanism, initial: Option<&[u8]>, nonce: &str) -> (Self, Next) {
        let (state, prompt) = match mechanism {
            Mechanism::Plain => (State::Plain, &b""[..]),
            Mechanism::Login => (State::LoginUser, &b"Username:"[..]),
            Mechanism::ScramSha256 => (State::Scram(Box::new(Scram::new(nonce))), &b""[..]),
        };
        let mut exchange = Self(state);
        let next = match initial {
            Some(initial) => exchange.answer(initial),
            None => Next::Challenge(prompt.to_vec()),
        };
        (exchange, next)
    }

    /// Takes the client's response to the last challenge.
    pub fn answer(&mut self, response: &[u8]) -> Next {
        let state = std::mem::replace(&mut self.0, State::Over);
        if response.len() > RESPONSE_MAX {
            return Next::Malformed(TOO_LONG);
        }
        let Ok(text) = std::str::from_utf8(response) else { return Next::Malformed(NOT_TEXT) };
        match state {
            State::Plain => plain(text).unwrap_or_else(Next::Malformed),
            State::LoginUser => match user_name(text) {
                Ok(user) => {
                    self.0 = State::LoginPassword { user };
                    Next::Challenge(b"Password:".to_vec())
                }
                Err(_) => Next::Malformed(UNFIT_NAME),
            },
            State::LoginPassword { user } => password(user, text),
            State::Scram(scram) => self.keep(scram.answer(text)),
            State::Over => Next::Malformed(OUT_OF_TURN),
        }
    }

    /// Goes on after [`Next::Verifier`].
    pub fn with_verifier(&mut self, verifier: ScramVerifier) -> Next {
        match std::mem::replace(&mut self.0, State::Over) {
            State::Scram(scram) => self.keep(scram.with_verifier(verifier)),
            _ => Next::Malformed(OUT_OF_TURN),
        }
    }

    fn keep(&mut self, (scram, next): (Option<Scram>, Next)) -> Next {
        self.0 = scram.map_or(State::Over, |scram| State::Scram(Box::new(scram)));
        next
    }
}

const UNFIT_NAME: &str = "the user name is empty, too long, or has characters that none may have";

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 §2).
fn plain(text: &str) -> Result<Next, &'static str> {
    let mut parts = text.split('\0');
    let (Some(acts_as), Some(user), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("a PLAIN response is two NULs with a user and a password after them");
    };
    let user = user_name(user).map_err(|_| UNFIT_NAME)?;
    is_own(acts_as, &user)?;
    Ok(password(user, secret))
}

/// A password that no stored one can equal is a wrong one.
fn password(user: String, text: &str) -> Next {
    match Password::new(text) {
        Ok(password) => Next::Password { user, password },
        Err(_) => Next::Wrong { user },
    }
}

/// The authorisation identity is the user's own, or not given.
fn is_own(acts_as: &str, user: &str) -> Result<(), &'static str> {
    match acts_as.is_empty() || user_name(acts_as).is_ok_and(|name| name == user) {
        true => Ok(()),
        false => Err("nobody acts for another user here; leave the authorisation identity empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn begin(mechanism: Mechanism, initial: &[u8]) -> Next {
        Exchange::begin(mechanism, Some(initial), "nonce").1
    }

    /// What is to be checked, as text.
    #[track_caller]
    fn given(next: Next) -> (String, String) {
        match next {
            Next::Password { user, password } => (user, password.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mechanisms_go_by_their_names() {
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::parse(&mechanism.name().to_lowercase()), Some(mechanism));
        }
        assert_eq!(Mechanism::parse("SCRAM-SHA-256-PLUS"), None);
    }

    #[test]
    fn a_name_has_one_form() {
        assert_eq!(user_name("H\u{331}").as_deref(), Ok("\u{1e96}"));
        assert_eq!(user_name("\u{1e96}").as_deref(), Ok("\u{1e96}"));
    }

    #[test]
    fn plain_takes_a_user_and_a_password() {
        let both = |user: &str, password: &str| (user.to_string(), password.to_string());
        for (response, user, password) in [
            ("\0shop\0secret", "shop", "secret"),
            ("shop\0SHOP\0 a b ", "shop", " a b "),
            ("\0Shop@A.example\0p\u{ad}\u{2168}", "shop@a.example", "pIX"),
        ] {
            let next = begin(Mechanism::Plain, response.as_bytes());
            assert_eq!(given(next), both(user, password), "{response:?}");
        }
        let (mut exchange, next) = Exchange::begin(Mechanism::Plain, None, "");
        assert!(matches!(next, Next::Challenge(bytes) if bytes.is_empty()));
        assert_eq!(given(exchange.answer(b"\0a\0b")), both("a", "b"));
        assert!(matches!(exchange.answer(b"\0a\0b"), Next::Malformed(OUT_OF_TURN)));
    }

    #[test]
    fn plain_refuses_what_it_cannot_be() {
        let long = |n| format!("\0{}\0p", "u".repeat(n));
        for response in ["", "a", "\0a", "\0\0p", "\0a\0p\0", "b\0a\0p", "\0a\u{7}\0p", &long(256)]
        {
            let next = begin(Mechanism::Plain, response.as_bytes());
            assert!(matches!(next, Next::Malformed(_)), "{response:?}");
        }
        assert!(matches!(begin(Mechanism::Plain, b"\0a\0\xff"), Next::Malformed(NOT_TEXT)));
        assert!(matches!(begin(Mechanism::Plain, &[b'a'; 5_000]), Next::Malformed(TOO_LONG)));
        assert_eq!(given(begin(Mechanism::Plain, long(255).as_bytes())).0.len(), 255);
        for password in ["", "\u{7}", &"p".repeat(1_025)] {
            let next = begin(Mechanism::Plain, format!("\0a\0{password}").as_bytes());
            assert!(matches!(next, Next::Wrong { user } if user == "a"), "{password:?}");
        }
    }

    #[test]
    fn login_asks_twice() {
        let (mut exchange, next) = Exchange::begin(Mechanism::Login, None, "");
        assert!(matches!(next, Next::Challenge(bytes) if bytes == b"Username:"));
        assert!(matches!(exchange.answer(b"Shop"), Next::Challenge(b) if b == b"Password:"));
        assert_eq!(given(exchange.answer(b"pw")), ("shop".to_string(), "pw".to_string()));
        // Some clients give the name with AUTH.
        let (mut exchange, next) = Exchange::begin(Mechanism::Login, Some(b"shop"), "");
        assert!(matches!(next, Next::Challenge(bytes) if bytes == b"Password:"));
        assert!(matches!(exchange.answer(b""), Next::Wrong { user } if user == "shop"));
        assert!(matches!(begin(Mechanism::Login, b""), Next::Malformed(_)));
    }

    #[test]
    fn a_password_is_shown_to_nobody() {
        let next = begin(Mechanism::Plain, b"\0shop\0secret");
        assert!(!format!("{next:?}").contains("secret"), "{next:?}");
    }

    proptest! {
        #[test]
        fn any_answers_are_taken(
            mechanism in prop::sample::select(Mechanism::ALL.to_vec()),
            answers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
        ) {
            let (mut exchange, _) = Exchange::begin(mechanism, None, "n");
            for answer in answers {
                let next = exchange.answer(&answer);
                let proven = matches!(next, Next::Proven { .. });
                prop_assert!(!proven);
            }
        }
    }
}
