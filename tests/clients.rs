//! Real clients hand their mail to the node; what arrives at the receiver is what they sent.
//!
//! Each test names one client or one trait of the bytes. Compared are the exact bytes under the
//! trace fields that a relay adds, and the envelope.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use base64::Engine as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use support::{Client, Dns, Host, Node, Setup, Sink, message, tool};

/// A node with one receiver that takes everything for `d.test`.
struct Bench {
    node: Node,
    sink: Sink,
    host: Arc<Host>,
    _dns: Dns,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        let host = sink.host("127.0.0.2");
        let setup = Setup::with(&dns, &sink).set("limits", "recipients", "1000");
        Self { node: setup.start(), sink, host, _dns: dns }
    }

    fn address(&self) -> SocketAddr {
        self.node.address()
    }

    fn host_and_port(&self) -> [String; 2] {
        [self.address().ip().to_string(), self.address().port().to_string()]
    }

    /// Sends over DATA and compares what arrives.
    #[track_caller]
    fn relays(&self, id: &str, body: &[u8]) {
        let reply = Client::hello(self.address()).mail("a@s.test", &["r@d.test"], body);
        assert_eq!(reply.code, 250, "{id}: {}", reply.text);
        message::assert_relayed(body, &self.sink.wait_for(id).body);
    }
}

fn decode(line: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(line).unwrap()
}

#[test]
fn swaks_delivers() {
    let bench = Bench::new();
    let id = message::unique("swaks");
    let sent = message::direct(&id);
    let mut swaks = Command::new(tool::program("swaks"));
    swaks
        .args(["--server", &bench.address().ip().to_string()])
        .args(["--port", &bench.address().port().to_string()])
        .args(["--from", "ann@s.test", "--to", "r@d.test,second@d.test", "--data", "-"]);
    tool::run(&mut swaks, &sent);
    let got = bench.sink.wait_for(&id);
    assert_ends_alike(&sent, &got.body);
    assert_eq!(got.sender, "ann@s.test");
    assert_eq!(got.recipients, ["r@d.test", "second@d.test"]);
}

#[test]
fn python_smtplib_delivers_many_on_one_connection() {
    let bench = Bench::new();
    let mut python = Command::new("python3");
    python.arg(tool::script("smtplib_send.py")).args(bench.host_and_port());
    python.args(["ann@s.test", "r@d.test"]);
    let mut sent = Vec::new();
    for n in 0..20 {
        let id = format!("smtplib-{n}");
        let fields = if n % 2 == 0 { "X-Newsletter: yes\r\n" } else { "" };
        let body = message::message(&id, fields, "Grüße\r\n.\r\n..\r\n\r\n\r\n");
        let file = bench.node.dir().join(&id);
        std::fs::write(&file, &body).unwrap();
        python.arg(file);
        sent.push((id, body));
    }
    tool::run(&mut python, b"");
    for (id, body) in sent {
        let got = bench.sink.wait_for(&id);
        message::assert_relayed(&body, &got.body);
        assert!(got.mail_parameters.contains("BODY=8BITMIME"), "{}", got.mail_parameters);
    }
}

#[test]
fn phpmailer_delivers() {
    let bench = Bench::new();
    let mut php = Command::new(tool::program("php"));
    php.arg(tool::script("phpmailer_send.php")).args(bench.host_and_port());
    php.args(["shop@s.test", "r@d.test", "php", "5"]);
    let sent = tool::run(&mut php, b"");
    for (n, line) in sent.lines().enumerate() {
        let got = bench.sink.wait_for(&format!("php-{}", n + 1));
        assert_ends_alike(&decode(line), &got.body);
    }
    assert_eq!(sent.lines().count(), 5);
}

#[test]
fn nodemailer_delivers_over_its_pool() {
    let bench = Bench::new();
    let mut node = Command::new(tool::program("node"));
    node.arg(tool::script("nodemailer_send.js")).env("NODE_PATH", tool::node_modules());
    node.args(bench.host_and_port()).args(["shop@s.test", "r@d.test", "js", "12"]);
    let sent = tool::run(&mut node, b"");
    for line in sent.lines() {
        let sent = decode(line);
        let got = bench.sink.wait_for(&message::test_id(&sent).unwrap());
        assert_ends_alike(&sent, &got.body);
    }
    assert_eq!(sent.lines().count(), 12);
}

