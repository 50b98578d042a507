//! Users log in with the programs that web hosts' customers have, and those who guess are kept out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{Client, Dns, Node, Setup, Sink, binary, free_port, message, tool};
use tempfile::TempDir;

/// A node for strangers alone: ports for STARTTLS and for TLS at once, and users who log in.
struct Bench {
    node: Node,
    sink: Sink,
    dir: TempDir,
    submission: SocketAddr,
    submissions: SocketAddr,
    _dns: Dns,
}

impl Bench {
    fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = support::receiver();
        let dir = tempfile::tempdir().unwrap();
        let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let text = |name: &str| format!("{:?}", dir.path().join(name).display().to_string());
        let second = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (submission, submissions) = (second(), second());
        let listen = |address: SocketAddr, role: &str| {
            format!("[[listen]]\naddress = \"{address}\"\nrole = \"{role}\"\n")
        };
        let setup = Setup::with(&dns, &sink)
            .set("relay", "networks", "[]")
            .set("tls", "certificate", &text("cert.pem"))
            .set("tls", "key", &text("key.pem"))
            .set("auth", "users", &text("users"))
            .raw(&(listen(submission, "submission") + &listen(submissions, "submissions")));
        let node = change(setup).prepare();
        let mut bench = Self { node, sink, dir, submission, submissions, _dns: dns };
        bench.add_user("ann@shop.test", "correct horse", &["--tenant", "shop"]);
        bench.node.start();
        bench
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add_user(&self, name: &str, password: &str, options: &[&str]) {
        let mut add = Command::new(binary());
        add.args(["user", "add", name]).args(options).arg("--config").arg(self.node.config());
        tool::run(&mut add, format!("{password}\n").as_bytes());
    }

    /// The message arrives, and both its trace field and the log know who sent it.
    #[track_caller]
    fn gets(&self, id: &str) {
        let got = self.sink.wait_for(id);
        let received = message::field(&got.body, "Received").unwrap();
        assert!(received.contains("with ESMTPSA id"), "{received}");
        let log = self.node.log();
        assert!(log.contains("message.accepted") && log.contains("tenant=\"shop\""), "{log}");
    }

    /// Runs Python's smtplib with these options.
    fn smtplib(&self, id: &str, options: &[&str]) -> Output {
        let file = self.file(id);
        std::fs::write(&file, message::direct(id)).unwrap();
        let mut python = Command::new("python3");
        python.arg(tool::script("tls_send.py")).args(["starttls", "127.0.0.1"]);
        python.arg(self.submission.port().to_string()).arg(self.file("cert.pem"));
        python.args(["ann@shop.test", "r@d.test"]).arg(file).args(options);
        python.output().unwrap()
    }
}

#[track_caller]
fn fine(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
}

const ANN: [&str; 2] = ["user=ann@shop.test", "password=correct horse"];

#[test]
fn python_logs_in_by_each_mechanism() {
    let bench = Bench::new(|setup| setup);
    for mechanism in ["PLAIN", "LOGIN"] {
        let id = format!("python-{mechanism}");
        let mechanism = format!("mechanism={mechanism}");
        fine(&bench.smtplib(&id, &[ANN[0], ANN[1], &mechanism]));
        bench.gets(&id);
    }
    // By whichever smtplib prefers, in other letters.
    fine(&bench.smtplib("python", &["user=ANN@Shop.test", ANN[1]]));
    bench.gets("python");

    let scram = |id: &str, password: &str| {
        std::fs::write(bench.file(id), message::direct(id)).unwrap();
        let mut python = Command::new("python3");
        python.arg(tool::script("scram_send.py")).arg("127.0.0.1");
        python.arg(bench.submission.port().to_string()).arg(bench.file("cert.pem"));
        python.args(["ann@shop.test", password, "ann@shop.test", "r@d.test"]);
        python.arg(bench.file(id)).output().unwrap()
    };
    fine(&scram("python-scram", "correct horse"));
    bench.gets("python-scram");
    let wrong = scram("python-wrong", "battery staple");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("535 5.7.8"), "{wrong:?}");
}

