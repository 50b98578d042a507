//! Dialogues with the SMTP server, one file of `tests/dialogues` for each rule, played to the real
//! binary. They are to be read, too: together they say how the server behaves, and by which RFC.
//!
//! Each file has a node, a name server and a receiver of its own. After its last line a good
//! message is sent, and when that has arrived and the queue is empty, nothing may have been
//! delivered but what the file names. `BULKHEAD_DIALOGUE=bdat` plays only files with that name.
//! `dialogues/format.rs` says how a file is written.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a name in the environment picks files")]

#[path = "dialogues/format.rs"]
mod format;
mod support;

use format::{Act, Delivery, Dialogue, Step};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use support::{Client, Delivered, Dns, Node, Reply, Setup, Sink, binary, free_port, message, tool};

/// Files played at once: they wait more than they work.
const AT_ONCE: usize = 4;
/// The address that may relay, and one that may not.
const FRIEND: Ipv4Addr = Ipv4Addr::LOCALHOST;
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Domains with a receiver: in ASCII; as DNS has `münchen.test`.
const DOMAINS: [&str; 2] = ["d.test", "xn--mnchen-3ya.test"];
/// The receiver's address.
const RECEIVER: &str = "127.0.0.2";
/// Who gets the good message.
const GOOD: &str = "good@d.test";

