//! Does a delivery match a [`Filter`]? Cheap questions first: queue, then row, then message.

use super::{Filter, QueueKey, State, StoreError};
use crate::base::id::MessageId;
use crate::base::text::printable;
use crate::mail::envelope::Recipient;
use crate::mail::message::MessageHead;

/// A filter, checked.
#[derive(Clone, Debug)]
pub(super) struct Matcher {
    filter: Filter,
    /// Only this message.
    pub(super) message: Option<MessageId>,
}

impl Matcher {
    /// Checks the filter.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where it names no possible message: better than a deletion that finds
    /// nothing.
    pub(super) fn new(filter: Filter) -> Result<Self, StoreError> {
        let message = match filter.message.as_deref() {
            None => None,
            Some(text) => Some(text.parse().map_err(|error| {
                StoreError::Failed(format!("{:?}: {error}", printable(text.as_bytes(), 40)))
            })?),
        };
        Ok(Self { filter, message })
    }

    /// A queue with this name may have matching deliveries.
    pub(super) fn queue(&self, key: &QueueKey) -> bool {
        let Filter { lane, domains, tenant, campaign, .. } = &self.filter;
        lane.is_none_or(|lane| lane == key.lane)
            && tenant.as_ref().is_none_or(|tenant| *tenant == key.tenant)
            && campaign.as_ref().is_none_or(|campaign| *campaign == key.campaign)
            && (domains.is_empty() || domains.iter().any(|d| d == key.domain.as_str()))
    }

    /// What the row tells fits.
    pub(super) fn row(&self, message: MessageId, recipient: &Recipient, state: State) -> bool {
        let Filter { recipient: wanted, states, .. } = &self.filter;
        self.message.is_none_or(|id| id == message)
            && (states.is_empty() || states.contains(&state))
            && wanted.as_ref().is_none_or(|wanted| address(wanted, recipient.mailbox.as_str()))
    }

    /// What the message tells fits.
    pub(super) fn head(&self, head: &MessageHead) -> bool {
        let Filter { sender, accepted_until, .. } = &self.filter;
        accepted_until.is_none_or(|until| head.accepted_at.0 <= until)
            && sender.as_ref().is_none_or(|sender| {
                let sender = if sender == "<>" { "" } else { sender };
                address(sender, head.envelope.reverse_path.as_str())
            })
    }
}

/// `wanted` is an address, or `@domain` for all at that domain.
fn address(wanted: &str, found: &str) -> bool {
    if !wanted.starts_with('@') {
        return wanted.eq_ignore_ascii_case(found);
    }
    found
        .rfind('@')
        .and_then(|at| found.get(at..))
        .is_some_and(|tail| tail.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_match_whole_or_by_domain() {
        assert!(address("Ann@Example.com", "ann@example.com"));
        assert!(!address("nn@example.com", "ann@example.com"));
        assert!(address("@example.com", "\"a@b\"@EXAMPLE.com"));
        assert!(!address("@example.com", "ann@sub.example.com"));
        assert!(address("", "") && !address("", "ann@example.com"));
        assert!(!address("@example.com", ""));
    }

    #[test]
    fn a_wrong_id_is_an_error() {
        let filter = Filter { message: Some("nonsense".into()), ..Filter::default() };
        assert!(matches!(Matcher::new(filter), Err(StoreError::Failed(_))));
    }
}