#[test]
fn swaks_and_msmtp_log_in() {
    let bench = Bench::new(|setup| setup);
    for (n, (port, way)) in
        [(bench.submission.port(), "--tls"), (bench.submissions.port(), "--tls-on-connect")]
            .into_iter()
            .enumerate()
    {
        for mechanism in ["PLAIN", "LOGIN"] {
            let id = format!("swaks-{n}-{mechanism}");
            let mut swaks = Command::new(tool::program("swaks"));
            swaks
                .args(["--server", "127.0.0.1", "--port", &port.to_string(), way])
                .args(["--auth", mechanism, "--auth-user", "ann@shop.test"])
                .args(["--auth-password", "correct horse", "--data", "-"])
                .args(["--from", "ann@shop.test", "--to", "r@d.test"]);
            tool::run(&mut swaks, &message::direct(&id));
            bench.gets(&id);
        }
    }
    for (port, starttls) in [(bench.submission.port(), "on"), (bench.submissions.port(), "off")] {
        for mechanism in ["scram-sha-256", "plain", "login"] {
            let id = format!("msmtp-{port}-{mechanism}");
            let mut msmtp = Command::new(tool::program("msmtp"));
            msmtp
                .args(["--host=localhost", &format!("--port={port}"), "--tls=on"])
                .arg(format!("--tls-starttls={starttls}"))
                .arg(format!("--tls-trust-file={}", bench.file("cert.pem").display()))
                .args([&format!("--auth={mechanism}"), "--user=ann@shop.test"])
                .args(["--passwordeval=echo 'correct horse'", "--from=ann@shop.test", "r@d.test"]);
            tool::run(&mut msmtp, &message::direct(&id));
            bench.gets(&id);
        }
    }
}

#[test]
fn phpmailer_and_nodemailer_log_in() {
    let bench = Bench::new(|setup| setup);
    let php = "require 'libphp-phpmailer/autoload.php';\n\
        [, $port, $secure, $id] = $argv;\n\
        $mail = new PHPMailer\\PHPMailer\\PHPMailer(true);\n\
        $mail->isSMTP(); $mail->Host = '127.0.0.1'; $mail->Port = (int) $port;\n\
        $mail->SMTPSecure = $secure; $mail->SMTPAuth = true;\n\
        $mail->SMTPOptions = ['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]];\n\
        $mail->Username = 'ann@shop.test'; $mail->Password = 'correct horse';\n\
        $mail->setFrom('ann@shop.test'); $mail->addAddress('r@d.test');\n\
        $mail->addCustomHeader('X-Test-Id', $id); $mail->Subject = 'x'; $mail->Body = 'hello';\n\
        $mail->send();\n";
    for (port, secure) in [(bench.submission, "tls"), (bench.submissions, "ssl")] {
        let id = format!("phpmailer-{secure}");
        let mut command = Command::new(tool::program("php"));
        command.args(["-d", "display_errors=stderr", "-r", php, "--"]);
        command.args([&port.port().to_string(), secure, &id]);
        tool::run(&mut command, b"");
        bench.gets(&id);
    }
    let node = "const [port, secure, id] = process.argv.slice(1);\n\
        require('nodemailer').createTransport({ host: '127.0.0.1', port: Number(port),\n\
          secure: secure === 'yes', requireTLS: true, tls: { rejectUnauthorized: false },\n\
          auth: { user: 'ann@shop.test', pass: 'correct horse' },\n\
        }).sendMail({ from: 'ann@shop.test', to: 'r@d.test', subject: 'x', text: 'hello',\n\
          headers: { 'X-Test-Id': id } }).catch(e => { console.error(e); process.exit(1); });\n";
    for (port, secure) in [(bench.submission, "no"), (bench.submissions, "yes")] {
        let id = format!("nodemailer-{secure}");
        let mut command = Command::new(tool::program("node"));
        command.env("NODE_PATH", tool::node_modules());
        command.args(["-e", node, &port.port().to_string(), secure, &id]);
        tool::run(&mut command, b"");
        bench.gets(&id);
    }
}

