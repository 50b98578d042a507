//! `bulkhead serve`: configuration, logging and runtime, then the node.

use super::Failure;
use super::args::Common;
use crate::{node, observe};

pub(super) fn serve(common: &Common) -> Result<(), Failure> {
    let config = common.load().map_err(|errors| Failure::Trouble(errors.to_string()))?;
    observe::log::init(&config.log).map_err(Failure::Trouble)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Trouble(format!("cannot start: {error}")))?;
    runtime.block_on(node::run(config, common.path())).map_err(Failure::Trouble)
}
