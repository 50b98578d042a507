//! The built-in rules held to their own samples, and lists of rules that must be refused.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

fn reply(text: &str) -> Reply {
    Reply::parse(text).unwrap()
}

/// A rule that slows a site down.
fn rule(name: &str, mx: &[&str], codes: &[&str], text: &str, sample: (&str, &str)) -> Rule {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    Rule {
        name: name.into(),
        origin: Origin::Config,
        mx: words(mx),
        codes: words(codes),
        text: (!text.is_empty()).then(|| text.to_string()),
        action: Action::SlowDown { scope: Scope::Site, time: Duration::from_secs(1_800) },
        samples: vec![Sample { mx: sample.0.into(), reply: sample.1.into() }],
    }
}

const SAMPLE: (&str, &str) = ("mx1.example.net", "421 4.7.0 You are too eager");

/// Name of the rule that decides, and its time in seconds.
fn found(rules: &Rules, mx: &str, text: &str) -> Option<(String, Option<u64>)> {
    let reply = reply(text);
    let found = rules.find(mx, &reply)?;
    Some((found.rule.name.clone(), found.time().map(|time| time.as_secs())))
}

#[test]
fn each_built_in_rule_fires_for_all_its_samples() {
    let count = builtin::rules().count();
    let rules = check::build(builtin::rules().collect(), Vec::new());
    let rules = rules.unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(rules.iter().count(), count);
    assert!(rules.iter().all(|rule| rule.mx.is_empty() || rule.samples.len() <= 4));
}

#[test]
fn the_receivers_ways_are_known() {
    let rules = Rules::new(Vec::new()).unwrap();
    for (mx, text, expected) in [
        // Refused for itself: the code says it all.
        ("aspmx.l.google.com", "550-5.7.26 This mail is unauthenticated. - gsmtp", None),
        ("aspmx.l.google.com", "550 5.1.1 The email account does not exist. - gsmtp", None),
        ("aspmx.l.google.com", "452 4.2.2 The recipient's inbox is out of storage space.", None),
        ("mx.example.net", "550 5.7.1 Sender is on the recipient's blacklist", None),
        ("mx.example.net", "550 5.7.1 Message from host 12 refused: sender in blacklist", None),
        ("mx.example.net", "550 5.7.1 Blocked: shop.example is on SURBL", None),
        ("mx.example.net", "451 4.3.0 Temporary lookup failure", None),
        ("mx.example.net", "452 4.1.1 ann@example.net 4.2.2 mailbox full", None),
        // The same words of another host are another rule's.
        ("mx.example.net", "451 4.7.1 Service unavailable - try again later", Some(300)),
        ("MX01.Mail.iCloud.com.", "451 4.7.1 Service unavailable - try again later", Some(900)),
        // A wait that is named wins over the rule's own, but never shortens a suspension.
        ("mx.example.net", "450 4.2.0 Greylisted, try again in 2 minutes", Some(120)),
        ("mx.example.net", "554 5.7.1 192.0.2.7 is blacklisted, retry in 1 minute", Some(3_600)),
        ("mx.example.net", "554 5.7.1 192.0.2.7 is blacklisted, retry in 5 hours", Some(18_000)),
        ("mx.example.net", "421 4.7.0 too many connections, retry in 5 hours", Some(900)),
    ] {
        let time = found(&rules, mx, text).and_then(|(_, time)| time);
        assert_eq!(time, expected, "{mx}: {text}");
    }
}

#[test]
fn one_senders_mistake_does_not_slow_the_others_at_google() {
    let rules = Rules::new(Vec::new()).unwrap();
    let scope = |what: &str| {
        let text =
            format!("421-4.7.28 Gmail has detected an unusual rate of unsolicited mail {what}");
        rules.find("aspmx.l.google.com", &reply(&text)).unwrap().rule.action.scope()
    };
    assert_eq!(scope("originating from your DKIM domain [a.de 36]"), Some(Scope::SenderDomain));
    assert_eq!(scope("originating from your IP address"), Some(Scope::Source));
}