/// As [`message::assert_relayed`], with as many empty lines at the end as the client liked to send.
#[track_caller]
fn assert_ends_alike(sent: &[u8], got: &[u8]) {
    let trimmed = |bytes: &[u8]| {
        let mut bytes = bytes;
        while let Some(shorter) = bytes.strip_suffix(b"\r\n") {
            bytes = shorter;
        }
        [bytes, b"\r\n"].concat()
    };
    message::assert_relayed(&trimmed(sent), &trimmed(got));
}

#[test]
fn curl_delivers() {
    let bench = Bench::new();
    let id = message::unique("curl");
    let sent = message::direct(&id);
    let mut curl = Command::new(tool::program("curl"));
    curl.args(["--silent", "--show-error", "--mail-from", "ann@s.test", "--mail-rcpt", "r@d.test"])
        .args(["--upload-file", "-", &format!("smtp://{}/client.test", bench.address())]);
    tool::run(&mut curl, &sent);
    message::assert_relayed(&sent, &bench.sink.wait_for(&id).body);
}

#[test]
fn msmtp_delivers() {
    let bench = Bench::new();
    let id = message::unique("msmtp");
    let sent = message::direct(&id);
    let [host, port] = bench.host_and_port();
    let mut msmtp = Command::new(tool::program("msmtp"));
    msmtp.args(["--file=/dev/null", "--logfile=", &format!("--host={host}")]);
    msmtp.args([&format!("--port={port}"), "--from=ann@s.test", "--", "r@d.test"]);
    // As a Unix mail program hands it over: with bare line feeds.
    let text = String::from_utf8(sent.clone()).unwrap().replace("\r\n", "\n");
    tool::run(&mut msmtp, text.as_bytes());
    message::assert_relayed(&sent, &bench.sink.wait_for(&id).body);
}

#[test]
fn smtp_source_delivers_in_parallel() {
    let bench = Bench::new();
    let source = |address: SocketAddr, recipient: &str, count: &str| {
        let mut source = Command::new(tool::program("smtp-source"));
        source.args(["-s", "10", "-l", "4096", "-m", count, "-f", "bulk@s.test", "-t", recipient]);
        tool::run(source.arg(address.to_string()), b"");
    };
    // One straight to the receiver shows what it sends; its date and id differ from mail to mail.
    source(SocketAddr::new(bench.host.address(), bench.sink.port()), "model@d.test", "1");
    source(bench.address(), "r@d.test", "200");
    bench.sink.wait_for_count(201);
    let constant = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let from = text.find("From:").expect("a From field");
        let own = |line: &&str| !line.starts_with("Date:") && !line.starts_with("Message-Id:");
        let lines: Vec<&str> = text[from..].split("\r\n").filter(own).collect();
        lines.join("\r\n").replace("model@", "r@")
    };
    let model = constant(&bench.sink.to("model@d.test")[0].body);
    let got = bench.sink.to("r@d.test");
    assert_eq!(got.len(), 200);
    for delivered in got {
        assert_eq!(constant(&delivered.body), model);
    }
}

#[test]
fn lettre_delivers() {
    use lettre::Transport as _;
    let bench = Bench::new();
    let [host, _] = bench.host_and_port();
    let transport =
        lettre::SmtpTransport::builder_dangerous(host).port(bench.address().port()).build();
    for n in 0..10 {
        let id = format!("lettre-{n}");
        let envelope = lettre::address::Envelope::new(
            Some("ann@s.test".parse().unwrap()),
            vec!["r@d.test".parse().unwrap()],
        );
        let sent = message::direct(&id);
        assert!(transport.send_raw(&envelope.unwrap(), &sent).unwrap().is_positive());
        assert_ends_alike(&sent, &bench.sink.wait_for(&id).body);
    }
}

#[test]
fn every_byte_of_the_body_arrives() {
    let bench = Bench::new();
    let odd = [
        ("dots", ".\r\n..\r\n...\r\n.a\r\n\r\n.\r\n".to_string()),
        ("empty-body", String::new()),
        ("blank-lines", "\r\n".repeat(500)),
        ("tabs", "\t \t\r\n \r\n\x08\x0b\x0c\x1b[31m\x7f\r\n".to_string()),
        ("longest-line", format!("{}\r\n", "x".repeat(998))),
        ("utf-8", "Grüße 🦀 \u{202e}\u{feff}\r\n".to_string()),
    ];
    for (id, body) in odd {
        bench.relays(id, &message::message(id, "", &body));
    }
    // All byte values but NUL, CR and LF, and none of them valid UTF-8 in this order.
    let all: Vec<u8> = (1..=255).filter(|b| !b"\r\n".contains(b)).collect();
    bench
        .relays("all-bytes", &[&message::message("all-bytes", "", "")[..], &all, b"\r\n"].concat());
}

