//! The harness of the black-box tests: a node, a name server, receivers and clients, all on
//! loopback.
//!
//! * [`Node`] runs the real binary on free ports with a data directory of its own.
//! * [`Dns`] answers for the domains of a test, and can be made to fail.
//! * [`Sink`] is every receiving host of a test: one port, many loopback addresses, scripted
//!   behaviour.
//! * [`Client`] speaks raw SMTP, byte by byte where a test needs it.
//! * [`Web`] is a web server whose programs call `bulkhead sendmail`.
//! * [`Ledger`] keeps the books on mail that must survive: offered, answered 250, arrived.
//! * [`message`] makes messages with unique ids and compares bytes; [`tool`] finds real programs.
//!
//! Tests run in parallel, each in a process of its own or in a thread: nothing here is shared
//! between two of them. Conditions are waited for ([`wait_until`]); nothing sleeps for luck. What a
//! test starts ends with it, by its process id.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time on a real machine")]

mod client;
mod dns;
mod ledger;
pub mod message;
mod node;
mod sink;
mod sink_session;
pub mod tool;
mod web;

pub use client::{Client, Reply};
pub use dns::{Answering, Dns};
pub use ledger::{Audit, Ledger};
pub use node::{Node, Setup, Totals, binary};
pub use sink::{Act, Counts, Delivered, Host, Rule, Sink, Stage};
pub use web::Web;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Long enough for a loaded two-core machine, short enough to fail a test in time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Name server and receiver of most tests: the latter takes everything for `d.test`.
pub fn receiver() -> (Dns, Sink) {
    let (dns, sink) = (Dns::new(), Sink::new());
    dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
    sink.host("127.0.0.2");
    (dns, sink)
}

/// The runtime that the in-process servers of this test process share.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    })
}

/// Waits until `condition` holds; panics with `what` and the place of the call after `patience`.
#[track_caller]
pub fn wait_until(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < end, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True as long as `condition` stays true for all of `span`; for what must *not* happen.
pub fn stays(span: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if !condition() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    condition()
}

/// A port of 127.0.0.1 that nothing listens on, outside the range of outgoing connections.
///
/// Another process may take it before the caller does: callers that can, try again.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let seed = std::process::id().wrapping_mul(2_654_435_761).wrapping_add(turn * 7919);
        let port = u16::try_from(12_000 + seed % 20_000).unwrap();
        if TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
            return port;
        }
    }
}

/// The folder of Cargo.toml.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of shared test data beside the project, or `None` with a printed note where it is
/// absent.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = project().parent()?.join("shared").join(name);
    if path.is_dir() {
        return Some(path);
    }
    println!("note: passed over, no folder {}", path.display());
    None
}
