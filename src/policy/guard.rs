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
//! # Invariants
//! * At most [`ENTRIES_MAX`] addresses, names and known users each; the one that is longest
//!   unheard of is forgotten first. Failures never make us forget a known user.
//! * A block ends by itself, and a lifted one has left no trace.
//!
//! # Absent
//! Attempts under way: all that begin before the failure that is one too many have their answer.

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

/// The counts. User names are in the form of [`crate::smtp::sasl::user_name`].
#[derive(Debug)]
pub struct Guard {
    terms: Terms,
    addresses: Table<IpAddr>,
    users: Table<String>,
    known: Table<(IpAddr, String)>,
}

impl Guard {
    /// Nobody is blocked yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        let (addresses, users, known) = (Table::default(), Table::default(), Table::default());
        Self { terms, addresses, users, known }
    }

    /// Other terms, for failures from now on. Blocks stay.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Whether `user` may try from `address`: asked before a password or a proof is looked at.
    ///
    /// # Errors
    /// He may not; the longest of the blocks that concern him.
    pub fn may(&self, address: IpAddr, user: &str, now: Timestamp) -> Result<(), Blocked> {
        let address = one_client(address);
        let until = match self.known_at(address, user, now) {
            Some(own) => own.until,
            None => {
                let of_address = self.addresses.get(&address).map(|entry| entry.until);
                let of_user = self.users.get(user).map(|entry| entry.until);
                of_address.max(of_user).unwrap_or_default()
            }
        };
        if now < until { Err(Blocked { until }) } else { Ok(()) }
    }

    /// A password or a proof was wrong. Gives the blocks that this brings, for the log.
    pub fn failed(&mut self, address: IpAddr, user: &str, now: Timestamp) -> Vec<Block> {
        let address = one_client(address);
        let Terms { failures, user_failures, block } = self.terms;
        let blocked = |whom: Whom, entry: Option<&Entry>| {
            entry.map(|entry| Block { whom, until: entry.until, repeated: entry.repeated })
        };
        if self.known_at(address, user, now).is_some() {
            let whom = Whom::Known(address, user.to_string());
            let entry = self.known.heard_of((address, user.to_string()));
            let entry = entry.failed(failures, block, now);
            return blocked(whom, entry).into_iter().collect();
        }
        let entry = self.addresses.heard_of(address).failed(failures, block, now);
        let of_address = blocked(Whom::Address(address), entry);
        let entry = self.users.heard_of(user.to_string()).failed(user_failures, block, now);
        let of_user = blocked(Whom::User(user.to_string()), entry);
        of_address.into_iter().chain(of_user).collect()
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
    /// Counts one; gives itself where that brings a block.
    fn failed(&mut self, most: Option<Rate>, block: Duration, now: Timestamp) -> Option<&Self> {
        let most = most?;
        // What was under way when the block began adds nothing to it.
        if now < self.until {
            return None;
        }
        if self.failures == 0 || now.since(self.first) >= most.per {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const T: Timestamp = Timestamp(1_795_394_728_114);

    fn guard(failures: u32, user_failures: u32) -> Guard {
        let rate = |count| Some(Rate { count, per: 10 * MINUTE });
        let (failures, user_failures) = (rate(failures), rate(user_failures));
        Guard::new(Terms { failures, user_failures, block: 15 * MINUTE })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn until(minutes: u32) -> Result<(), Blocked> {
        Err(Blocked { until: T.after(minutes * MINUTE) })
    }

    #[test]
    fn the_last_failure_allowed_blocks_the_address_for_a_time() {
        let (mut guard, a) = (guard(3, 100), ip("192.0.2.7"));
        for user in ["a", "b"] {
            assert_eq!(guard.failed(a, user, T), []);
            assert_eq!(guard.may(a, "c", T), Ok(()));
        }
        let block = Block { whom: Whom::Address(a), until: T.after(15 * MINUTE), repeated: 1 };
        assert_eq!(guard.failed(a, "c", T), std::slice::from_ref(&block));
        assert_eq!(guard.may(a, "d", T), until(15));
        assert_eq!(guard.may(ip("::ffff:192.0.2.7"), "d", T), until(15));
        assert_eq!(guard.may(ip("192.0.2.8"), "d", T), Ok(()));
        assert_eq!(guard.blocks(T), [block]);
        assert_eq!(guard.failed(a, "late", T), [], "was under way");
        let end = T.after(15 * MINUTE);
        assert_eq!((guard.may(a, "d", end), guard.blocks(end)), (Ok(()), vec![]));
    }

    #[test]
    fn failures_far_apart_block_nobody() {
        let (mut guard, a) = (guard(3, 3), ip("192.0.2.7"));
        for n in 0..20 {
            assert_eq!(guard.failed(a, "a", T.after(n * 6 * MINUTE)), []);
        }
    }

    #[test]
    fn a_v6_network_is_one_address_and_a_v4_one_is_not() {
        let mut guard = guard(2, 100);
        guard.failed(ip("2001:db8:0:1::1"), "a", T);
        let blocks = guard.failed(ip("2001:db8:0:1:ffff::2"), "b", T);
        assert_eq!(blocks[0].whom, Whom::address(ip("2001:db8:0:1:7::")));
        assert_eq!(blocks[0].whom.to_string(), "2001:db8:0:1::/64");
        assert_eq!(guard.may(ip("2001:db8:0:1::9"), "c", T), until(15));
        assert_eq!(guard.may(ip("2001:db8:0:2::1"), "c", T), Ok(()));
    }

    #[test]
    fn a_stranger_does_not_lock_a_customer_out() {
        let (mut guard, home) = (guard(100, 3), ip("192.0.2.7"));
        guard.succeeded(home, "shop", T);
        for n in 1..=3 {
            guard.failed(ip(&format!("198.51.100.{n}")), "shop", T);
        }
        assert_eq!(guard.may(ip("198.51.100.9"), "shop", T), until(15));
        assert_eq!(guard.may(home, "shop", T), Ok(()));
        let later = T.after(KNOWN_FOR);
        for n in 1..=3 {
            guard.failed(ip(&format!("198.51.100.{n}")), "shop", later);
        }
        assert!(guard.may(home, "shop", later).is_err(), "known no more");
    }

    #[test]
    fn a_known_user_is_judged_by_his_own_failures() {
        let (mut guard, home) = (guard(3, 3), ip("192.0.2.7"));
        for user in ["shop", "other"] {
            guard.succeeded(home, user, T);
        }
        let blocks: Vec<_> = (0..3).flat_map(|_| guard.failed(home, "shop", T)).collect();
        assert_eq!(blocks[0].whom, Whom::known(home, "shop"));
        assert_eq!(blocks[0].whom.to_string(), "shop at 192.0.2.7");
        assert_eq!(guard.may(home, "shop", T), until(15), "no unlimited guesses");
        assert_eq!(guard.may(home, "other", T), Ok(()));
        assert_eq!(guard.may(ip("192.0.2.8"), "shop", T), Ok(()));
        assert_eq!(guard.may(home, "stranger", T), Ok(()));
        for _ in 0..3 {
            guard.failed(home, "stranger", T);
        }
        assert_eq!(guard.may(home, "new", T), until(15));
        assert_eq!(guard.may(home, "other", T), Ok(()));
    }

    #[test]
    fn no_limit_blocks_nobody_and_other_terms_hold_from_then_on() {
        let (mut guard, a) = (Guard::new(Terms::default()), ip("192.0.2.7"));
        assert!((0..1_000).all(|_| guard.failed(a, "a", T).is_empty()));
        let failures = Some(Rate { count: 1, per: MINUTE });
        guard.set_terms(Terms { failures, user_failures: None, block: MINUTE });
        assert_eq!(guard.failed(a, "a", T).len(), 1);
        assert_eq!(guard.may(a, "a", T), until(1));
    }

    #[test]
    fn strangers_are_forgotten_and_customers_are_not() {
        let (mut guard, home) = (guard(1, 1_000_000), ip("192.0.2.7"));
        guard.succeeded(home, "shop", T);
        let nth = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        for n in 0..12_000 {
            guard.failed(nth(n), &format!("u{n}"), T);
        }
        assert_eq!((guard.addresses.entries.len(), guard.addresses.order.len()), (10_000, 10_000));
        assert_eq!((guard.users.entries.len(), guard.users.order.len()), (10_000, 10_000));
        assert_eq!(guard.may(nth(1_999), "x", T), Ok(()), "the oldest");
        assert_eq!(guard.may(nth(2_000), "x", T), until(15));
        guard.failed(home, "x", T);
        assert_eq!(guard.may(home, "shop", T), Ok(()));
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_all_of_it_is_in_order(
            calls in prop::collection::vec((0..3u8, any::<u16>(), 0..50u16, 0..100i64), 0..300),
        ) {
            let (mut guard, mut now) = (guard(2, 3), T);
            for (call, address, user, ms) in calls {
                now = now.after(Duration::from_millis(ms.unsigned_abs()));
                let [high, low] = address.to_be_bytes();
                let (address, user) = (IpAddr::from([10, 0, high, low % 8]), format!("u{user}"));
                match call {
                    0 => guard.succeeded(address, &user, now),
                    _ => _ = guard.failed(address, &user, now),
                }
                let Guard { addresses, users, known, .. } = &guard;
                prop_assert!(addresses.entries.len() <= ENTRIES_MAX);
                prop_assert_eq!(addresses.entries.len(), addresses.order.len());
                prop_assert_eq!(users.entries.len(), users.order.len());
                prop_assert_eq!(known.entries.len(), known.order.len());
                prop_assert!(known.order.iter().all(|(turn, key)| known.entries[key].0 == *turn));
            }
        }

        #[test]
        fn a_block_ends_and_the_next_is_twice_as_long_but_never_over_a_day(
            block in 1..100_000u64, most in 1..6u32, times in 1..30u32,
        ) {
            let block = Duration::from_secs(block);
            let failures = Some(Rate { count: most, per: MINUTE });
            let mut guard = Guard::new(Terms { failures, user_failures: None, block });
            let (a, mut now) = (ip("192.0.2.7"), T);
            for n in 0..times {
                let blocks: Vec<_> = (0..most).flat_map(|_| guard.failed(a, "a", now)).collect();
                prop_assert_eq!(blocks.len(), 1);
                let length = blocks[0].until.since(now);
                prop_assert_eq!(length, block.saturating_mul(1 << n).min(BLOCK_MAX));
                let last = blocks[0].until.before(Duration::from_millis(1));
                prop_assert_eq!(guard.may(a, "a", last), Err(Blocked { until: blocks[0].until }));
                now = blocks[0].until;
                prop_assert_eq!(guard.may(a, "a", now), Ok(()));
            }
            now = now.after(FORGIVEN_AFTER);
            let last = (0..most).flat_map(|_| guard.failed(a, "a", now)).next().unwrap();
            prop_assert_eq!(last.repeated, 1, "forgiven");
        }

        #[test]
        fn a_lifted_block_is_gone(kind in 0..3u8, repeats in 1..5u32) {
            let (mut guard, a) = (guard(2, 2), ip("2001:db8::7"));
            let whom = match kind {
                0 => Whom::address(a),
                1 => Whom::User("u".to_string()),
                _ => Whom::known(a, "u"),
            };
            if kind == 2 {
                guard.succeeded(a, "u", T);
            }
            let mut now = T;
            for _ in 0..repeats {
                now = guard.blocks(now).first().map_or(now, |block| block.until);
                guard.failed(a, "u", now);
                guard.failed(a, "u", now);
            }
            prop_assert!(guard.blocks(now).iter().any(|block| block.whom == whom));
            prop_assert!(guard.lift(&whom, now));
            prop_assert!(!guard.lift(&whom, now));
            prop_assert!(guard.blocks(now).iter().all(|block| block.whom != whom));
            prop_assert!(guard.failed(a, "u", now).iter().all(|block| block.whom != whom));
            let again = guard.failed(a, "u", now).into_iter().find(|block| block.whom == whom);
            prop_assert_eq!(again.map(|block| block.repeated), Some(1));
            if kind == 2 {
                guard.lift(&whom, now);
                prop_assert_eq!(guard.may(a, "u", now), Ok(()), "still known");
            }
        }
    }
}
