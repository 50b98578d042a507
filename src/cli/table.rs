//! Answers of the control API as text for people. Pure; what comes from outside is escaped here.

mod orders;
mod tenants;

pub(super) use orders::{
    limits, overrides, said_of_override, said_of_suspension, scope, suspensions,
};
pub(super) use tenants::{blocks, tenant, tenants};

use crate::base::text::printable;
use crate::base::time::{Timestamp, human};
use crate::control::outlook::{Campaign, Ending, Outlook};
use crate::control::protocol::{DeliveryView, MessageView};
use crate::control::summary::{SiteSummary, Summary, Total};
use crate::control::why::Explanation;
use crate::policy::orders::Suspension;
use crate::policy::site::Gate;
use crate::store::{Health, State};
use std::time::Duration;

/// Longest text from outside in one cell, in characters.
const CELL_MAX: usize = 300;

/// A column: its title, and its least width; numbers stand right.
pub(super) struct Column(pub(super) &'static str, pub(super) usize, pub(super) Align);

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

const SITES: [Column; 10] = [
    Column("SITE", 24, Left),
    Column("READY", 7, Right),
    Column("LEASED", 7, Right),
    Column("DEFERRED", 8, Right),
    Column("HELD", 7, Right),
    Column("OLDEST", 7, Right),
    Column("RATE/MIN", 8, Right),
    Column("CONN", 5, Right),
    Column("GATE", 9, Left),
    Column("WHY", 0, Left),
];

const DELIVERIES: [Column; 9] = [
    Column("ID", 12, Left),
    Column("LANE", 6, Left),
    Column("STATE", 8, Left),
    Column("AGE", 6, Right),
    Column("TRIES", 5, Right),
    Column("NEXT", 6, Right),
    Column("FROM", 28, Left),
    Column("TO", 28, Left),
    Column("REPLY", 0, Left),
];

/// Campaigns that people are shown.
const CAMPAIGNS_SHOWN: usize = 10;
/// A write that takes so long is trouble.
const STALLED_MS: u64 = 1_000;
/// A database that is so many records behind is.
const BEHIND: u64 = 10_000;

/// The queue by site, with a line for the whole.
pub(super) fn summary(summary: &Summary, now: Timestamp) -> String {
    let mut rows: Vec<Vec<String>> = summary.sites.iter().map(site_row).collect();
    rows.push(total_row(summary));
    let mut out = table(&SITES, &rows);
    if summary.all_held {
        out.push_str(
            "everything is held, what is to come too: `bulkhead queue release --all` ends it\n",
        );
    }
    for Suspension { scope, reason, until, .. } in &summary.suspensions {
        let until = until.map_or_else(|| "resumed".to_string(), |at| clock(at.0));
        let (scope, reason) = (safe(&scope.to_string()), safe(reason));
        out.push_str(&format!("suspended until {until}: {scope}: {reason}\n"));
    }
    out.push_str(&outlook(&summary.outlook, now));
    out.push_str(&trouble(&summary.store));
    out
}

/// When the newsletters will be done; nothing where there are none.
fn outlook(outlook: &Outlook, now: Timestamp) -> String {
    let Some(bulk) = outlook.bulk.filter(|bulk| bulk.waiting > 0) else { return String::new() };
    let mut out = format!("newsletters {}\n", ending(bulk, now));
    let shown = outlook.campaigns.iter().take(CAMPAIGNS_SHOWN);
    for Campaign { tenant, campaign, ending: end } in shown.filter(|_| outlook.campaigns.len() > 1)
    {
        let campaign =
            if campaign.is_empty() { String::new() } else { format!(" {}", safe(campaign)) };
        out.push_str(&format!("  {}{campaign} {}\n", safe(tenant), ending(*end, now)));
    }
    let all = outlook.campaigns.len() + outlook.campaigns_omitted;
    if all > CAMPAIGNS_SHOWN {
        let more = grouped((all - CAMPAIGNS_SHOWN) as u64);
        out.push_str(&format!("  {more} more campaigns: --json lists them\n"));
    }
    out
}

fn ending(ending: Ending, now: Timestamp) -> String {
    let waiting = grouped(ending.waiting);
    let stuck = match ending.stuck {
        0 => String::new(),
        n if n == ending.waiting => " at sites that take nothing yet".to_string(),
        n => format!(", but {} at sites that take nothing now", grouped(n)),
    };
    match ending.done_ms {
        None => format!("wait: {waiting}{stuck}"),
        Some(ms) => {
            let wait = human(Timestamp(ms).since(now));
            format!("wait: {waiting}, done in about {wait} ({}){stuck}", clock(ms))
        }
    }
}

/// Why mail is where it is.
pub(super) fn why(found: &Explanation) -> String {
    let mut out = format!("{}: {}\n", safe(&found.about), safe(&found.sentence));
    let remedy = (!found.remedy.is_empty()).then_some(("to change it", found.remedy.as_str()));
    let chain = found.chain.iter().map(|(word, text)| (word.as_str(), text.as_str()));
    for (word, text) in chain.chain(remedy) {
        out.push_str(&format!("  {word:<14}{}\n", safe(text)));
    }
    out
}

/// What is wrong with the disk; nothing where all is well.
fn trouble(store: &Health) -> String {
    let mut out = String::new();
    if store.stalled_ms >= STALLED_MS {
        let waited = human(Duration::from_millis(store.stalled_ms));
        out.push_str(&format!("the disk has not answered for {waited}: mail waits for it\n"));
    }
    if store.index_failed {
        out.push_str(
            "queue.db cannot be used now and is tried again; see store.failed in the log\n",
        );
    }
    if store.behind >= BEHIND {
        let behind = grouped(store.behind);
        out.push_str(&format!("queue.db is {behind} records behind: new mail may have to wait\n"));
    }
    if store.short {
        out.push_str("space is short: newsletters are refused first, then all new mail\n");
    }
    out
}

fn site_row(site: &SiteSummary) -> Vec<String> {
    let conn = match site.connections_max {
        Some(most) => format!("{}/{most}", site.total.connections),
        None => "-".to_string(),
    };
    let gate = site.gate.map_or("-", gate);
    let mut row = vec![safe(&site.site)];
    row.extend(counts(&site.total));
    row.extend([conn, gate.to_string(), safe(&site.why)]);
    row
}

fn gate(gate: Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Throttled => "throttled",
        Gate::Broken => "broken",
    }
}

