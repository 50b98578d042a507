//! The wait that a reply names: `try again in 300 seconds`, `come back in 00:05:00`.
//!
//! Receivers write it as they like, so it is found by its words: a time, shortly behind a word that
//! asks to wait, in the same sentence. `100 mails per 60 seconds` names a rate, and no wait.

use std::time::Duration;

/// Shorter waits are taken for so much: nobody means "at once".
pub(super) const LEAST: Duration = Duration::from_secs(10);
/// Longer ones for so much: mail is given up after days.
pub(super) const MOST: Duration = Duration::from_secs(24 * 3_600);

/// Words that ask to wait.
const ASKS: [&str; 15] = [
    "again",
    "back",
    "delayed",
    "graylisted",
    "graylisting",
    "greylisted",
    "greylisting",
    "reconnect",
    "resend",
    "retried",
    "retry",
    "retrying",
    "try",
    "wait",
    "waiting",
];
/// So many words behind one, the time must stand.
const REACH: usize = 6;
/// What stands before the window of a rate.
const OF_A_RATE: [&str; 6] = ["each", "every", "last", "past", "per", "previous"];

/// The first wait named in `text`, as an amount from [`LEAST`] to [`MOST`].
pub(super) fn named(text: &str) -> Option<Duration> {
    let mut since_asked: Option<usize> = None;
    let mut before = String::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(raw) = words.next() {
        let word = raw.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
        let next = words.peek().copied().unwrap_or_default();
        since_asked = since_asked.map(|n| n + 1).filter(|n| *n <= REACH);
        if ASKS.contains(&word.as_str()) {
            since_asked = Some(0);
        } else if since_asked.is_some()
            && !OF_A_RATE.contains(&before.as_str())
            && let Some(wait) = clock(&word).or_else(|| amount(&word, next))
        {
            return Some(wait.clamp(LEAST, MOST));
        }
        if raw.ends_with(['.', ';', '!', '?']) {
            since_asked = None;
        }
        before = word;
    }
    None
}

/// `00:05:00`
fn clock(word: &str) -> Option<Duration> {
    let mut parts = word.split(':').map(number);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let none_left = parts.next().is_none();
    none_left.then(|| Duration::from_secs(hours * 3_600 + minutes * 60 + seconds))
}

/// `300 seconds`, `5m`
fn amount(word: &str, next: &str) -> Option<Duration> {
    let digits = word.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(word.len());
    let (count, unit) = word.split_at_checked(digits)?;
    let unit = if unit.is_empty() { next } else { unit };
    let letters = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
    let seconds = match unit.get(..letters)?.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        _ => return None,
    };
    number(&count.replace(',', "")).map(|count| Duration::from_secs(count * seconds))
}

/// One to six digits: more is no number of seconds.
fn number(text: &str) -> Option<u64> {
    let fits = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<u64> {
        named(text).map(|wait| wait.as_secs())
    }

    #[test]
    fn waits_are_found_as_receivers_write_them() {
        for (text, expected) in [
            ("Greylisting in action, please come back in 00:05:00", 300),
            ("Greylisted for 5 minutes (see http://isg.example/postgrey)", 300),
            ("<a@b.de>: Recipient address rejected: Greylisted for 300 seconds", 300),
            ("Server busy. Retry in 15 mins, please", 900),
            ("try again after 1 hour.", 3_600),
            ("please wait at least 10min before you reconnect", 600),
            ("Try again in 1,800 second(s)", 1_800),
            ("Please retry your message in approximately 2h", 7_200),
            ("try again in 3 seconds", 10),
            ("try again in 9 days", 86_400),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_numbers_name_no_wait() {
        for text in [
            "Try again later",
            "Rate limit of 100 mails per 60 seconds exceeded, try again later",
            "Try again later. No more than 20 messages per 10 minutes",
            "Please wait. Delisting takes 24 hours",
            "retry: more than 100 in the last 60 seconds",
            "Try again in a few minutes",
            "try again in 1.5 hours",
            "again 12 4.7.28 [192.0.2.7 15] see https://x.example/5m",
            "try again in 99999999999999999999 hours",
            "come back in 05:00",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_amount_is_read_as_written(
            count in 1u64..100_000,
            unit in prop_oneof![Just(("s", 1)), Just((" minutes", 60)), Just((" Hours", 3_600))],
        ) {
            let text = format!("Please try again in {count}{}", unit.0);
            let expected = (count * unit.1).clamp(LEAST.as_secs(), MOST.as_secs());
            prop_assert_eq!(seconds(&text), Some(expected));
        }

        #[test]
        fn any_text_gives_a_wait_in_bounds_or_none(
            text in "((try|again|wait|[0-9:,.]{1,9}|sec|h|per|é|;) ?){0,12}",
        ) {
            prop_assert!(named(&text).is_none_or(|wait| (LEAST..=MOST).contains(&wait)));
        }
    }
}
