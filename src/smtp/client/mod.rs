//! The client's side of a conversation, without IO: replies in, commands and outcomes out.
//!
//! # Flow
//! Greeting, EHLO (HELO where that is not known), STARTTLS where wanted and offered, EHLO again;
//! then transactions. With PIPELINING, MAIL, all RCPT and DATA go in one write, and the *next*
//! transaction's ride behind the last dot of this one (RFC 2920 §3.1): one round trip per message.
//!
//! # Invariants
//! * Each recipient of a transaction that was begun ends with exactly one [`Attempt`].
//! * Replies are matched to commands in order; one too many, or one that cannot be, ends the
//!   conversation.
//! * A recipient is delivered only by a 2xx to the end of data.
//! * What came before a TLS handshake is never read as if it had come after (response injection).

mod body;
mod envelope;
mod extensions;
mod flight;
mod hear;
#[cfg(test)]
mod tests;

pub use envelope::Outgoing;
pub use extensions::Extensions;

use super::reply::{EnhancedCode, Reply, ReplyReader};
use body::Stuffer;
use envelope::Needs;
use flight::{Flight, Phase, Waiting};
use std::collections::VecDeque;

/// Body bytes that are put into the output at once.
const SLICE: usize = 64 << 10;

/// Where in the conversation something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taking our own address, before anybody else is asked.
    Bind,
    /// TCP.
    Connect,
    /// The server's first words.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    Tls,
    /// MAIL, or RSET before it.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message itself.
    Body,
    /// The end of data.
    Dot,
    /// Between transactions.
    Idle,
}

impl Stage {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "EHLO",
            Self::Tls => "STARTTLS",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Body => "message body",
            Self::Dot => "end of data",
            Self::Idle => "idle",
        }
    }
}

/// What came of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The peer said so; delivered where the stage is [`Stage::Dot`] and the reply 2xx.
    Reply {
        /// To which command.
        stage: Stage,
        /// What.
        reply: Reply,
    },
    /// The connection was lost, or the peer broke the protocol.
    Lost {
        /// What was waited for.
        stage: Stage,
        /// What happened; safe to print.
        error: String,
        /// The last dot may have reached the peer.
        in_doubt: bool,
    },
    /// The peer lacks what the message needs; nothing was sent.
    Unable {
        /// Why, for programs.
        code: EnhancedCode,
        /// And for people.
        text: String,
    },
    /// The connection ended before it was this transaction's turn, or the peer takes no more
    /// recipients at once.
    NotStarted,
}

/// How far the opening has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Waits for a reply.
    Pending,
    /// The peer is ready for the TLS handshake.
    StartTls,
    /// Transactions may begin.
    Ready,
    /// It will not become one; what the peer said, where it said anything.
    Failed(Stage, Option<Reply>, String),
}

/// The conversation.
#[derive(Debug)]
pub struct Conversation {
    name: String,
    reader: ReplyReader,
    output: Vec<u8>,
    extensions: Extensions,
    opening: Opening,
    want_tls: bool,
    waiting: VecDeque<Waiting>,
    current: Option<Flight>,
    /// Its commands are out, behind the last dot of the current one.
    next: Option<Flight>,
    stuffer: Option<Stuffer>,
    /// The peer has a transaction open that was not ended.
    needs_reset: bool,
    /// Transactions that ended with the peer's word.
    uses: u32,
    /// No further transaction.
    ended: Option<String>,
    /// Replies taken and slices put out.
    progress: u64,
}

impl Conversation {
    /// A conversation that waits for the greeting and will call itself `name`.
    #[must_use]
    pub fn new(name: &str, want_tls: bool) -> Self {
        Self {
            name: name.to_string(),
            reader: ReplyReader::default(),
            output: Vec::with_capacity(8 << 10),
            extensions: Extensions::default(),
            opening: Opening::Pending,
            want_tls,
            waiting: VecDeque::from([Waiting::Greeting]),
            current: None,
            next: None,
            stuffer: None,
            needs_reset: false,
            uses: 0,
            ended: None,
            progress: 0,
        }
    }

