//! `bulkhead queue`: what waits, what became of a message.

use super::args::{Common, Queue, QueueVerb, Which};
use super::change;
use super::connect::{self, Node};
use super::{Failure, table, upkeep};
use crate::base::text::printable;
use crate::base::time::Clock;
use crate::config::Config;
use crate::control::protocol::{Action, DeliveryView, MessageView, Request, Response};
use crate::mail::message::Lane;
use serde::Serialize;
use std::io::Write;

/// Sites that people are shown unless they ask for another number.
const SITES_SHOWN: usize = 50;

/// How answers are written.
pub(super) struct Printer<'w, W> {
    pub(super) out: &'w mut W,
    pub(super) json: bool,
    pub(super) clock: Clock,
}

impl<W: Write> Printer<'_, W> {
    /// One line of JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.text(&json_line(value)?)?;
        self.text("\n")
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.out.write_all(text.as_bytes())?)
    }
}

/// A value as JSON that a terminal does not act upon either: what [`printable`] would escape is
/// written as `\u…`, which means the same.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    let line = serde_json::to_string(value).map_err(std::io::Error::from)?;
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_ascii_graphic() || c == ' ' || is_printable(c) {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    Ok(out)
}

fn is_printable(c: char) -> bool {
    printable(c.encode_utf8(&mut [0; 4]).as_bytes(), 1).chars().eq([c])
}

pub(super) fn run(common: &Common, queue: &Queue, out: &mut impl Write) -> Result<(), Failure> {
    let (config, runtime) = connect::begin(common)?;
    let mut printer = Printer { out, json: common.json, clock: Clock::system() };
    runtime.block_on(verb(&config, queue, &mut printer))
}

/// `bulkhead why`: where mail is, and what would change that.
pub(super) fn why(common: &Common, what: &str, out: &mut impl Write) -> Result<(), Failure> {
    let (config, runtime) = connect::begin(common)?;
    let mut printer = Printer { out, json: common.json, clock: Clock::system() };
    runtime.block_on(explain(&config, what, &mut printer))
}

pub(super) async fn explain(
    config: &Config,
    what: &str,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let mut node = connect::reader(config, &printer.clock).await?;
    let mut found = Vec::new();
    let collect = |response| {
        if let Response::Why(explanation) = response {
            found.push(*explanation);
        }
        Ok(())
    };
    let counts = node.ask(&Request::Why { what: what.to_string() }, collect).await?;
    if found.is_empty() {
        let sentence = format!("nothing in the queue is, goes to, or is of {what:?}");
        return Err(Failure::Trouble(sentence));
    }
    if printer.json {
        return printer.json(&found);
    }
    found.iter().try_for_each(|explanation| printer.text(&table::why(explanation)))?;
    match counts.count - found.len() as u64 {
        0 => Ok(()),
        more => printer.text(&format!("and {more} more: `bulkhead queue list` has them\n")),
    }
}

pub(super) async fn verb(
    config: &Config,
    queue: &Queue,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let change = |action, targets| change::Order { action, targets, lane: queue.lane };
    let order = match &queue.verb {
        None => {
            return summary(&mut connect::reader(config, &printer.clock).await?, queue, printer)
                .await;
        }
        Some(QueueVerb::Check) => return upkeep::check(config, printer),
        Some(QueueVerb::Rebuild) => return upkeep::rebuild(config, printer),
        Some(QueueVerb::List(which)) => {
            return list(
                &mut connect::reader(config, &printer.clock).await?,
                which,
                queue.lane,
                printer,
            )
            .await;
        }
        Some(QueueVerb::Show { id }) => {
            return show(&mut connect::reader(config, &printer.clock).await?, id, printer).await;
        }
        Some(QueueVerb::Hold(targets)) => change(Action::Hold, targets),
        Some(QueueVerb::Release(targets)) => change(Action::Release, targets),
        Some(QueueVerb::Retry(targets)) => change(Action::Retry, targets),
        Some(QueueVerb::Delete { targets, yes }) => {
            let order = change(Action::Delete, targets);
            order.check()?;
            change::confirm_delete(*yes)?;
            order
        }
    };
    order.check()?;
    order.carry_out(&mut connect::connect(config).await?, printer).await
}

async fn summary(
    node: &mut Node,
    queue: &Queue,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let sites_max = queue.sites.or((!printer.json).then_some(SITES_SHOWN));
    let request = Request::Summary { lane: queue.lane, sites_max };
    let now = printer.clock.now();
    let print = |response| match response {
        Response::Summary(summary) if printer.json => printer.json(&*summary),
        Response::Summary(summary) => printer.text(&table::summary(&summary, now)),
        _ => Ok(()),
    };
    node.ask(&request, print).await.map(|_| ())
}

async fn list(
    node: &mut Node,
    which: &Which,
    lane: Option<Lane>,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let now = printer.clock.now();
    let request = Request::List { filter: which.filter(lane, now), site: which.site.clone() };
    // One JSON array, an element a line, written as it comes: cut short, it is not closed.
    let head = if printer.json { "[".to_string() } else { table::delivery_titles() };
    printer.text(&head)?;
    let mut between = "\n";
    let print = |response| match response {
        Response::Delivery(view) if printer.json => {
            printer.text(between)?;
            between = ",\n";
            printer.text(&json_line(&view)?)
        }
        Response::Delivery(view) => printer.text(&table::delivery(&view, now)),
        _ => Ok(()),
    };
    node.ask(&request, print).await?;
    printer.text(if printer.json { "\n]\n" } else { "" })
}

/// A message and its deliveries, as `show --json` gives them.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    message: &'a MessageView,
    deliveries: &'a [DeliveryView],
}

async fn show(
    node: &mut Node,
    id: &str,
    printer: &mut Printer<'_, impl Write>,
) -> Result<(), Failure> {
    let mut message = None;
    let mut deliveries = Vec::new();
    let request = Request::Show { message: id.to_string() };
    let collect = |response| {
        match response {
            Response::Message(view) => message = Some(*view),
            Response::Delivery(view) => deliveries.push(*view),
            _ => {}
        }
        Ok(())
    };
    node.ask(&request, collect).await?;
    let Some(message) = message else {
        return Err(Failure::Trouble(format!("no message {} in the queue", id.escape_debug())));
    };
    if printer.json {
        return printer.json(&Shown { message: &message, deliveries: &deliveries });
    }
    printer.text(&table::message(&message))?;
    deliveries.iter().try_for_each(|view| printer.text(&table::recipient(view)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_act_on_a_terminal_and_means_the_same() {
        let text = "ö \u{1b}[31m\u{9b}2J\u{202e}\u{7f}\u{e0001}x \"\\";
        let line = json_line(&text).unwrap();
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line}");
        assert!(line.contains('ö'));
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
