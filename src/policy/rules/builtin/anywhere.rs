//! Rules for words that many receivers use. They are asked after those for one receiver.

use super::{Builtin, closed, minutes, slow};
use crate::policy::rules::{Action, Scope};

pub(super) const ALL: &[Builtin] = &[
    Builtin {
        name: "greylisting",
        mx: &[],
        codes: &["4*"],
        text: r"\bgr[ae]y[- ]?(list|trap)|postgrey",
        action: Action::RetryAfter(minutes(5)),
        samples: &[
            (
                "mx.example.net",
                "450 4.2.0 <ann@example.net>: Recipient address rejected: Greylisted, see \
                 http://postgrey.schweikert.ch/help/example.net.html",
            ),
            ("mail.example.org", "451 4.7.1 Greylisting in action, please come back in 00:05:00"),
            (
                "mail.example.com",
                "451 This server employs greylisting as a means of reducing spam. Please resend \
                 e-mail shortly",
            ),
            ("mx1.example.de", "421 4.7.0 You have been graylisted, try again in 10 minutes"),
        ],
    },
    Builtin {
        // What filters behind Postfix, Rspamd and OpenBSD's spamd say when they greylist.
        name: "greylisting-unnamed",
        mx: &[],
        codes: &["45*"],
        text: concat!(
            r"^(service unavailable - |please )?try again later[.!]?$",
            r"|^temporary failure, please try again later\.$",
        ),
        action: Action::RetryAfter(minutes(5)),
        samples: &[
            ("mx.example.net", "451 4.7.1 Service unavailable - try again later"),
            ("mx.example.org", "451 4.7.1 Try again later"),
            ("mx.example.com", "451 Temporary failure, please try again later."),
        ],
    },
    Builtin {
        // How much one connection takes: learned by counting, no complaint.
        name: "session-full",
        mx: &[],
        codes: &["4*"],
        text: "(too many|max(imum)?( number of)?|limit of) (messages?|e?-?mails?|transactions?) \
               (in|on|per|for|during|over) (this |one |a |the |your )?(smtp )?(session|connection)",
        action: Action::Ignore,
        samples: &[
            ("mx.example.net", "421 4.7.0 too many messages in this session"),
            (
                "mta5.am0.yahoodns.net",
                "421 Max message per connection reached, closing transmission channel",
            ),
        ],
    },
    Builtin {
        name: "connections",
        mx: &[],
        codes: &["4*"],
        text: "too many (open |opened |concurrent |simultaneous )?(smtp )?(connections|sessions)\
               |(concurrent|simultaneous) (server |smtp )?(connections?|sessions?)\
               |(connection|session) (rate )?limit",
        action: Action::FewerConnections(minutes(15)),
        samples: &[
            ("mx.example.net", "421 4.7.0 Error: too many connections from 192.0.2.7"),
            (
                "mx.example.org",
                "421 mx.example.org: Too many concurrent SMTP connections from this IP address; \
                 please try again later.",
            ),
            (
                "mx.example.com",
                "450 4.7.1 The maximum number of concurrent connections has been exceeded",
            ),
            ("mx.example.com", "421 4.4.5 Connection rate limit exceeded."),
        ],
    },
    Builtin {
        name: "rate",
        mx: &[],
        codes: &["4*"],
        text: concat!(
            r"rate[- ]?limit|throttl|too many (messages|e?-?mails)",
            r"|message (rate|frequency)|\b(too fast|slow down)\b",
        ),
        action: slow(Scope::Source, minutes(30)),
        samples: &[
            ("mx.example.net", "450 4.7.1 Error: too many messages from 192.0.2.7"),
            ("mx.example.org", "451 4.7.1 Rate limit exceeded, please try again later"),
            ("mx.example.com", "421 4.7.0 mx.example.com You are sending too fast. Slow down"),
            ("mx.example.de", "452 4.3.2 192.0.2.7 Throttled"),
        ],
    },
    Builtin {
        name: "sender-reputation",
        mx: &[],
        codes: &["4*"],
        text: "reputation of .{0,20}domain|domain.{0,15} reputation",
        action: slow(Scope::SenderDomain, minutes(60)),
        samples: &[
            ("mx.example.net", "451 4.7.1 Low reputation of your sending domain shop.example"),
            ("mx.example.org", "421 4.7.0 Deferred: the sender domain has a poor reputation"),
        ],
    },
    Builtin {
        name: "reputation",
        mx: &[],
        codes: &["4*"],
        text: "temporarily (deferred|blocked|limited)|reputation",
        action: slow(Scope::Source, minutes(60)),
        samples: &[
            (
                "mx.example.net",
                "421 4.7.1 Messages from 192.0.2.7 temporarily deferred due to unexpected volume",
            ),
            (
                "mx.example.org",
                "450 4.7.1 Connection refused for now: poor reputation of 192.0.2.7",
            ),
        ],
    },
    Builtin {
        // A domain in the message is listed: the fault of that message, as its code says.
        name: "listed-domain",
        mx: &[],
        codes: &["5*"],
        text: r"\bDBL\b|\bSURBL\b|\bURIBL\b|\brhsbl\b",
        action: Action::Ignore,
        samples: &[(
            "mx01.mail.icloud.com",
            "550 5.7.1 Your email was rejected due to having a domain present in the Spamhaus DBL \
             -- see https://www.spamhaus.org/dbl/",
        )],
    },
    Builtin {
        name: "listed",
        mx: &[],
        codes: &["4*", "5*"],
        text: concat!(
            r"client host .*\bblocked (using|by)\b|zen\.spamhaus",
            r"|spamhaus\.org/(query/ip|sbl|xbl|pbl)|barracudacentral|csi\.cloudmark",
            r"|\b(ip|(\d{1,3}\.){3}\d{1,3})\b.{0,40}",
            r"\b((black|block) ?(list|listed)|dnsbl|rbl)\b",
        ),
        action: closed(minutes(60)),
        samples: &[
            (
                "mx.example.net",
                "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using \
                 zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.7",
            ),
            (
                "mx.example.org",
                "550 5.7.1 Mail from 192.0.2.7 refused, see \
                 https://csi.cloudmark.com/en/reset/?ip=192.0.2.7",
            ),
            ("mx.example.com", "550 Your IP 192.0.2.7 is on our internal blacklist"),
            ("mx.example.de", "554 5.7.1 192.0.2.7 is blacklisted"),
        ],
    },
    Builtin {
        name: "named-wait",
        mx: &[],
        codes: &["4*"],
        text: concat!(
            r"\b(again|retry|back|wait|reconnect|resend)\b.{0,30}",
            r"\b(\d{1,5} ?(s|sec|m|min|h|hour)[a-z]*|\d{2}:\d{2}:\d{2})\b",
        ),
        action: Action::RetryAfter(minutes(10)),
        samples: &[
            ("mx.example.net", "450 4.3.2 Please try again in 20 minutes"),
            ("mx.example.org", "421 4.3.2 Maintenance, come back after 01:00:00"),
        ],
    },
];
