//! The queue as an operator sees it: lanes, totals, and the verbs that list and change it, with a
//! node running and without one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use serde_json::Value;
use std::time::Duration;
use support::{Client, Dns, Node, PATIENCE, Rule, Setup, Sink, Stage, message, stays, wait_until};

/// A node with one receiver for every domain used here.
struct Bench {
    node: Node,
    sink: Sink,
    host: std::sync::Arc<support::Host>,
    _dns: Dns,
}

impl Bench {
    fn new() -> Self {
        Self::with(|setup| setup)
    }

    fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.a("mx.d.test", "127.0.0.2");
        for domain in ["d.test", "e.test", "s.test", "other.test"] {
            dns.mx(domain, &[(10, "mx.d.test")]);
        }
        let host = sink.host("127.0.0.2");
        Self { node: change(Setup::with(&dns, &sink)).start(), sink, host, _dns: dns }
    }

    /// Everything waits; then four messages of two lanes, two senders, two domains.
    fn held() -> Self {
        let bench = Self::new();
        bench.node.ok(&["queue", "hold", "--all"]);
        bench.send("ann@s.test", &["r1@d.test"], &message::direct("direct-d"));
        bench.send("ann@s.test", &["r2@e.test"], &message::direct("direct-e"));
        bench.send("bob@other.test", &["r3@d.test", "r4@e.test"], &message::newsletter("bulk-1"));
        bench.send("bob@other.test", &["r5@d.test"], &message::newsletter("bulk-2"));
        bench
    }

    #[track_caller]
    fn send(&self, sender: &str, recipients: &[&str], body: &[u8]) {
        let reply = Client::hello(self.node.address()).mail(sender, recipients, body);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    /// `queue list --json` with more words: one object per delivery.
    #[track_caller]
    fn list(&self, words: &[&str]) -> Vec<Value> {
        let words = [&["queue", "list", "--json"], words].concat();
        self.node.json(&words).as_array().expect("an array of deliveries").clone()
    }

    /// The recipients of such a list, sorted.
    #[track_caller]
    fn recipients(&self, words: &[&str]) -> Vec<String> {
        let text =
            |delivery: &Value| delivery["recipient"].as_str().expect("recipient").to_string();
        let mut recipients: Vec<String> = self.list(words).iter().map(text).collect();
        recipients.sort();
        recipients
    }
}

#[test]
fn the_header_decides_the_lane() {
    let bench = Bench::new();
    bench.node.ok(&["queue", "hold", "--all"]);
    let fields = [
        ("yes", "X-Newsletter: yes\r\n", "bulk"),
        ("one", "x-newsletter:1\r\n", "bulk"),
        ("named", "X-NEWSLETTER: spring sale\r\n", "bulk"),
        ("folded", "X-Newsletter:\r\n yes\r\n", "bulk"),
        ("no", "X-Newsletter: no\r\n", "direct"),
        ("false", "X-Newsletter: False\r\n", "direct"),
        ("none", "", "direct"),
        ("like", "X-Newsletter-Id: yes\r\nXX-Newsletter: yes\r\n", "direct"),
    ];
    for (name, field, _) in fields {
        bench.send(
            "ann@s.test",
            &[&format!("{name}@d.test")],
            &message::message(name, field, "x\r\n"),
        );
    }
    // In the body it means nothing.
    bench.send(
        "ann@s.test",
        &["body@d.test"],
        &message::message("body", "", "X-Newsletter: yes\r\n"),
    );
    for (name, field, lane) in fields.into_iter().chain([("body", "", "direct")]) {
        let found = bench.list(&["--recipient", &format!("{name}@d.test")]);
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0]["lane"], lane, "{name}: {field:?}");
    }
}

#[test]
fn the_newsletter_header_is_stripped_where_config_says_so() {
    let bench = Bench::with(|setup| setup.set("lanes.bulk", "strip", "[\"X-Newsletter\"]"));
    bench.send("ann@s.test", &["r@d.test"], &message::newsletter("stripped"));
    let got = bench.sink.wait_for("stripped").body;
    let unmarked = message::message("stripped", "", "News of the day.\r\n");
    message::assert_relayed(&unmarked, &got);
}

#[test]
fn newsletters_gather_and_direct_mail_does_not_wait() {
    let bench = Bench::with(|setup| setup.set("lanes.bulk", "gather", "\"1h\""));
    bench.send("ann@s.test", &["r1@d.test"], &message::newsletter("bulk"));
    bench.send("ann@s.test", &["r2@d.test"], &message::direct("direct"));
    bench.sink.wait_for("direct");
    assert!(stays(Duration::from_millis(500), || bench.sink.count() == 1));
    assert_eq!(bench.node.totals().ready, 1);
}

