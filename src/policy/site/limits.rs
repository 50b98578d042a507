//! What a site may be burdened with, and who says so.
//!
//! Each limit is decided by the first who states it: an operator's live override, the site's
//! sections of the configuration, its provider, `[sites.default]`. Of several sections the
//! strictest statement counts. [`explain`] says which it was; what connections keep to
//! ([`limits`]) is read off that, so that both cannot differ.

use super::provider::Provider;
use super::setting::{LimitKey, Value};
use super::{Rate, SiteRule, Sites};
use crate::base::time::Timestamp;
use crate::policy::orders::ThrottleOrder;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a site may be burdened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, to the site in all and to any one of its addresses.
    pub connections: u32,
    /// The same from any one source; at most `connections`.
    pub connections_per_source: u32,
    /// Of these, how many bulk mail never takes; less than `connections` unless that is 1.
    pub reserved_for_direct: u32,
    /// Deliveries over one connection before it is closed.
    pub deliveries_per_connection: u32,
    /// Recipients in one transaction.
    pub recipients_per_transaction: u32,
    /// Messages in windows, all of which hold; none: no limit.
    pub rates: Vec<Rate>,
    /// The same from any one source.
    pub rates_per_source: Vec<Rate>,
    /// New connections in windows, all of which hold; none: no limit.
    pub connection_rates: Vec<Rate>,
    /// The same from any one source.
    pub connection_rates_per_source: Vec<Rate>,
}

impl Limits {
    fn get(&self, key: LimitKey) -> Value {
        match key {
            LimitKey::Connections => Value::Count(self.connections),
            LimitKey::ConnectionsPerSource => Value::Count(self.connections_per_source),
            LimitKey::ReservedForDirect => Value::Count(self.reserved_for_direct),
            LimitKey::DeliveriesPerConnection => Value::Count(self.deliveries_per_connection),
            LimitKey::RecipientsPerTransaction => Value::Count(self.recipients_per_transaction),
            LimitKey::Rate => Value::Rates(self.rates.clone()),
            LimitKey::RatePerSource => Value::Rates(self.rates_per_source.clone()),
            LimitKey::ConnectionRate => Value::Rates(self.connection_rates.clone()),
            LimitKey::ConnectionRatePerSource => {
                Value::Rates(self.connection_rates_per_source.clone())
            }
        }
    }

    fn put(&mut self, key: LimitKey, value: &Value) {
        match (key, value) {
            (LimitKey::Connections, Value::Count(n)) => self.connections = *n,
            (LimitKey::ConnectionsPerSource, Value::Count(n)) => self.connections_per_source = *n,
            (LimitKey::ReservedForDirect, Value::Count(n)) => self.reserved_for_direct = *n,
            (LimitKey::DeliveriesPerConnection, Value::Count(n)) => {
                self.deliveries_per_connection = *n;
            }
            (LimitKey::RecipientsPerTransaction, Value::Count(n)) => {
                self.recipients_per_transaction = *n;
            }
            (LimitKey::Rate, Value::Rates(rates)) => self.rates.clone_from(rates),
            (LimitKey::RatePerSource, Value::Rates(rates)) => {
                self.rates_per_source.clone_from(rates);
            }
            (LimitKey::ConnectionRate, Value::Rates(rates)) => {
                self.connection_rates.clone_from(rates);
            }
            (LimitKey::ConnectionRatePerSource, Value::Rates(rates)) => {
                self.connection_rates_per_source.clone_from(rates);
            }
            // A value is of its key's kind.
            (_, Value::Count(_) | Value::Rates(_)) => {}
        }
    }
}

impl SiteRule {
    fn get(&self, key: LimitKey) -> Option<Value> {
        match key {
            LimitKey::Connections => self.connections.map(Value::Count),
            LimitKey::ConnectionsPerSource => self.connections_per_source.map(Value::Count),
            LimitKey::ReservedForDirect => self.reserved_for_direct.map(Value::Count),
            LimitKey::DeliveriesPerConnection => self.deliveries_per_connection.map(Value::Count),
            LimitKey::RecipientsPerTransaction => self.recipients_per_transaction.map(Value::Count),
            LimitKey::Rate => self.rates.clone().map(Value::Rates),
            LimitKey::RatePerSource => self.rates_per_source.clone().map(Value::Rates),
            LimitKey::ConnectionRate => self.connection_rates.clone().map(Value::Rates),
            LimitKey::ConnectionRatePerSource => {
                self.connection_rates_per_source.clone().map(Value::Rates)
            }
        }
    }
}

