//! Programs of a web server call `bulkhead sendmail`; what arrives is what they wrote.
//!
//! Real callers (PHP's mail(), PHPMailer, lines as cron writes them, a dialogue over pipes) against
//! a real node with a receiver behind it; what a relay refuses, against a receiver that plays the
//! relay.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use support::{
    Delivered, Dns, Host, Node, Rule, Setup, Sink, Stage, Web, free_port, message, tool,
};

/// A web server, its relay, and a receiver behind it that takes everything for `d.test`.
struct Bench {
    web: Web,
    node: Node,
    sink: Sink,
    _dns: Dns,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = support::receiver();
        let node = Setup::with(&dns, &sink).start();
        let web = Web::new(&[node.address().to_string()]);
        Self { web, node, sink, _dns: dns }
    }
}

/// A receiver that plays the relay, for a web server.
fn relay() -> (Web, Sink, Arc<Host>) {
    let sink = Sink::new();
    let host = sink.host("127.0.0.3");
    (Web::new(&[format!("127.0.0.3:{}", sink.port())]), sink, host)
}

/// The message without fields that were added on the way, as text.
fn written(delivered: &Delivered) -> String {
    let text = String::from_utf8(delivered.body.clone()).unwrap();
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    let unfolded = header.replace("\r\n\t", " ");
    let own = |line: &&str| {
        !["Received:", "Date:", "Message-ID:"].iter().any(|name| line.starts_with(name))
    };
    let lines: Vec<&str> = unfolded.split("\r\n").filter(own).collect();
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

#[test]
fn php_mail_arrives_as_written() {
    let bench = Bench::new();
    let id = message::unique("php-mail");
    // Bare line feeds in the text, as scripts write them; a dot alone, and a line that begins so.
    let script = format!(
        r#"$headers = "X-Test-Id: {id}\nFrom: Shop <shop@s.test>\r\nBcc: secret@d.test";
        $text = "Gr\u{{fc}}\u{{df}}e,\n.\n.dot\r\n\nbye\n";
        exit(mail("r@d.test, Ann <ann@d.test>", "Order 17", $text,
            $headers, "-fbounce@s.test") ? 0 : 1);"#
    );
    let mut php = Command::new(tool::program("php"));
    php.args(["-d", &format!("sendmail_path={}", bench.web.line("-t -i"))]);
    php.args(["-d", "mail.add_x_header=Off", "-r", &script]);
    tool::run(&mut php, b"");
    let got = bench.sink.wait_for(&id);
    assert_eq!(got.sender, "bounce@s.test");
    let mut recipients = got.recipients.clone();
    recipients.sort();
    assert_eq!(recipients, ["ann@d.test", "r@d.test", "secret@d.test"]);
    assert!(got.mail_parameters.contains("BODY=8BITMIME"), "{}", got.mail_parameters);
    let want = format!(
        "To: r@d.test, Ann <ann@d.test>\r\nSubject: Order 17\r\nX-Test-Id: {id}\r\n\
         From: Shop <shop@s.test>\r\n\r\nGr\u{fc}\u{df}e,\r\n.\r\n.dot\r\n\r\nbye\r\n"
    );
    // PHP itself puts a line end behind the text.
    let bytes = written(&got);
    assert_eq!(bytes.trim_end_matches("\r\n"), want.trim_end_matches("\r\n"));
    for name in ["Date", "Message-ID"] {
        assert!(message::field(&got.body, name).is_some(), "{name} was added");
    }
}

#[test]
fn phpmailer_arrives_as_written() {
    let bench = Bench::new();
    let id = message::unique("phpmailer");
    let script = format!(
        r#"require "/usr/share/php/libphp-phpmailer/autoload.php";
        $mail = new PHPMailer\PHPMailer\PHPMailer(true);
        $mail->isSendmail();
        $mail->Sendmail = $argv[1];
        $mail->CharSet = "utf-8";
        $mail->Encoding = "8bit";
        $mail->setFrom("shop@s.test", "J\u{{f6}}rgs Shop");
        $mail->Sender = "bounce@s.test";
        $mail->addAddress("r@d.test", "Ann, the first");
        $mail->addBCC("secret@d.test");
        $mail->addCustomHeader("X-Test-Id", "{id}");
        $mail->Subject = "Gr\u{{fc}}\u{{df}}e";
        $mail->Body = "Gr\u{{fc}}\u{{df}}e,\n.\n.dot\nbye\n";
        $mail->send();"#
    );
    let mut php = Command::new(tool::program("php"));
    php.args(["-r", &script, "--", &bench.web.line("")]);
    tool::run(&mut php, b"");
    let got = bench.sink.wait_for(&id);
    assert_eq!((got.sender.as_str(), got.recipients.len()), ("bounce@s.test", 2));
    let text = String::from_utf8(got.body).unwrap();
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!header.contains("secret@") && header.contains("To: \"Ann, the first\" <r@d.test>"));
    assert!(header.contains("Date: ") && header.matches("Message-ID: ").count() == 1, "{header}");
    assert_eq!(body.trim_end(), "Gr\u{fc}\u{df}e,\r\n.\r\n.dot\r\nbye");
}

