//! Real programs as clients and receivers. One that is missing fails the test and says what
//! installs it.

use super::{PATIENCE, project, wait_until};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What to say where a tool is missing.
const REMEDY: &str = "run `bash tests/run`, which installs the test tools";

/// The path of a program.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
    let script = format!("PATH=$PATH:{} command -v {name}", places.join(":"));
    let found = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(found.status.success(), "{name} is missing: {REMEDY}");
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim())
}

/// A Python that has this module.
#[track_caller]
pub fn python(module: &str) -> PathBuf {
    let own = project().join("tests/.tools/venv/bin/python3");
    let has = |python: &Path| {
        let import = format!("import {module}");
        let tried = Command::new(python).args(["-c", &import]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    [own, "python3".into(), "/usr/bin/python3".into()]
        .into_iter()
        .find(|python| has(python))
        .unwrap_or_else(|| panic!("no Python with {module}: {REMEDY}"))
}

/// The folder of npm packages for test clients.
#[track_caller]
pub fn node_modules() -> PathBuf {
    let path = project().join("tests/.tools/node_modules");
    assert!(path.join("nodemailer").is_dir(), "nodemailer is missing: {REMEDY}");
    path
}

/// True where the tests run as root.
pub fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

/// A file of `tests/clients`.
pub fn script(name: &str) -> PathBuf {
    project().join("tests/clients").join(name)
}

/// Runs a command to its end with `input`; panics with its output unless it succeeds.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; {REMEDY}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // In a thread of its own: a program may write before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success() && written.is_ok(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A real server program; ends with the test.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts it and waits until it listens on `address`.
    #[track_caller]
    pub fn start(command: &mut Command, address: SocketAddr) -> Self {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; {REMEDY}"));
        let mut server = Self { child };
        wait_until(PATIENCE, &format!("{command:?} listens on {address}"), || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            TcpStream::connect(address).is_ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
