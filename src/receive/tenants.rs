//! Whose a message is, whether that customer may send it, and which lane it takes.

use super::intake::Client;
use crate::base::time::Timestamp;
use crate::config::{Bursts, Config, Newsletters, Watch};
use crate::mail::envelope::Envelope;
use crate::mail::header;
use crate::mail::message::{Lane, Origin};
use crate::observe::tenant as tell;
use crate::policy::allowance::{Allowances, Exceeded, Usage};
use crate::policy::author;
use crate::policy::classify::Classification;
use crate::policy::fuse::{Blown, Fuse, FuseStatus};
use crate::policy::sense::{Sense, TemplateStatus, shape};
use crate::policy::site::Rate;
use crate::policy::tenant::{self, Beyond, Sender, TenantRule};
use crate::smtp::command::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Mailings that alerts were given for.
const TOLD_MAX: usize = 4_000;

/// All tenants of a node.
#[derive(Debug)]
pub struct Tenants {
    book: Mutex<Book>,
    alerts: mpsc::Sender<Alert>,
}

/// What is remembered of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    allowances: Allowances,
    sense: Sense,
    fuse: Fuse,
    /// Mailings that alerts were given for.
    #[serde(skip)]
    told: BTreeSet<(Timestamp, String)>,
}

/// Something in a tenant's mail that somebody is to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Whose.
    pub tenant: String,
    /// Of this mailing; empty: of all its mail.
    pub campaign: String,
    /// For people.
    pub why: String,
    /// It is to wait until then.
    pub suspend: bool,
}

/// What is known of a tenant's mail, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Its limits at the door, and how much of each is used.
    pub limits: Vec<Usage>,
    /// Its mail of one kind each, the newest first.
    pub templates: Vec<TemplateStatus>,
    /// How its mail compares with what is usual for it.
    pub fuse: Option<FuseStatus>,
}

/// A message that is offered.
pub(super) struct Offered<'a> {
    pub(super) client: &'a Client,
    pub(super) envelope: &'a Envelope,
    pub(super) header: &'a [u8],
    /// Behind the header section.
    pub(super) body: &'a [u8],
    /// What its header says of its lane.
    pub(super) class: Classification,
}

