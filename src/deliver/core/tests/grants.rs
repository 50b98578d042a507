//! Rates of single domains.

use super::*;
use crate::policy::quota::{DomainRule, Holder};
use crate::policy::site::Rate;
use crate::policy::tenant::TenantRule;

const MINUTE: Duration = Duration::from_secs(60);

/// At a site of many domains, `a.test` has a rate of its own.
fn limited(count: u32, per: Duration) -> Config {
    let mut config = config(20, 2, 100);
    let rates = vec![Rate { count, per }];
    config.domains.push(DomainRule { name: "a.test".into(), rates, ..DomainRule::default() });
    config
}

/// What became of what was claimed.
#[derive(Default)]
pub(super) struct Books {
    /// When mail to each domain was begun.
    begun: HashMap<String, Vec<Timestamp>>,
    /// Claimed in vain: the rate of its tenant or its domain was used up.
    refused: u32,
}

impl World {
    /// A connection has so many of a queue: begins those that may go, and releases the others.
    pub(super) fn begin(&mut self, queue: QueueId, has: u32, may: u32) -> u32 {
        let (now, quotas) = (self.now, self.core.quotas());
        let stock = self.stock.get_mut(&queue).unwrap();
        let QueueKey { lane, tenant, domain, .. } = &*stock.key;
        let begin =
            |_: &u32| quotas.begin(tenant, [domain.as_str()].into_iter(), *lane, now).is_ok();
        let sent = (0..may).take_while(begin).count();
        let begun = self.books.begun.entry(domain.to_string()).or_default();
        begun.extend(std::iter::repeat_n(now, sent));
        stock.leased -= u64::from(has);
        *self.delivered.entry(queue).or_default() += sent as u64;
        let sent = u32::try_from(sent).unwrap();
        (sent..has).for_each(|_| stock.waiting.push_front(now));
        self.books.refused += has - sent;
        self.changed.insert(queue);
        sent
    }

    /// Lets time pass; gives how often the planner woke up.
    fn run_for(&mut self, time: Duration) -> u32 {
        let (end, mut looks) = (self.now.after(time), 0);
        while self.now < end {
            self.settle();
            while let Some((link, _)) = self.links.iter().find(|(_, link)| !link.has.is_empty()) {
                self.work(*link);
                self.settle();
            }
            self.now = self.core.next_alarm().unwrap_or(end).clamp(self.now, end);
            looks += 1;
        }
        looks
    }
}

#[test]
fn a_domains_rate_holds_and_holds_up_no_other_domain() {
    let mut world = World::new(limited(60, MINUTE), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 2_000, START);
    world.enqueue(2, Lane::Bulk, "b.test", 600, START);
    world.deliver(MINUTE * 5);
    assert_eq!(world.delivered(2), 600);
    // Less the tenth that is direct mail's, and a twentieth for what arrives late.
    let delivered = world.delivered(1);
    assert!((200..=270).contains(&delivered), "{delivered} in five minutes at 60/min");
    assert!(world.books.refused <= 60, "{} claimed in vain", world.books.refused);
    // Whatever may go now goes.
    let quotas = world.core.quotas();
    while quotas.begin("t", ["a.test"].into_iter(), Lane::Bulk, world.now).is_ok() {}
    let status = world.core.status(world.now).remove(0);
    let [rests] = &status.resting[..] else { panic!("{:?}", status.resting) };
    assert_eq!(rests.whose, Holder::Domain("a.test".into()));
    assert_eq!(rests.why, "its rate of 60/min messages is used up");
    assert!(rests.until > world.now && rests.until.since(world.now) <= Duration::from_secs(2));
}

#[test]
fn tenants_take_turns_at_a_domain_with_a_rate() {
    let mut world = World::new(limited(60, MINUTE), 1);
    // The first two are of one tenant.
    for queue in [1, 4, 2] {
        world.enqueue(queue, Lane::Bulk, "a.test", 2_000, START);
    }
    world.deliver(MINUTE * 10);
    let each = [world.delivered(1) + world.delivered(4), world.delivered(2)];
    assert!(each[0].abs_diff(each[1]) <= 30 && each[0] + each[1] > 460, "{each:?}");
}

