//! Verbs from arguments to words, against a node's control socket with a store of 300 deliveries.

use super::args::{Cli, Verb};
use super::orders::{self, Order};
use super::queue::{self, Printer};
use super::{Failure, run};
use crate::base::address::{Mailbox, ReversePath};
use crate::base::id::{IdGenerator, MessageId};
use crate::base::time::Clock;
use crate::control::tests::{NOW, Running, store};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::message::{Lane, NewMessage, Origin};
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, Options};
use bytes::Bytes;
use clap::Parser;
use std::time::Duration;

/// What is written, and how it ends; the node's socket is in the folder of the configuration.
async fn bulkhead(node: &Running, line: &str) -> (String, Result<(), Failure>) {
    let file = node.path().join("config.toml");
    std::fs::write(&file, "data_dir = \".\"\n[control]\nsocket = \"s\"\n").unwrap();
    let words = ["bulkhead", "queue", "--config", file.to_str().unwrap()];
    let cli = Cli::try_parse_from(words.into_iter().chain(line.split_whitespace())).unwrap();
    let Verb::Queue(queue) = &cli.verb else { panic!("queue") };
    let mut out = Vec::new();
    let mut printer =
        Printer { out: &mut out, json: cli.common.json, clock: Clock::simulated(NOW) };
    let config = cli.common.load().unwrap();
    let done = queue::verb(&config, queue, &mut printer).await;
    (String::from_utf8(out).unwrap(), done)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn the_summary_is_for_people_or_for_programs() {
    let node = Running::start(store()).await;
    let (text, done) = bulkhead(&node, "").await;
    assert!(done.is_ok());
    let first_words: Vec<_> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(first_words, ["SITE", "mx.example", "c.example", "total", "newsletters"]);
    let (text, _) = bulkhead(&node, "--json").await;
    let total = &json(&text)["total"];
    assert_eq!((&total["ready"], &total["leased"]), (&299.into(), &1.into()));
    let (text, _) = bulkhead(&node, "--lane direct --json").await;
    assert_eq!(json(&text)["total"]["ready"], 0);
}

#[tokio::test]
async fn a_list_has_a_line_for_each_delivery() {
    let node = Running::start(store()).await;
    let (text, _) = bulkhead(&node, "list --site mx.example").await;
    assert_eq!(text.lines().count(), 201);
    let (text, _) = bulkhead(&node, "list --domain c.example --json").await;
    let deliveries = json(&text);
    let deliveries = deliveries.as_array().unwrap();
    assert_eq!((deliveries.len(), text.lines().count()), (100, 102));
    assert!(deliveries.iter().all(|delivery| delivery["tenant"] == "t1"));
    let (text, _) = bulkhead(&node, "list --domain nowhere.example --json").await;
    assert_eq!(json(&text), serde_json::json!([]));
}

#[tokio::test]
async fn a_message_is_shown_or_missed() {
    let node = Running::start(store()).await;
    let (text, _) = bulkhead(&node, "list --domain c.example --json").await;
    let id = json(&text)[0]["message"].as_str().unwrap().to_string();
    let (text, _) = bulkhead(&node, &format!("show {id} --json")).await;
    let shown = json(&text);
    assert_eq!((&shown["message"], &shown["size"]), (&id.into(), &1_000.into()));
    assert_eq!(shown["deliveries"].as_array().map(Vec::len), Some(100));
    let (text, done) = bulkhead(&node, "show 000000000001").await;
    assert_eq!(text, "");
    assert!(
        matches!(done, Err(Failure::Trouble(s)) if s == "no message 000000000001 in the queue")
    );
    let (_, done) = bulkhead(&node, "show x").await;
    assert!(matches!(done, Err(Failure::Trouble(s)) if s.contains("is not a message id")));
}

#[tokio::test]
async fn changes_say_what_they_did() {
    let node = Running::start(store()).await;
    let (text, done) = bulkhead(&node, "hold --domain a.example").await;
    assert!(done.is_ok());
    assert_eq!(text, "held 99 deliveries; 1 delivery on a connection now and left alone\n");
    let (text, _) = bulkhead(&node, "hold --all").await;
    assert!(text.starts_with("everything is held, what is to come too"), "{text}");
    let (text, _) = bulkhead(&node, "--json").await;
    assert_eq!(
        (&json(&text)["all_held"], &json(&text)["total"]["held"]),
        (&true.into(), &299.into())
    );
    let (text, _) = bulkhead(&node, "release --all --json").await;
    assert_eq!(json(&text), serde_json::json!({ "still_held": 99 }));
    let (_, done) = bulkhead(&node, "hold --id 000000000001").await;
    assert!(matches!(done, Err(Failure::Trouble(_))));
    let (text, done) = bulkhead(&node, "delete --yes").await;
    assert_eq!(text, "");
    assert!(matches!(done, Err(Failure::Usage(_))), "it named nothing and did not say --all");
}

#[tokio::test]
async fn without_a_node_nothing_is_changed() {
    let node = Running::start(store()).await;
    std::fs::remove_file(node.path().join("s")).unwrap();
    let (_, done) = bulkhead(&node, "hold --all").await;
    assert!(matches!(done, Err(Failure::Usage(s)) if s.starts_with("no node runs")));
}

#[tokio::test]
async fn the_queue_on_disk_is_read_without_a_node() {
    let node = Running::start(store()).await;
    std::fs::remove_file(node.path().join("s")).unwrap();
    let (_, done) = bulkhead(&node, "").await;
    assert!(matches!(done, Err(Failure::Usage(s)) if s.starts_with("no node runs; ")), "no queue");

    let clock = Clock::simulated(NOW);
    let disk = EmbeddedStore::open(node.path(), clock, Options::default()).unwrap();
    let id = IdGenerator::after(None).next(NOW);
    disk.accept(message(id), None).await.unwrap();
    drop(disk);
    let (text, _) = bulkhead(&node, "--json").await;
    assert_eq!(json(&text)["total"]["ready"], 2);
    let (text, _) = bulkhead(&node, "list --site b.example --json").await;
    assert_eq!(json(&text)[0]["recipient"], "bob@b.example");
    let (text, done) = bulkhead(&node, &format!("show {id}")).await;
    assert!(done.is_ok() && text.contains("<ann@a.example>"), "{text}");
}

fn message(id: MessageId) -> NewMessage {
    let mut envelope = Envelope::from(ReversePath::Null);
    for to in ["ann@a.example", "bob@b.example"] {
        envelope.recipients.push(Recipient::new(Mailbox::parse(to).unwrap()));
    }
    NewMessage {
        id,
        accepted_at: NOW,
        due_at: NOW,
        expires_at: NOW.after(Duration::from_secs(3_600)),
        origin: Origin {
            lane: Lane::Direct,
            reason: "no newsletter header".into(),
            tenant: "t1".into(),
            campaign: String::new(),
            client: "10.0.0.7".into(),
        },
        envelope,
        body: Bytes::from_static(b"Subject: x\r\n\r\nx\r\n"),
    }
}

/// `throttle`, `suspend` or `resume`; words are apart by single spaces.
async fn order(node: &Running, line: &str) -> (String, Result<(), Failure>) {
    let file = node.path().join("config.toml");
    let text =
        "data_dir = \".\"\n[control]\nsocket = \"s\"\n[sites.\"a.example\"]\nrate = \"7/s\"\n";
    std::fs::write(&file, text).unwrap();
    let words = ["bulkhead", "--config", file.to_str().unwrap()];
    let cli = Cli::try_parse_from(words.into_iter().chain(line.split(' '))).unwrap();
    let order = match &cli.verb {
        Verb::Throttle { verb } => Order::Throttle(verb),
        Verb::Suspend(suspend) => Order::Suspend(suspend),
        Verb::Resume(scope) => Order::Resume(scope),
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    let mut printer =
        Printer { out: &mut out, json: cli.common.json, clock: Clock::simulated(NOW) };
    let config = cli.common.load().unwrap();
    let done = orders::verb(&config, &order, &mut printer).await;
    (String::from_utf8(out).unwrap(), done)
}

/// The value and the source of a limit of gmail.com, a.example, … in `throttle show --json`.
fn limit(text: &str, key: &str) -> (serde_json::Value, String) {
    let limits = json(text)["limits"].as_array().unwrap().clone();
    let found = limits.iter().find(|limit| limit["key"] == key).unwrap();
    (found["value"].clone(), found["origin"]["from"].as_str().unwrap().to_string())
}

#[tokio::test]
async fn limits_are_overridden_shown_and_cleared() {
    let node = Running::start(store()).await;
    let (text, done) =
        order(&node, "throttle set gmail.com connections=3 rate=none --for 2h").await;
    assert!(done.is_ok());
    assert_eq!(
        text,
        "gmail.com connections = 3 until 2026-11-23T02:45:28Z\n\
         gmail.com rate = none until 2026-11-23T02:45:28Z\n"
    );
    let (text, _) = order(&node, "throttle show --json google.com").await;
    assert_eq!(limit(&text, "connections"), (3.into(), "live".into()));
    assert_eq!(limit(&text, "rate"), (serde_json::json!([]), "live".into()));
    assert_eq!(limit(&text, "deliveries_per_connection"), (50.into(), "provider".into()));
    let (text, _) = order(&node, "throttle show --json").await;
    assert_eq!(json(&text)[0]["until_ms"], NOW.after(Duration::from_secs(7_200)).0);
    let (text, _) = order(&node, "throttle show").await;
    assert_eq!(text.lines().count(), 3, "{text}");
    let (text, _) = order(&node, "throttle clear gmail.com rate").await;
    assert_eq!(text, "cleared gmail.com rate\n");
    assert!(order(&node, "throttle clear gmail.com").await.1.is_ok());
    let (text, done) = order(&node, "throttle clear gmail.com").await;
    assert!(text.is_empty() && matches!(done, Err(Failure::Trouble(_))));
    assert_eq!(order(&node, "throttle show").await.0, "no limit is overridden\n");
}

#[tokio::test]
async fn mail_is_suspended_listed_and_resumed() {
    let node = Running::start(store()).await;
    let (text, _) = order(&node, "suspend --tenant c1 --lane bulk --reason spam").await;
    assert_eq!(text, "suspended tenant=c1 lane=bulk until resumed\n");
    for listing in ["suspend --list --json", "suspend --json"] {
        let (text, _) = order(&node, listing).await;
        let listed = json(&text);
        let [only] = &listed.as_array().unwrap()[..] else { panic!("{text}") };
        assert_eq!((&only["tenant"], &only["reason"]), (&"c1".into(), &"spam".into()));
    }
    let (_, done) = order(&node, "resume --tenant c1").await;
    assert!(matches!(done, Err(Failure::Trouble(_))), "not by a part of what was said");
    let (text, _) = order(&node, "resume --tenant c1 --lane bulk").await;
    assert_eq!(text, "resumed tenant=c1 lane=bulk\n");
    assert_eq!(order(&node, "suspend").await.0, "nothing is suspended\n");
    for wrong in [
        "suspend --reason spam",
        "suspend --tenant c1",
        "suspend --for 2h",
        "suspend --list --tenant c1",
        "resume",
    ] {
        assert!(matches!(order(&node, wrong).await.1, Err(Failure::Usage(_))), "{wrong}");
    }
}

#[tokio::test]
async fn without_a_node_limits_are_shown_and_not_changed() {
    let node = Running::start(store()).await;
    assert!(order(&node, "throttle set a.example connections=3").await.1.is_ok());
    std::fs::remove_file(node.path().join("s")).unwrap();
    let (text, _) = order(&node, "throttle show a.example --json").await;
    assert_eq!(limit(&text, "connections"), (3.into(), "live".into()));
    assert_eq!(limit(&text, "rate"), (serde_json::json!(["7/s"]), "config".into()));
    assert_eq!(json(&text)["in_use"], false);
    assert_eq!(order(&node, "throttle show").await.0.lines().count(), 2);
    for line in
        ["throttle set a.example rate=1/s", "throttle clear a.example", "resume --lane bulk"]
    {
        let (_, done) = order(&node, line).await;
        assert!(matches!(done, Err(Failure::Usage(s)) if s.starts_with("no node runs")), "{line}");
    }
    std::fs::write(node.path().join("orders.json"), "{").unwrap();
    let (_, done) = order(&node, "throttle show").await;
    assert!(matches!(done, Err(Failure::Trouble(s)) if s.contains("cannot be read")));
    assert_eq!(std::fs::read(node.path().join("orders.json")).unwrap(), b"{", "left as it is");
}

/// A verb that needs no node.
fn plain(line: &str) -> (String, Result<(), Failure>) {
    let words = std::iter::once("bulkhead").chain(line.split_whitespace());
    let mut out = Vec::new();
    let done = run(&Cli::try_parse_from(words).unwrap(), &mut out);
    (String::from_utf8(out).unwrap(), done)
}

#[test]
fn a_configuration_is_checked_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "hostname = \"a.de\"\n[limits]\nhops = 0\n").unwrap();
    let (text, done) = plain(&format!("config check --json --config {path}"));
    let answer = json(&text);
    assert_eq!((&answer["ok"], &answer["problems"][0]["line"]), (&false.into(), &3.into()));
    let expected = format!("{path}:3:8: [limits] hops = 0: must be 1 to 1000\n1 problem in {path}");
    assert!(matches!(done, Err(Failure::Trouble(said)) if said == expected));
    assert!(matches!(plain(&format!("config show --config {path}")).1, Err(Failure::Trouble(_))));
    assert!(matches!(plain(&format!("queue --config {path}")).1, Err(Failure::Usage(_))));

    std::fs::write(&file, "hostname = \"a.de\"\n").unwrap();
    let (text, done) = plain(&format!("config check --config {path}"));
    assert!(done.is_ok() && text == format!("{path} is fine\n"));
    let (text, _) = plain(&format!("config show --json --config {path}"));
    let hostname = &json(&text)[0];
    assert_eq!((&hostname["key"], &hostname["origin"]["line"]), (&"hostname".into(), &1.into()));
}

