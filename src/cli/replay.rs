//! `bulkhead rules replay`: the replies of a log put to the rules, once more.
//!
//! The log is read as a stream. What is kept of it is bounded: a count and two examples for each
//! rule, for each way two files differ, and for each shape of reply that no rule matches, of which
//! the first [`SHAPES_MAX`] are told apart.

use super::Failure;
use super::queue::json_line;
use super::rules::{action_cells, brief};
use super::table::Align::{Left, Right};
use super::table::{Column, grouped, safe, table};
use crate::observe::read::{Logged, attempt};
use crate::policy::rules::{Action, Rule, Rules};
use crate::smtp::reply::Reply;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

/// Longer lines are none of ours, in bytes.
const LINE_MAX: u64 = 64 << 10;
/// Shapes of replies that are told apart.
const SHAPES_MAX: usize = 10_000;
/// And of those, how many are shown to people.
const SHAPES_SHOWN: usize = 20;
/// Longest shape, in characters.
const SHAPE_LENGTH_MAX: usize = 200;

/// Replays `log` and tells what came of it.
pub(super) fn run(
    log: &Path,
    rules: &Rules,
    against: Option<&Rules>,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let mut replay = Replay::new(rules, against);
    let cannot =
        |error: io::Error| Failure::Usage(format!("cannot read {}: {error}", log.display()));
    if log == Path::new("-") {
        replay.read(io::stdin().lock()).map_err(cannot)?;
    } else {
        replay.read(BufReader::new(File::open(log).map_err(cannot)?)).map_err(cannot)?;
    }
    if replay.attempts == 0 {
        return Err(Failure::Trouble(format!(
            "{} has no delivery.* events; give it the log of a node, at level info",
            log.display()
        )));
    }
    if as_json {
        writeln!(out, "{}", json_line(&replay.json())?)?;
    } else {
        write!(out, "{}", replay.text())?;
    }
    Ok(())
}

/// How often, when, and what it looks like.
#[derive(Clone, Debug, Serialize)]
struct Tally {
    count: u64,
    first_at: String,
    first: String,
    last_at: String,
    last: String,
    /// Host of `last`.
    host: String,
}

impl Tally {
    fn new(logged: &Logged) -> Self {
        let Logged { at, host, reply } = logged.clone();
        Self {
            count: 1,
            first_at: at.clone(),
            first: reply.clone(),
            last_at: at,
            last: reply,
            host,
        }
    }

    fn add(&mut self, logged: &Logged) {
        self.count += 1;
        self.last_at.clone_from(&logged.at);
        self.last.clone_from(&logged.reply);
        self.host.clone_from(&logged.host);
    }
}

/// One more under `key`.
fn count<K: Ord>(tallies: &mut BTreeMap<K, Tally>, key: K, logged: &Logged) {
    tallies.entry(key).and_modify(|tally| tally.add(logged)).or_insert_with(|| Tally::new(logged));
}

/// A rule's place in its list; `None`: no rule.
type Place = Option<usize>;

struct Replay<'r> {
    rules: &'r Rules,
    against: Option<&'r Rules>,
    attempts: u64,
    refusals: u64,
    first_at: String,
    last_at: String,
    by_rule: BTreeMap<usize, Tally>,
    /// By the rule that decides now, and that of the other file.
    changes: BTreeMap<(Place, Place), Tally>,
    unmatched: HashMap<String, Tally>,
    /// Of shapes that came when there were too many.
    unmatched_more: u64,
}

impl<'r> Replay<'r> {
    fn new(rules: &'r Rules, against: Option<&'r Rules>) -> Self {
        Self {
            rules,
            against,
            attempts: 0,
            refusals: 0,
            first_at: String::new(),
            last_at: String::new(),
            by_rule: BTreeMap::new(),
            changes: BTreeMap::new(),
            unmatched: HashMap::new(),
            unmatched_more: 0,
        }
    }

