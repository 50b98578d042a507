//! The message itself: DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030 §2).

use super::{Received, Session, State, Step, Tls};
use crate::smtp::command::Refusal;
use crate::smtp::data::{ChunkReader, DataLimits, DataReader, Fault};

impl Session {
    pub(super) fn data(&mut self) {
        match &self.envelope {
            None => self.refuse(&Refusal::new(503, (5, 5, 1), "Say MAIL first")),
            Some(_) if self.chunks.is_some() => {
                self.refuse(&Refusal::new(503, (5, 5, 1), "BDAT was begun; end it with LAST"));
            }
            Some(envelope) if envelope.recipients.is_empty() => {
                self.refuse(&Refusal::new(554, (5, 5, 1), "No valid recipients"));
            }
            Some(_) => {
                self.state = State::Data(DataReader::new(self.data_limits()));
                self.say_plain(354);
            }
        }
    }

    fn data_limits(&self) -> DataLimits {
        DataLimits { size: self.settings.message_size, line: self.settings.line_length }
    }

    pub(super) fn bdat(&mut self, size: u64, last: bool) {
        let has_recipients = self.envelope.as_ref().map(|envelope| !envelope.recipients.is_empty());
        let answer = match has_recipients {
            None => Refusal::new(503, (5, 5, 1), "Say MAIL first"),
            Some(false) => Refusal::new(554, (5, 5, 1), "No valid recipients"),
            Some(true) => {
                let limits = self.data_limits();
                self.chunks.get_or_insert_with(|| ChunkReader::new(limits));
                self.state = State::Chunk { left: size, last };
                return;
            }
        };
        self.state = State::Unwanted { left: size, answer };
    }

    pub(super) fn read_chunk(&mut self, input: &[u8]) -> (usize, Option<Step>) {
        let (State::Chunk { left, .. } | State::Unwanted { left, .. }) = &mut self.state else {
            return (0, None);
        };
        let taken = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= taken as u64;
        let left = *left;
        if let (State::Chunk { .. }, Some(reader)) = (&self.state, &mut self.chunks) {
            reader.read(input.get(..taken).unwrap_or_default(), &mut self.body);
            if reader.fault().is_some() || self.overflow.is_some() {
                self.forget_body();
            }
        }
        if left > 0 {
            return (taken, Some(Step::Read));
        }
        (taken, self.end_chunk())
    }

    fn end_chunk(&mut self) -> Option<Step> {
        match std::mem::replace(&mut self.state, State::Commands) {
            State::Unwanted { answer, .. } => self.refuse(&answer),
            State::Chunk { last, .. } => {
                let reader = self.chunks.as_mut()?;
                if last {
                    reader.finish(&mut self.body);
                }
                let (fault, size) = (reader.fault(), reader.size());
                if last || fault.is_some() || self.overflow.is_some() {
                    return self.end_data(fault);
                }
                self.say(250, (2, 0, 0), &format!("{size} bytes so far"));
            }
            other => self.state = other,
        }
        None
    }

    /// The message is all there, or is given up.
    pub(super) fn end_data(&mut self, fault: Option<Fault>) -> Option<Step> {
        self.state = State::Commands;
        self.messages += 1;
        if let Some(fault) = fault {
            self.refuse(&self.settings.fault(fault));
            self.reset();
            if fault.is_smuggling() {
                self.state = State::Closed;
            }
            return None;
        }
        if let Some(refusal) = self.overflow.take() {
            self.refuse(&refusal);
            self.reset();
            return None;
        }
        let envelope = self.envelope.take()?;
        let (taken, body) = self.take_body();
        let forwarded = self.forwarded.take().unwrap_or_default();
        self.reset();
        self.state = State::Answering;
        let protocol = self.protocol(envelope.smtputf8);
        let helo = forwarded.helo.or_else(|| self.helo.clone()).unwrap_or_default();
        let (user, forwarded_for) = (self.user.clone(), forwarded.address);
        let received = Received { envelope, helo, user, forwarded_for, protocol, taken, body };
        Some(Step::Message(Box::new(received)))
    }

    /// How a message came, for the trace field (RFC 3848, RFC 6531 §4.3).
    pub(super) fn protocol(&self, utf8: bool) -> &'static str {
        if !self.extended {
            return "SMTP";
        }
        match (utf8, self.standing.tls == Tls::On, self.user.is_some()) {
            (false, false, false) => "ESMTP",
            (false, false, true) => "ESMTPA",
            (false, true, false) => "ESMTPS",
            (false, true, true) => "ESMTPSA",
            (true, false, false) => "UTF8SMTP",
            (true, false, true) => "UTF8SMTPA",
            (true, true, false) => "UTF8SMTPS",
            (true, true, true) => "UTF8SMTPSA",
        }
    }

    /// There is no room for the message: what is left of it is read and forgotten, then this is the
    /// answer.
    pub fn overflow(&mut self, refusal: Refusal) {
        self.forget_body();
        self.overflow = Some(refusal);
    }

    pub(super) fn forget_body(&mut self) {
        (self.taken, self.body) = (0, Vec::new());
    }
}
