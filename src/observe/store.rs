//! What went wrong at the queue. Where nothing is told of, it works.

use std::fmt::Display;
use tracing::{error, info, warn};

/// `store.failed`: the queue could not be read or written.
pub fn failed(what: &str, error: &dyn Display) {
    error!(target: "bulkhead", message = "store.failed", what, error = %error);
}

/// `row.unreadable`: a row of the queue is not understood; it stays where it is.
pub fn row_unreadable(error: &dyn Display) {
    error!(target: "bulkhead", message = "row.unreadable", error = %error);
}

/// `queue.unnamed`: deliveries of a scheduled queue that has no name any more; they stay where they
/// are.
pub fn queue_unnamed(queue: i64) {
    error!(target: "bulkhead", message = "queue.unnamed", queue);
}

/// `body.missing`: a message in the queue has no bytes. Its deliveries stay where they are.
pub fn body_missing(id: &str) {
    error!(target: "bulkhead", message = "body.missing", id);
}

/// `lease.lost`: deliveries that were ours are not any more; they are not sent by this connection.
pub fn lease_lost(count: usize) {
    warn!(target: "bulkhead", message = "lease.lost", count);
}

/// `record.damaged`: the bytes of a message in the journal are not what was written. It stays where
/// it is; other messages go on.
pub fn record_damaged(id: &dyn Display, segment: u64, offset: u64) {
    error!(target: "bulkhead", message = "record.damaged", id = %id, segment, offset);
}

/// `record.unreadable`: a record of the journal is whole, but not understood; it is passed over.
pub fn record_unreadable(segment: u64, offset: u64, error: &dyn Display) {
    error!(target: "bulkhead", message = "record.unreadable", segment, offset, error = %error);
}

/// `message.duplicate`: two messages with one id; the second is in the journal, but not queued.
pub fn duplicate(id: &dyn Display) {
    error!(target: "bulkhead", message = "message.duplicate", id = %id);
}

/// `outcome.lost`: an outcome of a delivery that the queue does not know; it has no effect.
pub fn outcome_without_row(id: &dyn Display, number: u32) {
    error!(target: "bulkhead", message = "outcome.lost", id = %id, number);
}

/// `journal.damaged`: so many bytes of the journal were a record once. What the record was about is
/// lost; the file is left as it is.
pub fn journal_damaged(segment: u64, offset: u64, bytes: u64) {
    error!(target: "bulkhead", message = "journal.damaged", segment, offset, bytes);
}

/// `index.replaying`: the rows follow the journal, at a start or after a failure.
pub fn replaying(segment: u64, records: u64) {
    info!(target: "bulkhead", message = "index.replaying", segment, records);
}

/// `queue.migrating`: messages of a queue of an earlier version that are in the journal now.
pub fn migrating(messages: u64) {
    info!(target: "bulkhead", message = "queue.migrating", messages);
}

/// `queue.left_out`: so many messages of a queue of an earlier version could not be read; the file
/// that has them is kept.
pub fn left_out(messages: u64, kept: &std::path::Path) {
    error!(target: "bulkhead", message = "queue.left_out", messages, kept = %kept.display());
}

/// `index.damaged`: queue.db is damaged. It is kept under another name and made anew from the
/// journal, which has all that it held.
pub fn index_damaged(error: &dyn Display) {
    error!(target: "bulkhead", message = "index.damaged", error = %error);
}

/// `store.slow`: a write to the journal took this long; whoever waited for it waited, too.
pub fn slow(ms: u64, records: usize) {
    warn!(target: "bulkhead", message = "store.slow", ms, records);
}
