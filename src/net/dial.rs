//! Connections to receiving hosts: TCP, and TLS on top where both sides want it.

use super::tls;
use crate::base::time::{Timestamp, human};
use crate::config::{Config, Delivery, Tls};
use crate::smtp::client::Stage;
use rustls::ProtocolVersion;
use rustls_pki_types::ServerName;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a host whose TLS failed is spoken to in clear text at once.
const BROKEN: Duration = Duration::from_secs(3_600);
/// Hosts remembered so.
const BROKEN_MAX: usize = 10_000;

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    /// Clear text.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// `1.2` or `1.3`, where TLS is on.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => match stream.get_ref().1.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
                _ => Some("1.2"),
            },
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Makes connections. Clones share what is remembered of hosts.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<Config>,
    tls: TlsConnector,
    broken: Arc<Mutex<HashMap<IpAddr, Timestamp>>>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer by the configuration's `[delivery]`.
    ///
    /// # Errors
    /// TLS cannot be set up at all.
    pub fn new(config: Arc<Config>) -> Result<Self, String> {
        let tls = tls::client_config().map_err(|error| format!("cannot set up TLS: {error}"))?;
        Ok(Self { config, tls: tls.into(), broken: Arc::default() })
    }

    /// `[delivery]`
    #[must_use]
    pub fn config(&self) -> &Delivery {
        &self.config.delivery
    }

    /// TLS is to be used where it is offered.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.config.delivery.tls == Tls::Opportunistic
    }

    /// Connects, from this address of our own where it is given.
    ///
    /// # Errors
    /// Why not, in a few words; at [`Stage::Bind`] where we do not have that address.
    pub async fn connect(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
    ) -> Result<TcpStream, (Stage, String)> {
        let failed = |error: io::Error| (Stage::Connect, error.kind().to_string());
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        if let Some(from) = from {
            let bound = socket.bind(SocketAddr::new(from, 0));
            bound.map_err(|error| match error.kind() {
                kind @ io::ErrorKind::AddrNotAvailable => (Stage::Bind, format!("{from}: {kind}")),
                _ => failed(error),
            })?;
        }
        let patience = self.config.delivery.connect_timeout;
        let stream = match timeout(patience, socket.connect(to)).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => {
                return Err((Stage::Connect, format!("timed out after {}", human(patience))));
            }
        };
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    /// The TLS handshake, under the host's name.
    ///
    /// # Errors
    /// Why not; the connection is of no use any more.
    pub async fn start_tls(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<TlsStream<TcpStream>, String> {
        let patience = self.config.delivery.connect_timeout;
        let address = stream.peer_addr().map_err(|error| error.kind().to_string())?;
        let name = ServerName::try_from(host.to_string()).unwrap_or(address.ip().into());
        match timeout(patience, self.tls.connect(name, stream)).await {
            Ok(done) => done.map_err(|error| format!("TLS handshake: {error}")),
            Err(_) => Err(format!("TLS handshake timed out after {}", human(patience))),
        }
    }

    /// TLS with this host failed lately.
    #[must_use]
    pub fn tls_is_broken(&self, address: IpAddr, now: Timestamp) -> bool {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get(&address).is_some_and(|until| *until > now)
    }

    /// Remembers that TLS with this host failed.
    pub fn note_broken_tls(&self, address: IpAddr, now: Timestamp) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.len() >= BROKEN_MAX {
            broken.retain(|_, until| *until > now);
        }
        if broken.len() >= BROKEN_MAX
            && let Some(oldest) = broken.iter().min_by_key(|(_, until)| **until).map(|(a, _)| *a)
        {
            broken.remove(&oldest);
        }
        broken.insert(address, now.after(BROKEN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::defaults;

    fn dialer(change: impl FnOnce(&mut Config)) -> Dialer {
        let mut config = defaults();
        change(&mut config);
        Dialer::new(Arc::new(config)).unwrap()
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_told_in_plain_words() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = dialer(|_| ());
        assert!(dialer.connect(None, address).await.is_ok());
        drop(listener);
        let failed = dialer.connect(None, address).await.unwrap_err();
        assert_eq!(failed, (Stage::Connect, "connection refused".into()));
    }

    #[tokio::test]
    async fn it_comes_from_the_address_that_it_was_told_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to, dialer) = (listener.local_addr().unwrap(), dialer(|_| ()));
        let own: IpAddr = [127, 0, 0, 9].into();
        let _stream = dialer.connect(Some(own), to).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip(), own);
        let foreign: IpAddr = [192, 0, 2, 9].into();
        let failed = dialer.connect(Some(foreign), to).await.unwrap_err();
        assert_eq!(failed, (Stage::Bind, "192.0.2.9: address not available".into()));
    }

    #[tokio::test]
    async fn a_handshake_that_is_never_answered_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialer = dialer(|config| config.delivery.connect_timeout = Duration::from_secs(1));
        let stream = dialer.connect(None, listener.local_addr().unwrap()).await.unwrap();
        let why = dialer.start_tls(stream, "mx.test").await.unwrap_err();
        assert_eq!(why, "TLS handshake timed out after 1s");
    }

    #[test]
    fn broken_tls_is_remembered_for_an_hour_and_by_all_clones() {
        let dialer = dialer(|_| ());
        let (host, now) = (IpAddr::from([127, 0, 0, 1]), Timestamp(1_000_000));
        dialer.clone().note_broken_tls(host, now);
        assert!(dialer.tls_is_broken(host, now.after(BROKEN - Duration::from_millis(1))));
        assert!(!dialer.tls_is_broken(host, now.after(BROKEN)));
        assert!(!dialer.tls_is_broken(IpAddr::from([127, 0, 0, 2]), now));
    }

    #[test]
    fn so_many_hosts_are_remembered_and_the_oldest_makes_room() {
        let dialer = dialer(|_| ());
        let host = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        let now = Timestamp(1_000_000);
        let later = |n: usize| now.after(Duration::from_millis(n as u64));
        for n in 0..=BROKEN_MAX {
            dialer.note_broken_tls(host(n), later(n));
        }
        assert_eq!(dialer.broken.lock().unwrap().len(), BROKEN_MAX);
        assert!(!dialer.tls_is_broken(host(0), now), "the oldest");
        assert!(dialer.tls_is_broken(host(1), now) && dialer.tls_is_broken(host(BROKEN_MAX), now));
        let old = later(BROKEN_MAX / 2).after(BROKEN);
        dialer.note_broken_tls(host(0), old);
        assert_eq!(dialer.broken.lock().unwrap().len(), BROKEN_MAX / 2 + 1, "no room for the old");
    }
}
