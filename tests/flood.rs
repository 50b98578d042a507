//! A crowd, slow clients, strangers and talk without end: the others are served, and memory stays.
//!
//! `benches/front_door` does the same at full size, with times.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use support::{Client, Dns, Node, PATIENCE, Setup, message, wait_until};

/// Clients in 127/9 may send; their mail waits.
fn setup(dns: &Dns) -> Setup {
    dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
    Setup::new()
        .dns(dns.address())
        .set("relay", "networks", "[\"127.0.0.0/9\"]")
        .set("lanes.bulk", "gather", "\"1h\"")
        .set("log", "level", "\"info\"")
}

/// Resident memory of the node, in KiB.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn greeted(source: [u8; 4], node: &Node) -> Client {
    let mut client = Client::connect_from(Ipv4Addr::from(source), node.address());
    client.expect(220);
    client.command("EHLO client.test", 250);
    client
}

/// One who may send comes anew and sends.
#[track_caller]
fn sends(last: u8, node: &Node) {
    let mut client = greeted([127, 3, 0, last], node);
    let message = message::newsletter(&message::unique("honest"));
    assert_eq!(client.mail("a@s.test", &["b@d.test"], &message).code, 250);
    client.command("QUIT", 221);
}

#[test]
fn a_crowd_of_idle_and_slow_clients_delays_nobody() {
    let dns = Dns::new();
    let node = setup(&dns).start();
    sends(0, &node);
    let before = memory(&node);
    let mut idle: Vec<Client> = (0..300).map(|n| greeted([127, 1, 0, n as u8], &node)).collect();
    let mut slow: Vec<Client> = (0..50).map(|n| greeted([127, 2, 0, n], &node)).collect();
    for client in &mut slow {
        client.command("MAIL FROM:<a@s.test>", 250);
        client.command("RCPT TO:<b@d.test>", 250);
        client.command("DATA", 354);
        client.send(b"X-Newsletter: yes\r\n\r\n");
    }
    for n in 0..20 {
        for client in &mut slow {
            client.send(b"x");
        }
        sends(n, &node);
    }
    let grown = memory(&node).saturating_sub(before);
    assert!(grown < 350 * 64, "{grown} KiB for 350 sessions");
    for client in &mut slow {
        client.send(b"\r\n.\r\n");
        client.expect(250);
    }
    for client in &mut idle {
        client.command("NOOP", 250);
    }
    assert_eq!(node.totals().ready, 1 + 50 + 20);
}

#[test]
fn large_messages_that_come_slowly_take_disk_and_not_memory() {
    let (dns, sink) = support::receiver();
    let node = Setup::with(&dns, &sink).start();
    let part = "Some thirty bytes of a chunk..\r\n".repeat((4 << 20) / 32);
    let small = message::direct("small");
    assert_eq!(Client::hello(node.address()).mail("a@s.test", &["b@d.test"], &small).code, 250);
    let before = memory(&node);
    let mut slow = Vec::new();
    for n in 0..40 {
        let (id, mut client) = (format!("slow{n}"), Client::hello(node.address()));
        client.command("MAIL FROM:<a@s.test>", 250);
        client.command(&format!("RCPT TO:<{id}@d.test>"), 250);
        let first = format!("X-Test-Id: {id}\r\n\r\n{part}");
        client.send(format!("BDAT {}\r\n{first}", first.len()).as_bytes());
        client.expect(250);
        slow.push((id, client));
    }
    let grown = memory(&node).saturating_sub(before);
    assert!(grown < 40 << 10, "{grown} KiB for 160 MiB of messages that are under way");
    for (id, mut client) in slow {
        client.send(b"BDAT 5 LAST\r\nend\r\n");
        client.expect(250);
        let body = sink.wait_for(&id).body;
        assert!(body.ends_with(format!("\r\n\r\n{part}end\r\n").as_bytes()), "{id}");
    }
}

