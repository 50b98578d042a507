//! Messages from JSON: all of it is checked first, then each message is built by itself.
//!
//! # Invariants
//! * What [`Plan::check`] lets pass can be built, whichever of its messages.
//! * No value ends the field that it stands in.

use super::fields::{self, Person};
use super::problem::Problem;
use super::schema::{Attachment, Draft, Newsletter, Personal};
use super::template::Template;
use crate::base::address::{Domain, ReversePath};
use crate::base::time::Timestamp;
use crate::policy::classify::Rules;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as File, Body, Message, MessageBuilder, MultiPart, SinglePart};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, UNIX_EPOCH};

/// Longest name of a campaign, in characters.
const CAMPAIGN_MAX: usize = 128;
/// Values of the newsletter header that name no campaign.
const NO_CAMPAIGNS: [&str; 6] = ["no", "0", "false", "yes", "1", "true"];

/// What a request is checked against.
pub(super) struct Terms<'a> {
    pub(super) hostname: &'a Domain,
    pub(super) rules: &'a Rules,
    /// `[limits] recipients`
    pub(super) recipients: usize,
    /// `[http] recipients`
    pub(super) personal: usize,
    /// The campaign of a batch that names none.
    pub(super) campaign: String,
}

/// What stands for each placeholder.
type Values = BTreeMap<String, String>;

/// A request that is in order.
pub(super) struct Plan {
    hostname: Domain,
    from: Person,
    reply_to: Option<Person>,
    reverse_path: ReversePath,
    to: Vec<Person>,
    cc: Vec<Person>,
    bcc: Vec<Person>,
    subject: Template,
    text: Option<Template>,
    html: Option<Template>,
    headers: Vec<(HeaderName, Template)>,
    files: Vec<(String, ContentType, Body)>,
    /// One for each message; none: one message to `to`, `cc` and `bcc`.
    personal: Vec<(Person, Values)>,
}

/// A message as it goes to the queue.
pub(super) struct Built {
    pub(super) reverse_path: ReversePath,
    pub(super) recipients: Vec<crate::base::address::Mailbox>,
    pub(super) bytes: Vec<u8>,
}

impl Plan {
    /// Checks all of a request.
    pub(super) fn check(draft: Draft, terms: &Terms<'_>) -> Result<Self, Problem> {
        let from = fields::person("from", &draft.from)?;
        let reverse_path = match draft.envelope_from.as_deref() {
            None => ReversePath::Mailbox(from.mailbox.clone()),
            Some("") => ReversePath::Null,
            Some(text) => ReversePath::Mailbox(fields::mailbox("envelope_from", text)?),
        };
        let is_batch = !draft.recipients.is_empty();
        let template = |text: &str| match is_batch {
            true => Template::parse(text),
            false => Template::literal(text.to_string()),
        };
        let body = |field, text: &Option<String>| {
            text.as_deref().map(|text| fields::lines(field, text).map(|t| template(&t))).transpose()
        };
        fields::line("subject", &draft.subject)?;
        let mut headers = Vec::new();
        for (name, value) in &draft.headers {
            headers.push((header(name, value, &headers, is_batch)?, template(value)));
        }
        let newsletter = newsletter(draft.newsletter.clone(), is_batch, terms)?;
        if let Some((name, value)) = newsletter {
            if headers.iter().any(|(other, _)| *other == name) {
                let problem = Problem::of("newsletter", format!("headers.{name} says it, too"));
                return Err(problem.remedy("give one of the two"));
            }
            headers.push((name, Template::literal(value)));
        }
        let plan = Self {
            hostname: terms.hostname.clone(),
            reply_to: draft.reply_to.as_ref().map(|a| fields::person("reply_to", a)).transpose()?,
            to: fields::people("to", &draft.to)?,
            cc: fields::people("cc", &draft.cc)?,
            bcc: fields::people("bcc", &draft.bcc)?,
            subject: template(&draft.subject),
            text: body("text", &draft.text)?,
            html: body("html", &draft.html)?,
            headers,
            personal: personal(draft.recipients)?,
            files: files(draft.attachments)?,
            from,
            reverse_path,
        };
        plan.has_readers(terms)?;
        if plan.text.is_none() && plan.html.is_none() {
            let problem = Problem::of("text", "is missing, and so is html");
            return Err(problem.remedy("give at least one of the two"));
        }
        plan.personal.iter().enumerate().try_for_each(|(n, one)| plan.fits(n, &one.1))?;
        Ok(plan)
    }

