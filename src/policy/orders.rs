//! What an operator ordered while the node runs: limits of sites overridden, mail suspended; each
//! until its end, or until it is taken back. Pure: who keeps and carries them out is told the time.
//!
//! # Invariants
//! * An order counts before its end, and from then on no more
//!   (`prop_an_order_counts_until_its_end`).
//! * Every order is sound, also one that comes from a file: reading a file is giving its orders
//!   again.
//! * There are at most [`ORDERS_MAX`].

use super::site::setting::{LimitKey, Setting};
use crate::base::address::Domain;
use crate::base::time::Timestamp;
use crate::mail::message::Lane;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most orders at a time. Each is looked at for each site that is found, so there is no room for a
/// list of customers here.
pub const ORDERS_MAX: usize = 1_000;
/// Longest reason of a suspension, in characters.
const REASON_MAX: usize = 200;
/// Longest name of a tenant or a campaign, in bytes.
const NAME_MAX: usize = 255;

/// One limit of one site, overridden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleOrder {
    /// As sections of the configuration name a site: its name, a domain that it serves, a suffix
    /// of its MX hosts' names.
    pub site: String,
    /// What it is to be.
    #[serde(flatten)]
    pub setting: Setting,
    /// When it was ordered.
    #[serde(rename = "since_ms")]
    pub since: Timestamp,
    /// Its end, where it has one.
    #[serde(rename = "until_ms", default)]
    pub until: Option<Timestamp>,
}

/// Which mail: all of the parts that are given must match. One at least is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// To this site, named as in [`ThrottleOrder::site`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Of this customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Of this mailing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// Of this lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
}

impl Scope {
    /// Nothing is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// In the form in which orders have it.
    ///
    /// # Errors
    /// A sentence: what it must have.
    pub fn checked(mut self) -> Result<Self, String> {
        if self.is_empty() {
            return Err("say which mail: a site, tenant, campaign or lane".to_string());
        }
        for (what, name) in [("tenant", &self.tenant), ("campaign", &self.campaign)] {
            if name.as_ref().is_some_and(|name| !(1..=NAME_MAX).contains(&name.len())) {
                return Err(format!("the name of a {what} has 1 to {NAME_MAX} bytes"));
            }
        }
        self.site = self.site.map(|site| site_name(&site)).transpose()?;
        Ok(self)
    }
}

/// `site=gmail.com lane=bulk`
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, tenant, campaign, lane } = self;
        let lane = lane.map(|lane| lane.to_string());
        let parts = [("site", site), ("tenant", tenant), ("campaign", campaign), ("lane", &lane)];
        let given =
            parts.iter().filter_map(|(name, part)| Some(format!("{name}={}", (*part).as_ref()?)));
        f.write_str(&given.collect::<Vec<_>>().join(" "))
    }
}

/// Mail that is not to be sent for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Which.
    #[serde(flatten)]
    pub scope: Scope,
    /// For people; 1 to 200 characters.
    pub reason: String,
    /// When it was ordered.
    #[serde(rename = "since_ms")]
    pub since: Timestamp,
    /// Its end, where it has one.
    #[serde(rename = "until_ms", default)]
    pub until: Option<Timestamp>,
}

/// All orders, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire")]
pub struct Orders {
    throttles: Vec<ThrottleOrder>,
    suspensions: Vec<Suspension>,
}

/// Orders that nobody has looked at yet.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    throttles: Vec<ThrottleOrder>,
    #[serde(default)]
    suspensions: Vec<Suspension>,
}

impl TryFrom<Wire> for Orders {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let mut orders = Self::default();
        wire.throttles.into_iter().try_for_each(|order| orders.set(order).map(drop))?;
        wire.suspensions.into_iter().try_for_each(|order| orders.suspend(order).map(drop))?;
        Ok(orders)
    }
}

