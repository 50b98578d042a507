//! Keys of what is watched in customers' mail: newsletters without a header, hacked sites.

use super::parse::{mailbox, url};
use super::{Fallback::Is, Section, Shape, key, set};
use crate::config::{Bursts, Newsletters};
use crate::policy::fuse::CALM;

pub(super) const WATCH: Section = Section {
    name: "watch",
    doc: "What customers send besides what they say: a mailing without the newsletter header, and \
          the burst of a hacked site. `bulkhead tenant show` tells what was seen. What is told of \
          stands in the log (`tenant.*`), and goes to `alert_to` and `alert_url`.",
    shape: Shape::Table,
    keys: &[
        key(
            "newsletters",
            Is("\"bulk\""),
            "Many messages alike in a short time, without a header that decides: \"bulk\" (from \
             then on they take the bulk lane, with the reason), \"hold\" (they wait there until \
             somebody has looked and says `bulkhead resume`), or \"off\".",
            |c, v| {
                let words = [
                    ("bulk", Newsletters::Bulk),
                    ("hold", Newsletters::Hold),
                    ("off", Newsletters::Off),
                ];
                set(&mut c.watch.newsletters, v.word(&words))
            },
        ),
        key(
            "newsletter_recipients",
            Is("50"),
            "So many recipients of messages alike make a newsletter,",
            |c, v| set(&mut c.watch.sense.recipients, v.count(5..=100_000)),
        ),
        key(
            "newsletter_within",
            Is("\"5m\""),
            "within this time; from the second day on also more than four times what comes on an \
             average day, so that a shop's orders are none.",
            |c, v| set(&mut c.watch.sense.within, v.duration("10s", "1h")),
        ),
        key(
            "bursts",
            Is("\"suspend\""),
            "Mail as from a hacked site: \"suspend\" (it is taken, and waits until somebody has \
             looked and says `bulkhead tenant resume`), \"alert\" (it goes on; told once, \
             and again where it was calm for an hour), or \"off\".",
            |c, v| {
                let words =
                    [("suspend", Bursts::Suspend), ("alert", Bursts::Alert), ("off", Bursts::Off)];
                set(&mut c.watch.bursts, v.word(&words))?;
                c.watch.fuse.calm = (c.watch.bursts == Bursts::Alert).then_some(CALM);
                Ok(())
            },
        ),
        key(
            "burst_per_minute",
            Is("200"),
            "Recipients of direct mail in a minute that no customer is suspended for; above, where \
             they are five times its own busiest minute.",
            |c, v| set(&mut c.watch.fuse.per_minute, v.count(1..=1_000_000).map(Some)),
        ),
        key("burst_per_hour", Is("2000"), "The same, in an hour.", |c, v| {
            set(&mut c.watch.fuse.per_hour, v.count(1..=10_000_000).map(Some))
        }),
        key(
            "bounce_percent",
            Is("15"),
            "Share of a customer's last recipients that receivers do not know, in either lane, \
             which is too many,",
            |c, v| {
                let percent = v.count(1..=100)?;
                c.watch.fuse.bounces.get_or_insert_default().percent = percent;
                Ok(())
            },
        ),
        key("bounce_least", Is("100"), "of at least so many.", |c, v| {
            let least = v.count(10..=1_000_000)?;
            c.watch.fuse.bounces.get_or_insert_default().least = least;
            Ok(())
        }),
        key(
            "alert_to",
            Is("\"\""),
            "Address that is told by mail, such as \"oncall@example.net\". Empty: the log alone.",
            |c, v| {
                let is_none = v.parsed("\"oncall@example.net\"", |text| Ok(text.is_empty()))?;
                let address = if is_none {
                    Ok(None)
                } else {
                    v.parsed("\"oncall@example.net\"", mailbox).map(Some)
                };
                set(&mut c.watch.alert_to, address)
            },
        ),
        key(
            "alert_url",
            Is("\"\""),
            "Address that alerts are posted to as JSON, such as \"https://chat.example.net/hook\": \
             {\"node\", \"tenant\", \"campaign\", \"why\", \"suspended\", \"at\"}. Tried three \
             times. Empty: none.",
            |c, v| set(&mut c.watch.alert_url, v.parsed("\"https://…\"", url)),
        ),
    ],
};
