//! config.toml, written from the declarations: every key at its default, with its documentation.
//!
//! Lines that begin with `# ` are words, lines that begin with `#` and no space are settings to be
//! uncommented. A test holds the config.toml of the source tree to this text.

use super::keys::{Fallback, SECTIONS, Section};
use std::fmt::Write;

/// Longest line of a comment, in characters.
const WIDTH: usize = 100;

const HEAD: &str = "Bulkhead's configuration: every key at its default.\nA file of your own needs \
                    only what differs. Check it with `bulkhead config check`; see what holds, and \
                    where it comes from, with `bulkhead config show`.\nTimes are written \
                    \"250ms\", \"30s\", \"2m\", \"1h\", \"5d\"; sizes \"64 KiB\", \"25 MiB\"; \
                    rates \"100/s\", \"6000/min\", \"5000/h\", \"20000/d\".";

/// The commented config.toml with all defaults, as `bulkhead config default` prints it.
#[must_use]
pub fn reference() -> String {
    let mut out = String::new();
    comment(&mut out, HEAD);
    for section in SECTIONS {
        write_section(&mut out, section);
    }
    out
}

fn write_section(out: &mut String, section: &Section) {
    // Optional sections are examples, commented out.
    let has_default = section.keys.iter().any(|key| matches!(key.default, Fallback::Is(_)))
        && !section.keys.iter().any(|key| matches!(key.default, Fallback::Required(_)));
    let mark = if has_default || section.keys.is_empty() { "" } else { "#" };
    out.push('\n');
    comment(out, section.doc);
    if !section.name.is_empty() {
        let _ = writeln!(out, "{mark}{}", section.written());
    }
    for key in section.keys {
        comment(out, key.doc);
        let (Fallback::Is(value) | Fallback::Inherited(value) | Fallback::Required(value)) =
            key.default;
        let _ = writeln!(out, "{mark}{} = {value}", key.name);
    }
}

/// `text` as comment lines, paragraph by paragraph.
fn comment(out: &mut String, text: &str) {
    for paragraph in text.lines() {
        let mut line = String::from("#");
        for word in paragraph.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _ = writeln!(out, "{line}");
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(out, "{line}");
    }
}
