//! `[auth]`: users who log in, and what happens to those who guess.

use crate::policy::guard::Terms;
use crate::policy::users::Users;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `[auth]`
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// The file of the users; given relative to the config file's folder. Default `users`.
    pub file: PathBuf,
    /// What was in it when the configuration was loaded; nobody where there is no file, or where
    /// a text alone was parsed.
    pub users: Arc<Users>,
    /// Who may log in without TLS. Default never.
    pub plain_text: PlainText,
    /// `failures`, `user_failures`, `block`. Default 10 of an address in 10 min, 50 of a name in
    /// 1 h, 15 min.
    pub guard: Terms,
    /// Pause before a failed login is answered. Default 1 s.
    pub delay: Duration,
}

/// `[auth] plain_text`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainText {
    /// Nobody.
    #[default]
    Never,
    /// Clients in `[relay] networks`.
    Relay,
}
