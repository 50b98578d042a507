//! What a message needs before it is sent, beside the site's pace: the rates of its tenant, of its
//! sender's domain at the site, and of its recipients' domains let it go. Connections ask, real and
//! simulated ones.

use super::connection::Transaction;
use super::line::Line;
use super::quotas::Quotas;
use crate::base::time::Timestamp;
use crate::policy::quota::Holder;
use crate::store::DeliveryId;
use std::time::Duration;

/// Why a message may not go now.
#[derive(Debug)]
pub enum Hold {
    /// A rate is used up: its tenant's, or that of one of its recipients' domains.
    Later(Holder),
    /// From when to when, and why: the site complained about its sender's domain.
    PutOff(Timestamp, Timestamp, String),
}

/// The delivery whose message a connection has leave to send, and has not yet; and since when.
#[derive(Debug, Default)]
pub struct Permit(Option<(DeliveryId, Timestamp)>);

impl Permit {
    /// Uses what its tenant may send, at this site and in all, its sender's domain and its
    /// recipients' domains for one message. Gives false where that was done before.
    ///
    /// # Errors
    /// Why it may not go now; nothing was used.
    pub fn obtain(
        &mut self,
        transaction: &Transaction,
        line: &Line,
        quotas: &Quotas,
        now: Timestamp,
    ) -> Result<bool, Hold> {
        let first = transaction.deliveries.first().map(|d| d.lease.delivery);
        // Of what was used longer ago the receiver might see too much at once.
        let is_given = |(of, at): (DeliveryId, Timestamp)| {
            first == Some(of) && now.since(at) <= quotas.slack(transaction.domains())
        };
        if self.0.is_some_and(is_given) {
            return Ok(false);
        }
        let (origin, sender) = (&transaction.head.origin, transaction.sender());
        if let Some((from, to, why)) = sender.and_then(|sender| line.puts_off(sender, now)) {
            return Err(Hold::PutOff(from, to, why));
        }
        if line.available_to(&origin.tenant, now) == 0 {
            return Err(Hold::Later(Holder::Tenant(origin.tenant.clone())));
        }
        quotas
            .begin(&origin.tenant, transaction.domains(), origin.lane, now)
            .map_err(|holder| Hold::Later(holder.owned()))?;
        line.take_for(&origin.tenant, sender, now);
        self.0 = first.map(|first| (first, now));
        Ok(true)
    }

    /// The message goes: the next needs leave of its own.
    pub fn spend(&mut self) {
        self.0 = None;
    }
}

/// How long a connection's next transaction may take: as long as the longest of its last ones, of
/// which each counts for an eighth less with the next. What rides with a last dot is seen when that
/// arrives.
#[must_use]
pub fn lasts(before: Duration, last: Duration) -> Duration {
    last.max(before - before / 8)
}