    fn read(&mut self, mut log: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        // True inside of a line that is too long.
        let mut cut = false;
        loop {
            line.clear();
            if log.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let whole = line.ends_with(b"\n") || (line.len() as u64) < LINE_MAX;
            if whole
                && !cut
                && let Some(logged) = attempt(&String::from_utf8_lossy(&line))
            {
                self.hear(&logged);
            }
            cut = !whole;
        }
    }

    fn hear(&mut self, logged: &Logged) {
        self.attempts += 1;
        if self.first_at.is_empty() {
            self.first_at.clone_from(&logged.at);
        }
        self.last_at.clone_from(&logged.at);
        // What is no reply is an error of ours; what is positive asks for nothing.
        let reply = Reply::parse(&logged.reply).ok().filter(|reply| reply.code >= 400);
        let Some(reply) = reply.filter(|_| !logged.host.is_empty()) else { return };
        self.refusals += 1;
        let now = place(self.rules, &logged.host, &reply);
        if let Some(other) = self.against {
            let then = place(other, &logged.host, &reply);
            if outcome(self.rules, now) != outcome(other, then) {
                count(&mut self.changes, (now, then), logged);
            }
        }
        match now {
            Some(now) => count(&mut self.by_rule, now, logged),
            None => self.unmatched(&reply, logged),
        }
    }

    fn unmatched(&mut self, reply: &Reply, logged: &Logged) {
        let shape = shape(reply);
        if let Some(tally) = self.unmatched.get_mut(&shape) {
            tally.add(logged);
        } else if self.unmatched.len() < SHAPES_MAX {
            self.unmatched.insert(shape, Tally::new(logged));
        } else {
            self.unmatched_more += 1;
        }
    }

    /// Most frequent first.
    fn shapes(&self) -> Vec<&Tally> {
        let mut shapes: Vec<_> = self.unmatched.iter().collect();
        shapes.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then(a.cmp(b)));
        shapes.into_iter().map(|(_, tally)| tally).collect()
    }

    fn json(&self) -> Value {
        let rule = |rules: &Rules, place: Place| rule(rules, place).map(brief);
        let by_rule: Vec<Value> = self
            .by_rule
            .iter()
            .map(|(at, replies)| json!({ "rule": rule(self.rules, Some(*at)), "replies": replies }))
            .collect();
        let mut answer = json!({
            "attempts": self.attempts,
            "refusals": self.refusals,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "rules": by_rule,
            "unmatched": self.shapes(),
            "unmatched_more": self.unmatched_more,
        });
        if let Some(other) = self.against {
            let change = |((now, then), replies): (&(Place, Place), &Tally)| {
                let (now, then) = (rule(self.rules, *now), rule(other, *then));
                json!({ "now": now, "then": then, "replies": replies })
            };
            answer["changes"] = self.changes.iter().map(change).collect();
        }
        answer
    }

    fn text(&self) -> String {
        let matched: u64 = self.by_rule.values().map(|tally| tally.count).sum();
        let mut out = format!(
            "{} refusals in {} attempts from {} to {}: {} match a rule\n",
            grouped(self.refusals),
            grouped(self.attempts),
            safe(&self.first_at),
            safe(&self.last_at),
            grouped(matched),
        );
        if !self.by_rule.is_empty() {
            out.push('\n');
            out.push_str(&self.rules_table());
        }
        let shapes = self.shapes();
        if !shapes.is_empty() {
            let rows: Vec<_> = shapes.iter().take(SHAPES_SHOWN).map(|t| shape_row(t)).collect();
            out.push('\n');
            out.push_str(&table(&UNMATCHED, &rows));
        }
        let hidden = shapes.iter().skip(SHAPES_SHOWN).map(|tally| tally.count).sum::<u64>();
        if hidden + self.unmatched_more > 0 {
            let more = grouped(hidden + self.unmatched_more);
            out.push_str(&format!("{more} more that no rule matches (--json lists their kinds)\n"));
        }
        if let Some(other) = self.against {
            out.push('\n');
            out.push_str(&self.changes_text(other));
        }
        out
    }

    fn rules_table(&self) -> String {
        let row = |(at, tally): (&usize, &Tally)| {
            let rule = rule(self.rules, Some(*at))?;
            let [action, scope, time] = action_cells(rule.action);
            let Tally { count, first_at, last_at, .. } = tally;
            let (first_at, last_at) = (safe(first_at), safe(last_at));
            let count = grouped(*count);
            Some(vec![
                count,
                rule.name.clone(),
                action,
                scope,
                time,
                first_at,
                last_at,
                safe(&tally.last),
            ])
        };
        let rows: Vec<_> = self.by_rule.iter().filter_map(row).collect();
        table(&MATCHED, &rows)
    }

    fn changes_text(&self, other: &Rules) -> String {
        let count: u64 = self.changes.values().map(|tally| tally.count).sum();
        if count == 0 {
            return "the other file would have changed nothing\n".to_string();
        }
        let row = |((now, then), tally): (&(Place, Place), &Tally)| {
            let (now, then) = (named(self.rules, *now), named(other, *then));
            vec![grouped(tally.count), now, then, safe(&tally.host), safe(&tally.last)]
        };
        let rows: Vec<_> = self.changes.iter().map(row).collect();
        let head = format!("the other file would have changed {}:\n", grouped(count));
        head + &table(&CHANGES, &rows)
    }
}

