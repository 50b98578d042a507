//! Chooses which scheduled queues fill a connection next.
//!
//! Input: one site's queues with mail due, as counts; how many deliveries the connection has room
//! for. Output: how many to claim from which queue. No IO, no clock, no randomness: same turns,
//! same plan.
//!
//! # Strategy
//! * *Tenants take turns*, each by its weight, over all lines of the site ([`Shares`]), so that a
//!   newsletter of 500,000 cannot delay one of 200.
//! * *A tenant's campaigns take turns*, then the campaign's domains.
//! * *One plan is one claim*: it fills the room as far as there is mail, so that connections are
//!   used well.
//!
//! # Invariants
//! * A plan never asks for more than the room, or than a queue has (`prop_plan_is_within_bounds`).
//! * While several tenants have mail, what each gets follows the weights
//!   (`prop_shares_follow_weights`).
//!
//! # Absent
//! Recipients, bodies, due times, connections: this module sees counts only, so a plan costs the
//! queues it names.

use super::shares::Shares;
use crate::base::id::QueueId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// Deliveries that a tenant of weight 1 may send before the next one's turn.
const QUANTUM: u32 = 10;

/// Whose turn it is in one line of a site, in one lane. Holds each queue with due mail once.
#[derive(Debug, Default)]
pub struct Turns {
    /// Each tenant once: where it stood when it was put here, and a number that grows.
    order: BinaryHeap<Reverse<(u64, u64, Arc<str>)>>,
    tenants: HashMap<Arc<str>, Tenant>,
    next: u64,
}

#[derive(Debug)]
struct Tenant {
    weight: u32,
    campaigns: VecDeque<Campaign>,
}

#[derive(Debug)]
struct Campaign {
    name: String,
    queues: VecDeque<QueueId>,
}

/// How many deliveries to claim from each queue, in this order.
pub type Plan = Vec<(QueueId, u32)>;

/// What [`Turns::plan`] found.
#[derive(Debug, Default)]
pub struct Planned {
    /// What to claim.
    pub plan: Plan,
    /// Queues with nothing due, which left the line.
    pub gone: Vec<QueueId>,
}

impl Turns {
    /// Puts a queue at the end of its campaign's line; the caller adds a queue once.
    pub fn add(
        &mut self,
        queue: QueueId,
        tenant: &str,
        campaign: &str,
        weight: u32,
        shares: &mut Shares,
    ) {
        if !self.tenants.contains_key(tenant) {
            let name: Arc<str> = tenant.into();
            let campaigns = VecDeque::new();
            self.tenants.insert(Arc::clone(&name), Tenant { weight: weight.max(1), campaigns });
            shares.join(&name);
            self.put(name, shares);
        }
        let Some(tenant) = self.tenants.get_mut(tenant) else { return };
        match tenant.campaigns.iter_mut().find(|c| c.name == campaign) {
            Some(found) => found.queues.push_back(queue),
            None => tenant.campaigns.push_back(Campaign {
                name: campaign.to_string(),
                queues: VecDeque::from([queue]),
            }),
        }
    }

    /// From now on each tenant in line has this weight; 0 counts as 1.
    pub fn set_weights(&mut self, weight: impl Fn(&str) -> u32) {
        for (name, tenant) in &mut self.tenants {
            tenant.weight = weight(name).max(1);
        }
    }

    /// Everybody leaves.
    pub fn clear(&mut self, shares: &mut Shares) {
        self.tenants.drain().for_each(|(name, _)| shares.leave(&name));
        self.order.clear();
    }

    fn put(&mut self, tenant: Arc<str>, shares: &Shares) {
        self.next += 1;
        self.order.push(Reverse((shares.of(&tenant), self.next, tenant)));
    }

    /// Who had least. In other lines of the site it may have had more since it was put here.
    fn pop(&mut self, shares: &Shares) -> Option<Arc<str>> {
        loop {
            let Reverse((stood, _, tenant)) = self.order.pop()?;
            if shares.of(&tenant) <= stood {
                return Some(tenant);
            }
            self.put(tenant, shares);
        }
    }