#[test]
fn a_tenant_that_may_not_send_leaves_a_domains_rate_to_others() {
    let mut config = limited(60, MINUTE);
    let rates = vec![Rate { count: 2, per: MINUTE * 60 }];
    let name = "tenant1".into();
    config.tenants.push(TenantRule { name, rates, ..TenantRule::default() });
    let mut world = World::new(config, 1);
    world.enqueue(1, Lane::Bulk, "a.test", 2_000, START);
    world.enqueue(2, Lane::Bulk, "a.test", 2_000, START);
    world.deliver(MINUTE * 10);
    assert_eq!(world.delivered(1), 1);
    assert!(world.delivered(2) > 400, "{}", world.delivered(2));
}

#[test]
fn what_a_rate_does_not_let_go_waits_without_a_connection_and_wakes_nobody() {
    let mut world = World::new(limited(2, MINUTE * 60), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 10, START);
    world.enqueue(2, Lane::Bulk, "a.test", 10, START);
    let looks = world.run_for(MINUTE * 30);
    assert_eq!((world.delivered(1) + world.delivered(2), world.opened.len()), (1, 1));
    assert!(looks <= 40, "{looks} wake-ups in half an hour");
    // Direct mail has the tenth, which is one; what is more comes to wait in the queue.
    world.handoff("a.test");
    world.settle();
    assert_eq!(world.direct, 1);
    let opened = world.opened.len();
    world.core.quotas().begin("t", ["a.test"].into_iter(), Lane::Direct, world.now).unwrap();
    world.handoff("a.test");
    world.settle();
    assert_eq!((world.direct, world.released, world.opened.len()), (1, 1, opened));
    world.enqueue(3, Lane::Direct, "a.test", 1, world.now);
    world.run_for(MINUTE * 31);
    assert_eq!(world.delivered(3), 1, "not behind the newsletters");
}

#[test]
fn a_grant_that_is_given_back_goes_to_the_next() {
    let mut world = World::new(limited(2, MINUTE * 60), 1);
    world.cap = 0;
    world.enqueue(1, Lane::Bulk, "a.test", 1, START);
    world.settle();
    world.enqueue(2, Lane::Bulk, "a.test", 1, START);
    world.settle();
    let granted = |world: &World, queue| world.core.queues[&QueueId(queue)].granted;
    assert_eq!((granted(&world, 1), granted(&world, 2)), (Some(1), Some(0)));
    // An operator deletes it.
    world.stock.get_mut(&QueueId(1)).unwrap().waiting.clear();
    world.changed.insert(QueueId(1));
    world.settle();
    assert_eq!(granted(&world, 2), Some(1));
    world.stock.get_mut(&QueueId(2)).unwrap().waiting.clear();
    world.changed.insert(QueueId(2));
    world.settle();
    assert!(world.core.waiters.is_empty(), "nobody waits");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn all_mail_to_a_domain_goes_within_its_rates(
        seed: u64,
        counts in (1u32..40, 5u32..200),
        queues in proptest::collection::vec((any::<bool>(), any::<bool>(), 1usize..40), 1..12),
    ) {
        let mut config = limited(counts.0, Duration::from_secs(10));
        config.domains[0].rates.push(Rate { count: counts.1, per: MINUTE * 10 });
        let rates = config.domains[0].rates.clone();
        let (mut rng, mut world) = (from_seed(seed), World::new(config, seed));
        let mut total = 0;
        for (n, (bulk, is_limited, count)) in (1..).zip(&queues) {
            let lane = if *bulk { Lane::Bulk } else { Lane::Direct };
            let domain = if *is_limited { "a.test" } else { "b.test" };
            world.enqueue(n, lane, domain, *count, START);
            total += *count as u64;
            if rng.bool() {
                world.settle();
            }
        }
        world.run(&mut rng);
        prop_assert_eq!((world.waiting(), world.delivered.values().sum::<u64>()), (0, total));
        for Rate { count, per } in rates {
            let begun = world.books.begun.get("a.test").map_or(&[][..], Vec::as_slice);
            for (n, begin) in begun.iter().enumerate() {
                let inside = begun[n..].iter().take_while(|at| at.since(*begin) < per);
                prop_assert!(inside.count() <= count as usize);
            }
        }
        prop_assert!(u64::from(world.books.refused) <= total, "{} in vain", world.books.refused);
    }
}
