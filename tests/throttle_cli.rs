//! What an operator orders while the node runs: it holds at once, after a kill, and until its end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use serde_json::Value;
use std::time::Duration;
use support::{Client, Dns, Node, PATIENCE, Setup, Sink, message, stays, wait_until};

/// A node with one receiver.
struct Bench {
    node: Node,
    sink: Sink,
    _dns: Dns,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.a("mx.d.test", "127.0.0.2");
        dns.mx("d.test", &[(10, "mx.d.test")]);
        sink.host("127.0.0.2");
        let setup = Setup::with(&dns, &sink).set("sites.default", "connections", "4");
        Self { node: setup.start(), sink, _dns: dns }
    }

    #[track_caller]
    fn send(&self, name: &str) {
        let body = message::direct(name);
        let reply = Client::hello(self.node.address()).mail("ann@s.test", &["r@d.test"], &body);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    /// A limit of d.test as `throttle show` has it: value, where from.
    #[track_caller]
    fn limit(&self, key: &str) -> (Value, String) {
        let shown = self.node.json(&["throttle", "show", "d.test", "--json"]);
        let limits = shown["limits"].as_array().unwrap().clone();
        let found = limits.iter().find(|limit| limit["key"] == key).unwrap();
        (found["value"].clone(), found["origin"]["from"].as_str().unwrap().to_string())
    }
}

#[test]
fn an_override_holds_after_a_kill_until_it_is_cleared() {
    let mut bench = Bench::new();
    assert_eq!(bench.limit("connections"), (4.into(), "config".into()));
    assert_eq!(bench.limit("rate"), (serde_json::json!([]), "default".into()));
    bench.node.ok(&["throttle", "set", "d.test", "rate=1/h", "connections=2", "--for", "2h"]);
    let live = |value: Value| (value, "live".to_string());
    assert_eq!(bench.limit("connections"), live(2.into()));

    bench.node.kill();
    assert_eq!(bench.limit("connections"), live(2.into()), "read without a node");
    let refused = bench.node.cli(&["throttle", "set", "d.test", "connections=3"]);
    assert_eq!(refused.status.code(), Some(2), "changed by a node alone");
    bench.node.start();
    assert_eq!(bench.limit("connections"), live(2.into()));
    assert_eq!(bench.limit("rate"), live(serde_json::json!(["1/h"])));

    bench.send("first");
    bench.sink.wait_for("first");
    bench.send("second");
    let why = || bench.node.queue_json()["sites"][0]["why"].to_string();
    wait_until(PATIENCE, "the rate is waited for", || why().contains("1/h messages are used up"));
    assert!(stays(Duration::from_millis(300), || bench.sink.count() == 1));
    bench.node.ok(&["throttle", "clear", "d.test", "rate"]);
    bench.sink.wait_for("second");
    assert_eq!(bench.limit("rate"), (serde_json::json!([]), "default".into()));
    let log = bench.node.log();
    for event in ["order.throttle_set", "order.throttle_cleared"] {
        assert!(log.contains(event), "{event} is missing:\n{log}");
    }
    let refused = bench.node.cli(&["throttle", "set", "d.test", "connections=0"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn an_order_ends_by_itself() {
    let bench = Bench::new();
    bench.node.ok(&["throttle", "set", "d.test", "rate=1/h", "--for", "2s"]);
    bench.send("first");
    bench.sink.wait_for("first");
    bench.send("second");
    bench.sink.wait_for("second");
    assert_eq!(bench.limit("rate"), (serde_json::json!([]), "default".into()));
    wait_until(PATIENCE, "its end is told", || bench.node.log().contains("order.expired"));
    assert_eq!(bench.node.json(&["throttle", "show", "--json"]), serde_json::json!([]));
}

#[test]
fn a_damaged_file_of_orders_does_not_stop_the_node() {
    let mut bench = Bench::new();
    bench.node.ok(&["suspend", "--tenant", "c1", "--reason", "list bought"]);
    let listed = bench.node.json(&["suspend", "--list", "--json"]);
    assert_eq!((&listed[0]["tenant"], &listed[0]["reason"]), (&"c1".into(), &"list bought".into()));
    bench.node.kill();
    let file = bench.node.data_dir().join("orders.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    bench.node.start();
    assert!(bench.node.log().contains("orders.unreadable"));
    let aside = std::fs::read_to_string(file.with_extension("json.damaged")).unwrap();
    assert_eq!(aside, text[..text.len() / 2]);
    assert_eq!(bench.node.json(&["suspend", "--json"]), serde_json::json!([]));
    bench.send("after");
    bench.sink.wait_for("after");
}
