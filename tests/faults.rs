//! Receivers and name servers that misbehave: they cost their own mail time, and nobody else's
//! anything.

mod support;

use std::time::Duration;
use support::{
    Act, Answering, Client, Dns, Host, Node, PATIENCE, Rule, Setup, Sink, Stage, message,
    wait_until,
};

/// Two sites: `bad.test` at 127.0.0.2, `good.test` at 127.0.0.3.
struct Bench {
    dns: Dns,
    sink: Sink,
    bad: std::sync::Arc<Host>,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("bad.test", &[(10, "mx.bad.test")]).a("mx.bad.test", "127.0.0.2");
        dns.mx("good.test", &[(10, "mx.good.test")]).a("mx.good.test", "127.0.0.3");
        dns.mx("s.test", &[(10, "mx.good.test")]);
        sink.host("127.0.0.3");
        let bad = sink.host("127.0.0.2");
        Self { dns, sink, bad }
    }

    /// Patience of a second at every stage.
    fn start(&self) -> Node {
        let stages = ["greeting", "command", "data", "block", "dot"];
        let setup = Setup::with(&self.dns, &self.sink).retry_every(Duration::from_secs(1));
        let short = |setup: Setup, stage: &str| {
            setup.set("delivery", &format!("{stage}_timeout"), "\"1s\"")
        };
        stages.into_iter().fold(setup, short).start()
    }

    fn send(&self, node: &Node, to: &[&str], id: &str) {
        let reply = Client::hello(node.address()).mail("a@s.test", to, &message::direct(id));
        assert_eq!(reply.code, 250, "{}", reply.text);
    }
}

fn wait_for_log(node: &Node, what: &str) {
    wait_until(PATIENCE, &format!("{what:?} in the log"), || node.log().contains(what));
}

#[test]
fn a_receiver_that_hangs_stalls_only_its_own_mail() {
    for (stage, words) in [
        (Stage::Banner, "greeting: timed out"),
        (Stage::Ehlo, "EHLO: timed out"),
        (Stage::Mail, "timed out after 1s (MAIL)"),
        (Stage::Rcpt, "timed out after 1s (RCPT)"),
        (Stage::Data, "timed out after 1s (DATA)"),
        (Stage::Dot, "the outcome is unknown"),
    ] {
        let bench = Bench::new();
        bench.bad.rule(Rule::new(stage, Act::Hang));
        let node = bench.start();
        bench.send(&node, &["r@bad.test"], "stalled");
        bench.send(&node, &["r@good.test"], "passing");
        bench.sink.wait_for("passing");
        wait_for_log(&node, words);
        bench.bad.accept_all();
        node.wait_until_empty();
        let copies = bench.sink.to("r@bad.test").iter().filter(|got| got.confirmed).count();
        assert_eq!(copies, 1, "{words}");
        assert_eq!(bench.sink.to("a@s.test").len(), 0, "nothing bounced");
    }
}

#[test]
fn an_end_without_a_reply_is_an_unknown_outcome_and_costs_one_copy() {
    let bench = Bench::new();
    bench.bad.rule(Rule::new(Stage::Dot, Act::Close).times(1));
    let node = bench.start();
    bench.send(&node, &["r@bad.test"], "cut");
    wait_for_log(&node, "the outcome is unknown");
    node.wait_until_empty();
    assert_eq!(bench.bad.count_commands("MAIL FROM"), 2, "the one that was cut, and one more");
    assert_eq!(bench.sink.with_id("cut").iter().filter(|got| got.confirmed).count(), 1);
}

#[test]
fn each_of_many_recipients_gets_its_own_result() {
    let bench = Bench::new();
    bench.bad.rule(Rule::reply(Stage::Rcpt, "451 4.2.1 Not now").containing("r36@").times(1));
    bench.bad.rule(Rule::reply(Stage::Rcpt, "550 5.1.1 Who?").containing("r41@"));
    let node = bench.start();
    let list: Vec<String> = (0..50).map(|n| format!("r{n}@bad.test")).collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    bench.send(&node, &list, "many");
    node.wait_until_empty();
    for recipient in &list {
        let want = usize::from(*recipient != "r41@bad.test");
        assert_eq!(bench.sink.to(recipient).len(), want, "{recipient}");
    }
    let report = bench.sink.to("a@s.test").remove(0);
    let text = String::from_utf8_lossy(&report.body).into_owned();
    assert!(text.contains("rfc822;r41@bad.test") && !text.contains("r36@"), "{text}");
}