impl Orders {
    /// Overrides a limit; gives back the order as it stands now. One for the same site and limit
    /// is replaced.
    ///
    /// # Errors
    /// A sentence: the site's name is none, or there are too many orders.
    pub fn set(&mut self, mut order: ThrottleOrder) -> Result<&ThrottleOrder, String> {
        order.site = site_name(&order.site)?;
        let same =
            |o: &ThrottleOrder| o.site == order.site && o.setting.key() == order.setting.key();
        if !self.throttles.iter().any(same) {
            self.has_room()?;
        }
        self.throttles.retain(|o| !same(o));
        // Behind all others: of two that mean the same site, the later one counts.
        Ok(self.throttles.push_mut(order))
    }

    /// Takes back what was ordered for a site, all of it where no keys are given; gives back what
    /// that was.
    ///
    /// # Errors
    /// A sentence: the site's name is none.
    pub fn clear(&mut self, site: &str, keys: &[LimitKey]) -> Result<Vec<ThrottleOrder>, String> {
        let site = site_name(site)?;
        let meant = |order: &mut ThrottleOrder| {
            order.site == site && (keys.is_empty() || keys.contains(&order.setting.key()))
        };
        Ok(self.throttles.extract_if(.., meant).collect())
    }

    /// Suspends mail; gives back the order as it stands now. One for the same scope is replaced.
    ///
    /// # Errors
    /// A sentence: what it must have, or that there are too many orders.
    pub fn suspend(&mut self, mut order: Suspension) -> Result<&Suspension, String> {
        order.scope = order.scope.checked()?;
        if !(1..=REASON_MAX).contains(&order.reason.chars().count()) {
            return Err(format!("a suspension has a reason of 1 to {REASON_MAX} characters"));
        }
        if !self.suspensions.iter().any(|o| o.scope == order.scope) {
            self.has_room()?;
        }
        self.suspensions.retain(|o| o.scope != order.scope);
        Ok(self.suspensions.push_mut(order))
    }

    /// Ends the suspension of exactly this scope.
    ///
    /// # Errors
    /// A sentence: what a scope must have.
    pub fn resume(&mut self, scope: Scope) -> Result<Option<Suspension>, String> {
        let scope = scope.checked()?;
        Ok(self.suspensions.extract_if(.., |order| order.scope == scope).next())
    }

    /// Takes out the orders whose end has come, and gives them back.
    pub fn expire(&mut self, now: Timestamp) -> Self {
        Self {
            throttles: self.throttles.extract_if(.., |o| is_over(o.until, now)).collect(),
            suspensions: self.suspensions.extract_if(.., |o| is_over(o.until, now)).collect(),
        }
    }

    /// When the next order ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let throttles = self.throttles.iter().filter_map(|order| order.until);
        throttles.chain(self.suspensions.iter().filter_map(|order| order.until)).min()
    }

    /// Why mail is not to be sent: the first suspension that means it. `is_site` tells whether a
    /// name means the site that the mail goes to.
    #[must_use]
    pub fn suspension_of(
        &self,
        is_site: impl Fn(&str) -> bool,
        tenant: &str,
        campaign: &str,
        lane: Lane,
        now: Timestamp,
    ) -> Option<&Suspension> {
        self.suspensions.iter().filter(|order| !is_over(order.until, now)).find(|order| {
            let scope = &order.scope;
            scope.tenant.as_ref().is_none_or(|name| name == tenant)
                && scope.campaign.as_ref().is_none_or(|name| name == campaign)
                && scope.lane.is_none_or(|of| of == lane)
                && scope.site.as_ref().is_none_or(|name| is_site(name))
        })
    }

    /// Overrides in the order in which they were given.
    #[must_use]
    pub fn throttles(&self) -> &[ThrottleOrder] {
        &self.throttles
    }

    /// Suspensions in the order in which they were given.
    #[must_use]
    pub fn suspensions(&self) -> &[Suspension] {
        &self.suspensions
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.throttles.is_empty() && self.suspensions.is_empty()
    }

    fn has_room(&self) -> Result<(), String> {
        if self.throttles.len() + self.suspensions.len() < ORDERS_MAX {
            return Ok(());
        }
        Err(format!(
            "{ORDERS_MAX} orders stand, and no more are kept; end some first \
             (`bulkhead throttle show`, `bulkhead suspend --list`)"
        ))
    }
}

