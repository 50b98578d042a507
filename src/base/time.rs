//! Points in time, and the one place where a clock is read.
//!
//! Pure code takes [`Timestamp`]s as arguments. Shells hold a [`Clock`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Later than every real point in time: where held deliveries wait.
    pub const NEVER: Self = Self(i64::MAX);

    /// `self + duration`, stopping at [`Timestamp::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(ms))
    }

    /// `self - duration`, stopping at the least point in time.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(ms))
    }

    /// Time from `earlier` to `self`; zero where `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }

    /// Calendar parts in UTC.
    fn civil(self) -> Civil {
        let days = self.0.div_euclid(86_400_000);
        let ms = self.0.rem_euclid(86_400_000);
        // Days to civil date: Howard Hinnant, "chrono-compatible low-level date algorithms".
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        Civil {
            year: yoe + era * 400 + i64::from(month <= 2),
            month,
            day: doy - (153 * mp + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7),
            hour: ms / 3_600_000,
            minute: ms / 60_000 % 60,
            second: ms / 1_000 % 60,
            ms: ms % 1_000,
        }
    }

    /// `Mon, 23 Nov 2026 00:45:28 +0000` (RFC 5322 §3.3).
    #[must_use]
    pub fn rfc5322(self) -> String {
        const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let c = self.civil();
        let name = |list: &[&'static str], n: i64| {
            usize::try_from(n).ok().and_then(|n| list.get(n).copied()).unwrap_or("")
        };
        format!(
            "{}, {} {} {} {:02}:{:02}:{:02} +0000",
            name(&DAYS, c.weekday),
            c.day,
            name(&MONTHS, c.month - 1),
            c.year,
            c.hour,
            c.minute,
            c.second
        )
    }
}

impl fmt::Display for Timestamp {
    /// `2026-11-23T00:45:28.114Z`; `never` for [`Timestamp::NEVER`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER {
            return f.write_str("never");
        }
        let c = self.civil();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            c.year, c.month, c.day, c.hour, c.minute, c.second, c.ms
        )
    }
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    weekday: i64,
    hour: i64,
    minute: i64,
    second: i64,
    ms: i64,
}

/// Where shells ask for the time. Cheap to clone; clones of a simulated clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    #[must_use]
    pub fn simulated(start: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicI64::new(start.0))))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(simulated) => Timestamp(simulated.load(Ordering::Relaxed)),
            None => system_now(),
        }
    }

    /// Moves a simulated clock on; no effect on the machine's.
    pub fn advance(&self, by: Duration) {
        if let Some(simulated) = &self.0 {
            let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
            simulated.fetch_add(ms, Ordering::Relaxed);
        }
    }
}

#[allow(clippy::disallowed_methods)] // The one place.
fn system_now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = since.map_or(0, |d| d.as_millis());
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// `4s`, `4m12s`, `2h14m`, `3d4h`: a duration in the two units that matter, for people.
#[must_use]
pub fn human(duration: Duration) -> String {
    let s = duration.as_secs();
    let (big, big_unit, small, small_unit) = match s {
        0..60 => return format!("{s}s"),
        60..3_600 => (s / 60, 'm', s % 60, 's'),
        3_600..86_400 => (s / 3_600, 'h', s / 60 % 60, 'm'),
        _ => (s / 86_400, 'd', s / 3_600 % 24, 'h'),
    };
    if small == 0 {
        format!("{big}{big_unit}")
    } else {
        format!("{big}{big_unit}{small:02}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_known_dates() {
        for (ms, iso, mail) in [
            (0, "1970-01-01T00:00:00.000Z", "Thu, 1 Jan 1970 00:00:00 +0000"),
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z", "Thu, 29 Feb 2024 12:34:56 +0000"),
            (1_795_394_728_114, "2026-11-23T00:45:28.114Z", "Mon, 23 Nov 2026 00:45:28 +0000"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), iso);
            assert_eq!(Timestamp(ms).rfc5322(), mail);
        }
    }

    #[test]
    fn saturates_at_the_ends() {
        assert_eq!(Timestamp::NEVER.after(Duration::from_secs(1)), Timestamp::NEVER);
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }

    #[test]
    fn writes_durations_for_people() {
        let short = |s| human(Duration::from_secs(s));
        assert_eq!(
            [short(7), short(252), short(8_040), short(3_600), short(273_600)],
            ["7s", "4m12s", "2h14m", "1h", "3d04h"]
        );
    }
}