#[test]
fn replies_out_of_step_lose_and_repeat_nothing() {
    for rule in [
        Rule::new(Stage::Rcpt, Act::ReplyAndClose("421 4.3.2 Going down".into())),
        Rule::new(Stage::Data, Act::ReplyAndClose("421 4.3.2 Going down".into())),
        Rule::reply(Stage::Rcpt, "250 2.1.5 Ok\r\n250 2.1.5 Ok"),
        Rule::new(Stage::Rcpt, Act::Nothing),
        Rule::reply(Stage::Mail, "354 What?"),
        Rule::reply(Stage::Data, "250 2.0.0 What?"),
    ] {
        let bench = Bench::new();
        bench.bad.rule(rule.times(1));
        let node = bench.start();
        for n in 0..5 {
            bench.send(&node, &[&format!("r{n}@bad.test")], &format!("step{n}"));
        }
        node.wait_until_empty();
        for n in 0..5 {
            let confirmed = |got: &support::Delivered| got.confirmed;
            let copies = bench.sink.with_id(&format!("step{n}")).into_iter().filter(confirmed);
            assert_eq!(copies.count(), 1, "step{n}");
        }
    }
}

#[test]
fn replies_without_end_or_sense_are_bounded_and_escaped() {
    for (stage, act) in [
        (Stage::Ehlo, Act::Endless("250-and more".into())),
        (Stage::Rcpt, Act::Reply(format!("451 {}", "x".repeat(1 << 20)))),
        (Stage::Rcpt, Act::Reply("451 \u{1b}[2J\u{7}\u{9b}31m bell".into())),
        (Stage::Rcpt, Act::Reply(format!("451 {}", "\u{1b}".repeat(4_000)))),
        (Stage::Rcpt, Act::Reply("999 no such code".into())),
        (Stage::Banner, Act::Drip("220 slow".into(), Duration::from_millis(300))),
    ] {
        let bench = Bench::new();
        bench.bad.rule(Rule::new(stage, act));
        let node = bench.start();
        bench.send(&node, &["r@bad.test"], "odd");
        wait_for_log(&node, "delivery.deferred");
        let listed = node.ok(&["queue", "list", "--json"]);
        let log = node.log();
        // 2 kB of reply, its backslashes doubled in JSON, and the other fields.
        assert!(listed.len() < 3_000, "{} bytes of reply are kept", listed.len());
        let acts = |c: char| c.is_control() && c != '\n';
        assert!(!log.contains(acts) && !listed.contains(acts), "{log}");
        bench.send(&node, &["r@good.test"], "fine");
        bench.sink.wait_for("fine");
    }
}

