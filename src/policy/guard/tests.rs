//! Guesses one by one and at once, on a simulated clock.

use super::*;
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);
const T: Timestamp = Timestamp(1_795_394_728_114);

fn guard(failures: u32, user_failures: u32) -> Guard {
    let rate = |count| Some(Rate { count, per: 10 * MINUTE });
    let (failures, user_failures) = (rate(failures), rate(user_failures));
    Guard::new(Terms { failures, user_failures, block: 15 * MINUTE })
}

impl Guard {
    /// An attempt that was begun just now, or is under way already, and fails.
    fn fails(&mut self, address: IpAddr, user: &str, now: Timestamp) -> Vec<Block> {
        let attempt = Attempt(self.counts(address, user, now));
        self.failed(&attempt, now)
    }
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
        assert_eq!(guard.fails(a, user, T), []);
        assert_eq!(guard.may(a, "c", T), Ok(()));
    }
    let block = Block { whom: Whom::Address(a), until: T.after(15 * MINUTE), repeated: 1 };
    assert_eq!(guard.fails(a, "c", T), std::slice::from_ref(&block));
    assert_eq!(guard.may(a, "d", T), until(15));
    assert_eq!(guard.may(ip("::ffff:192.0.2.7"), "d", T), until(15));
    assert_eq!(guard.may(ip("192.0.2.8"), "d", T), Ok(()));
    assert_eq!(guard.blocks(T), [block]);
    assert_eq!(guard.fails(a, "late", T), [], "was under way");
    let end = T.after(15 * MINUTE);
    assert_eq!((guard.may(a, "d", end), guard.blocks(end)), (Ok(()), vec![]));
}

#[test]
fn failures_far_apart_block_nobody() {
    let (mut guard, a) = (guard(3, 3), ip("192.0.2.7"));
    for n in 0..20 {
        assert_eq!(guard.fails(a, "a", T.after(n * 6 * MINUTE)), []);
    }
}

#[test]
fn a_v6_network_is_one_address_and_a_v4_one_is_not() {
    let mut guard = guard(2, 100);
    guard.fails(ip("2001:db8:0:1::1"), "a", T);
    let blocks = guard.fails(ip("2001:db8:0:1:ffff::2"), "b", T);
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
        guard.fails(ip(&format!("198.51.100.{n}")), "shop", T);
    }
    assert_eq!(guard.may(ip("198.51.100.9"), "shop", T), until(15));
    assert_eq!(guard.may(home, "shop", T), Ok(()));
    let later = T.after(KNOWN_FOR);
    for n in 1..=3 {
        guard.fails(ip(&format!("198.51.100.{n}")), "shop", later);
    }
    assert!(guard.may(home, "shop", later).is_err(), "known no more");
}

#[test]
fn a_known_user_is_judged_by_his_own_failures() {
    let (mut guard, home) = (guard(3, 3), ip("192.0.2.7"));
    for user in ["shop", "other"] {
        guard.succeeded(home, user, T);
    }
    let blocks: Vec<_> = (0..3).flat_map(|_| guard.fails(home, "shop", T)).collect();
    assert_eq!(blocks[0].whom, Whom::known(home, "shop"));
    assert_eq!(blocks[0].whom.to_string(), "shop at 192.0.2.7");
    assert_eq!(guard.may(home, "shop", T), until(15), "no unlimited guesses");
    assert_eq!(guard.may(home, "other", T), Ok(()));
    assert_eq!(guard.may(ip("192.0.2.8"), "shop", T), Ok(()));
    assert_eq!(guard.may(home, "stranger", T), Ok(()));
    for _ in 0..3 {
        guard.fails(home, "stranger", T);
    }
    assert_eq!(guard.may(home, "new", T), until(15));
    assert_eq!(guard.may(home, "other", T), Ok(()));
}

#[test]
fn no_limit_blocks_nobody_and_other_terms_hold_from_then_on() {
    let (mut guard, a) = (Guard::new(Terms::default()), ip("192.0.2.7"));
    assert!((0..1_000).all(|_| guard.fails(a, "a", T).is_empty()));
    let failures = Some(Rate { count: 1, per: MINUTE });
    guard.set_terms(Terms { failures, user_failures: None, block: MINUTE });
    assert_eq!(guard.fails(a, "a", T).len(), 1);
    assert_eq!(guard.may(a, "a", T), until(1));
}

#[test]
fn strangers_are_forgotten_and_customers_are_not() {
    let (mut guard, home) = (guard(1, 1_000_000), ip("192.0.2.7"));
    guard.succeeded(home, "shop", T);
    let nth = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    for n in 0..12_000 {
        guard.fails(nth(n), &format!("u{n}"), T);
    }
    assert_eq!((guard.addresses.entries.len(), guard.addresses.order.len()), (10_000, 10_000));
    assert_eq!((guard.users.entries.len(), guard.users.order.len()), (10_000, 10_000));
    assert_eq!(guard.may(nth(1_999), "x", T), Ok(()), "the oldest");
    assert_eq!(guard.may(nth(2_000), "x", T), until(15));
    guard.fails(home, "x", T);
    assert_eq!(guard.may(home, "shop", T), Ok(()));
}

