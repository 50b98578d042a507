//! Every key of the configuration, declared once: section, name, default, documentation, reader.
//!
//! The strict reader, the suggestions for misspelt keys, `config show`, and config.toml itself
//! ([`super::reference`]) all come from [`SECTIONS`]. The order here is the order of config.toml.

use super::value::{Read, Value};
use super::{Config, Engine, Listen, Tls, unit};
use crate::base::address::Domain;
use crate::base::network::Networks;
use crate::policy::classify::HeaderRule;
use crate::policy::site::SiteRule;
use crate::policy::tenant::TenantRule;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// A `[section]` and its keys.
pub(super) struct Section {
    /// `limits`, `lanes.bulk`; empty for the top of the file; the part before the name for
    /// [`Shape::Named`].
    pub(super) name: &'static str,
    /// What it is for; paragraphs apart by line ends.
    pub(super) doc: &'static str,
    pub(super) shape: Shape,
    pub(super) keys: &'static [Key],
}

/// How often a section stands in the file.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// `[name]`, once.
    Table,
    /// `[[name]]`, any number; what the file says replaces the default.
    List { clear: fn(&mut Config), begin: fn(&mut Config) },
    /// `[name."gmail.com"]`, any number. The example names one in config.toml.
    Named { example: &'static str, begin: fn(&mut Config, &str) -> Result<(), String> },
}

/// One key.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) default: Fallback,
    pub(super) doc: &'static str,
    pub(super) read: fn(&mut Config, Value<'_>) -> Read<()>,
}