/// Where a limit comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    /// It is built in; the configuration says nothing of it.
    Default,
    /// The configuration says so.
    Config {
        /// Where; all sections of a site that say the same, or some of its rates each.
        stated: Vec<Stated>,
    },
    /// What this operator of mail hosts is known to welcome.
    Provider {
        /// Its name.
        name: String,
    },
    /// An operator said so while the node ran.
    Live {
        /// The name it was ordered under.
        name: String,
        /// Its end, where it has one.
        #[serde(rename = "until_ms")]
        until: Option<Timestamp>,
    },
    /// `connections` leaves no more than this.
    Fitted,
}

/// A statement in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// `[sites.default]`, `[sites."gmail.com"]`.
    pub section: String,
    /// Of the file, from 1; where it is known.
    pub line: Option<usize>,
}

/// For people.
impl fmt::Display for Stated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} (line {line})", self.section),
            None => f.write_str(&self.section),
        }
    }
}

/// For people.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Config { stated } => {
                f.write_str(&stated.iter().map(Stated::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Provider { name } => write!(f, "provider {name}"),
            Self::Live { name, until: Some(until) } => write!(f, "live ({name}), until {until}"),
            Self::Live { name, until: None } => write!(f, "live ({name}), until cleared"),
            Self::Fitted => f.write_str("by connections"),
        }
    }
}

/// A limit that holds, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// Which.
    pub key: LimitKey,
    /// What it is.
    pub value: Value,
    /// Who says so.
    pub origin: Origin,
}

/// Who may state limits of a site, the last word first.
#[derive(Clone, Copy, Debug)]
pub struct Sayers<'a> {
    /// Overrides that mean it; of two for the same key the later counts.
    pub live: &'a [&'a ThrottleOrder],
    /// Its sections, in the order of the file; of two for the same key the stricter counts.
    pub rules: &'a [&'a SiteRule],
    /// Who runs its hosts.
    pub provider: Option<&'a Provider>,
    /// For `[sites.default]`.
    pub sites: &'a Sites,
}

impl Sayers<'_> {
    fn say(&self, key: LimitKey) -> Effective {
        let live = self.live.iter().rev().find(|order| order.setting.key() == key).map(|order| {
            let origin = Origin::Live { name: order.site.clone(), until: order.until };
            (order.setting.value().clone(), origin)
        });
        let ruled = || {
            let said = self.rules.iter().filter_map(|rule| {
                let section = format!("[sites.\"{}\"]", rule.name);
                Some((rule.get(key)?, Stated { section, line: line(&rule.lines, key) }))
            });
            let (value, stated) = strictest(key, &said.collect::<Vec<_>>())?;
            Some((value, Origin::Config { stated }))
        };
        let provided = || {
            let provider = self.provider?;
            Some((provider.get(key)?, Origin::Provider { name: provider.name.to_string() }))
        };
        let (value, origin) = live.or_else(ruled).or_else(provided).unwrap_or_else(|| {
            let origin = match line(&self.sites.default_lines, key) {
                line @ Some(_) => {
                    let section = "[sites.default]".to_string();
                    Origin::Config { stated: vec![Stated { section, line }] }
                }
                None => Origin::Default,
            };
            (self.sites.default.get(key), origin)
        });
        Effective { key, value, origin }
    }
}

fn line(lines: &[(LimitKey, usize)], key: LimitKey) -> Option<usize> {
    lines.iter().find(|(known, _)| *known == key).map(|(_, line)| *line)
}

