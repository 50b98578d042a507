//! The product in a minute: `cargo run --release --example demo`.
//!
//! A node, a name server with 120 domains and receivers 20 ms away, all on loopback. A newsletter
//! to 20,000 recipients goes in, is released, and drains, while direct mail to the same receivers
//! goes past it. A few lines show it live; a summary ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a demonstration stops at trouble")]
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Client, Dns, Host, Node, Setup, Sink, message};

const NEWSLETTERS: usize = 20_000;
const CLIENTS: usize = 10;
const DOMAINS: usize = 120;
const ROUND_TRIP: Duration = Duration::from_millis(20);
const CONNECTIONS: usize = 20;
const DIRECT_EVERY: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(120);

fn main() {
    build_node();
    let world = World::new();
    let node = world.start_node();
    node.ok(&["queue", "hold", "--all"]);
    let took = feed(node.address());
    let rate = NEWSLETTERS as f64 / took.as_secs_f64();
    println!(
        "\nAccepted {NEWSLETTERS} newsletters in {took:.1?}: {rate:.0}/s, on disk before the 250."
    );
    println!("Now released. Direct mail to the same receivers is sent all the while.\n");

    let direct = Direct::default();
    let sender = direct.start(node.address());
    node.ok(&["queue", "release", "--all"]);
    let begin = Instant::now();
    let mut screen = Screen::default();
    while world.newsletters() < NEWSLETTERS && begin.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_millis(250));
        screen.draw(&world.view(&node, &direct, begin.elapsed()));
    }
    let drained = begin.elapsed();
    direct.stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    screen.draw(&world.view(&node, &direct, drained));
    world.summary(&direct, drained);
}

/// Builds the node in the profile of this example; at once done where it is fresh.
fn build_node() {
    let mut cargo = Command::new("cargo");
    // With this example, or else it would be built with other features, and so once more.
    cargo.args(["build", "--quiet", "--bin", "bulkhead", "--example", "demo"]);
    cargo.current_dir(support::project());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    println!("Building the node (the first time takes some minutes) …");
    let built = cargo.status().is_ok_and(|status| status.success());
    assert!(built && support::binary().exists(), "could not build the node: {cargo:?}");
}

/// Name server and receivers.
struct World {
    dns: Dns,
    sink: Sink,
    hosts: Vec<Arc<Host>>,
}

impl World {
    /// Half of the domains share three hosts, a fifth have an MX name of their own on two other
    /// addresses, the rest have a host each.
    fn new() -> Self {
        let (dns, sink) = (Dns::new(), Sink::new().without_bodies());
        let mut addresses = vec![];
        let big = [(5, "mx1.big.test"), (10, "mx2.big.test"), (10, "mx3.big.test")];
        for (n, (_, name)) in big.iter().enumerate() {
            addresses.push((format!("127.1.0.{}", n + 1), (*name).to_string()));
        }
        for n in 0..DOMAINS {
            let domain = domain(n);
            match n % 10 {
                0..5 => {
                    dns.mx(&domain, &big);
                }
                5 | 6 => {
                    let mx = format!("d{n}-test.mail.look.test");
                    dns.mx(&domain, &[(0, &mx)]).a(&mx, "127.2.0.1").a(&mx, "127.2.0.2");
                }
                _ => {
                    let mx = format!("mx.{domain}");
                    dns.mx(&domain, &[(10, &mx)]);
                    addresses.push((format!("127.3.0.{}", n + 1), mx));
                }
            }
        }
        for (address, name) in &addresses {
            dns.a(name, address);
        }
        let own = addresses.iter().map(|(address, _)| address.as_str());
        let start = |address: &str| {
            let host = sink.host(address);
            host.round_trip(ROUND_TRIP);
            host
        };
        let hosts = own.chain(["127.2.0.1", "127.2.0.2"]).map(start).collect();
        Self { dns, sink, hosts }
    }

    fn start_node(&self) -> Node {
        Setup::with(&self.dns, &self.sink)
            .set("limits", "sessions_per_address", "100")
            .set("sites.default", "connections", &CONNECTIONS.to_string())
            .set("sites.default", "deliveries_per_connection", "100")
            .set("log", "level", "\"info\"")
            .start()
    }

    fn newsletters(&self) -> usize {
        let direct =
            self.sink.scan(|all| all.iter().filter(|d| is_direct(d.id.as_deref())).count());
        self.sink.count() - direct
    }

    fn sessions(&self) -> (u64, u64) {
        let counts = self.hosts.iter().map(|host| host.counts());
        counts.fold((0, 0), |(all, open), c| (all + c.sessions, open + c.open))
    }

    /// The lines on the screen.
    fn view(&self, node: &Node, direct: &Direct, since: Duration) -> Vec<String> {
        let queue = node.queue_json();
        let mut sites = queue["sites"].as_array().cloned().unwrap_or_default();
        let number = |site: &serde_json::Value, key: &str| site[key].as_u64().unwrap_or(0);
        let queued = |s: &serde_json::Value| {
            number(s, "ready") + number(s, "leased") + number(s, "deferred")
        };
        sites.sort_by_key(|site| std::cmp::Reverse(queued(site)));
        let mut lines = vec![format!(
            "{:<34}{:>9}{:>9}{:>7}{:>10}",
            "SITE", "QUEUED", "LEASED", "CONN", "/MIN"
        )];
        for site in sites.iter().take(6) {
            lines.push(format!(
                "{:<34}{:>9}{:>9}{:>7}{:>10}",
                site["site"].as_str().unwrap_or("?"),
                queued(site),
                number(site, "leased"),
                number(site, "connections"),
                number(site, "rate_per_minute"),
            ));
        }
        lines.resize(7, String::new());
        let done = self.newsletters();
        let rate = done as f64 / since.as_secs_f64().max(0.001);
        let (sessions, open) = self.sessions();
        let bar = "█".repeat(done * 40 / NEWSLETTERS) + &"░".repeat(40 - done * 40 / NEWSLETTERS);
        lines.push(String::new());
        lines.push(format!("newsletter  {bar} {done:>6}/{NEWSLETTERS}  {rate:.0}/s"));
        let latency = direct.latency(&self.sink);
        lines.push(format!(
            "direct mail {:>4} arrived, p50 {}, p99 {} from its 250",
            latency.len(),
            quantile(&latency, 0.50),
            quantile(&latency, 0.99)
        ));
        lines.push(format!(
            "sessions    {open:>4} open, {sessions} in all, {:.1} s",
            since.as_secs_f64()
        ));
        lines
    }

