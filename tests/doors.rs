//! The ways in: TLS, Unix sockets, sockets from systemd, load balancers and proxies.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Client, Dns, Node, PATIENCE, Setup, Sink, free_port, message, tool, wait_until};

/// A receiver for `d.test`, and how to start a node that knows it.
struct Bench {
    _dns: Dns,
    sink: Sink,
}

impl Bench {
    fn new() -> (Self, Setup) {
        let (dns, sink) = support::receiver();
        let setup = Setup::with(&dns, &sink);
        (Self { _dns: dns, sink }, setup)
    }

    /// The message arrives as it was sent, and its trace field says so.
    #[track_caller]
    fn gets(&self, id: &str, sent: &[u8], trace: &str) {
        let got = self.sink.wait_for(id);
        message::assert_relayed(sent, &got.body);
        let received = message::field(&got.body, "Received").unwrap();
        assert!(received.contains(trace), "{received:?} without {trace:?}");
    }
}

/// A certificate of its own, in PEM files; gives its SHA-256 fingerprint.
fn certify(dir: &Path, name: &str) -> (PathBuf, PathBuf, String) {
    let made = rcgen::generate_simple_self_signed(vec!["relay.test".to_string()]).unwrap();
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, made.cert.der());
    let print = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    (cert, key, print)
}

/// Sends with Python's smtplib; gives the fingerprint of the node's certificate.
#[track_caller]
fn send(way: &str, address: SocketAddr, ca: &Path, sent: &[u8], options: &[String]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sent).unwrap();
    let mut python = Command::new("python3");
    python.arg(tool::script("tls_send.py")).args([way, &address.ip().to_string()]);
    python.arg(address.port().to_string()).arg(ca).args(["ann@s.test", "r@d.test"]);
    python.arg(file.path()).args(options);
    tool::run(&mut python, b"").trim().to_string()
}

/// A port of its own for a second listener.
fn second() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

#[test]
fn a_certificate_is_shown_and_another_takes_its_place_while_the_node_runs() {
    let (bench, setup) = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, first) = certify(dir.path(), "one");
    let setup = setup.set("tls", "certificate", &format!("{:?}", cert.display().to_string())).set(
        "tls",
        "key",
        &format!("{:?}", key.display().to_string()),
    );
    let node = setup.start();
    let sent = message::direct("tls-1");
    assert_eq!(send("starttls", node.address(), &cert, &sent, &[]), first);
    bench.gets("tls-1", &sent, "with ESMTPS id");
    let mut swaks = Command::new(tool::program("swaks"));
    swaks.args(["--server", &node.address().to_string(), "--tls", "--data", "-"]).args([
        "--from",
        "ann@s.test",
        "--to",
        "r@d.test",
    ]);
    tool::run(&mut swaks, &message::direct("tls-2"));
    // It ends messages in its own way.
    let got = bench.sink.wait_for("tls-2");
    assert!(message::field(&got.body, "Received").unwrap().contains("with ESMTPS id"));

    // Who is connected keeps what he has; one file that is half there changes nothing.
    let mut before = Client::hello(node.address());
    let whole = std::fs::read(&cert).unwrap();
    std::fs::write(&cert, &whole[..whole.len() / 2]).unwrap();
    let refused = node.cli(&["reload"]);
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("[tls] certificate") && said.contains("one.pem"), "{said}");
    std::fs::write(&cert, &whole).unwrap();
    let sent = message::direct("tls-3");
    assert_eq!(send("starttls", node.address(), &cert, &sent, &[]), first);

    let (other, other_key, second) = certify(dir.path(), "two");
    std::fs::copy(other, &cert).unwrap();
    let refused = String::from_utf8(node.cli(&["reload"]).stderr).unwrap();
    assert!(refused.contains("is it the key of this certificate?"), "{refused}");
    std::fs::copy(other_key, &key).unwrap();
    node.ok(&["reload"]);
    let sent = message::direct("tls-4");
    assert_eq!(send("starttls", node.address(), &cert, &sent, &[]), second);
    bench.gets("tls-4", &sent, "with ESMTPS id");
    assert_eq!(before.mail("a@s.test", &["r@d.test"], &message::direct("clear")).code, 250);
}

