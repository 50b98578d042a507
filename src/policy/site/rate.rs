//! Rates: so many in a window, as people write them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What several rates for one thing must be.
pub const MUST_DIFFER: &str = "rates of different windows: of two for the same, one never counts";

/// So many in a window: `100/s`, `6000/min`, `5000/h`, `20000/d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// Length of the window.
    pub per: Duration,
}

impl Rate {
    /// Parses `100/s`, `6000/min`, `5000/h`, `20000/d`; `none` is no limit.
    ///
    /// # Errors
    /// What a rate looks like, and that none may be zero.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if text == "none" {
            return Ok(None);
        }
        let wrong = || {
            format!(
                "{text:?} is not a rate; write it as \"100/s\", \"6000/min\", \"5000/h\" or \
                 \"none\""
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per_secs = match unit.trim() {
            "s" => 1,
            "min" | "m" => 60,
            "h" => 3_600,
            "d" | "day" => 86_400,
            _ => return Err(wrong()),
        };
        match whole(count.trim()).map(u32::try_from) {
            Some(Ok(0)) => {
                Err(format!("{text:?} would send nothing; must be at least 1 in the window"))
            }
            Some(Ok(count)) => Ok(Some(Self { count, per: Duration::from_secs(per_secs) })),
            _ => Err(wrong()),
        }
    }

    /// Messages in an hour at this rate; at least 1.
    #[must_use]
    pub fn per_hour(self) -> u64 {
        (u64::from(self.count) * 3_600 / self.per.as_secs().max(1)).max(1)
    }

    /// Parses several, apart by commas (`100/s,50000/d`), or `none`.
    ///
    /// # Errors
    /// As [`Rate::parse`]; or [`MUST_DIFFER`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let mut rates = Vec::new();
        for part in &parts {
            match Self::parse(part)? {
                Some(rate) => rates.push(rate),
                None if parts.len() == 1 => {}
                None => return Err("\"none\" stands alone".to_string()),
            }
        }
        if differ(&rates) { Ok(rates) } else { Err(format!("must be {MUST_DIFFER}")) }
    }
}

/// True where no two are for the same window.
#[must_use]
pub fn differ(rates: &[Rate]) -> bool {
    rates.iter().enumerate().all(|(n, rate)| rates.iter().take(n).all(|r| r.per != rate.per))
}

/// Digits as a number, with `_` between thousands as TOML has it.
#[must_use]
pub fn whole(text: &str) -> Option<u64> {
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// As it is written in the configuration.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per.as_secs() {
            1 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/min", self.count),
            3_600 => write!(f, "{}/h", self.count),
            86_400 => write!(f, "{}/d", self.count),
            _ => write!(f, "{}/{:?}", self.count, self.per),
        }
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)?.ok_or_else(|| "\"none\" is no rate".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_read_as_people_write_it() {
        let window = |text: &str| Rate::parse(text).map(|r| r.map(|r| (r.count, r.per.as_secs())));
        assert_eq!(window("100/s"), Ok(Some((100, 1))));
        assert_eq!(window("6000/min"), Ok(Some((6_000, 60))));
        assert_eq!(window("5000/h"), Ok(Some((5_000, 3_600))));
        assert_eq!(window("20_000 / d"), Ok(Some((20_000, 86_400))));
        assert_eq!(window("20000/day"), Ok(Some((20_000, 86_400))));
        assert_eq!(window("none"), Ok(None));
        for text in ["100/s", "6000/min", "5000/h", "20000/d"] {
            assert_eq!(Rate::parse(text).unwrap().unwrap().to_string(), text);
        }
        for text in ["", "100", "/s", "1/w", "-1/s", "1/2s", "5000000000/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
        assert!(Rate::parse("0/s").unwrap_err().contains("at least 1"));
    }

    #[test]
    fn several_are_for_different_windows() {
        let shown = |text| {
            let rates = Rate::parse_list(text)?;
            Ok(rates.iter().map(Rate::to_string).collect::<Vec<_>>())
        };
        assert_eq!(shown("100/s, 50000/d"), Ok(vec!["100/s".into(), "50000/d".into()]));
        assert_eq!(shown("none"), Ok(vec![]));
        assert_eq!(shown("1/s,none"), Err("\"none\" stands alone".to_string()));
        assert_eq!(shown("1/m,2/min"), Err(format!("must be {MUST_DIFFER}")));
        assert!(shown("").is_err() && shown("1/s,").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = Rate::parse_list(&text);
        }
    }
}
