//! Mail leaves from the addresses that the configuration says, under their names and within the
//! limits of each; where a receiver refuses one, over the others.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use support::{Client, Dns, Host, Node, PATIENCE, Rule, Setup, Sink, Stage, message};
use support::{stays, wait_until};

const SOURCES: &str = r#"
[sources.one]
addresses = ["127.0.0.11"]
hostname = "one.relay.test"
[sources.two]
addresses = ["127.0.0.12"]
"#;

/// A receiver for `d.test`, and a node with two sources.
struct Bench {
    _dns: Dns,
    sink: Sink,
    receiver: Arc<Host>,
    node: Node,
}

impl Bench {
    fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        let receiver = sink.host("127.0.0.2");
        let node = change(Setup::with(&dns, &sink).raw(SOURCES)).start();
        Self { _dns: dns, sink, receiver, node }
    }

    #[track_caller]
    fn send(&self, sender: &str, recipient: &str, body: &[u8]) {
        let reply = Client::hello(self.node.address()).mail(sender, &[recipient], body);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    /// Newsletters to `r0@d.test` and so on.
    #[track_caller]
    fn newsletters(&self, count: usize) {
        for n in 0..count {
            let body = message::newsletter(&format!("n{n}"));
            self.send("news@s.test", &format!("r{n}@d.test"), &body);
        }
    }

    /// Where what was delivered came from, and under which names.
    fn clients(&self) -> BTreeSet<(String, String)> {
        let of = |d: &support::Delivered| (d.client.to_string(), d.hello.clone());
        self.sink.scan(|all| all.iter().filter(|d| d.confirmed).map(of).collect())
    }
}

fn client(address: &str, name: &str) -> (String, String) {
    (address.into(), name.into())
}

#[test]
fn newsletters_go_from_each_source_under_its_name_and_within_its_limit() {
    let bench = Bench::new(|setup| {
        setup
            .set("", "hostname", "\"relay.test\"")
            .set("sites.default", "connections_per_source", "2")
            .set("sites.default", "deliveries_per_connection", "5")
            .set("lanes.bulk", "gather", "\"0s\"")
    });
    bench.receiver.round_trip(Duration::from_millis(2));
    bench.newsletters(200);
    bench.node.wait_until_empty();
    assert_eq!(bench.sink.recipients().len(), 200);
    let (one, two) = (client("127.0.0.11", "one.relay.test"), client("127.0.0.12", "relay.test"));
    assert_eq!(bench.clients(), BTreeSet::from([one, two]));
    for address in ["127.0.0.11", "127.0.0.12"] {
        assert!((1..=2).contains(&bench.receiver.peak_from(address)), "{address}");
    }
    assert!(bench.node.log().contains("source=\"two\""), "{}", bench.node.log());
}

#[test]
fn lanes_and_customers_have_sources_of_their_own() {
    let bench = Bench::new(|setup| {
        setup
            .set("lanes.direct", "sources", "[\"one\"]")
            .set("lanes.bulk", "sources", "[\"two\"]")
            .raw("[sources.vip]\naddresses = [\"127.0.0.13\"]\n")
            .raw("[[tenants]]\nname = \"vip\"\nsender_domains = [\"vip.test\"]\n")
            .raw("sources = [\"vip\"]\n")
    });
    bench.send("a@s.test", "direct@d.test", &message::direct("direct"));
    bench.send("news@s.test", "bulk@d.test", &message::newsletter("bulk"));
    bench.send("a@vip.test", "vip@d.test", &message::direct("vip"));
    bench.send("news@vip.test", "vipnews@d.test", &message::newsletter("vipnews"));
    bench.node.wait_until_empty();
    let came_from = |id: &str| bench.sink.wait_for(id).client.to_string();
    let seen = ["direct", "bulk", "vip", "vipnews"].map(came_from);
    assert_eq!(seen, ["127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.13"]);
}

#[test]
fn what_one_source_may_not_send_goes_from_another_at_once() {
    let bench = Bench::new(|setup| setup.set("sites.default", "connections", "4"));
    let listed = "554 5.7.1 Service unavailable; Client host [127.0.0.11] blocked using \
                  zen.spamhaus.org";
    bench.receiver.rule(Rule::reply(Stage::Mail, listed).from("127.0.0.11"));
    for n in 0..8 {
        bench.send("a@s.test", &format!("r{n}@d.test"), &message::direct(&format!("m{n}")));
    }
    bench.newsletters(40);
    // The first retry by the schedule would come after half a minute, of a newsletter after ten.
    bench.node.wait_until_empty();
    assert_eq!(bench.clients(), BTreeSet::from([client("127.0.0.12", "relay.test")]));
    let tried = bench.receiver.commands().iter().filter(|c| c.starts_with("MAIL")).count();
    let delivered = bench.sink.delivered().len();
    assert!(tried - delivered <= 4, "{tried} tries for {delivered}: one for each connection");
    let shown = bench.node.json(&["throttle", "show", "d.test", "--json"]);
    let one = &shown["sources"][0];
    assert_eq!(one["source"], "one", "{shown}");
    assert!(one["why"].as_str().unwrap().contains("zen.spamhaus.org"), "{shown}");
    assert!(one["until_ms"].is_number() && shown["sources"][1]["until_ms"].is_null(), "{shown}");
    let text = bench.node.ok(&["throttle", "show", "d.test"]);
    assert!(text.contains("\none ") && text.contains("rests until "), "{text}");
}

#[test]
fn the_rate_of_each_source_holds_and_why_says_so() {
    let bench = Bench::new(|setup| {
        setup.set("sites.default", "rate_per_source", "\"1/h\"").set(
            "lanes.bulk",
            "gather",
            "\"0s\"",
        )
    });
    bench.newsletters(5);
    wait_until(PATIENCE, "one from each", || bench.sink.count() == 2);
    assert!(stays(Duration::from_millis(500), || bench.sink.count() == 2), "no more");
    assert_eq!(bench.clients().len(), 2);
    let answers = bench.node.json(&["why", "d.test", "--json"]);
    let sentence = answers.to_string();
    let told = "the rate of 1/h messages from each of its sources is used up";
    assert!(sentence.contains(told), "{sentence}");
}

#[test]
fn an_address_that_is_not_ours_is_told_at_the_start() {
    let (dns, sink) = (Dns::new(), Sink::new());
    let foreign = "[sources.far]\naddresses = [\"192.0.2.77\"]\n";
    let mut node = Setup::with(&dns, &sink).raw(foreign).prepare();
    node.spawn();
    wait_until(PATIENCE, "it ends and says why", || {
        node.log().contains("cannot send from 192.0.2.77 ([sources.far]): address not available")
    });
    assert!(!node.answers(Duration::from_millis(200)));
}

#[test]
fn a_source_that_is_refused_at_the_door_holds_up_no_mail() {
    let bench = Bench::new(|setup| setup);
    let listed = "554 5.7.1 Service unavailable; Client host [127.0.0.12] blocked using \
                  zen.spamhaus.org";
    bench.receiver.rule(Rule::reply(Stage::Banner, listed).from("127.0.0.12"));
    bench.send("a@s.test", "r@d.test", &message::direct("m"));
    let mail = bench.sink.wait_for("m");
    assert_eq!(mail.client.to_string(), "127.0.0.11");
    // The receiver has it before the node says so.
    let told = || bench.node.log().contains("connection_use=1");
    wait_until(PATIENCE, "the delivery is in the log", told);
    let log = bench.node.log();
    assert!(log.contains("rule=\"listed\""), "{log}");
    assert!(!log.contains("delivery.deferred") && !log.contains("site.unreachable"), "{log}");
}
