//! What the peer's replies mean: each is matched to the command that waits for it.

use super::flight::{Flight, Phase, Waiting};
use super::{Attempt, Conversation, Extensions, Opening, Stage};
use crate::smtp::reply::Reply;

impl Conversation {
    /// Takes in what the peer sent.
    pub fn receive(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            match self.reader.read(&mut input) {
                Ok(None) => return,
                Ok(Some(reply)) => {
                    let tls = self.waiting.front() == Some(&Waiting::StartTls);
                    self.take_reply(reply);
                    if tls && self.opening == Opening::StartTls && !input.is_empty() {
                        return self.lose("text before the TLS handshake");
                    }
                }
                Err(error) => return self.lose(&error.to_string()),
            }
            if self.ended.is_some() && self.waiting.is_empty() {
                return;
            }
        }
    }

    fn take_reply(&mut self, reply: Reply) {
        self.progress += 1;
        // In the middle of the message nothing is waited for: only a refusal makes sense.
        let waiting = match self.stage() {
            Stage::Body => Some(Waiting::Dot),
            _ => self.waiting.pop_front(),
        };
        let Some(waiting) = waiting else {
            return self.lose(&format!("unexpected reply: {reply}"));
        };
        match waiting {
            Waiting::Greeting | Waiting::Ehlo | Waiting::Helo | Waiting::StartTls => {
                self.take_opening(waiting, reply);
            }
            Waiting::Quit | Waiting::Rset if reply.code != 421 => {}
            _ if reply.code == 421 => self.take_farewell(waiting, &reply),
            Waiting::EmptyDot => self.finish(),
            Waiting::Mail | Waiting::Rcpt(_) | Waiting::Data | Waiting::Dot => {
                self.take_transaction(waiting, reply);
            }
            Waiting::Quit | Waiting::Rset => {}
        }
    }

    fn take_opening(&mut self, waiting: Waiting, reply: Reply) {
        let fail = |stage, reply: Reply| {
            let text = reply.to_string();
            Opening::Failed(stage, Some(reply), text)
        };
        match waiting {
            Waiting::Greeting if reply.code == 220 => self.say_ehlo(),
            Waiting::Greeting => self.opening = fail(Stage::Greeting, reply),
            Waiting::Ehlo if reply.is_positive() => {
                self.extensions = Extensions::parse(&reply.lines);
                if self.want_tls && self.extensions.starttls {
                    self.put(&[b"STARTTLS"]);
                    self.waiting.push_back(Waiting::StartTls);
                } else {
                    self.opening = Opening::Ready;
                }
            }
            // Only a server that does not know EHLO is asked in the old way (RFC 5321 §3.2).
            Waiting::Ehlo if matches!(reply.code, 500..=504 | 550) => {
                self.put(&[b"HELO ", self.name.clone().as_bytes()]);
                self.waiting.push_back(Waiting::Helo);
            }
            Waiting::Helo if reply.is_positive() => self.opening = Opening::Ready,
            Waiting::StartTls if reply.code == 220 => self.opening = Opening::StartTls,
            Waiting::StartTls => self.opening = fail(Stage::Tls, reply),
            _ => self.opening = fail(Stage::Ehlo, reply),
        }
        if let Opening::Failed(_, _, why) = &self.opening {
            self.ended = Some(why.clone());
        }
    }

    /// The transaction that replies belong to now: the next one once the current is over.
    fn flight(&mut self) -> Option<&mut Flight> {
        match &mut self.current {
            Some(flight) if flight.phase != Phase::Done => Some(flight),
            _ => self.next.as_mut(),
        }
    }

    fn take_transaction(&mut self, waiting: Waiting, reply: Reply) {
        let Some(flight) = self.flight() else { return };
        flight.answered = true;
        // 3xx is for DATA alone, 2xx for all but DATA: anything else is out of step.
        let fits = match waiting {
            Waiting::Data => reply.code == 354 || reply.code >= 400,
            _ => reply.is_positive() || reply.code >= 400,
        };
        if !fits {
            return self.lose(&format!("reply out of step: {reply}"));
        }
        match waiting {
            Waiting::Mail if reply.is_positive() => flight.mail = true,
            Waiting::Mail => flight.fill(&Attempt::Reply { stage: Stage::Mail, reply }),
            Waiting::Rcpt(_) if reply.is_positive() => {}
            Waiting::Rcpt(number) => {
                if let Some(slot @ None) = flight.attempts.get_mut(number) {
                    *slot = Some(Attempt::Reply { stage: Stage::Rcpt, reply });
                }
            }
            Waiting::Data if reply.code == 354 && flight.any_open() => flight.phase = Phase::Body,
            Waiting::Data if reply.code == 354 => {
                // Nobody is left to get it, but the peer wants data: none at all (RFC 2920 §3.1).
                flight.phase = Phase::Sent;
                self.output.extend_from_slice(b".\r\n");
                self.waiting.push_back(Waiting::EmptyDot);
            }
            Waiting::Data => {
                let was_open = flight.mail;
                flight.end(&Attempt::Reply { stage: Stage::Data, reply });
                self.needs_reset |= was_open;
            }
            _ => self.take_end_of_data(reply),
        }
    }

    fn take_end_of_data(&mut self, reply: Reply) {
        let early = self.stage() == Stage::Body;
        if early && reply.is_positive() {
            return self.lose(&format!("reply before the end of data: {reply}"));
        }
        let text = reply.to_string();
        if let Some(flight) = self.flight() {
            flight.fill(&Attempt::Reply { stage: Stage::Dot, reply });
        }
        self.finish();
        if early {
            // The peer does not listen any more, and half a message is out.
            self.end(&text);
        }
    }

    /// The peer has ended the transaction.
    fn finish(&mut self) {
        if let Some(flight) = self.flight() {
            flight.phase = Phase::Done;
        }
        self.stuffer = None;
        self.uses += 1;
    }

    /// 421: the peer closes. On a connection that was in use before, the first reply to a new
    /// transaction means no more than that it has had enough.
    fn take_farewell(&mut self, waiting: Waiting, reply: &Reply) {
        let stage = match waiting {
            Waiting::Rset | Waiting::Mail => Stage::Mail,
            Waiting::Rcpt(_) => Stage::Rcpt,
            Waiting::Data => Stage::Data,
            _ => Stage::Dot,
        };
        let enough = stage == Stage::Mail && self.uses > 0;
        if let Some(flight) = self.flight() {
            let attempt = Attempt::Reply { stage, reply: reply.clone() };
            flight.end(if enough { &Attempt::NotStarted } else { &attempt });
        }
        self.end(&reply.to_string());
    }
}
