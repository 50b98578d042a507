//! Values with units: durations, sizes. Pure; every error is a sentence that says what to
//! write.

use crate::policy::site::rate::whole;
use std::time::Duration;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Parses `250ms`, `30s`, `2m`, `1h`, `5d`.
///
/// # Errors
/// What a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration; write it as \"30s\", \"2m\", \"1h\" or \"5d\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => SECOND_MS,
        "m" | "min" => MINUTE_MS,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// Parses `1024`, `64 KiB`, `25 MiB`, `2 GiB` into bytes.
///
/// # Errors
/// What a size looks like; decimal units (`MB`) are refused, since people mean both by them.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size; write it as \"64 KiB\", \"25 MiB\" or \"2 GiB\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let unit_bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_bytes).ok_or_else(wrong)
}

/// Number and unit, with or without a space between them.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((whole(number)?, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_values_with_units() {
        let ms = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("2m"), Ok(120_000));
        assert_eq!(ms("1h"), Ok(3_600_000));
        assert_eq!(ms("5 d"), Ok(432_000_000));
        assert_eq!(ms("0s"), Ok(0));
        assert_eq!(size("1_000"), Ok(1_000));
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("25MiB"), Ok(26_214_400));
    }

    #[test]
    fn refuses_what_has_no_one_meaning() {
        for text in ["", "30", "s", "-1s", "1.5h", "1w", "1h30m", "99999999999999999999s", "٣s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "MiB", "25 MB", "25 mb", "1.5 MiB", "-1", "99999999999 TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(size("25 MB").unwrap_err().contains("25 MiB"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = (duration(&text), size(&text));
        }
    }
}