impl Tenants {
    /// Of whom nothing is known yet. `alerts` takes what somebody is to look at.
    #[must_use]
    pub fn new(alerts: mpsc::Sender<Alert>) -> Self {
        Self { book: Mutex::default(), alerts }
    }

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
        let Offered { client, envelope, header, body, class } = offered;
        let named = named(config, client, header)?;
        let sender = Sender {
            of_user: client.tenant.as_deref(),
            certificate: client.certificate.as_deref(),
            named: named.as_deref(),
            client: client.address,
            reverse_path: &envelope.reverse_path,
        };
        let tenant = config.tenants.decide(&sender);
        let mut origin = Origin {
            lane: class.lane,
            reason: class.reason,
            tenant,
            campaign: class.campaign,
            client: client.address.to_string(),
        };
        let nobodys = TenantRule::default();
        let rule = config.tenants.rule(&origin.tenant).unwrap_or(&nobodys);
        permit(rule, &origin.tenant, envelope, header, body)?;
        if !class.is_marked && rule.lane == Lane::Bulk {
            (origin.lane, origin.reason) = (Lane::Bulk, "the tenant's lane".to_string());
        }
        if rule.watched && !class.is_marked && origin.lane == Lane::Direct {
            self.look(&config.watch, &mut origin, envelope, (header, body), now);
        }
        let recipients = envelope.recipients.len() as u64;
        let taken = self.lock().allowances.take(&origin.tenant, limits(rule), recipients, now);
        if let Err(exceeded) = taken {
            self.go_beyond(rule, &mut origin, &exceeded, recipients, now)?;
        }
        if rule.watched && config.watch.bursts != Bursts::Off {
            let mut book = self.lock();
            book.fuse.retune(config.watch.fuse);
            let count = u32::try_from(recipients).unwrap_or(u32::MAX);
            let blown = book.fuse.accepted(&origin.tenant, origin.lane, count, now);
            drop(book);
            self.alert_of(&config.watch, &origin.tenant, blown);
        }
        Ok(origin)
    }

    /// Sees whether it is one of many alike.
    fn look(
        &self,
        watch: &Watch,
        origin: &mut Origin,
        envelope: &Envelope,
        (header, body): (&[u8], &[u8]),
        now: Timestamp,
    ) {
        if watch.newsletters == Newsletters::Off {
            return;
        }
        let shape = shape::of(header, body, envelope.reverse_path.as_str());
        let recipients = envelope.recipients.iter().map(|r| r.mailbox.as_str());
        let mut book = self.lock();
        book.sense.retune(watch.sense);
        let Some(sensed) = book.sense.look(&origin.tenant, shape, recipients, now) else { return };
        let is_new = book.told.insert((sensed.since, origin.tenant.clone()));
        if book.told.len() > TOLD_MAX {
            book.told.pop_first();
        }
        drop(book);
        (origin.lane, origin.reason) = (Lane::Bulk, sensed.to_string());
        if origin.campaign.is_empty() {
            origin.campaign.clone_from(&sensed.subject);
        }
        if is_new {
            self.alert(Alert {
                tenant: origin.tenant.clone(),
                campaign: origin.campaign.clone(),
                why: origin.reason.clone(),
                suspend: watch.newsletters == Newsletters::Hold,
            });
        }
    }

    /// What becomes of a message beyond a limit.
    fn go_beyond(
        &self,
        rule: &TenantRule,
        origin: &mut Origin,
        exceeded: &Exceeded,
        recipients: u64,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let what = describe(exceeded, &origin.tenant);
        match rule.beyond {
            Beyond::Bulk if origin.lane == Lane::Bulk => {}
            Beyond::Bulk => (origin.lane, origin.reason) = (Lane::Bulk, what),
            Beyond::Defer if fits_ever(exceeded, recipients) => {
                let wait = exceeded.until.since(now).as_secs().div_ceil(60).max(1);
                let text = format!("{what}; try again in {wait} min");
                return Err(Refusal::new(450, (4, 7, 1), text));
            }
            Beyond::Defer | Beyond::Refuse => return Err(Refusal::new(550, (5, 7, 1), what)),
        }
        Ok(())
    }

    /// A recipient of a tenant's mail is done with. `hard_bounce`: its host does not know it.
    pub fn concluded(&self, config: &Config, tenant: &str, hard_bounce: bool, now: Timestamp) {
        if config.watch.bursts == Bursts::Off {
            return;
        }
        let mut book = self.lock();
        book.fuse.retune(config.watch.fuse);
        let blown = book.fuse.outcome(tenant, hard_bounce, now);
        drop(book);
        // Looked up for the one in many thousands alone.
        let is_watched = || config.tenants.rule(tenant).is_none_or(|rule| rule.watched);
        self.alert_of(&config.watch, tenant, blown.filter(|_| is_watched()));
    }

    fn alert_of(&self, watch: &Watch, tenant: &str, blown: Option<Blown>) {
        if let Some(blown) = blown {
            self.alert(Alert {
                tenant: tenant.to_string(),
                campaign: String::new(),
                why: blown.to_string(),
                suspend: watch.bursts == Bursts::Suspend,
            });
        }
    }

    fn alert(&self, alert: Alert) {
        if let Err(lost) = self.alerts.try_send(alert) {
            let alert = lost.into_inner();
            tell::alert_lost(&alert.tenant, &alert.why);
        }
    }

    /// A message that was admitted just now could not be stored.
    pub(super) fn give_back(&self, tenant: &str, recipients: usize) {
        self.lock().allowances.give_back(tenant, recipients as u64);
    }

    /// Somebody has looked at a tenant and lets its mail go. `as_usual`: what it sent was right,
    /// and so much of it is usual from now on. Gives what had been too much, if anything had.
    pub fn looked_at(&self, tenant: &str, as_usual: bool) -> Option<Blown> {
        let mut book = self.lock();
        if as_usual { book.fuse.accept_as_usual(tenant) } else { book.fuse.reset(tenant) }
    }

    /// What is known of a tenant.
    #[must_use]
    pub fn known(&self, config: &Config, tenant: &str, now: Timestamp) -> Known {
        let rule = config.tenants.rule(tenant);
        let book = self.lock();
        Known {
            limits: rule
                .map_or_else(Vec::new, |rule| book.allowances.usage(tenant, limits(rule), now)),
            templates: book.sense.explain(tenant, now),
            fuse: book.fuse.explain(tenant, now),
        }
    }

    /// All that is to be remembered over a restart.
    #[must_use]
    pub fn book(&self) -> Book {
        let book = self.lock();
        Book {
            allowances: book.allowances.clone(),
            sense: book.sense.lasting(),
            fuse: book.fuse.lasting(),
            told: BTreeSet::new(),
        }
    }

    /// Goes on from what an earlier run remembered.
    pub fn remember(&self, book: Book) {
        *self.lock() = book;
    }

    /// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
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
    let only = values.next().is_none();
    match std::str::from_utf8(name).ok().filter(|name| only && tenant::is_name(name)) {
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
    body: &[u8],
) -> Result<(), Refusal> {
    let size = header.len() + body.len();
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
