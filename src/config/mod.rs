//! Layer 3: the configuration: declared keys, a strict reader, checked values.

use crate::base::address::Domain;
use crate::base::network::Networks;
use crate::policy::classify::Rules;
use crate::policy::retry::Schedule;
use crate::policy::site::{Limits, SiteRule};
use crate::policy::tenant::TenantRule;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A checked configuration. One field per section of config.toml.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name in banner, EHLO, Received and Message-ID. Default: the machine's host name.
    pub hostname: Domain,
    /// Where the queue lives; relative to the config file's folder.
    pub data_dir: PathBuf,
    /// SMTP listeners; at least one.
    pub listen: Vec<Listen>,
    /// Who may relay.
    pub relay: Relay,
    /// What the receiving side allows.
    pub limits: ReceiveLimits,
    /// The two lanes.
    pub lanes: Lanes,
    /// Hosting customers.
    pub tenants: Vec<TenantRule>,
    /// Resolver.
    pub dns: Dns,
    /// The delivering side.
    pub delivery: Delivery,
    /// Limits of sites.
    pub sites: Sites,
    /// Retry schedules.
    pub retry: Retry,
    /// Control socket.
    pub control: Control,
    /// The queue's engine.
    pub store: Store,
    /// Logging.
    pub log: Log,
}

/// `[[listen]]`
#[derive(Clone, Debug)]
pub struct Listen {
    /// Address and port.
    pub address: SocketAddr,
}

/// `[relay]`
#[derive(Clone, Debug)]
pub struct Relay {
    /// Clients that may send to anyone; all others may send to no one.
    pub networks: Networks,
}

/// `[limits]`: what one client, one session and one message may take.
#[derive(Clone, Debug)]
pub struct ReceiveLimits {
    /// Bytes of one message (SIZE, RFC 1870). Default 50 MiB.
    pub message_size: u64,
    /// Recipients of one message (RFC 9422 RCPTMAX). Default 1,000.
    pub recipients: usize,
    /// Bytes of a line of the message with its CRLF. Default 1,000 is RFC 5321 §4.5.3.1.6; ours is 100 KiB,
    /// since newsletter tools write long lines and the bytes are relayed untouched.
    pub line_length: usize,
    /// Bytes of the header section. Default 256 KiB.
    pub header_size: usize,
    /// `Received:` fields before a loop is assumed (RFC 5321 §6.3). Default 100.
    pub hops: usize,
    /// Commands in one session. Default 100,000.
    pub commands: u32,
    /// Replies 4xx and 5xx to commands in one session before it ends. Default 20 (1,000 for refused recipients counts them as one kind).
    pub errors: u32,
    /// Messages in one session (RFC 9422 MAILMAX). Default 10,000.
    pub messages: u32,
    /// Sessions in all. Default 1,000.
    pub sessions: usize,
    /// Sessions of one client address. Default 200.
    pub sessions_per_address: usize,
    /// Bytes of messages that are being received, in all sessions together. Default 256 MiB.
    pub memory: u64,
    /// Wait for a command (RFC 5321 §4.5.3.2.7). Default 5 min.
    pub command_timeout: Duration,
    /// Wait for the next block of data (§4.5.3.2.5). Default 3 min.
    pub data_timeout: Duration,
    /// Longest time a message may take from DATA to its end. Default 1 h.
    pub message_timeout: Duration,
}

/// `[lanes.*]`
#[derive(Clone, Debug)]
pub struct Lanes {
    /// `[lanes.bulk] headers, strip`
    pub rules: Rules,
    /// `[lanes.bulk] gather`: how long a newsletter message may wait for company. Default 30 s.
    pub gather: Duration,
}

/// `[dns]`
#[derive(Clone, Debug)]
pub struct Dns {
    /// Resolvers with port; empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer. Default 5 s.
    pub timeout: Duration,
    /// Longest time an answer is kept whatever its TTL. Default 1 h.
    pub cache_ttl_max: Duration,
    /// Shortest. Default 10 s... a TTL of 0 must not mean one query per message.
    pub cache_ttl_min: Duration,
    /// Names kept. Default 100,000.
    pub cache_size: usize,
}

/// `[delivery]`
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Port of the receiving hosts. Default 25.
    pub port: u16,
    /// Deliver to loopback and private addresses. Default false.
    pub allow_private: bool,
    /// Connections in all. Default 1,000.
    pub connections: usize,
    /// Wait for TCP. Default 30 s.
    pub connect_timeout: Duration,
    /// Greeting (RFC 5321 §4.5.3.2.1). Default 5 min... see config.toml
    pub greeting_timeout: Duration,
    /// EHLO, MAIL, RCPT, RSET: each 5 min (§4.5.3.2.2, .3).
    pub command_timeout: Duration,
    /// DATA: 2 min (§4.5.3.2.4).
    pub data_timeout: Duration,
    /// A block of the message: 3 min (§4.5.3.2.5).
    pub block_timeout: Duration,
    /// After the last dot: 10 min (§4.5.3.2.6, RFC 1047).
    pub dot_timeout: Duration,
    /// One transaction in all. Default 1 h.
    pub transaction_timeout: Duration,
    /// How long an unused connection is kept. Default 10 s.
    pub idle_timeout: Duration,
    /// STARTTLS. Default opportunistic.
    pub tls: Tls,
    /// Hosts tried in one attempt. Default 20... addresses.
    pub hosts_max: usize,
}

/// `[delivery] tls`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    Off,
    /// Where offered, without checking the certificate (RFC 7435).
    Opportunistic,
}

/// `[sites.*]`
#[derive(Clone, Debug)]
pub struct Sites {
    /// `[sites.default]`
    pub default: Limits,
    /// The others, in the order of the file.
    pub rules: Vec<SiteRule>,
}

/// `[retry.direct]`, `[retry.bulk]`
#[derive(Clone, Debug)]
pub struct Retry {
    /// Direct mail: 30 s, 2, 5, 10, 20, 40 min, then 1 h; given up after 5 d.
    pub direct: Schedule,
    /// Bulk mail: 10, 20, 40 min, 1, 2, 4 h; given up after 2 d.
    pub bulk: Schedule,
}

/// `[control]`
#[derive(Clone, Debug)]
pub struct Control {
    /// Unix socket; relative to `data_dir`. Default `control.sock`.
    pub socket: PathBuf,
}

/// `[store]`
#[derive(Clone, Debug)]
pub struct Store {
    /// `sqlite` or `memory`.
    pub engine: Engine,
    /// Free space below which new mail is refused with 452. Default 256 MiB.
    pub free_space_min: u64,
}

/// `[store] engine`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// On disk.
    Sqlite,
    /// In memory: keeps nothing over a restart.
    Memory,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// `text` or `json`.
    pub json: bool,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter.
    pub level: String,
}
