//! The journal: what was promised, in the order in which it was. A log of records in files that are
//! used in a ring; what they mean is for the engine to say.
//!
//! [`frame`] says how a record lies in a file, [`scan`] finds records and tells damage from a torn
//! tail, [`record`] is what records say, [`pack`] how a message's bytes lie in them, [`files`]
//! writes and gives up segments, [`disk`] is what all that asks of a disk.

pub(super) mod disk;
pub(super) mod files;
pub(super) mod frame;
pub(super) mod pack;
pub(super) mod record;
mod scan;
#[cfg(test)]
pub(super) mod simulated;

pub(super) use self::frame::Position;