const MATCHED: [Column; 8] = [
    Column("REPLIES", 0, Right),
    Column("RULE", 0, Left),
    Column("ACTION", 0, Left),
    Column("SCOPE", 0, Left),
    Column("TIME", 0, Right),
    Column("FIRST", 0, Left),
    Column("LAST", 0, Left),
    Column("LAST REPLY", 0, Left),
];

const UNMATCHED: [Column; 3] =
    [Column("REPLIES", 0, Right), Column("HOST", 0, Left), Column("NO RULE MATCHES", 0, Left)];

const CHANGES: [Column; 5] = [
    Column("REPLIES", 0, Right),
    Column("NOW", 0, Left),
    Column("THEN", 0, Left),
    Column("HOST", 0, Left),
    Column("LAST REPLY", 0, Left),
];

fn shape_row(tally: &Tally) -> Vec<String> {
    vec![grouped(tally.count), safe(&tally.host), safe(&tally.last)]
}

fn place(rules: &Rules, host: &str, reply: &Reply) -> Place {
    let found = rules.first(host, reply)?.rule;
    rules.iter().position(|rule| rule.name == found.name)
}

fn rule(rules: &Rules, place: Place) -> Option<&Rule> {
    rules.iter().nth(place?)
}

/// What is done, whichever rule says so.
fn outcome(rules: &Rules, place: Place) -> Option<Action> {
    rule(rules, place).map(|rule| rule.action).filter(|action| *action != Action::Ignore)
}

/// `greylisting: retry_after delivery 5m`
fn named(rules: &Rules, place: Place) -> String {
    let Some(rule) = rule(rules, place) else { return "no rule".to_string() };
    format!("{}: {}", rule.name, action_cells(rule.action).join(" "))
}

