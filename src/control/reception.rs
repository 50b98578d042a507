//! What the receiving side tells operators: tenants and what is known of them, who may not log in.

use super::protocol::{Request, Response};
use crate::base::live::Live;
use crate::base::time::{Clock, Timestamp};
use crate::config::Config;
use crate::mail::message::Lane;
use crate::observe::receive as tell;
use crate::observe::tenant::alert_cleared;
use crate::policy::guard::Block;
use crate::policy::orders::Suspension;
use crate::policy::site::Rate;
use crate::policy::tenant::{EVERYBODY, TenantRule};
use crate::receive::logins::Logins;
use crate::receive::tenants::{Known, Tenants};
use crate::store::{Backlog, QueueBacklog};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The receiving side of a node.
pub struct Reception {
    /// Who may send what.
    pub config: Live<Config>,
    /// Who sent what.
    pub tenants: Arc<Tenants>,
    /// Who failed to log in.
    pub logins: Arc<Logins>,
    /// For "now".
    pub clock: Clock,
}

/// Somebody who may not log in for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// An address, a user, or a user at an address.
    pub who: String,
    /// Its end.
    pub until_ms: i64,
    /// Blocks in a row.
    pub repeated: u32,
}

/// A tenant's mail in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Of the direct lane.
    pub direct: u64,
    /// Of the bulk lane.
    pub bulk: u64,
    /// Of either: tried before.
    pub deferred: u64,
    /// Of either: waits for an operator.
    pub held: u64,
}

impl Queued {
    fn add(&mut self, queue: &QueueBacklog) {
        let all = queue.ready + queue.deferred + queue.leased + queue.held;
        match queue.key.lane {
            Lane::Direct => self.direct += all,
            Lane::Bulk => self.bulk += all,
        }
        self.deferred += queue.deferred;
        self.held += queue.held;
    }
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantView {
    /// Its name.
    pub name: String,
    /// It has an entry of its own in the configuration.
    pub configured: bool,
    /// How it is known, and what it may, a line each.
    pub terms: Vec<String>,
    /// Its mail in the queue.
    pub queued: Queued,
    /// Suspensions of its mail.
    pub suspensions: Vec<Suspension>,
    /// What was seen of its mail.
    pub known: Known,
}

impl Reception {
    /// Answers requests about logins; one about something else, with nothing.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn answer(&self, request: &Request, user: Option<u32>) -> Result<Vec<Response>, String> {
        let now = self.clock.now();
        match request {
            Request::Blocks => Ok(self.logins.blocks(now).iter().map(block).collect()),
            Request::Unblock { who } => {
                let named = |block: &&Block| block.whom.to_string().eq_ignore_ascii_case(who);
                let blocks = self.logins.blocks(now);
                let found: Vec<&Block> = blocks.iter().filter(named).collect();
                let lifted = found.iter().filter(|block| self.logins.lift(&block.whom, now));
                let lifted: Vec<Response> = lifted.map(|found| block(found)).collect();
                if lifted.is_empty() {
                    return Err(format!("{who} is not blocked; see `bulkhead user blocks`"));
                }
                tell::login_unblocked(who, user);
                Ok(lifted)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// A tenant's mail may go again. Gives the alert that this ends, if there is one.
    pub fn resumed(&self, tenant: &str, as_usual: bool, user: Option<u32>) -> Option<Response> {
        let alert = self.tenants.looked_at(tenant, as_usual)?;
        alert_cleared(tenant, &alert.to_string(), user);
        Some(Response::Alert(Box::new(alert)))
    }

    /// Every tenant with an entry or with mail in the queue; or the one of this name, whether
    /// anything is known of it or not.
    #[must_use]
    pub fn tenants(
        &self,
        name: Option<&str>,
        backlog: &Backlog,
        suspensions: &[Suspension],
    ) -> Vec<TenantView> {
        let (config, now) = (self.config.get(), self.clock.now());
        let mut queued: BTreeMap<&str, Queued> = BTreeMap::new();
        let configured = config.tenants.iter().map(|rule| rule.name.as_str());
        for tenant in configured.filter(|tenant| *tenant != EVERYBODY).chain(name) {
            queued.entry(tenant).or_default();
        }
        for queue in &backlog.queues {
            queued.entry(&queue.key.tenant).or_default().add(queue);
        }
        let wanted = queued.into_iter().filter(|(tenant, _)| name.is_none_or(|n| n == *tenant));
        wanted
            .map(|(tenant, queued)| self.view(&config, tenant, queued, suspensions, now))
            .collect()
    }

    fn view(
        &self,
        config: &Config,
        tenant: &str,
        queued: Queued,
        suspensions: &[Suspension],
        now: Timestamp,
    ) -> TenantView {
        let concerns = |order: &&Suspension| order.scope.tenant.as_deref() == Some(tenant);
        let found = config.tenants.rule(tenant);
        TenantView {
            name: tenant.to_string(),
            configured: found.is_some_and(|rule| rule.name == tenant),
            terms: found.map_or_else(Vec::new, terms),
            queued,
            suspensions: suspensions.iter().filter(concerns).cloned().collect(),
            known: self.tenants.known(config, tenant, now),
        }
    }
}

fn block(block: &Block) -> Response {
    Response::Block(Box::new(BlockView {
        who: block.whom.to_string(),
        until_ms: block.until.0,
        repeated: block.repeated,
    }))
}

/// What the configuration says of a tenant, as keys and values.
fn terms(rule: &TenantRule) -> Vec<String> {
    let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(", "));
    let rates = |rates: &[Rate]| list(rates.iter().map(ToString::to_string).collect());
    let blank = TenantRule::default();
    let other = |differs: bool, text: String| differs.then_some(text);
    let keys = [
        ("entry", other(rule.name == EVERYBODY, "that for everybody (\"*\")".into())),
        ("networks", list(rule.networks.iter().map(ToString::to_string).collect())),
        ("certificates", list(rule.certificates.clone())),
        ("sender_domains", list(rule.sender_domains.clone())),
        ("may_send_as", list(rule.may_send_as.clone())),
        ("message_size", rule.message_size.map(|size| format!("{size} bytes"))),
        ("recipients", rule.recipients.map(|count| count.to_string())),
        ("accept_messages", rates(&rule.accept_messages)),
        ("accept_recipients", rates(&rule.accept_recipients)),
        ("beyond", other(rule.beyond != blank.beyond, rule.beyond.as_str().into())),
        ("lane", other(rule.lane != blank.lane, rule.lane.to_string())),
        ("watched", other(!rule.watched, "no".into())),
        ("weight", other(rule.weight != blank.weight, rule.weight.to_string())),
        ("rate", rates(&rule.rates)),
        ("sources", list(rule.sources.clone())),
    ];
    keys.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", value?))).collect()
}
