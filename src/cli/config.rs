//! `bulkhead config` and `reload`: what the file says, what is wrong with it, and that it holds.

use super::Failure;
use super::args::{Common, ConfigVerb};
use super::connect;
use crate::config::{Config, reference};
use crate::control::protocol::Request;
use std::io::Write;

pub(super) fn run(common: &Common, verb: ConfigVerb, out: &mut impl Write) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Check => check(common, out),
        ConfigVerb::Show => show(common, out),
        ConfigVerb::Default => Ok(write!(out, "{}", reference())?),
    }
}

/// What is wrong with the file is said here already, where the node is not asked.
pub(super) fn reload(common: &Common, out: &mut impl Write) -> Result<(), Failure> {
    let (config, runtime) = connect::begin(common)?;
    runtime.block_on(async {
        connect::connect(&config).await?.ask(&Request::Reload, |_| Ok(())).await
    })?;
    match common.json {
        true => writeln!(out, "{}", serde_json::json!({ "reloaded": true }))?,
        false => writeln!(out, "the node goes on with {}", common.path().display())?,
    }
    Ok(())
}

fn check(common: &Common, out: &mut impl Write) -> Result<(), Failure> {
    let path = common.path();
    let checked = Config::load(path);
    if common.json {
        let problems =
            checked.as_ref().err().map(|errors| errors.problems.as_slice()).unwrap_or_default();
        let own = || path.display().to_string();
        let file = checked.as_ref().map_or_else(|errors| errors.file.clone(), |_| own());
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
