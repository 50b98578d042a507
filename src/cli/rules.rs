//! `bulkhead rules`: which rules there are, and what they make of a reply. Needs no node.

use super::args::{Common, RulesVerb};
use super::queue::json_line;
use super::table::Align::{Left, Right};
use super::table::{Column, safe, table};
use super::{Failure, replay};
use crate::base::time::human;
use crate::config::{Config, ConfigErrors};
use crate::policy::rules::{Action, Found, Origin, Rule, Rules, Scope};
use crate::smtp::reply::Reply;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

const RULES: [Column; 6] = [
    Column("RULE", 0, Left),
    Column("FROM", 0, Left),
    Column("ACTION", 0, Left),
    Column("SCOPE", 0, Left),
    Column("TIME", 0, Right),
    Column("RECEIVER", 0, Left),
];

pub(super) fn run(common: &Common, verb: &RulesVerb, out: &mut impl Write) -> Result<(), Failure> {
    let rules = loaded(common.load())?;
    match verb {
        RulesVerb::List if common.json => {
            let list: Vec<Value> = rules.iter().map(whole).collect();
            writeln!(out, "{}", json_line(&list)?)?;
        }
        RulesVerb::List => {
            let rows: Vec<_> = rules.iter().map(row).collect();
            write!(out, "{}", table(&RULES, &rows))?;
        }
        RulesVerb::Test { mx, reply } => {
            return test(&rules, mx.as_deref(), &reply.join(" "), common.json, out);
        }
        RulesVerb::Replay { log, against } => {
            let other = match against {
                Some(path) => Some(loaded(Config::load(path))?),
                None => None,
            };
            return replay::run(log, &rules, other.as_ref(), common.json, out);
        }
    }
    Ok(())
}

fn loaded(config: Result<Config, ConfigErrors>) -> Result<Rules, Failure> {
    config.map(|config| config.rules).map_err(|errors| Failure::Usage(errors.to_string()))
}

fn row(rule: &Rule) -> Vec<String> {
    let mx = if rule.mx.is_empty() { "any".to_string() } else { rule.mx.join(", ") };
    let [action, scope, time] = action_cells(rule.action);
    vec![rule.name.clone(), from(rule).to_string(), action, scope, time, mx]
}

fn from(rule: &Rule) -> &'static str {
    match rule.origin {
        Origin::Builtin => "built in",
        Origin::Config => "config",
    }
}

/// Action, scope, time.
pub(super) fn action_cells(action: Action) -> [String; 3] {
    let scope = match action {
        Action::Ignore => "-",
        action => action.scope().map_or("delivery", Scope::as_str),
    };
    let time = action.time().map_or("-".to_string(), human);
    [action.as_str().to_string(), scope.to_string(), time]
}

/// What a rule does, as JSON.
pub(super) fn brief(rule: &Rule) -> Value {
    let Rule { name, origin, action, .. } = rule;
    json!({
        "rule": name,
        "origin": origin,
        "action": action.as_str(),
        "scope": action.scope().map(Scope::as_str),
        "time_s": action.time().map(|time| time.as_secs()),
    })
}

fn whole(rule: &Rule) -> Value {
    let mut all = brief(rule);
    let samples: Vec<_> = rule.samples.iter().map(|sample| [&sample.mx, &sample.reply]).collect();
    all["mx"] = json!(rule.mx);
    all["codes"] = json!(rule.codes);
    all["text"] = json!(rule.text);
    all["samples"] = json!(samples);
    all
}

/// What a reply leads to, from some hosts.
struct Answer<'r> {
    /// Suffixes of their names; empty: those of all other hosts.
    mx: Vec<String>,
    found: Option<Found<'r>>,
}

fn test(
    rules: &Rules,
    mx: Option<&str>,
    text: &str,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let reply = Reply::parse(text).map_err(|error| Failure::Usage(error.to_string()))?;
    let answers = match mx {
        Some(host) => {
            vec![Answer { mx: vec![host.to_string()], found: rules.first(host, &reply) }]
        }
        None => by_receiver(rules, &reply),
    };
    if as_json {
        let answers: Vec<Value> = answers.iter().map(|answer| as_value(answer, &reply)).collect();
        let answer = json!({ "reply": reply.to_string(), "answers": answers });
        writeln!(out, "{}", json_line(&answer)?)?;
    } else {
        for answer in &answers {
            writeln!(out, "{}", sentence(answer, answers.len() > 1, &reply))?;
        }
    }
    if answers.iter().any(|answer| answer.found.is_some()) {
        return Ok(());
    }
    Err(Failure::Trouble("no rule matches".to_string()))
}

