//! The strict reader: a TOML text onto a [`Config`], with all that is wrong with it.
//!
//! It never stops at the first problem: what can be read is read, the rest is reported. Only where
//! the text is not TOML, the mistakes in its syntax are all that is told.

use super::Config;
use super::keys::{Fallback, Key, SECTIONS, Section, Shape};
use super::value::{Problem, Value, quote, write};
use crate::base::text::printable;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// Most keys listed in an error that has no better suggestion.
const KNOWN_SHOWN_MAX: usize = 8;
/// Longest name repeated in an error, in characters.
const NAME_SHOWN_MAX: usize = 60;
/// How alike a misspelt key must be (Jaro-Winkler) to be suggested.
const ALIKE_MIN: f64 = 0.8;

/// One occurrence of a section, as the file has it.
pub(super) struct Block {
    /// Which.
    pub(super) section: &'static Section,
    /// `[limits]`, `[[tenants]]`, `[sites."gmail.com"]`; empty for the top of the file.
    pub(super) header: String,
    /// Byte of the file where it begins; 0 for a plain `[section]`.
    pub(super) at: usize,
    /// Its keys that are in the file.
    pub(super) given: Vec<Given>,
    /// Some of its keys could not be read, or are missing.
    pub(super) troubled: bool,
}

impl Block {
    /// `[limits] hops`; just `hostname` at the top of the file.
    pub(super) fn name_of(&self, key: &str) -> String {
        match self.header.as_str() {
            "" => key.to_string(),
            header => format!("{header} {key}"),
        }
    }
}

/// A key in the file.
pub(super) struct Given {
    pub(super) name: &'static str,
    /// As TOML, on one line.
    pub(super) value: String,
    /// Byte of the file where the value begins.
    pub(super) at: usize,
}

/// Reads `text` onto `config`. What could not be read stays as it was.
pub(super) fn read(text: &str, config: &mut Config) -> (Vec<Block>, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let syntax = |error: &toml::de::Error| Problem {
        at: error.span().map_or(0, |span| span.start),
        text: error.message().lines().collect::<Vec<_>>().join("; "),
    };
    if !errors.is_empty() {
        // What was recovered after a mistake in the syntax would be reported for what it is not.
        return (Vec::new(), errors.iter().map(syntax).collect());
    }
    let mut reader = Reader { config, blocks: Vec::new(), problems: Vec::new() };
    reader.table("", table.get_ref());
    (reader.blocks, reader.problems)
}

