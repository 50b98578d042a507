//! Where log events go: stderr, as text for people or one JSON object a line for collectors.

use crate::base::time::Clock;
use crate::config::Log;
use std::fmt;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends the events of this process to stderr from now on.
///
/// # Errors
/// A sentence: the filter is not understood, or logging was set up before.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| format!("[log] level {:?} is not understood: {error}", log.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(Utc(Clock::system()))
        .with_target(false);
    let done = if log.json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish()
            .try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init()
    };
    done.map_err(|error| format!("cannot set up logging: {error}"))
}

/// `2026-11-23T00:45:28.114Z`
struct Utc(Clock);

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", self.0.now())
    }
}
