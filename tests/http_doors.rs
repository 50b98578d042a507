//! The HTTP interface under clients that are slow, many, or gone, and through a stop.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time on a real machine")]

#[path = "http_api/bench.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod bench;
mod support;

use bench::{Bench, draft};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Client, PATIENCE, message, wait_until};

/// A connection that has sent the head of a request with so long a body.
fn begun(bench: &Bench, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", bench.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
        bench.token("shop")
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn large_requests_that_come_side_by_side_are_all_taken() {
    // Less memory than one of them takes: they come to disk, and are worked on in turn.
    let bench = Bench::new(|setup| setup.set("limits", "memory", "\"1 MiB\""));
    let text = "Many words, and each of them in its place.\n".repeat(40_000);
    let name = |n: usize| format!("r{n}@d.test");
    let requests: Vec<String> =
        (0..4).map(|n| draft(&json!({"to": [name(n)], "text": text})).to_string()).collect();
    let mut streams: Vec<TcpStream> =
        requests.iter().map(|request| begun(&bench, request.len())).collect();
    for half in [0, 1] {
        for (stream, request) in streams.iter_mut().zip(&requests) {
            let (first, second) = request.as_bytes().split_at(request.len() / 2);
            stream.write_all([first, second][half]).unwrap();
        }
    }
    for stream in &mut streams {
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 202");
    }
    for n in 0..4 {
        wait_until(PATIENCE, &name(n), || !bench.sink.to(&name(n)).is_empty());
        let body = bench.sink.to(&name(n)).remove(0).body;
        let words = memchr::memmem::find_iter(&body, "each of them in its place.").count();
        assert_eq!(words, 40_000);
    }
}

#[test]
fn who_drips_is_ended_and_hurts_nobody() {
    let bench = Bench::new(|setup| setup.set("http", "request_timeout", "\"2s\""));
    let begin = Instant::now();
    let dripping: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = begun(&bench, 100_000);
            std::thread::spawn(move || {
                let mut told = stream.try_clone().unwrap();
                let drip = std::thread::spawn(move || {
                    // Until it is ended, or for far longer than it may last.
                    while begin.elapsed() < PATIENCE && stream.write_all(b" ").is_ok() {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                });
                let mut first = [0; 12];
                told.read_exact(&mut first).unwrap();
                _ = told.shutdown(std::net::Shutdown::Both);
                drip.join().unwrap();
                String::from_utf8(first.to_vec()).unwrap()
            })
        })
        .collect();
    while begin.elapsed() < Duration::from_secs(1) {
        let sent = Instant::now();
        assert_eq!(bench.post(&draft(&json!({}))).status, 202);
        assert!(sent.elapsed() < Duration::from_secs(5));
    }
    for client in dripping {
        assert_eq!(client.join().unwrap(), "HTTP/1.1 408");
    }
    assert!(begin.elapsed() >= Duration::from_secs(2) && begin.elapsed() < PATIENCE);
}

#[test]
fn many_connections_of_one_address_are_turned_away_and_smtp_goes_on() {
    let bench = Bench::new(|setup| setup.set("http", "connections_per_address", "3"));
    let waiting: Vec<_> = (0..3).map(|_| begun(&bench, 10)).collect();
    // Each is in once its head was read; a fourth then is one too many.
    wait_until(PATIENCE, "the places are taken", || bench.get("/healthz", "").status == 429);
    let told = bench.post(&draft(&json!({})));
    assert_eq!(told.status, 429, "{}", told.body);
    assert!(told.retry_after.is_some() && told.problem().contains("your address"));
    assert!(bench.node.log().contains("client.turned_away"));
    let mut smtp = Client::hello(bench.node.address());
    let mail = message::direct("smtp");
    assert_eq!(smtp.mail("a@x.test", &["ann@d.test"], &mail).code, 250);
    drop(waiting);
    wait_until(PATIENCE, "there is room again", || bench.get("/healthz", "").status == 200);
    assert_eq!(bench.post(&draft(&json!({}))).status, 202);
}

#[test]
fn what_was_begun_before_a_stop_is_taken_and_is_delivered() {
    let mut bench = Bench::new(|setup| setup);
    let body = draft(&json!({"headers": {"X-Test-Id": "last"}})).to_string();
    let mut stream = begun(&bench, body.len());
    let idle = TcpStream::connect(("127.0.0.1", bench.port)).unwrap();
    let (first, last) = body.as_bytes().split_at(20);
    stream.write_all(first).unwrap();
    // The bytes are there once another request, sent later, has its answer.
    assert_eq!(bench.get("/healthz", "").status, 200);
    bench.node.signal("TERM");
    wait_until(PATIENCE, "it stops", || bench.node.log().contains("node.draining"));
    wait_until(PATIENCE, "no more are let in", || {
        TcpStream::connect(("127.0.0.1", bench.port)).is_err()
    });
    assert_eq!(rest(idle), "", "a connection without a request ends at once");
    stream.write_all(last).unwrap();
    let told = rest(stream);
    assert!(told.starts_with("HTTP/1.1 202 "), "{told}");
    wait_until(PATIENCE, "it has ended", || bench.node.log().contains("node.drained"));
    bench.node.kill();
    bench.node.start();
    bench.sink.wait_for("last");
}

#[test]
fn a_client_that_hangs_up_has_sent_all_the_same() {
    let bench = Bench::new(|setup| setup);
    let body = draft(&json!({"headers": {"X-Test-Id": "gone"}})).to_string();
    let mut stream = begun(&bench, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(stream);
    bench.sink.wait_for("gone");
}

#[test]
fn with_tls_it_speaks_https_alone() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let pem = folder.path().join("pem");
    std::fs::write(&pem, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let bench = Bench::with("https", |setup| {
        setup.set("tls", "certificate", &format!("{pem:?}")).set("http", "tls", "true")
    });
    let got = bench.post(&draft(&json!({"headers": {"X-Test-Id": "safe"}})));
    assert_eq!(got.status, 202, "{}", got.body);
    let received = message::field(&bench.sink.wait_for("safe").body, "Received").unwrap();
    assert!(received.contains("with HTTPS id"), "{received}");
    let clear = begun(&bench, 1);
    assert!(!rest(clear).starts_with("HTTP/"));
}

#[test]
fn tokens_are_not_sent_in_clear_over_a_network() {
    let node = support::Setup::new().set("http", "listen", "\"0.0.0.0:8025\"").prepare();
    let said = node.cli(&["config", "check"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("tokens would be read on the way"), "{said}");
}
