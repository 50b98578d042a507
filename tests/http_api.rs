//! Mail by HTTP, as programs send it: curl and Python's urllib, the bytes that arrive looked at.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

#[path = "http_api/bench.rs"]
mod bench;
mod support;

use bench::{Bench, KEY, draft};
use mail_parser::{MessageParser, MimeHeaders};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use support::{PATIENCE, Rule, Stage, message, wait_until};

#[test]
fn a_message_from_json_arrives_as_it_was_meant() {
    let bench = Bench::new(|setup| setup);
    let file = [0u8, 1, 2, 255, 13, 10, 10].repeat(1_000);
    let got = bench.post(&json!({
        "from": {"address": "shop@shop.test", "name": "Käse & Co"},
        "to": ["Ann <ann@d.test>", {"address": "bob@d.test"}],
        "cc": ["carl@d.test"],
        "bcc": ["dora@d.test", "ann@d.test"],
        "reply_to": "help@shop.test",
        "envelope_from": "bounces@shop.test",
        "subject": "Ihre Bestellung: 3 × Käse – größer",
        "text": "Grüße\n.\nEnde\n",
        "html": "<p>Grüße &amp; <b>Küsse</b></p>",
        "headers": {"X-Order": "4711 ö", "X-Test-Id": "one"},
        "attachments": [{
            "name": "rechnung ü.bin", "type": "application/octet-stream",
            "content_base64": bench::base64(&file),
        }],
    }));
    assert_eq!(got.status, 202, "{}", got.body);
    let answer = &got.json()["messages"];
    assert_eq!(answer.as_array().unwrap().len(), 1);
    assert_eq!(answer[0]["status"], "queued");
    let everybody = json!(["ann@d.test", "bob@d.test", "carl@d.test", "dora@d.test"]);
    assert_eq!(answer[0]["recipients"], everybody);

    let arrived = bench.sink.wait_for("one");
    assert_eq!(arrived.sender, "bounces@shop.test");
    assert_eq!(json!(arrived.recipients), everybody);
    let text = String::from_utf8(arrived.body.clone()).expect("all of it is ASCII");
    assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 998));
    assert!(!text.contains("dora"), "Bcc is for nobody to see");
    let received = message::field(&arrived.body, "Received").unwrap();
    assert!(received.contains("with HTTP id") && received.contains("[127.0.0.1]"), "{received}");
    assert!(received.contains(answer[0]["id"].as_str().unwrap()), "{received}");
    let read = MessageParser::default().parse(&arrived.body).unwrap();
    assert_eq!(read.subject(), Some("Ihre Bestellung: 3 × Käse – größer"));
    let from = read.from().unwrap().first().unwrap();
    assert_eq!((from.name(), from.address()), (Some("Käse & Co"), Some("shop@shop.test")));
    assert_eq!(read.to().unwrap().iter().count(), 2);
    assert_eq!(read.reply_to().unwrap().first().unwrap().address(), Some("help@shop.test"));
    assert!(read.date().is_some() && read.message_id().unwrap().ends_with("@relay.test"));
    assert_eq!(message::field(&arrived.body, "X-Order").unwrap().trim(), "4711 =?utf-8?b?w7Y=?=");
    assert_eq!(read.body_text(0).unwrap().replace("\r\n", "\n"), "Grüße\n.\nEnde\n");
    assert_eq!(read.body_html(0).unwrap().trim_end(), "<p>Grüße &amp; <b>Küsse</b></p>");
    let attachment = read.attachment(0).unwrap();
    assert_eq!(attachment.attachment_name(), Some("rechnung ü.bin"));
    assert_eq!(attachment.contents(), file);
}