#[test]
fn direct_mail_does_not_wait_for_look_ups_that_hang() {
    let bench = Bench::new();
    // No answer is given up before this test is.
    let node = Setup::with(&bench.dns, &bench.sink).set("dns", "timeout", "\"60s\"").start();
    let domains: Vec<String> = (0..400).map(|n| format!("d{n}.mute.test")).collect();
    domains.iter().for_each(|domain| _ = bench.dns.answer_for(domain, Answering::Never));
    let to: Vec<String> = domains.iter().map(|domain| format!("r@{domain}")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let mut client = Client::hello(node.address());
    assert_eq!(client.mail("a@s.test", &to, &message::newsletter("mute")).code, 250);
    bench.send(&node, &["r@good.test"], "past");
    bench.sink.wait_for("past");
    assert_eq!(node.queue_json()["total"]["ready"], 400);
    // So many at once ahead of their need, and so many for the newsletter.
    let asked = domains.iter().filter(|domain| bench.dns.queries(domain) > 0).count();
    assert!((1..=200).contains(&asked), "{asked} look-ups at once");
}

#[test]
fn a_name_server_that_fails_bounces_nothing() {
    for answering in [Answering::Never, Answering::ServFail] {
        let bench = Bench::new();
        bench.dns.answer(answering);
        let setup = Setup::with(&bench.dns, &bench.sink).set("dns", "timeout", "\"300ms\"");
        let node = setup.retry_every(Duration::from_secs(1)).start();
        bench.send(&node, &["r@good.test"], "dns-direct");
        let bulk = message::newsletter("dns-bulk");
        let reply = Client::hello(node.address()).mail("a@s.test", &["b@good.test"], &bulk);
        assert_eq!(reply.code, 250);
        wait_for_log(&node, "DNS: ");
        bench.dns.answer(Answering::Normally);
        node.wait_until_empty();
        assert_eq!((bench.sink.with_id("dns-direct").len(), bench.sink.count()), (1, 2));
    }
}

#[test]
fn what_a_connection_was_to_carry_is_carried_by_another() {
    let bench = Bench::new();
    bench.bad.extension("LIMITS MAILMAX=3");
    let node = bench.start();
    node.ok(&["queue", "hold", "--all"]);
    let mut client = Client::hello(node.address());
    for n in 0..60 {
        let bulk = message::newsletter(&format!("carried{n}"));
        assert_eq!(client.mail("a@s.test", &["r@bad.test"], &bulk).code, 250);
    }
    node.ok(&["queue", "release", "--all"]);
    bench.sink.wait_for_count(60);
    node.wait_until_empty();
    assert!(bench.bad.counts().sessions >= 20, "three on each");
}

#[test]
fn one_message_goes_to_so_many_at_once_in_either_lane() {
    let bench = Bench::new();
    let setup = Setup::with(&bench.dns, &bench.sink);
    let node = setup.set("sites.default", "recipients_per_transaction", "3").start();
    let to: Vec<String> = (0..8).map(|n| format!("r{n}@bad.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    bench.send(&node, &to, "split");
    bench.sink.wait_for_count(8);
    node.wait_until_empty();
    assert_eq!(bench.bad.count_commands("MAIL"), 3, "{:?}", bench.bad.commands());
}

#[test]
fn an_unreachable_receiver_shuts_its_gate_and_opens_it_again() {
    let bench = Bench::new();
    bench.dns.mx("late.test", &[(10, "mx.late.test")]).a("mx.late.test", "127.0.0.9");
    let node = bench.start();
    let bulk = message::newsletter("late");
    let reply = Client::hello(node.address()).mail("a@s.test", &["r@late.test"], &bulk);
    assert_eq!(reply.code, 250);
    wait_until(PATIENCE, "the gate is shut, and why", || {
        let sites = node.queue_json()["sites"].clone();
        let mut sites = sites.as_array().into_iter().flatten();
        sites.any(|s| s["gate"] == "broken" && s["why"].to_string().contains("connect"))
    });
    wait_for_log(&node, "site.unreachable site=\"mx.late.test\" why=\"mx.late.test[127.0.0.9:");
    bench.sink.host("127.0.0.9");
    bench.sink.wait_for("late");
    node.wait_until_empty();
    wait_for_log(&node, "site.recovered site=\"mx.late.test\" after_s=");
}

#[test]
fn addresses_that_strangers_must_not_lead_to_are_refused() {
    let bench = Bench::new();
    // Where the report is to go cannot be found out for now: it stays until it may leave.
    bench.dns.answer_for("s.test", Answering::ServFail);
    let setup = Setup::with(&bench.dns, &bench.sink).retry_every(Duration::from_secs(1));
    let mut node = setup.set("delivery", "allow_private", "false").start();
    bench.send(&node, &["r@bad.test"], "inside");
    wait_for_log(&node, "delivery.failed");
    assert_eq!(bench.bad.counts().sessions, 0, "nobody was connected to");
    node.reconfigure("delivery", "allow_private", "true");
    node.restart();
    bench.dns.answer_for("s.test", Answering::Normally);
    node.wait_until_empty();
    let report = String::from_utf8_lossy(&bench.sink.to("a@s.test").remove(0).body).into_owned();
    assert!(report.contains("Final-Recipient: rfc822;r@bad.test"), "{report}");
    assert!(report.contains("Status: 5.4.4") && report.contains("127.0.0.2"), "{report}");
    assert_eq!(bench.bad.counts().sessions, 0, "nor later");
}
