//! A node with two customers and their tokens, and programs that send to it.

use crate::support::{Dns, Host, Node, Setup, Sink, free_port, tool};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

pub(crate) const JSON: &str = "Content-Type: application/json";
/// A key, for curl.
pub(crate) const KEY: &str = "Idempotency-Key: 5f0c";

const PYTHON: &str = "
import sys, urllib.request, urllib.error
url, token, kind = sys.argv[1:4]
request = urllib.request.Request(url, data=sys.stdin.buffer.read(), method='POST')
request.add_header('Authorization', 'Bearer ' + token)
request.add_header('Content-Type', kind)
try:
    answer = urllib.request.urlopen(request, timeout=30)
except urllib.error.HTTPError as error:
    answer = error
body = answer.read().decode()
after = answer.headers.get('Retry-After', '')
print(body, answer.status, answer.headers['Content-Type'], after, sep='\\n')
";

/// What a program was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: String,
}

impl Answer {
    /// The body, and behind it, on lines of their own: status, type, Retry-After.
    #[track_caller]
    fn parse(output: &str) -> Self {
        let mut lines = output.trim_end_matches('\n').rsplitn(4, '\n');
        let mut next = || lines.next().unwrap_or_else(|| panic!("no answer: {output}"));
        let mut last = next();
        let mut retry_after = None;
        if !last.contains('/') {
            retry_after = last.parse().ok();
            last = next();
        }
        let (kind, status) = (last.to_string(), next().parse().unwrap());
        let body = output.split_once(&format!("\n{status}\n{kind}")).unwrap().0.to_string();
        Self { status, kind, retry_after, body }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// `detail` of a problem.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_string()
    }
}

/// A node and its receivers.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) sink: Sink,
    pub(crate) host: Arc<Host>,
    pub(crate) port: u16,
    scheme: &'static str,
    tokens: Vec<(&'static str, String, String)>,
    _dns: Dns,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        Self::with("http", change)
    }

    pub(crate) fn with(scheme: &'static str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let (dns, sink) = (Dns::new(), Sink::new());
        dns.mx("d.test", &[(10, "mx.d.test")]).a("mx.d.test", "127.0.0.2");
        let host = sink.host("127.0.0.2");
        let port = free_port();
        let maker = Setup::new().prepare();
        let mut tokens = Vec::new();
        let mut tenants = String::new();
        for (name, rest) in [
            ("shop", "may_send_as = [\"shop.test\"]"),
            ("other", "sender_domains = [\"other.test\"]"),
            ("slow", "accept_messages = \"2/h\"\nbeyond = \"defer\""),
            ("slow2", "accept_messages = \"2/h\"\nbeyond = \"defer\""),
        ] {
            let (token, hash) = new_token(&maker);
            tenants += &format!("[[tenants]]\nname = \"{name}\"\ntokens = [\"{hash}\"]\n{rest}\n");
            tokens.push((name, token, hash));
        }
        let setup = Setup::with(&dns, &sink)
            .set("http", "listen", &format!("\"127.0.0.1:{port}\""))
            .set("auth", "delay", "\"0s\"")
            .raw(&tenants);
        let node = change(setup).start();
        Self { node, sink, host, port, scheme, tokens, _dns: dns }
    }

    /// Deliveries in the queue.
    pub(crate) fn waits(&self) -> u64 {
        let totals = self.node.totals();
        totals.ready + totals.leased + totals.deferred + totals.held
    }

    pub(crate) fn token(&self, tenant: &str) -> String {
        self.tokens.iter().find(|(name, ..)| *name == tenant).unwrap().1.clone()
    }

    pub(crate) fn hash(&self, tenant: &str) -> String {
        self.tokens.iter().find(|(name, ..)| *name == tenant).unwrap().2.clone()
    }

    fn command(&self, args: &[&str], path: &str, has_body: bool) -> Command {
        let mut curl = Command::new(tool::program("curl"));
        curl.args(["-sS", "-k", "--max-time", "60"]);
        curl.args(["-w", "\\n%{http_code}\\n%{content_type}\\n%header{retry-after}"]);
        if has_body {
            curl.args(["--data-binary", "@-"]);
        }
        curl.args(args).arg(format!("{}://127.0.0.1:{}{path}", self.scheme, self.port));
        curl
    }

    /// POST with these arguments of curl.
    #[track_caller]
    pub(crate) fn curl(&self, args: &[&str], path: &str, body: &[u8]) -> Answer {
        Answer::parse(&tool::run(&mut self.command(args, path, true), body))
    }

    #[track_caller]
    pub(crate) fn curl_to(&self, tenant: &str, args: &[&str], path: &str, body: &str) -> Answer {
        let token = format!("Authorization: Bearer {}", self.token(tenant));
        self.curl(&[args, &["-H", &token]].concat(), path, body.as_bytes())
    }

    #[track_caller]
    pub(crate) fn curl_as(&self, tenant: &str, args: &[&str], body: &str) -> Answer {
        self.curl_to(tenant, args, "/v1/messages", body)
    }

    #[track_caller]
    pub(crate) fn post(&self, body: &Value) -> Answer {
        self.post_as("shop", body)
    }

    #[track_caller]
    pub(crate) fn post_as(&self, tenant: &str, body: &Value) -> Answer {
        self.curl_as(tenant, &["-H", JSON], &body.to_string())
    }

    #[track_caller]
    pub(crate) fn post_with_key(&self, key: &str, body: &Value) -> Answer {
        let key = format!("Idempotency-Key: {key}");
        self.curl_as("shop", &["-H", JSON, "-H", &key], &body.to_string())
    }

    /// GET with a token, where it is not empty.
    #[track_caller]
    pub(crate) fn get(&self, path: &str, token: &str) -> Answer {
        let header = format!("Authorization: Bearer {token}");
        let args: &[&str] = if token.is_empty() { &[] } else { &["-H", &header] };
        Answer::parse(&tool::run(&mut self.command(args, path, false), b""))
    }

    /// Begins a POST of the shop, and does not wait for its answer.
    pub(crate) fn begin(&self, args: &[&str], body: &str) -> Child {
        let token = format!("Authorization: Bearer {}", self.token("shop"));
        let args = [args, &["-H", JSON, "-H", &token]].concat();
        let mut child = self
            .command(&args, "/v1/messages", true)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
        child
    }

    /// POST by urllib.
    #[track_caller]
    pub(crate) fn python(&self, kind: &str, query: &str, body: &[u8]) -> Answer {
        let mut python = Command::new(tool::python("urllib.request"));
        let url = format!("http://127.0.0.1:{}/v1/messages{query}", self.port);
        python.args(["-c", PYTHON, &url, &self.token("shop"), kind]);
        Answer::parse(&tool::run(&mut python, body))
    }
}

/// A token as an operator makes it, and its hash.
pub(crate) fn new_token(node: &Node) -> (String, String) {
    let text = node.ok(&["tenant-token"]);
    let hash = text.split("tokens = [\"").nth(1).unwrap().split('"').next().unwrap();
    (text.lines().next().unwrap().to_string(), hash.to_string())
}

/// A message with these fields in place of the usual ones, or besides.
pub(crate) fn draft(change: &Value) -> Value {
    let mut draft =
        json!({"from": "a@shop.test", "to": ["ann@d.test"], "subject": "x", "text": "y"});
    for (name, value) in change.as_object().unwrap() {
        draft[name] = value.clone();
    }
    draft
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
