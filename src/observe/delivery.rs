//! What became of deliveries: one event per attempt and recipient, with the time split into receive
//! (client to queue), queue, connect and transmit, so that "where is the time going" has an answer.

use crate::base::text::printable;
use crate::base::time::Timestamp;
use crate::mail::message::MessageHead;
use crate::policy::feedback::{Ask, Complaint, Whose};
use crate::policy::rules::Rule;
use crate::policy::verdict::Blame;
use std::net::IpAddr;
use std::time::Duration;
use tracing::{info, warn};

/// The connection that an attempt was made over.
#[derive(Clone, Debug)]
pub struct Over<'a> {
    /// Its site.
    pub site: &'a str,
    /// Our source.
    pub source: &'a str,
    /// Name and address of the receiving host.
    pub host: &'a str,
    /// See `host`.
    pub address: IpAddr,
    /// TLS version, or `none`.
    pub tls: &'a str,
    /// How many transactions it had carried, this one included.
    pub uses: u32,
    /// Time that this attempt waited for the connection to open; zero for one that stood.
    pub connect: Duration,
    /// From the first command of the transaction to its last reply.
    pub transmit: Duration,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    /// `delivery.delivered`
    Delivered,
    /// `delivery.deferred`, until then.
    Deferred(Timestamp),
    /// `delivery.failed`
    Failed,
    /// `delivery.expired`
    Expired,
}

/// One recipient's attempt.
#[derive(Debug)]
pub struct Attempted<'a> {
    /// Its message.
    pub head: &'a MessageHead,
    /// Its number in the message.
    pub number: u32,
    /// Its address.
    pub recipient: &'a str,
    /// Attempts, this one included.
    pub attempts: u32,
    /// What came of it.
    pub outcome: Told,
    /// Reply or error, safe to print.
    pub reply: &'a str,
    /// Whose fault it was.
    pub blame: Option<Blame>,
    /// The reply rule that decided; empty where none did.
    pub rule: &'a str,
    /// When it was settled.
    pub at: Timestamp,
    /// Time from the first byte of DATA to the durable accept, where known.
    pub receive: Option<Duration>,
    /// `None`: no connection was made.
    pub over: Option<Over<'a>>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `delivery.{delivered,deferred,failed,expired}`
pub fn delivery_settled(a: &Attempted<'_>) {
    let (event, next) = match a.outcome {
        Told::Delivered => ("delivery.delivered", String::new()),
        Told::Deferred(until) => ("delivery.deferred", until.to_string()),
        Told::Failed => ("delivery.failed", String::new()),
        Told::Expired => ("delivery.expired", String::new()),
    };
    let total = a.at.since(a.head.accepted_at);
    let (connect, transmit) =
        a.over.as_ref().map_or((Duration::ZERO, Duration::ZERO), |o| (o.connect, o.transmit));
    let queue = total.saturating_sub(connect).saturating_sub(transmit);
    let host = a.over.as_ref().map_or_else(String::new, |o| format!("{}[{}]", o.host, o.address));
    info!(
        target: "bulkhead",
        message = event,
        id = %a.head.id,
        number = a.number,
        lane = a.head.origin.lane.as_str(),
        tenant = a.head.origin.tenant,
        from = printable(a.head.envelope.reverse_path.as_str().as_bytes(), 320),
        to = printable(a.recipient.as_bytes(), 320),
        site = a.over.as_ref().map_or("", |o| o.site),
        source = a.over.as_ref().map_or("", |o| o.source),
        host,
        tls = a.over.as_ref().map_or("", |o| o.tls),
        connection_use = a.over.as_ref().map_or(0, |o| o.uses),
        attempt = a.attempts,
        receive_ms = a.receive.map_or(0, ms),
        queue_ms = ms(queue),
        connect_ms = ms(connect),
        transmit_ms = ms(transmit),
        total_ms = ms(total + a.receive.unwrap_or_default()),
        blame = a.blame.map_or("", |b| b.as_str()),
        rule = a.rule,
        next,
        reply = a.reply,
    );
}

/// `site.complaint`: a receiver asks for less, of all mail or of someone's.
pub fn complaint(site: &str, host: &str, rule: &Rule, complaint: &Complaint) {
    let (whose, name) = match &complaint.whose {
        Whose::Everyones => ("site", ""),
        Whose::Tenants(name) => ("tenant", name.as_str()),
        Whose::Senders(name) => ("sender_domain", name.as_str()),
        Whose::Sources(name) => ("source", name.as_str()),
    };
    let (Ask::Slower(time) | Ask::Fewer(time) | Ask::Stop(time)) = complaint.ask;
    let (rule, action) = (rule.name.as_str(), rule.action.as_str());
    let (time_s, reply) = (time.as_secs(), complaint.why.as_str());
    warn!(
        target: "bulkhead",
        message = "site.complaint",
        site,
        host,
        rule,
        action,
        whose,
        name,
        time_s,
        reply,
    );
}

/// `report.made`: a notification goes to the sender.
pub fn report_made(about: &MessageHead, report: &str, kind: &str) {
    info!(target: "bulkhead", message = "report.made", about = %about.id, report, kind);
}

/// `source.unusable`: we cannot send from there.
pub fn source_unusable(site: &str, source: &str, why: &str) {
    warn!(target: "bulkhead", message = "source.unusable", site, source, why);
}

/// `site.unreachable`: none of its hosts answers.
pub fn site_unreachable(site: &str, why: &str) {
    warn!(target: "bulkhead", message = "site.unreachable", site, why);
}

/// `site.recovered`: it takes mail again.
pub fn site_recovered(site: &str, after: Duration) {
    info!(target: "bulkhead", message = "site.recovered", site, after_s = after.as_secs());
}
