//! What mail waits for at each site: noted by the planner as it decides, so that an answer to "why"
//! is what happened and not a guess.

use super::Core;
use super::sites::Site;
use crate::base::time::Timestamp;
use crate::mail::message::{ByLane, Lane};
use crate::policy::feedback::scoped::Standing;
use crate::policy::paces::What;
use crate::policy::site::{Limit, Rate, SiteId, Waiting};
use crate::policy::source::{Source, Sources};
use std::sync::Arc;

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
    pub(super) fn waiting(&self, sources: &Sources, now: Timestamp) -> Vec<Waiting> {
        let told = |(lane, wait): (Lane, &Option<Wait>)| {
            let Wait { limit, since, until } = (*wait)?;
            // What was waited for is over: the next look says what it is then.
            let until = until.filter(|until| *until > now);
            Some(Waiting { lane, limit, since, until, text: self.told(lane, limit, sources, now) })
        };
        self.waits.iter().filter_map(told).collect()
    }

    fn told(&self, lane: Lane, limit: Limit, sources: &Sources, now: Timestamp) -> String {
        let stand = self.links.len();
        let most = self.limits.connections;
        match limit {
            Limit::Gate => self.why.clone(),
            Limit::Rate => {
                self.used_up(What::Message, "messages", &self.limits.rates_per_source, now)
            }
            Limit::ConnectionRate => {
                let each = &self.limits.connection_rates_per_source;
                self.used_up(What::Connection, "new connections", each, now)
            }
            Limit::Source => self.refused(sources, now),
            Limit::Window if self.why.is_empty() => {
                format!("{stand} connections are at work; more are opened as these succeed")
            }
            Limit::Window => format!(
                "{stand} connections are at work, and the site welcomes no more ({})",
                self.why
            ),
            Limit::Connections => {
                let may = match lane {
                    Lane::Direct => most,
                    Lane::Bulk => self.bulk_connections(),
                };
                let reserve = if may < most { " that newsletters may take" } else { "" };
                if stand < may as usize {
                    let each = self.limits.connections_per_source;
                    format!(
                        "all connections{reserve} of {each} from each of its sources are at work"
                    )
                } else {
                    format!("all {may} connections{reserve} of {most} are at work")
                }
            }
            Limit::AllConnections => "this node's connections are all in use".into(),
            Limit::Tenant => "its tenant may not send more for now".into(),
            Limit::Turn => format!("{stand} connections are at work on what is before it"),
        }
    }

    /// The rate in all that is used up, else the one from each source.
    fn used_up(&self, what: What, of: &str, each: &[Rate], now: Timestamp) -> String {
        match (self.line.binding(what, now), each) {
            (Some((_, rate)), _) => format!("the rate of {rate} {of} is used up"),
            (None, []) => format!("the rate of {of} was used up"),
            (None, each) => {
                let each: Vec<String> = each.iter().map(Rate::to_string).collect();
                let each = each.join(", ");
                format!("the rate of {each} {of} from each of its sources is used up")
            }
        }
    }

    /// What the site has against our sources.
    fn refused(&self, sources: &Sources, now: Timestamp) -> String {
        let told = |source: &Arc<Source>| {
            let Standing { until, why, .. } = self.line.standing(source, now)?;
            Some(format!("{} until {until}: {why}", source.name))
        };
        let told: Vec<String> = sources.iter().filter_map(told).collect();
        if told.is_empty() {
            return "none of the sources that it may use has an address of its hosts' family"
                .into();
        }
        format!("the site refuses sources that it may use ({})", told.join("; "))
    }
}
