//! Keys of the delivering side: DNS, connections, sites, retries.

use super::parse::{address, domain, domain_name, socket, source_name, waits};
use super::{
    Fallback::Inherited, Fallback::Is, Fallback::Required, Section, Shape, key, last, set,
};
use crate::config::Tls;
use crate::config::value::Value;
use crate::policy::quota::DomainRule;
use crate::policy::site::setting::range;
use crate::policy::site::{Rate, SiteRule};
use crate::policy::source::SourceRule;

pub(super) const DNS: Section = Section {
    name: "dns",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "servers",
            Is("[]"),
            "Resolvers to ask for MX and addresses, such as [\"127.0.0.1:53\"]. A resolver on this \
             machine makes the first mail to a domain faster. Empty: those of /etc/resolv.conf.",
            |c, v| {
                let each = |v: Value<'_>| v.parsed("\"127.0.0.1:53\"", socket);
                set(&mut c.dns.servers, v.list("\"127.0.0.1:53\"", each))
            },
        ),
        key("timeout", Is("\"5s\""), "Wait for one answer.", |c, v| {
            set(&mut c.dns.timeout, v.duration("100ms", "1m"))
        }),
        key(
            "cache_ttl_min",
            Is("\"10s\""),
            "Answers are kept at least so long: a TTL of 0 must not mean one query for each \
             message.",
            |c, v| set(&mut c.dns.cache_ttl_min, v.duration("0s", "1h")),
        ),
        key("cache_ttl_max", Is("\"1h\""), "And at most so long, whatever their TTL.", |c, v| {
            set(&mut c.dns.cache_ttl_max, v.duration("1s", "1d"))
        }),
        key("cache_size", Is("100000"), "Names kept.", |c, v| {
            set(&mut c.dns.cache_size, v.count(100..=10_000_000))
        }),
    ],
};

pub(super) const DELIVERY: Section = Section {
    name: "delivery",
    doc: "How we talk to receivers. The waits are those of RFC 5321 §4.5.3.2; shorter ones lead to \
          mail that arrives twice.",
    shape: Shape::Table,
    keys: &[
        key("port", Is("25"), "Port of the receiving hosts.", |c, v| {
            set(&mut c.delivery.port, v.count(1..=65_535))
        }),
        key(
            "allow_private",
            Is("false"),
            "Also deliver to loopback and private addresses. Off, so that nobody's DNS can point \
             us at your own network; on for tests, or where your mailboxes are in there.",
            |c, v| set(&mut c.delivery.allow_private, v.flag()),
        ),
        key(
            "tls",
            Is("\"opportunistic\""),
            "STARTTLS: \"opportunistic\" (where offered, without a look at the certificate, RFC \
             7435) or \"off\".",
            |c, v| {
                let words = [("opportunistic", Tls::Opportunistic), ("off", Tls::Off)];
                set(&mut c.delivery.tls, v.word(&words))
            },
        ),
        key(
            "connections",
            Is("1000"),
            "Connections open at once, to all receivers together.",
            |c, v| set(&mut c.delivery.connections, v.count(1..=50_000)),
        ),
        key(
            "learned_connections_min",
            Is("1"),
            "What receivers' refusals teach us never leaves a site fewer connections than these; \
             its own `connections` are the most.",
            |c, v| set(&mut c.delivery.learned_connections_min, v.count(1..=1_000)),
        ),
        key(
            "learned_rate_min",
            Is("\"60/h\""),
            "A receiver's complaint never slows a site below this rate, or \"none\". Where it \
             asks us to stop, we stop.",
            |c, v| set(&mut c.delivery.learned_rate_min, v.parsed("\"60/h\"", Rate::parse)),
        ),
        key("hosts_max", Is("20"), "Addresses tried in one attempt.", |c, v| {
            set(&mut c.delivery.hosts_max, v.count(1..=100))
        }),
        key("connect_timeout", Is("\"30s\""), "Wait for TCP.", |c, v| {
            set(&mut c.delivery.connect_timeout, v.duration("1s", "10m"))
        }),
        key("greeting_timeout", Is("\"5m\""), "Wait for the greeting.", |c, v| {
            set(&mut c.delivery.greeting_timeout, v.duration("1s", "1h"))
        }),
        key(
            "command_timeout",
            Is("\"5m\""),
            "Wait for the reply to EHLO, MAIL, RCPT, RSET.",
            |c, v| set(&mut c.delivery.command_timeout, v.duration("1s", "1h")),
        ),
        key("data_timeout", Is("\"2m\""), "Wait for the reply to DATA.", |c, v| {
            set(&mut c.delivery.data_timeout, v.duration("1s", "1h"))
        }),
        key(
            "block_timeout",
            Is("\"3m\""),
            "Wait until a block of the message is taken.",
            |c, v| set(&mut c.delivery.block_timeout, v.duration("1s", "1h")),
        ),
        key(
            "dot_timeout",
            Is("\"10m\""),
            "Wait for the reply to the last dot. Who gives up earlier sends the message again to a \
             host that may have taken it (RFC 1047).",
            |c, v| set(&mut c.delivery.dot_timeout, v.duration("1s", "1h")),
        ),
        key(
            "transaction_timeout",
            Is("\"1h\""),
            "Longest time one transaction may take in all.",
            |c, v| set(&mut c.delivery.transaction_timeout, v.duration("1s", "1d")),
        ),
        key(
            "idle_timeout",
            Is("\"10s\""),
            "How long a connection is kept for the next message.",
            |c, v| set(&mut c.delivery.idle_timeout, v.duration("0s", "5m")),
        ),
        key(
            "memory",
            Is("\"256 MiB\""),
            "Bytes of messages on their way out that are kept in memory; the others wait on disk.",
            |c, v| set(&mut c.delivery.memory, v.size("1 MiB", "1 TiB")),
        ),
        key(
            "shutdown_timeout",
            Is("\"30s\""),
            "A node that is stopped lets transactions under way end for so long. What is cut off \
             then may be \
             delivered twice.",
            |c, v| set(&mut c.delivery.shutdown_timeout, v.duration("0s", "1h")),
        ),
    ],
};