struct Reader<'c> {
    config: &'c mut Config,
    blocks: Vec<Block>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The table at `path`, which is a section of the file or leads to some.
    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        let header = if path.is_empty() { String::new() } else { format!("[{path}]") };
        match SECTIONS.iter().find(|s| s.name == path && matches!(s.shape, Shape::Table)) {
            Some(section) => self.section(section, Some(path), header, 0, table),
            None => self.others(&[], Some(path), &header, table),
        }
    }

    /// One occurrence of a section. `path` is where sections below it are looked for, if any can
    /// be.
    fn section(
        &mut self,
        section: &'static Section,
        path: Option<&str>,
        header: String,
        at: usize,
        table: &DeTable<'_>,
    ) {
        let mut block = Block { section, header, at, given: Vec::new(), troubled: false };
        for (key, value) in in_order(table) {
            let Some(declared) = section.keys.iter().find(|k| k.name == key.get_ref()) else {
                continue;
            };
            let value = Value(value);
            let written = write(value.0.get_ref());
            block.given.push(Given { name: declared.name, value: written, at: value.at() });
            for problem in (declared.read)(self.config, value).err().unwrap_or_default() {
                block.troubled = true;
                let text = format!("{}{}", block.name_of(declared.name), problem.text);
                self.problems.push(Problem { at: problem.at, text });
            }
        }
        block.troubled |= self.lacks(&block);
        self.others(section.keys, path, &block.header, table);
        self.blocks.push(block);
    }

    /// What in `table` is none of `keys`: sections below `path`, and mistakes.
    fn others(&mut self, keys: &[Key], path: Option<&str>, header: &str, table: &DeTable<'_>) {
        for (key, value) in in_order(table) {
            let name: &str = key.get_ref();
            if keys.iter().any(|k| k.name == name) {
                continue;
            }
            let below = match path {
                Some("") => Some(name.to_string()),
                Some(path) => Some(format!("{path}.{name}")),
                None => None,
            };
            let named = SECTIONS
                .iter()
                .find(|s| Some(s.name) == path && matches!(s.shape, Shape::Named { .. }));
            match (below.filter(|below| leads_to_section(below)), named) {
                (Some(below), _) => self.below(&below, key, value),
                (None, Some(named)) => self.named(named, key, value),
                (None, None) => self.wrong(key, unknown_key(name, header, path, keys)),
            }
        }
    }

    /// A section, a list of sections, or a table that leads to some.
    fn below(&mut self, path: &str, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let list =
            SECTIONS.iter().find(|s| s.name == path && matches!(s.shape, Shape::List { .. }));
        match (list, value.get_ref()) {
            (None, DeValue::Table(table)) => self.table(path, table),
            (Some(section), DeValue::Array(elements)) => self.list(section, elements.iter(), value),
            (None, _) => self.wrong(key, format!("`{path}` is a section; write [{path}]")),
            (Some(_), _) => self.wrong(key, format!("`{path}` is a list; write [[{path}]]")),
        }
    }

    fn list<'v>(
        &mut self,
        section: &'static Section,
        elements: impl Iterator<Item = &'v Spanned<DeValue<'v>>>,
        list: &Spanned<DeValue<'_>>,
    ) {
        let Shape::List { clear, begin } = section.shape else { return };
        clear(self.config);
        let header = section.written();
        for element in elements {
            match element.get_ref() {
                DeValue::Table(table) => {
                    begin(self.config);
                    self.section(section, None, header.clone(), element.span().start, table);
                }
                _ => {
                    let text = format!("`{}` is a list of sections; write {header}", section.name);
                    self.problems.push(Problem { at: list.span().start, text });
                }
            }
        }
    }

    fn named(
        &mut self,
        section: &'static Section,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let Shape::Named { begin, .. } = section.shape else { return };
        let name: &str = key.get_ref();
        let header = format!("[{}.{}]", section.name, quote(name));
        let DeValue::Table(table) = value.get_ref() else {
            let default = format!("{}.default", section.name);
            let text = match SECTIONS.iter().find(|section| section.name == default) {
                Some(_) => {
                    format!("{header} is a section; keys for all sites go under [{default}]")
                }
                None => format!("{header} is a section; write {}", section.written()),
            };
            return self.wrong(key, text);
        };
        match begin(self.config, name) {
            Ok(()) => self.section(section, None, header, key.span().start, table),
            Err(sentence) => self.wrong(key, format!("{header}: {sentence}")),
        }
    }

    /// Reports keys that must be there and are not; true where there are some.
    fn lacks(&mut self, block: &Block) -> bool {
        let before = self.problems.len();
        for key in block.section.keys {
            if let Fallback::Required(example) = key.default
                && !block.given.iter().any(|given| given.name == key.name)
            {
                let name = key.name;
                let header = &block.header;
                let text =
                    format!("{header} has no `{name}`; add a line such as {name} = {example}");
                self.problems.push(Problem { at: block.at, text });
            }
        }
        self.problems.len() > before
    }

    fn wrong(&mut self, key: &Spanned<DeString<'_>>, text: String) {
        self.problems.push(Problem { at: key.span().start, text });
    }
}

/// Entries as they stand in the file.
fn in_order<'t, 'v>(
    table: &'t DeTable<'v>,
) -> Vec<(&'t Spanned<DeString<'v>>, &'t Spanned<DeValue<'v>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn leads_to_section(path: &str) -> bool {
    SECTIONS.iter().any(|section| {
        section.name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// First words of the sections under `path`.
fn sections_below(path: &str) -> impl Iterator<Item = &'static str> {
    let rest = move |section: &'static Section| match path {
        "" => Some(section.name),
        path => section.name.strip_prefix(path)?.strip_prefix('.'),
    };
    let first = |rest: &'static str| rest.split('.').next().filter(|word| !word.is_empty());
    SECTIONS.iter().filter_map(rest).filter_map(first)
}

/// The sentence for a key that nobody declared.
fn unknown_key(name: &str, header: &str, path: Option<&str>, keys: &[Key]) -> String {
    let place = if header.is_empty() { "at the top".to_string() } else { format!("in {header}") };
    let shown = printable(name.as_bytes(), NAME_SHOWN_MAX);
    let mut known: Vec<&str> = keys.iter().map(|key| key.name).collect();
    known.extend(path.into_iter().flat_map(sections_below));
    known.dedup();
    let alike = known.iter().map(|k| (strsim::jaro_winkler(name, k), k));
    let best = alike.filter(|(alike, _)| *alike >= ALIKE_MIN).max_by(|a, b| a.0.total_cmp(&b.0));
    let homes: Vec<&Section> =
        SECTIONS.iter().filter(|s| s.keys.iter().any(|k| k.name == name)).collect();
    let remedy = match (best, homes.first()) {
        (Some((_, best)), _) => format!("did you mean `{best}`?"),
        (None, Some(home)) if home.name.is_empty() => {
            "it belongs at the top of the file, above the first [section]".to_string()
        }
        (None, Some(_)) => {
            let homes: Vec<String> = homes.iter().map(|section| section.written()).collect();
            format!("it belongs in {}", homes.join(" or "))
        }
        _ if (1..=KNOWN_SHOWN_MAX).contains(&known.len()) => {
            format!("known here: {}", known.join(", "))
        }
        _ if known.is_empty() => "nothing can be set here".to_string(),
        _ => "see config.toml for the keys there are".to_string(),
    };
    format!("unknown key `{shown}` {place}; {remedy}")
}
