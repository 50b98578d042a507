//! Hosting customers at the door: who is whose, what each may send, and what becomes of the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use support::{Client, Dns, Node, Reply, Setup, Sink, message};

struct Bench {
    node: Node,
    sink: Sink,
    _dns: Dns,
}

impl Bench {
    fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = support::receiver();
        let setup = change(Setup::with(&dns, &sink));
        Self { node: setup.start(), sink, _dns: dns }
    }

    fn send(&self, from: &str, fields: &str, id: &str) -> Reply {
        self.send_to(from, &["r@d.test"], fields, id)
    }

    fn send_to(&self, from: &str, to: &[&str], fields: &str, id: &str) -> Reply {
        let mut client = Client::hello(self.node.address());
        client.mail(from, to, &with_fields(fields, id))
    }

    /// What the log says of an accepted message.
    fn accepted(&self, id: &str) -> String {
        self.sink.wait_for(id);
        let got = self.sink.with_id(id).remove(0);
        let received = message::field(&got.body, "Received").unwrap();
        let number = received.split(" id ").nth(1).unwrap();
        let number: String = number.chars().take_while(char::is_ascii_alphanumeric).collect();
        let log = self.node.log();
        let is_it = |line: &&str| line.contains("message.accepted") && line.contains(&number);
        log.lines().find(is_it).unwrap().to_string()
    }
}

/// With fields of its own in place of the usual `From`.
fn with_fields(fields: &str, id: &str) -> Vec<u8> {
    format!("X-Test-Id: {id}\r\nSubject: x\r\n{fields}\r\nhello\r\n").into_bytes()
}

#[test]
fn a_site_sends_as_itself_and_not_as_its_neighbour() {
    let bench = Bench::new(|setup| {
        setup.raw(
            "[[tenants]]\nname = \"shop\"\nnetworks = [\"127.0.0.0/8\"]\n\
             may_send_as = [\"shop.test\"]\n",
        )
    });
    let ours = bench.send("a@shop.test", "From: Shop <news@www.shop.test>\r\n", "ours");
    assert_eq!(ours.code, 250, "{}", ours.text);
    assert_eq!(bench.send("", "From: <>\r\n", "unreadable").code, 550);
    assert_eq!(bench.send("", "From: a@shop.test\r\n", "bounce").code, 250);
    for (from, author) in [
        ("a@bank.test", "From: a@shop.test"),
        ("a@shop.test", "From: a@bank.test"),
        ("a@shop.test", "From: a@shop.test, b@bank.test"),
        ("a@shop.test", "From: a@shop.test\r\nFrom: b@bank.test"),
        ("", "From: \"a@shop.test\" <b@bank.test>"),
    ] {
        let reply = bench.send(from, &format!("{author}\r\n"), "neighbour");
        assert_eq!(reply.text, "550 5.7.1 shop may not send as bank.test", "{from} {author}");
    }
    assert!(bench.sink.with_id("neighbour").is_empty());
}

#[test]
fn web_servers_that_are_believed_name_the_site_and_others_do_not() {
    let everybody = "[[tenants]]\nname = \"*\"\nmay_send_as = [\"own\"]\n";
    let bench = Bench::new(|setup| {
        setup
            .set("relay", "tenant_header", "\"X-Site\"")
            .set("relay", "tenant_header_from", "[\"127.0.0.1\"]")
            .raw(everybody)
    });
    let own = "X-Site: shop.test\r\nFrom: a@shop.test\r\n";
    assert_eq!(bench.send("www@www.shop.test", own, "own").code, 250);
    assert!(bench.accepted("own").contains("tenant=\"shop.test\""));
    let got = bench.sink.with_id("own").remove(0);
    assert!(message::field(&got.body, "X-Site").is_none(), "it is removed");
    let other = bench.send("www@bank.test", "X-Site: shop.test\r\nFrom: a@shop.test\r\n", "other");
    assert_eq!(other.text, "550 5.7.1 shop.test may not send as bank.test");
    let twice = bench.send("a@shop.test", "X-Site: shop.test\r\nX-Site: bank.test\r\n", "twice");
    assert_eq!(twice.code, 550, "{}", twice.text);

    let distrusted = Bench::new(|setup| {
        setup.set("relay", "tenant_header", "\"X-Site\"").set(
            "relay",
            "tenant_header_from",
            "[\"192.0.2.1\"]",
        )
    });
    let reply = distrusted.send("a@bank.test", "X-Site: shop.test\r\n", "claimed");
    assert_eq!(reply.code, 250);
    assert!(distrusted.accepted("claimed").contains("tenant=\"bank.test\""));
    let got = distrusted.sink.with_id("claimed").remove(0);
    assert!(message::field(&got.body, "X-Site").is_none(), "from others, too");
}

