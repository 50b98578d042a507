//! What operators ordered while the node runs, and who: the trail that an audit follows.
//!
//! `user` is the id of the user at the other end of the control socket, where the system tells.

use crate::base::text::printable;
use crate::base::time::Timestamp;
use crate::policy::orders::{Orders, Scope, Suspension, ThrottleOrder};
use std::path::Path;
use tracing::{info, warn};

/// Longest text of an operator in one field, in characters.
const TEXT_MAX: usize = 300;

fn safe(text: &str) -> String {
    printable(text.as_bytes(), TEXT_MAX)
}

fn end(until: Option<Timestamp>) -> String {
    until.map_or_else(String::new, |until| until.to_string())
}

fn user_id(user: Option<u32>) -> String {
    user.map_or_else(String::new, |user| user.to_string())
}

fn scope(scope: &Scope) -> String {
    safe(&scope.to_string())
}

/// `order.throttle_set`: a limit of a site is overridden.
pub fn throttle_set(order: &ThrottleOrder, user: Option<u32>) {
    info!(
        target: "bulkhead",
        message = "order.throttle_set",
        site = safe(&order.site),
        key = order.setting.key().as_str(),
        value = %order.setting.value(),
        until = end(order.until),
        user = user_id(user),
    );
}

/// `order.throttle_cleared`: it is no longer.
pub fn throttle_cleared(order: &ThrottleOrder, user: Option<u32>) {
    info!(
        target: "bulkhead",
        message = "order.throttle_cleared",
        site = safe(&order.site),
        key = order.setting.key().as_str(),
        value = %order.setting.value(),
        user = user_id(user),
    );
}

/// `order.suspended`: mail is not sent for now.
pub fn suspended(order: &Suspension, user: Option<u32>) {
    info!(
        target: "bulkhead",
        message = "order.suspended",
        scope = scope(&order.scope),
        until = end(order.until),
        reason = safe(&order.reason),
        user = user_id(user),
    );
}

/// `order.resumed`: it is again.
pub fn resumed(order: &Suspension, user: Option<u32>) {
    info!(
        target: "bulkhead",
        message = "order.resumed",
        scope = scope(&order.scope),
        reason = safe(&order.reason),
        user = user_id(user),
    );
}

/// `order.expired`: orders have come to their end, one event for each.
pub fn expired(orders: &Orders) {
    for order in orders.throttles() {
        info!(
            target: "bulkhead",
            message = "order.expired",
            site = safe(&order.site),
            key = order.setting.key().as_str(),
            value = %order.setting.value(),
            until = end(order.until),
        );
    }
    for order in orders.suspensions() {
        info!(
            target: "bulkhead",
            message = "order.expired",
            scope = scope(&order.scope),
            until = end(order.until),
            reason = safe(&order.reason),
        );
    }
}

/// `orders.unreadable`: what was ordered before this start is not known; the file is kept, where
/// that could be done.
pub fn unreadable(file: &Path, error: &str, kept_as: Option<&Path>) {
    let kept_as = kept_as.map_or_else(String::new, |path| path.display().to_string());
    warn!(
        target: "bulkhead",
        message = "orders.unreadable",
        file = %file.display(),
        error = safe(error),
        kept_as,
    );
}
