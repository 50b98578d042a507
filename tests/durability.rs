//! What the disk does to us: the order of system calls behind a 250, writes and syncs that fail, a
//! disk that is full.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Client, Dns, Node, PATIENCE, Setup, Sink, message, tool, wait_until};

struct Bench {
    dns: Dns,
    sink: Sink,
}

impl Bench {
    fn new() -> Self {
        let (dns, sink) = support::receiver();
        Self { dns, sink }
    }

    fn setup(&self) -> Setup {
        Setup::with(&self.dns, &self.sink).retry_every(Duration::from_secs(1))
    }
}

/// strace on a running node, with these words; ended when dropped.
struct Tracer(Child);

impl Tracer {
    fn attach(node: &Node, words: &[&str]) -> Self {
        let strace = tool::program("strace");
        let pid = node.pid().to_string();
        let mut tracer = Command::new(strace)
            .args(["-f", "-qq", "-p", &pid])
            .args(words)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // strace takes the threads one by one, and the one that writes may well be the last.
        let traced = |status: PathBuf| {
            let status = std::fs::read_to_string(status).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        let tasks = format!("/proc/{pid}/task");
        wait_until(PATIENCE, "strace is attached to every thread", || {
            assert!(tracer.try_wait().unwrap().is_none(), "strace ended; may it trace here?");
            let mut tasks = std::fs::read_dir(&tasks).unwrap();
            tasks.all(|task| traced(task.unwrap().path().join("status")))
        });
        Self(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        _ = Command::new("kill").args(["-INT", &pid]).status();
        _ = self.0.wait();
    }
}

#[test]
fn no_250_leaves_before_the_sync_that_covers_it() {
    let bench = Bench::new();
    let node = bench.setup().start();
    node.ok(&["queue", "hold", "--all"]);
    let trace = node.dir().join("trace");
    let calls = "trace=fdatasync,fsync,recvfrom,read,sendto,write,writev";
    let tracer = Tracer::attach(&node, &["-s", "9000", "-e", calls, "-o", trace.to_str().unwrap()]);
    let mut client = Client::hello(node.address());
    for n in 0..20 {
        let sent = message::direct(&format!("sync{n}"));
        assert_eq!(client.mail("a@s.test", &["r@d.test"], &sent).code, 250);
    }
    drop(tracer);
    let text = std::fs::read_to_string(trace).unwrap();
    let (mut data_seen, mut synced, mut answers) = (false, false, 0);
    for line in text.lines() {
        let is_sync = line.contains("fdatasync") || line.contains("fsync");
        if line.contains(r"\r\n.\r\n") {
            // The end of a message: only a sync that ends after this counts.
            (data_seen, synced) = (true, false);
        } else if is_sync && line.ends_with("= 0") {
            synced = true;
        } else if line.contains("Queued as") {
            assert!(data_seen && synced, "answered before the sync:\n{line}");
            (data_seen, answers) = (false, answers + 1);
        }
    }
    assert_eq!(answers, 20, "every answer was seen");
}

/// Sends until `count` messages were accepted; gives how many were not, each with a 4xx.
fn send_all(node: &Node, count: usize, prefix: &str) -> (Vec<String>, usize) {
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for n in 0.. {
        let id = format!("{prefix}-{n}");
        let reply = Client::hello(node.address()).mail(
            "a@s.test",
            &[&format!("{id}@d.test")],
            &message::direct(&id),
        );
        match reply.code / 100 {
            2 => accepted.push(id),
            4 => refused += 1,
            _ => panic!("{}", reply.text),
        }
        assert!(refused <= 20, "the node does not recover");
        if accepted.len() == count {
            break;
        }
    }
    (accepted, refused)
}

#[test]
fn a_write_or_sync_that_fails_costs_a_4xx_and_nothing_else() {
    for (call, error, when) in [
        ("fdatasync", "EIO", 1),
        ("fdatasync", "EIO", 2),
        ("fdatasync", "ENOSPC", 3),
        ("pwrite64", "EIO", 1),
        ("pwrite64", "EIO", 4),
        ("pwrite64", "ENOSPC", 7),
    ] {
        let bench = Bench::new();
        let mut node = bench.setup().start();
        node.ok(&["queue", "hold", "--all"]);
        let inject = format!("inject={call}:error={error}:when={when}");
        let trace = format!("trace={call}");
        let tracer = Tracer::attach(&node, &["-e", &trace, "-e", &inject, "-o", "/dev/null"]);
        let (accepted, refused) = send_all(&node, 8, "w3");
        drop(tracer);
        assert!(refused >= 1, "{inject}: the fault hit nothing");
        node.kill();
        node.start();
        node.ok(&["queue", "release", "--all"]);
        node.wait_until_empty();
        for id in &accepted {
            assert!(!bench.sink.with_id(id).is_empty(), "{inject}: {id} was lost");
        }
        node.terminate();
        node.ok(&["queue", "check"]);
    }
}

#[test]
fn a_disk_that_became_read_only_refuses_mail_until_it_can_be_written() {
    let bench = Bench::new();
    let mut node = bench.setup().start();
    node.ok(&["queue", "hold", "--all"]);
    let (before, _) = send_all(&node, 3, "before");
    let (calls, readonly) = ("trace=pwrite64,fallocate", "inject=pwrite64,fallocate:error=EROFS");
    let tracer = Tracer::attach(&node, &["-e", calls, "-e", readonly, "-o", "/dev/null"]);
    for n in 0..5 {
        let sent = message::direct(&format!("refused{n}"));
        let reply = Client::hello(node.address()).mail("a@s.test", &["r@d.test"], &sent);
        assert!(reply.text.starts_with("451 4.3.0"), "{}", reply.text);
    }
    drop(tracer);
    let (after, refused) = send_all(&node, 3, "after");
    assert_eq!(refused, 0, "it opens by itself");
    wait_until(PATIENCE, "all is held no longer", || {
        node.cli(&["queue", "release", "--all"]).status.success()
    });
    node.wait_until_empty();
    for id in before.iter().chain(&after) {
        assert_eq!(bench.sink.with_id(id).len(), 1, "{id}");
    }
    assert_eq!(bench.sink.count(), 6, "what was refused did not come");
    node.terminate();
    node.ok(&["queue", "check"]);
}

/// The n-th of these calls fails, from the start of a node that takes mail in and sends it on.
/// False where there was no n-th.
fn fails_at(call: &str, error: &str, nth: u32) -> bool {
    let bench = Bench::new();
    let mut node = bench.setup().prepare();
    let trace = node.dir().join("trace");
    let (calls, out) = (format!("trace={call}"), trace.to_str().unwrap().to_owned());
    let inject = format!("inject={call}:error={error}:when={nth}");
    let strace = tool::program("strace").to_str().unwrap().to_owned();
    node.rewrap(&[&strace, "-D", "-f", "-qq", "-o", &out, "-e", &calls, "-e", &inject]);
    node.spawn();
    let mut accepted = Vec::new();
    // Where it does not start at all, that is an answer, too.
    if node.answers(PATIENCE) {
        for n in 0..6 {
            let id = format!("p9-{n}");
            let sent = if n % 2 == 0 { message::direct(&id) } else { message::newsletter(&id) };
            let mut client = Client::hello(node.address());
            let reply = client.mail("a@s.test", &[&format!("{id}@d.test")], &sent);
            match reply.code / 100 {
                2 => accepted.push(id),
                4 => {}
                _ => panic!("{inject}: {}", reply.text),
            }
        }
    }
    node.kill();
    node.rewrap(&[]);
    node.start();
    node.wait_until_empty();
    for id in &accepted {
        assert!(!bench.sink.with_id(id).is_empty(), "{inject}: {id} was lost");
    }
    node.terminate();
    node.ok(&["queue", "check"]);
    std::fs::read_to_string(trace).unwrap().contains("(INJECTED)")
}

/// `BULKHEAD_EVERY_FAULT=1` goes on with each call until a run without a fault.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test reads its settings")]
fn whatever_call_fails_nothing_accepted_is_lost() {
    let every = std::env::var_os("BULKHEAD_EVERY_FAULT").is_some();
    for (call, error) in [
        ("fdatasync", "EIO"),
        ("fsync", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("fallocate", "ENOSPC"),
        ("rename", "EIO"),
        ("openat", "EMFILE"),
    ] {
        let some: &[u32] = if call == "openat" { &[40] } else { &[1, 3] };
        let count = if every { 500 } else { some.len() };
        let each = (1..).map(|n| if every { n } else { some[n as usize - 1] });
        for nth in each.take(count) {
            let hit = fails_at(call, error, nth);
            println!("{call} {nth}: {}", if hit { "failed" } else { "no such call" });
            if !hit && every {
                break;
            }
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test measures time")]
fn a_disk_that_hangs_costs_a_4xx_in_bounded_time() {
    let bench = Bench::new();
    let node = bench.setup().start();
    let hang = "inject=fdatasync:delay_enter=40000000:when=1";
    let tracer = Tracer::attach(&node, &["-e", "trace=fdatasync", "-e", hang, "-o", "/dev/null"]);
    let begun = std::time::Instant::now();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::hello(node.address())).collect();
    let mut sent = Vec::new();
    for (n, client) in clients.drain(..).enumerate() {
        let address = format!("hang{n}@d.test");
        sent.push(std::thread::spawn(move || {
            let mut client = client;
            client.mail("a@s.test", &[&address], &message::direct("hang")).text
        }));
    }
    wait_until(PATIENCE, "the hang is shown", || {
        node.ok(&["queue"]).contains("the disk has not answered for")
    });
    for sent in sent {
        let reply = sent.join().unwrap();
        assert!(reply.starts_with("451 4.3.0"), "{reply}");
    }
    assert!(begun.elapsed() < Duration::from_secs(35), "it took {:?}", begun.elapsed());
    drop(tracer);
    let again = message::direct("again");
    wait_until(Duration::from_secs(60), "mail is taken again", || {
        Client::hello(node.address()).mail("a@s.test", &["again@d.test"], &again).code == 250
    });
    bench.sink.wait_for("again");
    assert!(node.log().contains("store.slow"));
}

/// A file system of its own, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        assert!(tool::is_root(), "this test mounts a tmpfs: run it as root, as tests/run does");
        let dir = tempfile::TempDir::with_prefix("bulkhead-disk-").unwrap();
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        tool::run(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()), b"");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_new_mail_until_deliveries_have_made_room() {
    let bench = Bench::new();
    let disk = SmallDisk::new("64m");
    let mut node = bench
        .setup()
        .set("store", "free_space_min", "\"16 MiB\"")
        .data_dir(&disk.0.path().join("data"))
        .start();
    let body = "0123456789abcdef\r\n".repeat(56_000);
    // Twice: the second time the space is that of the first one's mail, in a file that did not
    // shrink.
    for round in 0..2 {
        node.ok(&["queue", "hold", "--all"]);
        let mut client = Client::hello(node.address());
        let mut accepted = Vec::new();
        let full = loop {
            let id = format!("full{round}-{}", accepted.len());
            let recipient = format!("{id}@d.test");
            let sent = message::message(&id, "", &body);
            // Refused at MAIL where the one before it took the last of the room, else at its end.
            let reply = client.try_mail("a@s.test", &[&recipient], &sent).expect("a reply");
            if reply.code != 250 {
                break reply;
            }
            accepted.push(id);
            assert!(accepted.len() < 100, "the disk does not fill");
        };
        assert!(full.text.starts_with("452 4.3.1"), "{}", full.text);
        // And before it is sent, of who says how long it is.
        let size = format!("MAIL FROM:<a@s.test> SIZE={}", body.len());
        let reply = Client::hello(node.address()).command(&size, 452);
        assert!(reply.text.starts_with("452 4.3.1"), "{}", reply.text);
        assert!(accepted.len() >= 5, "full after {} messages", accepted.len());
        node.ok(&["queue", "release", "--all"]);
        node.wait_until_empty();
        for id in &accepted {
            assert_eq!(bench.sink.with_id(id).len(), 1, "{id}");
        }
        // It opens by itself.
        wait_until(Duration::from_secs(5), "mail is taken again", || {
            let sent = message::message("again", "", &body);
            let mut client = Client::hello(node.address());
            client.try_mail("a@s.test", &["again@d.test"], &sent).expect("a reply").code == 250
        });
        node.wait_until_empty();
    }
    node.terminate();
    node.ok(&["queue", "check"]);
}

#[test]
fn signals_that_mean_something_to_other_daemons_change_nothing() {
    let bench = Bench::new();
    let mut node = bench.setup().start();
    for signal in ["USR1", "USR2", "STOP", "CONT"] {
        node.signal(signal);
    }
    wait_until(PATIENCE, "all are told of", || {
        node.log().matches("node.signal_ignored").count() == 2
    });
    let sent = message::direct("signals");
    assert_eq!(Client::hello(node.address()).mail("a@s.test", &["r@d.test"], &sent).code, 250);
    bench.sink.wait_for("signals");
    node.terminate();
}

#[test]
fn a_stop_loses_and_repeats_nothing_and_a_start_goes_on() {
    let bench = Bench::new();
    let mut node = bench.setup().start();
    let mut client = Client::hello(node.address());
    for n in 0..200 {
        let sent = message::newsletter(&format!("stop{n}"));
        assert_eq!(client.mail("a@s.test", &[&format!("r{n}@d.test")], &sent).code, 250);
        if n % 67 == 66 {
            node.terminate();
            node.start();
            client = Client::hello(node.address());
        }
    }
    node.wait_until_empty();
    bench.sink.wait_for_count(200);
    for n in 0..200 {
        assert_eq!(bench.sink.with_id(&format!("stop{n}")).len(), 1, "stop{n}");
    }
    assert!(node.log().contains("clean=true") && !node.log().contains("clean=false"));
}