#[test]
fn a_rate_that_is_used_up_is_named_and_holds_what_comes_after() {
    for (key, rate, what) in [
        ("rate", r#"["100/s", "1/h"]"#, "1/h messages are used up (until "),
        ("connection_rate", r#"["10/s", "1/h"]"#, "1/h new connections are used up (until "),
    ] {
        let bench = Bench::with(|setup| {
            setup.set("sites.default", key, rate).set(
                "sites.default",
                "deliveries_per_connection",
                "1",
            )
        });
        bench.send("ann@s.test", &["r1@d.test"], &message::direct("first"));
        bench.sink.wait_for("first");
        bench.send("ann@s.test", &["r2@d.test"], &message::direct("second"));
        let why = || bench.node.queue_json()["sites"][0]["why"].to_string();
        wait_until(PATIENCE, what, || why().contains(what));
        // With the rate of messages, without a connection; the other needs none to wait.
        wait_until(PATIENCE, "nothing is open", || {
            bench.node.queue_json()["sites"][0]["connections"] == 0
        });
        assert!(stays(Duration::from_millis(300), || bench.sink.count() == 1), "{key}");
    }
}

#[test]
fn totals_add_up() {
    let bench = Bench::new();
    bench.host.rule(Rule::reply(Stage::Rcpt, "451 4.2.0 Later").containing("later"));
    bench.send(
        "ann@s.test",
        &["later1@d.test", "later2@e.test", "ok@d.test"],
        &message::direct("m"),
    );
    wait_until(PATIENCE, "two are deferred", || bench.node.totals().deferred == 2);
    let totals = bench.node.totals();
    assert_eq!((totals.ready, totals.leased, totals.held), (0, 0, 0));
    let table = bench.node.ok(&["queue"]);
    assert!(table.contains("SITE") && table.contains("total"), "{table}");
    let deferred = bench.list(&["--recipient", "later1@d.test"]);
    assert_eq!(deferred[0]["state"], "deferred");
    assert_eq!(deferred[0]["attempts"], 1);
    assert!(
        deferred[0]["last_reply"].as_str().unwrap().contains("451 4.2.0 Later"),
        "{deferred:?}"
    );
}

#[test]
fn everything_is_held_until_released_even_over_a_restart() {
    let mut bench = Bench::held();
    assert!(stays(Duration::from_millis(300), || bench.sink.count() == 0));
    bench.node.restart();
    bench.send("ann@s.test", &["after@d.test"], &message::direct("after"));
    bench.node.kill();
    bench.node.start();
    assert!(stays(Duration::from_millis(300), || bench.sink.count() == 0));
    let totals = bench.node.totals();
    assert_eq!(totals.ready + totals.held, 6, "{totals:?}");
    assert_eq!(totals.leased, 0);
    bench.node.ok(&["queue", "release", "--all"]);
    bench.sink.wait_for_count(6);
    bench.node.wait_until_empty();
    bench.send("ann@s.test", &["free@d.test"], &message::direct("free"));
    bench.sink.wait_for("free");
    bench.node.restart();
    bench.send("ann@s.test", &["still@d.test"], &message::direct("still-free"));
    bench.sink.wait_for("still-free");
}

#[test]
fn filters_select() {
    let bench = Bench::held();
    let all = ["r1@d.test", "r2@e.test", "r3@d.test", "r4@e.test", "r5@d.test"];
    assert_eq!(bench.recipients(&[]), all);
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--lane", "bulk"], &["r3@d.test", "r4@e.test", "r5@d.test"]),
        (&["--lane", "direct"], &["r1@d.test", "r2@e.test"]),
        (&["--domain", "e.test"], &["r2@e.test", "r4@e.test"]),
        (&["--sender", "ann@s.test"], &["r1@d.test", "r2@e.test"]),
        (&["--sender", "@other.test"], &["r3@d.test", "r4@e.test", "r5@d.test"]),
        (&["--recipient", "R4@E.test"], &["r4@e.test"]),
        (&["--lane", "bulk", "--domain", "d.test"], &["r3@d.test", "r5@d.test"]),
        (&["--tenant", "other.test"], &["r3@d.test", "r4@e.test", "r5@d.test"]),
        (&["--age", "1h"], &[]),
    ];
    for (words, expected) in cases {
        assert_eq!(bench.recipients(words), expected, "{words:?}");
    }
    let message =
        bench.list(&["--recipient", "r3@d.test"])[0]["message"].as_str().unwrap().to_string();
    assert_eq!(bench.recipients(&["--id", &message]), ["r3@d.test", "r4@e.test"]);
}

#[test]
fn one_message_is_shown_whole() {
    let bench = Bench::held();
    let id = bench.list(&["--recipient", "r3@d.test"])[0]["message"].as_str().unwrap().to_string();
    let shown = bench.node.ok(&["queue", "show", &id]);
    for part in
        [&id, "bulk", "X-Newsletter", "bob@other.test", "r3@d.test", "r4@e.test", "127.0.0.1"]
    {
        assert!(shown.contains(part), "{part} is missing:\n{shown}");
    }
    let json = bench.node.json(&["queue", "show", &id, "--json"]);
    assert!(json.to_string().contains("r4@e.test"), "{json}");
    let unknown = bench.node.cli(&["queue", "show", "0000000000000000"]);
    assert!(!unknown.status.success(), "an unknown id is trouble found");
}

#[test]
fn deliveries_are_held_released_retried_and_deleted() {
    let bench = Bench::held();
    bench.node.ok(&["queue", "delete", "--recipient", "r5@d.test", "--yes"]);
    assert_eq!(bench.recipients(&["--domain", "d.test"]), ["r1@d.test", "r3@d.test"]);
    bench.node.ok(&["queue", "release", "--all"]);
    bench.sink.wait_for_count(4);
    bench.node.wait_until_empty();

    bench.host.rule(Rule::reply(Stage::Rcpt, "451 4.2.0 Later"));
    bench.send("ann@s.test", &["again@d.test", "kept@e.test"], &message::direct("again"));
    wait_until(PATIENCE, "both are deferred", || bench.node.totals().deferred == 2);
    bench.host.accept_all();
    bench.node.ok(&["queue", "hold", "--domain", "e.test"]);
    bench.node.ok(&["queue", "retry", "--lane", "direct"]);
    bench.sink.wait_for_count(5);
    assert!(stays(Duration::from_millis(300), || bench.sink.count() == 5));
    assert_eq!(bench.recipients(&["--state", "held"]), ["kept@e.test"]);
    bench.node.ok(&["queue", "release", "--domain", "e.test"]);
    bench.node.ok(&["queue", "retry", "--domain", "e.test"]);
    bench.node.wait_until_empty();
    assert_eq!(bench.sink.count(), 6);
    let all = bench.sink.recipients();
    assert!(all.contains("kept@e.test") && all.contains("again@d.test"), "{all:?}");
    assert!(!all.contains("r5@d.test"), "{all:?}");
}

#[test]
fn the_queue_can_be_read_without_a_node() {
    let mut bench = Bench::held();
    bench.node.terminate();
    let totals = bench.node.totals();
    assert_eq!(totals.ready + totals.held, 5, "{totals:?}");
    assert_eq!(bench.recipients(&["--lane", "direct"]), ["r1@d.test", "r2@e.test"]);
    let table = bench.node.ok(&["queue"]);
    assert!(table.contains("total"), "{table}");
    bench.node.kill();
}

#[test]
fn usage_errors_are_told_from_trouble() {
    let bench = Bench::new();
    let code = |words: &[&str]| bench.node.cli(words).status.code();
    assert_eq!(code(&["queue"]), Some(0));
    assert_eq!(code(&["queue", "list", "--lane", "sideways"]), Some(2));
    assert_eq!(code(&["queue", "wibble"]), Some(2));
    assert_eq!(code(&["queue", "delete"]), Some(2), "delete without a filter is refused");
    assert_eq!(code(&["config", "check"]), Some(0));
}

#[test]
fn text_from_outside_cannot_act_on_a_terminal() {
    let bench = Bench::new();
    let evil = "451 4.7.0 \x1b]0;owned\x07\x1b[31m\u{202e}\u{9b}2J later";
    bench.host.rule(Rule::reply(Stage::Rcpt, evil));
    bench.send(
        "ann@s.test",
        &["r@d.test"],
        &message::message("evil", "X-Newsletter: \x1b[5mx\r\n", "x\r\n"),
    );
    wait_until(PATIENCE, "it is deferred", || bench.node.totals().deferred == 1);
    let id = bench.list(&[])[0]["message"].as_str().unwrap().to_string();
    let shown = [
        bench.node.ok(&["queue"]),
        bench.node.ok(&["queue", "list"]),
        bench.node.ok(&["queue", "show", &id]),
        bench.node.ok(&["queue", "list", "--json"]),
        bench.node.log(),
    ];
    for text in &shown {
        let acting =
            |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.contains(acting), "{}", text.escape_debug());
    }
    assert!(shown[2].contains("\\x1b"), "escaped, not swallowed: {}", shown[2]);
}
