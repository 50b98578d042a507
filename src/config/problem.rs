//! All that is wrong with a configuration file, with places.

use super::value::Problem;
use crate::base::text::printable;
use std::fmt;

/// Longest sentence shown, in characters.
const TEXT_MAX: usize = 500;

/// Why a file is no configuration, or holds no users: at least one problem, in the order of the
/// file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file, as it was named.
    pub file: String,
    /// One a line.
    pub problems: Vec<ConfigProblem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConfigProblem {
    /// From 1; `None` where it is the file as a whole.
    pub line: Option<usize>,
    /// In characters, from 1.
    pub column: Option<usize>,
    /// What is wrong, and what to do; safe to print.
    pub message: String,
}

impl ConfigErrors {
    /// Problems in `text`.
    pub(super) fn new(file: &str, text: &str, problems: &[Problem]) -> Self {
        let placed = problems.iter().map(|problem| {
            let (line, column) = position(text, problem.at);
            let message = printable(problem.text.as_bytes(), TEXT_MAX);
            ConfigProblem { line: Some(line), column: Some(column), message }
        });
        Self { file: file.to_string(), problems: placed.collect() }
    }

    /// Problems of a file that goes by lines.
    pub(super) fn lines(file: &str, problems: impl Iterator<Item = (usize, String)>) -> Self {
        let placed = problems.map(|(line, text)| {
            let message = printable(text.as_bytes(), TEXT_MAX);
            ConfigProblem { line: Some(line), column: Some(1), message }
        });
        Self { file: file.to_string(), problems: placed.collect() }
    }

    /// A problem with the file as a whole.
    pub(super) fn whole(file: &str, message: String) -> Self {
        let problem = ConfigProblem { line: None, column: None, message };
        Self { file: file.to_string(), problems: vec![problem] }
    }
}

impl fmt::Display for ConfigErrors {
    /// One problem a line, `config.toml:41:1: …`, and a last line that counts them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ConfigProblem { line, column, message } in &self.problems {
            match (line, column) {
                (Some(line), Some(column)) => {
                    writeln!(f, "{}:{line}:{column}: {message}", self.file)?
                }
                _ => writeln!(f, "{}: {message}", self.file)?,
            }
        }
        let s = if self.problems.len() == 1 { "" } else { "s" };
        write!(f, "{} problem{s} in {}", self.problems.len(), self.file)
    }
}

impl std::error::Error for ConfigErrors {}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before.get(line_start..).unwrap_or("").chars().count();
    (before.matches('\n').count() + 1, column + 1)
}
