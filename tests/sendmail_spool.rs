//! What no relay takes now waits in the spool, and is sent once; whoever stops whom.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "files are set back from the machine's time")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use support::{Rule, Setup, Sink, Stage, Web, free_port, message, tool};

/// Nobody listens there.
fn dead() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// The file of the only message that is spooled.
#[track_caller]
fn only(web: &Web) -> PathBuf {
    let names = web.spooled();
    assert_eq!(names.len(), 1, "{names:?}");
    web.spool().join(&names[0])
}

/// Sets a file's time back.
fn age(path: &PathBuf, by: Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

/// Gives a spooled message an id that is so old; its last attempt is as old.
fn backdate(path: &PathBuf, by: Duration) -> PathBuf {
    let digits = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut number = ((since - by).as_millis() as u64 - 1_735_689_600_000) << 20;
    let mut name = Vec::new();
    for _ in 0..12 {
        name.insert(0, digits[(number & 31) as usize]);
        number >>= 5;
    }
    let older = path.with_file_name(String::from_utf8(name).unwrap());
    std::fs::rename(path, &older).unwrap();
    age(&older, by);
    older
}

#[test]
fn what_is_spooled_is_delivered_once() {
    let web = Web::new(&[dead(), dead()]);
    let sent = message::direct("spooled");
    web.sends(&["-i", "-f", "s@s.test", "r@d.test", "q@d.test"], &sent);
    let file = only(&web);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let queue = String::from_utf8(web.call(&["-bp"], b"").stdout).unwrap();
    for words in ["<s@s.test>", "<r@d.test>", "<q@d.test>", " waits ", "refused"] {
        assert!(queue.contains(words), "{words}: {queue}");
    }
    let (code, said) = web.fails(&["-q"], b"");
    assert!(code == 75 && said.contains("refused"), "{code} {said}");
    let (dns, sink) = support::receiver();
    let node = Setup::with(&dns, &sink).start();
    web.configure(&[dead(), node.address().to_string()], "");
    web.sends(&["-q"], b"");
    let got = sink.wait_for("spooled");
    message::assert_relayed(&sent, &got.body);
    assert_eq!((got.sender.as_str(), got.recipients.len()), ("s@s.test", 2));
    assert!(web.spooled().is_empty());
    web.sends(&["-q"], b"");
    node.wait_until_empty();
    assert_eq!(sink.delivered().len(), 1);
    let queue = String::from_utf8(web.call(&["-bp"], b"").stdout).unwrap();
    assert_eq!(queue, "Mail queue is empty\n");
}

#[test]
fn runs_at_once_send_nothing_twice() {
    let web = Web::new(&[dead()]);
    for n in 0..30 {
        web.sends(&["r@d.test"], format!("X-Test-Id: {n}\n\nx\n").as_bytes());
    }
    let sink = Sink::new();
    // Slow enough that all runs meet at every message.
    sink.host("127.0.0.3")
        .rule(Rule::reply(Stage::Dot, "250 2.0.0 Ok").delayed(Duration::from_millis(10)));
    web.configure(&[format!("127.0.0.3:{}", sink.port())], "");
    let runs: Vec<_> =
        (0..4).map(|_| web.command(&["-q"]).stdin(Stdio::null()).spawn().unwrap()).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let mut times = BTreeMap::new();
    for delivered in sink.delivered() {
        *times.entry(delivered.id.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 30);
    assert!(times.values().all(|n| *n == 1), "{times:?}");
    assert!(web.spooled().is_empty());
    assert!(sink.delivered().iter().any(|d| d.session != sink.delivered()[0].session));
}

#[test]
fn a_kill_leaves_no_half_message() {
    let body = format!("X-Test-Id: kill\n\n{}", "0123456789\n".repeat(20_000));
    let sink = Sink::new();
    sink.host("127.0.0.3");
    let mut was_kept = 0;
    // Each call is killed before it has done anything.
    let moments =
        [("mkdirat", 1), ("fsync", 1), ("write", 1), ("fsync", 2), ("renameat2", 1), ("fsync", 3)];
    for (call, when) in moments {
        let web = Web::new(&[dead()]);
        let command = web.command(&["r@d.test"]);
        let mut strace = Command::new(tool::program("strace"));
        strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
        strace.arg(command.get_program()).args(command.get_args());
        let mut child = strace.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let written = std::io::Write::write_all(child.stdin.as_mut().unwrap(), body.as_bytes());
        drop(child.stdin.take());
        written.unwrap();
        assert!(!child.wait().unwrap().success(), "{call} {when}: it was killed");
        let real: Vec<_> = web.spooled().into_iter().filter(|n| !n.contains("/.")).collect();
        sink.take();
        web.configure(&[format!("127.0.0.3:{}", sink.port())], "");
        web.sends(&["-q"], b"");
        assert_eq!(sink.delivered().len(), real.len(), "{call} {when}");
        for delivered in sink.delivered() {
            was_kept += 1;
            let want = body.split_once("\n\n").unwrap().1.replace('\n', "\r\n");
            assert!(delivered.body.ends_with(format!("\r\n\r\n{want}").as_bytes()));
        }
        // What was left half written is removed once it is certainly of no use.
        let left = web.spooled();
        assert!(left.iter().all(|name| name.contains("/.")) && left.len() <= 1, "{left:?}");
    }
    assert_eq!(was_kept, 1, "once renamed, it is there");
}

#[test]
fn what_a_crash_left_is_removed_a_day_later() {
    let web = Web::new(&[dead()]);
    web.sends(&["r@d.test"], b"x\n");
    let folder = only(&web).parent().unwrap().to_path_buf();
    let old = backdate(&only(&web), Duration::from_secs(25 * 3600));
    std::fs::rename(&old, folder.join(format!(".{}", old.file_name().unwrap().display()))).unwrap();
    web.sends(&["r@d.test"], b"x\n");
    let fresh = only_real(&web);
    let half = folder.join(format!(".{}", fresh.file_name().unwrap().display()));
    std::fs::copy(&fresh, &half).unwrap();
    web.fails(&["-q"], b"");
    assert_eq!(web.spooled().len(), 2, "{:?}", web.spooled());
    assert!(half.exists() && fresh.exists());
}

fn only_real(web: &Web) -> PathBuf {
    let mut real = web.spooled();
    real.retain(|name| !name.contains("/."));
    assert_eq!(real.len(), 1, "{real:?}");
    web.spool().join(&real[0])
}

#[test]
fn earlier_mail_goes_along_and_deferred_mail_backs_off() {
    let sink = Sink::new();
    let host = sink.host("127.0.0.3");
    let web = Web::new(&[dead()]);
    web.sends(&["r@d.test"], b"X-Test-Id: early\n\nx\n");
    web.configure(&[format!("127.0.0.3:{}", sink.port())], "");
    host.rule(Rule::reply(Stage::Rcpt, "451 4.7.1 Greylisted").containing("grey@"));
    // A call whose own mail is put off has reached no relay that takes mail.
    web.sends(&["grey@d.test"], b"X-Test-Id: grey\n\nx\n");
    assert_eq!(web.spooled().len(), 2);
    web.sends(&["r@d.test"], b"X-Test-Id: late\n\nx\n");
    sink.wait_for("early");
    sink.wait_for("late");
    let asked = || host.count_commands("RCPT TO:<grey@");
    let file = only(&web);
    let queue = String::from_utf8(web.call(&["-bp"], b"").stdout).unwrap();
    assert!(queue.contains("said: 451 4.7.1 Greylisted"), "{queue}");
    // Put off at the age of half an hour: not again before it is an hour old.
    let file = backdate(&file, Duration::from_secs(1800));
    age(&file, Duration::ZERO);
    let before = asked();
    web.sends(&["-q"], b"");
    assert_eq!(asked(), before, "not due");
    let file = backdate(&file, Duration::from_secs(3700));
    age(&file, Duration::from_secs(1900));
    web.sends(&["-q"], b"");
    assert_eq!(asked(), before + 1, "due");
    let tried = SystemTime::now().duration_since(file.metadata().unwrap().modified().unwrap());
    assert!(tried.unwrap() < Duration::from_secs(60));
    assert_eq!(sink.with_id("grey").len(), 0);
}

#[test]
fn senders_hear_of_what_fails() {
    let sink = Sink::new();
    let host = sink.host("127.0.0.3");
    let relay = format!("127.0.0.3:{}", sink.port());
    let web = Web::new(&[dead()]);
    web.sends(&["-fs@s.test", "gone@d.test", "r@d.test"], b"X-Test-Id: refused\n\nx\n");
    web.configure(std::slice::from_ref(&relay), "");
    host.rule(Rule::reply(Stage::Rcpt, "550 5.1.1 No such user").containing("gone@"));
    host.rule(Rule::reply(Stage::Rcpt, "450 4.2.2 Full").containing("full@"));
    web.sends(&["-q"], b"");
    assert!(web.spooled().is_empty(), "{:?}", web.spooled());
    let delivered = sink.take();
    assert_eq!(delivered[0].recipients, ["r@d.test"]);
    let report = &delivered[1];
    assert_eq!((report.sender.as_str(), report.recipients[0].as_str()), ("", "s@s.test"));
    let text = String::from_utf8_lossy(&report.body);
    for words in [
        "multipart/report",
        "Final-Recipient: rfc822;gone@d.test",
        "Status: 5.1.1",
        "smtp; 550 5.1.1 No such user",
        "X-Test-Id: refused",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("r@d.test"), "{text}");
    // After five days, the next attempt is the last.
    for (age, left) in [(Duration::from_secs(4 * 86_400), 1), (Duration::from_secs(5 * 86_400), 0)]
    {
        web.configure(&[dead()], "");
        web.sends(&["-fs@s.test", "full@d.test"], b"X-Test-Id: old\n\nx\n");
        let file = backdate(&only(&web), age + Duration::from_secs(60));
        web.fails(&["-q"], b"");
        assert!(file.exists(), "no relay has said anything");
        web.configure(std::slice::from_ref(&relay), "");
        web.sends(&["-q"], b"");
        assert_eq!(web.spooled().len(), left);
        let _ = std::fs::remove_file(file);
    }
    let report = sink.take().remove(0);
    let text = String::from_utf8_lossy(&report.body);
    assert!(text.contains("Status: 4.4.7") && text.contains("not taken in 5d"), "{text}");
}

#[test]
fn what_nobody_is_to_hear_of_is_kept_aside() {
    let sink = Sink::new();
    let host = sink.host("127.0.0.3");
    host.rule(Rule::reply(Stage::Rcpt, "550 5.1.1 No such user").containing("gone@"));
    for arguments in [["-f", "", "gone@d.test"], ["-N", "never", "gone@d.test"]] {
        let web = Web::new(&[dead()]);
        web.sends(&arguments, b"Subject: x\n\nx\n");
        web.configure(&[format!("127.0.0.3:{}", sink.port())], "");
        web.sends(&["-q"], b"");
        assert_eq!(only(&web).extension().unwrap(), "failed");
        let asked = host.count_commands("RCPT");
        web.sends(&["-q"], b"");
        assert_eq!(host.count_commands("RCPT"), asked, "not again");
        let queue = String::from_utf8(web.call(&["-bp"], b"").stdout).unwrap();
        assert!(queue.contains(" failed ") && queue.contains("550 5.1.1"), "{queue}");
    }
    assert_eq!(sink.delivered().len(), 0);
}

#[test]
fn a_spool_that_cannot_be_used_is_told() {
    let web = Web::new(&[dead()]);
    std::fs::remove_dir(web.spool()).unwrap();
    let (code, said) = web.fails(&["r@d.test"], b"x\n");
    assert_eq!(code, 73, "{said}");
    for words in ["no relay takes the message (127.0.0.1:", "as root: install -d -m 1777"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    std::fs::create_dir(web.spool()).unwrap();
    web.sends(&["r@d.test"], b"x\n");
    let folder = only(&web).parent().unwrap().to_path_buf();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, said) = web.fails(&["r@d.test"], b"x\n");
    assert!(code == 77 && said.contains("open to others"), "{code} {said}");
}

#[test]
fn users_are_kept_apart_and_root_sends_for_all() {
    if !tool::is_root() {
        println!("note: passed over, only root can call as several users");
        return;
    }
    let sink = Sink::new();
    sink.host("127.0.0.3");
    let relay = format!("127.0.0.3:{}", sink.port());
    let web = Web::new(&[dead()]);
    // Users need not be able to reach the folder that the binary was built in.
    let own = web.dir().join("bulkhead");
    std::fs::copy(support::binary(), &own).unwrap();
    let call = |user: u32, arguments: &[&str]| {
        let mut command = Command::new(&own);
        command.arg("--config").arg(web.config()).arg("sendmail").args(arguments);
        command.uid(user).gid(user).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let id = format!("X-Test-Id: {user}\n\nx\n");
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), id.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (one, two, thief) = (54_321, 54_322, 54_323);
    for user in [one, two] {
        assert_eq!(call(user, &["r@d.test"]), (0, String::new(), String::new()));
    }
    for name in web.spooled() {
        let path = web.spool().join(&name);
        let owner = path.metadata().unwrap().uid();
        assert!(name.starts_with(&format!("{owner}/")), "{name} {owner}");
    }
    // Each sees his own alone.
    let queue = call(one, &["-bp"]).1;
    assert!(queue.contains("<uid-54321@web1.test>") && !queue.contains("54322"), "{queue}");
    assert_eq!(call(thief, &["-bp"]).1, "Mail queue is empty\n");
    assert!(call(0, &["-bp"]).1.contains("<uid-54322@web1.test>"));
    // A folder that another made in one's name is not used, nor a link in one's own by root.
    let squatted = web.spool().join(thief.to_string());
    std::fs::create_dir(&squatted).unwrap();
    std::fs::set_permissions(&squatted, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, _, said) = call(thief, &["r@d.test"]);
    assert!(code == 77 && said.contains("another's"), "{code} {said}");
    let mine = web.spool().join(web.spooled()[0].as_str());
    let name = mine.file_name().unwrap().to_str().unwrap();
    let [link, copy] =
        ["000000", "000001"].map(|end| mine.with_file_name(format!("{}{end}", &name[..6])));
    std::os::unix::fs::symlink(web.config(), &link).unwrap();
    std::fs::copy(&mine, &copy).unwrap();
    // Due, both of them.
    let mut touch = Command::new("touch");
    tool::run(touch.args(["-h", "-d", "1 day ago"]).args([&link, &copy]), b"");
    web.configure(&[relay], "");
    let (code, _, said) = call(0, &["-q"]);
    assert_eq!(code, 0, "{said}");
    for path in [&link, &copy] {
        let note = format!("{}: ", path.display());
        assert!(said.contains(&note), "{note}: {said}");
    }
    let mut ids: Vec<_> = sink.delivered().into_iter().map(|d| d.id.unwrap()).collect();
    ids.sort();
    assert_eq!(ids, ["54321", "54322"]);
    assert!(link.is_symlink() && copy.exists() && !mine.exists());
}
