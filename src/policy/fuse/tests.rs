//! Weeks of shops, hacked sites and newsletters, on a simulated clock.

use super::*;
use crate::base::random::{Rng, from_seed};
use proptest::prelude::*;

/// A Monday, 00:00.
const MONDAY: Timestamp = Timestamp(1_795_392_000_000);
const DAY_MINUTES: f64 = 1_440.0;

fn minutes(n: f64) -> Timestamp {
    MONDAY.after(MINUTE.mul_f64(n))
}

/// Sends the mail of a tenant between two minutes, `mean` a minute over the day, twice that in
/// the afternoon and none at midnight, apart by chance. When its fuse blew, if it did.
fn sends(
    fuse: &mut Fuse,
    tenant: &str,
    span: std::ops::Range<f64>,
    mean: f64,
    rng: &mut Rng,
) -> Option<(f64, Blown)> {
    let mut at = span.start;
    loop {
        // Thinning: of twice the mean, those that the hour of the day lets through.
        at += -(1.0 - rng.f64()).ln() / (2.0 * mean);
        if at >= span.end {
            return None;
        }
        let wave = (1.0 - (at / DAY_MINUTES * std::f64::consts::TAU).cos()) / 2.0;
        if rng.f64() < wave {
            let recipients = if rng.f64() < 0.02 { rng.u32(2..6) } else { 1 };
            let blown = fuse.accepted(tenant, Lane::Direct, recipients, minutes(at));
            if let Some(blown) = blown {
                return Some((at - span.start, blown));
            }
        }
    }
}

/// Outcomes of which about `percent` are unknown users; how many it took to blow.
fn outcomes(fuse: &mut Fuse, count: u32, percent: f64, rng: &mut Rng) -> Option<(u32, Blown)> {
    (0..count).find_map(|n| {
        let now = minutes(f64::from(n) / 100.0);
        let blown = fuse.outcome("c1", rng.f64() * 100.0 < percent, now)?;
        Some((n + 1, blown))
    })
}

#[test]
fn weeks_of_a_shop_never_blow_and_a_hacked_one_does_at_once() {
    for (seed, mean) in [(1, 0.1), (2, 3.0), (3, 15.0), (4, 60.0), (5, 60.0)] {
        let mut rng = from_seed(seed);
        let mut fuse = Fuse::new(FuseRules::default());
        let weeks = if mean > 15.0 { 1.0 } else { 2.0 };
        let mut normal = 0.0..weeks * 7.0 * DAY_MINUTES + DAY_MINUTES / 2.0;
        assert_eq!(sends(&mut fuse, "c1", normal.clone(), mean, &mut rng), None, "seed {seed}");
        normal = normal.end..normal.end + 30.0;
        let (after, blown) =
            sends(&mut fuse, "c1", normal.clone(), 20.0 * mean.max(10.0), &mut rng).unwrap();
        assert!(after < 2.0, "seed {seed}: after {after} minutes: {blown}");
        assert!(matches!(blown.cause, Cause::Rate { within: MINUTE, .. }), "{blown}");
        assert_eq!(sends(&mut fuse, "c1", normal, 900.0, &mut rng), None, "told once");
    }
}

#[test]
fn a_burst_below_the_minutes_floor_blows_by_the_hour() {
    let (mut fuse, mut rng) = (Fuse::new(FuseRules::default()), from_seed(1));
    assert_eq!(sends(&mut fuse, "c1", 0.0..720.0, 0.2, &mut rng), None);
    let (after, blown) = sends(&mut fuse, "c1", 720.0..900.0, 30.0, &mut rng).unwrap();
    assert!((25.0..45.0).contains(&after), "{after}");
    let text = blown.to_string();
    assert!(
        text.starts_with("2001 recipients of direct mail in 1h (limit 2000; busiest"),
        "{text}"
    );
}

#[test]
fn neighbours_are_untouched() {
    let mut fuse = Fuse::new(FuseRules::default());
    assert_eq!(fuse.accepted("c2", Lane::Direct, 10, MONDAY), None);
    let before = fuse.explain("c2", MONDAY);
    let blown = fuse.accepted("c1", Lane::Direct, 500, MONDAY).unwrap();
    assert_eq!((fuse.blown("c1"), fuse.blown("c2")), (Some(&blown), None));
    assert_eq!(fuse.explain("c2", MONDAY), before);
    assert_eq!(fuse.accepted("c2", Lane::Direct, 190, MONDAY), None);
}

