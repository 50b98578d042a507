//! A run over the spool: sends what is due, and tells senders of what will never arrive.
//!
//! A message ends only by the word of a relay: taken, refused for good, or still not taken five
//! days after it was written. What fails becomes a report to its sender (RFC 3464), which waits in
//! the same folder until a relay takes it, before the message goes; where nobody is to be told (a
//! report itself, or `-N never`) it is kept as `ID.failed`, and `mailq` shows it.

use super::Stop;
use super::compose::Message;
use super::spool::{Folder, Held, Listed, Spooled, new_id};
use super::submit::{Fate, Relays};
use crate::base::address::Domain;
use crate::base::text::printable;
use crate::base::time::{Clock, Timestamp, human};
use crate::base::{random, time};
use crate::mail::dsn::{self, Action, Report, Reported};
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::message::{Lane, NewMessage, Origin};
use std::io::{self, Write};
use std::time::Duration;

/// How long a message is tried.
const KEEP: Duration = Duration::from_secs(5 * 24 * 3600);

/// A recipient that failed.
struct Failed {
    recipient: Recipient,
    status: String,
    text: String,
    relay: String,
    is_reply: bool,
}

/// What a run needs.
pub(super) struct Run<'a, 'b> {
    pub(super) relays: &'a mut Relays<'b>,
    pub(super) home: &'a Domain,
    pub(super) clock: &'a Clock,
}

impl Run<'_, '_> {
    /// Sends what is due of one folder, `most` messages at most. Ends early where no relay can be
    /// reached.
    pub(super) fn folder(&mut self, folder: &Folder, most: usize) -> Result<(), Stop> {
        let mut left = most;
        loop {
            let mut has_reports = false;
            for listed in folder.list(self.clock.now())? {
                let now = self.clock.now();
                if listed.has_failed || listed.due() > now {
                    continue;
                }
                if left == 0 || self.relays.are_down() {
                    return Ok(());
                }
                match folder.hold(&listed) {
                    Ok(Some(held)) => {
                        left -= 1;
                        has_reports |= self.one(folder, held)?;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let path = folder.path().display();
                        super::note(&format!("{path}/{}: {error}; passed over", listed.id));
                    }
                }
            }
            // Reports cause no reports, so this ends.
            if !has_reports {
                return Ok(());
            }
        }
    }

    /// Sends one message. True where a report about it was written.
    fn one(&mut self, folder: &Folder, held: Held) -> Result<bool, Stop> {
        let fates = self.relays.send(&held.spooled.message);
        if self.relays.are_down() && fates.iter().all(|fate| matches!(fate, Fate::Waits(_))) {
            return Ok(false);
        }
        let now = self.clock.now();
        let is_over = now.since(held.listed.id.created_at()) > KEEP;
        let mut left = held.spooled.clone();
        left.message.envelope.recipients.clear();
        let mut failed = Vec::new();
        for (recipient, fate) in held.spooled.message.envelope.recipients.iter().zip(fates) {
            let recipient = recipient.clone();
            match fate {
                Fate::Sent => {}
                Fate::Refused(refusal) => failed.push(Failed {
                    recipient,
                    status: refusal.status().to_string(),
                    is_reply: refusal.code.is_some(),
                    text: match refusal.code {
                        Some(code) => format!("{code} {}", refusal.text),
                        None => refusal.text,
                    },
                    relay: refusal.relay,
                }),
                Fate::Waits(why) if is_over => failed.push(Failed {
                    recipient,
                    status: "4.4.7".to_string(),
                    text: format!("not taken in {}: {why}", human(KEEP)),
                    relay: String::new(),
                    is_reply: false,
                }),
                Fate::Waits(why) => {
                    left.reason = why;
                    left.message.envelope.recipients.push(recipient);
                }
            }
        }
        let is_reported = !failed.is_empty() && self.report(folder, &held, &failed, now)?;
        match left.message.envelope.recipients.is_empty() {
            true => folder.remove(held)?,
            false => folder.replace(held, &left)?,
        }
        Ok(is_reported)
    }