fn is_over(until: Option<Timestamp>, now: Timestamp) -> bool {
    until.is_some_and(|until| until <= now)
}

/// The name of a site in the form in which it is compared.
///
/// # Errors
/// A sentence: it is not one.
pub fn site_name(text: &str) -> Result<String, String> {
    let domain = Domain::parse(text.trim_start_matches('.'));
    let domain = domain.map_err(|error| format!("{text:?} is not the name of a site: {error}"))?;
    Ok(domain.as_str().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SITES: [&str; 3] = ["gmail.com", "GMX.net", ".mx.example"];
    const SETTINGS: [&str; 3] = ["rate=100/s", "connections=3", "connections=4"];

    fn throttle(site: &str, setting: &str, until: Option<i64>) -> ThrottleOrder {
        let setting = Setting::parse(setting).unwrap();
        let until = until.map(Timestamp);
        ThrottleOrder { site: site.into(), setting, since: Timestamp(0), until }
    }

    fn scope(site: Option<&str>, tenant: Option<&str>, lane: Option<Lane>) -> Scope {
        let own = |text: Option<&str>| text.map(str::to_string);
        Scope { site: own(site), tenant: own(tenant), campaign: None, lane }
    }

    fn suspension(scope: Scope, until: Option<i64>) -> Suspension {
        let until = until.map(Timestamp);
        Suspension { scope, reason: "list bought".into(), since: Timestamp(0), until }
    }

    #[test]
    fn an_order_for_the_same_replaces_and_stands_last() {
        let mut orders = Orders::default();
        orders.set(throttle("gmail.com", "connections=3", None)).unwrap();
        orders.set(throttle("gmx.net", "connections=5", None)).unwrap();
        orders.set(throttle("Gmail.com", "connections=4", Some(9))).unwrap();
        let shown: Vec<String> = orders
            .throttles()
            .iter()
            .map(|o| format!("{} {}", o.site, o.setting.value()))
            .collect();
        assert_eq!(shown, ["gmx.net 5", "gmail.com 4"]);
        assert_eq!(orders.next_expiry(), Some(Timestamp(9)));
        assert_eq!(orders.clear("gmail.com", &[LimitKey::Rate]).unwrap().len(), 0);
        assert_eq!(orders.clear("GMAIL.com", &[]).unwrap().len(), 1);
        assert!(orders.clear("not a name", &[]).is_err());
    }

    #[test]
    fn all_parts_of_a_suspension_must_match() {
        let mut orders = Orders::default();
        let given = scope(Some("Gmail.com"), Some("c1"), Some(Lane::Bulk));
        orders.suspend(suspension(given.clone(), Some(10))).unwrap();
        let found = |site: &str, tenant, lane, now| {
            let is_site = |name: &str| name == site;
            orders.suspension_of(is_site, tenant, "", lane, Timestamp(now)).is_some()
        };
        assert!(found("gmail.com", "c1", Lane::Bulk, 9));
        assert!(!found("gmail.com", "c1", Lane::Bulk, 10), "its end has come");
        assert!(!found("gmx.net", "c1", Lane::Bulk, 9));
        assert!(!found("gmail.com", "c2", Lane::Bulk, 9));
        assert!(!found("gmail.com", "c1", Lane::Direct, 9));
        assert_eq!(given.to_string(), "site=Gmail.com tenant=c1 lane=bulk");
        let mut orders = orders.clone();
        assert!(orders.resume(scope(Some("gmail.com"), None, None)).unwrap().is_none());
        assert!(orders.resume(given).unwrap().is_some() && orders.is_empty());
    }

    #[test]
    fn what_would_mean_all_mail_or_says_nothing_is_refused() {
        let mut orders = Orders::default();
        assert!(orders.suspend(suspension(Scope::default(), None)).unwrap_err().contains("which"));
        for reason in [String::new(), "x".repeat(REASON_MAX + 1)] {
            let order = Suspension { reason, ..suspension(scope(None, Some("c"), None), None) };
            assert!(orders.suspend(order).unwrap_err().contains("1 to 200"));
        }
        assert!(orders.suspend(suspension(scope(None, Some(""), None), None)).is_err());
        let json = r#"{"suspensions":[{"reason":"x","since_ms":0}]}"#;
        assert!(serde_json::from_str::<Orders>(json).is_err(), "not by a file either");
        let json = r#"{"throttles":[{"site":"a.b","key":"connections","value":0,"since_ms":0}]}"#;
        assert!(serde_json::from_str::<Orders>(json).is_err());
    }

    #[test]
    fn there_is_a_most_and_what_stands_can_still_be_changed() {
        let mut orders = Orders::default();
        for n in 0..ORDERS_MAX - 1 {
            orders.set(throttle(&format!("s{n}.test"), "connections=3", None)).unwrap();
        }
        orders.suspend(suspension(scope(None, Some("c"), None), None)).unwrap();
        let sentence = orders.set(throttle("a.test", "connections=3", None)).unwrap_err();
        assert!(sentence.starts_with("1000 orders stand"), "{sentence}");
        assert!(orders.suspend(suspension(scope(None, Some("d"), None), None)).is_err());
        assert!(orders.set(throttle("s0.test", "connections=4", None)).is_ok());
        assert!(orders.suspend(suspension(scope(None, Some("c"), None), Some(1))).is_ok());
    }

    prop_compose! {
        fn any_orders()(
            set in prop::collection::vec((0..3usize, 0..3usize, prop::option::of(0..20i64)), 0..8),
            held in prop::collection::vec((0..3usize, prop::option::of(0..20i64)), 0..4),
        ) -> Orders {
            let mut orders = Orders::default();
            for (site, setting, until) in set {
                orders.set(throttle(SITES[site], SETTINGS[setting], until)).unwrap();
            }
            for (site, until) in held {
                orders.suspend(suspension(scope(Some(SITES[site]), None, None), until)).unwrap();
            }
            orders
        }
    }

    proptest! {
        #[test]
        fn prop_an_order_counts_until_its_end(orders in any_orders(), now in 0..20i64) {
            let now = Timestamp(now);
            let mut left = orders.clone();
            let ended = left.expire(now);
            prop_assert!(ended.throttles.iter().all(|o| o.until.is_some_and(|end| end <= now)));
            prop_assert!(left.throttles.iter().all(|o| o.until.is_none_or(|end| end > now)));
            prop_assert_eq!(
                left.throttles.len() + ended.throttles.len(),
                orders.throttles.len()
            );
            prop_assert!(left.next_expiry().is_none_or(|next| next > now));
            for order in &orders.suspensions {
                let meant = |name: &str| order.scope.site.as_deref() == Some(name);
                let found = orders.suspension_of(meant, "t", "", Lane::Bulk, now);
                prop_assert_eq!(found.is_some(), order.until.is_none_or(|end| end > now));
                prop_assert_eq!(found.is_some(), left.suspensions.contains(order));
            }
        }

        #[test]
        fn prop_set_then_clear_is_as_before(orders in any_orders()) {
            let mut changed = orders.clone();
            changed.set(throttle("new.test", "rate=1/s", None)).unwrap();
            prop_assert_eq!(changed.clear("new.test", &[LimitKey::Rate]).unwrap().len(), 1);
            let given = scope(None, Some("new"), None);
            changed.suspend(suspension(given.clone(), None)).unwrap();
            changed.resume(given).unwrap();
            prop_assert_eq!(changed, orders);
        }

        #[test]
        fn prop_a_file_gives_back_what_was_written(orders in any_orders()) {
            let text = serde_json::to_string(&orders).unwrap();
            prop_assert_eq!(serde_json::from_str::<Orders>(&text).unwrap(), orders);
        }
    }
}