    fn has_readers(&self, terms: &Terms<'_>) -> Result<(), Problem> {
        let shared = self.shared().count();
        let (field, count, most) = match self.personal.len() {
            0 => ("to", shared, terms.recipients),
            count => ("recipients", count, terms.personal),
        };
        if count == 0 {
            let problem = Problem::of("to", "names nobody, and neither do cc, bcc and recipients");
            return Err(problem.remedy("give at least one recipient"));
        }
        if shared > 0 && !self.personal.is_empty() {
            let problem = Problem::of("recipients", "cannot stand beside to, cc and bcc");
            return Err(problem.remedy("give one or the other"));
        }
        if count > most {
            let problem = Problem::of(field, format!("names {count} recipients; at most {most}"));
            return Err(problem.remedy("send the rest in further requests"));
        }
        Ok(())
    }

    /// All placeholders have a value, and no value breaks a line.
    fn fits(&self, n: usize, values: &Values) -> Result<(), Problem> {
        let headers = self.headers.iter().map(|(_, value)| value);
        let of_one_line: Vec<&Template> = headers.chain([&self.subject]).collect();
        let bodies = self.text.iter().chain(&self.html);
        for template in of_one_line.iter().copied().chain(bodies) {
            if let Some(name) = template.missing(values) {
                let name = crate::base::text::printable(name.as_bytes(), 80);
                let field = format!("recipients[{n}].substitutions");
                let problem = Problem::of(field, format!("has nothing for {{{{{name}}}}}"));
                return Err(problem.remedy("give a value for it, or take it out of the text"));
            }
        }
        let field = format!("recipients[{n}].substitutions");
        values.values().try_for_each(|value| fields::lines(&field, value).map(|_| ()))?;
        of_one_line.iter().try_for_each(|text| fields::line(&field, &text.render(values, false)))
    }

    fn shared(&self) -> impl Iterator<Item = &Person> {
        self.to.iter().chain(&self.cc).chain(&self.bcc)
    }

    /// How many messages it makes; at least one.
    pub(super) fn count(&self) -> usize {
        self.personal.len().max(1)
    }

    /// Whether each of its readers gets a message of his own.
    pub(super) fn is_batch(&self) -> bool {
        !self.personal.is_empty()
    }

    /// The recipients of a message, each once.
    pub(super) fn recipients(&self, n: usize) -> Vec<&crate::base::address::Mailbox> {
        if let Some((person, _)) = self.personal.get(n) {
            return vec![&person.mailbox];
        }
        let mut seen = HashSet::new();
        let all = self.shared().map(|person| &person.mailbox);
        all.filter(|mailbox| seen.insert(mailbox.as_str())).collect()
    }

    /// Builds a message.
    pub(super) fn build(&self, n: usize, id: &str, now: Timestamp) -> Result<Built, Problem> {
        let nothing = BTreeMap::new();
        let personal = self.personal.get(n);
        let values = personal.map_or(&nothing, |(_, values)| values);
        let since = Duration::from_millis(u64::try_from(now.0).unwrap_or_default());
        let mut builder = Message::builder()
            .date(UNIX_EPOCH + since)
            .from(self.from.display())
            .subject(self.subject.render(values, false));
        let to = personal.map(|(person, _)| person).into_iter().chain(&self.to);
        builder = to.fold(builder, |builder, person| builder.to(person.display()));
        builder = self.cc.iter().fold(builder, |builder, person| builder.cc(person.display()));
        if let Some(person) = &self.reply_to {
            builder = builder.reply_to(person.display());
        }
        if !self.headers.iter().any(|(name, _)| *name == "Message-ID") {
            builder = builder.message_id(Some(format!("<{id}@{}>", self.hostname)));
        }
        for (name, value) in &self.headers {
            let value = HeaderValue::new(name.clone(), value.render(values, false));
            builder = builder.raw_header(value);
        }
        // Only so that the builder does not look for one: ours goes beside the message.
        let envelope = lettre::address::Envelope::new(None, vec![self.from.display().email]);
        let built = envelope
            .and_then(|envelope| self.body(builder.envelope(envelope), values))
            .map_err(|error| Problem::of("from", format!("cannot be built: {error}")))?;
        Ok(Built {
            reverse_path: self.reverse_path.clone(),
            recipients: self.recipients(n).into_iter().cloned().collect(),
            bytes: built.formatted(),
        })
    }

    fn body(
        &self,
        builder: MessageBuilder,
        values: &Values,
    ) -> Result<Message, lettre::error::Error> {
        let text = self.text.as_ref().map(|t| SinglePart::plain(t.render(values, false)));
        let html = self.html.as_ref().map(|t| SinglePart::html(t.render(values, true)));
        let file = |(name, kind, body): &(String, ContentType, Body)| {
            File::new(name.clone()).body(body.clone(), kind.clone())
        };
        let with_files = |first: MultiPart| {
            self.files.iter().fold(first, |parts, one| parts.singlepart(file(one)))
        };
        match (text, html) {
            (Some(text), Some(html)) => {
                let both = MultiPart::alternative().singlepart(text).singlepart(html);
                if self.files.is_empty() {
                    return builder.multipart(both);
                }
                builder.multipart(with_files(MultiPart::mixed().multipart(both)))
            }
            (Some(only), None) | (None, Some(only)) if self.files.is_empty() => {
                builder.singlepart(only)
            }
            (Some(only), None) | (None, Some(only)) => {
                builder.multipart(with_files(MultiPart::mixed().singlepart(only)))
            }
            (None, None) => builder.singlepart(SinglePart::plain(String::new())),
        }
    }
}