pub(super) const SOURCES: Section = Section {
    name: "sources",
    doc: "Addresses that mail is sent from, each under a name of its own. Mail goes over any of \
          those that `sources` of its tenant or its lane names, in turn; where a receiver refuses \
          one of them (`try_other_source` of a rule), over the others. Without such a section the \
          system chooses the address, and `hostname` is the name.",
    shape: Shape::Named {
        example: "mx1",
        begin: |c, name| {
            c.source_rules.push(SourceRule { name: source_name(name)?, ..SourceRule::default() });
            Ok(())
        },
    },
    keys: &[
        key(
            "addresses",
            Required("[\"192.0.2.20\", \"2001:db8::20\"]"),
            "This machine's own addresses: one, or one of each family. Receivers of the other \
             family are not reached from here.",
            |c, v| {
                let each = |v: Value<'_>| v.parsed("\"192.0.2.20\"", address);
                last(&mut c.source_rules, v.list("\"192.0.2.20\"", each), |s, all| {
                    s.addresses = all;
                })
            },
        ),
        key(
            "hostname",
            Inherited("\"mx1.example.net\""),
            "What we say in EHLO there: a name that resolves to these addresses, and back.",
            |c, v| {
                let name = v.parsed("\"mx1.example.net\"", domain);
                last(&mut c.source_rules, name, |s, name| s.hostname = Some(name))
            },
        ),
    ],
};

