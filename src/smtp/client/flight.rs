//! A transaction under way: which replies are still to come, and what each recipient has got.

use super::Attempt;

/// A command whose reply is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// The end of a message's data.
    Dot,
    /// The end of nothing: DATA was accepted for no recipient.
    EmptyDot,
    Quit,
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) attempts: Vec<Option<Attempt>>,
    /// A reply to one of its commands has come.
    pub(super) answered: bool,
    /// MAIL was taken.
    pub(super) mail: bool,
    /// Without PIPELINING: recipients named so far.
    pub(super) asked: usize,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Commands are under way.
    Envelope,
    /// The peer waits for the message.
    Body,
    /// All of it was put out.
    Sent,
    /// Over.
    Done,
}

impl Flight {
    pub(super) fn new(recipients: usize) -> Self {
        Self {
            attempts: vec![None; recipients],
            answered: false,
            mail: false,
            asked: 0,
            phase: Phase::Envelope,
        }
    }

    /// Gives all that have none yet this outcome.
    pub(super) fn fill(&mut self, attempt: &Attempt) {
        for slot in self.attempts.iter_mut().filter(|slot| slot.is_none()) {
            *slot = Some(attempt.clone());
        }
    }

    /// As [`Flight::fill`], and it is over.
    pub(super) fn end(&mut self, attempt: &Attempt) {
        self.fill(attempt);
        self.phase = Phase::Done;
    }

    pub(super) fn is_open(&self, recipient: usize) -> bool {
        self.attempts.get(recipient).is_some_and(Option::is_none)
    }

    pub(super) fn any_open(&self) -> bool {
        self.attempts.iter().any(Option::is_none)
    }
}
