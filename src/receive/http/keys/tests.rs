//! Keys over restarts, at their bounds, and with a file that was cut off.

use super::*;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_795_394_728_114);
const MOST: u64 = 1 << 20;

fn id(number: i64) -> MessageId {
    MessageId::from_number(number).unwrap()
}

fn request<'a>(tenant: &'a str, key: &'a str, body: u8, total: usize) -> Request<'a> {
    Request { tenant, key: key.as_bytes(), body: [body; 32], total }
}

fn open(dir: &Path, now: Timestamp) -> Arc<Keys> {
    Arc::new(Keys::open(dir, now).unwrap())
}

fn status(got: Result<Claim, Problem>) -> u16 {
    got.map_or_else(|problem| problem.status, |_| 200)
}

#[tokio::test]
async fn what_was_recorded_is_known_after_a_restart_and_for_a_day() {
    let dir = tempfile::tempdir().unwrap();
    {
        let keys = open(dir.path(), NOW);
        let claim = keys.begin(&request("a", "k", 1, 3), MOST, NOW).unwrap_or_else(|_| panic!());
        assert!(claim.known.is_empty());
        claim.record(vec![(0, id(5))]).await;
        claim.record(vec![(2, id(9))]).await;
        assert_eq!(status(keys.begin(&request("a", "k", 1, 3), MOST, NOW)), 409, "under way");
        drop(claim);
        assert_eq!(status(keys.begin(&request("a", "k", 2, 3), MOST, NOW)), 422, "another body");
    }
    let keys = open(dir.path(), NOW.after(Duration::from_secs(60)));
    let known = |tenant, now| {
        let claim = keys.begin(&request(tenant, "k", 1, 3), MOST, now);
        claim.unwrap_or_else(|_| panic!()).known.clone()
    };
    assert_eq!(known("a", NOW), BTreeMap::from([(0, id(5)), (2, id(9))]));
    assert!(known("b", NOW).is_empty(), "a key is its customer's own");
    assert!(known("a", NOW.after(KNOWN_FOR)).is_empty());
}

#[tokio::test]
async fn of_a_request_that_came_to_nothing_nothing_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), NOW);
    assert_eq!(status(keys.begin(&request("a", "k", 1, 1), MOST, NOW)), 200);
    assert_eq!(status(keys.begin(&request("a", "k", 2, 1), MOST, NOW)), 200);
    assert_eq!(lock(&keys.table).weight, 0);
    assert!(lock(&keys.table).weight_of.is_empty());
}

#[tokio::test]
async fn a_customer_fills_only_his_share() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), NOW);
    let mut claims = Vec::new();
    let mut last = 200;
    for n in 0..10_000 {
        let key = n.to_string();
        match keys.begin(&request("a", &key, 1, 1), MOST, NOW) {
            Ok(claim) => claims.push(claim),
            Err(problem) => {
                last = problem.status;
                break;
            }
        }
    }
    assert_eq!(last, 429);
    assert!(lock(&keys.table).weight <= MOST / SHARE);
    assert_eq!(status(keys.begin(&request("b", "k", 1, 1), MOST, NOW)), 200);
}

#[tokio::test]
async fn the_file_does_not_grow_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(dir.path(), NOW);
    let claim = keys.begin(&request("a", "k", 1, 1), MOST, NOW).unwrap_or_else(|_| panic!());
    let length = || std::fs::metadata(dir.path().join("http-keys")).unwrap().len();
    // The same again and again; only the last counts.
    let kept: Vec<_> = (0..1_000).map(|n| (n, id(i64::from(n)))).collect();
    let mut longest = 0;
    for _ in 0..100 {
        claim.record(kept.clone()).await;
        longest = longest.max(length());
    }
    let one = Line {
        key: claim.key,
        tenant: "a".into(),
        body: [1; 32],
        at: NOW,
        total: 1,
        taken: kept.clone(),
    };
    assert!(longest < (1 << 20) + 2 * one.to_bytes().len() as u64, "{longest}");
    drop(claim);
    let again = open(dir.path(), NOW).begin(&request("a", "k", 1, 1), MOST, NOW);
    assert_eq!(again.unwrap_or_else(|_| panic!()).known.len(), 1_000);
    assert!(length() <= one.to_bytes().len() as u64, "a new start writes it anew");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_that_was_cut_off_or_spoilt_loses_no_other_line(cut in 0usize..2_000, flip: bool) {
        let dir = tempfile::tempdir().unwrap();
        let line = |n: u8| Line {
            key: [n; 32],
            tenant: "a".into(),
            body: [n; 32],
            at: NOW,
            total: 1,
            taken: vec![(0, id(i64::from(n)))],
        };
        let lines: Vec<Vec<u8>> = (0..5).map(|n| line(n).to_bytes()).collect();
        let mut bytes = lines.concat();
        let at = cut % bytes.len();
        let hit = lines.iter().scan(0, |end, l| { *end += l.len(); Some(*end) });
        let hit = hit.take_while(|end| *end <= at).count();
        if flip {
            bytes[at] ^= 1;
        } else {
            bytes.truncate(at);
        }
        std::fs::write(dir.path().join("http-keys"), &bytes).unwrap();
        let mut found = Vec::new();
        file::read(dir.path(), |line| found.push(line)).unwrap();
        let whole: Vec<Line> = (0..5).map(line).collect();
        prop_assert!(found.iter().all(|line| whole.contains(line)));
        prop_assert!(found.len() >= hit, "{} of {hit}", found.len());
        prop_assert!(!flip || found.len() >= 3, "a spoilt line end takes two lines at most");
    }
}
