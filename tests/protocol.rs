//! Dialogues with the receiving side: framing, limits, who may relay, and what nonsense leads to.
//!
//! Raw bytes go to the real binary. What must not be delivered is shown not to be: a later good
//! message arrives at the receiver, and nothing else has.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

mod support;

use std::time::{Duration, Instant};
use support::{Client, Dns, Node, Setup, Sink, message};

/// A node with one receiver for `d.test`.
struct Bench {
    node: Node,
    sink: Sink,
    _dns: Dns,
}

impl Bench {
    fn new() -> Self {
        Self::with(|setup| setup)
    }

    fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = support::receiver();
        Self { node: change(Setup::with(&dns, &sink)).start(), sink, _dns: dns }
    }

    fn client(&self) -> Client {
        Client::hello(self.node.address())
    }

    /// Shows that the node still works and that, of all mail so far, only `expected` arrived.
    #[track_caller]
    fn only_these_arrive(&self, expected: &[&str]) {
        let reply = self.client().mail("a@s.test", &["good@d.test"], &message::direct("good"));
        assert_eq!(reply.code, 250, "{}", reply.text);
        self.sink.wait_for("good");
        self.node.wait_until_empty();
        let mut all: Vec<String> = self.sink.recipients().into_iter().collect();
        all.retain(|recipient| recipient != "good@d.test");
        assert_eq!(all, expected);
    }
}

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    // RFC 5321 §4.1.1.4 and the twelve ways in which servers were fooled (CVE-2023-51764 and kin).
    let false_ends: [&[u8]; 12] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r.\r",
        b"\r.\n",
        b"\n.\r",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\r\n.\r\r\n",
        b"\r\n.\r\r\n",
    ];
    let bench = Bench::new();
    for (n, end) in false_ends.iter().enumerate() {
        let mut client = bench.client();
        client.command("MAIL FROM:<a@s.test>", 250);
        client.command(&format!("RCPT TO:<outer{n}@d.test>"), 250);
        client.command("DATA", 354);
        let smuggled = format!(
            "MAIL FROM:<evil@s.test>\r\nRCPT TO:<smuggled{n}@d.test>\r\nDATA\r\nSubject: x\r\n\r\n\
             smuggled\r\n.\r\n"
        );
        let bytes = [b"Subject: outer\r\n\r\nouter", *end, smuggled.as_bytes()].concat();
        client.send(&bytes);
        let reply = client.reply();
        assert_eq!(
            reply.code / 100,
            5,
            "after {:?}: {}",
            end.escape_ascii().to_string(),
            reply.text
        );
        while let Some(more) = client_rest(&mut client) {
            assert!(more >= 400, "after {:?}: {more}", end.escape_ascii().to_string());
        }
    }
    bench.only_these_arrive(&[]);
}

/// The code of one more reply, if one comes soon.
fn client_rest(client: &mut Client) -> Option<u16> {
    client.send_quietly(b"QUIT\r\n");
    client.try_reply().map(|reply| reply.code).filter(|code| *code != 221)
}