#[test]
fn strangers_take_their_own_places_alone() {
    let dns = Dns::new();
    let node = setup(&dns).set("limits", "stranger_rate", "\"30/h\"").start();
    let mut strangers: Vec<Client> = (0..150)
        .map(|n| Client::connect_from(Ipv4Addr::new(127, 200, 0, n), node.address()))
        .collect();
    let replies: Vec<_> = strangers.iter_mut().map(Client::reply).collect();
    let greeted = replies.iter().filter(|reply| reply.code == 220).count();
    let full = "421 4.3.2 Too many sessions of strangers, try again later";
    let sent_away = replies.iter().filter(|reply| reply.text == full).count();
    assert_eq!((greeted, sent_away), (100, 50), "{replies:?}");
    sends(1, &node);
    drop(strangers);
    // One of them that comes too fast; another one is let in.
    let fast = Ipv4Addr::new(127, 200, 1, 1);
    let slow_down = "421 4.7.0 Too many connections from your address, slow down";
    wait_until(PATIENCE, "the address is asked to slow down", || {
        let mut client = Client::connect_from(fast, node.address());
        client.try_reply().is_some_and(|reply| reply.text == slow_down)
    });
    Client::connect_from(Ipv4Addr::new(127, 200, 1, 2), node.address()).expect(220);
    sends(2, &node);
    assert!(node.log().lines().filter(|l| l.contains("client.turned_away")).count() < 10);
}

#[test]
fn an_address_that_takes_all_it_may_leaves_room_for_others() {
    let dns = Dns::new();
    let node = setup(&dns).start();
    let all: Vec<Client> = (0..200).map(|_| greeted([127, 1, 0, 1], &node)).collect();
    for _ in 0..100 {
        let mut client = Client::connect_from(Ipv4Addr::new(127, 1, 0, 1), node.address());
        assert_eq!(client.expect(421).text, "421 4.7.0 Too many sessions from your address");
        assert!(client.is_closed());
    }
    sends(1, &node);
    drop(all);
    wait_until(PATIENCE, "places are free again", || {
        let mut client = Client::connect_from(Ipv4Addr::new(127, 1, 0, 1), node.address());
        client.try_reply().is_some_and(|reply| reply.code == 220)
    });
}

/// Says what comes first, then a piece so many times, then what comes last; gives all that was
/// answered until the other side closed.
fn pour(address: SocketAddr, first: &str, piece: &[u8], times: usize, last: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut heard, mut block) = (Vec::new(), [0; 65_536]);
        // It may end with a reset, since there is more of us than is read.
        while let Ok(count @ 1..) = reading.read(&mut block) {
            heard.extend_from_slice(&block[..count]);
        }
        String::from_utf8(heard).unwrap()
    });
    let pieces = std::iter::repeat_n(piece, times);
    for bytes in std::iter::once(first.as_bytes()).chain(pieces).chain([last.as_bytes()]) {
        if stream.write_all(bytes).is_err() {
            break;
        }
    }
    reader.join().unwrap()
}

#[test]
fn what_has_no_end_is_ended_and_takes_no_memory() {
    let dns = Dns::new();
    let node = setup(&dns).set("limits", "message_size", "\"1 MiB\"").start();
    sends(0, &node);
    let before = memory(&node);
    let mail = "EHLO c.test\r\nMAIL FROM:<a@s.test>\r\nRCPT TO:<b@d.test>\r\n";
    let data = format!("{mail}DATA\r\n");
    let line = vec![b'x'; 65_536];
    let recipients = b"RCPT TO:<someone@d.test>\r\n".repeat(1_000);
    let (dot, quit) = ("\r\n.\r\nQUIT\r\n", "QUIT\r\n");
    let field = b"X-More: of the same\r\n".repeat(3_000);
    let block = b"Thirty-two bytes of a chunk....\r\n".repeat(1_000);
    let chunk = format!("{mail}BDAT {} LAST\r\n", block.len() * 500);
    let bye = "221 2.0.0 Bye";
    for (first, piece, times, last, answer, end) in [
        (mail, &recipients, 50, "", "452 4.5.3", "421 4.7.0 Too many refused recipients"),
        ("", &line, 500, "", "220 ", "421 4.7.0 Line without end"),
        ("", &b"NOOP\r\n".repeat(1_000), 200, "", "250 2.0.0", "421 4.7.0 Too many commands"),
        ("", &b"sense\r\n".repeat(1_000), 50, "", "500 5.5.2", "421 4.7.0 Too many errors"),
        (&data, &line, 500, dot, "550 5.6.0 Line longer than 102400 bytes", bye),
        (&data, &field, 500, dot, "552 5.3.4 Message larger than 1048576 bytes", bye),
        (&chunk, &block, 500, quit, "552 5.3.4 Message larger than 1048576 bytes", bye),
    ] {
        let heard = pour(node.address(), first, piece, times, last);
        assert!(heard.contains(answer), "{answer}, not {:?}", heard.lines().last());
        assert_eq!(heard.lines().last(), Some(end));
        sends(1, &node);
    }
    let grown = memory(&node).saturating_sub(before);
    assert!(grown < 24 << 10, "{grown} KiB");
}