#[test]
fn of_many_at_once_so_many_are_tried_as_may_fail() {
    let (mut guard, a, b) = (guard(3, 5), ip("192.0.2.7"), ip("192.0.2.8"));
    let mut begin =
        |address, user: &str| guard.begin(address, user, T).map(|begun| begun.is_some());
    assert_eq!([(); 4].map(|()| begin(a, "ann")), [Ok(true), Ok(true), Ok(true), Ok(false)]);
    assert_eq!(begin(a, "bob"), Ok(false), "of the same address");
    assert_eq!([(); 3].map(|()| begin(b, "ann")), [Ok(true), Ok(true), Ok(false)], "of all");
    assert_eq!(begin(b, "bob"), Ok(true));
    guard.set_terms(Terms::default());
    assert!(guard.begin(a, "ann", T).is_ok_and(|begun| begun.is_some()), "no limit");
}

#[test]
fn who_logs_in_often_at_once_waits_for_nobody_who_failed() {
    let (mut guard, a) = (guard(3, 3), ip("192.0.2.7"));
    let first = guard.begin(a, "shop", T).unwrap().unwrap();
    let others = [(); 2].map(|()| guard.begin(a, "shop", T).unwrap().unwrap());
    assert!(guard.begin(a, "shop", T).unwrap().is_none());
    guard.succeeded(a, "shop", T);
    guard.end(&first);
    let known = guard.begin(a, "shop", T).unwrap().unwrap();
    assert_eq!(known.0, [Whom::known(a, "shop")]);
    guard.failed(&others[0], T);
    others.iter().chain([&known]).for_each(|attempt| guard.end(attempt));
    assert!(guard.under_way.is_empty());
    // Fewer are allowed than have failed already: one at a time is looked at.
    guard.failed(&others[0], T);
    guard.set_terms(Terms { failures: Some(Rate { count: 1, per: 10 * MINUTE }), ..guard.terms });
    assert!(guard.begin(a, "other", T).unwrap().is_some());
    assert!(guard.begin(a, "other", T).unwrap().is_none());
}

proptest! {
    #[test]
    fn prop_no_more_fail_than_are_allowed(
        most in 1..5u32,
        calls in prop::collection::vec((0..8u8, 0..2u8, 0..2u8, 0..40u64), 0..300),
    ) {
        let (mut guard, mut now, mut under_way) = (guard(most, most + 1), T, Vec::new());
        for (call, address, user, seconds) in calls {
            now = now.after(Duration::from_secs(seconds));
            let (address, user) = (IpAddr::from([10, 0, 0, address]), format!("u{user}"));
            if call < 4 || under_way.is_empty() {
                if let Ok(Some(attempt)) = guard.begin(address, &user, now) {
                    under_way.push((attempt, address, user));
                }
            } else {
                let any = usize::from(call) * 7 % under_way.len();
                let (attempt, address, user) = under_way.swap_remove(any);
                match call {
                    4..=6 => _ = guard.failed(&attempt, now),
                    _ => guard.succeeded(address, &user, now),
                }
                guard.end(&attempt);
            }
            for (whom, count) in &guard.under_way {
                let (entry, allowed) = guard.look_up(whom);
                let allowed = allowed.unwrap();
                let failed = entry.map_or(0, |entry| entry.recent(allowed, now));
                prop_assert!(failed + count <= allowed.count);
            }
            let counted: u32 = guard.under_way.values().sum();
            let held: usize = under_way.iter().map(|(attempt, ..)| attempt.0.len()).sum();
            prop_assert_eq!(counted as usize, held);
        }
    }

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
                _ => _ = guard.fails(address, &user, now),
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
            let blocks: Vec<_> = (0..most).flat_map(|_| guard.fails(a, "a", now)).collect();
            prop_assert_eq!(blocks.len(), 1);
            let length = blocks[0].until.since(now);
            prop_assert_eq!(length, block.saturating_mul(1 << n).min(BLOCK_MAX));
            let last = blocks[0].until.before(Duration::from_millis(1));
            prop_assert_eq!(guard.may(a, "a", last), Err(Blocked { until: blocks[0].until }));
            now = blocks[0].until;
            prop_assert_eq!(guard.may(a, "a", now), Ok(()));
        }
        now = now.after(FORGIVEN_AFTER);
        let last = (0..most).flat_map(|_| guard.fails(a, "a", now)).next().unwrap();
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
            guard.fails(a, "u", now);
            guard.fails(a, "u", now);
        }
        prop_assert!(guard.blocks(now).iter().any(|block| block.whom == whom));
        prop_assert!(guard.lift(&whom, now));
        prop_assert!(!guard.lift(&whom, now));
        prop_assert!(guard.blocks(now).iter().all(|block| block.whom != whom));
        prop_assert!(guard.fails(a, "u", now).iter().all(|block| block.whom != whom));
        let again = guard.fails(a, "u", now).into_iter().find(|block| block.whom == whom);
        prop_assert_eq!(again.map(|block| block.repeated), Some(1));
        if kind == 2 {
            guard.lift(&whom, now);
            prop_assert_eq!(guard.may(a, "u", now), Ok(()), "still known");
        }
    }
}
