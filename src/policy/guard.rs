//! Who may try to log in: counts failures, and blocks for a time where there are too many.
//!
//! Failures are counted by the client's address (of IPv6, its /64) and by user name, each within a
//! window that begins with the first of them; the last one that is allowed brings a block. It lasts
//! [`Terms::block`], the next one twice as long, up to [`BLOCK_MAX`]; after a day without one it
//! begins anew.
//!
//! # Known
//! Who logged in from an address lately ([`KNOWN_FOR`]) is judged there by his own failures alone:
//! he has a count of his own, and neither the block of his name nor that of his address concerns
//! him. So a stranger cannot lock a customer out, nor can one wrong password on a web server lock
//! out the others of that server; and none of them gains unlimited guesses.
//!
//! # Under way
//! Whoever guesses on many connections at once gains nothing by it: an attempt whose outcome is not
//! known may fail. While the failures of a count and the attempts under way in it are all that it
//! allows, the next one waits until one of them has ended ([`Guard::begin`]). So who has the right
//! password waits for a moment where he logs in often at once, and is not refused for it.
//!
//! # Invariants
//! * No more attempts fail before a block than are allowed, however many are made at once
//!   (`prop_no_more_fail_than_are_allowed`).
//! * At most [`ENTRIES_MAX`] addresses, names and known users each; the one that is longest
//!   unheard of is forgotten first. Failures never make us forget a known user.
//! * A block ends by itself, and a lifted one has left no trace.

#[cfg(test)]
mod tests;

use crate::base::network::one_client;
use crate::base::time::Timestamp;
use crate::policy::site::Rate;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

/// Longest block.
pub const BLOCK_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long a login makes a user known at an address.
pub const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Entries of each kind.
pub const ENTRIES_MAX: usize = 10_000;

/// After so long without a block, the next one is short again.
const FORGIVEN_AFTER: Duration = BLOCK_MAX;

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Failures of one address, and of one known user at his, before the block; `None`: no limit.
    pub failures: Option<Rate>,
    /// Failures of one user name from all addresses together.
    pub user_failures: Option<Rate>,
    /// The first block.
    pub block: Duration,
}

/// Whom a block concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whom {
    /// An address, canonical; of IPv6 the first of its /64.
    Address(IpAddr),
    /// A user name, from wherever he is not known.
    User(String),
    /// A known user, at his address.
    Known(IpAddr, String),
}

impl Whom {
    /// Every client at this address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        Self::Address(one_client(address))
    }

    /// A known user at his address.
    #[must_use]
    pub fn known(address: IpAddr, user: &str) -> Self {
        Self::Known(one_client(address), user.to_string())
    }
}

/// `192.0.2.7`, `2001:db8::/64`, `shop`, `shop at 192.0.2.7`. Names come from outside.
impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) if ip.is_ipv6() => write!(f, "{ip}/64"),
            Self::Address(ip) => write!(f, "{ip}"),
            Self::User(user) => f.write_str(user),
            Self::Known(ip, user) => write!(f, "{user} at {}", Self::Address(*ip)),
        }
    }
}

/// A block that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Whom it concerns.
    pub whom: Whom,
    /// Its end.
    pub until: Timestamp,
    /// Blocks in a row, this one included.
    pub repeated: u32,
}

/// An attempt that is not to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// When it may be made.
    pub until: Timestamp,
}

/// An attempt under way: the counts that its failure adds to.
#[derive(Debug)]
pub struct Attempt(Vec<Whom>);

/// The counts. User names are in the form of [`crate::smtp::sasl::user_name`].
#[derive(Debug)]
pub struct Guard {
    terms: Terms,
    addresses: Table<IpAddr>,
    users: Table<String>,
    known: Table<(IpAddr, String)>,
    /// Attempts under way by count, where there are any; apart from what may be forgotten.
    under_way: HashMap<Whom, u32>,
}