    /// True where no queue is in line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Those with a queue in line.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(|Reverse((_, _, name))| &**name)
    }

    /// Plans up to `room` deliveries. `due` says how many a queue has that no other connection was
    /// promised; a queue with none leaves the line and comes back by [`Turns::add`]. `may` says how
    /// many of a tenant may go now; one that has none keeps its place, and others go on.
    pub fn plan(
        &mut self,
        room: u32,
        due: impl Fn(QueueId) -> u32,
        may: impl Fn(&str) -> u32,
        shares: &mut Shares,
    ) -> Planned {
        let mut planned = Planned::default();
        let mut room = room;
        // Those that may send no more, and what limited ones got of this plan.
        let (mut resting, mut got) = (Vec::new(), HashMap::<Arc<str>, u32>::new());
        while room > 0
            && let Some(name) = self.pop(shares)
        {
            let Some(tenant) = self.tenants.get_mut(&name) else { continue };
            let limit = may(&name);
            let allowed = limit.saturating_sub(got.get(&name).copied().unwrap_or(0));
            let turn = tenant.weight.saturating_mul(QUANTUM).min(allowed).min(room);
            let taken = tenant.turn(turn, &due, &mut planned);
            room -= taken;
            shares.give(&name, tenant.weight, taken);
            if tenant.campaigns.is_empty() {
                self.tenants.remove(&name);
                shares.leave(&name);
            } else if taken == allowed {
                shares.rest(&name);
                resting.push(name);
            } else {
                if limit != u32::MAX {
                    *got.entry(Arc::clone(&name)).or_default() += taken;
                }
                self.put(name, shares);
            }
        }
        resting.into_iter().for_each(|name| self.put(name, shares));
        planned
    }
}

impl Tenant {
    /// Its turn: up to `most`.
    fn turn(&mut self, most: u32, due: impl Fn(QueueId) -> u32, planned: &mut Planned) -> u32 {
        let mut left = most;
        while left > 0 && !self.campaigns.is_empty() {
            left -= self.take(left.min(QUANTUM), &due, planned);
        }
        most - left
    }

