//! Accepts connections, as many as the limits allow, until it is told to stop.

use super::intake::Ingress;
use super::session;
use crate::observe::receive as tell;
use crate::store::Store;
use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause after an accept that failed: without file descriptors, trying again at once would only
/// burn the CPU.
const PAUSE: Duration = Duration::from_millis(200);

impl<S: Store> Ingress<S> {
    /// Serves clients of a bound listener until `stop` turns true and the last session has ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let mut sessions = JoinSet::new();
        while !*stop.borrow() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => continue,
                Some(_) = sessions.join_next() => continue,
            };
            match accepted {
                Ok((stream, peer)) => match self.admit(peer) {
                    Ok(place) => {
                        let (ingress, stop) = (Arc::clone(&self), stop.clone());
                        sessions.spawn(async move {
                            session::run(&ingress, stream, peer, stop).await;
                            drop(place);
                        });
                    }
                    Err(reply) => turn_away(stream, reply),
                },
                Err(error) => {
                    tell::accept_failed(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        while sessions.join_next().await.is_some() {}
    }

    /// A place for a session, or what to say instead.
    fn admit(&self, peer: SocketAddr) -> Result<Place, &'static str> {
        let address = peer.ip().to_canonical();
        let limits = &self.config.limits;
        if self.sessions.load(Ordering::Relaxed) >= limits.sessions {
            return Err("421 4.3.2 Too many sessions, try again later\r\n");
        }
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = by_address.entry(address).or_default();
        if *of_this >= limits.sessions_per_address {
            return Err("421 4.7.0 Too many sessions from your address\r\n");
        }
        *of_this += 1;
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            sessions: Arc::clone(&self.sessions),
            by_address: Arc::clone(&self.by_address),
            address,
        })
    }
}

/// A session's place in the counts; free again when dropped.
struct Place {
    sessions: Arc<AtomicUsize>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Says one line, if the socket takes it at once, and closes.
fn turn_away(stream: TcpStream, reply: &str) {
    // The runtime does not know yet that a new socket can be written to; the kernel does.
    if let Ok(mut stream) = stream.into_std() {
        _ = stream.write(reply.as_bytes());
    }
}