impl Guard {
    /// Nobody is blocked yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let (addresses, users, known) = (Table::default(), Table::default(), Table::default());
        Self { terms, addresses, users, known, under_way: HashMap::new() }
    }

    /// Other terms, for failures from now on. Blocks stay.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Whether `user` may try from `address`.
    ///
    /// # Errors
    /// He may not; the longest of the blocks that concern him.
    pub fn may(&self, address: IpAddr, user: &str, now: Timestamp) -> Result<(), Blocked> {
        let counts = self.counts(address, user, now);
        let ends = counts.iter().filter_map(|whom| Some(self.look_up(whom).0?.until));
        let until = ends.max().unwrap_or_default();
        if now < until { Err(Blocked { until }) } else { Ok(()) }
    }

    /// Begins an attempt, before a password or a proof is looked at; [`Guard::end`] ends it.
    /// `None`: not before another one has ended.
    ///
    /// # Errors
    /// As [`Guard::may`].
    pub fn begin(
        &mut self,
        address: IpAddr,
        user: &str,
        now: Timestamp,
    ) -> Result<Option<Attempt>, Blocked> {
        self.may(address, user, now)?;
        let counts = self.counts(address, user, now);
        let has_room = |whom: &Whom| {
            let (entry, most) = self.look_up(whom);
            let under_way = self.under_way.get(whom).copied().unwrap_or_default();
            let fits = |most: Rate| {
                entry.map_or(0, |entry| entry.recent(most, now)).saturating_add(under_way)
                    < most.count
            };
            // Where fewer are allowed than before, one at a time still goes on.
            under_way == 0 || most.is_none_or(fits)
        };
        if !counts.iter().all(has_room) {
            return Ok(None);
        }
        counts.iter().for_each(|whom| *self.under_way.entry(whom.clone()).or_default() += 1);
        Ok(Some(Attempt(counts)))
    }

    /// It is over. If it failed, that was counted before.
    pub fn end(&mut self, attempt: &Attempt) {
        for whom in &attempt.0 {
            match self.under_way.get_mut(whom) {
                Some(count) if *count > 1 => *count -= 1,
                _ => _ = self.under_way.remove(whom),
            }
        }
    }

    /// A password or a proof was wrong. Gives the blocks that this brings, for the log.
    pub fn failed(&mut self, attempt: &Attempt, now: Timestamp) -> Vec<Block> {
        let Terms { failures, user_failures, block } = self.terms;
        let mut blocks = Vec::new();
        for whom in &attempt.0 {
            let (entry, most) = match whom.clone() {
                Whom::Address(address) => (self.addresses.heard_of(address), failures),
                Whom::User(user) => (self.users.heard_of(user), user_failures),
                Whom::Known(address, user) => (self.known.heard_of((address, user)), failures),
            };
            if let Some(Entry { until, repeated, .. }) = entry.failed(most, block, now) {
                blocks.push(Block { whom: whom.clone(), until: *until, repeated: *repeated });
            }
        }
        blocks
    }

    /// He proved who he is: from now on he is known there.
    pub fn succeeded(&mut self, address: IpAddr, user: &str, now: Timestamp) {
        let entry = self.known.heard_of((one_client(address), user.to_string()));
        *entry = Entry { known_since: Some(now), ..Entry::default() };
    }

    /// All blocks that hold, the one that ends last first.
    #[must_use]
    pub fn blocks(&self, now: Timestamp) -> Vec<Block> {
        let addresses =
            self.addresses.iter().map(|(address, entry)| (Whom::Address(*address), entry));
        let users = self.users.iter().map(|(user, entry)| (Whom::User(user.clone()), entry));
        let known = self.known.iter();
        let known = known.map(|((ip, user), entry)| (Whom::Known(*ip, user.clone()), entry));
        let all = addresses.chain(users).chain(known).filter(|(_, entry)| now < entry.until);
        let mut blocks: Vec<Block> = all
            .map(|(whom, entry)| Block { whom, until: entry.until, repeated: entry.repeated })
            .collect();
        blocks.sort_by(|a, b| b.until.cmp(&a.until).then_with(|| text(a).cmp(&text(b))));
        blocks
    }

    /// Ends a block, and forgets the failures that led to it and the blocks before. False where
    /// there is none.
    pub fn lift(&mut self, whom: &Whom, now: Timestamp) -> bool {
        let entry = match whom {
            Whom::Address(address) => self.addresses.get_mut(&one_client(*address)),
            Whom::User(user) => self.users.get_mut(user.as_str()),
            Whom::Known(address, user) => self.known.get_mut(&(one_client(*address), user.clone())),
        };
        let Some(entry) = entry.filter(|entry| now < entry.until) else { return false };
        *entry = Entry { known_since: entry.known_since, ..Entry::default() };
        true
    }

    /// Those that an attempt would add to.
    fn counts(&self, address: IpAddr, user: &str, now: Timestamp) -> Vec<Whom> {
        let (address, name) = (one_client(address), user.to_string());
        match self.known_at(address, user, now) {
            Some(_) => vec![Whom::Known(address, name)],
            None => vec![Whom::Address(address), Whom::User(name)],
        }
    }

    /// What is known of a count, and how many failures it allows.
    fn look_up(&self, whom: &Whom) -> (Option<&Entry>, Option<Rate>) {
        let Terms { failures, user_failures, .. } = self.terms;
        match whom {
            Whom::Address(address) => (self.addresses.get(address), failures),
            Whom::User(user) => (self.users.get(user.as_str()), user_failures),
            Whom::Known(address, user) => (self.known.get(&(*address, user.clone())), failures),
        }
    }

    fn known_at(&self, address: IpAddr, user: &str, now: Timestamp) -> Option<&Entry> {
        let entry = self.known.get(&(address, user.to_string()))?;
        entry.known_since.is_some_and(|since| now.since(since) < KNOWN_FOR).then_some(entry)
    }
}

