//! A second reading of a session, from its bytes and its replies alone: where commands, chunks and
//! messages begin and end, which reply is whose, and what a reply may say after what was said.

use super::session::{Client, Handed, Heard, RECIPIENTS, may_relay};
use bulkhead::smtp::command::{self, COMMAND_MAX, Command};
use bulkhead::smtp::server::Tls;
use memchr::{memchr, memmem};
use std::iter::Peekable;
use std::net::IpAddr;
use std::slice;
use std::vec;

/// Each command has one reply, in order; after 421 and 221 there is none. A message is handed over
/// once, with the recipients that were accepted, by who may send.
pub fn check(client: &Client, said: &[u8], heard: &Heard) {
    let replies = replies(&heard.output);
    let mut frames = Frames {
        said,
        at: 0,
        replies: replies.into_iter().peekable(),
        messages: heard.messages.iter(),
        client: client.standing.client,
        may_relay: client.standing.may_relay,
        must_log_in: client.standing.must_log_in,
        tls: client.standing.tls,
        has_certificate: client.has_certificate,
        has_said_hello: false,
        logs_in: false,
        is_logged_in: false,
        recipients: None,
        in_chunks: false,
    };
    let greeting = frames.replies.next().expect("a greeting");
    assert_eq!(greeting.0, 220);
    let is_complete = frames.lines().is_some();
    assert!(heard.closed || is_complete, "a reply is missing at byte {}", frames.at);
    // Too many errors: of the last command, the reply and the farewell.
    let farewell = frames.replies.next();
    assert!(farewell.as_ref().is_none_or(|reply| heard.closed && reply.0 == 421), "{farewell:?}");
    assert_eq!(frames.replies.next(), None, "replies to nothing");
    assert_eq!(frames.messages.next(), None, "a message that nobody was told of");
}

type Reply = (u16, String);

/// Code, and the text of the last line.
fn replies(output: &[u8]) -> Vec<Reply> {
    let text = std::str::from_utf8(output).expect("replies are UTF-8");
    let last = text.lines().filter(|line| line.as_bytes()[3] == b' ');
    last.map(|line| (line[..3].parse().expect("a code"), line[4..].to_string())).collect()
}

struct Frames<'a> {
    said: &'a [u8],
    at: usize,
    replies: Peekable<vec::IntoIter<Reply>>,
    messages: slice::Iter<'a, Handed>,
    client: IpAddr,
    may_relay: bool,
    must_log_in: bool,
    tls: Tls,
    has_certificate: bool,
    has_said_hello: bool,
    logs_in: bool,
    is_logged_in: bool,
    /// Of the transaction, where there is one.
    recipients: Option<usize>,
    in_chunks: bool,
}

impl Frames<'_> {
    /// To the end of the input; `None` where a reply is not there.
    fn lines(&mut self) -> Option<()> {
        while let Some(end) = memchr(b'\n', &self.said[self.at..]) {
            let line = &self.said[self.at..self.at + end];
            self.at += end + 1;
            let line = line.strip_suffix(b"\r").filter(|_| end < COMMAND_MAX);
            let command = line.and_then(|line| command::parse(line).ok());
            match command {
                _ if self.logs_in => self.response()?,
                Some(Command::Bdat { size, last }) => {
                    let left = (self.said.len() - self.at) as u64;
                    if size > left {
                        // Unless it was one command too many, it waits for the rest.
                        return Some(());
                    }
                    self.at += size as usize;
                    self.chunk(last)?;
                }
                Some(Command::Data) => {
                    let (code, _) = self.replies.next()?;
                    if code == 354 {
                        assert!(self.recipients > Some(0) && !self.in_chunks);
                        let Some(end) = memmem::find(&self.said[self.at - 2..], b"\r\n.\r\n")
                        else {
                            return Some(());
                        };
                        self.at += end + 3;
                        self.message()?;
                    } else {
                        assert!(code >= 400, "{code} to DATA");
                    }
                }
                command => self.command(command)?,
            }
        }
        Some(())
    }

    /// Within a login.
    fn response(&mut self) -> Option<()> {
        let (code, _) = self.replies.next()?;
        self.logs_in = code == 334;
        self.is_logged_in |= code == 235;
        assert!(matches!(code, 334 | 235 | 400..), "{code} to a response");
        Some(())
    }

    fn chunk(&mut self, last: bool) -> Option<()> {
        if self.recipients.is_none_or(|count| count == 0) {
            let (code, text) = self.replies.next()?;
            assert!(code >= 400, "{code} {text} to a chunk of nothing");
            return Some(());
        }
        let (code, _) = self.replies.peek()?;
        if *code == 250 && !last {
            self.replies.next();
            self.in_chunks = true;
            return Some(());
        }
        self.message()
    }

    /// The end of a message.
    fn message(&mut self) -> Option<()> {
        let (code, text) = self.replies.next()?;
        let recipients = self.recipients.take();
        self.in_chunks = false;
        if text == "2.0.0 Taken" || text == "4.3.0 Later" {
            let handed = self.messages.next().expect("what is answered for was handed over");
            assert_eq!(Some(handed.recipients), recipients);
            assert_eq!(handed.user.is_some(), self.is_logged_in);
        } else {
            assert!(code >= 400, "{code} {text} of a message that nobody took");
        }
        Some(())
    }

    fn command(&mut self, command: Option<Command>) -> Option<()> {
        let (code, text) = self.replies.next()?;
        if code == 421 || code == 221 {
            assert!(code == 421 || command == Some(Command::Quit), "{code} {text}");
            return None;
        }
        if code >= 400 {
            return Some(());
        }
        match (command, code) {
            (Some(Command::Ehlo(_) | Command::Helo(_)), 250) => {
                self.has_said_hello = true;
                self.reset();
            }
            (Some(Command::Mail(_)), 250) => {
                assert!(self.has_said_hello && self.recipients.is_none());
                assert!(self.is_logged_in || !self.must_log_in, "MAIL without a login");
                self.recipients = Some(0);
            }
            (Some(Command::Rcpt(_)), 250) => {
                assert!(self.is_logged_in || self.may_relay, "relay without permission");
                let count = self.recipients.as_mut().expect("MAIL before RCPT");
                *count += 1;
                assert!(*count <= RECIPIENTS && !self.in_chunks);
            }
            (Some(Command::Rset), 250) => self.reset(),
            (Some(Command::Noop | Command::Xforward(_)), 250) => {}
            (Some(Command::Vrfy), 252) | (Some(Command::Help), 214) => {}
            (Some(Command::Auth { .. }), 334) => self.logs_in = true,
            (Some(Command::Auth { .. }), 235) => self.is_logged_in = true,
            (Some(Command::StartTls), 220) => {
                assert_eq!(self.tls, Tls::Offered);
                self.tls = Tls::On;
                self.may_relay |= self.has_certificate;
                (self.has_said_hello, self.is_logged_in) = (false, false);
                self.reset();
            }
            (Some(Command::Xclient(proxied)), 220) => {
                assert_eq!(self.recipients, None);
                self.client = proxied.address.unwrap_or(self.client);
                self.may_relay = may_relay(self.client);
                self.has_said_hello = proxied.helo.is_some();
                self.is_logged_in = proxied.login.is_some();
            }
            (command, code) => panic!("{code} {text} to {command:?}"),
        }
        Some(())
    }

    fn reset(&mut self) {
        (self.recipients, self.in_chunks) = (None, false);
    }
}