#[test]
fn a_whole_message_arrives_byte_for_byte() {
    let bench = Bench::new(|setup| setup);
    let whole = "Message-ID: <x@shop.test>\r\nDate: Mon, 23 Nov 2026 00:45:28 +0000\r\n\
                 X-Odd:   blanks \t stay\r\nFrom: a@shop.test\r\nTo: Ann <ann@d.test>\r\n\
                 X-Test-Id: whole\r\nSubject: =?utf-8?q?=C3=B6?=\r\n\r\n.dots\r\n..\r\n ö\r\n";
    let got = bench.python("message/rfc822", "", whole.as_bytes());
    assert_eq!(got.status, 202, "{}", got.body);
    let arrived = bench.sink.wait_for("whole");
    assert_eq!(arrived.sender, "a@shop.test");
    assert_eq!(arrived.recipients, ["ann@d.test"]);
    let received = message::field(&arrived.body, "Received").unwrap();
    assert!(received.contains("with HTTP"));
    let rest = arrived.body.windows(whole.len()).next_back().unwrap();
    assert_eq!(rest, whole.as_bytes());
    let top = String::from_utf8_lossy(&arrived.body[..arrived.body.len() - whole.len()]);
    assert_eq!(top.matches("\r\n").count(), top.matches("\r\n\t").count() + 1, "{top}");

    // The envelope is that of the query, and LF alone becomes CRLF.
    let lf = whole.replace("\r\n", "\n").replace("X-Test-Id: whole", "X-Test-Id: lf");
    let query = "?from=b%2Bx@shop.test&to=bob@d.test&to=carl@d.test";
    let got = bench.python("message/rfc822", query, lf.as_bytes());
    assert_eq!(got.status, 202, "{}", got.body);
    let arrived = bench.sink.wait_for("lf");
    assert_eq!(arrived.sender, "b+x@shop.test");
    assert_eq!(arrived.recipients, ["bob@d.test", "carl@d.test"]);
    assert!(arrived.body.ends_with(lf.replace('\n', "\r\n").as_bytes()));

    // Lines that end in two ways could be read in two ways.
    let mixed = whole.replace(".dots\r\n", ".dots\n").replace("X-Test-Id: whole", "X-Test-Id: mix");
    let got = bench.python("message/rfc822", "", mixed.as_bytes());
    assert_eq!((got.status, got.problem().contains("Bare LF")), (422, true), "{}", got.body);
    let null = whole.replace(".dots", ".\0dots");
    assert_eq!(bench.python("message/rfc822", "", null.as_bytes()).status, 422);
    assert!(bench.sink.with_id("mix").is_empty());
}

#[test]
fn each_of_two_hundred_readers_gets_his_own_text_once() {
    let bench = Bench::new(|setup| setup);
    let readers: Vec<Value> = (0..200)
        .map(|n| {
            let name = format!("<R&{n}>");
            json!({"address": format!("r{n}@d.test"), "name": format!("Reader {n}"),
                   "substitutions": {"first_name": name, "code": format!("c{n}")}})
        })
        .collect();
    let body = json!({
        "from": "news@shop.test", "subject": "For {{first_name}}",
        "text": "Dear {{ first_name }}, {{code}}",
        "html": "<p title=\"{{code}}\">{{first_name}}</p>",
        "headers": {"List-Unsubscribe": "<https://shop.test/u?{{code}}>"},
        "newsletter": "Frühling 26", "recipients": readers,
    });
    let got = bench.post(&body);
    assert_eq!(got.status, 202, "{}", got.body);
    let messages = got.json()["messages"].as_array().unwrap().clone();
    assert!(messages.iter().all(|m| m["status"] == "queued"));
    let ids: std::collections::BTreeSet<_> = messages.iter().map(|m| m["id"].as_str()).collect();
    assert_eq!(ids.len(), 200);
    bench.sink.wait_for_count(200);
    wait_until(PATIENCE, "the queue is empty", || bench.waits() == 0);
    let all = bench.sink.delivered();
    assert_eq!(all.len(), 200, "each is a message of its own, and there is no other");
    let mut seen = BTreeMap::new();
    for one in all {
        assert_eq!(one.recipients.len(), 1);
        let number = one.recipients[0].trim_start_matches('r').split('@').next().unwrap();
        let (name, escaped) = (format!("<R&{number}>"), format!("&lt;R&amp;{number}&gt;"));
        let read = MessageParser::default().parse(&one.body).unwrap();
        assert_eq!(read.subject().unwrap(), format!("For {name}"));
        assert_eq!(read.to().unwrap().first().unwrap().name().unwrap(), format!("Reader {number}"));
        assert_eq!(read.body_text(0).unwrap().trim_end(), format!("Dear {name}, c{number}"));
        let html = format!("<p title=\"c{number}\">{escaped}</p>");
        assert_eq!(read.body_html(0).unwrap().trim_end(), html);
        let leave = message::field(&one.body, "List-Unsubscribe").unwrap();
        assert_eq!(leave.trim(), format!("<https://shop.test/u?c{number}>"));
        *seen.entry(number.to_string()).or_insert(0) += 1;
    }
    assert!(seen.len() == 200 && seen.values().all(|count| *count == 1));
    let log = bench.node.log();
    let accepted = log.lines().filter(|line| {
        line.contains("message.accepted")
            && line.contains("lane=\"bulk\"")
            && line.contains("campaign=\"Frühling 26\"")
            && line.contains("tenant=\"shop\"")
    });
    assert_eq!(accepted.count(), 200);
}