fn total_row(summary: &Summary) -> Vec<String> {
    let mut row = vec!["total".to_string()];
    row.extend(counts(&summary.total));
    let sites = summary.sites.len() + summary.sites_omitted;
    let mut why = format!("{} site{}", grouped(sites as u64), if sites == 1 { "" } else { "s" });
    if summary.sites_omitted > 0 {
        why.push_str(&format!(", {} not shown (--sites N)", grouped(summary.sites_omitted as u64)));
    }
    if !summary.node.is_empty() {
        why.push_str(&format!(", node {}", safe(&summary.node)));
    }
    row.extend([summary.total.connections.to_string(), String::new(), why]);
    row
}

fn counts(total: &Total) -> [String; 6] {
    let oldest = total.oldest_ms.map(|ms| human(Duration::from_millis(ms)));
    [
        grouped(total.ready),
        grouped(total.leased),
        grouped(total.deferred),
        grouped(total.held),
        oldest.unwrap_or_else(|| "-".to_string()),
        grouped(total.rate_per_minute),
    ]
}

/// The titles over a list of deliveries.
pub(super) fn delivery_titles() -> String {
    line(&DELIVERIES, &widths(&DELIVERIES, &[]), &titles(&DELIVERIES))
}

/// One line of a list. Widths are fixed: a list of millions is written as it comes.
pub(super) fn delivery(view: &DeliveryView, now: Timestamp) -> String {
    let next = match view.due_ms.map(Timestamp) {
        Some(due) if view.state != State::Held && view.state != State::Leased => {
            match due.since(now) {
                Duration::ZERO => "now".to_string(),
                wait => human(wait),
            }
        }
        _ => "-".to_string(),
    };
    let row = vec![
        safe(&view.message),
        view.lane.to_string(),
        state(view.state).to_string(),
        human(now.since(Timestamp(view.accepted_ms))),
        view.attempts.to_string(),
        next,
        format!("<{}>", safe(&view.sender)),
        format!("<{}>", safe(&view.recipient)),
        safe(&view.last_reply),
    ];
    line(&DELIVERIES, &widths(&DELIVERIES, &[]), &row)
}

