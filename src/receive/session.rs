//! The thin shell of a session: bytes between a socket and [`Session`], with patience and room that
//! end.

use super::door::Place;
use super::hold::Hold;
use super::intake::{Client, Ingress, header_too_large};
use crate::base::random::unforeseeable;
use crate::base::time::Timestamp;
use crate::config::{Listen, ListenAddress, PlainText, Role};
use crate::mail::header;
use crate::net::listen::Stream;
use crate::net::tls::fingerprint;
use crate::observe::receive as tell;
use crate::smtp::command::Refusal;
use crate::smtp::proxied::Proxied;
use crate::smtp::server::{Login, Logins, Received, Session, Standing, Step, Tls};
use crate::store::Store;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Bytes of a message read at once; after so many, others have their turn.
const READ: usize = 16 << 10;
/// Bytes of commands read at once: all that a session needs that idles.
const READ_COMMANDS: usize = 4 << 10;
/// Bytes of memory for each of a message's: it is copied once.
const COPIES: usize = 2;
/// A stranger who talks before the greeting in this time is no mail server.
const EARLY: Duration = Duration::from_millis(300);

/// How long what a client still sends is read after the last reply.
const LINGER: Duration = Duration::from_secs(2);

/// How often it is looked whether it has become crowded.
const LOOK: Duration = Duration::from_secs(5);

/// A client that has come in.
pub(super) struct Guest {
    pub(super) stream: Box<dyn Stream>,
    /// His address; of a program on this machine, this machine's.
    pub(super) address: IpAddr,
    pub(super) place: Place,
    /// Read from him already.
    pub(super) begun: Vec<u8>,
    /// Where he came in.
    pub(super) listen: Arc<Listen>,
}

/// Serves one client.
pub(super) async fn run<S: Store>(ingress: &Ingress<S>, guest: Guest, stop: watch::Receiver<bool>) {
    let Guest { stream, address, place, begun, listen } = guest;
    let standing = standing(ingress, &listen, &place, address);
    // Without randomness nobody is served.
    let Ok(nonce) = unforeseeable::<18>() else { return };
    let session = Session::new(Arc::clone(&ingress.settings), standing, BASE64.encode(nonce));
    let shell = Shell {
        ingress,
        stream,
        listen,
        place,
        client: Client { address, tenant: None, certificate: None },
        session,
        stop,
        begun: None,
        come: 0,
        waiting: None,
        taken: 0,
        hold: Hold::new(&ingress.depot, COPIES),
        header_seen: false,
    };
    // A connection that breaks needs no more words.
    _ = shell.serve(begun).await;
}

/// How a client at this address stands with us, before he has said a word.
fn standing<S: Store>(
    ingress: &Ingress<S>,
    listen: &Listen,
    place: &Place,
    address: IpAddr,
) -> Standing {
    let has_certificate = ingress.parts.tls.get().is_some();
    Standing {
        client: address,
        may_relay: place.may_relay && listen.role == Role::Relay,
        must_log_in: listen.role != Role::Relay,
        tls: match (listen.role, has_certificate, &listen.address) {
            (Role::Submissions, ..) => Tls::On,
            (_, true, ListenAddress::Tcp(_)) => Tls::Offered,
            _ => Tls::Absent,
        },
        logins: match ingress.parts.config.get().auth.plain_text {
            _ if ingress.parts.config.get().auth.users.is_empty() => Logins::Never,
            PlainText::Relay if place.may_relay => Logins::Always,
            PlainText::Relay | PlainText::Never => Logins::WithTls,
        },
        is_proxy: listen.xclient.contains(address),
    }
}

struct Shell<'a, S> {
    ingress: &'a Ingress<S>,
    stream: Box<dyn Stream>,
    listen: Arc<Listen>,
    place: Place,
    client: Client,
    session: Session,
    stop: watch::Receiver<bool>,
    /// When the message under way began.
    begun: Option<Timestamp>,
    /// Bytes read since.
    come: u64,
    /// Since when a whole command is waited for.
    waiting: Option<Timestamp>,
    /// Bytes read since others had their turn.
    taken: usize,
    /// Of the message under way, what the session does not keep.
    hold: Hold,
    /// It was looked whether the header section of the message under way is too large.
    header_seen: bool,
}