#[test]
fn a_placeholder_without_a_value_is_named_and_nothing_is_taken() {
    let bench = Bench::new(|setup| setup);
    let got = bench.post(&json!({
        "from": "news@shop.test", "subject": "x", "text": "Dear {{first_name}}",
        "recipients": [
            {"address": "a@d.test", "substitutions": {"first_name": "A"}},
            {"address": "b@d.test", "substitutions": {"firstname": "B"}},
        ],
    }));
    assert_eq!(got.status, 422, "{}", got.body);
    assert_eq!(got.json()["field"], "recipients[1].substitutions");
    assert!(got.problem().contains("{{first_name}}") && got.json()["remedy"].is_string());
    assert!(!bench.node.log().contains("message.accepted"));
    // Where nobody has substitutions, braces are braces.
    let got = bench.post(&draft(&json!({"text": "{{first_name}}", "headers": {"X-Test-Id": "b"}})));
    assert_eq!(got.status, 202, "{}", got.body);
    assert!(bench.sink.wait_for("b").body.ends_with(b"{{first_name}}\r\n"));
}

#[test]
fn a_token_is_its_customers_and_only_that() {
    let bench = Bench::new(|setup| setup);
    bench.host.rule(Rule::reply(Stage::Rcpt, "451 4.7.1 later"));
    let body = draft(&json!({})).to_string();
    for token in ["", "Bearer", "Bearer wrong", "Basic abc", "Bearer "] {
        let header = format!("Authorization: {token}");
        let got = bench.curl(&["-H", &header, "-H", bench::JSON], "/v1/messages", body.as_bytes());
        assert_eq!(got.status, 401, "{token:?}: {}", got.body);
    }
    let got = bench.post(&draft(&json!({})));
    assert_eq!(got.status, 202, "{}", got.body);
    let id = got.json()["messages"][0]["id"].as_str().unwrap().to_string();
    let path = format!("/v1/messages/{id}");
    let (own, other) = (bench.token("shop"), bench.token("other"));
    wait_until(PATIENCE, "the first attempt", || {
        let shown = bench.get(&path, &own);
        assert_eq!(shown.status, 200, "{}", shown.body);
        shown.json()["deliveries"][0]["state"] == "deferred"
    });
    let shown = bench.get(&path, &own).json();
    assert_eq!(shown["id"], id.as_str());
    assert_eq!(shown["deliveries"][0]["recipient"], "ann@d.test");
    assert_eq!(shown["deliveries"][0]["last_reply"], "451 4.7.1 later");
    assert_eq!(shown["lane"], "direct");
    assert_eq!(bench.get(&path, &other).status, 404);
    assert_eq!(bench.get("/v1/messages/nonsense", &own).status, 404);
    assert_eq!(bench.get(&path, "x").status, 401);

    // Tokens change by a reload, and only by that.
    let config = std::fs::read_to_string(bench.node.config()).unwrap();
    let (token, hash) = bench::new_token(&bench.node);
    std::fs::write(bench.node.config(), config.replace(&bench.hash("shop"), &hash)).unwrap();
    assert_eq!(bench.get(&path, &own).status, 200);
    bench.node.ok(&["reload"]);
    assert_eq!((bench.get(&path, &own).status, bench.get(&path, &token).status), (401, 200));
}

