//! `bulkhead queue hold|release|retry|delete`: only by a running node, and never by accident.

use super::Failure;
use super::args::Targets;
use super::connect::Node;
use super::queue::Printer;
use super::table::grouped;
use crate::control::protocol::{Action, Counts, Request, Response};
use crate::mail::message::Lane;
use std::io::{self, BufRead, IsTerminal, Write};

/// What is to be changed, and how.
pub(super) struct Order<'a> {
    pub(super) action: Action,
    pub(super) targets: &'a Targets,
    pub(super) lane: Option<Lane>,
}

impl Order<'_> {
    /// Refuses what says nothing, or two things.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let filtered = self.lane.is_some() || !self.targets.which.is_empty();
        match (self.targets.all, filtered) {
            (true, true) => {
                Err(Failure::Usage("give either --all or which deliveries, not both".into()))
            }
            (false, false) => Err(Failure::Usage(
                "say which deliveries (--domain, --tenant, …; see --help), or --all for everything"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn carry_out(
        &self,
        node: &mut Node,
        printer: &mut Printer<'_, impl Write>,
    ) -> Result<(), Failure> {
        let request = self.request(printer);
        let counts = node.ask(&request, progress).await?;
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        if printer.json {
            let counts = match request {
                Request::ReleaseAll => serde_json::json!({ "still_held": counts.count }),
                _ => serde_json::json!({ "changed": counts.count, "leased": counts.leased }),
            };
            printer.json(&counts)?;
        } else {
            writeln!(printer.out, "{}", said(&request, counts))?;
        }
        match &self.targets.which.id {
            Some(id) if counts == Counts::default() => {
                let id = id.escape_debug();
                Err(Failure::Trouble(format!("no delivery of message {id} matched")))
            }
            _ => Ok(()),
        }
    }

    fn request(&self, printer: &Printer<'_, impl Write>) -> Request {
        match (self.action, self.targets.all) {
            (Action::Hold, true) => Request::HoldAll,
            (Action::Release, true) => Request::ReleaseAll,
            (action, _) => Request::Change {
                action,
                filter: self.targets.which.filter(self.lane, printer.clock.now()),
                site: self.targets.which.site.clone(),
            },
        }
    }
}

/// Long work shows that it goes on, to people.
fn progress(response: Response) -> Result<(), Failure> {
    if let Response::Progress(counts) = response
        && io::stderr().is_terminal()
    {
        let _ = write!(io::stderr(), "\r{} so far", grouped(counts.count));
    }
    Ok(())
}

/// What was done, in a sentence.
fn said(request: &Request, counts: Counts) -> String {
    let ies = |n: u64| if n == 1 { "delivery" } else { "deliveries" };
    let changed = format!("{} {}", grouped(counts.count), ies(counts.count));
    let mut sentence = match request {
        Request::HoldAll => {
            return "everything is held, what is to come too (mail is still accepted); \
                    `bulkhead queue release --all` ends it"
                .to_string();
        }
        Request::ReleaseAll if counts.count == 0 => "nothing is held any more".to_string(),
        Request::ReleaseAll => format!(
            "the hold on everything has ended; {changed} held by a filter stay held \
             (`bulkhead queue release --state held`)"
        ),
        Request::Change { action: Action::Hold, .. } => format!("held {changed}"),
        Request::Change { action: Action::Release, .. } => format!("released {changed}"),
        Request::Change { action: Action::Retry, .. } => format!("{changed} due now"),
        Request::Change { action: Action::Delete, .. } => format!("deleted {changed}"),
        _ => changed,
    };
    if counts.leased > 0 {
        let leased = format!("{} {}", grouped(counts.leased), ies(counts.leased));
        sentence.push_str(&format!("; {leased} on a connection now and left alone"));
    }
    sentence
}

/// Asks a person; refuses a program that did not say `--yes`.
pub(super) fn confirm_delete(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("delete needs --yes where nobody can be asked".into()));
    }
    write!(io::stderr(), "Delete for good what matches? Its senders are not told. [y/N] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Trouble("nothing deleted".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Which;

    fn order(all: bool, id: Option<&str>, lane: Option<Lane>) -> Result<(), Failure> {
        let which = Which { id: id.map(str::to_string), ..Which::default() };
        Order { action: Action::Delete, targets: &Targets { all, which }, lane }.check()
    }

    #[test]
    fn a_change_names_its_targets_or_says_all() {
        assert!(order(true, None, None).is_ok());
        assert!(order(false, Some("1RW7M2Q80A3F"), None).is_ok());
        assert!(order(false, None, Some(Lane::Bulk)).is_ok());
        assert!(matches!(order(false, None, None), Err(Failure::Usage(_))));
        assert!(matches!(order(true, None, Some(Lane::Bulk)), Err(Failure::Usage(_))));
    }

    #[test]
    fn what_was_done_is_said_in_a_sentence() {
        let change = |action| Request::Change { action, filter: Default::default(), site: None };
        let counts = |count, leased| Counts { count, leased };
        assert_eq!(said(&change(Action::Hold), counts(1, 0)), "held 1 delivery");
        assert_eq!(
            said(&change(Action::Delete), counts(81_233, 20)),
            "deleted 81,233 deliveries; 20 deliveries on a connection now and left alone"
        );
        assert_eq!(
            said(&Request::ReleaseAll, counts(3, 0)),
            "the hold on everything has ended; 3 deliveries held by a filter stay held \
             (`bulkhead queue release --state held`)"
        );
    }
}
