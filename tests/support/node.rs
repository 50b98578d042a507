//! The real binary, with a configuration and a data directory of its own.

use super::{Dns, PATIENCE, Sink, free_port, wait_until};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How a node is to be started: a configuration to which tests add keys.
pub struct Setup {
    /// Section → key → value as TOML text; sections of the same kind (`[[tenants]]`) as raw text.
    sections: BTreeMap<String, BTreeMap<String, String>>,
    raw: String,
    wrapper: Vec<String>,
    data_dir: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// Relays for 127/8, delivers to loopback, no gathering, quick retries; no DNS yet.
    pub fn new() -> Self {
        let setup = Self {
            sections: BTreeMap::new(),
            raw: String::new(),
            wrapper: Vec::new(),
            data_dir: None,
        };
        setup
            .set("", "hostname", "\"relay.test\"")
            .set("relay", "networks", "[\"127.0.0.0/8\"]")
            .set("lanes.bulk", "gather", "\"0s\"")
            // Tests send many alike.
            .set("watch", "newsletters", "\"off\"")
            .set("watch", "bursts", "\"off\"")
            .set("delivery", "allow_private", "true")
            .set("store", "free_space_min", "\"1 MiB\"")
            .set("log", "level", "\"info,bulkhead=debug\"")
    }

    /// Asks this name server and delivers to the port of this sink.
    pub fn with(dns: &Dns, sink: &Sink) -> Self {
        Self::new().dns(dns.address()).port(sink.port())
    }

    /// Asks this name server.
    pub fn dns(self, address: SocketAddr) -> Self {
        self.set("dns", "servers", &format!("[\"{address}\"]"))
    }

    /// Delivers to this port.
    pub fn port(self, port: u16) -> Self {
        self.set("delivery", "port", &port.to_string())
    }

    /// Sets one key; `value` is TOML (`"\"2s\""`, `"40"`).
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let section = self.sections.entry(section.to_string()).or_default();
        section.insert(key.to_string(), value.to_string());
        self
    }

    /// Waits of both lanes, all the same, without jitter.
    pub fn retry_every(self, wait: Duration) -> Self {
        let waits = format!("[\"{}s\"]", wait.as_secs().max(1));
        ["retry.direct", "retry.bulk"]
            .into_iter()
            .fold(self, |setup, lane| setup.set(lane, "waits", &waits).set(lane, "jitter", "0.0"))
    }

    /// Appends text to the configuration as it is.
    pub fn raw(mut self, text: &str) -> Self {
        self.raw.push_str(text);
        self.raw.push('\n');
        self
    }

    /// Runs the binary under another program, which must become it (`prlimit …`) or leave it the
    /// direct child (`strace -D …`): signals go to the child.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_string()).collect();
        self
    }

    /// Keeps the queue in a folder that the test made.
    pub fn data_dir(mut self, path: &Path) -> Self {
        self.data_dir = Some(path.to_path_buf());
        self
    }

    /// Starts the node; see [`Node::start`].
    #[track_caller]
    pub fn start(self) -> Node {
        let mut node = self.prepare();
        node.start();
        node
    }

    /// Writes the configuration without starting anything.
    pub fn prepare(self) -> Node {
        let dir = TempDir::with_prefix("bulkhead-test-").unwrap();
        let data_dir = self.data_dir.clone().unwrap_or_else(|| dir.path().join("data"));
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let node = Node { dir, data_dir, address, setup: self, child: None };
        node.write_config();
        node
    }

    fn config(&self, address: SocketAddr, data_dir: &Path) -> String {
        let mut text = String::new();
        let mut section = |name: &str, keys: &BTreeMap<String, String>| {
            if !name.is_empty() {
                let _ = writeln!(text, "\n[{name}]");
            }
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        };
        // The top level comes first: its name, "", is the least.
        for (name, keys) in &self.sections {
            let mut keys = keys.clone();
            if name.is_empty() {
                keys.insert(
                    "data_dir".to_string(),
                    format!("{:?}", data_dir.display().to_string()),
                );
            }
            section(name, &keys);
        }
        let _ = writeln!(text, "\n[[listen]]\naddress = \"{address}\"\n\n{}", self.raw);
        text
    }
}

/// A node. Dropped: killed, its log printed if the test failed, its files removed.
pub struct Node {
    dir: TempDir,
    data_dir: PathBuf,
    address: SocketAddr,
    setup: Setup,
    child: Option<Child>,
}

