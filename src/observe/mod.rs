//! Layer 3: one place for each fact that is observed: its log event and its metric.

pub mod delivery;
pub mod log;
pub mod node;
pub mod orders;
pub mod read;
pub mod receive;
pub mod store;
pub mod tenant;
