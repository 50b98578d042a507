//! Keys of the receiving side: who we are, where we listen, who may relay, what is a newsletter.

use super::parse::{
    header_name, headers, hostname, listen_address, names, networks, optional_path, path,
};
use super::{Fallback::Is, Section, Shape, key, last, set};
use crate::config::{Listen, Role};
use crate::policy::site::Rate;

pub(super) const TOP: Section = Section {
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

pub(super) const LISTEN: Section = Section {
    name: "listen",
    doc: "Where web servers hand over their mail: one [[listen]] for each address and port. \
          \"0.0.0.0:25\" is every IPv4 address of the machine, \"[::]:25\" every address. A socket \
          that systemd has bound to such an address already is taken from it.",
    shape: Shape::List { clear: |c| c.listen.clear(), begin: |c| c.listen.push(Listen::default()) },
    keys: &[
        key(
            "address",
            Is("\"127.0.0.1:2525\""),
            "Address and port; or \"unix:smtp.sock\", a Unix socket for programs on this machine: \
             whoever may open it (its user and its group) may send to anyone. A relative path \
             starts at `data_dir`.",
            |c, v| {
                let address = v.parsed("\"127.0.0.1:2525\"", listen_address);
                last(&mut c.listen, address, |l, a| l.address = a)
            },
        ),
        key(
            "role",
            Is("\"relay\""),
            "\"relay\" (ports 25, 2525): [relay] networks send without a login. \"submission\" \
             (587): everybody logs in, after STARTTLS. \"submissions\" (465): the same, with TLS \
             from the first byte.",
            |c, v| {
                let roles = [
                    ("relay", Role::Relay),
                    ("submission", Role::Submission),
                    ("submissions", Role::Submissions),
                ];
                last(&mut c.listen, v.word(&roles), |l, role| l.role = role)
            },
        ),
        key(
            "proxy_protocol",
            Is("[]"),
            "Load balancers in front of this listener, such as [\"10.0.0.5\"]: what comes from \
             them must begin with a header of HAProxy's PROXY protocol, version 1 or 2, which \
             names the client.",
            |c, v| last(&mut c.listen, networks(v), |l, nets| l.proxy_protocol = nets),
        ),
        key(
            "xclient",
            Is("[]"),
            "Mail proxies that may say by XCLIENT for whom they speak, user and all, and by \
             XFORWARD for the log. Once in a session: what follows is their client's.",
            |c, v| last(&mut c.listen, networks(v), |l, nets| l.xclient = nets),
        ),
    ],
};

pub(super) const TLS: Section = Section {
    name: "tls",
    doc: "The certificate that clients are shown. Read again by `bulkhead reload`; one that is not \
          in order changes nothing.",
    shape: Shape::Table,
    keys: &[
        key(
            "certificate",
            Is("\"\""),
            "PEM file: our certificate, then those that lead to its root. A relative path starts \
             at the folder of this file. Empty: no TLS.",
            |c, v| set(&mut c.tls.certificate, v.parsed("\"fullchain.pem\"", optional_path)),
        ),
        key(
            "key",
            Is("\"\""),
            "PEM file: its private key. Empty: in the file of the certificate.",
            |c, v| set(&mut c.tls.key, v.parsed("\"privkey.pem\"", optional_path)),
        ),
    ],
};

pub(super) const RELAY: Section = Section {
    name: "relay",
    doc: "",
    shape: Shape::Table,
    keys: &[
        key(
            "networks",
            Is("[\"127.0.0.0/8\", \"::1/128\"]"),
            "Clients in these networks may send to anyone; all others are refused every recipient. \
             Add the networks of your web servers, and nobody else's.",
            |c, v| set(&mut c.relay.networks, networks(v)),
        ),
        key(
            "tenant_header",
            Is("\"\""),
            "Header by which your web servers say whose a message is, such as \"X-Site\" with the \
             name of the virtual host; a site's own programs must not be able to set it. It is \
             always removed. Empty: none.",
            |c, v| {
                let is_none = v.parsed("\"X-Site\"", |text| Ok(text.is_empty()))?;
                let name = if is_none { Ok(String::new()) } else { header_name(v) };
                set(&mut c.relay.tenant_header, name)
            },
        ),
        key(
            "tenant_header_from",
            Is("[]"),
            "The web servers that are believed; from others the header says nothing.",
            |c, v| set(&mut c.relay.tenant_header_from, networks(v)),
        ),
    ],
};

pub(super) const LIMITS: Section = Section {
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
            "Longest line of a message that a client may send. Receivers take 1,000 bytes (RFC \
             5321 §4.5.3.1.6), but newsletter tools write longer ones: we encode their parts as \
             quoted-printable or base64 and fold their header lines. What is signed cannot be \
             changed, and is refused with longer lines.",
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
            "session_rate",
            Is("\"none\""),
            "New sessions from one address in `[relay] networks`: \"6000/min\", or \"none\" for no \
             limit. Those who come faster get 421.",
            |c, v| set(&mut c.limits.session_rate, v.parsed("\"6000/min\"", Rate::parse)),
        ),
        key(
            "strangers",
            Is("100"),
            "Of `sessions`, how many clients outside of `[relay] networks` may have; they can send \
             nothing, and are not to stand in the way.",
            |c, v| set(&mut c.limits.strangers, v.count(0..=100_000)),
        ),
        key(
            "stranger_rate",
            Is("\"600/min\""),
            "New sessions from one of their addresses (from one IPv6 /64): \"600/min\", or \
             \"none\" for no limit. Those who come faster get 421.",
            |c, v| set(&mut c.limits.stranger_rate, v.parsed("\"600/min\"", Rate::parse)),
        ),
        key(
            "memory",
            Is("\"256 MiB\""),
            "Memory for messages above 64 KiB in all sessions together: half for those that come \
             in, half for those that are all there. What has no place in the first half, and what \
             is above 1 MiB, goes to disk as it comes.",
            |c, v| set(&mut c.limits.memory, v.size("1 MiB", "1 TiB")),
        ),
        key(
            "disk",
            Is("\"1 GiB\""),
            "That disk, in `data_dir`; beyond it clients get 452. A file there has no name and \
             ends with the process.",
            |c, v| set(&mut c.limits.disk, v.size("1 MiB", "1 TiB")),
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

const SOURCES: &str = "Names of the [sources] that it may be sent from; empty: all of them.";

pub(super) const LANE_DIRECT: Section = Section {
    name: "lanes.direct",
    doc: "The direct lane: password resets, orders, people's letters; everything that is not a \
          newsletter. It goes out at once, ahead of all bulk mail.",
    shape: Shape::Table,
    keys: &[key("sources", Is("[]"), SOURCES, |c, v| set(&mut c.lanes.sources.direct, names(v)))],
};

pub(super) const LANE_BULK: Section = Section {
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
        key("sources", Is("[]"), SOURCES, |c, v| set(&mut c.lanes.sources.bulk, names(v))),
    ],
};
