//! Whether tenants get their shares of each place: a site, whichever of its hosts.
//!
//! # What counts
//! A tenant *waits* at a place while more of its mail there, never tried and past its due time,
//! lies in the store than all of the site's connections could have been promised. A *span* is the
//! time during which the same tenants wait at a place, two or more. One is judged where at least
//! 2,000 deliveries, and 200 for each unit of the tenants' weights (20 rounds of turns), were
//! claimed for them, those that are tried again too: nobody may have more than his weight's share
//! of these times the bound.

use bulkhead::base::time::Timestamp;
use bulkhead::policy::tenant::TenantRule;
use std::collections::{HashMap, VecDeque};

/// Deliveries that one claim takes at most.
const BATCH: u64 = 25;
/// A span is judged from so many deliveries on, and so many for each unit of weight.
const SPAN_MIN: u64 = 2_000;
const ROUNDS_MIN: u64 = 200;

/// The shares of all places.
pub struct Shares {
    weights: Vec<u32>,
    places: HashMap<usize, Supplies>,
    /// Greatest share of a tenant in a span that was judged, by its fair one.
    pub worst: f64,
    /// Spans judged.
    pub spans: u64,
}

#[derive(Default)]
struct Supplies {
    each: Vec<Supply>,
    /// Tenants that wait, and what each was given meanwhile.
    waiting: Vec<bool>,
    given: Vec<u64>,
}

#[derive(Clone, Default)]
struct Supply {
    due: u64,
    /// When due, and how many.
    to_come: VecDeque<(Timestamp, u64)>,
}

impl Supply {
    fn settle(&mut self, now: Timestamp) -> u64 {
        while let Some((_, count)) = self.to_come.pop_front_if(|(at, _)| *at <= now) {
            self.due += count;
        }
        self.due
    }

    fn take(&mut self, count: u64) {
        let now = self.due.min(count);
        self.due -= now;
        let mut early = count - now;
        while let Some((_, next)) = self.to_come.front_mut().filter(|_| early > 0) {
            let taken = early.min(*next);
            *next -= taken;
            early -= taken;
            if *next == 0 {
                self.to_come.pop_front();
            }
        }
    }
}

impl Shares {
    pub fn new(tenants: &[TenantRule]) -> Self {
        let weights = tenants.iter().map(|tenant| tenant.weight).collect();
        Self { weights, places: HashMap::new(), worst: 0.0, spans: 0 }
    }

    fn place(&mut self, place: usize) -> &mut Supplies {
        let tenants = self.weights.len();
        self.places.entry(place).or_insert_with(|| Supplies {
            each: vec![Supply::default(); tenants],
            waiting: vec![false; tenants],
            given: vec![0; tenants],
        })
    }

    /// A newsletter of the tenant for the place is in the store, due then.
    pub fn arrived(&mut self, place: usize, tenant: usize, due_at: Timestamp) {
        let to_come = &mut self.place(place).each[tenant].to_come;
        match to_come.back_mut() {
            Some((at, count)) if *at == due_at => *count += 1,
            _ => to_come.push_back((due_at, 1)),
        }
    }

    /// So many, never tried and others, were claimed for one of the site's `connections`.
    pub fn claimed(&mut self, place: usize, given: &[[u64; 2]], connections: u32, now: Timestamp) {
        self.look(place, connections, now);
        let supplies = self.place(place);
        for (tenant, [fresh, again]) in given.iter().enumerate() {
            supplies.each[tenant].take(*fresh);
            supplies.given[tenant] += fresh + again;
        }
    }

    /// Ends the span where other tenants wait now.
    fn look(&mut self, place: usize, connections: u32, now: Timestamp) {
        let enough = BATCH * u64::from(connections);
        let supplies = self.place(place);
        let waiting: Vec<bool> =
            supplies.each.iter_mut().map(|supply| supply.settle(now) > enough).collect();
        if waiting == supplies.waiting {
            return;
        }
        let before = std::mem::replace(&mut supplies.waiting, waiting);
        let given = std::mem::replace(&mut supplies.given, vec![0; before.len()]);
        self.judge(&before, &given);
    }

    #[allow(clippy::cast_precision_loss)]
    fn judge(&mut self, waiting: &[bool], given: &[u64]) {
        let of = |n: usize| (waiting[n]).then_some((given[n], self.weights[n]));
        let got: Vec<(u64, u32)> = (0..waiting.len()).filter_map(of).collect();
        let all: u64 = got.iter().map(|(given, _)| given).sum();
        let weights: u64 = got.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if got.len() < 2 || all < SPAN_MIN.max(ROUNDS_MIN * weights) {
            return;
        }
        self.spans += 1;
        for (given, weight) in got {
            let fair = all as f64 * f64::from(weight) / weights as f64;
            self.worst = self.worst.max(given as f64 / fair);
        }
    }
}