#[test]
fn own_rules_come_first_and_replace_by_name() {
    let sample = ("mx.example.net", "450 4.2.0 Greylisted");
    let first = rule("mine", &["example.net"], &[], "greylist", sample);
    let mut named = rule("greylisting", &[], &[], "greylist", ("mx.example.org", sample.1));
    named.action = Action::Ignore;
    let rules = Rules::new(vec![first, named]).unwrap();
    assert_eq!(found(&rules, "mx.example.net", sample.1), Some(("mine".into(), Some(1_800))));
    assert_eq!(found(&rules, "mx.example.org", sample.1), None);
    let ignored = reply(sample.1);
    let ignored = rules.first("mx.example.org", &ignored).unwrap().rule;
    assert_eq!((ignored.name.as_str(), ignored.origin), ("greylisting", Origin::Config));
    let builtin = builtin::rules().count();
    assert_eq!(rules.iter().count(), builtin + 1, "one was replaced");
    assert_eq!(found(&Rules::default(), "mx.example.net", sample.1), None);
}

/// What is said about one rule, key and sentence.
#[track_caller]
fn refused(own: Vec<Rule>, keys: &str, sentence: &str) {
    let number = own.len() - 1;
    let problems = Rules::new(own).unwrap_err();
    let said: Vec<_> = problems.iter().map(|p| (p.keys[0], p.text.as_str())).collect();
    assert_eq!(said, [(keys, sentence)]);
    assert_eq!(problems[0].number, number);
}

#[test]
fn dead_and_shadowed_rules_are_refused() {
    let said = "has \"421 4.7.0 You are too eager\" from mx1.example.net: ";
    for (mx, codes, text, sentence) in [
        (&["example.com"][..], &[][..], "eager", "`mx` of this rule does not fit the host"),
        (&[], &["45*"], "eager", "`codes` of this rule do not fit the reply"),
        (&[], &["421"], "eagre", "`text` of this rule is not found in \"You are too eager\""),
        (&[], &["421"], r"\\[too\\]", "`text` of this rule is not found in \"You are too eager\""),
    ] {
        let rule = rule("a", mx, codes, text, SAMPLE);
        refused(vec![rule], "samples", &format!("{said}{sentence}"));
    }
    let wide = rule("wide", &[], &["421"], "", ("mx.example.org", "421 x"));
    let narrow = rule("narrow", &["example.net"], &["421"], "eager", SAMPLE);
    let sentence = "rule \"wide\" takes it before; put this rule above that one";
    refused(vec![wide.clone(), narrow.clone()], "samples", &format!("{said}{sentence}"));
    assert!(Rules::new(vec![narrow, wide]).is_ok());
}

#[test]
fn what_is_no_rule_is_refused() {
    let good = rule("a", &["example.net"], &["421"], "eager", SAMPLE);
    assert!(Rules::new(vec![good.clone()]).is_ok());
    let with = |change: fn(&mut Rule)| {
        let mut rule = good.clone();
        change(&mut rule);
        vec![rule]
    };
    let suffix = "\".example.net.\" fits no host; write \"example.net\", which covers all below it";
    refused(with(|r| r.mx = vec![".example.net.".into()]), "mx", suffix);
    refused(
        with(|r| r.mx = vec!["*.example.net".into()]),
        "mx",
        &suffix.replacen(".example.net.", "*.example.net", 1),
    );
    refused(
        with(|r| r.mx = vec!["Example.net".into()]),
        "mx",
        "has \"Example.net\"; write \"example.net\"",
    );
    refused(
        with(|r| r.codes = vec!["250".into()]),
        "codes",
        "\"250\" is not a code of a refusal; write it as \"421\", \"45*\", \"4.7.28\" or \"4.7.*\"",
    );
    refused(
        with(|r| r.text = Some("(a".into())),
        "text",
        "\"(a\" is not a regular expression: unclosed group",
    );
    refused(
        with(|r| r.text = Some("(a{1000}){1000}".into())),
        "text",
        "\"(a{1000}){1000}\" is too large a pattern; use fewer or smaller repetitions",
    );
    refused(
        with(|r| r.text = Some("x*".into())),
        "text",
        "\"x*\" is found in every text; leave the key out, or say more",
    );
    refused(
        with(|r| r.text = Some("x".repeat(1_001))),
        "text",
        "is a pattern of 1001 bytes, and may have 1000",
    );
    refused(
        with(|r| (r.codes, r.text) = (Vec::new(), None)),
        "codes",
        "is missing, as is `text`: give at least one",
    );
    refused(with(|r| r.samples.clear()), "samples", "is empty; give a reply that the rule is for");
    refused(
        with(|r| r.samples[0].reply = "eager".into()),
        "samples",
        "has \"eager\" from mx1.example.net: not an SMTP reply: \"eager\"",
    );
    refused(
        with(|r| r.samples[0].reply = "250 eager".into()),
        "samples",
        "has \"250 eager\" from mx1.example.net: it refuses nothing; rules are asked about 4xx and \
         5xx alone",
    );
    refused(
        vec![good.clone(), good.clone()],
        "name",
        "= \"a\" is there twice; a rule has its own name",
    );
}

