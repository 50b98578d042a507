//! A queue whose files are lost or damaged: what can be told from the journal goes on, and what
//! cannot is told of.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Client, Dns, Node, PATIENCE, Setup, Sink, message, wait_until};

struct Bench {
    dns: Dns,
    sink: Sink,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = support::receiver();
        Self { dns, sink }
    }

    /// A node with so many messages, all held; then it is killed.
    fn killed_with(&self, count: usize) -> Node {
        let setup = Setup::with(&self.dns, &self.sink).retry_every(Duration::from_secs(1));
        let mut node = setup.start();
        node.ok(&["queue", "hold", "--all"]);
        let mut client = Client::hello(node.address());
        for n in 0..count {
            let sent = message::direct(&format!("kept{n}"));
            assert_eq!(client.mail("a@s.test", &[&format!("r{n}@d.test")], &sent).code, 250);
        }
        node.kill();
        node
    }

    /// Releases all; `kept{n}` of these numbers arrive, each once.
    fn release(&self, node: &Node, numbers: impl Iterator<Item = usize> + Clone) {
        node.ok(&["queue", "release", "--all"]);
        for n in numbers.clone() {
            self.sink.wait_for(&format!("kept{n}"));
        }
        for n in numbers {
            assert_eq!(self.sink.with_id(&format!("kept{n}")).len(), 1, "kept{n}");
        }
    }
}

fn remove_database(dir: &Path) {
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        _ = fs::remove_file(dir.join(name));
    }
}

/// The file of the journal that holds these bytes, and where.
fn find(dir: &Path, wanted: &str) -> (PathBuf, usize) {
    for entry in fs::read_dir(dir.join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(wanted.len()).position(|bytes| bytes == wanted.as_bytes());
        if let Some(at) = at {
            return (path, at);
        }
    }
    panic!("{wanted} is not in the journal");
}

#[test]
fn a_lost_database_is_made_anew_at_the_start() {
    let bench = Bench::new();
    let mut node = bench.killed_with(20);
    remove_database(node.data_dir());
    node.start();
    let totals = node.totals();
    assert_eq!(totals.ready + totals.held, 20);
    bench.release(&node, 0..20);
    node.wait_until_empty();
    node.terminate();
    node.ok(&["queue", "check"]);
}

#[test]
fn a_damaged_database_is_put_aside_and_made_anew() {
    let bench = Bench::new();
    let mut node = bench.killed_with(20);
    remove_database(node.data_dir());
    fs::write(node.data_dir().join("queue.db"), vec![0x5a; 40_000]).unwrap();
    node.start();
    assert!(node.log().contains("index.damaged"), "{}", node.log());
    assert_eq!(fs::read(node.data_dir().join("queue.db.damaged")).unwrap(), vec![0x5a; 40_000]);
    bench.release(&node, 0..20);
    node.wait_until_empty();
    node.terminate();
    node.ok(&["queue", "check"]);
}

#[test]
fn random_damage_to_the_database_loses_nothing() {
    let bench = Bench::new();
    let mut node = bench.killed_with(60);
    // Listed, so that it is all in the database.
    node.ok(&["queue", "list"]);
    let path = node.data_dir().join("queue.db");
    let mut bytes = fs::read(&path).unwrap();
    let mut at = 12_345_usize;
    for _ in 0..100 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = (at >> 20) % bytes.len();
        bytes[place] ^= 0x41;
    }
    fs::write(&path, &bytes).unwrap();
    // Not all damage stops a start; whoever looks finds it, and it can be mended.
    let checked = node.cli(&["queue", "check"]);
    assert_ne!(checked.status.code(), Some(0));
    node.ok(&["queue", "rebuild"]);
    node.ok(&["queue", "check"]);
    node.start();
    bench.release(&node, 0..60);
    node.wait_until_empty();
}

#[test]
fn a_damaged_record_costs_its_message_alone_and_is_told_of() {
    let bench = Bench::new();
    let mut node = bench.killed_with(5);
    // All is in the database before the record is damaged.
    node.ok(&["queue", "list"]);
    let (path, at) = find(node.data_dir(), "kept2");
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 0x01;
    fs::write(&path, bytes).unwrap();

    let checked = node.cli(&["queue", "check"]);
    let told = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{told}");
    assert!(told.contains("damaged") && told.contains("message of"), "{told}");

    node.start();
    bench.release(&node, [0, 1, 3, 4].into_iter());
    wait_until(PATIENCE, "the damage is told of", || node.log().contains("record.damaged"));
    let listed = node.ok(&["queue", "list"]);
    assert!(listed.contains("r2@d.test") && !listed.contains("r1@d.test"), "{listed}");
    node.terminate();

    // From the journal alone it cannot be brought back; its bytes are kept.
    let rebuilt = node.cli(&["queue", "rebuild"]);
    let told = String::from_utf8(rebuilt.stderr).unwrap();
    assert_eq!(rebuilt.status.code(), Some(1), "{told}");
    assert!(told.contains("are kept in"), "{told}");
    let kept = fs::read_dir(node.data_dir().join("damaged")).unwrap().next().unwrap().unwrap();
    let kept = String::from_utf8_lossy(&fs::read(kept.path()).unwrap()).into_owned();
    assert!(kept.contains("r2@d.test"), "{kept}");
}

#[test]
fn a_rebuild_gives_the_queue_that_was_there() {
    let bench = Bench::new();
    let mut node = bench.killed_with(12);
    node.start();
    node.ok(&["queue", "delete", "--yes", "--recipient", "r3@d.test"]);
    node.ok(&["queue", "hold", "--recipient", "r4@d.test"]);
    let refused = node.cli(&["queue", "check"]);
    assert_eq!(refused.status.code(), Some(2), "a node has it");
    node.terminate();
    let before = node.ok(&["queue", "list", "--json"]);
    node.ok(&["queue", "check"]);
    node.ok(&["queue", "rebuild"]);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&node.ok(&["queue", "list", "--json"])), sorted(&before));
    node.ok(&["queue", "check"]);
    node.start();
    bench.release(&node, (0..12).filter(|n| ![3, 4].contains(n)));
    assert_eq!(node.totals().held, 1);
}
