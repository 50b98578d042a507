//! What a session says: replies with their enhanced codes (RFC 2034), and how many refusals it puts
//! up with.

use super::{REFUSALS_TOLD, Refused, Session, Settings, State, Tls};
use crate::smtp::command::Refusal;
use crate::smtp::data::Fault;
use crate::smtp::proxied;
use crate::smtp::reply::EnhancedCode;

impl Session {
    /// One line.
    pub(super) fn say(&mut self, code: u16, (class, subject, detail): (u8, u16, u16), text: &str) {
        let enhanced = EnhancedCode(class, subject, detail);
        self.output.extend_from_slice(format!("{code} {enhanced} {text}\r\n").as_bytes());
    }

    pub(super) fn put(&mut self, answer: &Refusal) {
        let EnhancedCode(class, subject, detail) = answer.enhanced;
        self.say(answer.code, (class, subject, detail), &answer.text);
    }

    /// Replies that bear no enhanced code (RFC 2034 §4).
    pub(super) fn say_plain(&mut self, code: u16) {
        let text =
            if code == 354 { "End with a lone dot" } else { self.settings.hostname.as_str() };
        self.output.extend_from_slice(format!("{code} {text}\r\n").as_bytes());
    }

    pub(super) fn greet(&mut self) {
        let greeting = format!("220 {} ESMTP Bulkhead\r\n", self.settings.hostname);
        self.output.extend_from_slice(greeting.as_bytes());
    }

    pub(super) fn say_extensions(&mut self) {
        let s = &self.settings;
        let starttls = if self.standing.tls == Tls::Offered { "250-STARTTLS\r\n" } else { "" };
        let auth = self.mechanisms().map(|names| format!("250-AUTH {names}\r\n"));
        let auth = auth.unwrap_or_default();
        let proxied = if self.standing.is_proxy {
            format!("250-XCLIENT {}\r\n250-XFORWARD {}\r\n", proxied::XCLIENT, proxied::XFORWARD)
        } else {
            String::new()
        };
        let text = format!(
            "250-{}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-CHUNKING\r\n\
             250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n{starttls}{auth}{proxied}\
             250 LIMITS MAILMAX={} RCPTMAX={}\r\n",
            s.hostname, s.message_size, s.messages, s.recipients
        );
        self.output.extend_from_slice(text.as_bytes());
    }

    /// Says no, and ends the session after too many.
    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        self.note(refusal);
        self.put(refusal);
        self.count_error();
    }

    /// Ends the session after too many errors.
    pub(super) fn count_error(&mut self) {
        self.errors += 1;
        if self.errors >= self.settings.errors && !matches!(self.state, State::Closed) {
            self.give_up(&Refusal::new(421, (4, 7, 0), "Too many errors"));
        }
    }

    /// As [`Session::refuse`], for a recipient.
    pub(super) fn refuse_recipient(&mut self, refusal: &Refusal) {
        self.note(refusal);
        self.put(refusal);
        self.refused += 1;
        if self.refused > self.settings.recipients {
            self.give_up(&Refusal::new(421, (4, 7, 0), "Too many refused recipients"));
        }
    }

    /// Says that it is enough, and ends the session.
    pub(super) fn give_up(&mut self, refusal: &Refusal) {
        self.note(refusal);
        self.abort(refusal);
    }

    /// Keeps a refusal for the log, unless there were many: of two at once, the last, which ends
    /// the session.
    fn note(&mut self, reply: &Refusal) {
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals <= REFUSALS_TOLD {
            let from = self.envelope.as_ref().map(|envelope| envelope.reverse_path.clone());
            let (command, reply) = (String::new(), reply.clone());
            self.refusal = Some(Refused { command, from, reply });
        }
    }

    pub(super) fn too_big(&self) -> Refusal {
        self.settings.fault(Fault::TooBig)
    }
}

impl Settings {
    /// What is said of a message with a fault.
    #[must_use]
    pub fn fault(&self, fault: Fault) -> Refusal {
        let refused = |what: &str| {
            Refusal::new(550, (5, 6, 0), format!("{what} in the message; lines end in CRLF"))
        };
        match fault {
            Fault::BareCr => refused("Bare CR"),
            Fault::BareLf => refused("Bare LF"),
            Fault::Nul => Refusal::new(550, (5, 6, 0), "NUL in the message"),
            Fault::TooBig => {
                let text = format!("Message larger than {} bytes", self.message_size);
                Refusal::new(552, (5, 3, 4), text)
            }
            Fault::LongLine => {
                let text = format!("Line longer than {} bytes in the message", self.line_length);
                Refusal::new(550, (5, 6, 0), text)
            }
        }
    }
}