/// The head of `bulkhead queue show`.
pub(super) fn message(view: &MessageView) -> String {
    let client = match view.client.as_str() {
        "" => "by this node".to_string(),
        client => format!("from {}", safe(client)),
    };
    let campaign = match view.campaign.as_str() {
        "" => String::new(),
        campaign => format!("campaign {}  ", safe(campaign)),
    };
    format!(
        "message   {}  {} ({})  tenant {}  {} bytes  accepted {} {client}\n\
         from      <{}>  {campaign}expires {}\n",
        safe(&view.message),
        view.lane,
        safe(&view.reason),
        safe(&view.tenant),
        grouped(view.size),
        clock(view.accepted_ms),
        safe(&view.sender),
        clock(view.expires_ms),
    )
}

/// One recipient of `bulkhead queue show`.
pub(super) fn recipient(view: &DeliveryView) -> String {
    const COLUMNS: [Column; 6] = [
        Column("", 8, Left),
        Column("", 28, Left),
        Column("", 9, Left),
        Column("", 11, Left),
        Column("", 25, Left),
        Column("", 0, Left),
    ];
    let s = if view.attempts == 1 { "" } else { "s" };
    let when = match (view.state, view.due_ms, view.last_ms) {
        (State::Ready | State::Deferred, Some(due), _) => format!("next {}", clock(due)),
        (_, None, Some(last)) => clock(last),
        _ => String::new(),
    };
    let blame = view.blame.map(|blame| format!("  (blame: {})", blame.as_str()));
    let row = vec![
        if view.number == 0 { "to" } else { "" }.to_string(),
        format!("<{}>", safe(&view.recipient)),
        state(view.state).to_string(),
        format!("{} attempt{s}", view.attempts),
        when,
        format!("{}{}", safe(&view.last_reply), blame.unwrap_or_default()),
    ];
    line(&COLUMNS, &widths(&COLUMNS, &[]), &row)
}

/// `1,234,567`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn state(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Leased => "leased",
        State::Deferred => "deferred",
        State::Held => "held",
        State::Delivered => "delivered",
        State::Failed => "failed",
        State::Expired => "expired",
        State::Deleted => "deleted",
    }
}

/// `2026-11-23T00:45:28Z`
fn clock(ms: i64) -> String {
    let text = Timestamp(ms).to_string();
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

pub(super) fn safe(text: &str) -> String {
    printable(text.as_bytes(), CELL_MAX)
}

/// Titles and rows, each column as wide as its longest cell.
pub(super) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let widths = widths(columns, rows);
    let lines = rows.iter().map(|row| line(columns, &widths, row));
    std::iter::once(line(columns, &widths, &titles(columns))).chain(lines).collect()
}

fn titles(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| column.0.to_string()).collect()
}

fn widths(columns: &[Column], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |(i, column): (usize, &Column)| {
        let cells = rows.iter().filter_map(|row| row.get(i));
        cells.map(|cell| cell.chars().count()).fold(column.1.max(column.0.len()), usize::max)
    };
    columns.iter().enumerate().map(width).collect()
}

