//! Limits and orders as text for people.

use super::{Column, Left, Right, clock, gate, grouped, safe, table};
use crate::base::time::Timestamp;
use crate::policy::orders::{Suspension, ThrottleOrder};
use crate::policy::site::{Effective, Lessons, SiteLimits, SourceStatus};

/// Of a site's learned sizes, the last ones are shown.
const CURVE_SHOWN: usize = 6;

const LIMITS: [Column; 3] =
    [Column("KEY", 26, Left), Column("VALUE", 12, Left), Column("FROM", 0, Left)];

const SOURCES: [Column; 4] = [
    Column("SOURCE", 16, Left),
    Column("CONN", 6, Right),
    Column("RATE/MIN", 9, Right),
    Column("STANDING", 0, Left),
];

const OVERRIDES: [Column; 5] = [
    Column("SITE", 24, Left),
    Column("KEY", 26, Left),
    Column("VALUE", 12, Left),
    Column("UNTIL", 20, Left),
    Column("SINCE", 20, Left),
];

const SUSPENSIONS: [Column; 4] = [
    Column("MAIL", 30, Left),
    Column("UNTIL", 20, Left),
    Column("SINCE", 20, Left),
    Column("REASON", 0, Left),
];

/// How a site does, and each of its limits with its source.
pub(in crate::cli) fn limits(limits: &SiteLimits) -> String {
    let mut out = safe(&limits.site);
    match limits.gate {
        Some(open) => {
            let domains = limits.domains as u64;
            let s = if domains == 1 { "" } else { "s" };
            out.push_str(&format!(
                "  {} domain{s}, {} open connections, {} deliveries in the last minute, gate {}",
                grouped(domains),
                limits.connections,
                grouped(limits.rate_per_minute),
                gate(open),
            ));
            if !limits.why.is_empty() {
                out.push_str(&format!(": {}", safe(&limits.why)));
            }
        }
        None => out.push_str("  not in use now; this is what would hold"),
    }
    let row = |effective: &Effective| {
        vec![
            effective.key.to_string(),
            effective.value.to_string(),
            safe(&effective.origin.to_string()),
        ]
    };
    let rows = |all: &[Effective]| all.iter().map(row).collect::<Vec<_>>();
    let learned = limits.learned.as_ref().map(learned).unwrap_or_default();
    let sources = sources(&limits.sources);
    let mut shown = format!("{out}\n{}{learned}{sources}", table(&LIMITS, &rows(&limits.limits)));
    if !limits.of_domain.is_empty() {
        shown.push_str("of the domain itself, besides\n");
        shown.push_str(&table(&LIMITS, &rows(&limits.of_domain)));
    }
    shown
}

