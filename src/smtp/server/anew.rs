//! Commands after which a session starts anew: STARTTLS (RFC 3207) and XCLIENT; and XFORWARD, its
//! sister.

use super::{Session, Standing, State, Step, Tls, not_done};
use crate::smtp::command::Refusal;
use crate::smtp::proxied::Proxied;

impl Session {
    pub(super) fn start_tls(&mut self) -> Option<Step> {
        let refusal = match self.standing.tls {
            Tls::Offered => {
                self.say(220, (2, 0, 0), "Begin the handshake");
                self.state = State::Answering;
                return Some(Step::StartTls);
            }
            Tls::On => Refusal::new(503, (5, 5, 1), "TLS is there already"),
            Tls::Absent => not_done(),
        };
        self.refuse(&refusal);
        None
    }

    /// The handshake is done. The client has to say EHLO again; `may_relay` is what its certificate
    /// gives it besides its address.
    pub fn secured(&mut self, may_relay: bool) {
        self.begin_anew();
        self.standing.tls = Tls::On;
        self.standing.may_relay |= may_relay;
    }

    pub(super) fn xclient(&mut self, proxied: Proxied) -> Option<Step> {
        let refusal = if !self.standing.is_proxy {
            self.not_believed()
        } else if self.envelope.is_some() {
            in_transaction()
        } else {
            self.state = State::Answering;
            return Some(Step::Introduce(Box::new(proxied)));
        };
        self.refuse(&refusal);
        None
    }

    /// The session goes on as that of somebody else, who stands like this, and is greeted. Whom the
    /// proxy has logged in is logged in.
    pub fn introduced(&mut self, standing: Standing, helo: Option<String>, user: Option<String>) {
        self.begin_anew();
        (self.standing, self.helo, self.user) = (standing, helo, user);
        self.greet();
    }

    /// Whether the client's words are secret.
    #[must_use]
    pub fn tls(&self) -> Tls {
        self.standing.tls
    }

    pub(super) fn xforward(&mut self, proxied: Proxied) {
        if !self.standing.is_proxy {
            return self.refuse(&self.not_believed());
        }
        if self.envelope.is_some() {
            return self.refuse(&in_transaction());
        }
        // Attributes may come in several commands.
        let before = self.forwarded.take().unwrap_or_default();
        self.forwarded = Some(Proxied {
            address: proxied.address.or(before.address),
            helo: proxied.helo.or(before.helo),
            login: None,
        });
        self.say(250, (2, 0, 0), "Ok");
    }

    fn not_believed(&self) -> Refusal {
        let text = format!("You are not a proxy that is believed, {}", self.standing.client);
        Refusal::new(550, (5, 7, 0), text)
    }

    fn begin_anew(&mut self) {
        self.reset();
        (self.helo, self.extended, self.user) = (None, false, None);
        self.exchange = None;
        self.state = State::Commands;
    }
}

fn in_transaction() -> Refusal {
    Refusal::new(503, (5, 5, 1), "Not in a transaction; RSET to end it")
}
