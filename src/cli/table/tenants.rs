//! Tenants and those who may not log in, as text for people.

use super::{Column, Left, Right, clock, grouped, safe, scope, table};
use crate::base::time::{Timestamp, human};
use crate::control::reception::{BlockView, TenantView};
use crate::policy::fuse::{FuseStatus, RateStatus};
use crate::policy::sense::TemplateStatus;

const TENANTS: [Column; 6] = [
    Column("TENANT", 24, Left),
    Column("DIRECT", 7, Right),
    Column("BULK", 7, Right),
    Column("DEFERRED", 8, Right),
    Column("HELD", 7, Right),
    Column("WHY", 0, Left),
];
const BLOCKS: [Column; 3] =
    [Column("WHO", 24, Left), Column("UNTIL", 20, Left), Column("IN A ROW", 8, Right)];
/// Kinds of mail that people are shown.
const TEMPLATES_SHOWN: usize = 10;

/// All tenants, a line each.
pub(in crate::cli) fn tenants(all: &[TenantView]) -> String {
    let row = |tenant: &TenantView| {
        let queued = &tenant.queued;
        let why = tenant.suspensions.first().map(|order| format!("suspended: {}", order.reason));
        let sensed = || tenant.known.templates.iter().find_map(|t| t.sensed.as_ref());
        let why = why.or_else(|| sensed().map(ToString::to_string)).unwrap_or_default();
        vec![
            safe(&tenant.name),
            grouped(queued.direct),
            grouped(queued.bulk),
            grouped(queued.deferred),
            grouped(queued.held),
            safe(&why),
        ]
    };
    table(&TENANTS, &all.iter().map(row).collect::<Vec<_>>())
}

/// Everything about one.
pub(in crate::cli) fn tenant(tenant: &TenantView, now: Timestamp) -> String {
    let queued = &tenant.queued;
    let mut out = format!(
        "{}: {} direct, {} bulk in the queue; {} deferred, {} held\n",
        safe(&tenant.name),
        grouped(queued.direct),
        grouped(queued.bulk),
        grouped(queued.deferred),
        grouped(queued.held)
    );
    for order in &tenant.suspensions {
        let since = clock(order.since.0);
        out += &format!("suspended since {since} ({}): {}\n", scope(order), safe(&order.reason));
    }
    if !tenant.configured {
        out += "no entry of its own in [[tenants]]\n";
    }
    tenant.terms.iter().for_each(|term| out += &format!("  {}\n", safe(term)));
    for usage in &tenant.known.limits {
        let of = if usage.of_recipients { "recipients" } else { "messages" };
        out += &format!("taken: {} of {} {of}\n", grouped(usage.used), usage.rate);
    }
    if let Some(status) = &tenant.known.fuse {
        out += &fuse(status);
    }
    tenant.known.templates.iter().take(TEMPLATES_SHOWN).for_each(|t| out += &template(t, now));
    out
}

fn fuse(status: &FuseStatus) -> String {
    let rate = |of: &RateStatus, within: &str| {
        let limit = of.limit.map(|limit| format!(", limit {}", grouped(limit.into())));
        format!(
            "direct mail: {} recipients in the last {within} (busiest {}{})\n",
            grouped(of.recipients.into()),
            grouped(of.busiest.into()),
            limit.unwrap_or_default()
        )
    };
    let mut out = rate(&status.minute, "minute") + &rate(&status.hour, "hour");
    if status.outcomes > 0 {
        let (bounced, outcomes) = (status.bounced.into(), status.outcomes.into());
        out += &format!("unknown recipients: {} of {}\n", grouped(bounced), grouped(outcomes));
    }
    if let Some(blown) = &status.blown {
        out += &format!("alert since {}: {blown}\n", clock(blown.at.0));
    }
    out
}

fn template(status: &TemplateStatus, now: Timestamp) -> String {
    let ago = human(now.since(status.last));
    let (lately, threshold) = (status.recipients.into(), status.threshold.into());
    let (lately, threshold) = (grouped(lately), grouped(threshold));
    let verdict = match &status.sensed {
        Some(sensed) => format!("{sensed}, since {}", clock(sensed.since.0)),
        None => format!("a newsletter from {threshold} on"),
    };
    let subject = safe(&status.subject);
    format!("alike, \"{subject}\": {lately} recipients lately, last {ago} ago; {verdict}\n")
}

/// Who may not log in.
pub(in crate::cli) fn blocks(all: &[BlockView]) -> String {
    if all.is_empty() {
        return "nobody is blocked\n".to_string();
    }
    let row = |block: &BlockView| {
        vec![safe(&block.who), clock(block.until_ms), block.repeated.to_string()]
    };
    table(&BLOCKS, &all.iter().map(row).collect::<Vec<_>>())
}