#[test]
fn beyond_its_limits_mail_takes_the_bulk_lane_or_waits_or_is_refused() {
    let tenant = |name: &str, beyond: &str| {
        format!(
            "[[tenants]]\nname = \"{name}\"\nsender_domains = [\"{name}.test\"]\n\
             accept_messages = \"2/h\"\nbeyond = \"{beyond}\"\n"
        )
    };
    let tenants = ["bulk", "defer", "refuse"].map(|name| tenant(name, name)).concat();
    let mut bench = Bench::new(|setup| setup.raw(&tenants));
    let send = |bench: &Bench, tenant: &str, id: &str| {
        bench.send(&format!("a@{tenant}.test"), "From: a@x.test\r\n", id)
    };
    for tenant in ["bulk", "defer", "refuse"] {
        for n in 0..2 {
            let id = format!("{tenant}-{n}");
            assert_eq!(send(&bench, tenant, &id).code, 250);
            assert!(bench.accepted(&id).contains("lane=\"direct\""));
        }
    }
    // Also over a restart.
    bench.node.restart();
    assert_eq!(send(&bench, "bulk", "more").code, 250);
    let accepted = bench.accepted("more");
    assert!(accepted.contains("lane=\"bulk\" reason=\"bulk sends more than 2/h\""), "{accepted}");
    let deferred = send(&bench, "defer", "later").text;
    assert!(
        deferred.starts_with("450 4.7.1 defer sends more than 2/h; try again in 6"),
        "{deferred}"
    );
    let refused = send(&bench, "refuse", "never").text;
    assert_eq!(refused, "550 5.7.1 refuse sends more than 2/h");
    assert_eq!(send(&bench, "neighbour", "neighbour").code, 250);
    assert!(bench.accepted("neighbour").contains("lane=\"direct\""));
}

#[test]
fn size_recipients_and_lane_are_a_tenants_own() {
    let bench = Bench::new(|setup| {
        setup.raw(
            "[[tenants]]\nname = \"small\"\nsender_domains = [\"small.test\"]\nrecipients = 2\n\
             message_size = \"1 KiB\"\nlane = \"bulk\"\naccept_recipients = \"3/d\"\n\
             beyond = \"defer\"\n",
        )
    });
    let from = "From: a@small.test\r\n";
    let three = ["r@d.test", "s@d.test", "t@d.test"];
    let many = bench.send_to("a@small.test", &three, from, "many");
    assert_eq!(many.text, "550 5.5.3 More recipients than the 2 that small may send to at once");
    let big = bench.send("a@small.test", &format!("X-Pad: {}\r\n", "x".repeat(2_000)), "big");
    assert_eq!(big.text, "552 5.3.4 Message larger than the 1024 bytes that small may send");
    assert_eq!(bench.send_to("a@small.test", &three[..2], from, "fits").code, 250);
    assert!(bench.accepted("fits").contains("lane=\"bulk\" reason=\"the tenant's lane\""));
    let beyond = bench.send_to("a@small.test", &three[..2], from, "beyond").text;
    assert!(beyond.starts_with("450 4.7.1 small sends more than 3/d recipients;"), "{beyond}");
    // A header says otherwise.
    let fields = format!("X-Newsletter: no\r\n{from}");
    assert_eq!(bench.send("a@small.test", &fields, "marked").code, 250);
    assert!(bench.accepted("marked").contains("lane=\"direct\""));
}
