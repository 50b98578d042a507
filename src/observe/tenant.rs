//! What was noticed of a tenant.

use crate::base::text::printable;
use tracing::{error, info, warn};

/// `tenant.noticed`, `tenant.suspended`, or, where that failed, `tenant.not_suspended`.
pub fn alert(tenant: &str, campaign: &str, why: &str, suspended: Option<&Result<(), String>>) {
    let [tenant, campaign, why] = [tenant, campaign, why].map(|t| printable(t.as_bytes(), 300));
    match suspended {
        None => {
            warn!(target: "bulkhead", message = "tenant.noticed", tenant, campaign, why);
        }
        Some(Ok(())) => {
            warn!(target: "bulkhead", message = "tenant.suspended", tenant, campaign, why);
        }
        Some(Err(error)) => {
            error!(
                target: "bulkhead",
                message = "tenant.not_suspended",
                tenant,
                campaign,
                why,
                error = %error
            );
        }
    }
}

/// `tenant.alert_cleared`: an operator has looked, and the next burst is told of again.
pub fn alert_cleared(tenant: &str, why: &str, user: Option<u32>) {
    let [tenant, why] = [tenant, why].map(|text| printable(text.as_bytes(), 300));
    let user = user.map_or_else(String::new, |user| user.to_string());
    info!(target: "bulkhead", message = "tenant.alert_cleared", tenant, why, user);
}

/// `tenant.alert_not_posted`: the address in `alert_url` did not take it.
pub fn not_posted(url: &str, error: &str) {
    let error = printable(error.as_bytes(), 300);
    warn!(target: "bulkhead", message = "tenant.alert_not_posted", url, error);
}

/// `tenant.alert_lost`: there are more than can be carried out.
pub fn alert_lost(tenant: &str, why: &str) {
    let [tenant, why] = [tenant, why].map(|text| printable(text.as_bytes(), 300));
    error!(target: "bulkhead", message = "tenant.alert_lost", tenant, why);
}
