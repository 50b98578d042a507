//! Bulkhead: an SMTP relay with two lanes and a disk-backed queue.
//!
//! A web server hands over all its mail. What carries the newsletter header waits on disk and
//! drains grouped by receiver, as fast as receivers welcome it; everything else leaves at once,
//! past the newsletters, whatever their number.
//!
//! # Bird's-eye view
//! ```text
//!  clients ──SMTP──▶ receive ──accept──▶ store ◀──claim, settle── deliver ──SMTP──▶ receivers
//!                       │                  ▲                         ▲ │
//!                       │                  │ list, change            │ └─ net: MX, TCP, TLS
//!                       │               control ◀─ cli               │
//!                       └──────── direct mail, already leased ───────┘
//! ```
//! [`smtp`] holds both ends of the protocol and [`policy`] every decision, as state machines and
//! functions without IO that are told the time. [`receive`], [`deliver`] and [`store::embedded`]
//! bring them bytes and events. [`node`] joins the parts; there are two channels of mail between
//! them, both bounded: the hand-off of direct messages, and the store.
//!
//! # The path of a mail
//! 1. [`smtp::server`] reads a session. At each RCPT the shell, `receive::session`, tells the
//!    dispatcher the domain, so that its MX is known before the last dot comes.
//! 2. `receive::intake` gives the whole message its lane and campaign ([`policy::classify`]), its
//!    tenant ([`policy::tenant`]) and its trace fields ([`mail::header`]), and makes its lines
//!    short enough for all receivers ([`mail::lines`]). What comes by HTTP ([`receive::http`]) is
//!    built first, and goes the same way from here on.
//! 3. [`store::Store::accept`] makes it durable; then, and only then, the client hears `250`.
//! 4. *Direct:* it was accepted *already leased* to this node, and goes from memory to the line of
//!    its site; the first connection that is free takes it. Where the hand-off is full, it lies in
//!    the queue as any other delivery. *Bulk:* it is due after the gathering time.
//! 5. [`deliver::core`] looks at the backlog (counts for each scheduled queue, never rows), knows
//!    which domains are one site ([`policy::site`]), and opens as many connections as do the work.
//!    A connection with room is given mail by [`policy::schedule`] and claims it from the store.
//! 6. [`deliver::worker`] sends over a [`smtp::client`] conversation; the next transaction's
//!    commands ride with the last dot.
//! 7. [`policy::verdict`] turns each reply into an outcome and says whose fault it was;
//!    [`deliver::settle`] adds the notifications it causes ([`mail::dsn`]);
//!    [`store::Store::settle`] records both in one commit.
//!
//! # Invariants
//! * What was answered `250` is on disk, and leaves the queue only as delivered, failed or expired
//!   (with a report to the sender, unless he wanted none), or deleted by an operator.
//! * A delivery has at most one lease, and the outcome of a transaction is durable before the next
//!   one's data is sent: a crash leaves at most one transaction for each connection in doubt.
//! * Direct mail waits for no newsletter: it has its own line at each site, connections kept free
//!   for it, and its own hand-off.
//! * Memory is bounded by the configuration, not by the length of the queue or by what a peer does.
//! * No limit of `[sites]` is exceeded, by name of the site or by address of the host, over all
//!   sources or from each; nor one of `[domains]`.
//! * Lines end in CRLF alone, in and out; what could be read in two ways is refused.
//! * Text from outside passes [`base::text::printable`] before it meets a log, a reply or a
//!   terminal.
//!
//! # Layers
//! A module uses only those of lower layers (`tests/tidy.rs` holds this); layers 0 to 2 do no IO.
//!
//! | layer | modules | what they know |
//! |---|---|---|
//! | 0 | [`base`] | time, randomness, ids, addresses |
//! | 1 | [`mail`], [`smtp`] | what a message is made of; both ends of the protocol |
//! | 2 | [`policy`] | lanes, tenants, users, sites, sources, turns, retries, verdicts, rules |
//! | 3 | [`config`], [`observe`] | what the file says; what the log says |
//! | 4 | [`store`], [`net`] | the queue; names, TCP and TLS |
//! | 5 | [`receive`], [`deliver`] | sessions of clients; connections to receivers |
//! | 6 | [`control`] | what an operator asks of a running node |
//! | 7 | [`node`], [`cli`] | the parts joined, started and stopped; the command line |
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod deliver;
pub mod mail;
pub mod net;
pub mod node;
pub mod observe;
pub mod policy;
pub mod receive;
pub mod smtp;
pub mod store;
