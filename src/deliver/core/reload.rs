//! A changed configuration: what depends on it follows while the node runs.
//!
//! What was used of a rate still counts when it is changed, as it does with the operator's orders.

use super::{Core, Turn};
use crate::base::address::Domain;
use crate::base::id::QueueId;
use crate::base::time::Timestamp;
use crate::config::Config;
use crate::policy::quota::Holder;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Core {
    /// Puts this configuration in place of the one before; they differ in nothing that is fixed
    /// ([`Config::fixed_differences`]). To be followed by [`Core::step`].
    pub fn reconfigure(&mut self, config: Arc<Config>, now: Timestamp) {
        let before = std::mem::replace(&mut self.config, Arc::clone(&config));
        self.weights = config.weights();
        let weights = &self.weights;
        let weight = |tenant: &str| weights.get(tenant).copied().unwrap_or(1);
        let lines = self.sites.values_mut().flat_map(|site| site.ways.values_mut());
        let waiters = self.waiters.values_mut().map(|waiters| &mut waiters.turns);
        for turns in lines.map(|lines| &mut lines.turns).chain(waiters) {
            turns.direct.set_weights(weight);
            turns.bulk.set_weights(weight);
        }

        self.quotas.retune(&config.tenants, &config.domains, now);
        let named = before.domains.iter().chain(&config.domains).map(|rule| rule.name.as_str());
        let named: BTreeSet<&str> = named.collect();
        named.into_iter().for_each(|name| self.mind_rate(name, now));
        let tenants: Vec<String> = self.waiting.keys().cloned().collect();
        tenants.into_iter().for_each(|tenant| self.tenant_may(tenant, now));

        let places = super::domains::places(&self.domains);
        let changed = self.directory.reconfigure(config.sites.clone(), places);
        self.follow_limits(changed, now);
        self.look_up_named(now);
        self.look_at_all();
        self.touched.extend(self.sites.keys().copied());
    }

    /// Rules that name a domain ask for its MX at once, so that their limits hold from the start.
    pub(super) fn look_up_named(&mut self, now: Timestamp) {
        let config = Arc::clone(&self.config);
        let named = config.sites.rules.iter().filter_map(|rule| Domain::parse(&rule.name).ok());
        named.for_each(|domain| self.look_up(domain, Turn::Direct, now));
    }

    /// A domain's rate may have come, gone or changed.
    fn mind_rate(&mut self, name: &str, now: Timestamp) {
        let Ok(domain) = Domain::parse(name) else { return };
        let is_limited = self.quotas.limit(Holder::Domain(name));
        if !is_limited {
            self.waiters.remove(&domain);
        }
        let queues = self.domains.get(&domain).map(|entry| &entry.queues);
        let queues: Vec<QueueId> = queues.into_iter().flatten().copied().collect();
        for id in queues {
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            if queue.granted.is_some() != is_limited {
                (queue.granted, queue.asks) = (is_limited.then_some(0), false);
                self.recount(id);
            }
        }
        if is_limited {
            self.domain_may(&domain, now);
        }
    }
}
