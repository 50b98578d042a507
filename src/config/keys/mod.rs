//! Every key of the configuration, declared once: section, name, default, documentation, reader.
//!
//! The strict reader, the suggestions for misspelt keys, `config show`, and config.toml itself
//! ([`super::reference`]) all come from [`SECTIONS`]. The order here is the order of config.toml.

mod auth;
mod deliver;
mod http;
mod operate;
mod parse;
mod receive;
mod rules;
mod tenants;
mod watch;

use super::Config;
use super::value::{Read, Value};

/// A `[section]` and its keys.
pub(in crate::config) struct Section {
    /// `limits`, `lanes.bulk`; empty for the top of the file; the part before the name for
    /// [`Shape::Named`].
    pub(in crate::config) name: &'static str,
    /// What it is for; paragraphs apart by line ends.
    pub(in crate::config) doc: &'static str,
    pub(in crate::config) shape: Shape,
    pub(in crate::config) keys: &'static [Key],
}

impl Section {
    /// Its header as it stands in the file; empty for the top.
    pub(in crate::config) fn written(&self) -> String {
        match self.shape {
            Shape::Table if self.name.is_empty() => String::new(),
            Shape::Table => format!("[{}]", self.name),
            Shape::List { .. } => format!("[[{}]]", self.name),
            Shape::Named { example, .. } => format!("[{}.\"{example}\"]", self.name),
        }
    }
}

/// How often a section stands in the file.
#[derive(Clone, Copy)]
pub(in crate::config) enum Shape {
    /// `[name]`, once.
    Table,
    /// `[[name]]`, any number; what the file says replaces the default.
    List { clear: fn(&mut Config), begin: fn(&mut Config) },
    /// `[name."gmail.com"]`, any number. The example names one in config.toml.
    Named { example: &'static str, begin: fn(&mut Config, &str) -> Result<(), String> },
}

/// One key.
pub(in crate::config) struct Key {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) default: Fallback,
    pub(in crate::config) doc: &'static str,
    pub(in crate::config) read: fn(&mut Config, Value<'_>) -> Read<()>,
}

/// What holds where the file says nothing. Texts are TOML.
#[derive(Clone, Copy)]
pub(in crate::config) enum Fallback {
    /// This value.
    Is(&'static str),
    /// Another section's value; the example stands in config.toml, commented out.
    Inherited(&'static str),
    /// Nothing: a section without this key is wrong. The example stands in config.toml.
    Required(&'static str),
}

/// All of them.
pub(in crate::config) const SECTIONS: &[Section] = &[
    receive::TOP,
    receive::LISTEN,
    receive::TLS,
    http::HTTP,
    receive::RELAY,
    auth::AUTH,
    receive::LIMITS,
    receive::LANE_DIRECT,
    receive::LANE_BULK,
    tenants::TENANTS,
    watch::WATCH,
    deliver::DNS,
    deliver::DELIVERY,
    deliver::SOURCES,
    deliver::SITES_DEFAULT,
    deliver::SITES,
    deliver::DOMAINS,
    rules::RULES,
    deliver::RETRY_DIRECT,
    deliver::RETRY_BULK,
    operate::CONTROL,
    operate::STORE,
    operate::LOG,
];

const fn key(
    name: &'static str,
    default: Fallback,
    doc: &'static str,
    read: fn(&mut Config, Value<'_>) -> Read<()>,
) -> Key {
    Key { name, default, doc, read }
}

fn set<T>(slot: &mut T, value: Read<T>) -> Read<()> {
    value.map(|value| *slot = value)
}

/// Into the section begun last.
fn last<S, T>(list: &mut [S], value: Read<T>, put: fn(&mut S, T)) -> Read<()> {
    let value = value?;
    if let Some(section) = list.last_mut() {
        put(section, value);
    }
    Ok(())
}