/// `AUTH PLAIN` with this password over a connection in clear.
fn try_plain(client: &mut Client, user: &str, password: &str) -> String {
    use base64::Engine as _;
    let response =
        base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}"));
    client.ask(&format!("AUTH PLAIN {response}")).text
}

/// Three failures block an address, and there is Bob, too.
fn guarded() -> Bench {
    let bench = Bench::new(|setup| {
        setup
            .set("relay", "networks", "[\"127.0.0.0/8\"]")
            .set("auth", "plain_text", "\"relay\"")
            .set("auth", "failures", "\"3/1h\"")
            .set("auth", "delay", "\"0s\"")
    });
    bench.add_user("bob", "secret of bob", &["--argon2"]);
    bench.node.ok(&["reload"]);
    bench
}

#[test]
fn who_guesses_is_kept_out_and_who_is_known_is_not() {
    let bench = guarded();
    let mut known = Client::hello(bench.node.address());
    assert!(try_plain(&mut known, "bob", "secret of bob").starts_with("235"));
    for n in 0..3 {
        let mut client = Client::hello(bench.node.address());
        let user = ["ann@shop.test", "nobody", "root"][n];
        assert_eq!(try_plain(&mut client, user, "guess"), "535 5.7.8 User or password is wrong");
    }
    let mut client = Client::hello(bench.node.address());
    let blocked = try_plain(&mut client, "ann@shop.test", "correct horse");
    assert_eq!(blocked, "454 4.7.0 Too many failed logins; try again in 15 min");
    // Bob came from there with success.
    let mut client = Client::hello(bench.node.address());
    assert!(try_plain(&mut client, "bob", "secret of bob").starts_with("235"));
    let log = bench.node.log();
    assert!(log.contains("login.blocked whom=\"127.0.0.1\" for_s=900 repeated=1"), "{log}");
    assert!(!log.contains("guess") && !log.contains("secret of bob"), "no password is logged");

    let blocks = bench.node.ok(&["user", "blocks"]);
    assert!(blocks.contains("127.0.0.1"), "{blocks}");
    let json = bench.node.json(&["user", "blocks", "--json"]);
    assert_eq!(json[0]["who"], "127.0.0.1");
    bench.node.ok(&["user", "unblock", "127.0.0.1"]);
    let mut client = Client::hello(bench.node.address());
    assert!(try_plain(&mut client, "ann@shop.test", "correct horse").starts_with("235"));
    let none = bench.node.cli(&["user", "unblock", "127.0.0.1"]);
    assert_eq!(none.status.code(), Some(1));
}

