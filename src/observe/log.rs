//! Where log events go: stderr, as text for people or one JSON object a line for collectors.
//!
//! An event's message is its name, `<noun>.<past verb>` (`delivery.deferred`); what there is to
//! tell stands in its fields. Times are UTC, to the millisecond.

use crate::base::time::Clock;
use crate::config::Log;
use std::fmt;
use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{MakeWriter, time::FormatTime};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends the events of this process to stderr from now on.
///
/// # Errors
/// A sentence: the filter is not understood, or logging was set up before.
pub fn init(log: &Log) -> Result<(), String> {
    let colours = std::io::stderr().is_terminal();
    let subscriber = subscriber(log, Clock::system(), std::io::stderr, colours)?;
    subscriber.try_init().map_err(|error| format!("cannot set up logging: {error}"))
}

fn subscriber<W>(
    log: &Log,
    clock: Clock,
    writer: W,
    colours: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|error| format!("[log] level {:?} is not understood: {error}", log.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_timer(Utc(clock))
        .with_target(false)
        .with_ansi(colours && !log.json);
    Ok(if log.json {
        Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        )
    } else {
        Box::new(builder.finish())
    })
}

/// `2026-11-23T00:45:28.114Z`
struct Utc(Clock);

impl FormatTime for Utc {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", self.0.now())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `told` runs.
    pub(in crate::observe) fn written(json: bool, level: &str, told: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let clock = Clock::simulated(Timestamp(1_795_394_728_114));
        let log = Log { json, level: level.into() };
        let subscriber = subscriber(&log, clock, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, told);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn logged(json: bool, level: &str) -> String {
        written(json, level, || {
            tracing::info!(
                message_id = "1RW7M2Q80A3F",
                total_ms = 55,
                reply = "250 Ok",
                "delivery.delivered"
            );
            tracing::debug!("connection.opened");
        })
    }

    #[test]
    fn text_is_one_line_an_event() {
        assert_eq!(
            logged(false, "info"),
            "2026-11-23T00:45:28.114Z  INFO delivery.delivered message_id=\"1RW7M2Q80A3F\" \
             total_ms=55 reply=\"250 Ok\"\n"
        );
        assert_eq!(logged(false, "info,bulkhead::observe=debug").lines().count(), 2);
        assert_eq!(logged(false, "warn"), "");
    }

    #[test]
    fn json_has_the_same_fields() {
        let json: serde_json::Value = serde_json::from_str(&logged(true, "info")).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2026-11-23T00:45:28.114Z",
            "level": "INFO", "message": "delivery.delivered",
            "message_id": "1RW7M2Q80A3F", "total_ms": 55, "reply": "250 Ok",
        });
        assert_eq!(json, expected);
    }
}
