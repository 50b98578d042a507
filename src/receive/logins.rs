//! Who logs in: passwords checked, failures counted, those who guess kept out.

use crate::base::random::unforeseeable;
use crate::base::time::Timestamp;
use crate::config::Config;
use crate::observe::receive as tell;
use crate::policy::guard::{self, Block, Blocked, Guard, Terms, Whom};
use crate::policy::users::User;
use crate::smtp::command::Refusal;
use crate::smtp::sasl::{Password, ScramVerifier};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};

/// Passwords checked at once: each takes milliseconds of a processor.
const CHECKS: usize = 2;
/// Users whose password need not be derived anew each time.
const KNOWN_MAX: usize = 10_000;

/// All logins of a node.
pub struct Logins {
    guard: Mutex<Guard>,
    /// An attempt has ended, so that another may begin.
    ended: Notify,
    /// Of this run of the node.
    key: hmac::Key,
    secret: [u8; 32],
    checks: Semaphore,
    /// For each user what his verifier and the password that fits it come to under `key`: a web
    /// server logs in anew for each message.
    known: Mutex<HashMap<String, hmac::Tag>>,
}

impl Logins {
    /// Nobody has failed yet.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new() -> Result<Self, Unspecified> {
        let secret: [u8; 32] = unforeseeable()?;
        Ok(Self {
            guard: Mutex::new(Guard::new(Terms::default())),
            ended: Notify::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &unforeseeable::<32>()?),
            secret,
            checks: Semaphore::new(CHECKS),
            known: Mutex::default(),
        })
    }

    /// Blocks that hold.
    #[must_use]
    pub fn blocks(&self, now: Timestamp) -> Vec<Block> {
        lock(&self.guard).blocks(now)
    }

    /// Ends a block; false where there is none.
    pub fn lift(&self, whom: &Whom, now: Timestamp) -> bool {
        lock(&self.guard).lift(whom, now)
    }

    /// What SCRAM goes on with for this user, who may not exist.
    pub(super) fn verifier(&self, config: &Config, user: &str) -> ScramVerifier {
        config.auth.users.for_scram(user, &self.secret)
    }

    /// Whether this user may try from there.
    pub(super) fn may(&self, client: IpAddr, user: &str, now: Timestamp) -> Result<(), Refusal> {
        lock(&self.guard).may(client, user, now).map_err(|blocked| refusal(blocked, now))
    }

    /// Begins an attempt of this user from there, where he may try; waits while so many are under
    /// way as may still fail.
    pub(super) async fn begin(
        &self,
        config: &Config,
        client: IpAddr,
        user: &str,
        now: Timestamp,
    ) -> Result<Attempt<'_>, Refusal> {
        loop {
            // Before it is asked, so that no end is missed.
            let ended = self.ended.notified();
            let begun = {
                let mut guard = lock(&self.guard);
                guard.set_terms(config.auth.guard.clone());
                guard.begin(client, user, now).map_err(|blocked| refusal(blocked, now))?
            };
            if let Some(attempt) = begun {
                return Ok(Attempt { logins: self, attempt, client, user: user.to_string() });
            }
            ended.await;
        }
    }

    /// Whether it is his password. Takes its time, on another thread.
    pub(super) async fn check(&self, config: &Arc<Config>, user: &str, password: Password) -> bool {
        let tag = |user: &User| {
            let text = format!("{}\0{}", user.verifier, user.name);
            hmac::sign(&self.key, &[text.as_bytes(), b"\0", password.as_bytes()].concat())
        };
        let tag = config.auth.users.find(user).map(tag);
        let is_known = |tag: &hmac::Tag| {
            let known = lock(&self.known).get(user).copied();
            known.is_some_and(|known| {
                aws_lc_rs::constant_time::verify_slices_are_equal(known.as_ref(), tag.as_ref())
                    .is_ok()
            })
        };
        if tag.as_ref().is_some_and(is_known) {
            return true;
        }
        // Never closed.
        let Ok(_turn) = self.checks.acquire().await else { return false };
        let (config, name) = (Arc::clone(config), user.to_string());
        let check = move || config.auth.users.check(&name, &password).is_some();
        let is_right = tokio::task::spawn_blocking(check).await.unwrap_or(false);
        if let Some(tag) = tag.filter(|_| is_right) {
            let mut known = lock(&self.known);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(user.to_string(), tag);
        }
        is_right
    }
}

/// A login under way.
pub(super) struct Attempt<'a> {
    logins: &'a Logins,
    attempt: guard::Attempt,
    client: IpAddr,
    user: String,
}

impl Attempt<'_> {
    /// He is who he says.
    pub(super) fn succeeded(self, now: Timestamp) {
        lock(&self.logins.guard).succeeded(self.client, &self.user, now);
    }

    /// Counts a failure, which may lead to a block.
    pub(super) fn failed(self, now: Timestamp) {
        let blocks = lock(&self.logins.guard).failed(&self.attempt, now);
        tell::login_failed(self.client, &self.user);
        blocks.iter().for_each(|block| tell::login_blocked(block, now));
    }
}

/// However it ends, others may begin.
impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        lock(&self.logins.guard).end(&self.attempt);
        self.logins.ended.notify_waiters();
    }
}

fn refusal(blocked: Blocked, now: Timestamp) -> Refusal {
    let minutes = blocked.until.since(now).as_secs().div_ceil(60).max(1);
    let text = format!("Too many failed logins; try again in {minutes} min");
    Refusal::new(454, (4, 7, 0), text)
}

/// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