/// A field of `headers`.
fn header(
    name: &str,
    value: &str,
    earlier: &[(HeaderName, Template)],
    is_batch: bool,
) -> Result<HeaderName, Problem> {
    let found = fields::header_name(name)?;
    let field = format!("headers.{name}");
    fields::line(&field, value)?;
    if earlier.iter().any(|(other, _)| *other == found) {
        return Err(Problem::of(field, "is there twice").remedy("give it once"));
    }
    if found == "Message-ID" {
        let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        let fits = |id: &str| id.contains('@') && id.bytes().all(|b| b.is_ascii_graphic());
        if !inner.is_some_and(|id| fits(id) && !id.contains(['<', '>'])) {
            let problem = Problem::of(field, "is not the id of a message");
            return Err(problem.remedy("write <unique@example.com>, or leave it to the node"));
        }
        if is_batch {
            let problem = Problem::of(field, "would be the id of many messages");
            return Err(problem.remedy("leave it to the node"));
        }
    }
    Ok(found)
}

/// The field that says whether it is a newsletter, as clients of SMTP give it.
fn newsletter(
    given: Option<Newsletter>,
    is_batch: bool,
    terms: &Terms<'_>,
) -> Result<Option<(HeaderName, String)>, Problem> {
    let value = match given {
        Some(Newsletter::Is(false)) if is_batch => {
            let problem = Problem::of("newsletter", "is false, and recipients make one");
            return Err(problem.remedy("leave it out, or use to"));
        }
        None | Some(Newsletter::Is(true)) if is_batch => terms.campaign.clone(),
        None => return Ok(None),
        Some(Newsletter::Is(is)) => if is { "yes" } else { "no" }.to_string(),
        Some(Newsletter::Campaign(name)) => {
            fields::line("newsletter", &name)?;
            let (lower, length) = (name.trim().to_lowercase(), name.chars().count());
            if NO_CAMPAIGNS.contains(&lower.as_str()) || lower.is_empty() || length > CAMPAIGN_MAX {
                let problem = Problem::of("newsletter", "is no name of a campaign");
                let remedy = format!("write 1 to {CAMPAIGN_MAX} characters, or true or false");
                return Err(problem.remedy(remedy));
            }
            name.trim().to_string()
        }
    };
    let rule = terms.rules.headers.iter().find(|rule| rule.pattern.is_none());
    let name = rule.and_then(|rule| HeaderName::new_from_ascii(rule.name.clone()).ok());
    let name = name.ok_or_else(|| {
        let problem = Problem::of("newsletter", "cannot be said: no header alone marks one here");
        problem.remedy("have the node's operator list a header in [lanes.bulk] headers")
    })?;
    Ok(Some((name, value)))
}

fn personal(recipients: Vec<Personal>) -> Result<Vec<(Person, Values)>, Problem> {
    let mut found = Vec::new();
    for (n, one) in recipients.into_iter().enumerate() {
        let person = fields::named(&format!("recipients[{n}]"), &one.address, one.name.as_deref())?;
        found.push((person, one.substitutions));
    }
    Ok(found)
}

fn files(attachments: Vec<Attachment>) -> Result<Vec<(String, ContentType, Body)>, Problem> {
    let mut found = Vec::new();
    for (n, Attachment { name, kind, content_base64 }) in attachments.into_iter().enumerate() {
        let field = |name| format!("attachments[{n}].{name}");
        fields::line(&field("name"), &name)?;
        fields::line(&field("type"), &kind)?;
        let lower = kind.to_ascii_lowercase();
        let is_whole = lower.starts_with("multipart/") || lower.starts_with("message/");
        let kind = ContentType::parse(&kind).ok().filter(|_| !is_whole && kind.is_ascii());
        let kind = kind.ok_or_else(|| {
            Problem::of(field("type"), "is not the type of a file")
                .remedy("write it as application/pdf; multipart/… and message/… cannot be sent so")
        })?;
        let bytes = BASE64.decode(content_base64).map_err(|error| {
            Problem::of(field("content_base64"), format!("is not base64: {error}"))
                .remedy("encode it by RFC 4648 §4, with padding and without line ends")
        })?;
        let body = Body::new_with_encoding(bytes, ContentTransferEncoding::Base64);
        let body = body.map_err(|_| Problem::of(field("content_base64"), "cannot be encoded"))?;
        found.push((name, kind, body));
    }
    Ok(found)
}