/// What holds where the file says nothing. Texts are TOML.
#[derive(Clone, Copy)]
pub(super) enum Fallback {
    /// This value.
    Is(&'static str),
    /// Another section's value; the example stands in config.toml, commented out.
    Inherited(&'static str),
    /// Nothing: a section without this key is wrong. The example stands in config.toml.
    Required(&'static str),
}

use Fallback::{Inherited, Is, Required};

/// All of them.
pub(super) const SECTIONS: &[Section] = &[
    TOP,
    LISTEN,
    RELAY,
    LIMITS,
    LANE_DIRECT,
    LANE_BULK,
    TENANTS,
    DNS,
    DELIVERY,
    SITES_DEFAULT,
    SITES,
    RETRY_DIRECT,
    RETRY_BULK,
    CONTROL,
    STORE,
    LOG,
];

const fn key(
    name: &'static str,
    default: Fallback,
    doc: &'static str,
    read: fn(&mut Config, Value<'_>) -> Read<()>,
) -> Key {
    Key { name, default, doc, read }
}

fn set<T>(slot: &mut T, value: Read<T>) -> Read<()> {
    value.map(|value| *slot = value)
}

/// Into the section begun last.
fn last<S, T>(list: &mut [S], value: Read<T>, put: fn(&mut S, T)) -> Read<()> {
    let value = value?;
    if let Some(section) = list.last_mut() {
        put(section, value);
    }
    Ok(())
}

const TOP: Section = Section {
    name: "",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "hostname",
            Is("\"\""),
            "Our name in the SMTP banner, in EHLO, in Received and Message-ID fields. Receivers \
             check that it resolves to the address we send from, and back. Empty: the machine's \
             host name.",
            |c, v| match v
                .parsed("\"relay.example.net\"", |t| hostname(t).map_err(|e| e.to_string()))?
            {
                Some(name) => set(&mut c.hostname, Ok(name)),
                None => Ok(()),
            },
        ),
        key(
            "data_dir",
            Is("\"data\""),
            "Folder of the queue, on a disk that keeps what it has synced. A relative path starts \
             at the folder of this file.",
            |c, v| set(&mut c.data_dir, v.parsed("\"/var/lib/bulkhead\"", path)),
        ),
    ],
};

const LISTEN: Section = Section {
    name: "listen",
    doc: "Where web servers hand over their mail: one [[listen]] for each address and port. \
          \"0.0.0.0:25\" is every IPv4 address of the machine, \"[::]:25\" every address.",
    shape: Shape::List {
        clear: |c| c.listen.clear(),
        begin: |c| c.listen.push(Listen { address: (Ipv4Addr::LOCALHOST, 0).into() }),
    },
    keys: &[key("address", Is("\"127.0.0.1:2525\""), "Address and port.", |c, v| {
        last(&mut c.listen, v.parsed("\"127.0.0.1:2525\"", socket), |l, a| l.address = a)
    })],
};

const RELAY: Section = Section {
    name: "relay",
    doc: "",
    shape: Shape::Table,
    keys: &[key(
        "networks",
        Is("[\"127.0.0.0/8\", \"::1/128\"]"),
        "Clients in these networks may send to anyone; all others are refused every recipient. Add \
         the networks of your web servers, and nobody else's.",
        |c, v| set(&mut c.relay.networks, networks(v)),
    )],
};

const LIMITS: Section = Section {
    name: "limits",
    doc: "What one message, one session and one client may take. Hosted sites get hacked: these \
          limits keep one of them from hurting the others.",
    shape: Shape::Table,
    keys: &[
        key(
            "message_size",
            Is("\"50 MiB\""),
            "Largest message, as announced by SIZE (RFC 1870).",
            |c, v| set(&mut c.limits.message_size, v.size("1 KiB", "2 GiB")),
        ),
        key(
            "recipients",
            Is("1000"),
            "Recipients of one message, as announced by LIMITS RCPTMAX (RFC 9422). Clients send \
             the rest in a further transaction.",
            |c, v| set(&mut c.limits.recipients, v.count(1..=100_000)),
        ),
        key(
            "line_length",
            Is("\"100 KiB\""),
            "Longest line of a message. RFC 5321 §4.5.3.1.6 allows 1,000 bytes, but newsletter \
             tools write longer ones, and we relay the bytes as they are.",
            |c, v| set(&mut c.limits.line_length, v.size("1000", "10 MiB")),
        ),
        key("header_size", Is("\"256 KiB\""), "Largest header section.", |c, v| {
            set(&mut c.limits.header_size, v.size("1 KiB", "10 MiB"))
        }),
        key(
            "hops",
            Is("100"),
            "Received fields a message may have before we take it to run in circles (RFC 5321 \
             §6.3).",
            |c, v| set(&mut c.limits.hops, v.count(1..=1_000)),
        ),
        key("messages", Is("10000"), "Messages in one session (LIMITS MAILMAX).", |c, v| {
            set(&mut c.limits.messages, v.count(1..=10_000_000))
        }),
        key("commands", Is("100000"), "Commands in one session.", |c, v| {
            set(&mut c.limits.commands, v.count(10..=100_000_000))
        }),
        key("errors", Is("20"), "Replies 4xx and 5xx in one session before it ends.", |c, v| {
            set(&mut c.limits.errors, v.count(1..=10_000))
        }),
        key("sessions", Is("1000"), "Sessions open at once; further clients get 421.", |c, v| {
            set(&mut c.limits.sessions, v.count(1..=100_000))
        }),
        key("sessions_per_address", Is("200"), "Of these, from one client address.", |c, v| {
            set(&mut c.limits.sessions_per_address, v.count(1..=100_000))
        }),
        key(
            "memory",
            Is("\"256 MiB\""),
            "Memory for messages being received, in all sessions together; beyond it clients get \
             452.",
            |c, v| set(&mut c.limits.memory, v.size("1 MiB", "1 TiB")),
        ),
        key(
            "command_timeout",
            Is("\"5m\""),
            "Wait for a client's next command (RFC 5321 §4.5.3.2.7).",
            |c, v| set(&mut c.limits.command_timeout, v.duration("1s", "1h")),
        ),
        key("data_timeout", Is("\"3m\""), "Wait for the next bytes of a message.", |c, v| {
            set(&mut c.limits.data_timeout, v.duration("1s", "1h"))
        }),
        key(
            "message_timeout",
            Is("\"1h\""),
            "Longest time from DATA to the last dot: ends clients that drip a byte now and then.",
            |c, v| set(&mut c.limits.message_timeout, v.duration("1s", "1d")),
        ),
    ],
};

const LANE_DIRECT: Section = Section {
    name: "lanes.direct",
    doc: "The direct lane: password resets, orders, people's letters; everything that is not a \
          newsletter. It goes out at once, ahead of all bulk mail. Nothing to set.",
    shape: Shape::Table,
    keys: &[],
};

const LANE_BULK: Section = Section {
    name: "lanes.bulk",
    doc: "The bulk lane: newsletters wait on disk and drain grouped by receiver, as fast as \
          receivers welcome.",
    shape: Shape::Table,
    keys: &[
        key(
            "headers",
            Is("[\"X-Newsletter\"]"),
            "A message with one of these headers is a newsletter; the first in the list that the \
             message has decides. Names without regard to case.\n\"X-Newsletter\" alone: the \
             values no, 0 and false mean direct; yes, 1 and true mean bulk; any other value means \
             bulk too and names the campaign.\n\"Precedence: bulk\" with a pattern: bulk where the \
             value matches; * stands for any text.\nTo catch newsletters of tools that do not know \
             our header:\nheaders = [\"X-Newsletter\", \"List-Unsubscribe: *\", \"Precedence: \
             bulk\"]",
            |c, v| set(&mut c.lanes.rules.headers, headers(v)),
        ),
        key(
            "strip",
            Is("[]"),
            "Headers removed before delivery, such as [\"X-Newsletter\"]. Nothing else in a \
             message is changed.",
            |c, v| set(&mut c.lanes.rules.strip, v.list("\"X-Newsletter\"", header_name)),
        ),
        key(
            "gather",
            Is("\"30s\""),
            "How long a newsletter message may wait so that others for the same receiver can join \
             it (\"0s\" to \"1h\"). Longer: fewer connections. Customers accept 15 to 30 minutes \
             in total.",
            |c, v| set(&mut c.lanes.gather, v.duration("0s", "1h")),
        ),
    ],
};

const TENANTS: Section = Section {
    name: "tenants",
    doc: "Your customers, so that they take turns at each receiver: a mailing of half a million \
          from one does not delay the 200 letters of another. Without an entry, a message belongs \
          to the organisational domain of its reverse-path, or to its client's address. One \
          [[tenants]] for each.",
    shape: Shape::List {
        clear: |c| c.tenants.clear(),
        begin: |c| {
            let networks = Networks::default();
            let tenant =
                TenantRule { name: String::new(), networks, sender_domains: Vec::new(), weight: 1 };
            c.tenants.push(tenant);
        },
    },
    keys: &[
        key("name", Required("\"shop\""), "In `queue` output and logs.", |c, v| {
            last(&mut c.tenants, v.parsed("\"shop\"", tenant_name), |t, name| t.name = name)
        }),
        key("networks", Is("[]"), "Clients that are this customer's own.", |c, v| {
            last(&mut c.tenants, networks(v), |t, nets| t.networks = nets)
        }),
        key(
            "sender_domains",
            Is("[]"),
            "Reverse-paths that are this customer's own: these domains and those below them.",
            |c, v| {
                let domains =
                    v.list("\"shop.example\"", |v| v.parsed("\"shop.example\"", domain_name));
                last(&mut c.tenants, domains, |t, domains| t.sender_domains = domains)
            },
        ),
        key(
            "weight",
            Is("1"),
            "Share against other customers: 2 gets twice the turns of 1.",
            |c, v| last(&mut c.tenants, v.count(1..=1_000), |t, weight| t.weight = weight),
        ),
    ],
};

const DNS: Section = Section {
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

const DELIVERY: Section = Section {
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
    ],
};

const SITES_DEFAULT: Section = Section {
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
            |c, v| set(&mut c.sites.default.connections, v.count(1..=1_000)),
        ),
        key(
            "reserved_for_direct",
            Is("2"),
            "Of these, how many newsletters never take, so that direct mail finds one free. \
             Without this key, one less than `connections` where that is smaller.",
            |c, v| set(&mut c.sites.default.reserved_for_direct, v.count(0..=999)),
        ),
        key(
            "deliveries_per_connection",
            Is("100"),
            "Deliveries before a connection is closed.",
            |c, v| set(&mut c.sites.default.deliveries_per_connection, v.count(1..=1_000_000)),
        ),
        key("recipients_per_transaction", Is("100"), "Recipients in one transaction.", |c, v| {
            set(&mut c.sites.default.recipients_per_transaction, v.count(1..=1_000))
        }),
        key(
            "rate",
            Is("\"none\""),
            "Deliveries in a window: \"100/s\", \"6000/min\", \"5000/h\", \"20000/d\", or \"none\" \
             for no limit.",
            |c, v| set(&mut c.sites.default.rate, v.parsed("\"100/s\"", unit::rate)),
        ),
    ],
};

