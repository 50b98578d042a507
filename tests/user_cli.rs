//! `bulkhead user` on the real binary: the file that it writes, and what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use support::{Node, Setup, binary, tool};
use tempfile::TempDir;

/// Makes the verifier of a password from the salt and the iterations of another one, by Python's
/// own PBKDF2 and HMAC.
const BY_PYTHON: &str = r#"
import base64, hashlib, hmac, sys
password, verifier = sys.stdin.read().split("\n")[:2]
_, cost, keys = verifier.split("$")
iterations, salt = cost.split(":")
salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
sign = lambda text: hmac.new(salted, text, "sha256").digest()
text = lambda data: base64.b64encode(data).decode()
stored = text(hashlib.sha256(sign(b"Client Key")).digest())
print(f"SCRAM-SHA-256${cost}${stored}:{text(sign(b'Server Key'))}")
"#;

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let dir = TempDir::with_prefix("bulkhead-test-").unwrap();
        fs::write(dir.path().join("config.toml"), "").unwrap();
        Self(dir)
    }

    fn users(&self) -> PathBuf {
        self.0.path().join("users")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.users()).unwrap()
    }

    /// Runs `bulkhead user …` with this on its standard input.
    fn user(&self, args: &[&str], input: &str) -> Output {
        let config = self.0.path().join("config.toml");
        let mut command = Command::new(binary());
        command.arg("--config").arg(config).arg("user").args(args);
        feed(&mut command, input)
    }

    #[track_caller]
    fn ok(&self, args: &[&str], input: &str) -> String {
        let output = self.user(args, input);
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that ends with 1 says.
    #[track_caller]
    fn trouble(&self, args: &[&str], input: &str) -> String {
        let output = self.user(args, input);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

fn feed(command: &mut Command, input: &str) -> Output {
    let file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut &file, input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut &file).unwrap();
    command.stdin(Stdio::from(file)).output().unwrap()
}

#[test]
fn a_user_is_added_listed_tested_and_removed() {
    let bench = Bench::new();
    let said = bench.ok(&["add", "Shop", "--tenant", "c1842"], "correct horse\nmore\n");
    let file = bench.users();
    let expected = format!("added Shop in {}; a running node takes it with", file.display());
    assert!(said.starts_with(&expected) && said.contains("`bulkhead reload`"), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    bench.ok(&["add", "old@shop.example", "--argon2"], "battery\r\n");

    let listed = bench.ok(&["list"], "");
    let rows: Vec<Vec<&str>> = listed.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            ["NAME", "KIND", "TENANT"],
            ["Shop", "scram-sha-256", "c1842"],
            ["old@shop.example", "argon2id", "-"],
        ]
    );
    let listed: serde_json::Value =
        serde_json::from_str(&bench.ok(&["list", "--json"], "")).unwrap();
    let shop = serde_json::json!({ "name": "Shop", "kind": "scram-sha-256", "tenant": "c1842" });
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]), (2, &shop));

    assert_eq!(bench.ok(&["test", "SHOP"], "correct horse"), "this is the password of Shop\n");
    bench.ok(&["test", "old@shop.example"], "battery\n");
    for (name, password) in [("Shop", "battery"), ("old@shop.example", "correct horse")] {
        let said = bench.trouble(&["test", name], password);
        assert_eq!(said, format!("bulkhead: not the password of {name}\n"));
    }
    assert!(bench.trouble(&["test", "nobody"], "battery").contains("no user nobody in /"));

    let said = bench.ok(&["remove", "shop"], "");
    assert!(said.contains("bulkhead reload"), "{said}");
    assert!(bench.trouble(&["remove", "shop"], "").contains("no user shop in /"));
    assert!(!bench.text().contains("Shop") && bench.text().starts_with("old@shop.example $argon"));
}

