//! What went wrong at the queue. Where nothing is told of, it works.

use std::fmt::Display;
use tracing::{error, warn};

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
