//! What receivers ask for is done: waits that they name, senders that they want less of,
//! connections that they end; and the rates that the configuration sets for customers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::{Act, Client, Dns, Host, Node, PATIENCE, Rule, Setup, Sink, Stage, Totals, message};
use support::{stays, wait_until};

/// A receiver for `d.test`, and one for reports to `*.s.test`.
struct Bench {
    dns: Dns,
    sink: Sink,
    receiver: Arc<Host>,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("s.test", &[(10, "mx.s.test")]).a("mx.s.test", "127.0.0.3");
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        sink.host("127.0.0.3");
        let receiver = sink.host("127.0.0.2");
        Self { dns, sink, receiver }
    }

    fn start(&self, change: impl FnOnce(Setup) -> Setup) -> Node {
        change(Setup::with(&self.dns, &self.sink)).start()
    }

    fn delivered_from(&self, sender: &str) -> usize {
        self.sink.delivered().iter().filter(|mail| mail.sender.contains(sender)).count()
    }
}

#[track_caller]
fn send(node: &Node, sender: &str, recipient: &str, body: &[u8]) {
    assert_eq!(Client::hello(node.address()).mail(sender, &[recipient], body).code, 250);
}

/// The only site with mail.
fn site(node: &Node) -> serde_json::Value {
    node.queue_json()["sites"][0].clone()
}

#[test]
fn a_connection_that_the_receiver_ends_between_two_messages_costs_no_retry() {
    let bench = Bench::new();
    let full = Act::ReplyAndClose("421 4.7.0 too many messages in this session".into());
    // Never after as many as the time before, which would teach us to end the connection ourselves.
    for n in [4, 11, 15, 24, 29, 37] {
        bench.receiver.rule(Rule::new(Stage::Mail, full.clone()).nth(n));
    }
    let node = bench.start(|setup| setup.set("sites.default", "connections", "1"));
    for n in 0..40 {
        let body = message::newsletter(&format!("m{n}"));
        send(&node, "news@s.test", &format!("r{n}@d.test"), &body);
    }
    // The first retry of a newsletter comes after ten minutes.
    node.wait_until_empty();
    assert_eq!(bench.sink.recipients().len(), 40);
    assert!(!node.log().contains("delivery.deferred"));
}

#[test]
fn a_wait_that_the_receiver_names_is_obeyed_and_slows_nobody() {
    let bench = Bench::new();
    let greylisted = "451 4.7.1 Greylisted, please try again in 17 minutes";
    bench.receiver.rule(Rule::reply(Stage::Rcpt, greylisted).containing("new@d.test"));
    let node = bench.start(|setup| setup);
    send(&node, "a@s.test", "new@d.test", &message::direct("first"));
    wait_until(PATIENCE, "it is deferred", || node.totals().deferred == 1);
    let listed = node.json(&["queue", "list", "--json"])[0].clone();
    let wait = listed["due_ms"].as_i64().unwrap() - listed["last_ms"].as_i64().unwrap();
    // Told a moment before it was recorded.
    assert_eq!(((wait + 500) / 1_000, listed["blame"].is_null()), (17 * 60, true), "{listed}");
    assert!(node.log().contains("rule=\"greylisting\""), "{}", node.log());
    send(&node, "a@s.test", "known@d.test", &message::direct("second"));
    wait_until(PATIENCE, "the other is delivered", || bench.sink.count() == 1);
    assert_eq!(site(&node)["gate"], "open");
}