#[test]
fn all_dialogues_go_as_written() {
    let files = Mutex::new(files());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(file) = next(&files) {
                    if let Err((line, what)) =
                        quietly(|| play(&file)).unwrap_or_else(|p| Err((0, p)))
                    {
                        let name = file.file_name().unwrap_or_default().display();
                        failures.lock().unwrap().push(format!("{name}:{line}: {what}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

fn files() -> Vec<PathBuf> {
    let wanted = std::env::var("BULKHEAD_DIALOGUE").unwrap_or_default();
    let folder = support::project().join("tests/dialogues");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_wanted = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        path.extension().is_some_and(|e| e == "txt") && stem.contains(&wanted)
    };
    let files: Vec<PathBuf> = paths.filter(is_wanted).collect();
    assert!(!files.is_empty(), "no dialogue is named {wanted:?}");
    files
}

fn next(files: &Mutex<Vec<PathBuf>>) -> Option<PathBuf> {
    files.lock().unwrap().pop()
}

/// Gives the words of a panic instead of one.
fn quietly<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// The stage of one file.
struct Stage {
    node: Node,
    /// Where IPv4 clients come as IPv6.
    dual: SocketAddr,
    sink: Sink,
    _dns: Dns,
}

fn play(file: &Path) -> Result<(), (usize, String)> {
    let dialogue = format::parse(&std::fs::read_to_string(file).unwrap())?;
    let stage = Stage::set(&dialogue);
    let mut client = None;
    for step in &dialogue.steps {
        let unheard = |panic| format!("expected {:?}, got {panic}", step.act);
        quietly(|| stage.step(&step.act, &mut client))
            .map_err(unheard)
            .and_then(|done| done)
            .map_err(|what| (step.line, what + &step.words))?;
    }
    drop(client);
    stage.all_is_delivered(&dialogue.delivered)
}

impl Stage {
    fn set(dialogue: &Dialogue) -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        sink.host(RECEIVER);
        for domain in DOMAINS {
            let host = format!("mx.{domain}");
            dns.mx(domain, &[(10, &host)]).a(&host, RECEIVER);
        }
        let dual = SocketAddr::from((Ipv6Addr::UNSPECIFIED, free_port()));
        let networks = format!("[\"{FRIEND}/32\"]");
        let mut setup = Setup::with(&dns, &sink).set("relay", "networks", &networks);
        let is_dual = |step: &Step| matches!(step.act, Act::Connect { mapped: true, .. });
        if dialogue.steps.iter().any(is_dual) {
            setup = setup.raw(&format!("[[listen]]\naddress = \"{dual}\""));
        }
        let setup = dialogue
            .config
            .iter()
            .fold(setup, |setup, (section, key, value)| setup.set(section, key, value));
        let dual = SocketAddr::from((FRIEND, dual.port()));
        let mut node = setup.raw(&dialogue.tenants).prepare();
        for (name, password) in &dialogue.users {
            let mut add = Command::new(binary());
            add.args(["user", "add", name, "--config"]).arg(node.config());
            tool::run(&mut add, format!("{password}\n").as_bytes());
        }
        node.start();
        Self { node, dual, sink, _dns: dns }
    }

    fn step(&self, act: &Act, client: &mut Option<Client>) -> Result<(), String> {
        if let Act::Connect { stranger, mapped } = act {
            let source = if *stranger { STRANGER } else { FRIEND };
            let address = if *mapped { self.dual } else { self.node.address() };
            *client = Some(Client::connect_from(source, address));
            return Ok(());
        }
        let client = client.as_mut().ok_or("nobody is connected")?;
        match act {
            Act::Say(bytes) => {
                // Where the server has closed meanwhile, the next step tells.
                client.send_quietly(bytes);
                Ok(())
            }
            Act::Hear(lines) => heard(client.try_reply(), lines),
            Act::Close if client.is_closed() => Ok(()),
            Act::Close => Err(format!("expected the close, got {}", shown(client.try_reply()))),
            Act::Connect { .. } => Ok(()),
        }
    }

    /// Nothing more and nothing less.
    fn all_is_delivered(&self, expected: &[Delivery]) -> Result<(), (usize, String)> {
        let mut client = Client::hello(self.node.address());
        let answer = client.mail("a@s.test", &[GOOD], &message::direct("good"));
        assert_eq!(answer.code, 250, "a good message at the end: {}", answer.text);
        self.sink.wait_for("good");
        self.node.wait_until_empty();
        let mut got = self.sink.take();
        got.retain(|delivered| delivered.recipients != [GOOD]);
        for delivery in expected {
            let at = got.iter().position(|got| arrived(delivery, got));
            let seen = || format!("expected {delivery:?}, got {}", summary(&got));
            got.remove(at.ok_or_else(|| (delivery.line, seen()))?);
        }
        let more = || (0, format!("delivered, though no line says so: {}", summary(&got)));
        if got.is_empty() { Ok(()) } else { Err(more()) }
    }
}

/// Each line but the last one is somewhere in the reply, and the last one is its last.
fn heard(reply: Option<Reply>, lines: &[String]) -> Result<(), String> {
    let got: Vec<&str> = reply.iter().flat_map(|reply| reply.text.split("\r\n")).collect();
    let begins = |got: &str, line: &str| {
        let rest = got.strip_prefix(line);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let (last, before) = lines.split_last().ok_or("no line")?;
    let fits = got.last().is_some_and(|got| begins(got, last))
        && before.iter().all(|line| got.iter().any(|got| begins(got, line)));
    let expected = lines.join("\r\n");
    fits.then_some(()).ok_or_else(|| format!("expected {expected:?}, got {}", shown(reply)))
}

fn shown(reply: Option<Reply>) -> String {
    reply.map_or("the close".to_string(), |reply| format!("{:?}", reply.text))
}

fn arrived(expected: &Delivery, got: &Delivered) -> bool {
    let holds = |(bytes, wanted): &(Vec<u8>, bool)| {
        memchr::memmem::find(&got.body, bytes).is_some() == *wanted
    };
    got.sender == expected.sender
        && got.recipients == expected.recipients
        && expected.contents.iter().all(holds)
}

fn summary(got: &[Delivered]) -> String {
    let one = |got: &Delivered| {
        let body = got.body.escape_ascii();
        format!("\n  {} > {}: {body}", got.sender, got.recipients.join(", "))
    };
    if got.is_empty() { "nothing".to_string() } else { got.iter().map(one).collect() }
}