#[test]
fn newsletters_are_judged_by_bounces_alone() {
    for seed in 0..20 {
        let (mut fuse, mut rng) = (Fuse::new(FuseRules::default()), from_seed(seed));
        assert_eq!(fuse.accepted("c1", Lane::Bulk, 500_000, MONDAY), None);
        assert_eq!(outcomes(&mut fuse, 50_000, 3.0, &mut rng), None, "an honest list");
        let mut fuse = Fuse::new(FuseRules::default());
        let (after, blown) = outcomes(&mut fuse, 5_000, 25.0, &mut rng).unwrap();
        assert!((100..200).contains(&after), "a bought list: {after}: {blown}");
        assert_eq!(outcomes(&mut fuse, 5_000, 99.0, &mut rng), None, "told once");
        // On a tenant with a good name, a bought list takes longer to tell.
        let mut fuse = Fuse::new(FuseRules::default());
        assert_eq!(outcomes(&mut fuse, 5_000, 1.0, &mut rng), None);
        assert!(outcomes(&mut fuse, 5_000, 25.0, &mut rng).is_some_and(|(n, _)| n < 3_000));
    }
}

#[test]
fn a_few_bounces_and_old_ones_are_none() {
    let mut fuse = Fuse::new(FuseRules::default());
    let bounce =
        |fuse: &mut Fuse, hours: u32| fuse.outcome("c1", true, minutes(f64::from(hours) * 60.0));
    assert!((0..99).all(|_| bounce(&mut fuse, 0).is_none()));
    assert!((24..1_000).all(|hour| bounce(&mut fuse, hour).is_none()), "one an hour");
    let status = fuse.explain("c1", MONDAY).unwrap();
    assert!((24..50).contains(&status.outcomes) && status.outcomes == status.bounced);
    let blown = (0..99).find_map(|_| bounce(&mut fuse, 1_000)).unwrap();
    assert_eq!(blown.to_string(), "100 of the last 100 recipients are unknown (100 %)");
}

#[test]
fn a_new_one_holds_until_it_blows_again() {
    let mut fuse = Fuse::new(FuseRules::default());
    let burst = |fuse: &mut Fuse, count| fuse.accepted("c1", Lane::Direct, count, MONDAY);
    assert_eq!(fuse.reset("c1"), None);
    assert!(burst(&mut fuse, 250).is_some() && burst(&mut fuse, 250).is_none());
    assert!(fuse.reset("c1").is_some() && fuse.reset("c1").is_none());
    assert_eq!(burst(&mut fuse, 200), None, "what blew it does not count again");
    assert!(burst(&mut fuse, 50).is_some(), "nor was it learned");
    assert!(fuse.accept_as_usual("c1").is_some() && fuse.accept_as_usual("c1").is_none());
    let minute = fuse.explain("c1", MONDAY).unwrap().minute;
    assert_eq!((minute.busiest, minute.limit), (250, Some(1_250)));
    assert_eq!(burst(&mut fuse, 1_250), None);
}

/// Hours of a burst are one; the next one, after an hour of calm, is another.
#[test]
fn where_mail_goes_on_each_burst_is_told_once() {
    let mut rng = from_seed(1);
    let mut fuse = Fuse::new(FuseRules { calm: Some(CALM), ..FuseRules::default() });
    assert_eq!(sends(&mut fuse, "c1", 0.0..720.0, 3.0, &mut rng), None);
    let busiest = fuse.explain("c1", minutes(720.0)).unwrap().minute.busiest;
    assert!(sends(&mut fuse, "c1", 720.0..960.0, 900.0, &mut rng).is_some());
    assert_eq!(sends(&mut fuse, "c1", 721.0..960.0, 900.0, &mut rng), None, "one burst");
    assert_eq!(sends(&mut fuse, "c1", 960.0..1_010.0, 3.0, &mut rng), None);
    assert!(fuse.explain("c1", minutes(1_010.0)).unwrap().blown.is_some(), "not calm for long");
    assert_eq!(sends(&mut fuse, "c1", 1_010.0..1_100.0, 3.0, &mut rng), None);
    let status = fuse.explain("c1", minutes(1_100.0)).unwrap();
    assert!(status.blown.is_none() && status.minute.busiest <= busiest, "{status:?}");
    assert!(sends(&mut fuse, "c1", 1_100.0..1_102.0, 900.0, &mut rng).is_some(), "the next");

    let bounce = |fuse: &mut Fuse, minute: f64| fuse.outcome("c2", true, minutes(minute));
    let told = |fuse: &mut Fuse, minute| (0..150).filter_map(|_| bounce(fuse, minute)).count();
    assert_eq!([0.0, 50.0, 100.0, 170.0].map(|minute| told(&mut fuse, minute)), [1, 0, 0, 1]);
    assert_eq!(fuse.explain("c2", minutes(231.0)).unwrap().blown, None);
    assert_eq!(bounce(&mut fuse, 231.0), None, "what was told of does not count again");
}

