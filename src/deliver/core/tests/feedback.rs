//! What receivers teach: windows, complaints, tenants that are held back.

use super::*;
use crate::policy::feedback::{Ask, Whose};
use crate::policy::site::{Gate, Rate};
use crate::policy::tenant::TenantRule;

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl World {
    /// Each connection delivers one message a second, for so long.
    pub(super) fn deliver(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.settle();
            for link in self.links.keys().copied().collect::<Vec<_>>() {
                let now = self.now;
                let fake = self.links.get_mut(&link).unwrap();
                let Some((queue, n)) = fake.has.last_mut() else { continue };
                let (queue, tenant) = (*queue, self.stock[queue].key.tenant.clone());
                *n -= 1;
                if *n == 0 {
                    fake.has.pop();
                }
                let (line, source) = (Arc::clone(&fake.line), Arc::clone(&fake.source));
                let may = line.available_to(&tenant, now).min(1);
                let may = line.available(&source, Lane::Bulk, now, may);
                let sent = self.begin(queue, 1, may);
                let fake = self.links.get_mut(&link).unwrap();
                if sent > 0 {
                    fake.line.take_for(&tenant, None, now);
                    fake.line.begin(&fake.source, Lane::Bulk, now).unwrap();
                    fake.room -= 1;
                }
                let has: u32 = fake.has.iter().map(|(_, n)| n).sum();
                // With enough at hand it asks for no more.
                let room = if has < 8 { fake.room - has } else { 0 };
                let (idle, done) = (has == 0, sent);
                if fake.room == 0 {
                    self.links.remove(&link);
                    self.core.handle(Event::Closed { link, done, trouble: None }, now);
                } else {
                    let claims = fake.claims;
                    self.core.handle(Event::Wants { link, room, idle, claims, done }, now);
                }
            }
            self.now = self.now.after(seconds(1));
        }
    }

    pub(super) fn delivered(&self, queue: i64) -> u64 {
        self.delivered.get(&QueueId(queue)).copied().unwrap_or(0)
    }

    fn complain(&mut self, ask: Ask, tenant: Option<&str>) {
        let link = *self.links.keys().next().unwrap();
        let whose = tenant.map_or(Whose::Everyones, |tenant| Whose::Tenants(tenant.into()));
        let complaint = Complaint { ask, whose, why: "421 4.7.28 slow down".into() };
        self.core.handle(Event::Complaint(link, complaint), self.now);
    }
}

