//! One connection to a receiving host: the thin shell that brings bytes between a socket and a
//! [`Conversation`].
//!
//! Reading and writing go on together, so that a peer that answers early, or does not read while it
//! answers, cannot hold us up. Patience is counted from the last whole reply or slice of the
//! message, not from the last byte: a peer that drips gains nothing by it.

use crate::base::time::{Clock, human};
use crate::mail::envelope::Recipient;
use crate::mail::message::MessageHead;
use crate::net::dial::{Dialer, Stream};
use crate::policy::source::Source;
use crate::smtp::client::{Attempt, Conversation, Opening, Outgoing, Stage};
use crate::smtp::reply::Reply;
use crate::store::{Delivery, Lease};
use bytes::Bytes;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// How long a goodbye may take.
const QUIT: Duration = Duration::from_secs(2);
/// Bytes read at once.
const READ: usize = 4_096;

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the MX host.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Where to connect from, and under which name.
    pub source: Arc<Source>,
}

/// A message on its way to some of its recipients.
#[derive(Debug)]
pub struct Transaction {
    /// The message.
    pub head: Arc<MessageHead>,
    /// Its bytes.
    pub body: Bytes,
    /// At least one.
    pub deliveries: Vec<Delivery>,
}

impl Transaction {
    /// The domains of its recipients.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.deliveries.iter().filter_map(Delivery::domain)
    }

    /// The domain of its reverse-path.
    #[must_use]
    pub fn sender(&self) -> Option<&str> {
        self.head.envelope.reverse_path.domain().map(|domain| domain.as_str())
    }

    /// The claims on its deliveries.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.deliveries.iter().map(|d| d.lease).collect()
    }
}

/// What came of a transaction.
#[derive(Debug)]
pub struct Report {
    /// One for each delivery, in the same order.
    pub attempts: Vec<Attempt>,
    /// From its first command, or from the end of the transaction that it rode with, to its last
    /// reply.
    pub transmit: Duration,
}

/// Why a connection could not be opened.
#[derive(Debug)]
pub struct NotOpened {
    /// How far it came.
    pub stage: Stage,
    /// What the peer said or what happened; safe to print.
    pub why: String,
    /// The reply, where it was one.
    pub reply: Option<Reply>,
}

impl std::fmt::Display for NotOpened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage.as_str(), self.why)
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    conversation: Conversation,
    dialer: Dialer,
    clock: Clock,
    /// Of the output, what was written.
    written: usize,
}

impl Connection {
    /// Connects, greets, and turns TLS on where it is wanted and offered; where that fails,
    /// connects once more without it (RFC 7435: opportunistic), and remembers the host for a while.
    ///
    /// # Errors
    /// At which stage, and what the peer said or what happened.
    pub async fn open(dialer: &Dialer, clock: &Clock, target: &Target) -> Result<Self, NotOpened> {
        let want = dialer.wants_tls() && !dialer.tls_is_broken(target.address.ip(), clock.now());
        match Self::try_open(dialer, clock, target, want).await {
            Err(NotOpened { stage: Stage::Tls, .. }) if want => {
                let plain = Self::try_open(dialer, clock, target, false).await;
                if plain.is_ok() {
                    dialer.note_broken_tls(target.address.ip(), clock.now());
                }
                plain
            }
            other => other,
        }
    }

    async fn try_open(
        dialer: &Dialer,
        clock: &Clock,
        target: &Target,
        want_tls: bool,
    ) -> Result<Self, NotOpened> {
        let failed = |stage| move |why| NotOpened { stage, why, reply: None };
        let from = target.source.address_for(target.address.ip());
        let stream = dialer.connect(from, target.address).await;
        let stream = stream.map_err(|(stage, why)| failed(stage)(why))?;
        let name = target.source.hostname.as_str();
        let mut connection = Self {
            stream: Stream::Plain(stream),
            conversation: Conversation::new(name, want_tls),
            dialer: dialer.clone(),
            clock: clock.clone(),
            written: 0,
        };
        loop {
            match connection.conversation.opening().clone() {
                Opening::Ready => return Ok(connection),
                Opening::Pending => connection.exchange().await,
                Opening::Failed(stage, reply, why) => return Err(NotOpened { stage, why, reply }),
                Opening::StartTls => {
                    let secured = connection.start_tls(&target.host).await;
                    connection = secured.map_err(failed(Stage::Tls))?;
                }
            }
        }
    }

    async fn start_tls(mut self, host: &str) -> Result<Self, String> {
        let Stream::Plain(stream) = self.stream else { return Ok(self) };
        let stream = self.dialer.start_tls(stream, host).await?;
        self.stream = Stream::Tls(Box::new(stream));
        self.conversation.tls_started();
        Ok(self)
    }

