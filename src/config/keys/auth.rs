//! Keys of users who log in.

use super::parse::path;
use super::{Fallback::Is, Section, Shape, key, set};
use crate::config::{PlainText, unit};
use crate::policy::site::Rate;
use crate::policy::site::rate::whole;
use std::time::Duration;

pub(super) const AUTH: Section = Section {
    name: "auth",
    doc: "Users who log in (SMTP AUTH, RFC 4954), and what happens to those who guess passwords.",
    shape: Shape::Table,
    keys: &[
        key(
            "users",
            Is("\"users\""),
            "File of the users, written by `bulkhead user add`; `bulkhead reload` reads it again. \
             A relative path starts at the folder of this file. Without the file, nobody can log \
             in.",
            |c, v| set(&mut c.auth.file, v.parsed("\"users\"", path)),
        ),
        key(
            "plain_text",
            Is("\"never\""),
            "Who may log in without TLS, where others on the way can read the password: \"never\", \
             or \"relay\": clients in `[relay] networks`.",
            |c, v| {
                let words = [("never", PlainText::Never), ("relay", PlainText::Relay)];
                set(&mut c.auth.plain_text, v.word(&words))
            },
        ),
        key(
            "failures",
            Is("\"10/10m\""),
            "So many failed logins of one address (of one IPv6 /64) within a time block it, or \
             \"none\" for no limit. A user who logged in from there lately is not concerned: he \
             has a count of his own.",
            |c, v| set(&mut c.auth.guard.failures, v.parsed("\"10/10m\"", failures)),
        ),
        key(
            "user_failures",
            Is("\"50/1h\""),
            "So many failed logins of one user, from addresses where he is not known, block him \
             there.",
            |c, v| set(&mut c.auth.guard.user_failures, v.parsed("\"50/1h\"", failures)),
        ),
        key(
            "block",
            Is("\"15m\""),
            "How long; each further block within a day is twice as long as the last, up to 24 \
             hours.",
            |c, v| set(&mut c.auth.guard.block, v.duration("1s", "1d")),
        ),
        key("delay", Is("\"1s\""), "Pause before a failed login is answered.", |c, v| {
            set(&mut c.auth.delay, v.duration("0s", "1m"))
        }),
    ],
};

/// `10/10m`, `20/h`, `none`.
fn failures(text: &str) -> Result<Option<Rate>, String> {
    const COUNTS: std::ops::RangeInclusive<u32> = 1..=10_000;
    const TIMES: std::ops::RangeInclusive<u64> = 1..=86_400;
    if text == "none" {
        return Ok(None);
    }
    let read = || {
        let (count, time) = text.split_once('/')?;
        let (count, time) = (count.trim(), time.trim());
        let count = u32::try_from(whole(count)?).ok()?;
        // A unit alone is one of it.
        let time = unit::duration(time).or_else(|_| unit::duration(&format!("1{time}"))).ok()?;
        let fits = COUNTS.contains(&count) && TIMES.contains(&time.as_secs());
        fits.then_some(Rate { count, per: Duration::from_secs(time.as_secs()) })
    };
    read().map(Some).ok_or_else(|| {
        format!(
            "{text:?} is not a number of failures within a time; write 1 to 10000 within \"1s\" to \
             \"1d\" as \"10/10m\" or \"50/1h\", or \"none\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_read_as_people_write_them() {
        let read = |text| failures(text).map(|r| r.map(|r| (r.count, r.per.as_secs())));
        assert_eq!(read("10/10m"), Ok(Some((10, 600))));
        assert_eq!(read("1_000 / 1d"), Ok(Some((1_000, 86_400))));
        assert_eq!(read("20/h"), Ok(Some((20, 3_600))));
        assert_eq!(read("5/min"), Ok(Some((5, 60))));
        assert_eq!(read("none"), Ok(None));
        for text in ["", "10", "0/1h", "10001/1h", "10/", "/1h", "10/0s", "10/2d", "-1/h", "1/w"] {
            assert!(failures(text).is_err(), "{text}");
        }
    }
}
