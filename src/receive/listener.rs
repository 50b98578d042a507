//! Accepts connections, as many as the limits allow, until it is told to stop; learns from load
//! balancers who is there.

use super::door::Place;
use super::intake::Ingress;
use super::session::{self, Guest};
use crate::base::time::Timestamp;
use crate::config::Listen;
use crate::net::balancer::{self, HEADER_MAX};
use crate::net::listen::{Listener, Stream};
use crate::observe::node::accept_failed;
use crate::observe::receive as tell;
use crate::smtp::command::Refusal;
use crate::store::Store;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

/// Pause between two lines of the log about clients that were turned away.
const TELL_PAUSE: Duration = Duration::from_secs(5);
/// Pause after an accept that failed: without file descriptors, trying again at once would only
/// burn the CPU.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a load balancer may take to say who is there.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

impl<S: Store> Ingress<S> {
    /// Serves clients of a bound listener until `stop` turns true and the last session has ended.
    pub async fn serve(
        self: Arc<Self>,
        listener: Listener,
        listen: Listen,
        mut stop: watch::Receiver<bool>,
    ) {
        let listen = Arc::new(listen);
        let mut sessions = JoinSet::new();
        let turned_away = Arc::new(Mutex::new(TurnedAway::default()));
        while !*stop.borrow() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => continue,
                Some(_) = sessions.join_next() => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let hall = Hall { ingress: Arc::clone(&self), listen: Arc::clone(&listen) };
                    let (stop, turned_away) = (stop.clone(), Arc::clone(&turned_away));
                    let peer = peer.map(|peer| peer.ip().to_canonical());
                    match peer.filter(|peer| listen.proxy_protocol.contains(*peer)) {
                        Some(balancer) => {
                            _ = sessions.spawn(async move {
                                let Some((stream, client, begun)) = introduced(stream).await else {
                                    return;
                                };
                                // Who speaks for itself looks whether we are well.
                                let address = Some(client.unwrap_or(balancer));
                                if let Some(guest) =
                                    hall.admit(stream, address, begun, &turned_away)
                                {
                                    session::run(&hall.ingress, guest, stop).await;
                                }
                            })
                        }
                        None => {
                            if let Some(guest) = hall.admit(stream, peer, Vec::new(), &turned_away)
                            {
                                sessions.spawn(async move {
                                    session::run(&hall.ingress, guest, stop).await;
                                });
                            }
                        }
                    }
                }
                Err(error) => {
                    accept_failed("smtp", &error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // While there is always another who comes, those who are inside have their turn, too:
            // without this the thread would look only after thousands whether they have news.
            yield_now().await;
        }
        drop(listener);
        while sessions.join_next().await.is_some() {}
    }

    /// A place for a client with this address.
    pub(super) fn admit(&self, client: IpAddr) -> Result<Place, Refusal> {
        let may_relay = self.parts.config.get().relay.networks.contains(client);
        self.door.admit(client, may_relay)
    }
}

/// Behind one listener's door.
struct Hall<S> {
    ingress: Arc<Ingress<S>>,
    listen: Arc<Listen>,
}

impl<S: Store> Hall<S> {
    /// Finds a client a place, or tells him that there is none. Who has no address came by a Unix
    /// socket: whoever may open that may send.
    fn admit(
        self: &Hall<S>,
        mut stream: Box<dyn Stream>,
        address: Option<IpAddr>,
        begun: Vec<u8>,
        turned_away: &Mutex<TurnedAway>,
    ) -> Option<Guest> {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let place = match address {
            Some(address) => self.ingress.admit(address),
            None => self.ingress.door.admit(here, true),
        };
        let address = address.unwrap_or(here);
        let listen = Arc::clone(&self.listen);
        match place {
            Ok(place) => Some(Guest { stream, address, place, begun, listen }),
            Err(reply) => {
                say_at_once(&mut stream, &reply);
                let mut turned_away = turned_away.lock().unwrap_or_else(PoisonError::into_inner);
                turned_away.tell(address, &reply, self.ingress.parts.clock.now());
                None
            }
        }
    }
}

/// Reads the header of a load balancer. Gives the client's address, where it speaks for one, and
/// what was read behind the header; nothing where there is no such header.
async fn introduced(
    mut stream: Box<dyn Stream>,
) -> Option<(Box<dyn Stream>, Option<IpAddr>, Vec<u8>)> {
    let mut read = Vec::with_capacity(HEADER_MAX);
    let header = timeout(HEADER_PATIENCE, async {
        loop {
            if let Some(header) = balancer::header(&read).ok()? {
                return Some(header);
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    });
    let header = header.await.ok().flatten()?;
    read.drain(..header.len);
    Some((stream, header.client, read))
}

/// Clients that were turned away since the log last told of one.
#[derive(Default)]
pub(super) struct TurnedAway {
    told_at: Option<Timestamp>,
    count: u64,
}

impl TurnedAway {
    /// Tells of this one unless another was told of just now.
    pub(super) fn tell(&mut self, client: IpAddr, reply: &Refusal, now: Timestamp) {
        self.count += 1;
        if self.told_at.is_none_or(|at| now.since(at) >= TELL_PAUSE) {
            tell::turned_away(client, reply, self.count);
            (self.told_at, self.count) = (Some(now), 0);
        }
    }
}

/// Says one line, if the socket takes it at once.
fn say_at_once(stream: &mut Box<dyn Stream>, reply: &Refusal) {
    let line = format!("{reply}\r\n");
    let mut context = Context::from_waker(Waker::noop());
    _ = Pin::new(stream).poll_write(&mut context, line.as_bytes());
}