impl<S: Store> Shell<'_, S> {
    /// Serves to the end; `buffer` holds what was read already.
    async fn serve(mut self, mut buffer: Vec<u8>) -> std::io::Result<()> {
        buffer.reserve(READ_COMMANDS);
        if self.listen.role == Role::Submissions {
            self.shake_hands().await?;
        } else if self.listen.role == Role::Relay && !self.place.may_relay {
            let early = timeout(EARLY, self.stream.read_buf(&mut buffer)).await.is_ok();
            if early || !buffer.is_empty() {
                self.session.output().clear();
                self.session.abort(&Refusal::new(554, (5, 5, 0), "You talk before the greeting"));
            }
        }
        let mut at = 0;
        loop {
            let (taken, step) = self.session.step(buffer.get(at..).unwrap_or_default());
            at += taken;
            if taken > 0 {
                self.waiting = None;
            }
            match step {
                Step::Read => {
                    self.mind_message().await;
                    buffer.drain(..at);
                    at = 0;
                    self.flush().await?;
                    if !self.read(&mut buffer).await? {
                        return self.close(buffer).await;
                    }
                    // Only MAIL asks; where space is short the store is asked, too.
                    if !self.session.is_in_message() {
                        self.session.set_room(self.ingress.parts.store.room().await);
                    }
                }
                Step::StartTls => {
                    self.flush().await?;
                    // Whatever came with the command came in clear (RFC 3207 §4.2).
                    buffer.clear();
                    at = 0;
                    let known = self.shake_hands().await?;
                    self.session.secured(known);
                }
                Step::Login(login) => self.log_in(login).await,
                Step::Introduce(proxied) => self.introduce(*proxied),
                // The dispatcher asks again where it could not be told.
                Step::Recipient(domain) => _ = self.ingress.parts.expected.try_send(domain),
                Step::Refused(refused) => tell::refused(self.client.address, &refused),
                Step::Message(received) => {
                    let begun = self.begun.take().unwrap_or_else(|| self.ingress.parts.clock.now());
                    let answer = self.take(*received, begun).await;
                    self.session.answer(&answer);
                }
                Step::Close => return self.close(buffer).await,
            }
        }
    }

    /// From here on all is encrypted. True where the client's certificate is known.
    async fn shake_hands(&mut self) -> std::io::Result<bool> {
        let config = self.ingress.parts.tls.get();
        let Some(config) = config.as_ref() else { return Err(ErrorKind::Unsupported.into()) };
        let clear = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let handshake = TlsAcceptor::from(Arc::clone(config)).accept(clear);
        let patience = self.ingress.patience().with_handshake();
        let done = tokio::select! {
            done = timeout(patience, handshake) => done,
            Ok(_) = self.stop.wait_for(|stop| *stop) => {
                return Err(ErrorKind::ConnectionAborted.into());
            }
        };
        let stream = match done.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => {
                tell::handshake_failed(self.client.address, &error);
                return Err(error);
            }
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.map(fingerprint);
        self.stream = Box::new(stream);
        let tenants = &self.ingress.parts.config.get().tenants;
        self.client.certificate = shown.filter(|shown| tenants.knows(shown));
        Ok(self.client.certificate.is_some())
    }

    /// Sees whether somebody is who he says, and lets him in.
    async fn log_in(&mut self, login: Login) {
        let (parts, address) = (&self.ingress.parts, self.client.address);
        let (Login::Password { user, .. }
        | Login::Verifier(user)
        | Login::Proven(user)
        | Login::Wrong(user)) = &login;
        let (user, config, now) = (user.clone(), parts.config.get(), parts.clock.now());
        if let Login::Verifier(_) = login {
            return match parts.logins.may(address, &user, now) {
                Ok(()) => self.session.verify(parts.logins.verifier(&config, &user)),
                Err(refusal) => self.session.denied(&refusal),
            };
        }
        let attempt = match parts.logins.begin(&config, address, &user, now).await {
            Ok(attempt) => attempt,
            Err(refusal) => return self.session.denied(&refusal),
        };
        let is_right = match login {
            Login::Password { password, .. } => parts.logins.check(&config, &user, password).await,
            Login::Proven(_) => true,
            Login::Verifier(_) | Login::Wrong(_) => false,
        };
        // He may have been removed meanwhile.
        match config.auth.users.find(&user).filter(|_| is_right) {
            Some(found) => {
                attempt.succeeded(parts.clock.now());
                tell::login_succeeded(address, &user);
                self.client.tenant.clone_from(&found.tenant);
                self.place.is_known();
                self.session.logged_in(user);
            }
            None => {
                attempt.failed(parts.clock.now());
                sleep(config.auth.delay).await;
                self.session.denied(&Refusal::new(535, (5, 7, 8), "User or password is wrong"));
            }
        }
    }

    /// A proxy speaks for another client from now on, who needs a place of his own.
    fn introduce(&mut self, proxied: Proxied) {
        let Proxied { address, helo, login } = proxied;
        let address = address.unwrap_or(self.client.address);
        match self.ingress.admit(address) {
            Ok(place) => self.place = place,
            Err(refusal) => return self.session.abort(&refusal),
        }
        let config = self.ingress.parts.config.get();
        let user = login.as_deref().and_then(|name| config.auth.users.find(name));
        let tenant = user.and_then(|user| user.tenant.clone());
        self.client = Client { address, tenant, certificate: None };
        let mut standing = standing(self.ingress, &self.listen, &self.place, address);
        // The connection is still the proxy's; its client is believed no more than anybody.
        standing.tls = self.session.tls();
        if login.is_some() {
            self.place.is_known();
        }
        self.session.introduced(standing, helo, login);
    }

    /// Says the last words. What the client still sends is read for a while: closing on it would
    /// reset the connection, and the words could be lost.
    async fn close(&mut self, mut rest: Vec<u8>) -> std::io::Result<()> {
        self.flush().await?;
        // Not while the other side takes nothing.
        timeout(LINGER, self.stream.shutdown()).await.unwrap_or(Ok(()))?;
        let drained = async {
            rest.clear();
            while self.stream.read_buf(&mut rest).await.is_ok_and(|count| count > 0) {
                rest.clear();
                yield_now().await;
            }
        };
        _ = timeout(LINGER, drained).await;
        Ok(())
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let (ingress, output) = (self.ingress, self.session.output());
        if output.is_empty() {
            return Ok(());
        }
        let since = ingress.parts.clock.now();
        let writing = async {
            self.stream.write_all(output).await?;
            self.stream.flush().await
        };
        let impatient = async {
            loop {
                let patience = ingress.patience().with_command();
                let left = patience.saturating_sub(ingress.parts.clock.now().since(since));
                if left.is_zero() {
                    return;
                }
                sleep(left.min(LOOK)).await;
            }
        };
        tokio::select! {
            biased;
            written = writing => written?,
            () = impatient => return Err(ErrorKind::TimedOut.into()),
        }
        output.clear();
        Ok(())
    }

    /// Reads what comes. False where the session is over: closed, out of patience, or the node
    /// stops.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
        let in_message = self.session.is_in_message();
        let since = self.ingress.parts.clock.now();
        if in_message {
            buffer.reserve(READ);
            if self.begun.is_none() {
                (self.begun, self.come) = (Some(since), 0);
            }
        } else {
            self.begun = None;
            // Of the whole command: a client that drips gains nothing by it.
            self.waiting.get_or_insert(since);
        }
        let refusal = loop {
            let patience = self.patience(since);
            if patience.is_zero() {
                break Refusal::new(421, (4, 4, 2), "Timed out, closing");
            }
            let stopping = async {
                // A message under way may still come in.
                let stopped = self.stop.wait_for(|stop| *stop).await.is_ok();
                if in_message || !stopped {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // In this order: a client that always has something to say is told, too.
                biased;
                () = stopping => break Refusal::new(421, (4, 3, 2), "Node is stopping, reconnect"),
                read = timeout(patience.min(LOOK), self.stream.read_buf(buffer)) => {
                    if let Ok(count) = read {
                        let count = count?;
                        self.come += count as u64;
                        self.give_way(count).await;
                        return Ok(count > 0);
                    }
                }
            }
        };
        self.session.abort(&refusal);
        Ok(false)
    }

    /// Others have their turn once so much was read: with a client that always has more at hand,
    /// the thread would be kept, and seldom ask who else has news.
    async fn give_way(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= READ {
            self.taken = 0;
            yield_now().await;
        }
    }

    /// How much longer the client may take, where nothing came since then.
    fn patience(&self, since: Timestamp) -> Duration {
        let (patience, now) = (self.ingress.patience(), self.ingress.parts.clock.now());
        let Some(begun) = self.begun else {
            let waited = now.since(self.waiting.unwrap_or(since));
            return patience.with_command().saturating_sub(waited);
        };
        let of_message = patience.with_message(self.come).saturating_sub(now.since(begun));
        patience.with_block().saturating_sub(now.since(since)).min(of_message)
    }

    /// Gives up a message whose header section does not end in time, before it takes memory.
    fn mind_header(&mut self) {
        let (body, config) = (self.session.body(), self.ingress.parts.config.get());
        let most = config.limits.header_size;
        if self.session.taken() > 0 {
            // It is on disk, and looked at in the end.
        } else if body.len() <= most {
            self.header_seen = false;
        } else if !std::mem::replace(&mut self.header_seen, true) {
            let begin = body.get(..most + 1).unwrap_or(body);
            // What begins without a field is all body.
            let has_fields = header::fields(begin).next().is_some();
            if has_fields && header::header_len(begin) > most {
                self.session.overflow(header_too_large(most));
            }
        }
    }

    /// Sees to it that the message under way takes no more memory than it may.
    async fn mind_message(&mut self) {
        self.mind_header();
        if self.hold.fits(self.session.taken(), self.session.body().len()) {
            return;
        }
        let (taken, bytes) = self.session.take_body();
        if let Err(refusal) = self.hold.put(taken, bytes).await {
            self.session.overflow(refusal);
        }
    }

    /// Puts a message into the queue.
    async fn take(&mut self, mut received: Received, begun: Timestamp) -> Refusal {
        let rest = std::mem::take(&mut received.body);
        match self.hold.whole(received.taken, rest, 0).await {
            Ok((body, _memory)) => {
                received.body = body;
                self.ingress.take(received, &self.client, begun).await
            }
            Err(refusal) => {
                let sender = &received.envelope.reverse_path;
                tell::message_refused(self.client.address, sender, &refusal);
                refusal
            }
        }
    }
}