/// What keeps to all that is said of one key, and who says that.
fn strictest(key: LimitKey, said: &[(Value, Stated)]) -> Option<(Value, Vec<Stated>)> {
    let values = said.iter().map(|(value, _)| value.clone());
    let strictest = values.reduce(|one, other| stricter(key, one, other))?;
    let says_so = |value: &Value| match (value, &strictest) {
        (Value::Rates(said), Value::Rates(all)) if !all.is_empty() => {
            said.iter().any(|rate| all.contains(rate))
        }
        _ => *value == strictest,
    };
    let stated = said.iter().filter(|(value, _)| says_so(value)).map(|(_, stated)| stated.clone());
    let stated = stated.collect();
    Some((strictest, stated))
}

/// What keeps to both: of rates, the least of each window, and the windows of either.
fn stricter(key: LimitKey, one: Value, other: Value) -> Value {
    match (one, other) {
        // What is kept from newsletters is a limit on them.
        (Value::Count(one), Value::Count(other)) if key == LimitKey::ReservedForDirect => {
            Value::Count(one.max(other))
        }
        (Value::Count(one), Value::Count(other)) => Value::Count(one.min(other)),
        (Value::Rates(mut rates), Value::Rates(others)) => {
            for rate in others {
                match rates.iter_mut().find(|known| known.per == rate.per) {
                    Some(known) => known.count = known.count.min(rate.count),
                    None => rates.push(rate),
                }
            }
            Value::Rates(rates)
        }
        // A value is of its key's kind.
        (one, Value::Count(_) | Value::Rates(_)) => one,
    }
}

/// Every limit of a site, in the order of the configuration. Bulk mail keeps at least one
/// connection, whatever is said.
#[must_use]
pub fn explain(sayers: Sayers<'_>) -> Vec<Effective> {
    let mut all: Vec<Effective> = LimitKey::ALL.iter().map(|key| sayers.say(*key)).collect();
    let count = |effective: &Effective, key| match effective.value {
        Value::Count(n) if effective.key == key => Some(n),
        _ => None,
    };
    let connections = all.iter().find_map(|e| count(e, LimitKey::Connections)).unwrap_or(1);
    let fits = [
        (LimitKey::ConnectionsPerSource, connections),
        (LimitKey::ReservedForDirect, connections.saturating_sub(1)),
    ];
    for effective in &mut all {
        for (key, most) in fits {
            if count(effective, key).is_some_and(|n| n > most) {
                (effective.value, effective.origin) = (Value::Count(most), Origin::Fitted);
            }
        }
    }
    all
}

