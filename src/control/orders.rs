//! The desk where an operator's orders are taken: on disk first, then carried out, then answered.
//!
//! They lie in a file of their own beside the queue, and not in the store, since they are no mail:
//! every engine has them, and they can be read where there is no queue.
//!
//! # Invariants
//! * An order that was answered holds after a crash; one that could not be written is refused.
//! * A file that is not understood stops nothing: it is kept under another name, and told of.

use super::protocol::{Request, Response};
use super::small_file;
use crate::base::time::{Clock, Timestamp};
use crate::observe::orders as tell;
use crate::policy::orders::{Orders, Scope, Suspension, ThrottleOrder, site_name};
use crate::policy::site::SiteLimits;
use crate::policy::site::setting::Setting;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The file, in the node's `data_dir`.
const FILE: &str = "orders.json";
/// How long an order that has an end may hold.
const LASTS_MIN: Duration = Duration::from_secs(1);
const LASTS_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Carries orders out, in place of all before.
pub type Obey = Box<dyn Fn(Orders) + Send + Sync>;
/// Says what holds for a site by this name.
pub type Explain = Box<dyn Fn(&str) -> SiteLimits + Send + Sync>;

/// Takes orders for one node.
pub struct Desk {
    dir: PathBuf,
    clock: Clock,
    orders: Mutex<Orders>,
    obey: Obey,
    explain: Explain,
}

impl Desk {
    /// A desk over what stands in `dir`, which is carried out at once. What ended while no node ran
    /// is told of.
    #[must_use]
    pub fn open(dir: &Path, clock: Clock, obey: Obey, explain: Explain) -> Self {
        let mut orders = read(dir).unwrap_or_else(|error| {
            let path = dir.join(FILE);
            tell::unreadable(&path, &error, small_file::put_aside(dir, FILE).as_deref());
            Orders::default()
        });
        let ended = orders.expire(clock.now());
        tell::expired(&ended);
        if !ended.is_empty() {
            // What has ended counts no more, written or not.
            _ = small_file::write(dir, FILE, &orders);
        }
        obey(orders.clone());
        Self { dir: dir.to_path_buf(), clock, orders: Mutex::new(orders), obey, explain }
    }

    /// Tells of orders that have ended while the node runs, and takes them out of the file, so that
    /// the next start does not tell of them again. Blocks on the disk.
    pub fn ended(&self, orders: &Orders) {
        tell::expired(orders);
        // They count no more, written or not.
        _ = self.change(|_, _| Ok(()));
    }