#[test]
fn bare_line_ends_and_nul_are_refused_in_bodies_and_commands() {
    let bench = Bench::new();
    for bad in ["a\nb", "a\rb", "a\0b", "a\r\r\nb", "\n", "\r"] {
        let mut client = bench.client();
        let body = format!("Subject: x\r\n\r\n{bad}\r\n");
        let reply = client.mail("a@s.test", &["bad@d.test"], body.as_bytes());
        assert_eq!(reply.code / 100, 5, "{bad:?}: {}", reply.text);
        let header = format!("Subject: {bad}\r\n\r\nx\r\n");
        let reply = bench.client().mail("a@s.test", &["bad@d.test"], header.as_bytes());
        assert_eq!(reply.code / 100, 5, "{bad:?} in the header: {}", reply.text);
        let mut client = bench.client();
        client.send(
            format!(
                "MAIL FROM:<a@s.test>\r\nRCPT TO:<bad@d.test>\r\nBDAT {} LAST\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        client.expect(250);
        client.expect(250);
        assert_eq!(client.reply().code / 100, 5, "{bad:?} by BDAT");
    }
    for bad in ["MAIL FROM:<a@s.test>\n", "NO\rOP\r\n", "NOOP\0\r\n", "NOOP \x1b[31m\n"] {
        let mut client = bench.client();
        client.send(bad.as_bytes());
        client.send_quietly(b"\r\n");
        assert!(client.reply().code >= 500, "{bad:?}");
    }
    bench.only_these_arrive(&[]);
}

#[test]
fn control_characters_in_addresses_are_refused() {
    let bench = Bench::new();
    let mut client = bench.client();
    for path in
        ["a\x1b[31m@s.test", "a\x07@s.test", "a\x7f@s.test", "\"a\x01\"@s.test", "a@s\x08.test"]
    {
        assert_eq!(client.ask(&format!("MAIL FROM:<{path}>")).code / 100, 5, "{path:?}");
    }
    client.command("MAIL FROM:<a@s.test>", 250);
    for path in
        ["r\x1b@d.test", "r@d\x0b.test", "", " ", "r@", "@d.test", "r@d..test", "r@[999.1.1.1]"]
    {
        assert_eq!(client.ask(&format!("RCPT TO:<{path}>")).code / 100, 5, "{path:?}");
    }
    client.send(b"EHLO evil\x1b[2J\r\n");
    assert_eq!(client.reply().code / 100, 5, "control characters in the name");
}

#[test]
fn unusual_addresses_are_taken() {
    let bench = Bench::with(|setup| setup.set("", "hostname", "\"d.test\""));
    let mut client = bench.client();
    client.command("MAIL FROM:<\"quoted string\"@s.test>", 250);
    let paths = ["\"a b\"@d.test", "\"a\\\"@b\"@d.test", "o'hara+x=y@D.Test", "postmaster@d.test"];
    for path in paths {
        client.command(&format!("RCPT TO:<{path}>"), 250);
    }
    assert_eq!(client.data(&message::direct("odd")).code, 250);
    let got = bench.sink.wait_for("odd");
    assert_eq!(
        (got.sender.as_str(), got.recipients),
        ("\"quoted string\"@s.test", paths.map(String::from).to_vec())
    );
    client.command("MAIL FROM:<>", 250);
    client.command("RCPT TO:<Postmaster>", 250);
    client.command("RSET", 250);
}

#[test]
fn commands_out_of_order_are_told_so() {
    let bench = Bench::new();
    let mut client = Client::connect(bench.node.address());
    client.command("MAIL FROM:<a@s.test>", 503);
    client.command("HELO client.test", 250);
    client.command("RCPT TO:<r@d.test>", 503);
    client.command("DATA", 503);
    client.command("MAIL FROM:<a@s.test>", 250);
    client.command("MAIL FROM:<b@s.test>", 503);
    let refused = client.ask("DATA");
    assert!([503, 554].contains(&refused.code), "no recipient yet: {}", refused.text);
    client.command("RSET", 250);
    client.command("RCPT TO:<r@d.test>", 503);
    client.command("NOOP", 250);
    client.command("VRFY someone", 252);
    assert!(client.ask("HELP").code / 100 == 2);
    for unknown in ["EXPN list", "TURN", "ETRN d.test", "WIBBLE"] {
        let code = client.ask(unknown).code;
        assert!([500, 502].contains(&code), "{unknown}: {code}");
    }
    for syntax in
        ["MAIL FROM a@s.test", "MAIL FROM:<a@s.test", "MAIL FROM:<a@s.test> FOO=BAR", "MAIL"]
    {
        let code = client.ask(syntax).code;
        assert!([500, 501, 504, 555].contains(&code), "{syntax}: {code}");
    }
    client.command("QUIT", 221);
    assert!(client.is_closed());
}

#[test]
fn ehlo_tells_what_is_offered() {
    let bench = Bench::with(|s| {
        s.set("limits", "recipients", "77").set("limits", "message_size", "\"1 MiB\"")
    });
    let mut client = Client::connect(bench.node.address());
    let text = client.command("EHLO client.test", 250).text;
    let offered: Vec<&str> = text.split("\r\n").map(|line| &line[4..]).collect();
    assert!(offered[0].starts_with("relay.test"), "{text}");
    for wanted in [
        "PIPELINING",
        "SIZE 1048576",
        "8BITMIME",
        "SMTPUTF8",
        "CHUNKING",
        "DSN",
        "ENHANCEDSTATUSCODES",
    ] {
        assert!(offered.contains(&wanted), "{wanted} is missing: {text}");
    }
    let limits = offered.iter().find(|line| line.starts_with("LIMITS ")).expect("LIMITS");
    assert!(limits.contains("RCPTMAX=77"), "{limits}");
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let bench = Bench::with(|setup| setup.set("limits", "errors", "1000"));
    let mut client = bench.client();
    let mut all = Vec::new();
    for n in 0..50 {
        all.extend_from_slice(
            format!("MAIL FROM:<a@s.test>\r\nRCPT TO:<r{n}@d.test>\r\nRCPT TO:<bad@>\r\nDATA\r\n")
                .as_bytes(),
        );
        all.extend_from_slice(&message::stuffed(&message::direct(&format!("p{n}"))));
    }
    all.extend_from_slice(b"NOOP\r\nQUIT\r\n");
    // In odd pieces, so that commands and the last dot are cut anywhere.
    for piece in all.chunks(1_337) {
        client.send(piece);
    }
    for n in 0..50 {
        for code in [250, 250, 501, 354, 250] {
            let reply = client.reply();
            assert!(
                reply.code == code || (code == 501 && reply.code / 100 == 5),
                "{n}: {}",
                reply.text
            );
        }
    }
    client.expect(250);
    client.expect(221);
    bench.sink.wait_for_count(50);
    assert_eq!(bench.sink.count(), 50);
}

#[test]
fn limits_are_kept() {
    let bench = Bench::with(|setup| {
        setup
            .set("limits", "recipients", "3")
            .set("limits", "message_size", "\"10 KiB\"")
            .set("limits", "line_length", "\"2 KiB\"")
            .set("limits", "header_size", "\"4 KiB\"")
            .set("limits", "hops", "5")
    });
    let mut client = bench.client();
    client.command("MAIL FROM:<a@s.test> SIZE=999999", 552);
    client.command("MAIL FROM:<a@s.test> SIZE=5000", 250);
    for n in 0..3 {
        client.command(&format!("RCPT TO:<r{n}@d.test>"), 250);
    }
    client.command("RCPT TO:<r3@d.test>", 452);
    client.command("RSET", 250);
    let filler = "x".repeat(70) + "\r\n";
    let refused = [
        ("size", message::message("size", "", &filler.repeat(200)), 552),
        ("line", message::message("line", "", &format!("{}\r\n", "x".repeat(3_000))), 500),
        ("header", message::message("header", &format!("X-A: {filler}").repeat(60), "x\r\n"), 500),
        ("hops", [&b"Received: from x\r\n".repeat(6)[..], &message::direct("hops")].concat(), 554),
    ];
    for (name, body, code) in refused {
        let reply = bench.client().mail("a@s.test", &["refused@d.test"], &body);
        assert_eq!(reply.code / 100, 5, "{name}: {}", reply.text);
        assert!(code == 500 || reply.code == code, "{name}: {}", reply.text);
    }
    // Many chunks are one message.
    let mut client = bench.client();
    client.command("MAIL FROM:<a@s.test>", 250);
    client.command("RCPT TO:<refused@d.test>", 250);
    let codes: Vec<u16> = (0..12)
        .map_while(|_| {
            client.send_quietly(
                &[b"BDAT 1000\r\n", &filler.repeat(14).as_bytes()[..998], b"\r\n"].concat(),
            );
            client.try_reply().map(|reply| reply.code)
        })
        .collect();
    assert!(codes.iter().any(|code| code / 100 == 5), "{codes:?}");
    bench.only_these_arrive(&[]);
}

#[test]
fn an_endless_line_ends_the_patience_not_the_memory() {
    let bench = Bench::new();
    let before = resident(bench.node.pid());
    let mut client = bench.client();
    let block = vec![b'x'; 1 << 20];
    let sent = (0..64).take_while(|_| client.send_quietly(&block)).count();
    let after = resident(bench.node.pid());
    assert!(
        after < before + (32 << 20),
        "{before} → {after} bytes after {sent} MiB without a line end"
    );
    bench.only_these_arrive(&[]);
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn nonsense_ends_the_session() {
    let bench = Bench::with(|setup| setup.set("limits", "errors", "10"));
    for request in
        ["GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT d.test:25 HTTP/1.1", "HEAD / HTTP/1.1"]
    {
        let mut client = Client::connect(bench.node.address());
        client.send(format!("{request}\r\nHost: x\r\n\r\nMAIL FROM:<a@s.test>\r\n").as_bytes());
        let reply = client.try_reply();
        assert!(reply.as_ref().is_none_or(|r| r.code >= 400), "{request}: {reply:?}");
        assert_eq!(client.try_reply(), None, "{request} ends the session");
    }
    let mut client = bench.client();
    let replies = (0..50).take_while(|_| {
        client.send_quietly(b"WIBBLE\r\n") && client.try_reply().is_some_and(|r| r.code != 421)
    });
    assert!(replies.count() <= 11, "too many errors end the session");
    bench.only_these_arrive(&[]);
}

#[test]
fn strangers_who_talk_first_are_sent_away() {
    let bench = Bench::with(|setup| setup.set("relay", "networks", "[\"192.0.2.0/24\"]"));
    let mut client = Client::connect_silently(bench.node.address());
    client.send(b"EHLO early.test\r\nMAIL FROM:<a@s.test>\r\n");
    let first = client.try_reply();
    assert!(first.as_ref().is_none_or(|reply| reply.code >= 400), "{first:?}");
    assert_eq!(client.try_reply(), None);
}

#[test]
fn strangers_cannot_relay_by_any_spelling() {
    let bench =
        Bench::with(|setup| setup.set("relay", "networks", "[\"192.0.2.0/24\", \"::1/128\"]"));
    let senders = ["a@s.test", "", "postmaster@relay.test", "root@[127.0.0.1]"];
    let recipients = [
        "victim@d.test",
        "victim%d.test@relay.test",
        "victim%d.test@[127.0.0.1]",
        "\"victim@d.test\"",
        "\"victim@d.test\"@relay.test",
        "\"victim%d.test\"@relay.test",
        "victim@d.test@relay.test",
        "@relay.test:victim@d.test",
        "@[127.0.0.1]:victim@d.test",
        "d.test!victim",
        "d.test!victim@relay.test",
        "d.test!victim@[127.0.0.1]",
        "victim@[127.0.0.2]",
        "victim@[IPv6:::ffff:127.0.0.2]",
        "victim@d.test.",
        "victim@d.test (comment)",
        "victim%25d.test@relay.test",
        "victim@localhost",
        "victim@relay.test",
        "victim",
        "victim@D.TEST",
    ];
    // Strangers wait a little for their greeting: side by side that is soon over.
    std::thread::scope(|scope| {
        for recipient in recipients {
            let bench = &bench;
            scope.spawn(move || {
                for sender in senders {
                    let mut client = bench.client();
                    let taken = client.ask(&format!("MAIL FROM:<{sender}>")).code == 250
                        && client.ask(&format!("RCPT TO:<{recipient}>")).code == 250;
                    assert!(!taken, "<{sender}> → <{recipient}> was taken");
                }
            });
        }
    });
    let mut client = bench.client();
    client.command("MAIL FROM:<a@s.test>", 250);
    let refused = client.ask("RCPT TO:<victim@d.test>");
    assert_eq!(refused.code, 550, "{}", refused.text);
    assert!(refused.text.contains("5.7.1"), "{}", refused.text);
    assert_eq!(bench.sink.count(), 0);
    let told = "command.refused client=127.0.0.1 from=\"a@s.test\" \
                command=\"RCPT TO:<victim@d.test>\" reply=550 5.7.1 Relaying not permitted";
    support::wait_until(support::PATIENCE, "the log tells", || bench.node.log().contains(told));
}

#[test]
fn one_client_cannot_take_every_session() {
    let bench = Bench::with(|s| s.set("limits", "sessions_per_address", "5"));
    let mut held = Vec::new();
    support::wait_until(support::PATIENCE, "five sessions stand", || {
        // The one that saw the node start may not be over yet.
        let mut client = Client::connect_silently(bench.node.address());
        if client.reply().code == 220 {
            held.push(client);
        }
        held.len() == 5
    });
    let mut refused = Client::connect_silently(bench.node.address());
    assert_eq!(refused.reply().code, 421);
    drop(held);
    let told = "client.turned_away client=127.0.0.1 count=1 \
                reply=\"421 4.7.0 Too many sessions from your address\"";
    support::wait_until(support::PATIENCE, "the log tells", || bench.node.log().contains(told));
    support::wait_until(support::PATIENCE, "a session is free again", || {
        let mut client = Client::connect_silently(bench.node.address());
        client.try_reply().is_some_and(|reply| reply.code == 220)
    });
}

#[test]
fn silent_clients_are_sent_away() {
    let bench = Bench::with(|setup| {
        setup.set("limits", "command_timeout", "\"1s\"").set("limits", "data_timeout", "\"1s\"")
    });
    let begin = Instant::now();
    let mut idle = bench.client();
    let mut stuck = bench.client();
    stuck.command("MAIL FROM:<a@s.test>", 250);
    stuck.command("RCPT TO:<r@d.test>", 250);
    stuck.command("DATA", 354);
    stuck.send(b"Subject: never\r\n");
    for client in [&mut idle, &mut stuck] {
        let last = client.try_reply();
        assert!(last.as_ref().is_none_or(|reply| reply.code == 421), "{last:?}");
        assert_eq!(client.try_reply(), None);
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    bench.only_these_arrive(&[]);
}

#[test]
fn the_received_field_says_where_it_came_from() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.mail("a@s.test", &["r@d.test"], &message::direct("trace")).code, 250);
    let got = bench.sink.wait_for("trace").body;
    let received = message::field(&got, "Received").unwrap();
    for part in ["from client.test", "[127.0.0.1]", "by relay.test", "with ESMTP", "id "] {
        assert!(received.contains(part), "{part:?} is missing: {received}");
    }
    assert!(received.ends_with("+0000"), "{received}");
    assert!(!received.contains("r@d.test") || received.contains("for <r@d.test>"), "{received}");
}