#[test]
fn a_servers_own_certificate_lets_it_send_from_anywhere() {
    let (bench, setup) = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, _) = certify(dir.path(), "node");
    let (known, known_key, print) = certify(dir.path(), "server");
    let (unknown, unknown_key, _) = certify(dir.path(), "stranger");
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let node = setup
        .set("relay", "networks", "[]")
        .set("tls", "certificate", &text(&cert))
        .set("tls", "key", &text(&key))
        .raw(&format!("[[tenants]]\nname = \"shop\"\ncertificates = [\"{print}\"]"))
        .start();
    let shown = |cert: &Path, key: &Path| {
        [format!("cert={}", cert.display()), format!("key={}", key.display())]
    };
    let sent = message::direct("certified");
    send("starttls", node.address(), &cert, &sent, &shown(&known, &known_key));
    bench.gets("certified", &sent, "with ESMTPS id");
    assert!(node.log().contains("tenant=\"shop\""), "{}", node.log());

    let file = dir.path().join("message");
    std::fs::write(&file, message::direct("unknown")).unwrap();
    let mut python = Command::new("python3");
    python.arg(tool::script("tls_send.py")).args(["starttls", "127.0.0.1"]);
    python.arg(node.address().port().to_string()).arg(&cert).args(["ann@s.test", "r@d.test"]);
    python.arg(&file).args(shown(&unknown, &unknown_key));
    let output = python.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Relaying not permitted for 127.0.0.1"), "{said}");
}

#[test]
fn submission_ports_want_a_login_and_one_of_them_speaks_tls_at_once() {
    let (_bench, setup) = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, print) = certify(dir.path(), "node");
    let (submission, submissions) = (second(), second());
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let listen = |address: SocketAddr, role: &str| {
        format!("[[listen]]\naddress = \"{address}\"\nrole = \"{role}\"\n")
    };
    let _node = setup
        .set("tls", "certificate", &text(&cert))
        .set("tls", "key", &text(&key))
        .raw(&(listen(submission, "submission") + &listen(submissions, "submissions")))
        .start();
    // In a network that may relay elsewhere.
    let mut client = Client::hello(submission);
    client.command("MAIL FROM:<a@s.test>", 530);
    let mut python = Command::new("python3");
    python.arg(tool::script("tls_send.py")).args(["tls", "127.0.0.1"]);
    python.arg(submissions.port().to_string()).arg(&cert).args(["a@s.test", "r@d.test"]);
    let output = python.arg(&cert).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), print);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("530, b'5.7.0 Log in first'"), "{said}");
}

#[test]
fn what_is_injected_before_the_handshake_is_gone_after_it() {
    let (bench, setup) = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, _) = certify(dir.path(), "node");
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let node = setup.set("tls", "certificate", &text(&cert)).set("tls", "key", &text(&key)).start();
    let injecting = "import socket, ssl, sys\n\
        s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
        s.recv(999)\n\
        s.sendall(b'EHLO x\\r\\n'); s.recv(9999)\n\
        s.sendall(b'STARTTLS\\r\\nMAIL FROM:<evil@s.test>\\r\\nRCPT TO:<evil@d.test>\\r\\n')\n\
        print(s.recv(999).decode(), end='')\n\
        c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = 0\n\
        t = c.wrap_socket(s)\n\
        t.sendall(b'NOOP\\r\\nDATA\\r\\nQUIT\\r\\n')\n\
        f = t.makefile('rb')\n\
        print(f.read().decode(), end='')\n";
    let mut python = Command::new("python3");
    python.args(["-c", injecting, &node.address().port().to_string()]);
    let said = tool::run(&mut python, b"");
    let codes: Vec<&str> = said.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "503", "221"], "{said}");
    assert_eq!(bench.sink.count(), 0);
}

#[test]
fn programs_on_this_machine_send_by_a_unix_socket() {
    let (bench, setup) = Bench::new();
    let setup = setup.set("relay", "networks", "[]");
    let mut node = setup.raw("[[listen]]\naddress = \"unix:smtp.sock\"\n").start();
    let path = node.data_dir().join("smtp.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let script = "import smtplib, socket, sys\n\
        class Unix(smtplib.SMTP):\n    \
            def _get_socket(self, host, port, timeout):\n        \
                s = socket.socket(socket.AF_UNIX); s.connect(host); return s\n\
        with Unix(sys.argv[1], 25) as smtp:\n    \
            smtp.sendmail('a@s.test', 'r@d.test', sys.stdin.buffer.read())\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&path);
    let sent = message::direct("by-unix");
    tool::run(&mut python, &sent);
    bench.gets("by-unix", &sent, "with ESMTP id");
    node.terminate();
    assert!(!path.exists(), "its file goes with it");
}

