//! The harness tested against itself: a client straight to a sink, a resolver against the name
//! server. What is wrong here would make every other black-box test lie.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use support::{Act, Client, Dns, Rule, Sink, Stage, message, tool};

fn sink_with_host() -> (Sink, std::sync::Arc<support::Host>, SocketAddr) {
    let sink = Sink::new();
    let host = sink.host("127.0.0.2");
    let address = SocketAddr::new(host.address(), sink.port());
    (sink, host, address)
}

#[test]
fn a_sink_keeps_the_bytes_it_is_sent() {
    let (sink, _, address) = sink_with_host();
    let mut client = Client::hello(address);
    let bodies: [&[u8]; 5] =
        [b"", b".\r\n", b"..\r\n.x\r\n", b"a\r\n.\r\nb\r\n", b"X-Test-Id: t\r\n\r\nx\ny\rz\r\n"];
    for body in bodies {
        assert_eq!(client.mail("a@b.test", &["c@d.test", "e@f.test"], body).code, 250);
    }
    client.send(b"MAIL FROM:<> SIZE=9\r\nRCPT TO:<\"x>y\"@z.test> NOTIFY=NEVER\r\n");
    client.expect(250);
    client.expect(250);
    client.send(b"BDAT 4\r\nab\r\nBDAT 5 LAST\r\n.\r\nc\n");
    client.expect(250);
    client.expect(250);
    client.command("QUIT", 221);
    assert!(client.is_closed());
    let delivered = sink.delivered();
    for (delivered, body) in delivered.iter().zip(bodies) {
        assert_eq!(delivered.body, body);
        assert_eq!(delivered.recipients, ["c@d.test", "e@f.test"]);
    }
    assert_eq!(sink.count(), 11);
    assert_eq!(sink.wait_for("t").body, bodies[4]);
    let last = delivered.last().unwrap();
    assert_eq!((last.body.as_slice(), last.chunked), (&b"ab\r\n.\r\nc\n"[..], true));
    assert_eq!((last.sender.as_str(), last.mail_parameters.as_str()), ("", "SIZE=9"));
    assert_eq!(last.recipients, ["\"x>y\"@z.test"]);
    assert_eq!(last.rcpt_parameters, ["NOTIFY=NEVER"]);
}

#[test]
fn a_sink_follows_its_script() {
    let (sink, host, address) = sink_with_host();
    host.rule(Rule::reply(Stage::Rcpt, "451 4.2.0 later").nth(2))
        .rule(Rule::reply(Stage::Rcpt, "550 5.1.1 nobody").containing("<nobody@"))
        .rule(Rule::new(Stage::Dot, Act::Close).times(1));
    let mut client = Client::hello(address);
    client.command("MAIL FROM:<a@b.test>", 250);
    client.command("RCPT TO:<one@d.test>", 250);
    client.command("RCPT TO:<two@d.test>", 451);
    client.command("RCPT TO:<nobody@d.test>", 550);
    client.command("DATA", 354);
    client.send(b"X-Test-Id: cut\r\n\r\n.\r\n");
    assert_eq!(client.try_reply(), None);
    let mut client = Client::hello(address);
    assert_eq!(client.mail("a@b.test", &["one@d.test"], &message::direct("kept")).code, 250);
    assert_eq!(sink.wait_for("kept").recipients, ["one@d.test"]);
    let delivered = sink.delivered();
    assert!(!delivered[0].confirmed && delivered[1].confirmed, "{delivered:?}");
    assert_eq!(sink.count(), 1);
    let counts = host.counts();
    assert_eq!((counts.sessions, counts.peak >= 1), (2, true));
    assert_eq!(host.count_commands("RCPT TO"), 4);
}

#[test]
fn a_sink_can_be_slow_full_and_endless() {
    let (_sink, host, address) = sink_with_host();
    host.sessions_max(1).rule(Rule::new(Stage::Ehlo, Act::Endless("250-more".into())).times(1));
    let mut endless = Client::connect(address);
    let mut full = Client::connect_silently(address);
    full.expect(421);
    assert!(full.is_closed());
    endless.send(b"EHLO x\r\n");
    host.rule(Rule::new(Stage::Banner, Act::Drip("220 s".into(), Duration::from_millis(1))));
    host.rule(Rule::new(Stage::Mail, Act::Nothing));
    host.sessions_max(9);
    let mut client = Client::hello(address);
    client.send(b"MAIL FROM:<a@b.test>\r\nNOOP\r\n");
    assert!(client.expect(250).text.contains("2.0.0"), "only NOOP is answered");
}

