//! Who may come in: places for sessions in all, for one address, and for strangers.
//!
//! A stranger is whoever may not relay. He has no business here, but comes: so many at once and so
//! fast, that he never stands in the way of a web server.

use crate::base::network::one_client;
use crate::config::ReceiveLimits;
use crate::policy::site::Rate;
use crate::smtp::command::Refusal;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Addresses whose pace is remembered; with more, those that came at ease are forgotten.
const REMEMBERED: usize = 10_000;

/// The door of a node; all its listeners have the same.
pub(super) struct Door {
    sessions: usize,
    sessions_per_address: usize,
    strangers: usize,
    pace: Pace,
    strangers_pace: Pace,
    inside: Arc<Mutex<Inside>>,
}

/// How fast sessions of one address may come.
struct Pace {
    limiter: Option<DefaultKeyedRateLimiter<IpAddr>>,
    /// Sessions so far.
    asked: AtomicUsize,
}

impl Pace {
    fn of(rate: Option<Rate>) -> Self {
        Self { limiter: rate.and_then(quota).map(RateLimiter::keyed), asked: AtomicUsize::new(1) }
    }

    fn is_too_fast(&self, address: IpAddr) -> bool {
        let Some(limiter) = &self.limiter else { return false };
        if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(REMEMBERED) {
            limiter.retain_recent();
        }
        limiter.check_key(&address).is_err()
    }
}

/// Sessions that are open.
#[derive(Debug, Default)]
struct Inside {
    all: usize,
    strangers: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A session's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// It may send to anyone.
    pub(super) may_relay: bool,
    address: IpAddr,
    is_stranger: bool,
    inside: Arc<Mutex<Inside>>,
}

impl Place {
    /// Its client has logged in: it stands in no stranger's place any more.
    pub(super) fn is_known(&mut self) {
        if std::mem::take(&mut self.is_stranger) {
            lock(&self.inside).strangers -= 1;
        }
    }
}

impl Door {
    pub(super) fn new(limits: &ReceiveLimits) -> Self {
        Self {
            sessions: limits.sessions,
            sessions_per_address: limits.sessions_per_address,
            strangers: limits.strangers,
            pace: Pace::of(limits.session_rate),
            strangers_pace: Pace::of(limits.stranger_rate),
            inside: Arc::default(),
        }
    }

    /// A place for a client, or what to say instead.
    pub(super) fn admit(&self, client: IpAddr, may_relay: bool) -> Result<Place, Refusal> {
        let full = |text: &str| Refusal::new(421, (4, 3, 2), text);
        let yours = |text: &str| Refusal::new(421, (4, 7, 0), text);
        // A stranger with IPv6 has a network of addresses to come from.
        let address = if may_relay { client.to_canonical() } else { one_client(client) };
        let mut inside = lock(&self.inside);
        if inside.all >= self.sessions {
            return Err(full("Too many sessions, try again later"));
        }
        if !may_relay && inside.strangers >= self.strangers {
            return Err(full("Too many sessions of strangers, try again later"));
        }
        let pace = if may_relay { &self.pace } else { &self.strangers_pace };
        if pace.is_too_fast(address) {
            return Err(yours("Too many connections from your address, slow down"));
        }
        let of_this = inside.by_address.entry(address).or_default();
        if *of_this >= self.sessions_per_address {
            return Err(yours("Too many sessions from your address"));
        }
        *of_this += 1;
        inside.all += 1;
        inside.strangers += usize::from(!may_relay);
        let inside = Arc::clone(&self.inside);
        Ok(Place { may_relay, address, is_stranger: !may_relay, inside })
    }

    /// Nearly all places are taken: who does not use his should leave it.
    pub(super) fn is_crowded(&self) -> bool {
        lock(&self.inside).all * 5 >= self.sessions * 4
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = lock(&self.inside);
        inside.all -= 1;
        inside.strangers -= usize::from(self.is_stranger);
        if let Some(count) = inside.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                inside.by_address.remove(&self.address);
            }
        }
    }
}

