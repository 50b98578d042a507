//! What holds, and where it comes from: `bulkhead config show`.

use super::Config;
use super::keys::{Fallback, Key, SECTIONS, Section, Shape};
use super::problem::position;
use super::read::Block;
use super::value::quote;
use std::fmt;

/// Column at which the origins begin.
const ORIGIN_COLUMN: usize = 48;

/// A configuration, and where its values come from. Shown, it is itself a configuration file.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The checked values.
    pub config: Config,
    /// Every effective setting in the order of config.toml.
    pub settings: Vec<Setting>,
}

/// One effective setting.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// `[limits]`, `[[tenants]]`, `[sites."gmail.com"]`; empty at the top of the file.
    pub section: String,
    /// Which occurrence of that section, from 0.
    pub number: usize,
    /// Its name.
    pub key: &'static str,
    /// As TOML.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The file says nothing.
    Default,
    /// This line of the file.
    Line(usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Line(line) => write!(f, "line {line}"),
        }
    }
}

impl Explained {
    pub(super) fn new(config: Config, blocks: Vec<Block>, text: &str) -> Self {
        let mut settings = Vec::new();
        for section in SECTIONS {
            let given: Vec<_> = blocks.iter().filter(|b| b.section.name == section.name).collect();
            let of_file = given.iter().map(|block| Some(*block));
            let once = matches!(section.shape, Shape::Table) || section.name == "listen";
            let default = (given.is_empty() && once).then_some(None);
            for (number, block) in of_file.chain(default).enumerate() {
                let of_key = |key| setting(section, number, key, block, text);
                settings.extend(section.keys.iter().filter_map(of_key));
            }
        }
        let mut explained = Self { config, settings };
        explained.resolve();
        explained
    }

    /// Puts what was worked out in place of what was written.
    fn resolve(&mut self) {
        let Config { hostname, data_dir, control, sites, auth, .. } = &self.config;
        for setting in &mut self.settings {
            match (setting.section.as_str(), setting.key) {
                ("", "hostname") => setting.value = quote(hostname.as_str()),
                ("", "data_dir") => setting.value = quote(&data_dir.to_string_lossy()),
                ("[auth]", "users") => setting.value = quote(&auth.file.to_string_lossy()),
                ("[control]", "socket") => setting.value = quote(&control.socket.to_string_lossy()),
                ("[sites.default]", "reserved_for_direct") => {
                    setting.value = sites.default.reserved_for_direct.to_string();
                }
                _ => {}
            }
        }
    }
}

/// A key's effective value; `None` where another section decides.
fn setting(
    section: &'static Section,
    number: usize,
    key: &'static Key,
    block: Option<&Block>,
    text: &str,
) -> Option<Setting> {
    let header = match (section.shape, block) {
        (Shape::Named { .. }, Some(block)) => block.header.clone(),
        _ => section.written(),
    };
    let given = block.and_then(|block| block.given.iter().find(|given| given.name == key.name));
    let (value, origin) = match (given, key.default) {
        (Some(given), _) => (given.value.clone(), Origin::Line(position(text, given.at).0)),
        (None, Fallback::Is(value)) => (value.to_string(), Origin::Default),
        (None, _) => return None,
    };
    Some(Setting { section: header, number, key: key.name, value, origin })
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place = (String::new(), 0);
        for setting in &self.settings {
            if (&setting.section, setting.number) != (&place.0, place.1) {
                place = (setting.section.clone(), setting.number);
                writeln!(f, "\n{}", setting.section)?;
            }
            let line = format!("{} = {}", setting.key, setting.value);
            writeln!(f, "{line:ORIGIN_COLUMN$} # {}", setting.origin)?;
        }
        Ok(())
    }
}
