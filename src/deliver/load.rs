//! Brings claimed deliveries into memory, a window at a time, so that memory follows the budget and
//! not the claim.

use super::connection::Transaction;
use super::line::Job;
use super::settle::past_its_time;
use super::shared::Shared;
use crate::store::{Claim, Claimed, Delivery, Lease, Store};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Messages read in one go.
const WINDOW_MESSAGES: usize = 32;
/// And their bytes, unless one alone is larger.
const WINDOW_BYTES: u64 = 1 << 20;

/// Carries out a claim and gives its transactions, in order, as fast as they are taken. When the
/// receiver is dropped, what was not taken is released.
pub fn load<S: Store>(shared: Arc<Shared<S>>, claim: Claim, most: u32) -> mpsc::Receiver<Job> {
    let (jobs, receiver) = mpsc::channel(WINDOW_MESSAGES);
    tokio::spawn(async move {
        let claimed = shared.claim(claim).await;
        let left = feed(&shared, claimed, most, &jobs).await;
        shared.release(left).await;
    });
    receiver
}

/// Gives the leases of what could not be given.
async fn feed<S: Store>(
    shared: &Shared<S>,
    claimed: Vec<Claimed>,
    most: u32,
    jobs: &mpsc::Sender<Job>,
) -> Vec<Lease> {
    let now = shared.clock.now();
    let (past, live): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|c| c.head.expires_at <= now);
    for claimed in past {
        shared.conclude_claimed(claimed, &past_its_time("")).await;
    }
    let mut live = live.into_iter().peekable();
    while live.peek().is_some() {
        let (mut window, mut bytes) = (Vec::new(), 0);
        while let Some(next) =
            live.next_if(|c| window.is_empty() || bytes + c.head.size <= WINDOW_BYTES)
        {
            bytes += next.head.size;
            window.push(next);
            if window.len() == WINDOW_MESSAGES {
                break;
            }
        }
        let mut rest = send_window(shared, window, bytes, most, jobs).await;
        if !rest.is_empty() {
            rest.extend(live.flat_map(|c| c.leases()));
            return rest;
        }
    }
    Vec::new()
}

async fn send_window<S: Store>(
    shared: &Shared<S>,
    window: Vec<Claimed>,
    bytes: u64,
    most: u32,
    jobs: &mpsc::Sender<Job>,
) -> Vec<Lease> {
    let Some(room) = shared.room(bytes).await else {
        return window.iter().flat_map(Claimed::leases).collect();
    };
    let mut bodies = shared.bodies(&window.iter().collect::<Vec<_>>()).await;
    let mut unsent = Vec::new();
    for claimed in window {
        // A message without bytes keeps its leases: it is not tried again until they end.
        let Some(body) = bodies.remove(&claimed.head.id) else { continue };
        let Claimed { head, trusted_until, deliveries } = claimed;
        let whole = Job {
            transaction: Transaction { head, body, deliveries },
            receive: None,
            way: None,
            trusted_until,
            room: Arc::clone(&room),
        };
        let most = |delivery: &Delivery| shared.quotas.recipients(delivery).min(most);
        for job in whole.split(most) {
            if let Err(mpsc::error::SendError(job)) = jobs.send(job).await {
                unsent.extend(job.transaction.leases());
            }
        }
    }
    unsent
}