fn quota(rate: Rate) -> Option<Quota> {
    let count = NonZeroU32::new(rate.count)?;
    Quota::with_period(rate.per / rate.count).map(|quota| quota.allow_burst(count))
}

/// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::network::Networks;
    use std::time::Duration;

    fn door(limits: ReceiveLimits) -> impl Fn(&str) -> Result<Place, String> {
        let door = Door::new(&limits);
        let relay = Networks::new(vec![Networks::parse_one("10.0.0.0/8").unwrap()]);
        move |client| {
            let client = client.parse().unwrap();
            door.admit(client, relay.contains(client)).map_err(|reply| reply.to_string())
        }
    }

    fn wide() -> ReceiveLimits {
        ReceiveLimits {
            sessions: 100,
            sessions_per_address: 100,
            strangers: 100,
            ..ReceiveLimits::default()
        }
    }

    #[test]
    fn strangers_leave_room_for_those_who_may_relay() {
        let admit = door(ReceiveLimits { sessions: 3, strangers: 2, ..wide() });
        let (one, _two) = (admit("192.0.2.1").unwrap(), admit("192.0.2.2").unwrap());
        assert!(!one.may_relay);
        assert!(admit("192.0.2.3").unwrap_err().contains("of strangers"));
        let server = admit("10.0.0.1").unwrap();
        assert!(server.may_relay);
        assert!(admit("10.0.0.2").unwrap_err().starts_with("421 4.3.2 Too many sessions,"));
        drop(one);
        let mut three = admit("192.0.2.3").unwrap();
        three.is_known();
        drop(server);
        let _four = admit("192.0.2.4").unwrap();
        drop(three);
        assert!(admit("192.0.2.5").unwrap_err().contains("of strangers"));
    }

    #[test]
    fn an_address_has_its_share_and_a_strangers_network_is_one() {
        let admit = door(ReceiveLimits { sessions_per_address: 1, ..wide() });
        let first = admit("10.0.0.1").unwrap();
        assert!(admit("::ffff:10.0.0.1").unwrap_err().contains("from your address"));
        let _second = admit("10.0.0.2").unwrap();
        let _third = admit("2001:db8::1").unwrap();
        assert!(admit("2001:db8::2:3").is_err());
        let _fourth = admit("2001:db8:0:1::1").unwrap();
        drop(first);
        let _again = admit("10.0.0.1").unwrap();
    }

    #[test]
    fn strangers_come_at_their_pace_and_others_at_any() {
        let rate = Some(Rate { count: 3, per: Duration::from_secs(3_600) });
        let admit = door(ReceiveLimits { stranger_rate: rate, ..wide() });
        for _ in 0..3 {
            assert!(admit("192.0.2.1").is_ok());
        }
        assert!(admit("192.0.2.1").unwrap_err().contains("slow down"));
        assert!(admit("192.0.2.2").is_ok());
        assert!((0..50).all(|_| admit("10.0.0.1").is_ok()));
        let admit = door(ReceiveLimits { session_rate: rate, ..wide() });
        assert!((0..3).all(|_| admit("10.0.0.1").is_ok()));
        assert!(admit("10.0.0.1").unwrap_err().contains("slow down"));
        assert!(admit("10.0.0.2").is_ok());
        assert!((0..50).all(|_| admit("192.0.2.1").is_ok()));
    }

    #[test]
    fn what_is_remembered_of_strangers_is_bounded() {
        let rate = Some(Rate { count: 1_000, per: Duration::from_millis(1) });
        let door = Door::new(&ReceiveLimits { stranger_rate: rate, ..wide() });
        for n in 0..3 * u32::try_from(REMEMBERED).unwrap() {
            assert!(door.admit(IpAddr::from(n.to_be_bytes()), false).is_ok());
        }
        assert!(door.strangers_pace.limiter.unwrap().len() <= 2 * REMEMBERED);
        assert!(door.inside.lock().unwrap().by_address.is_empty());
    }
}