#[test]
fn who_guesses_is_kept_out_and_his_neighbour_with_a_token_is_not() {
    let bench = Bench::new(|setup| setup.set("auth", "failures", "\"3/10m\""));
    let wrong: Vec<u16> = (0..5).map(|_| bench.get("/v1/messages/x", "wrong").status).collect();
    assert_eq!(wrong, [401, 401, 401, 429, 429]);
    assert_eq!(bench.post(&draft(&json!({}))).status, 202);
    assert!(bench.node.log().contains("login.blocked"));
}

#[test]
fn what_a_customer_may_not_is_refused_as_it_is_by_smtp() {
    let bench = Bench::new(|setup| setup.set("limits", "message_size", "\"20 KiB\""));
    let got = bench.post(&draft(&json!({"from": "ceo@bank.test"})));
    assert_eq!(got.status, 403, "{}", got.body);
    assert_eq!(got.problem(), "shop may not send as bank.test");
    let got = bench.post(&draft(&json!({"envelope_from": "x@bank.test"})));
    assert_eq!(got.status, 403, "{}", got.body);

    let large = "x".repeat(30_000);
    let got = bench.post(&draft(&json!({"text": large})));
    assert_eq!(got.status, 413, "{}", got.body);
    let got =
        bench.curl_as("shop", &["-H", bench::JSON, "-H", "Transfer-Encoding: chunked"], &large);
    assert_eq!(got.status, 413, "{}", got.body);
    // What is small as JSON and large as a message.
    let wide = draft(&json!({"text": "ö".repeat(8_000)}));
    assert_eq!(bench.post(&wide).status, 413);

    let statuses: Vec<_> = (0..3).map(|_| bench.post_as("slow", &draft(&json!({})))).collect();
    let codes: Vec<u16> = statuses.iter().map(|got| got.status).collect();
    assert_eq!(codes, [202, 202, 429]);
    assert!(statuses[2].retry_after.is_some());
    assert!(statuses[2].problem().contains("slow sends more than 2/h"), "{}", statuses[2].body);
    // A batch takes what the limit has left, and says which are to come again.
    let reader = |n: usize| json!({"address": format!("r{n}@d.test")});
    let batch = |from: usize| {
        json!({"from": "a@d.test", "subject": "x", "text": "y",
               "recipients": (from..from + 3).map(reader).collect::<Vec<_>>()})
    };
    let send = || {
        let got = bench.curl_as("slow2", &["-H", bench::JSON, "-H", KEY], &batch(0).to_string());
        assert_eq!(got.status, 202, "{}", got.body);
        let all = got.json()["messages"].as_array().unwrap().clone();
        let states: Vec<_> = all.iter().map(|m| m["status"].to_string()).collect();
        let ids: Vec<_> = all.iter().map(|m| m["id"].to_string()).collect();
        (states.join(" "), ids, got.retry_after)
    };
    let (states, ids, retry_after) = send();
    assert_eq!((states.as_str(), retry_after.is_some()), (r#""queued" "queued" "later""#, true));
    let config = std::fs::read_to_string(bench.node.config()).unwrap();
    std::fs::write(bench.node.config(), config.replace("\"2/h\"", "\"3/h\"")).unwrap();
    bench.node.ok(&["reload"]);
    let (states, again, retry_after) = send();
    assert_eq!((states.as_str(), retry_after), (r#""queued" "queued" "queued""#, None));
    assert_eq!(again[..2], ids[..2]);
    for n in 0..3 {
        let reader = format!("r{n}@d.test");
        wait_until(PATIENCE, "each once", || bench.sink.to(&reader).len() == 1);
    }
}

#[test]
fn no_field_ends_and_begins_another() {
    let bench = Bench::new(|setup| setup);
    let evil = "x\r\nBcc: victim@d.test";
    let file = |name: &str, kind: &str| json!([{"name": name, "type": kind, "content_base64": ""}]);
    let batch = |value: &str| json!([{"address": "r@d.test", "substitutions": {"v": value}}]);
    for (change, field) in [
        (json!({"subject": evil}), "subject"),
        (json!({"subject": "a\nb"}), "subject"),
        (json!({"subject": "a\u{0}b"}), "subject"),
        (json!({"from": format!("A {evil} <a@shop.test>")}), "from"),
        (json!({"from": {"address": "a@shop.test", "name": evil}}), "from"),
        (json!({"to": ["ann@d.test\r\nRCPT TO:<victim@d.test>"]}), "to[0]"),
        (json!({"to": ["ann@d.test, victim@d.test"]}), "to[0]"),
        (json!({"reply_to": format!("a@shop.test{evil}")}), "reply_to"),
        (json!({"envelope_from": "a@shop.test>\r\nRCPT TO:<victim@d.test"}), "envelope_from"),
        (json!({"headers": {"X-A": evil}}), "headers.X-A"),
        (json!({"headers": {"X-A: b\r\nBcc": "victim@d.test"}}), "headers.X-A: b\\r\\nBcc"),
        (json!({"headers": {"Bcc": "victim@d.test"}}), "headers.Bcc"),
        (json!({"headers": {"Message-ID": "<a@b> <c@d>"}}), "headers.Message-ID"),
        (json!({"attachments": file(evil, "text/plain")}), "attachments[0].name"),
        (json!({"attachments": file("a", "text/plain\r\nX: y")}), "attachments[0].type"),
        (json!({"newsletter": evil}), "newsletter"),
        (json!({"text": "a\u{0}b"}), "text"),
        (
            json!({"to": [], "subject": "{{v}}", "recipients": batch(evil)}),
            "recipients[0].substitutions",
        ),
        (
            json!({"to": [], "headers": {"X-A": "{{v}}"}, "recipients": batch("a\rb")}),
            "recipients[0].substitutions",
        ),
        (json!({"subjet": "x"}), "subjet"),
        (json!({"to": [5]}), "to[0]"),
        (
            json!({"attachments": [{"name": "a", "type": "a/b", "content_base64": "?"}]}),
            "attachments[0].content_base64",
        ),
        (json!({"to": []}), "to"),
        (json!({"recipients": batch("a")}), "recipients"),
    ] {
        let got = bench.post(&draft(&change));
        assert_eq!(got.status, 422, "{change}: {}", got.body);
        assert_eq!(got.json()["field"], field, "{change}: {}", got.body);
    }
    // What would be folded or encoded is one field still.
    let long = format!("X-Evil: {}", "ö ".repeat(400));
    let got = bench.post(&draft(&json!({"subject": long, "headers": {"X-Test-Id": "long"}})));
    assert_eq!(got.status, 202, "{}", got.body);
    let arrived = bench.sink.wait_for("long");
    assert!(message::field(&arrived.body, "X-Evil").is_none());
    let read = MessageParser::default().parse(&arrived.body).unwrap();
    assert_eq!(read.subject().unwrap().trim_end(), long.trim_end());
    let accepted = bench.node.log().matches("message.accepted").count();
    assert_eq!(accepted, 1);
}

#[test]
fn other_requests_are_told_what_is_wrong() {
    let bench = Bench::new(|setup| setup);
    let body = draft(&json!({})).to_string();
    let json = ["-H", bench::JSON];
    for (args, path, body, status) in [
        (&["-H", "Content-Type: text/plain"][..], "/v1/messages", body.as_str(), 415),
        (&["-H", bench::JSON, "-H", "Content-Encoding: gzip"], "/v1/messages", &body, 415),
        (&json, "/v1/messages", "{", 400),
        (&json, "/v1/messages", "{} {}", 422),
        (&json, "/v1/messages?to=a@d.test", &body, 400),
        (&json, "/v2", &body, 404),
        (&json, "/v1/messages/x", &body, 405),
        (&["-H", bench::JSON, "-H", "Idempotency-Key: a b"], "/v1/messages", &body, 422),
    ] {
        let got = bench.curl_to("shop", args, path, body);
        assert_eq!(got.status, status, "{args:?} {path} {body}: {}", got.body);
        assert_eq!(got.json()["status"], status);
        assert_eq!(got.kind, "application/problem+json");
    }
    let health = bench.get("/healthz", "");
    assert_eq!((health.status, health.json()), (200, json!({"status": "ok"})));
    let described = bench.get("/openapi.yaml", "");
    assert_eq!(described.body, include_str!("../docs/openapi.yaml"));
}

#[test]
fn a_repeat_with_its_key_gets_the_same_answer_and_no_second_message() {
    let mut bench = Bench::new(|setup| setup);
    let body = draft(&json!({"headers": {"X-Test-Id": "once"}}));
    // A delivery that a kill interrupts may be made twice; here it is about what was taken.
    bench.node.ok(&["queue", "hold", "--all"]);
    let first = bench.post_with_key("k1", &body);
    assert_eq!(first.status, 202, "{}", first.body);
    bench.node.kill();
    bench.node.start();
    assert_eq!(bench.post_with_key("k1", &body), first);
    assert_eq!(bench.waits(), 1);
    bench.node.ok(&["queue", "release", "--all"]);
    // Another body, another customer, and one that was refused.
    assert_eq!(bench.post_with_key("k1", &draft(&json!({"subject": "other"}))).status, 422);
    let wrong = draft(&json!({"from": "a@bank.test"}));
    assert_eq!(bench.post_with_key("k2", &wrong).status, 403);
    let other = bench.curl_as(
        "other",
        &["-H", bench::JSON, "-H", "Idempotency-Key: k1"],
        &draft(&json!({"headers": {"X-Test-Id": "other"}})).to_string(),
    );
    assert_eq!(other.status, 202, "{}", other.body);
    bench.sink.wait_for("other");
    bench.node.restart();
    assert_eq!(bench.post_with_key("k1", &body), first);
    wait_until(PATIENCE, "the queue is empty", || bench.waits() == 0);
    bench.sink.wait_for("once");
    assert_eq!(bench.sink.count(), 2);
}

#[test]
fn a_batch_that_died_goes_on_where_it_was() {
    let mut bench = Bench::new(|setup| setup);
    bench.node.ok(&["queue", "hold", "--all"]);
    let readers: Vec<Value> =
        (0..1_000).map(|n| json!({"address": format!("r{n}@d.test")})).collect();
    let body =
        json!({"from": "news@shop.test", "subject": "x", "text": "y", "recipients": readers});
    let mut client = bench.begin(&["-H", KEY], &body.to_string());
    wait_until(PATIENCE, "some are taken", || {
        bench.node.log().matches("message.accepted").count() > 100
    });
    bench.node.kill();
    _ = client.wait();
    bench.node.start();
    let got = bench.curl_as("shop", &["-H", bench::JSON, "-H", KEY], &body.to_string());
    assert_eq!(got.status, 202, "{}", got.body);
    let all = got.json()["messages"].as_array().unwrap().clone();
    assert!(all.len() == 1_000 && all.iter().all(|m| m["status"] == "queued"));
    let mut count = BTreeMap::new();
    for one in bench.node.json(&["queue", "list", "--json"]).as_array().unwrap() {
        *count.entry(one["recipient"].as_str().unwrap().to_string()).or_insert(0) += 1;
    }
    assert_eq!(count.len(), 1_000, "each at least once");
    let doubled: i32 = count.values().map(|n| n - 1).sum();
    assert!(doubled <= 32, "at most a part is doubled: {doubled}");
    assert_eq!(bench.curl_as("shop", &["-H", bench::JSON, "-H", KEY], &body.to_string()), got);
}
