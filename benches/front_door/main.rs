//! What the front door bears: many clients, slow ones, floods, and those who mean no good.
//!
//! `cargo bench --bench front_door [-- CASE …]`, cases: `crowd`, `slow`, `flood`, `hostile`,
//! `full`, `sessions`; all of them where none is named. Each starts the release binary on loopback
//! with a configuration of its own. Mail is newsletters that gather for an hour, so that only what
//! comes in is measured. Honest clients come from a thread of their own; those who press have
//! threads of a lesser priority (nice), since on the same machine they would take the processor,
//! too, that a flood from elsewhere does not have. Figures with a bar to pass end the program where
//! they do not.
//!
//! `sessions` has Postfix beside it (`postfix`, `postconf`; run as root), in folders of its own.
// A measurement: it reads the clock and gives up loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
#![allow(clippy::cast_precision_loss)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod client;
mod hostile;
mod postfix;
mod press;
mod sessions;

use client::{Took, Way};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use support::{Dns, Node, Setup};
use tokio::runtime::Runtime;

/// Honest clients, and the pause of each between two sessions.
const HONEST: u8 = 50;
const PAUSE: Duration = Duration::from_millis(100);

fn main() {
    let cases: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let all: [(&str, fn()); 6] = [
        ("crowd", press::crowd),
        ("slow", press::slow),
        ("flood", press::flood),
        ("hostile", hostile::hostile),
        ("full", press::full),
        ("sessions", sessions::sessions),
    ];
    for (name, case) in all {
        if cases.is_empty() || cases.iter().any(|wanted| wanted == name) {
            println!("\n# {name}");
            case();
        }
    }
}

/// A node, and the name server that it asks.
struct House {
    node: Node,
    _dns: Dns,
}

impl House {
    /// Clients in 127/9 may send.
    fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        let dns = Dns::new();
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        let setup = Setup::new()
            .dns(dns.address())
            .set("relay", "networks", "[\"127.0.0.0/9\"]")
            .set("lanes.bulk", "gather", "\"1h\"")
            .set("log", "level", "\"info\"");
        Self { node: change(setup).start(), _dns: dns }
    }

    fn way(&self) -> Way {
        Way::clear(self.node.address())
    }

    /// Resident memory now, in KiB.
    fn rss(&self) -> u64 {
        rss(self.node.pid())
    }
}

fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A newsletter of 2 KiB, as DATA wants it.
fn newsletter() -> Vec<u8> {
    let body = "All that is new, in a line of some seventy characters, once again.\r\n".repeat(25);
    let text = support::message::message("front-door", "X-Newsletter: yes\r\n", &body);
    support::message::stuffed(&text)
}

/// The threads that press.
fn pressing() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(|| _ = rustix::process::nice(10))
        .enable_all()
        .build()
        .unwrap()
}

/// Sessions of honest clients, and how long they took.
#[derive(Default)]
struct Served {
    banner: Vec<Duration>,
    whole: Vec<Duration>,
    failed: Vec<String>,
}

impl Served {
    fn add(&mut self, result: std::io::Result<Took>) {
        match result {
            Ok(took) => {
                self.banner.push(took.banner);
                self.whole.push(took.whole);
            }
            Err(error) => self.failed.push(error.to_string()),
        }
    }

    fn sort(mut self) -> Self {
        self.banner.sort();
        self.whole.sort();
        self
    }

    fn say(&self, name: &str) {
        println!(
            "{name:44} {:6} served, {} not; whole p50 {:7.2} p99 {:7.2} max {:7.2} ms; \
             banner p99 {:7.2} max {:7.2} ms",
            self.whole.len(),
            self.failed.len(),
            ms(part(&self.whole, 0.5)),
            ms(part(&self.whole, 0.99)),
            ms(part(&self.whole, 1.0)),
            ms(part(&self.banner, 0.99)),
            ms(part(&self.banner, 1.0)),
        );
        if let Some(failed) = self.failed.first() {
            println!("    such as: {failed}");
        }
    }
}

/// The honest clients for a while: each has a session for each message, and pauses.
fn honest(way: &Way, span: Duration) -> Served {
    let (end, message) = (Instant::now() + span, newsletter());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients: Vec<_> = (0..HONEST)
        .map(|n| {
            let (way, message) = (way.clone(), message.clone());
            runtime.spawn(async move {
                let mut served = Served::default();
                tokio::time::sleep(PAUSE * u32::from(n) / u32::from(HONEST)).await;
                while Instant::now() < end {
                    served.add(way.send(Ipv4Addr::new(127, 3, 0, n), &message).await);
                    tokio::time::sleep(PAUSE).await;
                }
                served
            })
        })
        .collect();
    let mut all = Served::default();
    for client in clients {
        let served = runtime.block_on(client).unwrap();
        all.banner.extend(served.banner);
        all.whole.extend(served.whole);
        all.failed.extend(served.failed);
    }
    all.sort()
}

/// The honest ones under pressure beside those without; gives how often the p99 became longer.
fn beside(name: &str, unloaded: &Served, loaded: &Served) -> f64 {
    loaded.say(name);
    let ratio =
        |at| part(&loaded.whole, at).as_secs_f64() / part(&unloaded.whole, at).as_secs_f64();
    println!("    by unloaded: p50 {:.2}, p99 {:.2}", ratio(0.5), ratio(0.99));
    ratio(0.99)
}

fn part(sorted: &[Duration], at: f64) -> Duration {
    let last = sorted.len().saturating_sub(1) as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    sorted.get((last * at).round() as usize).copied().unwrap_or(Duration::MAX)
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

/// The n-th address of a group of loopback addresses.
fn address(group: u8, n: usize) -> Ipv4Addr {
    let n = u16::try_from(n).unwrap().to_be_bytes();
    Ipv4Addr::new(127, group, n[0], n[1])
}

/// Keeps watch over the most memory that a process has.
struct Watch(std::sync::Arc<std::sync::atomic::AtomicU64>, u32);

impl Watch {
    fn over(house: &House) -> Self {
        let most = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (weak, pid) = (std::sync::Arc::downgrade(&most), house.node.pid());
        std::thread::spawn(move || {
            while let Some(most) = weak.upgrade() {
                most.fetch_max(rss(pid), std::sync::atomic::Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self(most, pid)
    }

    /// In KiB.
    fn most(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed).max(rss(self.1))
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}

/// Runs a job in a thread of lesser priority.
fn gently<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        _ = rustix::process::nice(10);
        job()
    })
}

/// Where a node listens, for those who need nothing else of it.
fn at(house: &House) -> SocketAddr {
    house.node.address()
}
