//! A web server: settings for `bulkhead sendmail`, a spool of its own, and calls as programs make
//! them.

use super::binary;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Its files go with it.
pub struct Web {
    dir: TempDir,
}

impl Web {
    /// Hands its mail to these relays, in this order.
    pub fn new(relays: &[String]) -> Self {
        let dir = TempDir::with_prefix("bulkhead-web-").unwrap();
        // Other users call it, too.
        open(dir.path(), 0o755);
        let web = Self { dir };
        std::fs::create_dir(web.spool()).unwrap();
        open(&web.spool(), 0o1777);
        web.configure(relays, "");
        web
    }

    /// Changes its relays and says more in its settings.
    pub fn configure(&self, relays: &[String], more: &str) {
        let text = format!(
            "relays = {relays:?}\nhostname = \"web1.test\"\nspool = {:?}\n{more}\n",
            self.spool()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// A folder for the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The settings.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("sendmail.toml")
    }

    /// The folder of folders.
    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// Every file of the spool, hidden ones too, as `USER/NAME`.
    pub fn spooled(&self) -> Vec<String> {
        let names = |path: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(path).unwrap();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut found = Vec::new();
        for user in names(&self.spool()) {
            let files = names(&self.spool().join(&user));
            found.extend(files.into_iter().map(|name| format!("{user}/{name}")));
        }
        found.sort();
        found
    }

    /// `bulkhead --config FILE sendmail ARGUMENTS…`
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--config").arg(self.config()).arg("sendmail").args(arguments);
        command
    }

    /// The same as a line for a shell.
    pub fn line(&self, arguments: &str) -> String {
        format!("{} --config {} sendmail {arguments}", binary().display(), self.config().display())
    }

    /// Calls it with a message.
    pub fn call(&self, arguments: &[&str], input: &[u8]) -> Output {
        feed(&mut self.command(arguments), input)
    }

    /// Calls it, and it must succeed and be silent.
    #[track_caller]
    pub fn sends(&self, arguments: &[&str], input: &[u8]) {
        let output = self.call(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{arguments:?}: {}: {said}",
            output.status
        );
    }

    /// Calls it; its exit code and what it said on standard error.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], input: &[u8]) -> (i32, String) {
        let output = self.call(arguments, input);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

/// Runs a command with this on its standard input, which it need not read.
pub(super) fn feed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