#[test]
fn a_receiver_that_lists_us_is_left_alone_and_nothing_is_bounced() {
    let bench = Bench::new();
    let listed = "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using \
                  zen.spamhaus.org";
    bench.receiver.rule(Rule::reply(Stage::Mail, listed));
    let node = bench.start(|setup| setup);
    send(&node, "a@s.test", "r1@d.test", &message::direct("first"));
    wait_until(PATIENCE, "it is deferred", || node.totals().deferred == 1);
    send(&node, "a@s.test", "r2@d.test", &message::direct("second"));
    send(&node, "a@s.test", "r3@d.test", &message::newsletter("third"));
    let waiting = |totals: Totals| totals.ready + totals.deferred;
    wait_until(PATIENCE, "all wait", || waiting(node.totals()) == 3);
    let site = site(&node);
    assert_eq!(site["gate"], "broken");
    assert!(site["why"].as_str().unwrap().contains("zen.spamhaus.org"), "{site}");
    assert_eq!(bench.receiver.count_commands("MAIL"), 1, "nobody else tried");
    assert_eq!(bench.sink.count(), 0, "no report");
    assert!(node.log().contains("site.complaint"), "{}", node.log());
}

#[test]
fn one_senders_domain_is_put_off_and_all_others_go_on() {
    let bench = Bench::new();
    let eager = Act::ReplyAndClose("421 4.7.0 You are too eager".into());
    bench.receiver.rule(Rule::new(Stage::Mail, eager).containing("@bad.test"));
    let node = bench.start(|setup| {
        setup.raw(
            "[[rules]]\nname = \"eager\"\ncodes = [\"421\"]\ntext = \"too eager\"\n\
             action = \"suspend\"\nscope = \"sender_domain\"\ntime = \"1h\"\n\
             samples = [[\"mx.d.test\", \"421 4.7.0 You are too eager\"]]\n",
        )
    });
    send(&node, "a@bad.test", "r0@d.test", &message::direct("bad0"));
    wait_until(PATIENCE, "the first is deferred", || node.totals().deferred == 1);
    for n in 1..6 {
        send(&node, "a@bad.test", &format!("r{n}@d.test"), &message::direct("bad"));
        send(&node, "a@good.test", &format!("r{n}@d.test"), &message::direct("good"));
    }
    wait_until(PATIENCE, "the others are delivered", || bench.sink.count() == 5);
    wait_until(PATIENCE, "all of its own are put off", || node.totals().deferred == 6);
    assert_eq!((bench.delivered_from("good.test"), bench.delivered_from("bad.test")), (5, 0));
    let tried = |line: &&String| line.starts_with("MAIL") && line.contains("bad.test");
    assert_eq!(bench.receiver.commands().iter().filter(tried).count(), 1);
    let listed = node.json(&["queue", "list", "--recipient", "r5@d.test", "--json"]);
    let reply = listed[0]["last_reply"].as_str().unwrap();
    assert!(reply.contains("not tried") && reply.contains("too eager"), "{reply}");
}

