//! The configuration file is changed while the node runs: all of it holds, or nothing, and nobody
//! who is connected notices.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::Duration;
use support::{Client, Dns, Node, PATIENCE, Setup, Sink, message, stays, wait_until};

struct Bench {
    _dns: Dns,
    sink: Sink,
}

impl Bench {
    fn new() -> (Self, Setup) {
        let (dns, sink) = support::receiver();
        let setup = Setup::with(&dns, &sink).set("lanes.bulk", "gather", "\"0s\"");
        (Self { _dns: dns, sink }, setup)
    }
}

/// Changes the node's file.
fn edit(node: &Node, change: impl FnOnce(String) -> String) {
    let file = node.config();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, change(text)).unwrap();
}

/// What a reload that is refused says.
fn refused(node: &Node) -> String {
    let output = node.cli(&["reload"]);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn newsletters(node: &Node, names: impl Iterator<Item = usize>) {
    for n in names {
        let body = message::newsletter(&format!("n{n}"));
        let reply =
            Client::hello(node.address()).mail("news@s.test", &[&format!("r{n}@d.test")], &body);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }
}

#[test]
fn a_rate_is_changed_and_what_was_used_of_it_counts() {
    let (bench, setup) = Bench::new();
    let node = setup.raw("[sites.\"d.test\"]\nrate = \"10/h\"\n").start();
    newsletters(&node, 0..30);
    let arrived = || bench.sink.recipients().len();
    wait_until(PATIENCE, "what the rate lets go", || arrived() >= 1);
    assert!(stays(Duration::from_secs(1), || arrived() == 1), "one in six minutes");
    edit(&node, |text| text + "\n[[tenants]]\nname = \"shop\"\nsender_domains = [\"shop.test\"]\n");
    let said = node.ok(&["reload"]);
    assert!(said.starts_with("the node goes on with /"), "{said}");
    assert!(stays(Duration::from_secs(1), || arrived() == 1), "what was used counts");
    edit(&node, |text| text.replace("10/h", "6000/min"));
    node.signal("HUP");
    node.wait_until_empty();
    assert_eq!(arrived(), 30);
    assert_eq!(node.log().matches("node.reloaded").count(), 2);
    assert!(node.log().contains("by=\"SIGHUP\""));
    let shown = node.ok(&["throttle", "show", "d.test"]);
    assert!(shown.contains("6000/min"), "{shown}");
}

#[test]
fn a_file_that_is_not_in_order_or_takes_a_restart_changes_nothing() {
    let (bench, setup) = Bench::new();
    let node = setup.raw("[sites.\"d.test\"]\nconnections = 3\n").start();
    let good = std::fs::read_to_string(node.config()).unwrap();
    edit(&node, |text| text.replace("connections = 3", "connections = 0"));
    let wrong = refused(&node);
    assert!(wrong.contains("connections = 0: must be 1 to 1000"), "{wrong}");
    node.signal("HUP");
    wait_until(PATIENCE, "the log says so", || node.log().contains("node.not_reloaded"));

    // A client that is connected meanwhile is served, by what holds.
    let mut client = Client::hello(node.address());
    edit(&node, |_| good.replace("connections = 3", "connections = 4") + "\n[limits]\nhops = 7\n");
    let fixed = refused(&node);
    assert!(fixed.contains("[limits]: changed, which takes a restart"), "{fixed}");
    let connections = |wanted: u32| {
        let shown = node.json(&["throttle", "show", "d.test", "--json"]);
        let found = shown["limits"].as_array().unwrap().iter().find(|l| l["key"] == "connections");
        assert_eq!(found.unwrap()["value"], wanted, "{shown}");
    };
    connections(3);
    edit(&node, |_| good.replace("connections = 3", "connections = 4"));
    node.ok(&["reload"]);
    connections(4);
    assert_eq!(client.mail("a@s.test", &["r@d.test"], &message::direct("kept")).code, 250);
    bench.sink.wait_for("kept");
}

#[test]
fn the_door_follows_for_whoever_comes_next() {
    let (bench, setup) = Bench::new();
    let node = setup.start();
    let send = |name: &str, body: &[u8]| {
        let reply = Client::hello(node.address()).mail("a@s.test", &["r@d.test"], body);
        assert_eq!(reply.code, 250, "{name}: {}", reply.text);
        bench.sink.wait_for(name);
    };
    let lane = |name: &str| {
        let log = node.log();
        let mut accepted = log.lines().filter(|line| line.contains("message.accepted"));
        accepted.next_back().is_some_and(|line| line.contains(&format!("lane=\"{name}\"")))
    };
    let marked = |name: &str| {
        let plain = String::from_utf8(message::direct(name)).unwrap();
        format!("X-Mailing: yes\r\n{plain}").into_bytes()
    };
    send("before", &marked("before"));
    assert!(lane("direct"));
    edit(&node, |text| {
        assert!(text.contains("[lanes.bulk]"), "{text}");
        text.replace("[lanes.bulk]", "[lanes.bulk]\nheaders = [\"X-Mailing\"]")
    });
    node.ok(&["reload"]);
    send("after", &marked("after"));
    assert!(lane("bulk"), "{}", node.log());
}
