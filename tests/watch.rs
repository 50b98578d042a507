//! What customers' mail is watched for: newsletters without a header, and hacked sites.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use support::{Client, Dns, Node, PATIENCE, Rule, Setup, Sink, Stage, message, stays, wait_until};

/// A web server that takes one POST at the second try.
struct Hook {
    address: SocketAddr,
    taking: std::thread::JoinHandle<String>,
}

impl Hook {
    fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let take = move |answer: &str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                let field = line.to_ascii_lowercase();
                if let Some(value) = field.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let head =
                format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            String::from_utf8(body).unwrap()
        };
        let taking = move || {
            let refused = take("503 Later");
            assert_eq!(take("204 Taken"), refused);
            refused
        };
        Self { address, taking: std::thread::spawn(taking) }
    }

    /// What was posted.
    fn posted(self) -> String {
        self.taking.join().unwrap()
    }
}

struct Bench {
    node: Node,
    sink: Sink,
    _dns: Dns,
}

impl Bench {
    fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        sink.host("127.0.0.2")
            .rule(Rule::reply(Stage::Rcpt, "550 5.1.1 No such user").containing("nobody"));
        let setup = Setup::with(&dns, &sink).set("watch", "alert_to", "\"oncall@d.test\"");
        Self { node: change(setup).start(), sink, _dns: dns }
    }

    /// A personal copy of the same text, as a mail merge makes it.
    fn mailing(&self, client: &mut Client, n: usize) {
        let (id, name) = (format!("mailing-{n}"), ["Ann", "Bob", "Änne", "Zoë"][n % 4]);
        let text = format!(
            "Dear {name},\r\n\r\nour spring sale begins on Monday: everything in the shop is a \
             third cheaper, from boots to umbrellas, as long as there is stock.\r\n\
             Your number is {n}{n}{n}. https://shop.test/u/{n}x\r\n"
        );
        let body = message::message(&id, &format!("Subject: Spring sale, {name}!\r\n"), &text);
        let reply = client.mail("news@shop.test", &[&format!("r{n}@d.test")], &body);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    /// A message of a text that no other has.
    fn alone(&self, from: &str, id: &str, to: &str) {
        let text = id.repeat(40 + id.len());
        let body = message::message(id, &format!("Subject: {id}{id}\r\n"), &text);
        let reply = Client::hello(self.node.address()).mail(from, &[to], &body);
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    /// Lanes of accepted messages from this sender, in order.
    fn lanes(&self, from: &str) -> Vec<String> {
        let log = self.node.log();
        let accepted = log.lines().filter(|line| line.contains("message.accepted"));
        let ours = accepted.filter(|line| line.contains(&format!("from=\"{from}\"")));
        let lane = |line: &str| line.split("lane=\"").nth(1).unwrap()[..4].to_string();
        ours.map(lane).collect()
    }
}

#[test]
fn a_mailing_without_the_header_takes_the_bulk_lane_and_its_reason_is_told() {
    let bench = Bench::new(|setup| {
        setup.set("watch", "newsletters", "\"bulk\"").set("watch", "newsletter_recipients", "20")
    });
    let mut client = Client::hello(bench.node.address());
    for n in 0..60 {
        bench.mailing(&mut client, n);
    }
    let lanes = bench.lanes("news@shop.test");
    assert_eq!(lanes.iter().position(|lane| lane == "bulk"), Some(19), "{lanes:?}");
    assert!(lanes[19..].iter().all(|lane| lane == "bulk"));
    // A neighbour, and another letter of the same shop, go direct.
    let mut other = Client::hello(bench.node.address());
    other.mail("a@neighbour.test", &["r@d.test"], &message::direct("neighbour"));
    other.mail("news@shop.test", &["r@d.test"], &message::direct("reset"));
    assert_eq!(bench.lanes("a@neighbour.test"), ["dire"]);
    assert_eq!(bench.lanes("news@shop.test").last().unwrap(), "dire");
    wait_until(PATIENCE, "everything arrives", || bench.sink.recipients().len() >= 61);

    let log = bench.node.log();
    assert!(
        log.contains("reason=\"looks like a newsletter: 20 recipients of alike messages in 5m\"")
    );
    assert_eq!(log.matches("tenant.noticed").count(), 1, "once for a mailing");
    let shown = bench.node.ok(&["tenant", "show", "shop.test"]);
    assert!(shown.contains("alike, \"Spring sale"), "{shown}");
    assert!(shown.contains("looks like a newsletter: "), "{shown}");
    let listed = bench.node.json(&["tenant", "list", "--json"]);
    assert!(listed.is_array(), "{listed}");
    wait_until(PATIENCE, "on call is told by mail", || !bench.sink.to("oncall@d.test").is_empty());
}

#[test]
fn or_it_waits_until_somebody_has_looked() {
    let bench = Bench::new(|setup| {
        setup
            .set("watch", "newsletters", "\"hold\"")
            .set("watch", "newsletter_recipients", "20")
            .set("lanes.bulk", "gather", "\"2s\"")
    });
    let mut client = Client::hello(bench.node.address());
    for n in 0..40 {
        bench.mailing(&mut client, n);
    }
    let told = || bench.sink.to("oncall@d.test");
    wait_until(PATIENCE, "on call is told", || told().len() == 1);
    let letter = String::from_utf8(told()[0].body.clone()).unwrap();
    let command = letter.lines().find(|line| line.contains("bulkhead resume")).unwrap();
    let campaign = command.split('\'').nth(1).unwrap().to_string();
    assert!(campaign.starts_with("Spring sale"), "{letter}");
    wait_until(PATIENCE, "those before it", || bench.sink.recipients().len() == 20);
    assert!(stays(Duration::from_secs(4), || bench.sink.recipients().len() == 20));
    bench.node.ok(&["resume", "--tenant", "shop.test", "--campaign", &campaign]);
    wait_until(PATIENCE, "the rest", || bench.sink.recipients().len() == 41);
}

#[test]
fn a_hacked_sites_burst_is_suspended_and_its_neighbours_go_on() {
    let hook = Hook::listen();
    let bench = Bench::new(|setup| {
        setup.set("watch", "bursts", "\"suspend\"").set("watch", "burst_per_minute", "30").set(
            "watch",
            "alert_url",
            &format!("\"http://{}/hook\"", hook.address),
        )
    });
    for n in 0..60 {
        bench.alone("www@hacked.test", &format!("spam{n}"), &format!("victim{n}@d.test"));
    }
    wait_until(PATIENCE, "it is suspended", || bench.node.log().contains("tenant.suspended"));
    bench.alone("www@hacked.test", "after", "after@d.test");
    bench.alone("a@neighbour.test", "neighbour", "r@d.test");
    bench.sink.wait_for("neighbour");
    assert!(stays(Duration::from_secs(2), || bench.sink.with_id("after").is_empty()));
    let shown = bench.node.ok(&["tenant", "show", "hacked.test"]);
    assert!(shown.contains("suspended since"), "{shown}");
    assert!(shown.contains("recipients of direct mail in 1m (limit 30;"), "{shown}");
    let why = bench.node.ok(&["why", "hacked.test"]);
    assert!(why.contains("recipients of direct mail in 1m"), "{why}");
    let listed = bench.node.ok(&["tenant", "list"]);
    let row = listed.lines().find(|line| line.starts_with("hacked.test")).unwrap();
    assert!(row.contains("suspended: "), "{row}");
    wait_until(PATIENCE, "on call is told", || bench.sink.to("oncall@d.test").len() == 1);

    let posted: serde_json::Value = serde_json::from_str(&hook.posted()).unwrap();
    assert_eq!((&posted["tenant"], &posted["suspended"]), (&"hacked.test".into(), &true.into()));
    assert!(posted["why"].as_str().unwrap().contains("direct mail in 1m"), "{posted}");

    // Looked at, and right.
    bench.node.ok(&["tenant", "resume", "hacked.test", "--as-usual"]);
    bench.sink.wait_for("after");
    assert_eq!(bench.node.cli(&["tenant", "resume", "hacked.test"]).status.code(), Some(1));
    wait_until(PATIENCE, "all of it", || bench.sink.recipients().len() == 63);
}

#[test]
fn or_its_mail_goes_on_and_an_alert_stands_until_it_is_cleared() {
    let bench = Bench::new(|setup| {
        setup.set("watch", "bursts", "\"alert\"").set("watch", "burst_per_minute", "30")
    });
    let burst = |name: &str| {
        for n in 0..40 {
            let to = format!("{name}{n}@d.test");
            bench.alone("www@hacked.test", &format!("{name}{n}"), &to);
        }
    };
    let told = || bench.node.log().matches("tenant.noticed").count();
    burst("spam");
    wait_until(PATIENCE, "all of it, and a letter", || bench.sink.recipients().len() == 41);
    assert_eq!(told(), 1, "once for a burst");
    let shown = bench.node.ok(&["tenant", "show", "hacked.test"]);
    let why = "31 recipients of direct mail in 1m (limit 30;";
    assert!(shown.contains("alert since ") && shown.contains(why), "{shown}");

    let cleared = bench.node.ok(&["tenant", "resume", "hacked.test"]);
    assert!(cleared.starts_with(&format!("alert cleared: {why}")), "{cleared}");
    assert!(bench.node.log().contains("tenant.alert_cleared tenant=\"hacked.test\""));
    assert!(!bench.node.ok(&["tenant", "show", "hacked.test"]).contains("alert since "));
    assert_eq!(bench.node.cli(&["tenant", "resume", "hacked.test"]).status.code(), Some(1));
    burst("more");
    wait_until(PATIENCE, "the next is told, too", || told() == 2);
}

#[test]
fn a_bought_list_is_suspended_for_its_bounces_and_an_unwatched_tenant_is_not() {
    let bench = Bench::new(|setup| {
        setup.set("watch", "bursts", "\"suspend\"").set("watch", "bounce_least", "20").raw(
            "[[tenants]]\nname = \"mail\"\nsender_domains = [\"mail.test\"]\nwatched = false\n",
        )
    });
    for from in ["news@mail.test", "news@list.test"] {
        for n in 0..40 {
            let body = message::newsletter(&format!("{from}-{n}"));
            let to = if n % 3 == 0 { format!("nobody{n}@d.test") } else { format!("r{n}@d.test") };
            Client::hello(bench.node.address()).mail(from, &[&to], &body);
        }
    }
    wait_until(PATIENCE, "it is suspended", || bench.node.log().contains("tenant.suspended"));
    let log = bench.node.log();
    assert!(log.contains("tenant.suspended tenant=\"list.test\""), "{log}");
    assert!(!log.contains("tenant.suspended tenant=\"mail\""), "{log}");
    assert!(log.contains("recipients are unknown ("), "{log}");
}