/// A configuration with one rule of its own, and its file.
fn with_rule() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let text = "[[rules]]\nname = \"mine\"\nmx = [\"example.net\"]\ncodes = [\"421\"]\n\
                action = \"suspend\"\nscope = \"tenant\"\n\
                samples = [[\"mx.example.net\", \"421 Go away\"]]\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap().to_string();
    (dir, path)
}

#[test]
fn rules_are_listed_in_their_order() {
    let (_dir, config) = with_rule();
    let (text, done) = plain(&format!("rules list --config {config}"));
    assert!(done.is_ok());
    let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    let mut lines = text.lines().map(words);
    assert_eq!(lines.next().unwrap(), ["RULE", "FROM", "ACTION", "SCOPE", "TIME", "RECEIVER"]);
    let mine = ["mine", "config", "suspend", "tenant", "1h", "example.net"];
    assert_eq!(lines.next().unwrap(), mine);
    let (text, _) = plain(&format!("rules list --json --config {config}"));
    let rules = json(&text);
    assert_eq!(rules[0]["samples"][0][1], "421 Go away");
    assert_eq!((&rules[0]["time_s"], &rules[1]["origin"]), (&3_600.into(), &"builtin".into()));
}

#[test]
fn a_reply_is_tried_at_one_receiver_or_at_all() {
    let (_dir, config) = with_rule();
    let test = |what: &str| plain(&format!("rules test --config {config} {what}"));
    let (text, done) = test("--mx mx.example.net 421 4.7.0 Go away for 5 minutes");
    assert!(done.is_ok());
    assert_eq!(
        text,
        "from mx.example.net: rule mine (config): no mail of this tenant to this site is sent for \
         1h, and this delivery tried again after that\n"
    );
    let (text, _) = test("421 Too many connections");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("from example.net: rule mine (config): "), "{text}");
    assert!(text.contains("\nfrom any other host: rule connections (built in): "), "{text}");
    let (text, _) = test("450 Greylisted, try again in 7 minutes");
    assert_eq!(
        text,
        "from any host: rule greylisting (built in): this delivery is tried again in 7m, as the \
         reply asks; other mail is not concerned\n"
    );
    let (text, _) = test("--json 554 5.7.1 192.0.2.7 is blacklisted");
    let answer = &json(&text)["answers"][0];
    assert_eq!((&answer["rule"], &answer["scope"]), (&"listed".into(), &"source".into()));
    let what = answer["what"].as_str().unwrap();
    assert!(what.ends_with(", though the reply is permanent"), "{what}");
    let (text, done) = test("550 5.1.1 No such user");
    assert!(text.starts_with("from any host: no rule: by its code, this delivery fails"), "{text}");
    assert!(matches!(done, Err(Failure::Trouble(s)) if s == "no rule matches"));
    let (_, done) = test("hello");
    assert!(matches!(done, Err(Failure::Usage(s)) if s.starts_with("not an SMTP reply")));
}

