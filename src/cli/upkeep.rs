//! `bulkhead queue check` and `rebuild`: for a queue that no node has.

use super::Failure;
use super::queue::Printer;
use crate::config::{Config, Engine};
use crate::store::StoreError;
use crate::store::embedded::{self, Checked, Progress};
use std::io::{self, Write};
use std::path::Path;

/// Checks the queue; trouble found is an exit code of its own.
pub(super) fn check(config: &Config, printer: &mut Printer<'_, impl Write>) -> Result<(), Failure> {
    let dir = on_disk(config)?;
    let checked = embedded::check(dir, printer.clock.clone()).map_err(failure)?;
    answer(&checked, &format!("{} was checked", dir.display()), printer)
}

/// Makes the database anew.
pub(super) fn rebuild(
    config: &Config,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let dir = on_disk(config)?;
    let show = |at: Progress| {
        let Progress { segments, of, records } = at;
        // Whoever does not see it misses nothing else.
        _ = writeln!(io::stderr(), "bulkhead: segment {segments} of {of}, {records} records");
    };
    let rebuilt = embedded::rebuild(dir, printer.clock.clone(), show).map_err(failure)?;
    answer(&rebuilt, &format!("{} was made anew", dir.join("queue.db").display()), printer)
}

fn on_disk(config: &Config) -> Result<&Path, Failure> {
    match config.store.engine {
        Engine::Sqlite => Ok(&config.data_dir),
        Engine::Memory => {
            let sentence = "the queue is kept in memory ([store] engine): there are no files";
            Err(Failure::Usage(sentence.into()))
        }
    }
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Incompatible(_) => Failure::Usage(error.to_string()),
        _ => Failure::Trouble(error.to_string()),
    }
}

fn answer(
    checked: &Checked,
    what: &str,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let Checked { segments, messages, deliveries, problems, .. } = checked;
    if printer.json {
        printer.json(checked)?;
    } else {
        printer.text(&format!(
            "{what}: {segments} segments of the journal, {messages} messages with {deliveries} \
             deliveries\n"
        ))?;
    }
    match problems.as_slice() {
        [] => Ok(()),
        problems => Err(Failure::Trouble(problems.join("\n"))),
    }
}