#[test]
fn a_sink_notes_what_rides_on_the_dot_and_speaks_tls() {
    let (sink, host, address) = sink_with_host();
    host.tls();
    let mut client = Client::connect(address);
    assert!(client.command("EHLO x", 250).text.contains("STARTTLS"));
    client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
    for code in [250, 250, 354] {
        client.expect(code);
    }
    client.send(b"x\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
    for code in [250, 250, 250, 354] {
        client.expect(code);
    }
    client.send(b".\r\n");
    client.expect(250);
    assert_eq!((host.counts().rode_on_dot, sink.count()), (1, 2));
    let mut curl = Command::new(tool::program("curl"));
    curl.args(["--silent", "--show-error", "--ssl-reqd", "--insecure", "--mail-from", "a@b.test"])
        .args(["--mail-rcpt", "c@d.test", "--upload-file", "-"])
        .arg(format!("smtp://{address}"));
    tool::run(&mut curl, &message::direct("secret"));
    assert!(sink.wait_for("secret").encrypted);
}

#[test]
fn the_name_server_answers_as_told() {
    use hickory_resolver::TokioResolver;
    use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
    let dns = Dns::new();
    dns.mx("d1.test", &[(10, "mx.shared.test"), (20, "mx2.shared.test")])
        .a("mx.shared.test", "127.0.0.2")
        .a("mx.shared.test", "::1")
        .cname("alias.test", "d1.test")
        .null_mx("null.test");
    for n in 0..60 {
        dns.a("many.test", &format!("127.1.0.{n}"));
    }
    let mut server = NameServerConfig::udp_and_tcp(dns.address().ip());
    for connection in &mut server.connections {
        connection.port = dns.address().port();
    }
    let mut options = ResolverOpts::default();
    options.cache_size = 0;
    options.timeout = Duration::from_millis(300);
    options.attempts = 1;
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    support::runtime().block_on(async {
        let resolver = TokioResolver::builder_with_config(config, Default::default())
            .with_options(options)
            .build()
            .unwrap();
        let mx = resolver.mx_lookup("alias.test.").await.unwrap();
        let kinds: Vec<String> = mx.answers().iter().map(|r| r.record_type().to_string()).collect();
        assert_eq!(kinds.iter().filter(|k| *k == "MX").count(), 2, "{kinds:?}");
        let ips = resolver.lookup_ip("mx.shared.test.").await.unwrap();
        assert_eq!(ips.iter().count(), 2);
        // More than 512 bytes: truncated on UDP, whole on TCP.
        assert_eq!(resolver.ipv4_lookup("many.test.").await.unwrap().answers().len(), 60);
        assert!(resolver.mx_lookup("null.test.").await.is_ok());
        let missing = resolver.mx_lookup("nowhere.test.").await.unwrap_err();
        assert!(missing.is_nx_domain(), "{missing}");
        let typeless = resolver.mx_lookup("mx.shared.test.").await.unwrap_err();
        assert!(typeless.is_no_records_found() && !typeless.is_nx_domain(), "{typeless}");
        for answering in [support::Answering::ServFail, support::Answering::Never] {
            dns.answer(answering);
            let failed = resolver.mx_lookup("d1.test.").await.unwrap_err();
            assert!(!failed.is_no_records_found(), "{failed}");
        }
    });
    assert!(dns.queries("d1.test") >= 2);
    assert!(dns.queries_total() > dns.queries("d1.test"));
}

#[test]
fn bytes_are_compared_strictly() {
    let sent = message::direct("x");
    let got = [&b"Received: from a\r\n\tby b\r\n"[..], &sent].concat();
    message::assert_relayed(&sent, &got);
    let fails = |got: Vec<u8>| {
        let sent = sent.clone();
        std::panic::catch_unwind(move || message::assert_relayed(&sent, &got)).is_err()
    };
    assert!(fails(sent.clone()), "no Received");
    assert!(fails([&b"X: y\r\n"[..], &got].concat()), "a foreign field");
    assert!(fails([&b"Date: now\r\n"[..], &got].concat()), "a second Date");
    assert!(fails([&got[..], b"\r\n"].concat()), "a line more");
    let stuffed = message::stuffed(&sent);
    assert_eq!(message::unstuffed(stuffed.strip_suffix(b".\r\n").unwrap()), sent);
}