pub(super) const SITES_DEFAULT: Section = Section {
    name: "sites.default",
    doc: "A site is a set of receiving hosts, whichever of the domains it serves a message is for: \
          all domains hosted at Google are one site. These limits hold for every site without an \
          entry of its own.",
    shape: Shape::Table,
    keys: &[
        key(
            "connections",
            Is("10"),
            "Connections open at once, to the site and to any one of its addresses.",
            |c, v| set(&mut c.sites.default.connections, v.count(range::CONNECTIONS)),
        ),
        key(
            "connections_per_source",
            Is("1000"),
            "The same from any one of the [sources].",
            |c, v| {
                let count = v.count(range::CONNECTIONS);
                set(&mut c.sites.default.connections_per_source, count)
            },
        ),
        key(
            "reserved_for_direct",
            Is("2"),
            "Of these, how many newsletters never take, so that direct mail finds one free. \
             Without this key, one less than `connections` where that is smaller.",
            |c, v| {
                set(&mut c.sites.default.reserved_for_direct, v.count(range::RESERVED_FOR_DIRECT))
            },
        ),
        key(
            "deliveries_per_connection",
            Is("100"),
            "Deliveries before a connection is closed.",
            |c, v| {
                set(
                    &mut c.sites.default.deliveries_per_connection,
                    v.count(range::DELIVERIES_PER_CONNECTION),
                )
            },
        ),
        key("recipients_per_transaction", Is("100"), "Recipients in one transaction.", |c, v| {
            set(
                &mut c.sites.default.recipients_per_transaction,
                v.count(range::RECIPIENTS_PER_TRANSACTION),
            )
        }),
        key(
            "rate",
            Is("\"none\""),
            "Messages in a window, one to many recipients counting once: \"100/s\", \"6000/min\", \
             \"5000/h\", \"20000/d\"; several at once as [\"100/s\", \"20000/d\"]; or \"none\" for \
             no limit.",
            |c, v| set(&mut c.sites.default.rates, v.rates()),
        ),
        key(
            "rate_per_source",
            Is("\"none\""),
            "The same for what goes there from any one of the [sources].",
            |c, v| set(&mut c.sites.default.rates_per_source, v.rates()),
        ),
        key("connection_rate", Is("\"none\""), "New connections in a window.", |c, v| {
            set(&mut c.sites.default.connection_rates, v.rates())
        }),
        key("connection_rate_per_source", Is("\"none\""), "The same by source.", |c, v| {
            set(&mut c.sites.default.connection_rates_per_source, v.rates())
        }),
    ],
};

pub(super) const SITES: Section = Section {
    name: "sites",
    doc: "Limits for one site, found by a domain that it serves or by a suffix of the names of its \
          MX hosts. What is not given here is what a big receiver is known to welcome \
          (`bulkhead throttle show NAME` tells), else as in [sites.default]. Where several \
          sections mean one site, as those of two domains with the same MX hosts do, the \
          strictest value of each key counts, and of rates every window.",
    shape: Shape::Named {
        example: "gmail.com",
        begin: |c, name| {
            let name = domain_name(name.trim_start_matches('.'))?;
            c.sites.rules.push(SiteRule { name, ..SiteRule::default() });
            Ok(())
        },
    },
    keys: &[
        key("connections", Inherited("20"), "", |c, v| {
            last(&mut c.sites.rules, v.count(range::CONNECTIONS), |s, n| s.connections = Some(n))
        }),
        key("connections_per_source", Inherited("10"), "", |c, v| {
            last(&mut c.sites.rules, v.count(range::CONNECTIONS), |s, n| {
                s.connections_per_source = Some(n)
            })
        }),
        key("reserved_for_direct", Inherited("4"), "", |c, v| {
            last(&mut c.sites.rules, v.count(range::RESERVED_FOR_DIRECT), |s, n| {
                s.reserved_for_direct = Some(n)
            })
        }),
        key("deliveries_per_connection", Inherited("50"), "", |c, v| {
            last(&mut c.sites.rules, v.count(range::DELIVERIES_PER_CONNECTION), |s, n| {
                s.deliveries_per_connection = Some(n)
            })
        }),
        key("recipients_per_transaction", Inherited("100"), "", |c, v| {
            last(&mut c.sites.rules, v.count(range::RECIPIENTS_PER_TRANSACTION), |s, n| {
                s.recipients_per_transaction = Some(n)
            })
        }),
        key("rate", Inherited("[\"6000/min\", \"500000/d\"]"), "", |c, v| {
            last(&mut c.sites.rules, v.rates(), |s, rates| s.rates = Some(rates))
        }),
        key("rate_per_source", Inherited("\"3000/min\""), "", |c, v| {
            last(&mut c.sites.rules, v.rates(), |s, rates| s.rates_per_source = Some(rates))
        }),
        key("connection_rate", Inherited("\"30/min\""), "", |c, v| {
            last(&mut c.sites.rules, v.rates(), |s, rates| s.connection_rates = Some(rates))
        }),
        key("connection_rate_per_source", Inherited("\"15/min\""), "", |c, v| {
            last(&mut c.sites.rules, v.rates(), |s, rates| {
                s.connection_rates_per_source = Some(rates)
            })
        }),
    ],
};

