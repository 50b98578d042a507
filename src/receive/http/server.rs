//! Connections: as many as the limits allow, each for a while, until the node stops.

use super::problem::Problem;
use super::{Api, Guest, refuse};
use crate::net::listen::{Listener, Stream};
use crate::observe::node::accept_failed;
use crate::observe::receive as tell;
use crate::receive::door::Place;
use crate::receive::listener::TurnedAway;
use crate::smtp::command::Refusal;
use crate::store::Store;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long the head of a request may take, and the pause before it.
const HEAD: Duration = Duration::from_secs(15);
/// After so long a connection ends with the request under way: one that nobody reads from is not
/// kept for ever.
const CONNECTION: Duration = Duration::from_secs(600);
/// A request that has come whole is answered in this time.
const LAST_WORDS: Duration = Duration::from_secs(120);
/// Bytes of the head of a request.
const HEAD_MAX: usize = 32 << 10;
/// Clients for whom there is no place, and who are told so.
const FAREWELLS: usize = 64;
/// How long that takes.
const FAREWELL: Duration = Duration::from_secs(2);

impl<S: Store> Api<S> {
    /// Serves clients of a bound listener until `stop` turns true, and until the last request that
    /// was begun has its end.
    pub async fn serve(self: Arc<Self>, listener: Listener, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let farewells = Arc::new(Semaphore::new(FAREWELLS));
        let mut turned_away = TurnedAway::default();
        while !*stop.borrow() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => continue,
                Some(_) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    accept_failed("http", &error);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let here = IpAddr::from(Ipv4Addr::LOCALHOST);
            let address = peer.map_or(here, |peer| peer.ip().to_canonical());
            match self.door.admit(address, false) {
                Ok(place) => {
                    let (api, stop) = (Arc::clone(&self), stop.clone());
                    connections.spawn(api.converse(stream, address, place, stop));
                }
                Err(refusal) => {
                    turned_away.tell(address, &refusal, self.ingress.parts.clock.now());
                    if let Ok(turn) = Arc::clone(&farewells).try_acquire_owned()
                        && !self.terms.tls
                    {
                        connections.spawn(async move {
                            _ = timeout(FAREWELL, turn_away(stream, &refusal)).await;
                            drop(turn);
                        });
                    }
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        // Also what is worked on for clients that are gone: its end is to be recorded.
        let all = u32::try_from(self.terms.connections).unwrap_or(u32::MAX);
        _ = self.work.acquire_many(all).await;
    }

    async fn converse(
        self: Arc<Self>,
        stream: Box<dyn Stream>,
        address: IpAddr,
        _place: Place,
        mut stop: watch::Receiver<bool>,
    ) {
        let is_encrypted = self.terms.tls;
        let stream: Box<dyn Stream> = match is_encrypted {
            false => stream,
            true => match self.shake_hands(stream).await {
                Ok(stream) => stream,
                Err(error) => return tell::handshake_failed(address, &error),
            },
        };
        let guest = Guest { address, is_encrypted };
        let service = service_fn(|request| {
            let api = Arc::clone(&self);
            async move { Ok::<_, Infallible>(api.answer(request, guest).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            // Who has said all that he has to say still gets his answer.
            .half_close(true)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A connection that breaks needs no more words.
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => {}
            () = sleep(CONNECTION) => {}
        }
        connection.as_mut().graceful_shutdown();
        _ = timeout(self.terms.request_timeout + LAST_WORDS, connection).await;
    }

    async fn shake_hands(&self, stream: Box<dyn Stream>) -> std::io::Result<Box<dyn Stream>> {
        let config = self.ingress.parts.tls.get();
        let Some(config) = config.as_ref() else {
            return Err(std::io::ErrorKind::Unsupported.into());
        };
        let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
        let done = timeout(HANDSHAKE, handshake).await;
        let stream = done.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
        Ok(Box::new(stream))
    }
}

/// Says that there is no place, whatever is asked for. What the client still sends is read for a
/// while: closing on it would reset the connection, and the words could be lost.
async fn turn_away(mut stream: Box<dyn Stream>, refusal: &Refusal) -> std::io::Result<()> {
    let problem = Problem::from(refusal);
    let answer = refuse(&problem);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status());
    for (name, value) in answer.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    stream.write_all(&[text.as_bytes(), &body].concat()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 4_096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