/// A reply without what differs from one to the next: words with a digit in them, and addresses.
fn shape(reply: &Reply) -> String {
    let mut shape = reply.code.to_string();
    if let Some(enhanced) = reply.enhanced {
        shape.push_str(&format!(" {enhanced}"));
    }
    for word in reply.text.split_whitespace() {
        let varies = word.contains(|c: char| c.is_ascii_digit() || c == '@');
        shape.push(' ');
        shape.push_str(if varies { "#" } else { word });
    }
    shape.chars().take(SHAPE_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: u32, host: &str, reply: &str) -> String {
        format!(
            "2026-11-23T00:45:{second:02}.000Z  INFO delivery.deferred id=1 tenant=\"a\" \
             host={host:?} next=\"x\" reply={reply:?}\n"
        )
    }

    fn replayed<'r>(log: &str, rules: &'r Rules, against: Option<&'r Rules>) -> Replay<'r> {
        let mut replay = Replay::new(rules, against);
        replay.read(log.as_bytes()).unwrap();
        replay
    }

    #[test]
    fn only_what_a_receiver_refused_counts() {
        let rules = Rules::new(Vec::new()).unwrap();
        let log = [
            line(1, "mx.example.net[192.0.2.7]", "450 4.2.0 Greylisted"),
            line(2, "mx.example.net[192.0.2.7]", "250 Ok"),
            line(3, "mx.example.net[192.0.2.7]", "connection reset (DATA)"),
            line(4, "", "450 greylisted, but by nobody"),
            format!("{}\n", "x".repeat(200_000)),
            format!("{}{}", "x".repeat(65_536), line(5, "mx.example.net", "450 greylisted")),
            "2026-11-23T00:46:00.000Z  INFO node.drained took_ms=5\n".to_string(),
            line(6, "mx2.example.net[192.0.2.7]", "450 4.2.0 Greylisted again"),
        ];
        let replay = replayed(&log.concat(), &rules, None);
        assert_eq!((replay.attempts, replay.refusals, replay.by_rule.len()), (5, 2, 1));
        let Some(tally) = replay.by_rule.values().next() else { panic!("one rule") };
        assert_eq!(
            (tally.first.as_str(), tally.last.as_str()),
            ("450 4.2.0 Greylisted", "450 4.2.0 Greylisted again")
        );
        assert_eq!((tally.count, tally.host.as_str()), (2, "mx2.example.net"));
    }

    #[test]
    fn replies_without_a_rule_are_grouped_by_shape() {
        let rules = Rules::new(Vec::new()).unwrap();
        let mut log = String::new();
        for n in 0..3 {
            let reply = format!("550 5.1.1 <ann{n}@a.de>: unknown, id {n}x7");
            log.push_str(&line(n, "mx.a.de", &reply));
        }
        log.push_str(&line(9, "mx.b.de", "550 5.2.1 Disabled"));
        for n in 0..SHAPES_MAX + 5 {
            let word: String = n.to_string().chars().map(|c| char::from(c as u8 + 49)).collect();
            log.push_str(&line(9, "mx.c.de", &format!("450 4.3.0 {word}")));
        }
        let replay = replayed(&log, &rules, None);
        let shapes = replay.shapes();
        let counts: Vec<_> = shapes.iter().map(|tally| tally.count).take(3).collect();
        assert_eq!(counts, [3, 1, 1]);
        assert_eq!(shapes[0].last, "550 5.1.1 <ann2@a.de>: unknown, id 2x7");
        assert_eq!((shapes.len(), replay.unmatched_more), (SHAPES_MAX, 7));
        assert!(replay.text().contains("more that no rule matches"));
    }

    #[test]
    fn a_changed_file_is_held_against_the_present_one() {
        let now = Rules::new(Vec::new()).unwrap();
        let mut own = now.iter().find(|rule| rule.name == "greylisting").unwrap().clone();
        own.action = Action::Fail;
        let then = Rules::new(vec![own]).unwrap();
        let log =
            line(1, "mx.a.de", "450 Greylisted") + &line(2, "mx.a.de", "421 Too many sessions");
        let text = replayed(&log, &now, Some(&then)).text();
        assert!(
            text.contains("greylisting: retry_after delivery 5m  greylisting: fail delivery -"),
            "{text}"
        );
        assert!(text.contains("would have changed 1:\n"), "{text}");
        let same = replayed(&log, &now, Some(&now)).text();
        assert!(same.ends_with("\nthe other file would have changed nothing\n"), "{same}");
        let json = replayed(&log, &now, Some(&then)).json();
        assert_eq!(json["changes"][0]["then"]["action"], "fail");
        assert_eq!(json["changes"][0]["replies"]["count"], 1);
    }
}