    /// Grows with each whole reply and each slice of a message: what patience is counted from.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// How far the opening has come.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// What the peer offers.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Transactions that ended with the peer's word.
    #[must_use]
    pub fn uses(&self) -> u32 {
        self.uses
    }

    /// True while another transaction may begin.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ended.is_none() && self.extensions.mail_max.is_none_or(|most| self.uses < most)
    }

    /// What is waited for now, so that the shell knows its patience.
    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.current.as_ref().is_some_and(|f| f.phase == Phase::Body) {
            return Stage::Body;
        }
        match self.waiting.front() {
            Some(Waiting::Greeting) => Stage::Greeting,
            Some(Waiting::Ehlo | Waiting::Helo) => Stage::Ehlo,
            Some(Waiting::StartTls) => Stage::Tls,
            Some(Waiting::Rset | Waiting::Mail) => Stage::Mail,
            Some(Waiting::Rcpt(_)) => Stage::Rcpt,
            Some(Waiting::Data) => Stage::Data,
            Some(Waiting::Dot | Waiting::EmptyDot) => Stage::Dot,
            None if self.opening == Opening::StartTls => Stage::Tls,
            Some(Waiting::Quit) | None => Stage::Idle,
        }
    }

    /// Bytes to be written; the shell takes them out as it writes.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The handshake is done: nothing said before counts (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        self.want_tls = false;
        self.extensions = Extensions::default();
        self.opening = Opening::Pending;
        self.say_ehlo();
    }

    fn say_ehlo(&mut self) {
        self.put(&[b"EHLO ", self.name.clone().as_bytes()]);
        self.waiting.push_back(Waiting::Ehlo);
    }

    fn put(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.output.extend_from_slice(part);
        }
        self.output.extend_from_slice(b"\r\n");
    }

    /// Begins a transaction, or goes on with one that rode with the last dot. Then
    /// [`Conversation::advance`] until [`Conversation::take`] gives its outcome.
    pub fn begin(&mut self, outgoing: &Outgoing<'_>) {
        if let Some(next) = self.next.take() {
            let rode = next.attempts.len() == outgoing.recipients.len();
            self.current = Some(next);
            if !rode {
                self.lose("the transaction is not the one that was announced");
            }
            return;
        }
        let mut flight = Flight::new(outgoing.recipients.len());
        let able = Needs::of(outgoing).check(&self.extensions);
        if self.ended.is_some() {
            flight.end(&Attempt::NotStarted);
        } else if let Err((code, text)) = able {
            flight.end(&Attempt::Unable { code, text });
        } else {
            if std::mem::take(&mut self.needs_reset) {
                self.put(&[b"RSET"]);
                self.waiting.push_back(Waiting::Rset);
            }
            self.announce(&mut flight, outgoing);
        }
        self.current = Some(flight);
    }

    /// The outcome of the current transaction, one for each recipient, once it is over.
    pub fn take(&mut self) -> Option<Vec<Attempt>> {
        let over = |flight: &mut Flight| flight.phase == Phase::Done;
        let flight = self.current.take_if(over)?;
        Some(flight.attempts.into_iter().map(|a| a.unwrap_or(Attempt::NotStarted)).collect())
    }

    /// Puts out a transaction's commands: all of them with PIPELINING, else the first.
    fn announce(&mut self, flight: &mut Flight, outgoing: &Outgoing<'_>) {
        envelope::mail(outgoing, &self.extensions, &mut self.output);
        self.waiting.push_back(Waiting::Mail);
        let most = self.extensions.rcpt_max.map_or(usize::MAX, |most| most.max(1) as usize);
        // More than the peer takes at once: the rest has its turn in another transaction.
        for slot in flight.attempts.iter_mut().skip(most) {
            *slot = Some(Attempt::NotStarted);
        }
        if self.extensions.pipelining {
            for (number, recipient) in outgoing.recipients.iter().take(most).enumerate() {
                envelope::rcpt(recipient, &self.extensions, &mut self.output);
                self.waiting.push_back(Waiting::Rcpt(number));
            }
            self.put(&[b"DATA"]);
            self.waiting.push_back(Waiting::Data);
        }
    }

    /// Puts out what can be said now: the next command, or the next slice of the message. `next`
    /// rides behind the last dot, where the peer lets commands ride. True where it did.
    pub fn advance(&mut self, outgoing: &Outgoing<'_>, next: Option<&Outgoing<'_>>) -> bool {
        match self.current.as_ref().map(|f| f.phase) {
            Some(Phase::Envelope) => self.say_next(outgoing),
            Some(Phase::Body) => return self.say_body(outgoing, next),
            _ => {}
        }
        false
    }

    /// Without PIPELINING: the command that is next, where no reply is waited for.
    fn say_next(&mut self, outgoing: &Outgoing<'_>) {
        if self.extensions.pipelining || !self.waiting.is_empty() {
            return;
        }
        let Some(flight) = self.current.as_mut() else { return };
        let number = flight.asked;
        let recipient = outgoing.recipients.get(number).filter(|_| flight.is_open(number));
        if !flight.mail {
            flight.phase = Phase::Done;
        } else if let Some(recipient) = recipient {
            flight.asked += 1;
            envelope::rcpt(recipient, &self.extensions, &mut self.output);
            self.waiting.push_back(Waiting::Rcpt(number));
        } else if flight.any_open() {
            self.put(&[b"DATA"]);
            self.waiting.push_back(Waiting::Data);
        } else {
            flight.phase = Phase::Done;
            self.needs_reset = true;
        }
    }

    fn say_body(&mut self, outgoing: &Outgoing<'_>, next: Option<&Outgoing<'_>>) -> bool {
        if !self.output.is_empty() {
            return false;
        }
        self.progress += 1;
        let stuffer = self.stuffer.get_or_insert_with(Stuffer::default);
        if !stuffer.put(outgoing.body, SLICE, &mut self.output) {
            return false;
        }
        self.stuffer = None;
        if let Some(flight) = self.current.as_mut() {
            flight.phase = Phase::Sent;
        }
        self.waiting.push_back(Waiting::Dot);
        let more = self.extensions.mail_max.is_none_or(|most| self.uses + 1 < most);
        match next {
            Some(next) if self.extensions.pipelining && more && self.is_able(next) => {
                let mut flight = Flight::new(next.recipients.len());
                self.announce(&mut flight, next);
                self.next = Some(flight);
                true
            }
            _ => false,
        }
    }

    fn is_able(&self, outgoing: &Outgoing<'_>) -> bool {
        Needs::of(outgoing).check(&self.extensions).is_ok()
    }

    /// Says goodbye; false where the connection has ended already, and nothing is to be said.
    pub fn quit(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.put(&[b"QUIT"]);
        self.waiting.push_back(Waiting::Quit);
        self.ended = Some("we quit".to_string());
        true
    }

    /// No more is said or heard.
    fn end(&mut self, why: &str) {
        self.ended.get_or_insert_with(|| why.to_string());
        self.waiting.clear();
        self.next = None;
        self.stuffer = None;
    }

    /// The connection was lost, timed out, or the peer broke the protocol.
    pub fn lose(&mut self, error: &str) {
        let stage = self.stage();
        if self.opening != Opening::Ready {
            self.opening = Opening::Failed(stage, None, error.to_string());
        }
        let used = self.uses > 0;
        if let Some(flight) = self.current.as_mut().filter(|f| f.phase != Phase::Done) {
            // A connection that idled may have been closed long ago: nothing of this was heard.
            let unheard = used && !flight.answered && flight.phase == Phase::Envelope;
            let in_doubt = flight.phase == Phase::Sent;
            let lost = Attempt::Lost { stage, error: error.to_string(), in_doubt };
            flight.end(if unheard { &Attempt::NotStarted } else { &lost });
        }
        self.end(error);
    }
}
