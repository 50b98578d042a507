//! What mail waits for at each site: noted by the planner as it decides, so that an answer to "why"
//! is what happened and not a guess.

use super::Core;
use super::sites::Site;
use crate::base::time::Timestamp;
use crate::mail::message::{ByLane, Lane};
use crate::policy::site::{Limit, SiteId, Waiting};

/// The reason, and since when it is this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    limit: Limit,
    since: Timestamp,
    until: Option<Timestamp>,
}

/// For each lane with mail that waits.
pub(super) type Waits = ByLane<Option<Wait>>;

impl Core {
    /// The lane's mail waits for this at the site; `None`: nothing waits.
    pub(super) fn waits_for(
        &mut self,
        id: SiteId,
        lane: Lane,
        why: Option<(Limit, Option<Timestamp>)>,
        now: Timestamp,
    ) {
        let Some(site) = self.sites.get_mut(&id) else { return };
        let noted = site.waits.of_mut(lane);
        *noted = why.map(|(limit, until)| {
            let same = noted.filter(|before| before.limit == limit);
            Wait { limit, since: same.map_or(now, |before| before.since), until }
        });
    }
}

impl Site {
    /// For people and programs.
    pub(super) fn waiting(&self, now: Timestamp) -> Vec<Waiting> {
        let told = |(lane, wait): (Lane, &Option<Wait>)| {
            let Wait { limit, since, until } = (*wait)?;
            // What was waited for is over: the next look says what it is then.
            let until = until.filter(|until| *until > now);
            Some(Waiting { lane, limit, since, until, text: self.told(lane, limit, now) })
        };
        self.waits.iter().filter_map(told).collect()
    }

    fn told(&self, lane: Lane, limit: Limit, now: Timestamp) -> String {
        let stand = self.links.len();
        let most = self.limits.connections;
        match limit {
            Limit::Gate => self.why.clone(),
            Limit::Rate => match self.line.binding(now) {
                Some((_, rate)) => format!("the rate of {rate} messages is used up"),
                None => "the rate of messages was used up".into(),
            },
            Limit::ConnectionRate => match self.line.opens_binding(now) {
                Some((_, rate)) => format!("the rate of {rate} new connections is used up"),
                None => "the rate of new connections was used up".into(),
            },
            Limit::Window if self.why.is_empty() => {
                format!("{stand} connections are at work; more are opened as these succeed")
            }
            Limit::Window => format!(
                "{stand} connections are at work, and the site welcomes no more ({})",
                self.why
            ),
            Limit::Connections if lane == Lane::Bulk => format!(
                "all {} connections that newsletters may take of {most} are at work",
                most.saturating_sub(self.limits.reserved_for_direct).max(1)
            ),
            Limit::Connections => format!("all {most} connections are at work"),
            Limit::AllConnections => "this node's connections are all in use".into(),
            Limit::Tenant => "its tenant may not send more for now".into(),
            Limit::Turn => format!("{stand} connections are at work on what is before it"),
        }
    }
}