const SITES: Section = Section {
    name: "sites",
    doc: "Limits for one site, found by a domain that it serves or by a suffix of the names of its \
          MX hosts. What is not given here is as in [sites.default].",
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
            last(&mut c.sites.rules, v.count(1..=1_000), |s, n| s.connections = Some(n))
        }),
        key("reserved_for_direct", Inherited("4"), "", |c, v| {
            last(&mut c.sites.rules, v.count(0..=999), |s, n| s.reserved_for_direct = Some(n))
        }),
        key("deliveries_per_connection", Inherited("50"), "", |c, v| {
            last(&mut c.sites.rules, v.count(1..=1_000_000), |s, n| {
                s.deliveries_per_connection = Some(n)
            })
        }),
        key("recipients_per_transaction", Inherited("100"), "", |c, v| {
            last(&mut c.sites.rules, v.count(1..=1_000), |s, n| {
                s.recipients_per_transaction = Some(n)
            })
        }),
        key("rate", Inherited("\"6000/min\""), "", |c, v| {
            last(&mut c.sites.rules, v.parsed("\"100/s\"", unit::rate), |s, rate| {
                s.rate = Some(rate)
            })
        }),
    ],
};

const WAITS: &str = "Waits after the first, second, … attempt; the last one goes on.";
const JITTER: &str = "Each wait is drawn from ± this share of it (0.0 to 0.5), so that what failed \
                      together does not come back together.";