#[test]
fn what_was_learned_lasts_over_a_restart_and_fades() {
    let (mut fuse, mut rng) = (Fuse::new(FuseRules::default()), from_seed(1));
    assert_eq!(sends(&mut fuse, "busy", 0.0..7.0 * DAY_MINUTES, 30.0, &mut rng), None);
    assert_eq!(sends(&mut fuse, "calm", 0.0..7.0 * DAY_MINUTES, 0.1, &mut rng), None);
    assert!(fuse.accepted("hacked", Lane::Direct, 999, MONDAY).is_some());
    let text = serde_json::to_string(&fuse.lasting()).unwrap();
    let read: Fuse = serde_json::from_str(&text).unwrap();
    let end = minutes(7.0 * DAY_MINUTES);
    assert_eq!(read.explain("busy", end), fuse.explain("busy", end));
    assert_eq!((read.explain("calm", end), read.blown("hacked")), (None, fuse.blown("hacked")));
    let busiest = |weeks: f64| {
        read.explain("busy", end.after(MINUTE.mul_f64(weeks * 7.0 * DAY_MINUTES))).unwrap().minute
    };
    let fades = [busiest(0.0), busiest(1.0), busiest(4.0)].map(|minute| minute.busiest);
    assert!(fades[0] > 60 && fades[1] < fades[0] / 2 && fades[2] < 5, "{fades:?}");
    assert_eq!(busiest(4.0).limit, Some(200), "the floor");
}

#[test]
fn each_can_be_off() {
    let off = FuseRules { per_minute: None, per_hour: None, factor: 5, bounces: None, calm: None };
    let mut fuse = Fuse::new(off);
    assert_eq!(fuse.accepted("c1", Lane::Direct, u32::MAX, MONDAY), None);
    assert!((0..1_000).all(|_| fuse.outcome("c1", true, MONDAY).is_none()));
    assert_eq!(fuse.explain("c1", MONDAY).unwrap().hour.limit, None);
    fuse.retune(FuseRules { per_hour: Some(5_000), ..off });
    let blown = fuse.accepted("c1", Lane::Direct, 1, MONDAY).unwrap();
    assert!(matches!(blown.cause, Cause::Rate { within: HOUR, limit: 5_000, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn prop_memory_is_bounded_and_it_blows_once(seed: u64) {
        let (mut fuse, mut rng) = (Fuse::new(FuseRules::default()), from_seed(seed));
        let (mut now, mut told) = (MONDAY, 0);
        for n in 0..12_000u32 {
            now = Timestamp(now.0.saturating_add(rng.i64(-5_000..60_000)));
            let name = n.to_string();
            let lane = if rng.bool() { Lane::Direct } else { Lane::Bulk };
            fuse.accepted(&name, lane, rng.u32(..9), now);
            fuse.outcome(&name, rng.bool(), now);
            let blown = fuse.accepted("c1", Lane::Direct, rng.u32(..400), now);
            told += u32::from(blown.is_some());
            prop_assert!(told <= 1 && (told == 1) == fuse.blown("c1").is_some());
            prop_assert!(fuse.tenants.len() <= TENANTS);
        }
        prop_assert!(fuse.tenants.len() > TENANTS / 2);
    }

    #[test]
    fn prop_it_is_told_again_after_calm_alone(
        steps in proptest::collection::vec((0u64..6_000_000, 0u32..10, any::<bool>()), 1..200),
    ) {
        let rules = FuseRules { per_minute: None, calm: Some(CALM), ..FuseRules::default() };
        let (mut fuse, mut now, mut last) = (Fuse::new(rules), MONDAY, None);
        for (pause, few, is_burst) in steps {
            now = now.after(Duration::from_millis(pause));
            let count = if is_burst { 1_000_000 } else { few };
            let told = fuse.accepted("c1", Lane::Direct, count, now).is_some();
            // A burst is in the hour's count for an hour, and calm is an hour without it.
            let since = last.map_or(CALM * 2, |last| now.since(last));
            prop_assert!(!told || (is_burst && since >= CALM));
            prop_assert!(told || !is_burst || since < CALM * 2);
            last = if is_burst { Some(now) } else { last };
        }
    }

    #[test]
    fn prop_below_the_floors_nothing(
        steps in proptest::collection::vec((0u64..60_000, 0u32..40), 1..300),
    ) {
        let mut fuse = Fuse::new(FuseRules::default());
        let (mut now, mut sent, mut fullest) = (MONDAY, Vec::new(), [0; 2]);
        for (pause, count) in steps {
            now = now.after(Duration::from_millis(pause));
            sent.push((now, count));
            for (fullest, within) in fullest.iter_mut().zip([MINUTE, HOUR]) {
                let inside = sent.iter().filter(|(at, _)| now.since(*at) < within);
                *fullest = inside.map(|(_, count)| *count).sum::<u32>().max(*fullest);
            }
            let blown = fuse.accepted("c1", Lane::Direct, count, now);
            prop_assert!(blown.is_none() || fullest[0] > 200 || fullest[1] > 2_000);
        }
    }
}