    /// Sends one transaction. `next`, where it is given and the peer lets it, rides with the last
    /// dot: then it must be the next to be sent; the second value says whether it did.
    pub async fn send(
        &mut self,
        transaction: &Transaction,
        next: Option<&Transaction>,
    ) -> (Report, bool) {
        let begun = self.clock.now();
        let recipients = recipients(transaction);
        let outgoing = outgoing(transaction, &recipients);
        let next_recipients = next.map(self::recipients).unwrap_or_default();
        let next = next.map(|next| self::outgoing(next, &next_recipients));
        self.conversation.begin(&outgoing);
        let limit = self.dialer.config().transaction_timeout;
        let mut rode = false;
        let whole = async {
            loop {
                rode |= self.conversation.advance(&outgoing, next.as_ref());
                if let Some(attempts) = self.conversation.take() {
                    return attempts;
                }
                self.exchange().await;
            }
        };
        let attempts = match timeout(limit, whole).await {
            Ok(attempts) => attempts,
            Err(_) => {
                self.conversation.lose(&format!("not done after {}", human(limit)));
                self.conversation.take().unwrap_or_default()
            }
        };
        let transmit = self.clock.now().since(begun);
        (Report { attempts, transmit }, rode && self.is_open())
    }

    /// True while another transaction may be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.conversation.is_open()
    }

    /// Transactions that it has carried.
    #[must_use]
    pub fn uses(&self) -> u32 {
        self.conversation.uses()
    }

    /// TLS version, where it is on.
    #[must_use]
    pub fn tls(&self) -> Option<&'static str> {
        self.stream.tls_version()
    }

    /// True where the peer sends the notifications that were asked for itself (RFC 3461).
    #[must_use]
    pub fn offers_dsn(&self) -> bool {
        self.conversation.extensions().dsn
    }

    /// Waits, without an end of its own, until the peer says something or closes; then it is not
    /// open any more.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn idle(&mut self) {
        while self.conversation.is_open() {
            self.transfer().await;
        }
    }

    /// Says goodbye, and waits a short while for the peer, which closes first (RFC 5321
    /// §4.1.1.10): until then it counts the connection as one of ours. Of one that was lost, what
    /// is not written yet is not written any more: a message that was given up shall not arrive.
    pub async fn quit(mut self) {
        let is_open = self.conversation.quit();
        _ = timeout(QUIT, async {
            while is_open && self.transfer().await {}
            self.stream.shutdown().await
        })
        .await;
    }

    /// Until something has happened that counts, or patience with the present stage has ended.
    async fn exchange(&mut self) {
        let stage = self.conversation.stage();
        let config = self.dialer.config();
        let patience = match stage {
            Stage::Bind | Stage::Connect | Stage::Tls => config.connect_timeout,
            Stage::Greeting => config.greeting_timeout,
            Stage::Ehlo | Stage::Mail | Stage::Rcpt | Stage::Idle => config.command_timeout,
            Stage::Data => config.data_timeout,
            Stage::Body => config.block_timeout,
            Stage::Dot => config.dot_timeout,
        };
        let before = self.conversation.progress();
        let progress =
            async { while self.conversation.progress() == before && self.transfer().await {} };
        if timeout(patience, progress).await.is_err() {
            self.conversation.lose(&format!("timed out after {}", human(patience)));
        }
    }

    /// Writes what there is and reads what has come, whichever can go on. False where there is
    /// nothing to wait for: the message's next slice is wanted, or the connection is gone.
    async fn transfer(&mut self) -> bool {
        poll_fn(|cx| self.poll_transfer(cx)).await
    }

    fn poll_transfer(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.poll_output(cx) {
            Poll::Ready(Err(error)) => {
                // What the peer said before it went away may explain it.
                while self.poll_input(cx).is_ready() && self.conversation.is_open() {}
                self.conversation.lose(&plain(&error));
                return Poll::Ready(false);
            }
            Poll::Ready(Ok(true)) if self.conversation.stage() == Stage::Body => {
                return Poll::Ready(false);
            }
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        self.poll_input(cx)
    }

    /// Ready with true when something was written and nothing is left.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let output = self.conversation.output();
        if output.is_empty() {
            return Poll::Ready(Ok(false));
        }
        while let Some(rest) = output.get(self.written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                output.clear();
                self.written = 0;
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut space = [0; READ];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                self.conversation.lose("closed by the peer");
                Poll::Ready(false)
            }
            Poll::Ready(Ok(())) => {
                self.conversation.receive(buffer.filled());
                Poll::Ready(true)
            }
            Poll::Ready(Err(error)) => {
                self.conversation.lose(&plain(&error));
                Poll::Ready(false)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// An IO error without its number.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

fn recipients(transaction: &Transaction) -> Vec<&Recipient> {
    transaction.deliveries.iter().map(|d| &d.recipient).collect()
}

fn outgoing<'a>(transaction: &'a Transaction, recipients: &'a [&'a Recipient]) -> Outgoing<'a> {
    Outgoing { envelope: &transaction.head.envelope, recipients, body: &transaction.body }
}

#[cfg(test)]
mod tests;