#[test]
fn patterns_together_are_bounded() {
    let many = |n: usize| {
        let text = |i: usize| format!("{i:06}[a-z]{{800}}");
        let sample = |i: usize| ("mx.example.net", format!("421 {i:06}{}", "y".repeat(800)));
        let rules = (0..n).map(|i| {
            let (mx, said) = sample(i);
            rule(&i.to_string(), &[], &[], &text(i), (mx, said.as_str()))
        });
        Rules::new(rules.collect())
    };
    assert!(many(10).is_ok());
    let problems = many(1_000).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].text.starts_with("is one pattern too many"), "{problems:?}");
}

/// The rules without own ones, and the pattern of each by itself.
static BUILTIN: LazyLock<(Rules, Vec<regex::Regex>)> = LazyLock::new(|| {
    let rules = Rules::new(Vec::new()).unwrap();
    let alone = |rule: &Rule| {
        let text = rule.text.as_ref().unwrap();
        regex::RegexBuilder::new(text).case_insensitive(true).build().unwrap()
    };
    let patterns = rules.iter().map(alone).collect();
    (rules, patterns)
});

proptest! {
    #[test]
    fn the_first_that_matches_by_itself_is_found(
        host in "(mx1\\.|alt2\\.)?(google\\.com|example\\.net|web\\.de|protection\\.outlook\\.com)",
        code in prop_oneof![Just("421"), Just("450"), Just("451"), Just("550"), Just("554")],
        words in proptest::collection::vec(prop_oneof![
            Just("Greylisted"), Just("try again later"), Just("rate limit"), Just("IP"),
            Just("too many connections"), Just("Server busy"), Just("Spamhaus DBL"),
            Just("blacklist"), Just("in 5 minutes"), Just("rate limited because"), Just("é"),
        ], 0..5),
    ) {
        let (rules, patterns) = &*BUILTIN;
        let said = reply(&format!("{code} {}", words.join(" ")));
        let alone = rules.iter().zip(patterns).find(|(rule, pattern)| {
            let mx = rule.mx.is_empty() || rule.mx.iter().any(|suffix| is_below(&host, suffix));
            let codes = rule.codes.iter().map(|code| CodePattern::parse(code).unwrap());
            mx && Codes::new(codes).fit(&said) && pattern.is_match(&said.text)
        });
        let alone = alone.map(|(rule, _)| rule);
        prop_assert_eq!(rules.first(&host, &said).map(|found| found.rule), alone);
    }

    #[test]
    fn what_refuses_nothing_matches_nothing(code in 200u16..400, text in "[ -~]{0,40}") {
        let rules = &BUILTIN.0;
        let said = reply(&format!("{code} greylisted {text}"));
        prop_assert!(rules.first("mx.example.net", &said).is_none());
    }
}
