//! Holds the tree to its own rules: which module may know which, and how files look.
//!
//! These are checks of text, made simple on purpose: they find what people do by habit, not what
//! someone hides. Each message says where and what to do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by layer, the lowest first. A module may use itself and lower layers.
const LAYERS: [&[&str]; 8] = [
    &["base"],
    &["mail", "smtp"],
    &["policy"],
    &["config", "observe"],
    &["store", "net"],
    &["receive", "deliver"],
    &["control"],
    &["node", "cli"],
];

/// Arrows within a layer that are allowed.
const SIDEWAYS: [(&str, &str); 3] = [("smtp", "mail"), ("observe", "config"), ("cli", "node")];

/// Modules that hold decisions only.
const PURE: [&str; 4] = ["base", "mail", "smtp", "policy"];

/// What pure modules must not touch.
const IMPURE: [&str; 8] = [
    "tokio::",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "hickory_",
];

/// Files longer than [`LENGTH_MAX`] lines, and why each may be.
const LONG_FILES: [(&str, &str); 1] =
    [("src/store/conformance.rs", "one list of cases, each on its own, for all engines")];
const LENGTH_MAX: usize = 600;
const WIDTH_MAX: usize = 100;

/// A source file: its path from the project's folder and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Line number of a byte offset.
    fn line_of(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }

    /// The part before `#[cfg(test)] mod tests`; nothing for files that are tests as a whole.
    fn without_tests(&self, test_files: &BTreeSet<String>) -> &str {
        if test_files.contains(&self.path) {
            return "";
        }
        let tests = self.text.match_indices("#[cfg(test)]\n").find(|(at, found)| {
            let rest = &self.text[at + found.len()..];
            rest.trim_start().lines().take(3).any(|l| l.contains("mod tests {"))
        });
        tests.map_or(&self.text, |(at, _)| &self.text[..at])
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders, in path order.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&project().join(folder), &mut paths);
    }
    paths.sort();
    assert!(!paths.is_empty(), "no Rust files below {folders:?}");
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(project()).unwrap().display().to_string(),
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "rs") {
            paths.push(path);
        }
    }
}

/// Files that a parent declares as `#[cfg(test)] mod name;`.
fn test_files(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources {
        let folder = Path::new(&source.path).parent().unwrap();
        let stem = Path::new(&source.path).file_stem().unwrap().to_str().unwrap();
        let own = if ["mod", "lib", "main"].contains(&stem) {
            folder.to_path_buf()
        } else {
            folder.join(stem)
        };
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for pair in lines.windows(2) {
            let declared = pair[1].rsplit("mod ").next().and_then(|name| name.strip_suffix(';'));
            if let (true, Some(name)) = (pair[0].starts_with("#[cfg(test)]"), declared) {
                found.insert(own.join(format!("{name}.rs")).display().to_string());
                found.insert(own.join(name).join("mod.rs").display().to_string());
            }
        }
    }
    // And what stands in the folder of a test module.
    let below = |path: &str| {
        let mut parents = Path::new(path).ancestors().skip(1);
        parents.any(|folder| found.contains(&format!("{}.rs", folder.display())))
    };
    let inner: Vec<String> =
        sources.iter().filter(|s| below(&s.path)).map(|s| s.path.clone()).collect();
    found.extend(inner);
    found
}

#[track_caller]
fn report(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Modules of the crate named in a text as `crate::NAME` or in `use crate::{NAME, …}`, with
/// offsets.
fn named_modules(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, start) in text.match_indices("crate::") {
        let own = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &text[at + start.len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => top_level_names(group),
            None => vec![rest],
        };
        if own {
            continue;
        }
        for name in names {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            found.push((at, name[..end].to_string()));
        }
    }
    found
}