#[test]
fn php_parameters_that_are_attacks_send_nothing() {
    let bench = Bench::new();
    let target = bench.web.dir().join("shell.php");
    for attack in [
        format!("-X{}", target.display()),
        format!("-OQueueDirectory={} -X{0}", target.display()),
        format!("-fa@s.test -C{}", target.display()),
        format!("-fa@s.test --config={}", target.display()),
    ] {
        let script =
            format!("exit(mail('r@d.test', 'x', '<?php system(1); ?>', '', {attack:?}) ? 0 : 1);");
        let mut php = Command::new(tool::program("php"));
        php.args(["-d", &format!("sendmail_path={}", bench.web.line("-t -i")), "-r", &script]);
        let output = php.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{attack}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("sendmail: unknown option -"), "{attack}: {said}");
    }
    // A sender with blanks is one argument to us, and no address.
    let sender = "a@s.test -X/tmp/x";
    let (code, said) = bench.web.fails(&["-t", "-i", "-f", sender], b"To: r@d.test\n\nx\n");
    assert!(code == 64 && said.contains("-f a@s.test -X/tmp/x: invalid domain"), "{code} {said}");
    assert!(!target.exists());
    assert_eq!((bench.sink.count(), bench.node.totals()), (0, support::Totals::default()));
}

#[test]
fn recipients_of_header_and_arguments_get_it() {
    let bench = Bench::new();
    let id = message::unique("both");
    let input = format!(
        "To: Team: a@d.test, \"B, b\" <b@d.test>;\n\
         CC: =?utf-8?q?J=C3=B6rg?= <c@d.test>,\n\td@d.test\n\
         Bcc: e@d.test\nX-Test-Id: {id}\n\nhello\n"
    );
    bench.web.sends(&["-t", "-oi", "-f", "s@s.test", "f@d.test"], input.as_bytes());
    let got = bench.sink.wait_for(&id);
    let mut recipients = got.recipients.clone();
    recipients.sort();
    assert_eq!(recipients, ["a", "b", "c", "d", "e", "f"].map(|name| format!("{name}@d.test")));
    let text = String::from_utf8(got.body).unwrap();
    assert!(!text.contains("e@d.test") && !text.to_lowercase().contains("bcc"), "{text}");
}