impl Node {
    /// Where it takes mail.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Where its queue lives.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A folder of the test that goes with the node.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Everything it has written to standard output and error, over all its starts.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Changes one key of the configuration file; counts from the next start.
    pub fn reconfigure(&mut self, section: &str, key: &str, value: &str) {
        let setup = std::mem::take(&mut self.setup);
        self.setup = setup.set(section, key, value);
        self.write_config();
    }

    /// Starts it and waits for the banner. Takes another port where somebody was faster.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        for _ in 0..5 {
            self.spawn();
            if self.answers(PATIENCE) {
                return;
            }
            self.kill();
            if !self.log().to_lowercase().contains("in use") {
                break;
            }
            self.address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            self.write_config();
        }
        panic!("the node did not start:\n{}", self.log());
    }

    /// Runs the binary under another program from the next start on; see [`Setup::under`].
    pub fn rewrap(&mut self, wrapper: &[&str]) {
        let setup = std::mem::take(&mut self.setup);
        self.setup = setup.under(wrapper);
    }

    /// Starts it without waiting for anything.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut words: Vec<OsString> = self.setup.wrapper.iter().map(OsString::from).collect();
        words.extend([binary().into(), "serve".into(), "--config".into()]);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", words[0]));
        self.child = Some(child);
    }

    /// True once a new connection is greeted with 220; false where it ends or takes too long.
    pub fn answers(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if greets(self.address) {
                return true;
            }
            let child = self.child.as_mut().expect("the node was spawned");
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by name (`TERM`, `HUP`, `STOP`).
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    /// SIGTERM; waits for the end and gives back how long it took. Panics where it was not in
    /// order.
    #[track_caller]
    pub fn terminate(&mut self) -> Duration {
        let begin = Instant::now();
        self.signal("TERM");
        let mut child = self.child.take().expect("the node runs");
        wait_until(PATIENCE, "the node ends after SIGTERM", || child.try_wait().unwrap().is_some());
        let status = child.wait().unwrap();
        assert!(status.success(), "ended with {status}:\n{}", self.log());
        begin.elapsed()
    }

    /// SIGTERM and a new start with the same files.
    #[track_caller]
    pub fn restart(&mut self) {
        self.terminate();
        self.start();
    }

    /// Runs `bulkhead WORDS… --config FILE`.
    pub fn cli(&self, words: &[&str]) -> Output {
        Command::new(binary())
            .args(words)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a verb that must succeed; gives its standard output.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.cli(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "bulkhead {words:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Standard output of a verb as JSON.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        let text = self.ok(words);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{words:?} is not JSON ({e}): {text}"))
    }

    /// `bulkhead queue --json`.
    #[track_caller]
    pub fn queue_json(&self) -> serde_json::Value {
        self.json(&["queue", "--json"])
    }

    /// `total.ready`, `total.leased`, `total.deferred`, `total.held` of `bulkhead queue --json`.
    #[track_caller]
    pub fn totals(&self) -> Totals {
        let queue = self.queue_json();
        let count = |key: &str| {
            queue["total"][key].as_u64().unwrap_or_else(|| panic!("no total.{key} in {queue}"))
        };
        Totals {
            ready: count("ready"),
            leased: count("leased"),
            deferred: count("deferred"),
            held: count("held"),
        }
    }

    /// Waits until nothing is queued in any state.
    #[track_caller]
    pub fn wait_until_empty(&self) {
        wait_until(PATIENCE, "the queue is empty", || self.totals() == Totals::default());
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("node.log")
    }

    fn write_config(&self) {
        let text = self.setup.config(self.address, &self.data_dir);
        std::fs::write(self.config(), text).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(200);
            println!("--- the node's last {} log lines", lines.len() - from);
            for line in &lines[from..] {
                println!("{line}");
            }
        }
    }
}

/// Counts of `bulkhead queue --json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Never tried.
    pub ready: u64,
    /// On a connection.
    pub leased: u64,
    /// Tried before.
    pub deferred: u64,
    /// Held.
    pub held: u64,
}

/// The binary under test: the one that cargo built for the tests; for an example, the one beside
/// it.
pub fn binary() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_bulkhead") {
        Some(path) => path.into(),
        None => std::env::current_exe().unwrap().with_file_name("../bulkhead"),
    }
}

/// True where a connection is greeted with 220.
fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) => line.starts_with("220"),
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::InvalidData, "a banner that is not UTF-8");
            false
        }
    }
}