/// The first words in a `{a::b, c::{d, e}}` group, without its opening brace.
fn top_level_names(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(group[start..i].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(group[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The module of the first level that a file belongs to; `None` for lib.rs and main.rs.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then_some(name)
}

#[test]
fn modules_use_only_lower_layers() {
    let mut problems = Vec::new();
    let sources = sources(&["src"]);
    let test_files = test_files(&sources);
    for source in &sources {
        let Some(module) = module_of(&source.path) else { continue };
        let Some(layer) = layer_of(module) else {
            problems.push(format!("{}: {module} has no layer; add it to LAYERS", source.path));
            continue;
        };
        for (at, used) in named_modules(source.without_tests(&test_files)) {
            // What is no module of the first level is a name that lib.rs itself has.
            let Some(below) = layer_of(&used) else { continue };
            let sideways = SIDEWAYS.contains(&(module, used.as_str()));
            if used != module && below >= layer && !sideways {
                let line = source.line_of(at);
                problems.push(format!("{}:{line}: {module} uses {used}", source.path));
            }
        }
    }
    report(&problems, "a module uses only itself and the layers below it (DESIGN: layers)");
}

#[test]
fn the_arrow_check_sees_every_form() {
    let names = |text| named_modules(text).into_iter().map(|(_, n)| n).collect::<Vec<_>>();
    assert_eq!(names("use crate::store::Store;"), ["store"]);
    assert_eq!(names("use crate::{base::id, net::{self, x}, cli};"), ["base", "net", "cli"]);
    assert_eq!(names("fn f(x: crate::node::Node) -> crate::cli::Exit"), ["node", "cli"]);
    assert_eq!(names("pub(crate) fn f(); some_crate::x"), Vec::<String>::new());
    assert!(layer_of("base") < layer_of("smtp") && layer_of("smtp") < layer_of("policy"));
    assert_eq!(module_of("src/store/sqlite/index.rs"), Some("store"));
    assert_eq!((module_of("src/node.rs"), module_of("src/lib.rs")), (Some("node"), None));
}

#[test]
fn pure_layers_do_no_io() {
    let mut problems = Vec::new();
    let sources = sources(&["src"]);
    let test_files = test_files(&sources);
    for source in &sources {
        if !module_of(&source.path).is_some_and(|module| PURE.contains(&module)) {
            continue;
        }
        let text = source.without_tests(&test_files);
        for word in IMPURE {
            for (at, _) in text.match_indices(word) {
                let line = text[..at].rsplit('\n').next().unwrap_or("").trim_start();
                if !line.starts_with("//") {
                    problems.push(format!("{}:{}: {word}", source.path, source.line_of(at)));
                }
            }
        }
    }
    report(&problems, "layers 0 to 2 take time, randomness and bytes as arguments");
}

#[test]
fn every_file_begins_with_its_idea() {
    let without = |source: &Source| !source.text.starts_with("//!");
    let problems: Vec<String> = sources(&["src", "tests", "examples", "fuzz", "benches"])
        .into_iter()
        .filter(without)
        .map(|source| source.path)
        .collect();
    report(
        &problems,
        "a file begins with `//!`: what it is for, what always holds, what is absent",
    );
}

#[test]
fn lines_and_files_are_short() {
    let mut problems = Vec::new();
    for source in sources(&["src", "tests", "examples", "fuzz", "benches"]) {
        let allowed = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        let length = source.text.lines().count();
        if length > LENGTH_MAX && !allowed {
            problems.push(format!("{}: {length} lines; split it, or say why", source.path));
        }
        for (n, line) in source.text.lines().enumerate() {
            if line.chars().count() > WIDTH_MAX {
                problems.push(format!("{}:{}: over {WIDTH_MAX} columns", source.path, n + 1));
            }
        }
    }
    for (path, reason) in LONG_FILES {
        assert!(!reason.is_empty() && project().join(path).exists(), "LONG_FILES: {path}");
    }
    report(&problems, "files fit the reader");
}

#[test]
fn every_event_of_the_log_is_explained() {
    let explained = fs::read_to_string(project().join("docs/operations.md")).unwrap();
    let mut problems = Vec::new();
    for source in sources(&["src/observe"]) {
        for (at, begin) in source.text.match_indices("message = \"") {
            let event = source.text[at + begin.len()..].split('"').next().unwrap();
            if !explained.contains(&format!("`{event}`")) {
                problems.push(format!("{}:{}: {event}", source.path, source.line_of(at)));
            }
        }
    }
    report(&problems, "docs/operations.md says what each event of the log means");
}

#[test]
fn nothing_is_left_unfinished() {
    let words = ["todo!", "unimplemented!", "dbg!", "FIXME", "TODO", "XXX"];
    let mut problems = Vec::new();
    for source in sources(&["src", "tests", "examples", "fuzz", "benches"]) {
        if source.path == "tests/tidy.rs" {
            continue;
        }
        for word in words {
            for (at, _) in source.text.match_indices(word) {
                problems.push(format!("{}:{}: {word}", source.path, source.line_of(at)));
            }
        }
    }
    report(&problems, "finish it or open an issue");
}

#[test]
fn nothing_outside_tests_may_panic_by_habit() {
    let mut problems = Vec::new();
    let sources = sources(&["src"]);
    let test_files = test_files(&sources);
    for source in &sources {
        let text = source.without_tests(&test_files);
        for word in [".unwrap()", ".expect(", "panic!(", "unreachable!("] {
            for (at, _) in text.match_indices(word) {
                let line = text[..at].rsplit('\n').next().unwrap_or("").trim_start();
                if !line.starts_with("//") {
                    problems.push(format!("{}:{}: {word}", source.path, source.line_of(at)));
                }
            }
        }
    }
    report(&problems, "errors are values");
}

#[test]
fn sql_takes_values_only_as_parameters() {
    let words = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WHERE ", "PRAGMA ", "VALUES"];
    let mut problems = Vec::new();
    for source in sources(&["src"]) {
        for call in ["format!(", "write!(", "format_args!("] {
            for (at, _) in source.text.match_indices(call) {
                let end = source.text[at..].find(';').map_or(source.text.len(), |n| at + n);
                let statement = &source.text[at..end];
                if words.iter().any(|word| statement.contains(word)) {
                    let line = source.line_of(at);
                    problems.push(format!("{}:{line}: SQL built by {call}…)", source.path));
                }
            }
        }
    }
    report(&problems, "values reach SQL as bound parameters alone");
}