#[test]
fn cron_writes_without_domains() {
    let (web, sink, _host) = relay();
    let input = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@web1> date\n\
                  Content-Type: text/plain; charset=UTF-8\nX-Test-Id: cron\n\nMon\n.\nTue\n";
    web.sends(&["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "-r", "root", "root"], input);
    let got = sink.wait_for("cron");
    assert_eq!((got.sender.as_str(), got.hello.as_str()), ("root@web1.test", "web1.test"));
    assert_eq!(got.recipients, ["root@web1.test"]);
    assert_eq!(
        written(&got),
        "From: \"Cron Daemon\" <root@web1.test>\r\nTo: root@web1.test\r\n\
         Subject: Cron <root@web1> date\r\nContent-Type: text/plain; charset=UTF-8\r\n\
         X-Test-Id: cron\r\n\r\nMon\r\n.\r\nTue\r\n"
    );
    // Without -i the dot ends it.
    web.sends(&["-f", "a@s.test", "b@d.test"], b"X-Test-Id: dot\n\nMon\n.\nTue\n");
    let got = sink.wait_for("dot");
    assert!(got.body.ends_with(b"\r\n\r\nMon\r\n"), "{}", String::from_utf8_lossy(&got.body));
    assert!(message::field(&got.body, "From").unwrap().contains("a@s.test"));
}

/// A program at the other end of `-bs`.
struct Speaker {
    child: std::process::Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Speaker {
    fn new(web: &Web) -> Self {
        let mut command = web.command(&["-bs"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn say(&mut self, bytes: &str) {
        self.child.stdin.as_mut().unwrap().write_all(bytes.as_bytes()).unwrap();
    }

    #[track_caller]
    fn hears(&mut self, code: &str) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            assert!(self.out.read_line(&mut reply).unwrap() > 0, "wanted {code}: {reply}");
            if reply.as_bytes()[start + 3] == b' ' {
                assert!(
                    reply.ends_with("\r\n") && reply.starts_with(code),
                    "wanted {code}: {reply}"
                );
                return reply;
            }
        }
    }

    fn ends(mut self) -> i32 {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn a_dialogue_reaches_the_relay() {
    let bench = Bench::new();
    let mut program = Speaker::new(&bench.web);
    program.hears("220");
    program.say("EHLO cms.test\r\n");
    let offers = program.hears("250");
    assert!(offers.contains("8BITMIME") && offers.contains("DSN"), "{offers}");
    assert!(!offers.contains("STARTTLS") && !offers.contains("CHUNKING"), "{offers}");
    for id in ["first", "second"] {
        // All at once, as one that has seen PIPELINING may.
        program.say("MAIL FROM:<s@s.test>\r\nRCPT TO:<@>\r\nRCPT TO:<r@d.test>\r\nDATA\r\n");
        for code in ["250", "501", "250", "354"] {
            program.hears(code);
        }
        let body = format!("X-Test-Id: {id}\r\nSubject: x\r\n\r\n..\r\n..dot\nbare\n.\r\n");
        program.say(&body);
        program.hears("250");
    }
    program.say("BDAT 5 LAST\r\n");
    program.hears("502");
    program.say("QUIT\r\n");
    program.hears("221");
    assert_eq!(program.ends(), 0);
    for id in ["first", "second"] {
        let got = bench.sink.wait_for(id);
        let own = format!("X-Test-Id: {id}\r\nSubject: x\r\n\r\n.\r\n.dot\r\nbare\r\n");
        assert_eq!(written(&got), own);
    }
    bench.web.configure(&[format!("127.0.0.1:{}", free_port())], "");
    let mut program = Speaker::new(&bench.web);
    program.hears("421");
    assert_eq!(program.ends(), 75);
}

#[test]
fn the_next_relay_takes_over() {
    let (web, sink, first) = relay();
    sink.host("127.0.0.4");
    let port = sink.port();
    let relays = [
        format!("127.0.0.1:{}", free_port()),
        format!("127.0.0.3:{port}"),
        format!("127.0.0.4:{port}"),
    ];
    web.configure(&relays, "connect_timeout = \"2s\"");
    web.sends(&["r@d.test"], b"X-Test-Id: one\n\nx\n");
    assert_eq!(sink.wait_for("one").host.to_string(), "127.0.0.3");
    // One recipient now, one elsewhere, one never: each is asked where it has a chance.
    first
        .rule(Rule::reply(Stage::Rcpt, "450 4.2.0 Later").containing("later@"))
        .rule(Rule::reply(Stage::Rcpt, "550 5.1.1 No such user").containing("never@"));
    let to = ["r@d.test", "later@d.test", "never@d.test"];
    let (code, said) = web.fails(&to, b"X-Test-Id: two\n\nx\n");
    assert_eq!(code, 67, "{said}");
    let want = format!("sendmail: <never@d.test>: 127.0.0.3:{port} said: 550 5.1.1 No such user\n");
    assert_eq!(said, want);
    let mut got: Vec<_> =
        sink.with_id("two").into_iter().map(|d| (d.host.to_string(), d.recipients)).collect();
    got.sort();
    let one = |host: &str, to: &str| (host.to_string(), vec![to.to_string()]);
    assert_eq!(got, [one("127.0.0.3", "r@d.test"), one("127.0.0.4", "later@d.test")]);
    assert!(web.spooled().is_empty());
}

#[test]
fn exit_codes_say_why() {
    let (web, sink, host) = relay();
    let hello = b"To: r@d.test\n\nhello\n";
    let mut table: Vec<(&[&str], &[u8], i32, &str)> = vec![
        (&["-t"], b"Subject: x\n\nx\n", 64, "no recipient in To, Cc or Bcc"),
        (&[], hello, 64, "no recipient; name one, or use -t"),
        (&["-bd"], b"", 64, "-bd: the server is `bulkhead serve`"),
        (&["--help"], b"", 64, "unknown option --help"),
        (&["a@"], hello, 64, "recipient \"a@\": invalid domain"),
        (&["-t"], b"To: r@d.test, a b@c.test\n\nx\n", 65, "To: \"a b@c.test\": invalid local part"),
        (&["-t"], b"To: r@d.test\n\n\0\n", 65, "a NUL"),
        (&["-t", "-B7BIT"], b"To: r@d.test\n\n\xfc\n", 65, "-B is 7BIT"),
    ];
    for (arguments, input, code, words) in table.drain(..) {
        let (got, said) = web.fails(arguments, input);
        assert!(got == code && said.contains(words), "{arguments:?}: {got} {said}");
    }
    for (stage, reply, code) in [
        (Stage::Rcpt, "550 5.1.1 No such user", 67),
        (Stage::Rcpt, "550 no", 69),
        (Stage::Mail, "550 5.7.1 Not you", 77),
        (Stage::Data, "554 5.6.0 Not this", 65),
        (Stage::Dot, "552 5.3.4 Too big", 69),
    ] {
        host.accept_all().rule(Rule::reply(stage, reply));
        let (got, said) = web.fails(&["-t"], hello);
        assert!(got == code && said.contains(&format!("said: {reply}")), "{reply}: {got} {said}");
    }
    host.accept_all().extensions(&["PIPELINING"]);
    for (input, words) in [
        ("To: r@d.test\n\n\u{fc}\n", "this relay no 8BITMIME"),
        ("To: j\u{f6}rg@d.test\n\nx\n", "this relay no 8BITMIME"),
    ] {
        let (got, said) = web.fails(&["-t"], input.as_bytes());
        assert!(got == 65 && said.contains(words), "{got} {said}");
    }
    let (got, said) = web.fails(&["j\u{f6}rg@d.test"], b"\nx\n");
    assert!(got == 65 && said.contains("this relay has no SMTPUTF8"), "{got} {said}");
    assert_eq!(sink.count(), 0, "nothing was taken");
    assert!(web.spooled().is_empty(), "and nothing waits: {:?}", web.spooled());
    web.configure(&[], "");
    let (got, said) = web.fails(&["-t"], hello);
    assert!(got == 78 && said.contains("sendmail.toml:1:10: no relay"), "{got} {said}");
    std::fs::remove_file(web.config()).unwrap();
    let (got, said) = web.fails(&["-t"], hello);
    assert!(got == 78 && said.contains("cannot read"), "{got} {said}");
}

#[test]
fn the_binary_goes_by_three_names() {
    let web = Web::new(&["127.0.0.1:9".to_string()]);
    let call = |name: &str, arguments: &[&str]| {
        let path = web.dir().join(name);
        let _ = std::os::unix::fs::symlink(support::binary(), &path);
        let output = Command::new(path).args(arguments).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(call("newaliases", &[]), (0, String::new()));
    let refused = |option: &str| (64, format!("sendmail: unknown option {option}\n"));
    assert_eq!(call("sendmail", &["-t", "-X/tmp/x"]), refused("-X"));
    // An argument is never the settings' name, for one who was called so.
    let named = format!("--config={}", web.config().display());
    assert_eq!(call("sendmail", &[&named, "-t"]), refused("--config"));
    assert_eq!(call("mailq", &[&named]), refused("--config"));
    assert_eq!(call("sendmail", &["serve", "-OQueueDirectory=/tmp"]), refused("-O"));
}

#[test]
fn parameters_of_reports_travel() {
    let (web, sink, host) = relay();
    host.extensions(&["8BITMIME", "SMTPUTF8"]).extension("DSN");
    let arguments = ["-N", "success,failure", "-R", "hdrs", "-V", "order+17", "-f", "", "r@d.test"];
    web.sends(&arguments, "X-Test-Id: dsn\n\n\u{fc}\n".as_bytes());
    let got = sink.wait_for("dsn");
    assert_eq!(got.mail_parameters.trim(), "BODY=8BITMIME RET=HDRS ENVID=order+2B17");
    assert_eq!(got.rcpt_parameters, [" NOTIFY=SUCCESS,FAILURE"].map(|p| p.trim().to_string()));
    assert_eq!(got.sender, "");
    host.extensions(&["8BITMIME"]);
    let output = web.call(&["-v", "-N", "never", "r@d.test"], b"X-Test-Id: none\n\nx\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("offers no DSN") && said.contains("> MAIL FROM:<"), "{said}");
    assert!(sink.wait_for("none").rcpt_parameters.iter().all(|p| p.trim().is_empty()));
}

#[test]
fn tls_is_verified_and_the_password_goes_with_it() {
    let web = Web::new(&[]);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let path = |name: &str| web.dir().join(name);
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("password"), "open sesame\n").unwrap();
    for tls in ["starttls", "tls"] {
        let folder = path(tls);
        std::fs::create_dir(&folder).unwrap();
        let port = free_port();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let mut python = Command::new(tool::python("aiosmtpd"));
        python.arg(tool::script("aiosmtpd_sink.py")).args(["127.0.0.1", &port.to_string()]);
        python.arg(&folder).arg(tls).args([path("cert.pem"), path("key.pem")]);
        let _relay = tool::Server::start(python.args(["web1", "open sesame"]), address);
        let relays = [format!("localhost:{port}")];
        let user =
            format!("tls = {tls:?}\nuser = \"web1\"\npassword_file = {:?}\n", path("password"));
        let ca = format!("ca = {:?}\n", path("cert.pem"));
        // Nobody vouches for it, or the password is wrong: the mail waits.
        web.configure(&relays, &user);
        web.sends(&["r@d.test"], b"Subject: x\n\none\n");
        web.configure(&relays, &format!("{user}{ca}").replace("web1", "web2"));
        web.sends(&["r@d.test"], b"Subject: x\n\ntwo\n");
        let queue = String::from_utf8(web.call(&["-bp"], b"").stdout).unwrap();
        assert!(queue.to_lowercase().contains("certificate"), "{queue}");
        assert!(queue.contains("535"), "{queue}");
        assert_eq!(web.spooled().len(), 2);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        // And goes, all of it, once the settings are right.
        web.configure(&relays, &format!("{user}{ca}"));
        web.sends(&["-q"], b"");
        assert!(web.spooled().is_empty(), "{:?}", web.spooled());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "{tls}");
    }
}