/// One line, two spaces between the cells; a cell that is too long moves the rest.
fn line(columns: &[Column], widths: &[usize], cells: &[String]) -> String {
    let mut out = String::new();
    for ((column, width), cell) in columns.iter().zip(widths).zip(cells) {
        match column.2 {
            Left => out.push_str(&format!("{cell:<width$}  ")),
            Right => out.push_str(&format!("{cell:>width$}  ")),
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::message::Lane;
    use crate::policy::verdict::Blame;

    #[track_caller]
    fn check(shown: &str, expected: &[&str]) {
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    }

    fn site(name: &str, total: Total, gate: Option<Gate>, why: &str) -> SiteSummary {
        let connections_max = gate.map(|_| 10);
        SiteSummary {
            site: name.into(),
            total,
            connections_max,
            gate,
            why: why.into(),
            window: None,
            waiting: Vec::new(),
            resting: Vec::new(),
        }
    }

    fn view() -> DeliveryView {
        DeliveryView {
            message: "1RW7M2Q80A3F".into(),
            number: 0,
            lane: Lane::Bulk,
            state: State::Deferred,
            tenant: "c1842".into(),
            campaign: "weekly".into(),
            sender: "news@example.net".into(),
            recipient: "ann@outlook.com".into(),
            accepted_ms: 1_795_394_728_114,
            attempts: 3,
            due_ms: Some(1_795_394_728_114 + 4_000_000),
            last_ms: None,
            last_reply: "451 4.7.66 \u{1b}[31mThrottled".into(),
            blame: Some(Blame::Site),
        }
    }

    #[test]
    fn the_summary_has_a_line_for_each_site_and_one_for_all() {
        let google = Total {
            ready: 8_412,
            leased: 200,
            deferred: 311,
            oldest_ms: Some(252_000),
            rate_per_minute: 2_950,
            connections: 9,
            ..Total::default()
        };
        let fresh = Total { deferred: 17, held: 1, oldest_ms: Some(8_040_000), ..Total::default() };
        let total = Total {
            ready: 8_412,
            leased: 200,
            deferred: 328,
            held: 1,
            bytes: 1,
            oldest_ms: Some(8_040_000),
            rate_per_minute: 2_950,
            connections: 9,
        };
        let mut shown = Summary {
            node: "web-mx1".into(),
            all_held: false,
            total,
            sites: vec![
                site("google.com", google, Some(Gate::Throttled), "421 4.7.28 \u{7}"),
                site("new.example", fresh, None, ""),
            ],
            ..Summary::default()
        };
        check(
            &summary(&shown, Timestamp(0)),
            &[
                "SITE                        READY   LEASED  DEFERRED     HELD   OLDEST  \
                 RATE/MIN   CONN  GATE       WHY",
                "google.com                  8,412      200       311        0    4m12s     \
                 2,950   9/10  throttled  421 4.7.28 \\x07",
                "new.example                     0        0        17        1    2h14m         \
                 0      -  -",
                "total                       8,412      200       328        1    2h14m     \
                 2,950      9             2 sites, node web-mx1",
            ],
        );
        shown.all_held = true;
        shown.sites_omitted = 1_000;
        let text = summary(&shown, Timestamp(0));
        assert!(
            text.contains("1,002 sites, 1,000 not shown (--sites N), node web-mx1\n"),
            "{text}"
        );
        assert!(text.ends_with(
            "everything is held, what is to come too: `bulkhead queue release --all` ends it\n"
        ));
        shown.store = Health {
            stalled_ms: 12_000,
            behind: 12_345,
            short: true,
            index_failed: true,
            ..Health::default()
        };
        let text = summary(&shown, Timestamp(0));
        let told = [
            "the disk has not answered for 12s",
            "queue.db cannot be used now",
            "queue.db is 12,345 records behind",
            "space is short",
        ];
        assert!(told.iter().all(|told| text.contains(told)), "{text}");
    }

    #[test]
    fn the_end_of_newsletters_is_foretold() {
        let end = |waiting, stuck, done_ms| Ending { waiting, stuck, done_ms };
        let campaign = |tenant: &str, campaign: &str, ending| Campaign {
            tenant: tenant.into(),
            campaign: campaign.into(),
            ending,
        };
        let mut shown = Outlook {
            bulk: Some(end(8_000, 20, Some(1_795_394_728_114))),
            campaigns: vec![
                campaign("shop", "spring\u{1b}", end(7_000, 0, Some(1_795_394_728_114))),
                campaign("club", "", end(1_000, 1_000, None)),
            ],
            campaigns_omitted: 0,
        };
        let now = Timestamp(1_795_394_728_114 - 1_500_000);
        assert_eq!(
            outlook(&shown, now),
            "newsletters wait: 8,000, done in about 25m (2026-11-23T00:45:28Z), but 20 at sites \
             that take nothing now\n  shop spring\\x1b wait: 7,000, done in about 25m \
             (2026-11-23T00:45:28Z)\n  club wait: 1,000 at sites that take nothing yet\n"
        );
        shown.campaigns_omitted = 1_000;
        assert!(outlook(&shown, now).ends_with("  992 more campaigns: --json lists them\n"));
        assert_eq!(outlook(&Outlook::default(), now), "");
    }

    #[test]
    fn deliveries_stand_in_columns_and_cannot_act_on_a_terminal() {
        let now = Timestamp(1_795_394_728_114 + 90_000);
        let mut held = view();
        held.state = State::Held;
        held.last_reply.clear();
        held.sender.clear();
        let text = [delivery_titles(), delivery(&view(), now), delivery(&held, now)].concat();
        check(
            &text,
            &[
                "ID            LANE    STATE        AGE  TRIES    NEXT  \
                 FROM                          TO                            REPLY",
                "1RW7M2Q80A3F  bulk    deferred   1m30s      3   1h05m  \
                 <news@example.net>            <ann@outlook.com>             451 4.7.66 \
                 \\x1b[31mThrottled",
                "1RW7M2Q80A3F  bulk    held       1m30s      3       -  \
                 <>                            <ann@outlook.com>",
            ],
        );
    }

    #[test]
    fn a_message_is_shown_with_each_recipient() {
        let head = MessageView {
            message: "1RW7M2Q80A3F".into(),
            lane: Lane::Bulk,
            reason: "X-Newsletter: weekly".into(),
            tenant: "c1842".into(),
            campaign: "weekly".into(),
            client: "10.0.0.7".into(),
            sender: "news@example.net".into(),
            size: 48_112,
            recipients: 2,
            accepted_ms: 1_795_394_728_114,
            expires_ms: 1_795_394_728_114 + 172_800_000,
        };
        let mut second = view();
        second.number = 1;
        second.state = State::Failed;
        second.attempts = 1;
        second.due_ms = None;
        second.last_ms = Some(1_795_394_728_114);
        second.last_reply = "550 5.1.1 No such user".into();
        second.blame = Some(Blame::Recipient);
        let text = [message(&head), recipient(&view()), recipient(&second)].concat();
        check(
            &text,
            &[
                "message   1RW7M2Q80A3F  bulk (X-Newsletter: weekly)  tenant c1842  48,112 bytes  \
                 accepted 2026-11-23T00:45:28Z from 10.0.0.7",
                "from      <news@example.net>  campaign weekly  expires 2026-11-25T00:45:28Z",
                "to        <ann@outlook.com>             deferred   3 attempts   next \
                 2026-11-23T01:52:08Z  451 4.7.66 \\x1b[31mThrottled  (blame: site)",
                "          <ann@outlook.com>             failed     1 attempt    \
                 2026-11-23T00:45:28Z       550 5.1.1 No such user  (blame: recipient)",
            ],
        );
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }
}
