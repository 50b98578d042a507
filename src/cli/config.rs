//! `bulkhead config`: what the file says, and what is wrong with it.

use super::Failure;
use super::args::{Common, ConfigVerb};
use crate::config::{Config, reference};
use std::io::Write;

pub(super) fn run(common: &Common, verb: ConfigVerb, out: &mut impl Write) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Check => check(common, out),
        ConfigVerb::Show => show(common, out),
        ConfigVerb::Default => Ok(write!(out, "{}", reference())?),
    }
}

fn check(common: &Common, out: &mut impl Write) -> Result<(), Failure> {
    let path = common.path();
    let checked = Config::load(path);
    if common.json {
        let problems =
            checked.as_ref().err().map(|errors| errors.problems.as_slice()).unwrap_or_default();
        let file = path.to_string_lossy();
        let answer =
            serde_json::json!({ "file": file, "ok": problems.is_empty(), "problems": problems });
        writeln!(out, "{answer}")?;
    } else if checked.is_ok() {
        writeln!(out, "{} is fine", path.display())?;
    }
    checked.map(|_| ()).map_err(|errors| Failure::Trouble(errors.to_string()))
}

fn show(common: &Common, out: &mut impl Write) -> Result<(), Failure> {
    let explained = Config::explain(common.path());
    let explained = explained.map_err(|errors| Failure::Trouble(errors.to_string()))?;
    if common.json {
        let settings = serde_json::to_string(&explained.settings);
        writeln!(out, "{}", settings.map_err(std::io::Error::from)?)?;
    } else {
        writeln!(out, "# {}", common.path().display())?;
        write!(out, "{explained}")?;
    }
    Ok(())
}