    fn summary(&self, direct: &Direct, drained: Duration) {
        let done = self.newsletters();
        let (sessions, _) = self.sessions();
        let latency = direct.latency(&self.sink);
        println!(
            "\n{done} newsletters to {DOMAINS} domains in {:.1} s: {:.0}/s",
            drained.as_secs_f64(),
            done as f64 / drained.as_secs_f64()
        );
        println!(
            "over {sessions} sessions: {:.0} mails on each",
            done as f64 / sessions.max(1) as f64
        );
        println!(
            "{} direct mails meanwhile: half of them at the receiver within {}, 99 % within {}",
            latency.len(),
            quantile(&latency, 0.50),
            quantile(&latency, 0.99)
        );
        println!(
            "(Each batch of replies of a receiver takes {ROUND_TRIP:?}. The last to end is the \
             largest receiver: it allows {CONNECTIONS} connections.)"
        );
    }
}

fn domain(n: usize) -> String {
    format!("d{n}.test")
}

/// Few domains have most recipients, as in life.
fn recipient(n: usize) -> String {
    let spread = (n.wrapping_mul(2_654_435_761) % 10_000) as f64 / 10_000.0;
    let rank = ((DOMAINS as f64).powf(spread) - 1.0) as usize;
    format!("reader{n}@{}", domain(rank.min(DOMAINS - 1)))
}

fn is_direct(id: Option<&str>) -> bool {
    id.is_some_and(|id| id.starts_with("direct"))
}

/// Hands the newsletter in, one message a recipient as newsletter tools do.
fn feed(address: SocketAddr) -> Duration {
    let begin = Instant::now();
    let feeder = |part: usize| {
        let mut client = Client::hello(address);
        for n in (part..NEWSLETTERS).step_by(CLIENTS) {
            let body = message::message(
                &format!("n{n}"),
                "X-Newsletter: spring\r\n",
                &"News!\r\n".repeat(300),
            );
            let start =
                format!("MAIL FROM:<news@sender.test>\r\nRCPT TO:<{}>\r\nDATA\r\n", recipient(n));
            client.send(start.as_bytes());
            for code in [250, 250, 354] {
                client.expect(code);
            }
            client.send(&message::stuffed(&body));
            client.expect(250);
        }
    };
    std::thread::scope(|scope| {
        for part in 0..CLIENTS {
            scope.spawn(move || feeder(part));
        }
    });
    begin.elapsed()
}

/// Direct mail, sent steadily, and when each got its 250.
#[derive(Default)]
struct Direct {
    sent: Arc<Mutex<HashMap<String, Instant>>>,
    stop: Arc<AtomicBool>,
}

impl Direct {
    fn start(&self, address: SocketAddr) -> std::thread::JoinHandle<()> {
        let (sent, stop) = (self.sent.clone(), self.stop.clone());
        std::thread::spawn(move || {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let id = format!("direct{n}");
                let reply = Client::hello(address).mail(
                    "shop@sender.test",
                    &[&recipient(n * 7)],
                    &message::direct(&id),
                );
                assert_eq!(reply.code, 250, "{}", reply.text);
                sent.lock().unwrap().insert(id, Instant::now());
                std::thread::sleep(DIRECT_EVERY);
            }
        })
    }

    /// From 250 to arrival, sorted. Arrivals may come before the client has read its 250.
    fn latency(&self, sink: &Sink) -> Vec<Duration> {
        let sent = self.sent.lock().unwrap();
        let mut all: Vec<Duration> = sink.scan(|delivered| {
            let direct = delivered.iter().filter(|d| is_direct(d.id.as_deref()));
            let known = direct.filter_map(|d| Some((d.at, *sent.get(d.id.as_ref()?)?)));
            known.map(|(at, ok)| at.saturating_duration_since(ok)).collect()
        });
        all.sort();
        all
    }
}

fn quantile(sorted: &[Duration], share: f64) -> String {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or("–".to_string(), |time| format!("{} ms", time.as_millis()))
}

/// Draws over itself on a terminal; elsewhere one line now and then.
#[derive(Default)]
struct Screen {
    height: usize,
    drawn: u64,
}

impl Screen {
    fn draw(&mut self, lines: &[String]) {
        let mut out = std::io::stdout().lock();
        if !out.is_terminal() {
            if self.drawn.is_multiple_of(8) {
                let _ = writeln!(out, "{}", lines[lines.len() - 3..].join("; "));
            }
            self.drawn += 1;
            return;
        }
        if self.height > 0 {
            let _ = write!(out, "\x1b[{}A", self.height);
        }
        for line in lines {
            let _ = writeln!(out, "\x1b[2K{line}");
        }
        let _ = out.flush();
        self.height = lines.len();
    }
}