const EXPIRE: &str = "What is not delivered after this is given up and reported to its sender.";
const DELAY_NOTICE: &str = "After this, senders who asked for it (NOTIFY=DELAY, RFC 3461) are told \
                            that their mail is late; \"none\": never.";

const RETRY_DIRECT: Section = Section {
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
            set(&mut c.retry.direct.expire, v.duration("1m", "30d"))
        }),
        key("delay_notice", Is("\"4h\""), DELAY_NOTICE, |c, v| {
            set(&mut c.retry.direct.delay_notice, v.duration_or_none("1m", "30d"))
        }),
    ],
};

const RETRY_BULK: Section = Section {
    name: "retry.bulk",
    doc: "The same for newsletters.",
    shape: Shape::Table,
    keys: &[
        key("waits", Is("[\"10m\", \"20m\", \"40m\", \"1h\", \"2h\", \"4h\"]"), WAITS, |c, v| {
            set(&mut c.retry.bulk.waits, waits(v))
        }),
        key("jitter", Is("0.2"), JITTER, |c, v| set(&mut c.retry.bulk.jitter, v.share(0.0..=0.5))),
        key("expire", Is("\"2d\""), EXPIRE, |c, v| {
            set(&mut c.retry.bulk.expire, v.duration("1m", "30d"))
        }),
        key("delay_notice", Is("\"none\""), DELAY_NOTICE, |c, v| {
            set(&mut c.retry.bulk.delay_notice, v.duration_or_none("1m", "30d"))
        }),
    ],
};