#[test]
fn a_newsletter_tools_long_line_arrives_in_short_ones() {
    let bench = Bench::new();
    let row = "<td align=\"center\">Grüße\t= 5 €</td> ";
    let line = row.repeat(20_000 / row.len());
    let html = format!("<table><tr>\r\n{line}\r\n.</tr></table>\r\n");
    let fields = "MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\
                  Content-Transfer-Encoding: 8bit\r\nX-Newsletter: yes\r\n";
    let sent = message::message("long-line", fields, &html);
    let mut client = Client::hello(bench.address());
    assert_eq!(client.mail("a@s.test", &["r@d.test"], &sent).code, 250);
    let got = bench.sink.wait_for("long-line").body;
    let longest = got.split(|b| *b == b'\n').map(<[u8]>::len).max();
    assert!(longest.is_some_and(|longest| longest <= 77), "{longest:?}");
    let encoding = message::field(&got, "Content-Transfer-Encoding");
    assert_eq!(encoding.as_deref(), Some("quoted-printable"));
    let parsed = mail_parser::MessageParser::default().parse(&got).unwrap();
    assert_eq!(parsed.parts[0].contents(), html.as_bytes());
    // Nobody could verify a signature over the old bytes.
    let signed = [b"DKIM-Signature: v=1; d=s.test; b=x\r\n", &sent[..]].concat();
    let reply = client.mail("a@s.test", &["signed@d.test"], &signed);
    assert!(reply.text.starts_with("554 5.6.0 Line longer than 998 bytes"), "{}", reply.text);
    bench.relays("short", &[&b"DKIM-Signature: v=1\r\n"[..], &message::direct("short")].concat());
    assert!(bench.sink.to("signed@d.test").is_empty());
}

#[test]
fn a_message_without_header_gets_only_what_is_missing() {
    let bench = Bench::new();
    let bodies: [(&str, &[u8]); 4] = [
        ("empty@d.test", b""),
        ("dot@d.test", b"..\r\n"),
        ("blank@d.test", b"\r\nonly a body\r\n"),
        ("date@d.test", b"Date: Mon, 23 Nov 2026 00:45:28 +0000\r\n\r\nx\r\n"),
    ];
    for (recipient, body) in bodies {
        let reply = Client::hello(bench.address()).mail("a@s.test", &[recipient], body);
        assert_eq!(reply.code, 250, "{}", reply.text);
        support::wait_until(support::PATIENCE, recipient, || !bench.sink.to(recipient).is_empty());
        let got = &bench.sink.to(recipient)[0].body;
        message::assert_relayed(body, got);
        assert!(message::field(got, "Message-ID").is_some_and(|id| id.ends_with("relay.test>")));
        assert!(message::field(got, "Date").is_some());
    }
}

#[test]
fn twenty_mebibytes_arrive_whole() {
    let bench = Bench::new();
    let line = format!("{}\r\n.{}\r\n", "0123456789".repeat(7), "abcdefghi".repeat(7));
    let body = line.repeat((20 << 20) / line.len() + 1);
    assert!(body.len() >= 20 << 20);
    bench.relays("large", &message::message("large", "", &body));
}

#[test]
fn chunks_arrive_whole() {
    let bench = Bench::new();
    bench.host.extension("CHUNKING");
    let sent = message::message("chunked", "", ".\r\n..\r\n\r\n.\r\nend\r\n");
    let mut client = Client::hello(bench.address());
    client.command("MAIL FROM:<a@s.test> BODY=8BITMIME", 250);
    client.command("RCPT TO:<r@d.test>", 250);
    let pieces: Vec<&[u8]> = sent.chunks(7).collect();
    for piece in &pieces {
        client.send(format!("BDAT {}\r\n", piece.len()).as_bytes());
        client.send(piece);
        client.expect(250);
    }
    client.command("BDAT 0 LAST", 250);
    message::assert_relayed(&sent, &bench.sink.wait_for("chunked").body);

    let whole = message::direct("one-chunk");
    let mut one =
        format!("MAIL FROM:<a@s.test>\r\nRCPT TO:<r@d.test>\r\nBDAT {} LAST\r\n", whole.len())
            .into_bytes();
    one.extend_from_slice(&whole);
    client.send(&one);
    for _ in 0..3 {
        client.expect(250);
    }
    message::assert_relayed(&whole, &bench.sink.wait_for("one-chunk").body);
}

