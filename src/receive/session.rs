//! The thin shell of a session: bytes between a socket and [`Session`], with patience and room that
//! end.

use super::door::Place;
use super::intake::Ingress;
use crate::base::time::Timestamp;
use crate::observe::receive as tell;
use crate::smtp::command::Refusal;
use crate::smtp::server::{Session, Step};
use crate::store::Store;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

/// Bytes read at once.
const READ: usize = 16 << 10;
/// A message of this size needs no room of its own: the limit on sessions bounds such ones.
const SMALL: usize = 64 << 10;
/// Room that a growing message asks for at a time, in KiB. Twice its bytes: it is copied once.
const GROWTH_KIB: u32 = 512;
/// How long a message waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// A stranger who talks before the greeting in this time is no mail server.
const EARLY: Duration = Duration::from_millis(300);

/// How long what a client still sends is read after the last reply.
const LINGER: Duration = Duration::from_secs(2);

/// Serves one client.
pub(super) async fn run<S: Store>(
    ingress: &Ingress<S>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    stop: watch::Receiver<bool>,
) {
    let may_relay = place.may_relay;
    let session = Session::new(Arc::clone(&ingress.settings), peer.ip().to_canonical(), may_relay);
    let shell =
        Shell { ingress, stream, peer, session, stop, begun: None, waiting: None, room: None };
    // A connection that breaks needs no more words.
    _ = shell.serve(may_relay).await;
}

struct Shell<'a, S> {
    ingress: &'a Ingress<S>,
    stream: TcpStream,
    peer: SocketAddr,
    session: Session,
    stop: watch::Receiver<bool>,
    /// When the message under way began.
    begun: Option<Timestamp>,
    /// Since when a whole command is waited for.
    waiting: Option<Timestamp>,
    /// What it holds of the memory for large messages.
    room: Option<OwnedSemaphorePermit>,
}

impl<S: Store> Shell<'_, S> {
    async fn serve(mut self, may_relay: bool) -> std::io::Result<()> {
        self.stream.set_nodelay(true)?;
        if !may_relay && timeout(EARLY, self.stream.peek(&mut [0])).await.is_ok() {
            self.session.output().clear();
            self.session.abort(&Refusal::new(554, (5, 5, 0), "You talk before the greeting"));
        }
        let mut buffer = Vec::with_capacity(READ);
        let mut at = 0;
        loop {
            let (taken, step) = self.session.step(buffer.get(at..).unwrap_or_default());
            at += taken;
            if taken > 0 {
                self.waiting = None;
            }
            match step {
                Step::Read => {
                    self.make_room().await;
                    buffer.drain(..at);
                    at = 0;
                    self.flush().await?;
                    if !self.read(&mut buffer).await? {
                        return self.close().await;
                    }
                    // Only MAIL asks; where space is short the store is asked, too.
                    if !self.session.is_in_message() {
                        self.session.set_room(self.ingress.store.room().await);
                    }
                }
                // The dispatcher asks again where it could not be told.
                Step::Recipient(domain) => _ = self.ingress.expected.try_send(domain),
                Step::Refused(refused) => tell::refused(self.peer.ip(), &refused),
                Step::Message(received) => {
                    let begun = self.begun.take().unwrap_or_else(|| self.ingress.clock.now());
                    let answer = self.ingress.take(*received, self.peer.ip(), begun).await;
                    self.session.answer(&answer);
                    self.room = None;
                }
                Step::Close => return self.close().await,
            }
        }
    }

    /// Says the last words. What the client still sends is read for a while: closing on it would
    /// reset the connection, and the words could be lost.
    async fn close(&mut self) -> std::io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await?;
        let mut rest = [0; 4_096];
        let drained =
            async { while self.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
        _ = timeout(LINGER, drained).await;
        Ok(())
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let output = self.session.output();
        if !output.is_empty() {
            let patience = self.ingress.config.get().limits.command_timeout;
            let written = timeout(patience, self.stream.write_all(output)).await;
            written.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
            output.clear();
        }
        Ok(())
    }

    /// Reads what comes. False where the session is over: closed, out of patience, or the node
    /// stops.
    async fn read(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
        let config = self.ingress.config.get();
        let limits = &config.limits;
        let in_message = self.session.is_in_message();
        let patience = if in_message {
            let begun = *self.begun.get_or_insert_with(|| self.ingress.clock.now());
            let left = limits.message_timeout.saturating_sub(self.ingress.clock.now().since(begun));
            limits.data_timeout.min(left)
        } else {
            self.begun = None;
            // Of the whole command: a client that drips gains nothing by it.
            let since = *self.waiting.get_or_insert_with(|| self.ingress.clock.now());
            limits.command_timeout.saturating_sub(self.ingress.clock.now().since(since))
        };
        let stopping = async {
            // A message under way may still come in.
            let stopped = self.stop.wait_for(|stop| *stop).await.is_ok();
            if in_message || !stopped {
                std::future::pending::<()>().await;
            }
        };
        let timed_out = || Refusal::new(421, (4, 4, 2), "Timed out, closing");
        let refusal = tokio::select! {
            // In this order: a client that always has something to say is told, too.
            biased;
            () = stopping => Refusal::new(421, (4, 3, 2), "Node is stopping, reconnect"),
            () = std::future::ready(()), if patience.is_zero() => timed_out(),
            read = timeout(patience, self.stream.read_buf(buffer)) => match read {
                Ok(count) => return Ok(count? > 0),
                Err(_) => timed_out(),
            },
        };
        self.session.abort(&refusal);
        Ok(false)
    }

    /// Sees to it that the message under way is covered by the memory for large messages.
    async fn make_room(&mut self) {
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * 512;
        let size = self.session.body_len();
        if size <= SMALL || size <= held {
            return;
        }
        let room = Arc::clone(&self.ingress.room).acquire_many_owned(GROWTH_KIB);
        match timeout(ROOM_PATIENCE, room).await {
            Ok(Ok(more)) => match &mut self.room {
                Some(room) => room.merge(more),
                None => self.room = Some(more),
            },
            _ => {
                self.room = None;
                let text = "Too many large messages at once, try again later";
                self.session.overflow(Refusal::new(452, (4, 3, 1), text));
            }
        }
    }
}
