//! What makes a list of rules sound: each can fire, and does so for the replies it is made for.

use super::codes::Codes;
use super::{CodePattern, Entry, Rule, Rules, Sample};
use crate::base::address::Domain;
use crate::smtp::reply::Reply;
use regex::{RegexBuilder, RegexSetBuilder};

/// Longest regular expression, in bytes.
const PATTERN_MAX: usize = 1_000;
/// What one may become when it is compiled, in bytes.
const COMPILED_MAX: usize = 256 << 10;
/// And all together.
const ALL_COMPILED_MAX: usize = 16 << 20;

/// Something wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleProblem {
    /// Its place in the list that was given.
    pub number: usize,
    /// The key of `[[rules]]` that is wrong.
    pub keys: &'static [&'static str],
    /// What follows the key's name.
    pub text: String,
}

/// A name that MX hosts end in, in lower case: `google.com` is that of `aspmx.l.google.com`.
///
/// # Errors
/// A sentence: it could never fit a host's name.
pub fn mx_suffix(text: &str) -> Result<String, String> {
    let bare = text.trim_start_matches("*.").trim_matches('.');
    if bare != text {
        return Err(format!("{text:?} fits no host; write \"{bare}\", which covers all below it"));
    }
    let domain = Domain::parse(text);
    let domain = domain.map_err(|error| format!("{text:?} is not a host name: {error}"))?;
    Ok(domain.as_str().to_string())
}

/// Checks a regular expression for a rule's `text`.
///
/// # Errors
/// A sentence: it is no such, too long, or found in every text.
pub fn pattern(text: &str) -> Result<(), String> {
    if text.len() > PATTERN_MAX {
        return Err(format!("is a pattern of {} bytes, and may have {PATTERN_MAX}", text.len()));
    }
    let built = RegexBuilder::new(text).case_insensitive(true).size_limit(COMPILED_MAX).build();
    match built {
        Ok(regex) if regex.is_match("") => {
            Err(format!("{text:?} is found in every text; leave the key out, or say more"))
        }
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(format!("{text:?} is too large a pattern; use fewer or smaller repetitions"))
        }
        Err(error) => {
            // The last line says what is wrong; those before draw an arrow.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default();
            let why = why.trim_start_matches("error: ");
            Err(format!("{text:?} is not a regular expression: {why}"))
        }
    }
}

/// The list that is `own` and then `builtin`, if `own` is sound.
pub(super) fn build(own: Vec<Rule>, builtin: Vec<Rule>) -> Result<Rules, Vec<RuleProblem>> {
    let own_count = own.len();
    let mut problems = Vec::new();
    let mut rules = Rules::default();
    let mut texts = Vec::new();
    for (number, rule) in own.into_iter().chain(builtin).enumerate() {
        let mut problem = |keys, text| problems.push(RuleProblem { number, keys, text });
        for suffix in &rule.mx {
            match mx_suffix(suffix) {
                Ok(lower) if lower == *suffix => {}
                Ok(lower) => problem(&["mx"], format!("has {suffix:?}; write \"{lower}\"")),
                Err(sentence) => problem(&["mx"], sentence),
            }
        }
        let mut codes = Vec::new();
        for code in &rule.codes {
            CodePattern::parse(code)
                .map_or_else(|sentence| problem(&["codes"], sentence), |code| codes.push(code));
        }
        let place = rule.text.as_ref().map(|text| {
            // Those that come with the program are known to be sound: their test says so.
            if number < own_count
                && let Err(sentence) = pattern(text)
            {
                problem(&["text"], sentence);
            }
            texts.push(text.clone());
            texts.len() - 1
        });
        rules.list.push(Entry { rule, codes: Codes::new(codes), text: place });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let set =
        RegexSetBuilder::new(&texts).case_insensitive(true).size_limit(ALL_COMPILED_MAX).build();
    let too_large = |_| {
        let text = "is one pattern too many: all together they are too large".to_string();
        vec![RuleProblem { number: own_count.saturating_sub(1), keys: &["text"], text }]
    };
    rules.texts = set.map_err(too_large)?;
    for number in 0..own_count {
        check(&rules, number, &mut problems);
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

/// What is wrong with one rule among the others.
fn check(rules: &Rules, number: usize, problems: &mut Vec<RuleProblem>) {
    let Some(Entry { rule, .. }) = rules.list.get(number) else { return };
    let mut problem = |keys, text| problems.push(RuleProblem { number, keys, text });
    if rules.iter().take(number).any(|earlier| earlier.name == rule.name) {
        let text = format!("= {:?} is there twice; a rule has its own name", rule.name);
        return problem(&["name"], text);
    }
    if rule.codes.is_empty() && rule.text.is_none() {
        problem(&["codes", "text"], "is missing, as is `text`: give at least one".to_string());
    }
    if rule.samples.is_empty() {
        problem(&["samples"], "is empty; give a reply that the rule is for".to_string());
    }
    for sample in &rule.samples {
        if let Err(sentence) = check_sample(rules, number, sample) {
            let Sample { mx, reply } = sample;
            problem(&["samples"], format!("has {reply:?} from {mx}: {sentence}"));
        }
    }
}

fn check_sample(rules: &Rules, number: usize, sample: &Sample) -> Result<(), String> {
    let Some(entry) = rules.list.get(number) else { return Ok(()) };
    let reply = Reply::parse(&sample.reply).map_err(|error| error.to_string())?;
    if !(400..600).contains(&reply.code) {
        return Err("it refuses nothing; rules are asked about 4xx and 5xx alone".to_string());
    }
    let host = mx_suffix(&sample.mx).map_err(|error| format!("{error}; name the MX host"))?;
    if !entry.fits_host(&host) {
        return Err("`mx` of this rule does not fit the host".to_string());
    }
    if !entry.codes.fit(&reply) {
        return Err("`codes` of this rule do not fit the reply".to_string());
    }
    let found = |place| rules.texts.matches(&reply.text).matched(place);
    if !entry.text.is_none_or(found) {
        return Err(format!("`text` of this rule is not found in {:?}", reply.text));
    }
    match rules.first_place(&host, &reply) {
        Some(first) if first != number => {
            let taker = rules.list.get(first).map_or("", |entry| &entry.rule.name);
            Err(format!("rule {taker:?} takes it before; put this rule above that one"))
        }
        _ => Ok(()),
    }
}