    /// Changes the orders; returns when the change is durable and holds. Blocks on the disk.
    ///
    /// # Errors
    /// A sentence: that of `change`, or why it could not be written. Nothing has changed then.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Orders, Timestamp) -> Result<T, String>,
    ) -> Result<T, String> {
        // Held while the disk works: orders are carried out in the order in which they are written.
        let mut orders = self.lock();
        let now = self.clock.now();
        let mut changed = orders.clone();
        changed.expire(now);
        let done = change(&mut changed, now)?;
        if changed != *orders {
            small_file::write(&self.dir, FILE, &changed).map_err(|error| {
                let path = self.dir.join(FILE);
                format!("cannot write {}: {error}; the node goes on as before", path.display())
            })?;
            *orders = changed;
            (self.obey)(orders.clone());
        }
        Ok(done)
    }

    /// What holds now.
    #[must_use]
    pub fn orders(&self) -> Orders {
        let mut orders = self.lock().clone();
        orders.expire(self.clock.now());
        orders
    }

    /// Every limit of the site by this name, and who says so.
    #[must_use]
    pub fn explain(&self, site: &str) -> SiteLimits {
        (self.explain)(site)
    }

    /// Answers a request about orders, each of which is logged; one about something else, with
    /// nothing. Blocks on the disk.
    ///
    /// # Errors
    /// A sentence for people; nothing has changed then.
    pub fn answer(&self, request: Request, user: Option<u32>) -> Result<Vec<Response>, String> {
        match request {
            Request::Limits { site } => {
                Ok(vec![Response::Limits(Box::new(self.explain(&site_name(&site)?)))])
            }
            Request::Orders => {
                let orders = self.orders();
                let throttles = orders.throttles().iter().cloned().map(throttle);
                Ok(throttles.chain(orders.suspensions().iter().cloned().map(suspension)).collect())
            }
            Request::ThrottleSet { site, settings, for_ms } => {
                let set = self.set(&site, settings, for_ms)?;
                set.iter().for_each(|order| tell::throttle_set(order, user));
                Ok(set.into_iter().map(throttle).collect())
            }
            Request::ThrottleClear { site, keys } => {
                let cleared = self.change(|orders, _| orders.clear(&site, &keys))?;
                cleared.iter().for_each(|order| tell::throttle_cleared(order, user));
                Ok(cleared.into_iter().map(throttle).collect())
            }
            Request::Suspend { site, tenant, campaign, lane, reason, for_ms } => {
                let scope = Scope { site, tenant, campaign, lane };
                let set = self.change(|orders, now| {
                    let until = end(for_ms, now)?;
                    orders.suspend(Suspension { scope, reason, since: now, until }).cloned()
                })?;
                tell::suspended(&set, user);
                Ok(vec![suspension(set)])
            }
            Request::Resume { site, tenant, campaign, lane, as_usual: _ } => {
                let scope = Scope { site, tenant, campaign, lane };
                let ended = self.change(|orders, _| orders.resume(scope))?;
                ended.iter().for_each(|order| tell::resumed(order, user));
                Ok(ended.into_iter().map(suspension).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// All of them, or none.
    fn set(
        &self,
        site: &str,
        settings: Vec<Setting>,
        for_ms: Option<u64>,
    ) -> Result<Vec<ThrottleOrder>, String> {
        self.change(|orders, since| {
            let until = end(for_ms, since)?;
            let set = |setting| {
                let order = ThrottleOrder { site: site.to_string(), setting, since, until };
                orders.set(order).cloned()
            };
            settings.into_iter().map(set).collect()
        })
    }

    /// Nothing in here can be left half done, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn throttle(order: ThrottleOrder) -> Response {
    Response::Throttle(Box::new(order))
}

fn suspension(order: Suspension) -> Response {
    Response::Suspension(Box::new(order))
}

/// When an order ends that holds so long from `now` on.
fn end(for_ms: Option<u64>, now: Timestamp) -> Result<Option<Timestamp>, String> {
    match for_ms.map(Duration::from_millis) {
        Some(lasts) if !(LASTS_MIN..=LASTS_MAX).contains(&lasts) => {
            Err("an order holds for \"1s\" to \"366d\"; without an end, until it is taken back"
                .into())
        }
        lasts => Ok(lasts.map(|lasts| now.after(lasts))),
    }
}

/// The orders in a node's folder; none where there is no file. Some of them may have ended.
///
/// # Errors
/// A sentence: the file cannot be read, or is not one of orders.
pub fn read(dir: &Path) -> Result<Orders, String> {
    small_file::read(dir, FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::site::{Directory, sites};
    use std::sync::Arc;

    const NOW: Timestamp = Timestamp(1_795_394_728_114);

    /// A desk, and what was last carried out.
    fn desk(dir: &Path, clock: &Clock) -> (Desk, Arc<Mutex<Vec<Orders>>>) {
        let carried_out = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&carried_out);
        let obey: Obey = Box::new(move |orders| seen.lock().unwrap().push(orders));
        let explain: Explain =
            Box::new(|name| SiteLimits::foreseen(name, &Directory::new(sites(10, &[])), &[]));
        (Desk::open(dir, clock.clone(), obey, explain), carried_out)
    }

    fn order(until: Option<Timestamp>) -> ThrottleOrder {
        let setting = Setting::parse("rate=5/s").unwrap();
        ThrottleOrder { site: "a.test".into(), setting, since: NOW, until }
    }

    fn set(desk: &Desk, until: Option<Timestamp>) -> Result<(), String> {
        desk.change(|orders, _| orders.set(order(until)).map(drop))
    }

    #[test]
    fn what_was_answered_is_there_after_a_restart_and_ends_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::simulated(NOW);
        let (first, carried_out) = desk(dir.path(), &clock);
        set(&first, Some(NOW.after(Duration::from_secs(2)))).unwrap();
        assert_eq!(carried_out.lock().unwrap().len(), 2, "at the start, and then");
        drop(first);
        clock.advance(Duration::from_secs(1));
        let (second, carried_out) = desk(dir.path(), &clock);
        assert_eq!(second.orders().throttles().len(), 1);
        assert_eq!(carried_out.lock().unwrap()[0], second.orders());
        clock.advance(Duration::from_secs(1));
        assert!(second.orders().is_empty());
        let (third, _) = desk(dir.path(), &clock);
        assert!(third.orders().is_empty());
        assert!(read(dir.path()).unwrap().is_empty(), "what has ended is told of once");
        set(&third, Some(clock.now().after(Duration::from_secs(1)))).unwrap();
        clock.advance(Duration::from_secs(1));
        third.ended(&Orders::default());
        assert!(read(dir.path()).unwrap().is_empty(), "at a restart not again");
        set(&third, None).unwrap();
        assert_eq!(read(dir.path()).unwrap(), third.orders());
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1, "nothing but the file is left");
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for damaged in
            ["{\"throttles\":[{\"si", "", "[1]", "{\"suspensions\":[{\"reason\":\"x\"}]}"]
        {
            std::fs::write(&path, damaged).unwrap();
            assert!(read(dir.path()).is_err(), "{damaged}");
            let (desk, _) = desk(dir.path(), &Clock::simulated(NOW));
            assert!(desk.orders().is_empty());
            let aside = dir.path().join("orders.json.damaged");
            assert_eq!(std::fs::read_to_string(aside).unwrap(), damaged);
            set(&desk, None).unwrap();
            assert_eq!(read(dir.path()).unwrap().throttles(), [order(None)]);
        }
    }

    #[test]
    fn what_cannot_be_written_or_is_refused_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (desk, carried_out) = desk(dir.path(), &Clock::simulated(NOW));
        assert_eq!(desk.change(|_, _| Err::<(), _>("no".to_string())), Err("no".to_string()));
        // A folder where the new file is to be.
        std::fs::create_dir(dir.path().join("orders.json.new")).unwrap();
        let sentence = set(&desk, None).unwrap_err();
        assert!(sentence.ends_with("; the node goes on as before"), "{sentence}");
        assert!(desk.orders().is_empty());
        assert_eq!(carried_out.lock().unwrap().len(), 1, "at the start alone");
    }
}