#[test]
fn a_socket_that_systemd_has_bound_is_used_and_no_connection_is_refused() {
    let (bench, setup) = Bench::new();
    // Binds the node's own port as systemd would, leaves it open, becomes the node.
    let binding = "import os, re, socket, sys\n\
        at = re.search(r'address = \"([0-9.]+):([0-9]+)\"', open(sys.argv[-1]).read())\n\
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
        s.bind((at[1], int(at[2]) + int(os.environ.get('ELSEWHERE', 0)))); s.listen(99)\n\
        os.dup2(s.fileno(), 3); os.set_inheritable(3, True)\n\
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
        os.execvp(sys.argv[1], sys.argv[1:])\n";
    let mut node = setup.under(&["python3", "-c", binding]).start();
    let sent = message::direct("by-systemd");
    let mut client = Client::hello(node.address());
    assert_eq!(client.mail("a@s.test", &["r@d.test"], &sent).code, 250);
    bench.gets("by-systemd", &sent, "with ESMTP id");
    drop(client);
    node.terminate();

    // One that is none of ours would take connections for nobody.
    node.rewrap(&["env", "ELSEWHERE=1", "python3", "-c", binding]);
    node.spawn();
    assert!(!node.answers(PATIENCE));
    assert!(node.log().contains("where no [[listen]] is"), "{}", node.log());
}

/// A node behind a load balancer at 127.0.0.1, and beside it a listener without one.
fn behind_a_balancer(setup: Setup) -> (Node, SocketAddr) {
    let balanced = second();
    let listen =
        format!("[[listen]]\naddress = \"{balanced}\"\nproxy_protocol = [\"127.0.0.1\"]\n");
    (setup.set("relay", "networks", "[\"198.51.100.0/24\"]").raw(&listen).start(), balanced)
}

#[test]
fn a_load_balancer_says_who_is_there() {
    let (bench, setup) = Bench::new();
    let (node, balanced) = behind_a_balancer(setup);
    let told = |header: &[u8]| {
        let mut client = Client::connect_silently(balanced);
        client.send(header);
        client
    };
    let v1 = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 40000 25\r\n").into_bytes();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([198, 51, 100, 8, 10, 0, 0, 1, 0x9c, 0x40, 0, 25]);
    for (n, (header, client)) in
        [(v1("198.51.100.7"), "198.51.100.7"), (v2, "198.51.100.8")].into_iter().enumerate()
    {
        let mut known = told(&header);
        known.expect(220);
        known.command("EHLO web1", 250);
        let (id, sent) = (format!("balanced-{n}"), message::direct(&format!("balanced-{n}")));
        assert_eq!(known.mail("a@s.test", &["r@d.test"], &sent).code, 250);
        bench.gets(&id, &sent, &format!("([{client}])"));
    }
    let mut stranger = told(&v1("203.0.113.7"));
    stranger.expect(220);
    stranger.command("EHLO x", 250);
    stranger.command("MAIL FROM:<a@s.test>", 250);
    let reply = stranger.command("RCPT TO:<r@d.test>", 550);
    assert!(reply.text.contains("203.0.113.7"), "{}", reply.text);
    // Its own look whether we are well names nobody, and may send to nobody.
    let mut looking = told(b"PROXY UNKNOWN\r\n");
    looking.expect(220);
    looking.command("EHLO x", 250);
    looking.command("MAIL FROM:<a@s.test>", 250);
    looking.command("RCPT TO:<r@d.test>", 550);
    // Without a header nothing is said.
    assert!(told(b"EHLO liar\r\n").is_closed());
    // And where no balancer is, a header is nonsense.
    let mut elsewhere = Client::connect_silently(node.address());
    elsewhere.send(&v1("198.51.100.7"));
    assert_eq!(elsewhere.reply().code, 554);
    assert!(elsewhere.is_closed());
}

