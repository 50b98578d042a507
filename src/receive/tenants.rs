//! Whose a message is, whether that customer may send it, and which lane it takes.

use super::intake::Client;
use crate::base::time::Timestamp;
use crate::config::Config;
use crate::mail::envelope::Envelope;
use crate::mail::header;
use crate::mail::message::{Lane, Origin};
use crate::policy::allowance::{Allowances, Exceeded, Usage};
use crate::policy::author;
use crate::policy::classify::Classification;
use crate::policy::site::Rate;
use crate::policy::tenant::{self, Beyond, Sender, TenantRule};
use crate::smtp::command::Refusal;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is remembered of all tenants.
#[derive(Debug, Default)]
pub struct Tenants {
    allowances: Mutex<Allowances>,
}

/// A message that is offered.
pub(super) struct Offered<'a> {
    pub(super) client: &'a Client,
    pub(super) envelope: &'a Envelope,
    pub(super) header: &'a [u8],
    /// Bytes of all of it.
    pub(super) size: usize,
    /// What its header says of its lane.
    pub(super) class: Classification,
}

impl Tenants {
    /// Finds the tenant of a message and its lane, and counts it.
    ///
    /// # Errors
    /// What the client is told where the tenant may not send it.
    pub(super) fn admit(
        &self,
        config: &Config,
        offered: Offered<'_>,
        now: Timestamp,
    ) -> Result<Origin, Refusal> {
        let Offered { client, envelope, header, size, class } = offered;
        let named = named(config, client, header)?;
        let sender = Sender {
            of_user: client.tenant.as_deref(),
            certificate: client.certificate.as_deref(),
            named: named.as_deref(),
            client: client.address,
            reverse_path: &envelope.reverse_path,
        };
        let tenant = tenant::decide(&config.tenants, &sender);
        let mut origin = Origin {
            lane: class.lane,
            reason: class.reason,
            tenant,
            campaign: class.campaign,
            client: client.address.to_string(),
        };
        let Some(rule) = tenant::rule(&config.tenants, &origin.tenant) else { return Ok(origin) };
        permit(rule, &origin.tenant, envelope, header, size)?;
        if !class.is_marked && rule.lane == Lane::Bulk {
            (origin.lane, origin.reason) = (Lane::Bulk, "the tenant's lane".to_string());
        }
        let recipients = envelope.recipients.len() as u64;
        let taken = self.lock().take(&origin.tenant, limits(rule), recipients, now);
        if let Err(exceeded) = taken {
            let what = describe(&exceeded, &origin.tenant);
            match rule.beyond {
                Beyond::Bulk if origin.lane == Lane::Bulk => {}
                Beyond::Bulk => (origin.lane, origin.reason) = (Lane::Bulk, what),
                Beyond::Defer if fits_ever(&exceeded, recipients) => {
                    let wait = exceeded.until.since(now).as_secs().div_ceil(60).max(1);
                    let text = format!("{what}; try again in {wait} min");
                    return Err(Refusal::new(450, (4, 7, 1), text));
                }
                Beyond::Defer | Beyond::Refuse => return Err(Refusal::new(550, (5, 7, 1), what)),
            }
        }
        Ok(origin)
    }

    /// A message that was admitted just now could not be stored.
    pub(super) fn give_back(&self, tenant: &str, recipients: usize) {
        self.lock().give_back(tenant, recipients as u64);
    }

    /// How much of its limits a tenant has used.
    #[must_use]
    pub fn usage(&self, rule: &TenantRule, tenant: &str, now: Timestamp) -> Vec<Usage> {
        self.lock().usage(tenant, limits(rule), now)
    }

    /// All that is to be remembered over a restart.
    #[must_use]
    pub fn allowances(&self) -> Allowances {
        self.lock().clone()
    }

    /// Goes on from what an earlier run remembered.
    pub fn remember(&self, allowances: Allowances) {
        *self.lock() = allowances;
    }

    /// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Allowances> {
        self.allowances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn limits(rule: &TenantRule) -> (&[Rate], &[Rate]) {
    (&rule.accept_messages, &rule.accept_recipients)
}

/// Whose the message is by the word of a web server that is believed.
fn named(config: &Config, client: &Client, header: &[u8]) -> Result<Option<String>, Refusal> {
    let field = &config.relay.tenant_header;
    if field.is_empty() || !config.relay.tenant_header_from.contains(client.address) {
        return Ok(None);
    }
    let mut values = header::fields(header).filter(|f| f.is(field)).map(|f| f.value(header));
    let Some(name) = values.next() else { return Ok(None) };
    let is_name = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        (1..=64).contains(&name.len()) && name.chars().all(fits)
    };
    let only = values.next().is_none();
    match std::str::from_utf8(name).ok().filter(|name| only && is_name(name)) {
        Some(name) => Ok(Some(name.to_string())),
        None => {
            let text = format!("{field} is not one customer's name: 1 to 64 letters, digits, -_.@");
            Err(Refusal::new(550, (5, 6, 0), text))
        }
    }
}

/// Refuses what this tenant may not send at any time.
fn permit(
    rule: &TenantRule,
    tenant: &str,
    envelope: &Envelope,
    header: &[u8],
    size: usize,
) -> Result<(), Refusal> {
    if rule.message_size.is_some_and(|most| size as u64 > most) {
        let most = rule.message_size.unwrap_or_default();
        let text = format!("Message larger than the {most} bytes that {tenant} may send");
        return Err(Refusal::new(552, (5, 3, 4), text));
    }
    if rule.recipients.is_some_and(|most| envelope.recipients.len() > most) {
        let most = rule.recipients.unwrap_or_default();
        let text = format!("More recipients than the {most} that {tenant} may send to at once");
        return Err(Refusal::new(550, (5, 5, 3), text));
    }
    if rule.may_send_as.is_empty() {
        return Ok(());
    }
    let authors = author::domains(header).ok_or_else(|| {
        let text = format!("{tenant} may not send as everybody, and From cannot be read");
        Refusal::new(550, (5, 7, 1), text)
    })?;
    match rule.forbidden(tenant, envelope.reverse_path.domain().into_iter().chain(&authors)) {
        Some(domain) => {
            Err(Refusal::new(550, (5, 7, 1), format!("{tenant} may not send as {domain}")))
        }
        None => Ok(()),
    }
}

/// `shop sends more than 200/h`
fn describe(exceeded: &Exceeded, tenant: &str) -> String {
    let of = if exceeded.of_recipients { " recipients" } else { "" };
    format!("{tenant} sends more than {}{of}", exceeded.rate)
}

fn fits_ever(exceeded: &Exceeded, recipients: u64) -> bool {
    !exceeded.of_recipients || recipients <= u64::from(exceeded.rate.count)
}
