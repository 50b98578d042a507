//! Layer 7: builds a node from its parts, runs it, stops it.

use crate::config::Config;

/// Runs a node until it is told to stop.
///
/// # Errors
/// A sentence: why it did not start or could not go on.
#[allow(clippy::unused_async)]
pub async fn run(config: Config) -> Result<(), String> {
    Err(format!("node {} is not built yet", config.hostname))
}
