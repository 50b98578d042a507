//! The keys of a site's limits, and one of them with its value: as `[sites]` has it in the
//! configuration, as an operator types it, as it goes into a file.
//!
//! # Invariant
//! A [`Setting`] is in range and of its key's kind, wherever it came from.

use super::rate::{MUST_DIFFER, Rate, differ, whole};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// What each number may be.
pub mod range {
    use std::ops::RangeInclusive;

    /// `connections`
    pub const CONNECTIONS: RangeInclusive<u64> = 1..=1_000;
    /// `reserved_for_direct`
    pub const RESERVED_FOR_DIRECT: RangeInclusive<u64> = 0..=999;
    /// `deliveries_per_connection`
    pub const DELIVERIES_PER_CONNECTION: RangeInclusive<u64> = 1..=1_000_000;
    /// `recipients_per_transaction`
    pub const RECIPIENTS_PER_TRANSACTION: RangeInclusive<u64> = 1..=1_000;
}

/// Names one of a site's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKey {
    /// Connections open at once.
    Connections,
    /// Of these, how many from one source.
    ConnectionsPerSource,
    /// Of these, how many bulk mail never takes.
    ReservedForDirect,
    /// Deliveries over one connection.
    DeliveriesPerConnection,
    /// Recipients in one transaction.
    RecipientsPerTransaction,
    /// Messages in windows.
    Rate,
    /// Messages in windows, from one source.
    RatePerSource,
    /// New connections in windows.
    ConnectionRate,
    /// New connections in windows, from one source.
    ConnectionRatePerSource,
}

impl LimitKey {
    /// All, in the order of the configuration.
    pub const ALL: [Self; 9] = [
        Self::Connections,
        Self::ConnectionsPerSource,
        Self::ReservedForDirect,
        Self::DeliveriesPerConnection,
        Self::RecipientsPerTransaction,
        Self::Rate,
        Self::RatePerSource,
        Self::ConnectionRate,
        Self::ConnectionRatePerSource,
    ];

    /// As the configuration calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerSource => "connections_per_source",
            Self::ReservedForDirect => "reserved_for_direct",
            Self::DeliveriesPerConnection => "deliveries_per_connection",
            Self::RecipientsPerTransaction => "recipients_per_transaction",
            Self::Rate => "rate",
            Self::RatePerSource => "rate_per_source",
            Self::ConnectionRate => "connection_rate",
            Self::ConnectionRatePerSource => "connection_rate_per_source",
        }
    }

    /// The key of this name.
    ///
    /// # Errors
    /// Which there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|key| key.as_str() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("{name:?} is not a limit of a site; there are {names}")
        })
    }

    /// Of those that are numbers.
    fn range(self) -> Option<RangeInclusive<u64>> {
        match self {
            Self::Connections | Self::ConnectionsPerSource => Some(range::CONNECTIONS),
            Self::ReservedForDirect => Some(range::RESERVED_FOR_DIRECT),
            Self::DeliveriesPerConnection => Some(range::DELIVERIES_PER_CONNECTION),
            Self::RecipientsPerTransaction => Some(range::RECIPIENTS_PER_TRANSACTION),
            Self::Rate
            | Self::RatePerSource
            | Self::ConnectionRate
            | Self::ConnectionRatePerSource => None,
        }
    }
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A limit's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number.
    Count(u32),
    /// Rates that all hold; none: no limit.
    Rates(Vec<Rate>),
}

/// As an operator types it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Rates(rates) if rates.is_empty() => f.write_str("none"),
            Self::Rates(rates) => {
                f.write_str(&rates.iter().map(Rate::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// A limit and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire")]
pub struct Setting {
    key: LimitKey,
    value: Value,
}

/// A setting that nobody has looked at yet.
#[derive(Deserialize)]
struct Wire {
    key: LimitKey,
    value: Value,
}

impl TryFrom<Wire> for Setting {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        Self::new(wire.key, wire.value)
    }
}

impl Setting {
    /// Checks the value against the key.
    ///
    /// # Errors
    /// What it must be.
    pub fn new(key: LimitKey, value: Value) -> Result<Self, String> {
        let must = |what: &str| Err(format!("{key} = {value}: must be {what}"));
        match (key.range(), &value) {
            (Some(range), Value::Count(count)) if !range.contains(&u64::from(*count)) => {
                must(&format!("{} to {}", range.start(), range.end()))
            }
            (Some(_), Value::Rates(_)) => must("a whole number"),
            (None, Value::Count(_)) => must("a rate, such as 100/s"),
            (None, Value::Rates(rates)) if !differ(rates) => must(MUST_DIFFER),
            _ => Ok(Self { key, value }),
        }
    }

    /// Parses `connections=5`, `rate=100/s,50000/d`, `rate=none`.
    ///
    /// # Errors
    /// A sentence: which keys there are, or what the value must be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!("{text:?} is not key=value, such as rate=100/s"));
        };
        let (key, value) = (LimitKey::parse(name.trim())?, value.trim());
        let value = match key.range() {
            None => Value::Rates(Rate::parse_list(value).map_err(|why| format!("{key}: {why}"))?),
            Some(range) => match whole(value).filter(|n| range.contains(n)).map(u32::try_from) {
                Some(Ok(count)) => Value::Count(count),
                _ => {
                    let (least, most) = (range.start(), range.end());
                    return Err(format!("{key} = {value:?}: must be {least} to {most}"));
                }
            },
        };
        Self::new(key, value)
    }

    /// Which limit.
    #[must_use]
    pub fn key(&self) -> LimitKey {
        self.key
    }

    /// What it is.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_types_is_read_or_refused_with_a_remedy() {
        for text in ["connections=5", "rate=100/s,50000/d", "rate=none", "reserved_for_direct=0"] {
            let setting = Setting::parse(text).unwrap();
            assert_eq!(format!("{}={}", setting.key(), setting.value()), text);
            let json = serde_json::to_string(&setting).unwrap();
            assert_eq!(serde_json::from_str::<Setting>(&json).unwrap(), setting, "{json}");
        }
        for (text, part) in [
            ("connections", "is not key=value"),
            ("conections=5", "there are connections, connections_per_source, "),
            ("connections=0", "connections = \"0\": must be 1 to 1000"),
            ("connections=100/s", "must be 1 to 1000"),
            ("deliveries_per_connection=5000000000", "must be 1 to 1000000"),
            ("rate=5", "rate: \"5\" is not a rate; write it as"),
            ("connection_rate=0/s", "would send nothing"),
            ("rate=1/s,2/s", "rates of different windows"),
        ] {
            let sentence = Setting::parse(text).unwrap_err();
            assert!(sentence.contains(part), "{text}: {sentence}");
        }
    }

    #[test]
    fn nothing_out_of_range_comes_in_by_a_file() {
        let read = |json: &str| serde_json::from_str::<Setting>(json);
        assert!(read(r#"{"key":"connections","value":1000}"#).is_ok());
        for json in [
            r#"{"key":"connections","value":0}"#,
            r#"{"key":"connections","value":["1/s"]}"#,
            r#"{"key":"rate","value":5}"#,
            r#"{"key":"rate","value":["1/s","2/s"]}"#,
            r#"{"key":"rate","value":["none"]}"#,
            r#"{"key":"speed","value":5}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}
