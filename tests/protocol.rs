//! The receiving side where a dialogue (`tests/dialogues`) does not tell enough: many messages,
//! time, the log.
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
fn many_chunks_are_one_message() {
    let bench = Bench::with(|setup| setup.set("limits", "message_size", "\"10 KiB\""));
    let mut client = bench.client();
    client.command("MAIL FROM:<a@s.test>", 250);
    client.command("RCPT TO:<refused@d.test>", 250);
    let chunk = [&b"BDAT 1000\r\n"[..], &[b'x'; 998], b"\r\n"].concat();
    for n in 1..=11 {
        client.send(&chunk);
        client.expect(if n <= 10 { 250 } else { 552 });
    }
    bench.only_these_arrive(&[]);
}

#[test]
fn the_log_tells_who_wants_to_relay() {
    let bench = Bench::with(|setup| setup.set("relay", "networks", "[\"192.0.2.0/24\"]"));
    let mut client = bench.client();
    client.command("MAIL FROM:<a@s.test>", 250);
    client.command("RCPT TO:<victim@d.test>", 550);
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
