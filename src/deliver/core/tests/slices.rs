//! Many queues at once: looked at in slices, with direct mail in between.

use super::*;
use crate::deliver::core::looks::{LOOKS, PAUSE};
use crate::policy::orders::{Scope, Suspension};

const QUEUES: i64 = 5 * LOOKS as i64 / 2;

/// A site for each ten queues, and the last queue of direct mail.
fn many(due_at: Timestamp) -> World {
    let mut world = World::new(config(4, 1, 100), 1);
    world.dns = |domain| {
        let n: u16 = domain.as_str()[1..].split('.').next().unwrap().parse().unwrap();
        let [high, low] = n.to_be_bytes();
        let (name, addresses) = (format!("mx{n}.test"), vec![[192, 0, high, low].into()]);
        Resolution::Hosts(vec![MxHost { preference: 10, name, addresses }])
    };
    for queue in 1..=QUEUES {
        let lane = if queue == QUEUES { Lane::Direct } else { Lane::Bulk };
        world.enqueue(queue, lane, &format!("d{}.test", queue / 10), 1, due_at);
    }
    world
}

impl World {
    /// Brings the core up to date once, and does what it says.
    fn step(&mut self) {
        let queues =
            std::mem::take(&mut self.changed).into_iter().map(|q| self.counts(q)).collect();
        let all_held = self.core.all_held;
        self.core.backlog(Backlog { all_held, queues, ..Backlog::default() }, self.now);
        let commands = self.core.step(self.now);
        commands.into_iter().for_each(|command| self.obey(command));
    }

    fn hold_all(&mut self, all_held: bool) {
        self.core.backlog(Backlog { all_held, ..Backlog::default() }, self.now);
    }

    /// The steps until `count` reaches the number of queues, which it does by a slice each time.
    /// Direct mail goes out in between.
    fn slices(&mut self, count: impl Fn(&Core) -> usize) -> usize {
        for slice in 1.. {
            let before = count(&self.core);
            self.step();
            let all = count(&self.core);
            assert!(all - before <= LOOKS, "{} looked at in one step", all - before);
            if all == QUEUES as usize {
                return slice;
            }
            let next = self.core.next_alarm().unwrap();
            assert_eq!(next, self.now.after(PAUSE));
            self.handoff("d9999.test");
            let before = self.direct;
            for _ in 0..3 {
                self.step();
                assert_eq!(count(&self.core), all, "the pause holds, whatever happens");
            }
            assert_eq!(self.direct, before + 1);
            self.now = next;
        }
        unreachable!()
    }
}

#[test]
fn all_that_falls_due_at_once_is_found_bit_by_bit() {
    let due_at = START.after(Duration::from_secs(600));
    let mut world = many(due_at);
    world.settle();
    world.now = due_at;
    world.step();
    assert!(world.core.queues[&QueueId(QUEUES)].in_line, "direct mail's first");
    world.now = world.core.next_alarm().unwrap();
    assert_eq!(world.slices(|core| QUEUES as usize - core.looks.len()), 2, "after the first");
    world.run(&mut from_seed(1));
    assert_eq!(world.waiting(), 0);
}

#[test]
fn a_suspension_reaches_all_queues_bit_by_bit_and_leaves_them_so() {
    let mut world = many(START.after(Duration::from_secs(600)));
    world.settle();
    let suspended = |core: &Core| core.queues.values().filter(|queue| queue.suspended).count();
    let mut orders = Orders::default();
    let scope = Scope { lane: Some(Lane::Bulk), ..Scope::default() };
    let (reason, since, until) = ("list bought".to_string(), START, None);
    orders.suspend(Suspension { scope, reason, since, until }).unwrap();
    world.core.set_orders(orders, world.now);
    let plan = vec![(QueueId(QUEUES), 1), (QueueId(1), 1)];
    let planned = world.core.without_suspended(plan, world.now);
    assert_eq!(planned, [(QueueId(QUEUES), 1)], "what is planned before it was looked at");
    assert_eq!(world.slices(|core| suspended(core) + 1), 3);
    world.core.set_orders(Orders::default(), world.now);
    assert_eq!(world.slices(|core| QUEUES as usize - suspended(core)), 3);
}

#[test]
fn what_was_held_goes_on() {
    let mut world = many(START);
    world.hold_all(true);
    (0..5).for_each(|_| world.step());
    assert!(world.opened.is_empty());
    world.hold_all(false);
    world.run(&mut from_seed(1));
    assert_eq!(world.waiting(), 0);
}