/// What goes there from each source; nothing where there is one.
fn sources(all: &[SourceStatus]) -> String {
    let row = |status: &SourceStatus| {
        let SourceStatus { source, connections, rate_per_minute, until, rate, why } = status;
        let standing = until.map_or_else(String::new, |until| {
            let less = rate.map_or("rests".into(), |rate| format!("slowed to {rate}"));
            format!("{less} until {}: {}", clock(until.0), safe(why))
        });
        vec![safe(source), connections.to_string(), grouped(*rate_per_minute), standing]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    if rows.is_empty() { String::new() } else { table(&SOURCES, &rows) }
}

/// What holds by the site's own replies.
fn learned(lessons: &Lessons) -> String {
    let mut out = format!("learned: it welcomes {} connections", lessons.window);
    let curve = lessons.curve.iter().rev().take(CURVE_SHOWN).rev();
    let curve: Vec<_> = curve.map(|(at, size)| format!("{size} from {}", clock(at.0))).collect();
    if !curve.is_empty() {
        out.push_str(&format!(" ({})", curve.join(", ")));
    }
    if let (Some(rate), Some(until)) = (lessons.rate, lessons.rate_until) {
        out.push_str(&format!("; slowed to {rate} until {}", clock(until.0)));
    }
    if let Some(count) = lessons.deliveries_per_connection {
        out.push_str(&format!("; it ends connections after {count} deliveries"));
    }
    out.push('\n');
    out
}

/// All overrides.
pub(in crate::cli) fn overrides(all: &[ThrottleOrder]) -> String {
    let row = |order: &ThrottleOrder| {
        vec![
            safe(&order.site),
            order.setting.key().to_string(),
            order.setting.value().to_string(),
            end(order.until, "cleared"),
            clock(order.since.0),
        ]
    };
    table(&OVERRIDES, &all.iter().map(row).collect::<Vec<_>>())
}

/// All suspensions.
pub(in crate::cli) fn suspensions(all: &[Suspension]) -> String {
    let row = |order: &Suspension| {
        let until = end(order.until, "resumed");
        vec![scope(order), until, clock(order.since.0), safe(&order.reason)]
    };
    table(&SUSPENSIONS, &all.iter().map(row).collect::<Vec<_>>())
}

/// A line: what was overridden.
pub(in crate::cli) fn said_of_override(order: &ThrottleOrder) -> String {
    let (key, value) = (order.setting.key(), order.setting.value());
    format!("{} {key} = {value} until {}\n", safe(&order.site), end(order.until, "cleared"))
}

/// A line: what was suspended.
pub(in crate::cli) fn said_of_suspension(order: &Suspension) -> String {
    format!("suspended {} until {}\n", scope(order), end(order.until, "resumed"))
}

/// Which mail.
pub(in crate::cli) fn scope(order: &Suspension) -> String {
    safe(&order.scope.to_string())
}

fn end(until: Option<Timestamp>, else_until: &str) -> String {
    until.map_or_else(|| else_until.to_string(), |until| clock(until.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::orders::Scope;
    use crate::policy::quota::DomainRule;
    use crate::policy::site::setting::{LimitKey, Setting};
    use crate::policy::site::{Directory, Gate, Rate, sites};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_795_394_728_114);

    #[track_caller]
    fn check(shown: &str, expected: &[&str]) {
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn limits_stand_with_their_sources() {
        let directory = Directory::new(sites(10, &[("gmail.com", 20)]));
        let own = DomainRule {
            name: "gmail.com".into(),
            rates: vec![Rate { count: 9, per: Duration::from_secs(1) }],
            recipients_per_transaction: Some(5),
            lines: vec![(LimitKey::Rate, 7)],
        };
        let mut found = SiteLimits::foreseen("gmail.com", &directory, &[own]);
        let own = [
            "of the domain itself, besides",
            "KEY                         VALUE         FROM",
            "recipients_per_transaction  5             [domains.\"gmail.com\"]",
            "rate                        9/s           [domains.\"gmail.com\"] (line 7)",
        ];
        let rows = [
            "KEY                         VALUE         FROM",
            "connections                 20            [sites.\"gmail.com\"] (line 1)",
            "connections_per_source      20            by connections",
            "reserved_for_direct         2             default",
            "deliveries_per_connection   50            provider gmail.com",
            "recipients_per_transaction  100           default",
            "rate                        none          default",
            "rate_per_source             none          default",
            "connection_rate             none          default",
            "connection_rate_per_source  none          default",
        ];
        let head = "gmail.com  not in use now; this is what would hold";
        check(&limits(&found), &[&[head], &rows[..], &own[..]].concat());
        found.of_domain.clear();
        (found.gate, found.domains, found.connections) = (Some(Gate::Throttled), 1_234, 7);
        found.why = "421 \u{1b}[31mslow".into();
        let head = "gmail.com  1,234 domains, 7 open connections, 0 deliveries in the last minute, \
                    gate throttled: 421 \\x1b[31mslow";
        check(&limits(&found), &[&[head], &rows[..]].concat());
        found.learned = Some(Lessons {
            window: 7,
            curve: vec![(NOW, 3), (NOW, 7)],
            rate: Some(Rate { count: 50, per: Duration::from_secs(60) }),
            rate_until: Some(NOW),
            deliveries_per_connection: Some(20),
        });
        let learned = "learned: it welcomes 7 connections (3 from 2026-11-23T00:45:28Z, 7 from \
                       2026-11-23T00:45:28Z); slowed to 50/min until 2026-11-23T00:45:28Z; it ends \
                       connections after 20 deliveries";
        check(&limits(&found), &[&[head], &rows[..], &[learned]].concat());
    }

    #[test]
    fn orders_stand_in_columns_and_cannot_act_on_a_terminal() {
        let setting = Setting::parse("rate=100/s,50000/d").unwrap();
        let order =
            ThrottleOrder { site: "gmail.com".into(), setting, since: NOW, until: Some(NOW) };
        check(
            &overrides(std::slice::from_ref(&order)),
            &[
                "SITE                      KEY                         VALUE          UNTIL       \
                 \x20         SINCE",
                "gmail.com                 rate                        100/s,50000/d  \
                 2026-11-23T00:45:28Z  2026-11-23T00:45:28Z",
            ],
        );
        assert_eq!(
            said_of_override(&ThrottleOrder { until: None, ..order }),
            "gmail.com rate = 100/s,50000/d until cleared\n"
        );
        let scope = Scope { tenant: Some("c\u{1b}1".into()), ..Scope::default() };
        let order = Suspension { scope, reason: "\u{7}".into(), since: NOW, until: None };
        check(
            &suspensions(std::slice::from_ref(&order)),
            &[
                "MAIL                            UNTIL                 SINCE                 \
                 REASON",
                "tenant=c\\x1b1                   resumed               2026-11-23T00:45:28Z  \
                 \\x07",
            ],
        );
        assert_eq!(said_of_suspension(&order), "suspended tenant=c\\x1b1 until resumed\n");
    }
}