/// What the reply means from a host that no rule names, and from those where it means another
/// thing.
fn by_receiver<'r>(rules: &'r Rules, reply: &Reply) -> Vec<Answer<'r>> {
    let mut answers = vec![Answer { mx: Vec::new(), found: rules.first("", reply) }];
    let mut seen: Vec<&String> = Vec::new();
    for suffix in rules.iter().flat_map(|rule| &rule.mx) {
        if seen.contains(&suffix) {
            continue;
        }
        seen.push(suffix);
        let found = rules.first(suffix, reply);
        let same = answers.iter_mut().find(|answer| answer.found == found);
        match same {
            Some(Answer { mx, .. }) if !mx.is_empty() => mx.push(suffix.clone()),
            Some(_) => {}
            None => answers.push(Answer { mx: vec![suffix.clone()], found }),
        }
    }
    // The answer of most hosts is the last, unless it is the only one.
    answers.rotate_left(1);
    answers
}

fn as_value(answer: &Answer<'_>, reply: &Reply) -> Value {
    let mut value = answer.found.map_or_else(|| json!({ "rule": null }), |f| brief(f.rule));
    let seconds = |time: Option<Duration>| json!(time.map(|time| time.as_secs()));
    value["mx"] = json!(answer.mx);
    value["named_s"] = seconds(answer.found.and_then(|found| found.named));
    value["time_s"] = seconds(answer.found.and_then(|found| found.time()));
    value["what"] = json!(what(answer.found.as_ref(), reply));
    value
}

fn sentence(answer: &Answer<'_>, several: bool, reply: &Reply) -> String {
    let hosts = match answer.mx.as_slice() {
        [] if several => "from any other host".to_string(),
        [] => "from any host".to_string(),
        hosts => format!("from {}", safe(&hosts.join(", "))),
    };
    let rule = match &answer.found {
        Some(Found { rule, .. }) => format!("rule {} ({})", rule.name, from(rule)),
        None => "no rule".to_string(),
    };
    format!("{hosts}: {rule}: {}", what(answer.found.as_ref(), reply))
}

/// What would happen, in one sentence.
fn what(found: Option<&Found<'_>>, reply: &Reply) -> String {
    let code = if reply.is_permanent() {
        "by its code, this delivery fails for good (said in a greeting or to EHLO, it is tried \
         again)"
    } else if reply.code >= 400 {
        "by its code, this delivery is tried again by the schedule"
    } else {
        "it refuses nothing"
    };
    let Some(found) = found else { return code.to_string() };
    let time = found.time().map(human).unwrap_or_default();
    let asked = found.named.map(|named| format!("not before {}, as the reply asks", human(named)));
    let sentence = match found.rule.action {
        Action::SlowDown { scope, .. } => {
            let again = asked.unwrap_or_else(|| "by the schedule".to_string());
            let whose = whose(scope);
            format!("mail {whose} is sent slower for {time}, and this delivery tried again {again}")
        }
        Action::Suspend { scope, .. } => {
            let whose = whose(scope);
            format!("no mail {whose} is sent for {time}, and this delivery tried again after that")
        }
        Action::FewerConnections(_) => {
            let again = asked.unwrap_or_else(|| "by the schedule".to_string());
            format!(
                "half as many connections to this site are kept for {time}, and this delivery \
                 tried again {again}"
            )
        }
        Action::TryOtherSource(_) => format!(
            "no mail {} is sent for {time}; this delivery is tried again at once from another \
             source that it may use, else after that",
            whose(Scope::Source)
        ),
        Action::RetryAfter(_) => {
            let why = if asked.is_some() { ", as the reply asks" } else { "" };
            format!("this delivery is tried again in {time}{why}; other mail is not concerned")
        }
        Action::Fail => "this delivery fails for good, and its sender is told".to_string(),
        Action::Ignore => return format!("as if there were no rules: {code}"),
    };
    let keeps = reply.is_permanent() && found.rule.action != Action::Fail;
    if keeps { format!("{sentence}, though the reply is permanent") } else { sentence }
}

fn whose(scope: Scope) -> &'static str {
    match scope {
        Scope::Site => "to this site",
        Scope::Source => "from the same source to this site",
        Scope::Tenant => "of this tenant to this site",
        Scope::SenderDomain => "from this sender's domain to this site",
    }
}