#[test]
fn a_proxy_introduces_its_clients_and_a_client_cannot_introduce_himself() {
    let (bench, setup) = Bench::new();
    let proxied = second();
    let listen = format!("[[listen]]\naddress = \"{proxied}\"\nxclient = [\"127.0.0.1\"]\n");
    let setup = setup.set("relay", "networks", "[\"198.51.100.0/24\"]").raw(&listen);
    let node = setup.start();
    let (other, relaying) = {
        let address = second();
        let listen = format!("[[listen]]\naddress = \"{address}\"\nxclient = [\"127.0.0.1\"]\n");
        (Setup::with(&bench._dns, &bench.sink).raw(&listen).start(), address)
    };
    let mut client = Client::hello(node.address());
    client.command("XCLIENT ADDR=198.51.100.7", 550);

    let mut proxy = Client::hello(proxied);
    proxy.command("XCLIENT NAME=web1.test ADDR=198.51.100.7 HELO=web1.test", 220);
    let sent = message::direct("introduced");
    assert_eq!(proxy.mail("a@s.test", &["r@d.test"], &sent).code, 250);
    bench.gets("introduced", &sent, "from web1.test ([198.51.100.7])");
    // What comes from now on is that client's, by way of the proxy.
    proxy.command("XCLIENT ADDR=198.51.100.8", 550);
    let mut proxy = Client::hello(proxied);
    proxy.command("XCLIENT ADDR=203.0.113.7", 220);
    proxy.command("EHLO x", 250);
    proxy.command("MAIL FROM:<a@s.test>", 250);
    proxy.command("RCPT TO:<r@d.test>", 550);
    proxy.command("RSET", 250);
    proxy.command("XCLIENT ADDR=198.51.100.7 LOGIN=ann@s.test", 550);
    // Logged in with the proxy, from wherever.
    let mut proxy = Client::hello(proxied);
    proxy.command("XCLIENT ADDR=203.0.113.7 LOGIN=ann@s.test", 220);
    proxy.command("EHLO x", 250);
    let sent = message::direct("logged-in");
    assert_eq!(proxy.mail("a@s.test", &["r@d.test"], &sent).code, 250);
    bench.gets("logged-in", &sent, "with ESMTPA id");
    // For the log alone.
    let mut proxy = Client::hello(relaying);
    proxy.command("XFORWARD ADDR=203.0.113.99 HELO=far.test", 250);
    let sent = message::direct("forwarded");
    assert_eq!(proxy.mail("a@s.test", &["r@d.test"], &sent).code, 250);
    bench.gets("forwarded", &sent, "from far.test ([127.0.0.1])");
    wait_until(PATIENCE, "the client of the client is in the log", || {
        other.log().contains("client=\"203.0.113.99\"")
    });
}

/// Swaks as a load balancer and as a proxy: another's hand at both protocols.
#[test]
fn swaks_speaks_as_a_balancer_and_as_a_proxy() {
    let (bench, setup) = Bench::new();
    let (balanced, proxied) = (second(), second());
    let listen =
        |address, key| format!("[[listen]]\naddress = \"{address}\"\n{key} = [\"127.0.0.1\"]\n");
    let listen = listen(balanced, "proxy_protocol") + &listen(proxied, "xclient");
    let _node = setup.set("relay", "networks", "[\"198.51.100.0/24\"]").raw(&listen).start();
    let balancer = |version: &str| {
        let source = ["--proxy-version", version, "--proxy-family", "TCP4", "--proxy-source"];
        let rest = ["198.51.100.7", "--proxy-source-port", "40000", "--proxy-dest", "10.0.0.1"];
        let words = [&source[..], &rest, &["--proxy-dest-port", "25"]].concat();
        // Version 2 has words of its own for the family.
        let family = |word: &str| {
            if version == "2" && word == "TCP4" { "AF_INET" } else { word }.to_string()
        };
        let mut words: Vec<String> = words.into_iter().map(family).collect();
        if version == "2" {
            words.extend(
                ["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"].map(String::from),
            );
        }
        words
    };
    let proxy = ["--xclient-addr", "198.51.100.7", "--xclient-helo", "web1.test"];
    for (id, address, words) in [
        ("swaks-v1", balanced, balancer("1")),
        ("swaks-v2", balanced, balancer("2")),
        ("swaks-xclient", proxied, proxy.map(String::from).to_vec()),
    ] {
        let mut swaks = Command::new(tool::program("swaks"));
        swaks.args(["--server", &address.to_string(), "--data", "-"]).args(words);
        swaks.args(["--from", "ann@s.test", "--to", "r@d.test"]);
        tool::run(&mut swaks, &message::direct(id));
        let got = bench.sink.wait_for(id);
        let received = message::field(&got.body, "Received").unwrap();
        assert!(received.contains("([198.51.100.7])"), "{received}");
    }
}
