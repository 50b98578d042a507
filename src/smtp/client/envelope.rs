//! MAIL and RCPT with the parameters that the peer understands, and what a message needs of it.

use super::Extensions;
use crate::mail::envelope::{BodyType, Envelope, Recipient, Ret};
use crate::smtp::reply::EnhancedCode;

/// A transaction to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Reverse-path and parameters; its own recipients are not looked at.
    pub envelope: &'a Envelope,
    /// Whom to send to; at least one.
    pub recipients: &'a [&'a Recipient],
    /// The message: CRLF line ends, not dot-stuffed.
    pub body: &'a [u8],
}

/// What a message needs of the peer.
pub(super) struct Needs {
    size: u64,
    /// Was declared 8BITMIME, and is.
    eight_bit: bool,
    utf8: bool,
}

impl Needs {
    pub(super) fn of(outgoing: &Outgoing<'_>) -> Self {
        let ascii = outgoing.body.is_ascii();
        let address = |r: &&Recipient| r.mailbox.is_utf8();
        let sender = outgoing.envelope.reverse_path.mailbox();
        let utf8_address =
            sender.is_some_and(|m| m.is_utf8()) || outgoing.recipients.iter().any(address);
        let utf8_header = outgoing.envelope.smtputf8 && !ascii && !header_is_ascii(outgoing.body);
        Self {
            size: outgoing.body.len() as u64,
            eight_bit: outgoing.envelope.body == BodyType::EightBitMime && !ascii,
            utf8: utf8_address || utf8_header,
        }
    }

    /// Does the peer have it all?
    pub(super) fn check(&self, extensions: &Extensions) -> Result<(), (EnhancedCode, String)> {
        if let Some(Some(most)) = extensions.size
            && self.size > most
        {
            let text =
                format!("the message has {} bytes, the receiving host takes {most}", self.size);
            return Err((EnhancedCode(5, 3, 4), text));
        }
        if self.utf8 && !extensions.smtputf8 {
            let text = "the receiving host takes no internationalised mail (SMTPUTF8)";
            return Err((EnhancedCode(5, 6, 7), text.to_string()));
        }
        if self.eight_bit && !extensions.eight_bit_mime {
            let text = "the receiving host takes no 8-bit mail (8BITMIME)";
            return Err((EnhancedCode(5, 6, 3), text.to_string()));
        }
        Ok(())
    }
}

fn header_is_ascii(body: &[u8]) -> bool {
    let end = memchr::memmem::find(body, b"\r\n\r\n").unwrap_or(body.len());
    body.get(..end).is_some_and(<[u8]>::is_ascii)
}

/// `MAIL FROM:<…> …`
pub(super) fn mail(outgoing: &Outgoing<'_>, extensions: &Extensions, out: &mut Vec<u8>) {
    let envelope = outgoing.envelope;
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(envelope.reverse_path.as_str().as_bytes());
    out.push(b'>');
    if extensions.size.is_some() {
        out.extend_from_slice(format!(" SIZE={}", outgoing.body.len()).as_bytes());
    }
    // 8-bit mail that was not declared goes out declared, where that can be said.
    if extensions.eight_bit_mime
        && (envelope.body == BodyType::EightBitMime || !outgoing.body.is_ascii())
    {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if extensions.smtputf8 && (envelope.smtputf8 || Needs::of(outgoing).utf8) {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if extensions.dsn {
        match envelope.ret {
            Some(Ret::Full) => out.extend_from_slice(b" RET=FULL"),
            Some(Ret::Headers) => out.extend_from_slice(b" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = &envelope.envid {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envid.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// `RCPT TO:<…> …`
pub(super) fn rcpt(recipient: &Recipient, extensions: &Extensions, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.mailbox.as_str().as_bytes());
    out.push(b'>');
    if extensions.dsn {
        if let Some(notify) = recipient.notify {
            let wanted =
                [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
            let words: Vec<&str> =
                wanted.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
            out.extend_from_slice(b" NOTIFY=");
            out.extend_from_slice(
                if words.is_empty() { "NEVER".into() } else { words.join(",") }.as_bytes(),
            );
        }
        let sayable = |orcpt: &&String| orcpt.is_ascii() || extensions.smtputf8;
        if let Some(orcpt) = recipient.orcpt.as_ref().filter(sayable) {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(orcpt.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}