#[test]
fn a_log_is_replayed() {
    let (dir, config) = with_rule();
    let log = dir.path().join("log");
    let path = log.to_str().unwrap();
    std::fs::write(&log, "2026-11-23T00:45:28.114Z  INFO node.started version=\"1\"\n").unwrap();
    let (_, done) = plain(&format!("rules replay {path} --config {config}"));
    assert!(matches!(done, Err(Failure::Trouble(s)) if s.contains("has no delivery.* events")));
    let event = |at: u32, reply: &str| {
        serde_json::json!({
            "timestamp": format!("2026-11-23T00:45:{at}.000Z"), "level": "INFO",
            "message": "delivery.deferred", "host": "mx.example.net[192.0.2.7]", "reply": reply,
        })
    };
    let lines = [event(10, "421 Busy"), event(11, "421 Go away"), event(12, "550 No such user")];
    std::fs::write(&log, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let other = dir.path().join("other.toml");
    std::fs::write(&other, "").unwrap();
    let other = other.to_str().unwrap();
    let (text, done) = plain(&format!("rules replay {path} --config {config} --against {other}"));
    assert!(done.is_ok());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "3 refusals in 3 attempts from 2026-11-23T00:45:10.000Z to 2026-11-23T00:45:12.000Z: 2 \
         match a rule"
    );
    assert!(
        lines[3].contains("2  mine  suspend  tenant    1h  2026-11-23T00:45:10.000Z"),
        "{text}"
    );
    assert_eq!(lines[6], "      1  mx.example.net  550 No such user");
    assert_eq!(lines[8], "the other file would have changed 2:");
    assert!(lines[10].contains("mine: suspend tenant 1h  no rule"), "{text}");
    let (text, _) = plain(&format!("rules replay {path} --json --config {config}"));
    let answer = json(&text);
    assert_eq!(
        (&answer["refusals"], &answer["rules"][0]["rule"]["rule"]),
        (&3.into(), &"mine".into())
    );
    assert_eq!(answer["unmatched"][0]["first"], "550 No such user");
    let (_, done) = plain(&format!("rules replay /nowhere/log --config {config}"));
    assert!(matches!(done, Err(Failure::Usage(s)) if s.starts_with("cannot read /nowhere/log: ")));
}