#[test]
fn a_customers_rate_holds_and_holds_up_nobody() {
    let bench = Bench::new();
    let node = bench.start(|setup| {
        setup.raw(
            "[[tenants]]\nname = \"slow\"\nsender_domains = [\"slow.test\"]\nrate = \"20/h\"\n\
             [[tenants]]\nname = \"free\"\nsender_domains = [\"free.test\"]\n",
        )
    });
    for n in 0..30 {
        let recipient = format!("r{n}@d.test");
        send(&node, "n@slow.test", &recipient, &message::newsletter(&format!("s{n}")));
        send(&node, "n@free.test", &recipient, &message::newsletter(&format!("f{n}")));
    }
    wait_until(PATIENCE, "the free one is done", || bench.delivered_from("free.test") == 30);
    // One at once, the next after some minutes.
    let few = || bench.delivered_from("slow.test") <= 1;
    assert!(stays(Duration::from_millis(500), few));
    let totals = node.totals();
    assert_eq!((totals.ready + totals.leased, totals.deferred), (29, 0));
    let site = site(&node);
    assert_eq!(site["resting"][0]["tenant"], "slow", "{site}");
    assert_eq!(site["waiting"][0]["limit"], "tenant", "{site}");
    let why = node.ok(&["why", "slow"]);
    assert!(why.contains("its rate of 20/h messages to all sites is used up"), "{why}");
    let one = node.json(&["queue", "list", "--tenant", "slow", "--json"])[0].clone();
    let why = node.json(&["why", one["message"].as_str().unwrap(), "--json"]);
    assert_eq!(why.as_array().unwrap().len(), 1);
    let sentence = why[0]["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("Its tenant slow may send more to mx.d.test in "), "{sentence}");
    // A login code of the same customer does not wait for its newsletters.
    send(&node, "n@slow.test", "user@d.test", &message::direct("code"));
    wait_until(PATIENCE, "direct mail goes", || bench.delivered_from("slow.test") == 2);
}

#[test]
fn a_domains_rate_holds_and_its_neighbour_at_the_same_hosts_goes_on() {
    let bench = Bench::new();
    bench.dns.mx("slow.test", &[(10, "mx.d.test")]);
    let node =
        bench.start(|setup| setup.raw("[domains.\"slow.test\"]\nrate = [\"60/min\", \"900/d\"]\n"));
    let got = |domain: &str| {
        let is_there = |to: &&String| to.ends_with(domain);
        bench.sink.recipients().iter().filter(is_there).count()
    };
    for n in 0..30 {
        for domain in ["slow.test", "d.test"] {
            let body = message::newsletter(&format!("{domain}{n}"));
            send(&node, "news@s.test", &format!("r{n}@{domain}"), &body);
        }
    }
    wait_until(PATIENCE, "its neighbour is done", || got("@d.test") == 30);
    assert!(got("@slow.test") < 20, "{} at 60/min", got("@slow.test"));
    let site = site(&node);
    assert_eq!((&site["site"], &site["gate"]), (&"mx.d.test".into(), &"open".into()));
    let one = node.json(&["queue", "list", "--domain", "slow.test", "--json"]);
    let one = one.as_array().unwrap().last().unwrap().clone();
    let (message, recipient) =
        (one["message"].as_str().unwrap(), one["recipient"].as_str().unwrap());
    for about in ["slow.test", message, recipient] {
        let why = || {
            let why = node.json(&["why", about, "--json"]);
            let sentence = why[0]["sentence"].as_str().unwrap().to_string();
            (sentence, why[0]["remedy"].clone())
        };
        let is_told = || {
            let (sentence, remedy) = why();
            sentence.starts_with("More mail to slow.test may go in ")
                && sentence.ends_with(": its rate of 60/min messages is used up.")
                && remedy.to_string().contains("[domains.")
        };
        wait_until(PATIENCE, &format!("{about} is told why: {:?}", why()), is_told);
    }
    let shown = node.json(&["throttle", "show", "slow.test", "--json"]);
    assert_eq!(shown["site"], "mx.d.test");
    let own = &shown["of_domain"][0];
    assert_eq!(
        (&own["key"], &own["value"]),
        (&"rate".into(), &serde_json::json!(["60/min", "900/d"]))
    );
    assert_eq!(own["origin"]["stated"][0]["section"], "[domains.\"slow.test\"]");
    assert!(own["origin"]["stated"][0]["line"].is_u64(), "{own}");
    let neighbour = node.json(&["throttle", "show", "d.test", "--json"]);
    assert_eq!(neighbour["of_domain"], serde_json::json!([]));
    // A login code there does not wait for the newsletters.
    send(&node, "a@s.test", "user@slow.test", &message::direct("code"));
    wait_until(PATIENCE, "direct mail goes", || got("user@slow.test") == 1);
    // What goes with one that must wait does not wait with it.
    let both = ["late@slow.test", "soon@d.test"];
    let body = message::direct("both");
    assert_eq!(Client::hello(node.address()).mail("a@s.test", &both, &body).code, 250);
    wait_until(PATIENCE, "its neighbour goes", || got("soon@d.test") == 1);
    let before = got("@slow.test");
    assert!(stays(Duration::from_secs(3), || got("@slow.test") <= before + 4));
    wait_until(PATIENCE, "it goes on", || got("@slow.test") > before);
}

#[test]
fn a_transaction_has_no_more_recipients_than_any_of_its_domains_takes() {
    let bench = Bench::new();
    bench.dns.mx("few.test", &[(10, "mx.d.test")]);
    let limit = "[domains.\"few.test\"]\nrecipients_per_transaction = 2\n";
    let node = bench.start(|setup| setup.raw(limit));
    let all: Vec<String> = (0..5)
        .flat_map(|n| [format!("a{n}@d.test"), format!("b{n}@d.test"), format!("c{n}@few.test")])
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for body in [message::direct("direct"), message::newsletter("bulk")] {
        assert_eq!(Client::hello(node.address()).mail("a@s.test", &all, &body).code, 250);
        node.wait_until_empty();
        let got = bench.sink.take();
        assert_eq!(got.iter().map(|mail| mail.recipients.len()).sum::<usize>(), all.len());
        for mail in &got {
            let is_few = mail.recipients.iter().any(|to| to.ends_with("@few.test"));
            assert!(!is_few || mail.recipients.len() <= 2, "{:?}", mail.recipients);
        }
        assert!(got.iter().any(|mail| mail.recipients.len() > 2), "others share one");
    }
}

#[test]
fn suspended_mail_waits_over_a_restart_and_goes_when_it_is_resumed() {
    let bench = Bench::new();
    let mut node = bench.start(|setup| setup);
    node.ok(&["suspend", "--tenant", "shop.test", "--reason", "list bought"]);
    send(&node, "n@shop.test", "r1@d.test", &message::newsletter("one"));
    send(&node, "n@shop.test", "r2@d.test", &message::direct("two"));
    send(&node, "n@other.test", "r3@d.test", &message::direct("three"));
    wait_until(PATIENCE, "other mail goes", || bench.delivered_from("other.test") == 1);
    let said = "An operator suspended it (tenant=shop.test), until that is ended: list bought.";
    let why = |node: &Node| node.json(&["why", "r2@d.test", "--json"])[0]["sentence"].clone();
    wait_until(PATIENCE, "the reason is told", || why(&node) == said);
    node.restart();
    assert!(node.ok(&["queue"]).contains("tenant=shop.test: list bought"));
    assert!(stays(Duration::from_millis(300), || bench.delivered_from("shop.test") == 0));
    node.ok(&["resume", "--tenant", "shop.test"]);
    node.wait_until_empty();
    assert_eq!(bench.delivered_from("shop.test"), 2);
}

#[test]
fn what_a_receiver_welcomes_is_learned_and_known_after_a_restart() {
    let bench = Bench::new();
    bench.receiver.sessions_max(2).round_trip(Duration::from_millis(10));
    let mut node = bench.start(|setup| {
        let site = "sites.default";
        setup.set(site, "deliveries_per_connection", "20").set(site, "reserved_for_direct", "0")
    });
    node.ok(&["queue", "hold", "--all"]);
    for n in 0..240 {
        let body = message::newsletter(&format!("m{n}"));
        send(&node, "news@s.test", &format!("r{n}@d.test"), &body);
    }
    node.ok(&["queue", "release", "--all"]);
    node.wait_until_empty();
    let window = |node: &Node| {
        let shown = node.json(&["throttle", "show", "mx.d.test", "--json"]);
        shown["learned"]["window"].as_u64().unwrap()
    };
    let learned = window(&node);
    let shown = node.ok(&["throttle", "show", "mx.d.test"]);
    assert!((1..=2).contains(&learned), "{shown}");
    node.terminate();
    node.start();
    send(&node, "a@s.test", "r@d.test", &message::direct("again"));
    node.wait_until_empty();
    assert_eq!(window(&node), learned, "it did not begin anew");
    let text = format!("it welcomes {learned} connections");
    assert!(node.ok(&["throttle", "show", "mx.d.test"]).contains(&text));
}
