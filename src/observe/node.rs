//! A node's own life: started, draining, drained.

use crate::config::Config;
use std::path::Path;
use std::time::Duration;
use tracing::{info, warn};

/// `node.started`
pub fn started(config: &Config) {
    let listen = config.listen.iter().map(|l| l.address.to_string());
    let http = config.http.listen.map(|address| format!("http://{address}"));
    let listen: Vec<String> = listen.chain(http).collect();
    info!(
        target: "bulkhead",
        message = "node.started",
        version = env!("CARGO_PKG_VERSION"),
        hostname = %config.hostname,
        listen = listen.join(" "),
        data_dir = %config.data_dir.display(),
    );
}

/// `node.draining`: it was told to stop.
pub fn draining(limit: Duration) {
    info!(target: "bulkhead", message = "node.draining", limit_s = limit.as_secs());
}

/// `node.drained`: it stops now. Not clean: transactions under way were cut off; what became of
/// them is not known.
pub fn drained(took: Duration, clean: bool) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if clean {
        info!(target: "bulkhead", message = "node.drained", took_ms, clean);
    } else {
        warn!(target: "bulkhead", message = "node.drained", took_ms, clean);
    }
}

/// `control.requested`: an operator asks for a change, in the words of the control socket.
pub fn requested(request: &str) {
    info!(target: "bulkhead", message = "control.requested", request);
}

/// `listener.failed`: a connection could not be accepted.
pub fn accept_failed(listener: &str, error: &std::io::Error) {
    warn!(target: "bulkhead", message = "listener.failed", listener, error = %error);
}

/// `node.signal_ignored`: nothing is done on this signal.
pub fn signal_ignored(signal: &str) {
    info!(target: "bulkhead", message = "node.signal_ignored", signal);
}

/// `node.reloaded`: a changed configuration file holds.
pub fn reloaded(file: &Path, by: &str) {
    info!(target: "bulkhead", message = "node.reloaded", file = %file.display(), by);
}

/// `node.not_reloaded`: the file is not in order, or takes a restart; what was holds on.
pub fn not_reloaded(file: &Path, by: &str, why: &str) {
    warn!(target: "bulkhead", message = "node.not_reloaded", file = %file.display(), by, why);
}

/// `node.few_files`: with all sessions and connections that the configuration allows, file
/// descriptors would run out.
pub fn few_files(have: u64, want: usize) {
    warn!(target: "bulkhead", message = "node.few_files", have, want);
}

/// `store.memory`: nothing survives a restart.
pub fn memory_engine() {
    warn!(
        target: "bulkhead",
        message = "store.memory",
        note = "the queue is in memory alone: what was accepted is lost when this process ends",
    );
}

/// `learned.unreadable`: what an earlier run learned of sites is not known; the file is kept, where
/// that could be done.
pub fn unreadable(file: &Path, error: &str, kept_as: Option<&Path>) {
    let kept_as = kept_as.map_or_else(String::new, |path| path.display().to_string());
    let file = file.display();
    warn!(target: "bulkhead", message = "learned.unreadable", %file, error, kept_as);
}

/// `learned.not_kept`: what was learned of sites could not be written; it is tried again.
pub fn not_kept(file: &Path, error: &std::io::Error) {
    let file = file.display();
    warn!(target: "bulkhead", message = "learned.not_kept", %file, %error);
}