#[test]
fn a_thousand_recipients_each_get_it_once() {
    let bench = Bench::new();
    let recipients: Vec<String> = (0..1000).map(|n| format!("r{n}@d.test")).collect();
    let list: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let sent = message::newsletter("thousand");
    assert_eq!(Client::hello(bench.address()).mail("a@s.test", &list, &sent).code, 250);
    bench.sink.wait_for_count(1000);
    bench.node.wait_until_empty();
    assert_eq!(bench.sink.count(), 1000);
    assert_eq!(bench.sink.recipients(), recipients.into_iter().collect());
    for delivered in bench.sink.delivered() {
        message::assert_relayed(&sent, &delivered.body);
    }
}

#[test]
fn international_addresses_travel_as_they_are() {
    let bench = Bench::new();
    let id = message::unique("utf8");
    let sent = message::message(&id, "X-Note: Grüße\r\n", "Grüße\r\n");
    let file = bench.node.dir().join("message");
    std::fs::write(&file, &sent).unwrap();
    let mut python = Command::new("python3");
    python.arg(tool::script("smtplib_send.py")).arg("--smtputf8").args(bench.host_and_port());
    tool::run(python.args(["jörg@s.test", "änne@d.test"]).arg(file), b"");
    let got = bench.sink.wait_for(&id);
    message::assert_relayed(&sent, &got.body);
    assert_eq!((got.sender.as_str(), got.recipients[0].as_str()), ("jörg@s.test", "änne@d.test"));
    assert!(got.mail_parameters.contains("SMTPUTF8"), "{}", got.mail_parameters);
}

#[test]
fn delivery_status_parameters_travel_on() {
    let bench = Bench::new();
    let mut client = Client::hello(bench.address());
    client.command("MAIL FROM:<a@s.test> RET=HDRS ENVID=QQ+2B314159", 250);
    client.command("RCPT TO:<r@d.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Ann+2Bx@d.test", 250);
    client.command("RCPT TO:<n@d.test> NOTIFY=NEVER", 250);
    assert_eq!(client.data(&message::direct("dsn")).code, 250);
    let got = bench.sink.wait_for("dsn");
    assert!(got.mail_parameters.contains("RET=HDRS"), "{}", got.mail_parameters);
    assert!(got.mail_parameters.contains("ENVID=QQ+2B314159"), "{}", got.mail_parameters);
    let parameters = got.rcpt_parameters[0].to_ascii_uppercase();
    assert!(parameters.contains("NOTIFY=SUCCESS,DELAY"), "{parameters}");
    assert!(got.rcpt_parameters[0].contains("ORCPT=rfc822;Ann+2Bx@d.test"), "{parameters}");
    assert!(got.rcpt_parameters[1].contains("NOTIFY=NEVER"), "{:?}", got.rcpt_parameters);
}

#[test]
fn odd_and_broken_messages_of_the_corpus_arrive_unchanged() {
    let Some(folder) = support::shared("corpora/messages") else { return };
    let bench = Bench::new();
    let (mut relayed, mut refused) = (Vec::new(), 0);
    for (n, file) in std::fs::read_dir(folder).unwrap().enumerate() {
        let path = file.unwrap().path();
        let sent = message::with_crlf(&std::fs::read(&path).unwrap());
        let recipient = format!("corpus{n}@d.test");
        let mut client = Client::hello(bench.address());
        let reply = client.mail("a@s.test", &[&recipient], &sent);
        if message::is_unmailable(&sent) {
            assert_eq!(reply.code / 100, 5, "{}: {}", path.display(), reply.text);
            refused += 1;
        } else {
            assert_eq!(reply.code, 250, "{}: {}", path.display(), reply.text);
            relayed.push((path, recipient, sent));
        }
    }
    bench.sink.wait_for_count(relayed.len());
    for (path, recipient, sent) in &relayed {
        let got = bench.sink.to(recipient);
        assert_eq!(got.len(), 1, "{}", path.display());
        message::assert_relayed(sent, &got[0].body);
    }
    assert_eq!(bench.sink.count(), relayed.len(), "nothing that was refused arrives");
    println!("{} messages relayed, {refused} refused", relayed.len());
}
