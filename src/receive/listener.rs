//! Accepts connections, as many as the limits allow, until it is told to stop.

use super::door::Place;
use super::intake::Ingress;
use super::session;
use crate::base::time::Timestamp;
use crate::observe::node::accept_failed;
use crate::observe::receive as tell;
use crate::store::Store;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause between two lines of the log about clients that were turned away.
const TELL_PAUSE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed: without file descriptors, trying again at once would only
/// burn the CPU.
const PAUSE: Duration = Duration::from_millis(200);

impl<S: Store> Ingress<S> {
    /// Serves clients of a bound listener until `stop` turns true and the last session has ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let mut sessions = JoinSet::new();
        let mut turned_away = TurnedAway::default();
        while !*stop.borrow() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => continue,
                Some(_) = sessions.join_next() => continue,
            };
            match accepted {
                Ok((stream, peer)) => match self.admit(peer.ip()) {
                    Ok(place) => {
                        let (ingress, stop) = (Arc::clone(&self), stop.clone());
                        sessions.spawn(async move {
                            session::run(&ingress, stream, peer, place, stop).await;
                        });
                    }
                    Err(reply) => {
                        turn_away(stream, reply);
                        turned_away.tell(peer.ip(), reply, self.clock.now());
                    }
                },
                Err(error) => {
                    accept_failed("smtp", &error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        while sessions.join_next().await.is_some() {}
    }

    fn admit(&self, client: IpAddr) -> Result<Place, &'static str> {
        self.door.admit(client, &self.config.get().relay.networks)
    }
}

/// Clients that were turned away since the log last told of one.
#[derive(Default)]
struct TurnedAway {
    told_at: Option<Timestamp>,
    count: u64,
}

impl TurnedAway {
    /// Tells of this one unless another was told of just now.
    fn tell(&mut self, client: IpAddr, reply: &str, now: Timestamp) {
        self.count += 1;
        if self.told_at.is_none_or(|at| now.since(at) >= TELL_PAUSE) {
            tell::turned_away(client, reply.trim_end(), self.count);
            (self.told_at, self.count) = (Some(now), 0);
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