/// What each of so many is told who log in at once, with this name and password.
fn all_at_once(bench: &Bench, count: usize, user: &str, password: &str) -> Vec<String> {
    let ready = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        let try_it = || {
            let mut client = Client::hello(bench.node.address());
            ready.wait();
            try_plain(&mut client, user, password)
        };
        let all: Vec<_> = (0..count).map(|_| scope.spawn(try_it)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn who_guesses_on_many_connections_at_once_gains_nothing_and_the_honest_go_through() {
    let bench = guarded();
    let said = all_at_once(&bench, 100, "ann@shop.test", "correct horse");
    assert!(said.iter().all(|reply| reply.starts_with("235")), "{said:?}");
    let said = all_at_once(&bench, 50, "bob", "guess");
    let of = |code: &str| said.iter().filter(|reply| reply.starts_with(code)).count();
    assert_eq!((of("535"), of("454")), (3, 47), "{said:?}");
}

#[test]
fn a_removed_user_and_a_changed_password_count_after_a_reload() {
    let bench = Bench::new(|setup| setup.set("auth", "delay", "\"0s\""));
    fine(&bench.smtplib("before", &ANN));
    bench.add_user("ann@shop.test", "new password", &["--replace"]);
    bench.node.ok(&["reload"]);
    let old = bench.smtplib("old", &ANN);
    assert!(String::from_utf8_lossy(&old.stderr).contains("535"), "{old:?}");
    fine(&bench.smtplib("new", &[ANN[0], "password=new password"]));
    bench.gets("new");
    bench.node.ok(&["user", "remove", "ann@shop.test"]);
    bench.node.ok(&["reload"]);
    let gone = bench.smtplib("gone", &[ANN[0], "password=new password"]);
    assert!(!gone.status.success());
    assert_eq!(bench.sink.count(), 2);
}

/// Postfix sends through us as its relayhost, with SASL and TLS: what web servers of today have.
#[test]
fn postfix_logs_in_as_a_client() {
    if !tool::is_root() {
        println!("note: passed over, postfix starts as root alone");
        return;
    }
    let bench = Bench::new(|setup| setup);
    let postfix = Postfix::start(&bench);
    let mut sendmail = Command::new(tool::program("sendmail"));
    sendmail.args(["-C", &postfix.dir.path().display().to_string(), "-f", "ann@shop.test"]);
    sendmail.arg("r@d.test");
    tool::run(&mut sendmail, &message::direct("postfix"));
    bench.gets("postfix");
}

/// An instance of its own, in folders of its own; it listens nowhere.
struct Postfix {
    dir: TempDir,
}

impl Postfix {
    fn start(bench: &Bench) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (queue, data) = (dir.path().join("queue"), dir.path().join("data"));
        std::fs::create_dir_all(&queue).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        let port = bench.submission.port();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\n\
             mail_owner = postfix\nsetgid_group = postdrop\ncommand_directory = /usr/sbin\n\
             daemon_directory = /usr/lib/postfix/sbin\nmyhostname = web1.test\nmydestination =\n\
             inet_interfaces = loopback-only\nrelayhost = [127.0.0.1]:{port}\n\
             smtp_tls_security_level = encrypt\nsmtp_sasl_auth_enable = yes\n\
             smtp_sasl_password_maps = texthash:{}\nsmtp_sasl_security_options = noanonymous\n\
             maillog_file_prefixes = {}\nmaillog_file = {}\n",
            queue.display(),
            data.display(),
            dir.path().join("sasl").display(),
            dir.path().display(),
            dir.path().join("log").display()
        );
        let sasl = format!("[127.0.0.1]:{port} ann@shop.test:correct horse\n");
        std::fs::write(dir.path().join("sasl"), sasl).unwrap();
        std::fs::write(dir.path().join("main.cf"), main).unwrap();
        let master = "pickup unix n - n 1 1 pickup\ncleanup unix n - n - 0 cleanup\n\
            qmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\n\
            smtp unix - - n - - smtp\nbounce unix - - n - 0 bounce\n\
            defer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
            tlsmgr unix - - n 1000? 1 tlsmgr\nerror unix - - n - - error\n\
            retry unix - - n - - error\npostlog unix-dgram n - n - 1 postlogd\n";
        std::fs::write(dir.path().join("master.cf"), master).unwrap();
        let chown = |path: &Path, owner: &str| {
            assert!(Command::new("chown").args([owner]).arg(path).status().unwrap().success());
        };
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        chown(&data, "postfix");
        let postfix = Self { dir };
        postfix.command("start");
        postfix
    }

    fn command(&self, word: &str) {
        let mut postfix = Command::new(tool::program("postfix"));
        postfix.arg("-c").arg(self.dir.path()).arg(word);
        let output = postfix.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "postfix {word}: {said}");
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let mut postfix = Command::new(tool::program("postfix"));
        _ = postfix.arg("-c").arg(self.dir.path()).arg("stop").output();
        if std::thread::panicking() {
            let log = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
            _ = std::io::stderr().write_all(&log);
        }
    }
}