fn text(block: &Block) -> String {
    block.whom.to_string()
}

/// What is known of one address or user.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// Failures since `first`.
    failures: u32,
    first: Timestamp,
    /// End of the last block; the least point in time where there was none.
    until: Timestamp,
    /// Blocks in a row.
    repeated: u32,
    /// The last login.
    known_since: Option<Timestamp>,
}

impl Entry {
    /// Failures within the window.
    fn recent(&self, most: Rate, now: Timestamp) -> u32 {
        if now.since(self.first) < most.per { self.failures } else { 0 }
    }

    /// Counts one; gives itself where that brings a block.
    fn failed(&mut self, most: Option<Rate>, block: Duration, now: Timestamp) -> Option<&Self> {
        let most = most?;
        // What was under way when the block began adds nothing to it.
        if now < self.until {
            return None;
        }
        if self.recent(most, now) == 0 {
            (self.failures, self.first) = (0, now);
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < most.count {
            return None;
        }
        if now.since(self.until) >= FORGIVEN_AFTER {
            self.repeated = 0;
        }
        let length = block.saturating_mul(1 << self.repeated.min(31)).min(BLOCK_MAX);
        self.repeated = self.repeated.saturating_add(1);
        self.failures = 0;
        self.until = now.after(length);
        Some(self)
    }
}

/// At most [`ENTRIES_MAX`] entries, in the order in which they were heard of.
#[derive(Debug)]
struct Table<K> {
    entries: HashMap<K, (u64, Entry)>,
    order: BTreeMap<u64, K>,
    turn: u64,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), turn: 0 }
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&Entry>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).map(|(_, entry)| entry)
    }

    fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut Entry>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get_mut(key).map(|(_, entry)| entry)
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &Entry)> {
        self.entries.iter().map(|(key, (_, entry))| (key, entry))
    }

    /// The entry of who was just heard of; a new one may take the place of the oldest.
    fn heard_of(&mut self, key: K) -> &mut Entry {
        self.turn += 1;
        let is_full = self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key);
        if is_full && let Some((_, oldest)) = self.order.pop_first() {
            self.entries.remove(&oldest);
        }
        let (turn, entry) = self.entries.entry(key.clone()).or_default();
        self.order.remove(turn);
        *turn = self.turn;
        self.order.insert(self.turn, key);
        entry
    }
}
