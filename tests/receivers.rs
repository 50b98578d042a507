//! Real receivers and scripted ones: every recipient ends delivered, deferred or reported, and
//! receivers are not burdened beyond their limits.
//!
//! Real are postfix's smtp-sink and aiosmtpd. The scripted sink stands in where sessions are
//! counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Client, Delivered, Dns, Node, PATIENCE, Rule, Setup, Sink, Stage, message, tool};
use support::{stays, wait_until};

/// One second, so that tests see more than one attempt.
const RETRY: Duration = Duration::from_secs(1);

/// A DNS where every `*.test` used here leads to real servers, on the port of a sink that also
/// takes the reports to `s.test`.
struct Bench {
    dns: Dns,
    sink: Sink,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("s.test", &[(10, "mx.s.test")]).a("mx.s.test", "127.0.0.3");
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        sink.host("127.0.0.3");
        Self { dns, sink }
    }

    fn start(&self, change: impl FnOnce(Setup) -> Setup) -> Node {
        change(Setup::with(&self.dns, &self.sink).retry_every(RETRY)).start()
    }

    fn receiver(&self) -> SocketAddr {
        SocketAddr::new("127.0.0.2".parse().unwrap(), self.sink.port())
    }

    /// Runs smtp-sink on 127.0.0.2; every mail it takes is appended to the file given back.
    fn smtp_sink(&self, folder: &Path, options: &[&str]) -> (tool::Server, PathBuf) {
        let dump = folder.join(message::unique("smtp-sink"));
        let mut command = Command::new(tool::program("smtp-sink"));
        command.args(options).arg("-D").arg(&dump);
        // As root it wants to know whom to become, and must be able to write the dump.
        if tool::is_root() {
            command.args(["-u", "root"]);
        }
        command.args([&self.receiver().to_string(), "128"]);
        (tool::Server::start(&mut command, self.receiver()), dump)
    }

    /// The report to `sender`, once there is one.
    #[track_caller]
    fn report(&self, sender: &str) -> Delivered {
        wait_until(PATIENCE, &format!("a report to {sender}"), || !self.sink.to(sender).is_empty());
        self.sink.to(sender).remove(0)
    }
}

/// Recipients in a dump of smtp-sink, in order.
fn dumped(dump: &Path) -> Vec<String> {
    let text = std::fs::read(dump).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("X-Rcpt-Args: <"));
    lines.filter_map(|rest| Some(rest.split_once('>')?.0.to_string())).collect()
}

#[track_caller]
fn send(node: &Node, sender: &str, recipients: &[&str], body: &[u8]) {
    let reply = Client::hello(node.address()).mail(sender, recipients, body);
    assert_eq!(reply.code, 250, "{}", reply.text);
}

