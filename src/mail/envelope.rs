//! The envelope: reverse-path, recipients, and the ESMTP parameters that travel with them.

use crate::base::address::{Mailbox, ReversePath};

/// `BODY=` of MAIL (RFC 6152).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// `7BIT`, or no parameter.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBitMime,
}

/// `RET=` of MAIL: how much of the message a failure report carries (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header section.
    Headers,
}

/// `NOTIFY=` of RCPT: when the sender wants a notification (RFC 3461 §4.1). `NEVER` is all three
/// false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// On delivery.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

impl Notify {
    /// As engines keep it: 1 success, 2 failure, 4 delay.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.success) | u8::from(self.failure) << 1 | u8::from(self.delay) << 2
    }

    /// From [`Notify::bits`].
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 }
    }
}

/// One recipient and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path, in the client's spelling; always with a domain once accepted.
    pub mailbox: Mailbox,
    /// As asked; `None` where the client did not say (failures are reported then).
    pub notify: Option<Notify>,
    /// `ORCPT=` in its xtext form, `rfc822;ann@example.com` (RFC 3461 §4.2).
    pub orcpt: Option<String>,
}

impl Recipient {
    /// A recipient without parameters.
    #[must_use]
    pub fn new(mailbox: Mailbox) -> Self {
        Self { mailbox, notify: None, orcpt: None }
    }

    /// True where its address, or the original one, needs SMTPUTF8 (RFC 6531, RFC 6533 §3).
    #[must_use]
    pub fn is_utf8(&self) -> bool {
        self.mailbox.is_utf8() || self.orcpt.as_ref().is_some_and(|orcpt| !orcpt.is_ascii())
    }

    /// True where a failure is to be reported (the default of RFC 3461 §4.1).
    #[must_use]
    pub fn wants_failure(&self) -> bool {
        self.notify.is_none_or(|n| n.failure)
    }
}

/// What the client said before the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where failures are reported.
    pub reverse_path: ReversePath,
    /// `BODY=`.
    pub body: BodyType,
    /// `SMTPUTF8` was given (RFC 6531 §3.4).
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<Ret>,
    /// `ENVID=` in its xtext form (RFC 3461 §4.4).
    pub envid: Option<String>,
    /// In the order given; at least one.
    pub recipients: Vec<Recipient>,
}

impl Envelope {
    /// An envelope without parameters and recipients.
    #[must_use]
    pub fn from(reverse_path: ReversePath) -> Self {
        Self {
            reverse_path,
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            recipients: Vec::new(),
        }
    }
}