#[test]
fn a_password_is_replaced_and_the_rest_of_the_file_stays() {
    let bench = Bench::new();
    bench.ok(&["add", "a", "--tenant", "c1"], "one\n");
    bench.ok(&["add", "b"], "two\n");
    let b = bench.text().lines().nth(1).unwrap().to_string();
    fs::write(bench.users(), format!("# ours\n\n{}", bench.text())).unwrap();
    fs::set_permissions(bench.users(), fs::Permissions::from_mode(0o640)).unwrap();
    let before = bench.text();
    assert!(bench.trouble(&["add", "A"], "three\n").contains("--replace"));
    for (args, input, why) in [
        (&["add", "c"][..], "\n", "the password is empty"),
        (&["add", "c"], "a\u{7}b\n", "has characters that RFC 4013"),
        (&["add", "c"], &"p".repeat(2_000), "the password is too long"),
        (&["add", "c d"], "pw\n", "no spaces"),
        (&["add", "c", "--tenant", "c/1"], "pw\n", "not a tenant's name"),
    ] {
        let said = bench.trouble(args, input);
        assert!(said.contains(why), "{args:?}: {said}");
    }
    assert_eq!(bench.text(), before);

    let said = bench.ok(&["add", "A", "--replace", "--json"], "three\n");
    assert!(said.starts_with("{\"changed\":\"A\""), "{said}");
    let text = bench.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("# ours", "", b.as_str()));
    assert!(lines[2].starts_with("a SCRAM-SHA-256$") && lines[2].ends_with(" c1"), "{text}");
    assert_eq!(fs::metadata(bench.users()).unwrap().permissions().mode() & 0o7777, 0o640);
    bench.ok(&["test", "a"], "three\n");
    bench.trouble(&["test", "a"], "one\n");
}

#[test]
fn python_makes_the_same_verifier_of_the_same_password() {
    let bench = Bench::new();
    bench.ok(&["add", "shop"], "zwölf Boxkämpfer\n");
    let text = bench.text();
    let verifier = text.trim().strip_prefix("shop ").unwrap();
    let input = format!("zwölf Boxkämpfer\n{verifier}\n");
    let made =
        tool::run(Command::new(tool::python("hashlib")).args(["-c", BY_PYTHON]), input.as_bytes());
    assert_eq!(made.trim(), verifier);
}

#[test]
fn a_damaged_file_is_named_with_its_line_and_left_alone() {
    let bench = Bench::new();
    bench.ok(&["add", "shop"], "pw\n");
    let damaged = format!("{}shop2 hunter2\n", bench.text());
    fs::write(bench.users(), &damaged).unwrap();
    let place = format!("{}:2:1: a verifier begins with", bench.users().display());
    for args in [&["add", "new"][..], &["list"], &["remove", "shop"], &["test", "shop"]] {
        let said = bench.trouble(args, "pw\n");
        assert!(said.contains(&place) && !said.contains("hunter2"), "{args:?}: {said}");
    }
    assert_eq!(bench.text(), damaged);
}

#[test]
fn users_added_at_once_are_all_there() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let bench = &bench;
            scope.spawn(move || bench.ok(&["add", &format!("u{n}")], "pw\n"));
        }
    });
    assert_eq!(bench.text().lines().count(), 6);
}

#[test]
fn a_running_node_takes_the_file_by_a_reload_and_refuses_a_damaged_one() {
    let node: Node = Setup::new().start();
    let config = node.config();
    let users = config.with_file_name("users");
    let mut add = Command::new(binary());
    add.arg("--config").arg(&config).args(["user", "add", "shop"]);
    let added = feed(&mut add, "pw\n");
    assert!(added.status.success(), "{added:?}");
    node.ok(&["reload"]);
    fs::write(&users, "shop\n").unwrap();
    let refused = node.cli(&["reload"]);
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("{}:1:1: a line is: name", users.display())), "{said}");
    assert_eq!(node.log().matches("node.reloaded").count(), 1);
}
