//! Listening sockets: bound here, or by systemd before we were started.
//!
//! The configuration says where we listen; a socket that systemd hands over (`LISTEN_FDS`) takes
//! the place of the one that has its address, so that it stays open while a node is replaced.

use super::unix::{self, UnixSocket};
use crate::config::{Listen, ListenAddress};
use listenfd::ListenFd;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Rights of a Unix socket for mail: its user and its group may send.
const UNIX_MODE: u32 = 0o660;

/// Bytes both ways, of whichever kind of socket, in clear or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// Of TCP.
    Tcp(TcpListener),
    /// Of this machine; its file goes with it.
    Unix(UnixSocket),
    /// The same, from systemd, whose file stays.
    Inherited(UnixListener),
}

impl Listener {
    /// The next client: its socket, and its address where it has one.
    ///
    /// # Errors
    /// What the system says, such as that there are no more file descriptors.
    pub async fn accept(&self) -> std::io::Result<(Box<dyn Stream>, Option<SocketAddr>)> {
        let listener = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Of no weight where it fails: the client is gone then.
                _ = stream.set_nodelay(true);
                return Ok((Box::new(stream), Some(peer)));
            }
            Self::Unix(socket) => &socket.listener,
            Self::Inherited(listener) => listener,
        };
        let (stream, _) = listener.accept().await?;
        Ok((Box::new(stream), None))
    }
}

/// Binds all listeners.
///
/// # Errors
/// A sentence: which one could not be had, why, and what helps.
pub async fn bind_all(listeners: &[Listen]) -> Result<Vec<Listener>, String> {
    let mut inherited = Inherited::take()?;
    let mut bound = Vec::new();
    for Listen { address, .. } in listeners {
        bound.push(match address {
            ListenAddress::Tcp(address) => Listener::Tcp(match inherited.tcp(*address) {
                Some(listener) => from_std(listener, TcpListener::from_std)?,
                None => bind_tcp(*address)?,
            }),
            ListenAddress::Unix(path) => match inherited.unix(path) {
                Some(listener) => Listener::Inherited(from_std(listener, UnixListener::from_std)?),
                None => {
                    let socket = unix::bind(path, UNIX_MODE).await;
                    Listener::Unix(socket.map_err(|error| error.to_string())?)
                }
            },
        });
    }
    inherited.none_is_left()?;
    Ok(bound)
}

fn from_std<S, T>(socket: S, make: fn(S) -> std::io::Result<T>) -> Result<T, String> {
    make(socket).map_err(|error| format!("cannot use a socket of systemd: {error}"))
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, String> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart takes its port at once, in spite of connections of the last run.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "; grant CAP_NET_BIND_SERVICE or use a port above 1023"
            }
            std::io::ErrorKind::AddrInUse => "; is another mail server, or another node, running?",
            _ => "",
        };
        format!("cannot listen on {address}: {}{remedy}", error.kind())
    })
}

/// Sockets that systemd has bound for us.
#[derive(Default)]
struct Inherited {
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<(PathBuf, std::os::unix::net::UnixListener)>,
}

impl Inherited {
    fn take() -> Result<Self, String> {
        let mut sockets = ListenFd::from_env();
        let mut inherited = Self::default();
        for number in 0..sockets.len() {
            let wrong = |error| format!("cannot use socket {number} of systemd: {error}");
            if let Ok(Some(listener)) = sockets.take_tcp_listener(number) {
                listener.set_nonblocking(true).map_err(wrong)?;
                inherited.tcp.push(listener);
            } else if let Some(listener) = sockets.take_unix_listener(number).map_err(wrong)? {
                listener.set_nonblocking(true).map_err(wrong)?;
                let address = listener.local_addr().map_err(wrong)?;
                let path = address.as_pathname().map(Path::to_path_buf).unwrap_or_default();
                inherited.unix.push((path, listener));
            }
        }
        Ok(inherited)
    }

    fn tcp(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let is_it = |l: &std::net::TcpListener| l.local_addr().is_ok_and(|bound| bound == address);
        let at = self.tcp.iter().position(is_it)?;
        Some(self.tcp.swap_remove(at))
    }

    fn unix(&mut self, path: &Path) -> Option<std::os::unix::net::UnixListener> {
        let at = self.unix.iter().position(|(bound, _)| bound == path)?;
        Some(self.unix.swap_remove(at).1)
    }

    /// A socket that nobody reads from would take clients' connections and never answer.
    fn none_is_left(&self) -> Result<(), String> {
        let tcp = self.tcp.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string());
        let unix = self.unix.iter().map(|(path, _)| format!("unix:{}", path.display()));
        match tcp.chain(unix).next() {
            Some(address) => Err(format!(
                "systemd hands over a socket at {address}, where no [[listen]] is; add one, or \
                 take it from the socket unit"
            )),
            None => Ok(()),
        }
    }
}