const CONTROL: Section = Section {
    name: "control",
    doc: "",
    shape: Shape::Table,
    keys: &[key(
        "socket",
        Is("\"control.sock\""),
        "Unix socket by which `bulkhead queue` talks to the node; only its user may open it. A \
         relative path starts at `data_dir`.",
        |c, v| set(&mut c.control.socket, v.parsed("\"control.sock\"", path)),
    )],
};

const STORE: Section = Section {
    name: "store",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "engine",
            Is("\"sqlite\""),
            "\"sqlite\" keeps the queue on disk. \"memory\" loses it when the node stops: for \
             experiments alone.",
            |c, v| {
                let words = [("sqlite", Engine::Sqlite), ("memory", Engine::Memory)];
                set(&mut c.store.engine, v.word(&words))
            },
        ),
        key(
            "free_space_min",
            Is("\"256 MiB\""),
            "With less free space than this under `data_dir`, new mail is refused with 452 and \
             clients keep it.",
            |c, v| set(&mut c.store.free_space_min, v.size("0", "1 TiB")),
        ),
    ],
};

const LOG: Section = Section {
    name: "log",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "format",
            Is("\"text\""),
            "On stderr: \"text\" for people, \"json\" for collectors.",
            |c, v| set(&mut c.log.json, v.word(&[("text", false), ("json", true)])),
        ),
        key(
            "level",
            Is("\"info\""),
            "\"error\", \"warn\", \"info\", \"debug\", \"trace\"; or by module, \
             \"info,bulkhead::deliver=debug\".",
            |c, v| set(&mut c.log.level, v.parsed("\"info\"", level)),
        ),
    ],
};

/// `None` for the machine's own.
fn hostname(text: &str) -> Result<Option<Domain>, String> {
    if text.is_empty() { Ok(None) } else { domain(text).map(Some) }
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| format!("{text:?} is not a host name: {error}"))
}

fn domain_name(text: &str) -> Result<String, String> {
    domain(text).map(|domain| domain.as_str().to_string())
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a path"));
    }
    Ok(PathBuf::from(text))
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address with a port; write it as 127.0.0.1:25 or [::1]:25")
    })
}

fn tenant_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_string())
    } else {
        Err(format!("{text:?} is not a tenant's name; write 1 to 64 letters, digits, or - _ . @"))
    }
}

fn networks(value: Value<'_>) -> Read<Networks> {
    let each = |v: Value<'_>| v.parsed("\"10.0.0.0/8\"", Networks::parse_one);
    value.list("\"10.0.0.0/8\"", each).map(Networks::new)
}

fn headers(value: Value<'_>) -> Read<Vec<HeaderRule>> {
    value.list("\"X-Newsletter\"", |v| v.parsed("\"X-Newsletter\"", HeaderRule::parse))
}

fn header_name(value: Value<'_>) -> Read<String> {
    value.parsed("\"X-Newsletter\"", |text| match HeaderRule::parse(text)? {
        HeaderRule { name, pattern: None } => Ok(name.to_lowercase()),
        HeaderRule { name, .. } => {
            Err(format!("{text:?} has a pattern; strip goes by name, write {name:?}"))
        }
    })
}

fn waits(value: Value<'_>) -> Read<Vec<std::time::Duration>> {
    let waits = value.list("\"30s\", \"2m\"", |v| v.duration("1s", "1d"))?;
    if waits.is_empty() {
        value.said("is empty; write at least one wait, such as [\"10m\"]")
    } else {
        Ok(waits)
    }
}

/// A level, or `target=level`; several apart by commas.
fn level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let fits = |part: &str| {
        let (target, level) = part.rsplit_once('=').unwrap_or(("bulkhead", part));
        let target_fits = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
        !target.is_empty() && target.chars().all(target_fits) && LEVELS.contains(&level)
    };
    if text.split(',').all(fits) {
        Ok(text.to_string())
    } else {
        Err(format!("{text:?} is not a level; write one of {}", LEVELS.join(", ")))
    }
}
