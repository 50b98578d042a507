//! Layer 3: one place for each fact that is told: its log event.

pub mod delivery;
