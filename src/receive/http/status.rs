//! What became of a message, as long as the queue knows it.

use super::problem::Problem;
use super::schema::{Delivery, Shown};
use super::{Answer, Api, Guest, json};
use crate::base::time::Timestamp;
use crate::store::{DeliveryRecord, Store};
use hyper::{Request, StatusCode};

impl<S: Store> Api<S> {
    /// Shows a message to the customer whose it is. Another's is as unknown as none.
    pub(super) async fn show<B>(
        &self,
        request: &Request<B>,
        id: &str,
        guest: Guest,
    ) -> Result<Answer, Problem> {
        let tenant = self.tenant(request, guest).await?;
        let absent = || {
            let detail = "no message of yours with this id is in the queue";
            Problem::new(StatusCode::NOT_FOUND, detail)
                .remedy("a message whose deliveries are all settled is forgotten")
        };
        let id = id.parse().map_err(|_| absent())?;
        let found = self.ingress.parts.store.show(id).await;
        let found = found.map_err(|error| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("cannot look: {error}"))
        })?;
        let found = found.filter(|found| found.head.origin.tenant == tenant).ok_or_else(absent)?;
        let head = &found.head;
        let shown = Shown {
            id: head.id.to_string(),
            lane: head.origin.lane.to_string(),
            campaign: head.origin.campaign.clone(),
            envelope_from: head.envelope.reverse_path.to_string(),
            accepted_at: head.accepted_at.to_string(),
            expires_at: head.expires_at.to_string(),
            size: head.size,
            deliveries: found.deliveries.iter().map(delivery).collect(),
        };
        Ok(json(StatusCode::OK, &shown))
    }
}

fn delivery(record: &DeliveryRecord) -> Delivery {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    Delivery {
        recipient: record.recipient.mailbox.to_string(),
        state: record.state,
        attempts: record.attempts,
        due_at: time(record.due_at),
        last_at: time(record.last_at),
        last_reply: record.last_reply.clone(),
    }
}