/// The values alone.
#[must_use]
pub fn limits(all: &[Effective]) -> Limits {
    let mut limits = Limits {
        connections: 1,
        connections_per_source: 1,
        reserved_for_direct: 0,
        deliveries_per_connection: 1,
        recipients_per_transaction: 1,
        rates: Vec::new(),
        rates_per_source: Vec::new(),
        connection_rates: Vec::new(),
        connection_rates_per_source: Vec::new(),
    };
    all.iter().for_each(|effective| limits.put(effective.key, &effective.value));
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::site::setting::Setting;
    use crate::policy::site::sites;

    fn order(setting: &str, until: Option<Timestamp>) -> ThrottleOrder {
        let setting = Setting::parse(setting).unwrap();
        ThrottleOrder { site: "google.com".into(), setting, since: Timestamp(1), until }
    }

    #[track_caller]
    fn check(sayers: Sayers<'_>, key: LimitKey, value: &str, origin: &str) {
        let all = explain(sayers);
        let found = all.iter().find(|effective| effective.key == key).unwrap();
        assert_eq!(
            (found.value.to_string().as_str(), found.origin.to_string().as_str()),
            (value, origin),
            "{key}"
        );
    }

    #[test]
    fn the_nearer_word_counts_and_is_named() {
        use LimitKey::*;
        let mut sites = sites(7, &[]);
        sites.default_lines = vec![(Connections, 3), (RecipientsPerTransaction, 4)];
        let google = Provider::of_host("aspmx.l.google.com");
        let rule = SiteRule {
            name: "gmail.com".into(),
            connections: Some(20),
            lines: vec![(Connections, 9)],
            ..SiteRule::default()
        };
        let bare = Sayers { live: &[], rules: &[], provider: None, sites: &sites };
        check(bare, Connections, "7", "[sites.default] (line 3)");
        check(bare, Rate, "none", "default");
        let known = Sayers { provider: google, ..bare };
        check(known, Connections, "10", "provider gmail.com");
        check(known, RecipientsPerTransaction, "100", "[sites.default] (line 4)");
        let ruled = Sayers { rules: &[&rule], ..known };
        check(ruled, Connections, "20", "[sites.\"gmail.com\"] (line 9)");
        check(ruled, DeliveriesPerConnection, "50", "provider gmail.com");
        let first = order("connections=3", None);
        let second = order("connections=2", Some(Timestamp(1_795_394_728_000)));
        let live = Sayers { live: &[&first], ..ruled };
        check(live, Connections, "3", "live (google.com), until cleared");
        let live = Sayers { live: &[&first, &second], ..ruled };
        check(live, Connections, "2", "live (google.com), until 2026-11-23T00:45:28.000Z");
        check(live, ReservedForDirect, "1", "by connections");
        let limits = limits(&explain(live));
        assert_eq!(
            (limits.connections, limits.reserved_for_direct, limits.deliveries_per_connection),
            (2, 1, 50)
        );
    }

    #[test]
    fn of_several_sections_the_strictest_word_counts_for_each_key() {
        use LimitKey::*;
        let sites = sites(7, &[]);
        let rule = |name: &str, at: usize, texts: &[&str]| {
            let mut rule = SiteRule { name: name.into(), ..SiteRule::default() };
            for (n, text) in texts.iter().enumerate() {
                let setting = Setting::parse(text).unwrap();
                match (setting.key(), setting.value()) {
                    (Connections, Value::Count(n)) => rule.connections = Some(*n),
                    (ReservedForDirect, Value::Count(n)) => rule.reserved_for_direct = Some(*n),
                    (Rate, Value::Rates(rates)) => rule.rates = Some(rates.clone()),
                    _ => panic!("{text}"),
                }
                rule.lines.push((setting.key(), at + n));
            }
            rule
        };
        let a = rule("a", 1, &["connections=9", "reserved_for_direct=1", "rate=9/s,500/h"]);
        let b = rule("b", 11, &["connections=4", "reserved_for_direct=2", "rate=10/s,100/min"]);
        let c = rule("c", 21, &["connections=4", "rate=none"]);
        let google = Provider::of_host("aspmx.l.google.com");
        let said = Sayers { live: &[], rules: &[&a, &b, &c], provider: google, sites: &sites };
        check(said, Connections, "4", "[sites.\"b\"] (line 11), [sites.\"c\"] (line 21)");
        check(said, ReservedForDirect, "2", "[sites.\"b\"] (line 12)");
        let both = "[sites.\"a\"] (line 3), [sites.\"b\"] (line 13)";
        check(said, Rate, "9/s,500/h,100/min", both);
        check(said, DeliveriesPerConnection, "50", "provider gmail.com");
        let open = rule("d", 31, &["rate=none"]);
        let said = Sayers { rules: &[&c, &open], ..said };
        check(said, Rate, "none", "[sites.\"c\"] (line 22), [sites.\"d\"] (line 31)");
    }

    #[test]
    fn each_limit_is_projected_from_what_is_explained() {
        let sites = sites(7, &[]);
        let texts = [
            "connections=9",
            "connections_per_source=4",
            "reserved_for_direct=3",
            "deliveries_per_connection=11",
            "recipients_per_transaction=12",
            "rate=13/s,14/d",
            "rate_per_source=7/s",
            "connection_rate=15/h",
            "connection_rate_per_source=6/h",
        ];
        let orders = texts.map(|text| order(text, None));
        let live: Vec<&ThrottleOrder> = orders.iter().collect();
        let got =
            limits(&explain(Sayers { live: &live, rules: &[], provider: None, sites: &sites }));
        let shown = LimitKey::ALL.map(|key| format!("{key}={}", got.get(key)));
        assert_eq!(shown, texts);
        let none = Sayers { live: &[], rules: &[], provider: None, sites: &sites };
        let fitted = Limits { connections_per_source: 7, ..sites.default.clone() };
        assert_eq!(limits(&explain(none)), fitted);
    }
}