pub(super) const DOMAINS: Section = Section {
    name: "domains",
    doc: "Limits for mail to one domain, whichever site it goes to, besides the limits of that \
          site, which all of its domains share. Connections, their rate and the deliveries over \
          one are shared by all domains of a site: give those in [sites].",
    shape: Shape::Named {
        example: "example.com",
        begin: |c, name| {
            if name == "default" {
                return Err("what holds for all goes under [sites.default]".to_string());
            }
            c.domains.push(DomainRule { name: domain_name(name)?, ..DomainRule::default() });
            Ok(())
        },
    },
    keys: &[
        key(
            "rate",
            Inherited("[\"60/min\", \"1000/d\"]"),
            "Messages to this domain in a window, as in [sites]; what is more waits in the queue. \
             Newsletters leave a tenth of it to direct mail. Without this key: no limit of its \
             own.",
            |c, v| last(&mut c.domains, v.rates(), |d, rates| d.rates = rates),
        ),
        key(
            "recipients_per_transaction",
            Inherited("10"),
            "Recipients in one transaction that has some at this domain, where that is fewer than \
             its site takes.",
            |c, v| {
                last(&mut c.domains, v.count(range::RECIPIENTS_PER_TRANSACTION), |d, n| {
                    d.recipients_per_transaction = Some(n)
                })
            },
        ),
    ],
};

const WAITS: &str = "Waits after the first, second, … attempt; the last one goes on.";
const JITTER: &str = "Each wait is drawn from ± this share of it (0.0 to 0.5), so that what failed \
                      together does not come back together.";
const EXPIRE: &str = "What is not delivered after this is given up and reported to its sender.";
const DELAY_NOTICE: &str = "After this, senders who asked for it (NOTIFY=DELAY, RFC 3461) are told \
                            that their mail is late; \"none\": never.";

pub(super) const RETRY_DIRECT: Section = Section {
    name: "retry.direct",
    doc: "When deferred direct mail is tried again. Early at first: behind greylisting waits \
          someone with a login code.",
    shape: Shape::Table,
    keys: &[
        key(
            "waits",
            Is("[\"30s\", \"2m\", \"5m\", \"10m\", \"20m\", \"40m\", \"1h\"]"),
            WAITS,
            |c, v| set(&mut c.retry.direct.waits, waits(v)),
        ),
        key("jitter", Is("0.2"), JITTER, |c, v| {
            set(&mut c.retry.direct.jitter, v.share(0.0..=0.5))
        }),
        key("expire", Is("\"5d\""), EXPIRE, |c, v| {
            set(&mut c.retry.direct.expire, v.duration("1s", "30d"))
        }),
        key("delay_notice", Is("\"4h\""), DELAY_NOTICE, |c, v| {
            set(&mut c.retry.direct.delay_notice, v.duration_or_none("1s", "30d"))
        }),
    ],
};

pub(super) const RETRY_BULK: Section = Section {
    name: "retry.bulk",
    doc: "The same for newsletters.",
    shape: Shape::Table,
    keys: &[
        key("waits", Is("[\"10m\", \"20m\", \"40m\", \"1h\", \"2h\", \"4h\"]"), WAITS, |c, v| {
            set(&mut c.retry.bulk.waits, waits(v))
        }),
        key("jitter", Is("0.2"), JITTER, |c, v| set(&mut c.retry.bulk.jitter, v.share(0.0..=0.5))),
        key("expire", Is("\"2d\""), EXPIRE, |c, v| {
            set(&mut c.retry.bulk.expire, v.duration("1s", "30d"))
        }),
        key("delay_notice", Is("\"none\""), DELAY_NOTICE, |c, v| {
            set(&mut c.retry.bulk.delay_notice, v.duration_or_none("1s", "30d"))
        }),
    ],
};