#[test]
fn a_receiver_that_wants_fewer_connections_has_half_of_them_at_once() {
    let mut world = World::new(config(10, 0, 10_000), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(MINUTE);
    assert_eq!(world.links.len(), 10);
    world.complain(Ask::Fewer(MINUTE * 15), None);
    world.settle();
    assert_eq!(world.links.len(), 5);
    let before = world.delivered(1);
    world.deliver(MINUTE);
    assert_eq!((world.links.len(), world.delivered(1) - before), (5, 300));
}

#[test]
fn a_message_to_more_than_a_connection_is_known_to_take_goes_in_parts() {
    let mut world = World::new(config(4, 1, 100), 1);
    world.handoff("a.test");
    world.settle();
    let link = *world.links.keys().next().unwrap();
    (0..2).for_each(|_| world.core.handle(Event::EndedByPeer(link, 2), world.now));
    world.core.handle(Event::Closed { link, done: 0, trouble: None }, world.now);
    world.links.clear();
    world.handoff_to("a.test", 5);
    world.settle();
    assert_eq!(world.direct, 1 + 3, "two, two and one");
}

#[test]
fn a_receiver_with_a_cap_refuses_a_few_times_and_is_used_fully() {
    let mut world = World::new(config(40, 2, 100), 1);
    world.cap = 12;
    world.enqueue(1, Lane::Bulk, "a.test", 300_000, START);
    world.deliver(MINUTE * 30);
    let best = 12 * 30 * 60;
    assert!(world.delivered(1) * 10 > best * 9, "{} of {best}", world.delivered(1));
    let late = world.refused.iter().filter(|at| at.since(START) > seconds(20)).count();
    assert!(late <= 6, "{late} refused after the first seconds, of {}", world.refused.len());
    // It takes more now, and is found to.
    world.cap = 30;
    world.deliver(MINUTE * 40);
    assert!(world.links.len() >= 25, "{}", world.links.len());
}

#[test]
fn a_complaint_slows_the_site_down_and_the_pace_climbs_back() {
    let mut world = World::new(config(8, 2, 1_000), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(MINUTE * 2);
    let before = world.delivered(1);
    world.complain(Ask::Slower(MINUTE * 10), None);
    world.deliver(MINUTE * 10);
    let (held, full) = (world.delivered(1) - before, 10 * 60 * 6);
    assert!(held > full / 4 && held <= full / 2, "{held} of {full}");
    let status = world.core.status(world.now).remove(0);
    assert_eq!((status.gate, status.why.contains("slow down")), (Gate::Throttled, true));
    world.deliver(MINUTE * 30);
    let before = world.delivered(1);
    world.deliver(MINUTE * 10);
    assert!((world.delivered(1) - before) * 10 > full * 9, "{}", world.delivered(1) - before);
    assert_eq!(world.core.status(world.now)[0].gate, Gate::Open);
}

#[test]
fn what_is_learned_goes_no_lower_than_the_configuration_says() {
    let mut config = config(8, 2, 1_000);
    config.delivery.learned_connections_min = 4;
    config.delivery.learned_rate_min = Some(Rate { count: 100, per: MINUTE });
    let mut world = World::new(config, 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(MINUTE * 2);
    // Each halves what holds: without floors, a connection and a few messages would be left.
    for _ in 0..6 {
        world.complain(Ask::Slower(MINUTE * 10), None);
        world.deliver(MINUTE);
    }
    assert_eq!(world.core.status(world.now)[0].window, 4);
    let before = world.delivered(1);
    world.deliver(MINUTE * 5);
    let delivered = world.delivered(1) - before;
    // Less the tenth that is direct mail's, and a twentieth for what arrives late.
    assert!((400..=450).contains(&delivered), "{delivered} in five minutes at 100/min");
}

#[test]
fn a_site_that_wants_nothing_for_a_while_gets_nothing() {
    let mut world = World::new(config(8, 2, 1_000), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 100_000, START);
    world.deliver(seconds(10));
    world.complain(Ask::Stop(MINUTE * 5), None);
    world.settle();
    assert!(world.links.is_empty());
    world.handoff("a.test");
    assert_eq!(world.core.status(world.now)[0].gate, Gate::Broken);
    let before = world.opened.len();
    world.now = world.now.after(MINUTE * 4);
    world.settle();
    assert_eq!((world.opened.len(), world.concluded), (before, 1));
    world.now = world.now.after(MINUTE * 2);
    world.settle();
    assert_eq!(world.opened.len(), before + 1, "one tries first");
}

#[test]
fn a_complaint_about_one_tenant_slows_no_other() {
    let mut world = World::new(config(8, 2, 1_000), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 50_000, START);
    world.enqueue(2, Lane::Bulk, "a.test", 50_000, START);
    world.deliver(MINUTE);
    let before = [world.delivered(1), world.delivered(2)];
    world.complain(Ask::Stop(MINUTE * 10), Some("tenant1"));
    world.deliver(MINUTE * 10);
    assert!(world.delivered(1) - before[0] <= 50, "what was in flight");
    let other = world.delivered(2) - before[1];
    assert!(other > 60 * 10 * 5, "{other}: all the site takes");
    let before = world.delivered(1);
    world.deliver(MINUTE * 5);
    assert!(world.delivered(1) - before > 60 * 5 * 2, "its time is over");
}

#[test]
fn a_tenants_rate_holds_over_all_sites_and_holds_up_nobody() {
    let mut config = config(4, 1, 100);
    let rates = vec![Rate { count: 120, per: MINUTE }];
    let name = "tenant1".into();
    config.tenants.push(TenantRule { name, rates, ..TenantRule::default() });
    let mut world = World::new(config, 1);
    world.dns = |domain| {
        let n = domain.as_str().as_bytes()[1];
        let host = |name| MxHost { preference: 1, name, addresses: vec![[192, 0, 2, n].into()] };
        Resolution::Hosts(vec![host(format!("mx{n}.test"))])
    };
    for n in 0..20u8 {
        let domain = format!("d{}.test", char::from(b'a' + n));
        world.enqueue(i64::from(n) * 3 + 1, Lane::Bulk, &domain, 500, START);
    }
    world.enqueue(2, Lane::Bulk, "da.test", 600, START);
    world.deliver(MINUTE * 10);
    let limited: u64 = (0..20).map(|n| world.delivered(n * 3 + 1)).sum();
    assert!((800..=1_200).contains(&limited), "{limited} of 1,200 in ten minutes");
    let most = (0..20).map(|n| world.delivered(n * 3 + 1)).max().unwrap();
    assert!(most < limited / 4, "{most} of {limited} to one site: the others starve");
    assert_eq!(world.delivered(2), 600);
}

#[test]
fn routes_of_a_site_share_its_connections() {
    let mut world = World::new(config(6, 2, 20), 1);
    // One provider, an address for each domain.
    world.dns = |domain| {
        let n = domain.as_str().as_bytes()[1];
        let name = format!("mx{n}.l.google.com");
        let addresses = vec![[192, 0, 2, n].into()];
        Resolution::Hosts(vec![MxHost { preference: 10, name, addresses }])
    };
    world.core.config = {
        let mut config = (*world.core.config).clone();
        config.sites.default.connections = 10;
        Arc::new(config)
    };
    for n in 0..4u8 {
        let domain = format!("d{}.test", char::from(b'a' + n));
        world.enqueue(i64::from(n) + 1, Lane::Bulk, &domain, 10_000, START);
    }
    world.deliver(MINUTE * 10);
    // The first and the last are one tenant's: each tenant has as much as the others.
    let each = [world.delivered(1) + world.delivered(4), world.delivered(2), world.delivered(3)];
    let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
    assert!(most * 10 < least * 11, "{each:?}");
}

#[test]
fn a_site_that_ends_connections_is_not_sent_more_over_one() {
    let mut world = World::new(config(2, 0, 100), 1);
    world.enqueue(1, Lane::Bulk, "a.test", 10_000, START);
    world.settle();
    for _ in 0..2 {
        let link = *world.links.keys().next().unwrap();
        world.core.handle(Event::EndedByPeer(link, 20), world.now);
    }
    world.deliver(MINUTE * 2);
    let opened = world.opened.len();
    let before = world.delivered(1);
    world.deliver(MINUTE * 10);
    let each = (world.delivered(1) - before) / (world.opened.len() - opened) as u64;
    assert!((18..=22).contains(&each), "{each} over one connection");
}