#[test]
fn smtp_sink_takes_a_newsletter() {
    let bench = Bench::new();
    for n in 0..50 {
        bench.dns.mx(&format!("d{n}.test"), &[(10, "mx.d.test")]);
    }
    let node = bench.start(|setup| setup.set("sites.default", "connections", "20"));
    let (_server, dump) = bench.smtp_sink(node.dir(), &["-w", "1"]);
    let mut client = Client::hello(node.address());
    let mut expected = Vec::new();
    for n in 0..100 {
        let recipient = format!("r{n}@d{}.test", n % 50);
        let body = message::newsletter(&format!("n{n}"));
        assert_eq!(client.mail("news@s.test", &[&recipient], &body).code, 250);
        expected.push(recipient);
    }
    node.wait_until_empty();
    let mut got = dumped(&dump);
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

#[test]
fn soft_refusals_are_tried_again() {
    // smtp-sink answers these commands with 4xx, or with 421 and the end of the session.
    for options in [
        ["-r", "MAIL"],
        ["-r", "RCPT"],
        ["-r", "DATA"],
        ["-r", "."],
        ["-Q", "RCPT"],
        ["-q", "DATA"],
    ] {
        let bench = Bench::new();
        let node = bench.start(|setup| setup);
        let (server, refused) = bench.smtp_sink(node.dir(), &options);
        send(&node, "a@s.test", &["r@d.test", "r2@d.test"], &message::direct("soft"));
        wait_until(PATIENCE, "both are deferred", || node.totals().deferred == 2);
        drop(server);
        let (_server, taken) = bench.smtp_sink(node.dir(), &[]);
        node.wait_until_empty();
        let mut got = dumped(&taken);
        got.sort();
        assert_eq!(got, ["r2@d.test", "r@d.test"], "after {options:?}");
        assert_eq!(bench.sink.count(), 0, "no report after {options:?}");
        drop(refused);
    }
}

#[test]
fn hard_refusals_are_reported() {
    for (option, recipients) in [("MAIL", 1), ("RCPT", 2), ("DATA", 2), (".", 2)] {
        let bench = Bench::new();
        let node = bench.start(|setup| setup);
        let (_server, dump) = bench.smtp_sink(node.dir(), &["-f", option]);
        let list = ["r0@d.test", "r1@d.test"];
        send(&node, "ann@s.test", &list[..recipients], &message::direct("hard"));
        let report = bench.report("ann@s.test");
        let text = String::from_utf8_lossy(&report.body).into_owned();
        for recipient in &list[..recipients] {
            assert!(text.contains(&format!("Final-Recipient: rfc822;{recipient}")), "{text}");
        }
        assert!(text.contains("Status: 5."), "{text}");
        node.wait_until_empty();
        // It writes the mail down before it refuses the last dot.
        assert!(option == "." || dumped(&dump).is_empty(), "{option}");
        assert_eq!(bench.sink.to("ann@s.test").len(), 1, "one report for one message");
        assert_eq!(node.log().matches("report.made").count(), 1);
    }
}

#[test]
fn aiosmtpd_gets_each_recipient_its_own_result() {
    let bench = Bench::new();
    let node = bench.start(|setup| setup);
    let folder = node.dir().join("aiosmtpd");
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new(tool::python("aiosmtpd"));
    command.arg(tool::script("aiosmtpd_sink.py")).arg("127.0.0.2");
    command.arg(bench.sink.port().to_string()).arg(&folder);
    let _server = tool::Server::start(&mut command, bench.receiver());
    let sent = message::message("aio", "", ".\r\nGrüße\r\n");
    let list = ["ok1@d.test", "reject@d.test", "later@d.test", "ok2@d.test", "änne@d.test"];
    let mut client = Client::hello(node.address());
    client.command("MAIL FROM:<ann@s.test> BODY=8BITMIME SMTPUTF8", 250);
    for recipient in list {
        client.command(&format!("RCPT TO:<{recipient}>"), 250);
    }
    assert_eq!(client.data(&sent).code, 250);
    let report = bench.report("ann@s.test");
    let text = String::from_utf8_lossy(&report.body).into_owned();
    assert!(
        text.contains("reject@d.test") && !text.contains(";ok1@") && !text.contains(";later@"),
        "{text}"
    );
    assert!(text.contains("No such user here"), "{text}");
    wait_until(PATIENCE, "one is deferred", || node.totals().deferred == 1);
    let mut recipients = Vec::new();
    for file in std::fs::read_dir(&folder).unwrap() {
        let json = std::fs::read(file.unwrap().path()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.decode(json["body"].as_str().unwrap());
        message::assert_relayed(&sent, &body.unwrap());
        recipients.extend(
            json["recipients"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_string()),
        );
    }
    recipients.sort();
    assert_eq!(recipients, ["ok1@d.test", "ok2@d.test", "änne@d.test"]);
}

#[test]
fn domains_that_share_their_mx_share_its_connections() {
    let bench = Bench::new();
    let hosts = [bench.sink.host("127.0.0.4"), bench.sink.host("127.0.0.5")];
    bench.dns.a("mx1.big.test", "127.0.0.4").a("mx2.big.test", "127.0.0.5");
    for n in 0..200 {
        bench.dns.mx(&format!("d{n}.test"), &[(10, "mx1.big.test"), (10, "mx2.big.test")]);
    }
    let node = bench.start(|setup| {
        setup.set("sites.default", "connections", "5").set(
            "sites.default",
            "deliveries_per_connection",
            "100",
        )
    });
    node.ok(&["queue", "hold", "--all"]);
    let mut client = Client::hello(node.address());
    for n in 0..1000 {
        let recipient = format!("r{n}@d{}.test", n % 200);
        assert_eq!(client.mail("news@s.test", &[&recipient], &message::newsletter("n")).code, 250);
    }
    node.ok(&["queue", "release", "--all"]);
    bench.sink.wait_for_count(1000);
    node.wait_until_empty();
    assert_eq!(bench.sink.count(), 1000);
    assert_eq!(bench.sink.recipients().len(), 1000);
    let counts = hosts.map(|host| host.counts());
    let sessions: u64 = counts.iter().map(|c| c.sessions).sum();
    assert!(bench.sink.peak() <= 5, "{} sessions at once", bench.sink.peak());
    assert!((10..=20).contains(&sessions), "{sessions} sessions for 1,000 at 100 each");
    let rode: u64 = counts.iter().map(|c| c.rode_on_dot).sum();
    assert!(rode >= 500, "only {rode} of 1,000 transactions rode on the dot before");
}

#[test]
fn domains_with_mx_names_of_their_own_are_limited_by_address() {
    let bench = Bench::new();
    let hosts = [bench.sink.host("127.0.0.4"), bench.sink.host("127.0.0.5")];
    for host in &hosts {
        host.round_trip(Duration::from_millis(5));
    }
    for n in 0..100 {
        let mx = format!("d{n}-test.mail.outlook.test");
        bench.dns.mx(&format!("d{n}.test"), &[(10, &mx)]);
        bench.dns.a(&mx, "127.0.0.4").a(&mx, "127.0.0.5");
    }
    let node = bench.start(|setup| {
        setup.set("sites.default", "connections", "5").set(
            "sites.default",
            "deliveries_per_connection",
            "100",
        )
    });
    node.ok(&["queue", "hold", "--all"]);
    let mut client = Client::hello(node.address());
    for n in 0..500 {
        let recipient = format!("r{n}@d{}.test", n % 100);
        assert_eq!(client.mail("news@s.test", &[&recipient], &message::newsletter("n")).code, 250);
    }
    node.ok(&["queue", "release", "--all"]);
    bench.sink.wait_for_count(500);
    node.wait_until_empty();
    assert_eq!(bench.sink.count(), 500);
    let counts = hosts.map(|host| host.counts());
    let sessions: u64 = counts.iter().map(|c| c.sessions).sum();
    for count in &counts {
        assert!(count.peak <= 5, "{} sessions at once to one address", count.peak);
    }
    assert!(sessions <= 50, "{sessions} sessions for 500 deliveries to two addresses");
}

#[test]
fn a_full_receiver_is_left_alone() {
    let bench = Bench::new();
    let host = bench.sink.host("127.0.0.2");
    host.sessions_max(2).round_trip(Duration::from_millis(5));
    let node = bench.start(|setup| setup);
    let mut client = Client::hello(node.address());
    for n in 0..300 {
        let recipient = format!("r{n}@d.test");
        assert_eq!(client.mail("news@s.test", &[&recipient], &message::newsletter("n")).code, 250);
    }
    node.wait_until_empty();
    assert_eq!((bench.sink.count(), bench.sink.recipients().len()), (300, 300));
    assert!(host.counts().sessions < 150, "{} connections", host.counts().sessions);
}

#[test]
fn mx_hosts_are_tried_in_their_order() {
    let bench = Bench::new();
    let (first, second) = (bench.sink.host("127.0.0.4"), bench.sink.host("127.0.0.5"));
    first.rule(Rule::reply(Stage::Banner, "421 4.3.2 Not now").times(1));
    bench
        .dns
        .mx("pair.test", &[(20, "mx2.pair.test"), (10, "mx1.pair.test"), (5, "dead.pair.test")]);
    bench.dns.a("mx1.pair.test", "127.0.0.4").a("mx2.pair.test", "127.0.0.5");
    // Nothing listens there.
    bench.dns.a("dead.pair.test", "127.0.0.99");
    // An address alone is an MX (RFC 5321 §5.1), and a CNAME is followed.
    bench.dns.a("plain.test", "127.0.0.4").cname("alias.test", "plain.test");
    let node = bench.start(|setup| setup);
    send(&node, "a@s.test", &["r@pair.test"], &message::direct("pair"));
    assert_eq!(bench.sink.wait_for("pair").host, second.address(), "the next host takes it");
    for domain in ["plain.test", "alias.test"] {
        send(&node, "a@s.test", &[&format!("r@{domain}")], &message::direct(domain));
        assert_eq!(bench.sink.wait_for(domain).host, first.address());
    }
}

#[test]
fn tls_is_used_where_it_is_offered() {
    let bench = Bench::new();
    bench.sink.host("127.0.0.2").tls();
    let node = bench.start(|setup| setup);
    let sent = message::direct("tls");
    send(&node, "a@s.test", &["r@d.test"], &sent);
    let got = bench.sink.wait_for("tls");
    assert!(got.encrypted);
    message::assert_relayed(&sent, &got.body);
}

#[test]
fn a_broken_tls_handshake_does_not_stop_the_mail() {
    let bench = Bench::new();
    let host = bench.sink.host("127.0.0.2");
    host.tls().rule(Rule::reply(Stage::StartTls, "220 go\r\n250 injected").times(1));
    let node = bench.start(|setup| setup);
    send(&node, "a@s.test", &["r@d.test"], &message::direct("broken-tls"));
    bench.sink.wait_for("broken-tls");
}

#[test]
fn a_receiver_without_extensions_gets_plain_smtp() {
    let bench = Bench::new();
    let host = bench.sink.host("127.0.0.2");
    host.extensions(&[]).rule(Rule::reply(Stage::Ehlo, "502 5.5.1 What?").containing("EHLO"));
    let node = bench.start(|setup| setup);
    let sent = message::direct("plain");
    send(&node, "a@s.test", &["r@d.test"], &sent);
    let got = bench.sink.wait_for("plain");
    message::assert_relayed(&sent, &got.body);
    assert_eq!((got.mail_parameters.as_str(), got.rcpt_parameters[0].as_str()), ("", ""));
    assert_eq!(host.count_commands("HELO relay.test"), 1);
}

#[test]
fn what_a_receiver_cannot_take_is_reported() {
    let bench = Bench::new();
    bench.sink.host("127.0.0.2").extensions(&["PIPELINING", "SIZE 1000"]);
    let node = bench.start(|setup| setup);
    let large = message::message("large", "", &"x\r\n".repeat(1000));
    send(&node, "large@s.test", &["r@d.test"], &large);
    let report = String::from_utf8_lossy(&bench.report("large@s.test").body).into_owned();
    assert!(report.contains("Status: 5.3.4") || report.contains("Status: 5.2.3"), "{report}");
    let mut client = Client::hello(node.address());
    client.command("MAIL FROM:<utf8@s.test> SMTPUTF8", 250);
    client.command("RCPT TO:<änne@d.test>", 250);
    assert_eq!(client.data(&message::direct("utf8")).code, 250);
    let report = String::from_utf8_lossy(&bench.report("utf8@s.test").body).into_owned();
    assert!(report.contains("Status: 5.6.7"), "{report}");
    assert_eq!(bench.sink.to("r@d.test").len() + bench.sink.to("änne@d.test").len(), 0);
}

#[test]
fn domains_that_take_no_mail_are_reported_at_once() {
    let bench = Bench::new();
    bench.dns.null_mx("null.test");
    let node = bench.start(|setup| setup);
    for (domain, status) in [("null.test", "5.1.10"), ("nowhere.test", "5.1.2")] {
        let sender = format!("from-{domain}@s.test").replace(".test@", "@");
        let recipient = format!("r@{domain}");
        send(&node, &sender, &[&recipient], &message::direct(domain));
        let report = bench.report(&sender);
        assert_is_report(&report, &sender, &recipient, status, domain);
    }
    node.wait_until_empty();
}

/// The bytes of a report as RFC 3464 and RFC 3461 want them.
#[track_caller]
fn assert_is_report(report: &Delivered, sender: &str, recipient: &str, status: &str, id: &str) {
    let text = std::str::from_utf8(&report.body).unwrap();
    assert_eq!(report.sender, "", "a report has the null reverse-path");
    assert_eq!(report.recipients, [sender]);
    let header = |name: &str| message::field(&report.body, name).unwrap_or_default();
    let kind = header("Content-Type");
    assert!(kind.to_lowercase().starts_with("multipart/report"), "{kind}");
    assert!(
        kind.contains("report-type=delivery-status")
            || kind.contains("report-type=\"delivery-status\""),
        "{kind}"
    );
    assert!(header("Auto-Submitted").starts_with("auto-replied"), "{text}");
    assert!(header("To").contains(sender) && !header("From").is_empty(), "{text}");
    assert!(!header("Date").is_empty() && !header("Message-ID").is_empty(), "{text}");
    assert_eq!(header("MIME-Version"), "1.0");
    let boundary =
        kind.split("boundary=").nth(1).unwrap().trim_matches('"').split([';', '"']).next();
    let parts: Vec<&str> = text.split(&format!("--{}", boundary.unwrap())).collect();
    assert_eq!(parts.len(), 5, "preamble, three parts, end: {text}");
    assert!(parts[4].starts_with("--"), "{text}");
    assert!(parts[1].contains("text/plain"), "{text}");
    assert!(parts[2].contains("message/delivery-status"), "{text}");
    assert!(
        parts[3].contains("message/rfc822") || parts[3].contains("text/rfc822-headers"),
        "{text}"
    );
    assert!(parts[3].contains(&format!("X-Test-Id: {id}")), "{text}");
    let status_lines: Vec<&str> = parts[2].lines().collect();
    for line in [
        "Reporting-MTA: dns;relay.test".to_string(),
        format!("Final-Recipient: rfc822;{recipient}"),
        "Action: failed".to_string(),
        format!("Status: {status}"),
    ] {
        let plain = |l: &&str| l.replace("; ", ";").trim_end().eq_ignore_ascii_case(&line);
        assert!(status_lines.iter().any(plain), "{line:?} is missing: {text}");
    }
    assert!(!message::is_unmailable(&report.body), "line ends are CRLF");
    assert!(text.lines().all(|line| line.len() <= 998));
}

#[test]
fn reports_are_sent_only_to_those_who_want_them() {
    let bench = Bench::new();
    let host = bench.sink.host("127.0.0.2");
    host.rule(Rule::reply(Stage::Rcpt, "550 5.1.1 No such user").containing("bad"));
    let node = bench.start(|setup| setup);
    let mut client = Client::hello(node.address());
    client.command("MAIL FROM:<never@s.test>", 250);
    client.command("RCPT TO:<bad1@d.test> NOTIFY=NEVER", 250);
    client.command("RCPT TO:<bad2@d.test> NOTIFY=SUCCESS", 250);
    assert_eq!(client.data(&message::direct("never")).code, 250);
    // A failure of mail with the null reverse-path has nowhere to go.
    assert_eq!(client.mail("", &["bad3@d.test"], &message::direct("null")).code, 250);
    // Of three recipients one fails; the report is about that one, with the header alone.
    client.command("MAIL FROM:<some@s.test> RET=HDRS ENVID=abc+2B1", 250);
    client.command("RCPT TO:<good1@d.test>", 250);
    client.command("RCPT TO:<bad4@d.test> NOTIFY=FAILURE ORCPT=rfc822;old+2Bname@d.test", 250);
    client.command("RCPT TO:<good2@d.test>", 250);
    assert_eq!(client.data(&message::direct("some")).code, 250);
    // The whole message comes back where that was asked for.
    client.command("MAIL FROM:<full@s.test> RET=FULL", 250);
    client.command("RCPT TO:<bad5@d.test>", 250);
    assert_eq!(client.data(&message::direct("full")).code, 250);

    let some = bench.report("some@s.test");
    assert_is_report(&some, "some@s.test", "bad4@d.test", "5.1.1", "some");
    let text = String::from_utf8_lossy(&some.body).into_owned();
    assert!(!text.contains("good1") && !text.contains("good2"), "{text}");
    assert!(text.contains("Original-Envelope-Id: abc+1"), "{text}");
    assert!(text.contains("Original-Recipient: rfc822;old+name@d.test"), "{text}");
    assert!(text.contains("550 5.1.1") && text.contains("No such user"), "{text}");
    assert!(!text.contains("this line begins with a dot"), "header alone: {text}");
    let full = String::from_utf8_lossy(&bench.report("full@s.test").body).into_owned();
    assert!(full.contains("this line begins with a dot"), "{full}");
    node.wait_until_empty();
    assert_eq!(bench.sink.recipients().len(), 4, "{:?}", bench.sink.recipients());
}

#[test]
fn a_report_that_cannot_be_delivered_makes_no_other() {
    let bench = Bench::new();
    bench.dns.null_mx("null.test");
    let node = bench.start(|setup| setup);
    send(&node, "a@null.test", &["r@null.test"], &message::direct("loop"));
    node.wait_until_empty();
    assert!(stays(Duration::from_millis(500), || node.totals() == support::Totals::default()));
    assert_eq!(bench.sink.count(), 0);
}

#[test]
fn what_is_not_delivered_in_its_time_is_reported() {
    let bench = Bench::new();
    let host = bench.sink.host("127.0.0.2");
    host.rule(Rule::reply(Stage::Rcpt, "451 4.2.0 Come back later"));
    let node = bench.start(|setup| setup.set("retry.direct", "expire", "\"3s\""));
    send(&node, "late@s.test", &["r@d.test"], &message::direct("late"));
    let report = bench.report("late@s.test");
    assert_is_report(&report, "late@s.test", "r@d.test", "5.4.7", "late");
    assert!(String::from_utf8_lossy(&report.body).contains("Come back later"));
    assert!(host.count_commands("RCPT") >= 2, "it was tried more than once");
    node.wait_until_empty();
}

#[test]
fn mail_that_would_come_back_to_us_is_not_sent() {
    let bench = Bench::new();
    bench.dns.mx("self.test", &[(10, "relay.test")]).a("relay.test", "127.0.0.2");
    bench.dns.mx("private.test", &[(10, "mx.private.test")]).a("mx.private.test", "10.1.2.3");
    let host = bench.sink.host("127.0.0.2");
    let node = bench.start(|setup| setup);
    send(&node, "loop@s.test", &["r@self.test"], &message::direct("self"));
    let report = bench.report("loop@s.test");
    assert_is_report(&report, "loop@s.test", "r@self.test", "5.4.6", "self");
    assert_eq!(host.counts().sessions, 0);
    // Without allow_private neither private nor loopback addresses are connected to.
    let node = bench.start(|setup| setup.set("delivery", "allow_private", "false"));
    for domain in ["private.test", "d.test"] {
        send(&node, "closed@s.test", &[&format!("r@{domain}")], &message::direct(domain));
    }
    wait_until(PATIENCE, "both are given up", || {
        let log = node.log();
        log.contains("r@private.test") && log.contains("r@d.test") && node.totals().deferred == 0
    });
    assert_eq!(host.counts().sessions, 0);
}