    /// Up to `most` from the queue whose turn it is; 0 where that queue had none and left.
    fn take(&mut self, most: u32, due: impl Fn(QueueId) -> u32, planned: &mut Planned) -> u32 {
        let Planned { plan, gone } = planned;
        let Some(mut campaign) = self.campaigns.pop_front() else { return 0 };
        let Some(queue) = campaign.queues.pop_front() else { return 0 };
        let promised: u32 = plan.iter().filter(|(q, _)| *q == queue).map(|(_, n)| n).sum();
        let left = due(queue).saturating_sub(promised);
        let taken = left.min(most);
        if taken > 0 {
            match plan.iter_mut().find(|(q, _)| *q == queue) {
                Some((_, n)) => *n += taken,
                None => plan.push((queue, taken)),
            }
        }
        if left > taken {
            campaign.queues.push_back(queue);
        } else {
            gone.push(queue);
        }
        if !campaign.queues.is_empty() {
            self.campaigns.push_back(campaign);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any(_: &str) -> u32 {
        u32::MAX
    }

    /// Runs plans of `room` until nothing is due, and gives what each queue got in each.
    fn drain(
        (turns, shares): (&mut Turns, &mut Shares),
        due: &mut HashMap<QueueId, u32>,
        room: u32,
    ) -> Vec<Plan> {
        let mut plans = Vec::new();
        loop {
            let plan = turns.plan(room, |q| due.get(&q).copied().unwrap_or(0), any, shares).plan;
            if plan.is_empty() {
                return plans;
            }
            for (queue, n) in &plan {
                *due.get_mut(queue).unwrap() -= n;
            }
            plans.push(plan);
        }
    }

    #[test]
    fn a_small_newsletter_is_not_delayed_by_a_big_one() {
        let (mut turns, mut shares) = (Turns::default(), Shares::default());
        turns.add(QueueId(1), "big", "spring", 1, &mut shares);
        turns.add(QueueId(2), "small", "notice", 1, &mut shares);
        let mut due = HashMap::from([(QueueId(1), 500_000), (QueueId(2), 200)]);
        let plans = drain((&mut turns, &mut shares), &mut due, 50);
        let last = plans.iter().rposition(|p| p.iter().any(|(q, _)| *q == QueueId(2))).unwrap();
        assert!(last <= 9, "the small one was done with plan {last}");
    }

    #[test]
    fn campaigns_of_a_tenant_take_turns() {
        let (mut turns, mut shares) = (Turns::default(), Shares::default());
        turns.add(QueueId(1), "t", "a", 1, &mut shares);
        turns.add(QueueId(2), "t", "b", 1, &mut shares);
        let Planned { plan, gone } = turns.plan(40, |_| 1_000, any, &mut shares);
        assert_eq!(plan, [(QueueId(1), 20), (QueueId(2), 20)]);
        assert_eq!(gone, []);
    }

    #[test]
    fn a_queue_without_mail_leaves_the_line() {
        let (mut turns, mut shares) = (Turns::default(), Shares::default());
        turns.add(QueueId(1), "t", "a", 1, &mut shares);
        let Planned { plan, gone } = turns.plan(40, |_| 3, any, &mut shares);
        assert_eq!((plan, gone), (vec![(QueueId(1), 3)], vec![QueueId(1)]));
        assert!(turns.is_empty());
    }

    #[test]
    fn a_tenant_that_may_not_send_keeps_its_place_and_holds_up_nobody() {
        let (mut turns, mut shares) = (Turns::default(), Shares::default());
        turns.add(QueueId(1), "limited", "a", 1, &mut shares);
        turns.add(QueueId(2), "free", "b", 1, &mut shares);
        let may = |n: u32| move |name: &str| if name == "limited" { n } else { u32::MAX };
        assert_eq!(turns.plan(20, |_| 1_000, may(0), &mut shares).plan, [(QueueId(2), 20)]);
        let next = turns.plan(60, |_| 1_000, may(15), &mut shares).plan;
        assert_eq!(next, [(QueueId(1), 15), (QueueId(2), 45)]);
        assert!(turns.tenants().any(|tenant| tenant == "limited"));
    }

    proptest! {
        #[test]
        fn prop_plan_is_within_bounds(
            queues in proptest::collection::vec((0u8..4, 0u8..3, 0u32..300), 1..30),
            room in 1u32..200,
        ) {
            let (mut turns, mut shares) = (Turns::default(), Shares::default());
            let mut due = HashMap::new();
            for (i, (tenant, campaign, n)) in queues.iter().enumerate() {
                let id = QueueId(i64::try_from(i).unwrap());
                let (name, weight) = (tenant.to_string(), u32::from(*tenant) + 1);
                turns.add(id, &name, &campaign.to_string(), weight, &mut shares);
                due.insert(id, *n);
            }
            let total: u32 = due.values().sum();
            let plans = drain((&mut turns, &mut shares), &mut due, room);
            for plan in &plans {
                prop_assert!(plan.iter().map(|(_, n)| n).sum::<u32>() <= room);
            }
            // Nothing is left behind, and each plan but the last is full.
            prop_assert_eq!(plans.iter().flatten().map(|(_, n)| n).sum::<u32>(), total);
            prop_assert!(plans.len() <= (total / room) as usize + 1);
        }

        #[test]
        fn prop_shares_follow_weights(
            weights in proptest::collection::vec(1u32..5, 2..6),
            room in 1u32..100,
        ) {
            let (mut turns, mut shares) = (Turns::default(), Shares::default());
            for (i, weight) in weights.iter().enumerate() {
                let id = QueueId(i64::try_from(i).unwrap());
                turns.add(id, &i.to_string(), "", *weight, &mut shares);
            }
            let mut got = vec![0u32; weights.len()];
            let sum: u32 = weights.iter().sum();
            let rounds = 50;
            let mut left = sum * QUANTUM * rounds;
            while left > 0 {
                for (queue, n) in turns.plan(room.min(left), |_| u32::MAX, any, &mut shares).plan {
                    got[usize::try_from(queue.0).unwrap()] += n;
                    left -= n;
                }
            }
            for (n, weight) in got.iter().zip(&weights) {
                prop_assert!(n.abs_diff(weight * QUANTUM * rounds) <= 5 * QUANTUM, "{got:?}");
            }
        }
    }
}