    /// Tells the sender, or keeps the message aside. True for the former.
    fn report(
        &self,
        folder: &Folder,
        held: &Held,
        failed: &[Failed],
        now: Timestamp,
    ) -> Result<bool, Stop> {
        let told: Vec<&Failed> = failed.iter().filter(|f| f.recipient.wants_failure()).collect();
        let report = (!told.is_empty()).then(|| report(held, &told, self.home, now)).flatten();
        if let Some(message) = report {
            let reason = format!("report about {}", held.listed.id);
            folder.add(&Spooled { message, reason }, now, false)?;
            return Ok(true);
        }
        let mut aside = held.spooled.clone();
        aside.message.envelope.recipients = failed.iter().map(|f| f.recipient.clone()).collect();
        aside.reason = failed.first().map(|f| f.text.clone()).unwrap_or_default();
        folder.add(&aside, now, true)?;
        Ok(false)
    }
}

/// `None` for a message without a sender.
fn report(held: &Held, failed: &[&Failed], home: &Domain, now: Timestamp) -> Option<Message> {
    let Message { envelope, bytes } = &held.spooled.message;
    let mut envelope = envelope.clone();
    // Reports take it in xtext.
    envelope.envid = envelope.envid.map(|envid| envid.replace('+', "+2B"));
    let created = held.listed.id.created_at();
    let original = NewMessage {
        id: held.listed.id,
        accepted_at: created,
        due_at: created,
        expires_at: created.after(KEEP),
        origin: Origin {
            lane: Lane::Direct,
            reason: String::new(),
            tenant: String::new(),
            campaign: String::new(),
            client: String::new(),
        },
        envelope,
        body: bytes.clone().into(),
    };
    let (head, _) = original.split();
    let reported = failed.iter().map(|failed| Reported {
        recipient: &failed.recipient,
        status: failed.status.clone(),
        diagnostic: &failed.text,
        is_reply: failed.is_reply,
        remote: &failed.relay,
    });
    let report = Report {
        action: Action::Failed,
        head: &head,
        original: bytes,
        recipients: reported.collect(),
    };
    let id = new_id(now, random::from_system().i64(0..1 << 20));
    let NewMessage { envelope, body, .. } = dsn::build(&report, home, id, now, KEEP)?;
    Some(Message { envelope, bytes: body.to_vec() })
}

/// Shows what is in the folders, the oldest first.
pub(super) fn show(folders: &[Folder], now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    let mut is_empty = true;
    for folder in folders {
        let Ok(list) = folder.list(now) else { continue };
        for listed in list {
            // What was sent in the meantime is no longer there.
            let Ok(spooled) = folder.read(&listed) else { continue };
            is_empty = false;
            show_one(&listed, &spooled, now, out)?;
        }
    }
    if is_empty {
        writeln!(out, "Mail queue is empty")?;
    }
    Ok(())
}

fn show_one(
    listed: &Listed,
    Spooled { message, reason }: &Spooled,
    now: Timestamp,
    out: &mut impl Write,
) -> io::Result<()> {
    let Envelope { reverse_path, recipients, .. } = &message.envelope;
    let age = time::human(now.since(listed.id.created_at()));
    let sender = printable(reverse_path.as_str().as_bytes(), 300);
    let state = if listed.has_failed { "failed" } else { "waits" };
    let size = listed.size;
    writeln!(out, "{} {state:6} {size:>9} bytes {age:>7}  <{sender}>", listed.id)?;
    writeln!(out, "    ({})", printable(reason.as_bytes(), 500))?;
    for Recipient { mailbox, .. } in recipients {
        writeln!(out, "    <{}>", printable(mailbox.as_str().as_bytes(), 300))?;
    }
    Ok(())
}
