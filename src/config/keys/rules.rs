//! Keys of `[[rules]]`: what to do about a receiver's own words.

use super::parse::rule_name;
use super::{Fallback::Inherited, Fallback::Required, Section, Shape, key, last};
use crate::config::rules::{Draft, Verb};
use crate::config::value::{Read, Value};
use crate::policy::rules::{CodePattern, Sample, Scope, mx_suffix, pattern};

pub(super) const RULES: Section = Section {
    name: "rules",
    doc: "What a receiver's refusal asks of us beyond the one delivery. The first rule that \
          matches decides: yours in this order, then the built-in ones (`bulkhead rules list`), of \
          which one of yours with the same name replaces one. Try a reply with `bulkhead rules \
          test`, and yesterday's with `bulkhead rules replay`. One [[rules]] for each.",
    shape: Shape::List {
        clear: |c| c.rule_drafts.clear(),
        begin: |c| c.rule_drafts.push(Draft::default()),
    },
    keys: &[
        key("name", Required("\"example-eager\""), "In the log and in `rules` output.", |c, v| {
            last(&mut c.rule_drafts, v.parsed("\"example-eager\"", rule_name), |r, n| r.name = n)
        }),
        key(
            "mx",
            Inherited("[\"example.net\"]"),
            "Receivers whose MX hosts have these names, or names that end in them. Without this \
             key: any.",
            |c, v| {
                let each = |v: Value<'_>| v.parsed("\"example.net\"", mx_suffix);
                last(&mut c.rule_drafts, v.list("\"example.net\"", each), |r, mx| r.mx = mx)
            },
        ),
        key(
            "codes",
            Inherited("[\"421\", \"45*\", \"4.7.*\"]"),
            "Codes of the reply, and enhanced codes: of each kind that is listed, one must fit. \
             Without this key: any 4xx or 5xx.",
            |c, v| {
                let each = |v: Value<'_>| {
                    v.parsed("\"421\"", |text| CodePattern::parse(text).map(|_| text.to_string()))
                };
                last(&mut c.rule_drafts, v.list("\"421\"", each), |r, codes| r.codes = codes)
            },
        ),
        key(
            "text",
            Inherited("'too (eager|many messages)'"),
            "A regular expression that is found somewhere in the reply's text, in capital letters \
             or small ones. Without this key: any text.",
            |c, v| {
                let text = v.parsed("'too many'", |text| pattern(text).map(|()| text.to_string()));
                last(&mut c.rule_drafts, text, |r, text| r.text = Some(text))
            },
        ),
        key(
            "action",
            Required("\"slow_down\""),
            "What then: \"slow_down\" (send less), \"fewer_connections\", \"suspend\" (send \
             nothing), \"try_other_source\" (send nothing from this one of the [sources]), \
             \"retry_after\" (try this delivery again then, at nobody's fault), \"fail\" (this \
             delivery fails for good), or \"ignore\" (as if there were no rules). All but the last \
             two keep the delivery even where the reply is permanent (5xx).",
            |c, v| {
                let words = [
                    ("slow_down", Verb::SlowDown),
                    ("suspend", Verb::Suspend),
                    ("retry_after", Verb::RetryAfter),
                    ("fewer_connections", Verb::FewerConnections),
                    ("try_other_source", Verb::TryOtherSource),
                    ("fail", Verb::Fail),
                    ("ignore", Verb::Ignore),
                ];
                last(&mut c.rule_drafts, v.word(&words), |r, verb| r.verb = verb)
            },
        ),
        key(
            "scope",
            Inherited("\"sender_domain\""),
            "Whose mail to that site is slowed down or suspended: of the whole \"site\", of what \
             goes there from the same \"source\", of the delivery's \"tenant\", or of its \
             \"sender_domain\". Without this key: of the site.",
            |c, v| {
                let words = [
                    ("site", Scope::Site),
                    ("source", Scope::Source),
                    ("tenant", Scope::Tenant),
                    ("sender_domain", Scope::SenderDomain),
                ];
                last(&mut c.rule_drafts, v.word(&words), |r, scope| r.scope = Some(scope))
            },
        ),
        key(
            "time",
            Inherited("\"30m\""),
            "For how long, or after how long (\"10s\" to \"7d\"); a wait that the reply names is \
             obeyed. Without this key: \"30m\" to slow down, \"15m\" for fewer connections, \"1h\" \
             to suspend or to try another source, \"5m\" to retry.",
            |c, v| last(&mut c.rule_drafts, v.duration("10s", "7d"), |r, time| r.time = Some(time)),
        ),
        key(
            "samples",
            Required("[[\"mx1.example.net\", \"421 4.7.0 You are too eager\"]]"),
            "Hosts and replies that this rule is for. A rule that does not match one of them, or \
             never gets to see it because a rule above takes it, is a mistake and refused.",
            |c, v| last(&mut c.rule_drafts, samples(v), |r, samples| r.samples = samples),
        ),
    ],
};

fn samples(value: Value<'_>) -> Read<Vec<Sample>> {
    const EXAMPLE: &str = "[\"mx1.example.net\", \"421 4.7.0 Slow down\"]";
    value.list(EXAMPLE, |pair| {
        let text = |v: Value<'_>| v.parsed("\"mx1.example.net\"", |text| Ok(text.to_string()));
        let words = pair.list("\"mx1.example.net\", \"421 4.7.0 Slow down\"", text)?;
        match <[String; 2]>::try_from(words) {
            Ok([mx, reply]) => Ok(Sample { mx, reply }),
            Err(_) => pair.said(&format!("a sample is a host and its reply, such as {EXAMPLE}")),
        }
    })
}
