//! What the sections of the receiving side hold.

use crate::base::address::Mailbox;
use crate::base::network::Networks;
use crate::mail::message::ByLane;
use crate::policy::classify::Rules;
use crate::policy::fuse::FuseRules;
use crate::policy::sense::SenseRules;
use crate::policy::site::Rate;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `[[listen]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: ListenAddress,
    /// For whom. Default relay.
    pub role: Role,
    /// Load balancers; what comes from them begins with a header of the PROXY protocol.
    pub proxy_protocol: Networks,
    /// Proxies whose XCLIENT and XFORWARD are believed.
    pub xclient: Networks,
}

/// A free port, until the file's address is read.
impl Default for Listen {
    fn default() -> Self {
        Self {
            address: ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
            role: Role::default(),
            proxy_protocol: Networks::default(),
            xclient: Networks::default(),
        }
    }
}

/// `[[listen]] address`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:2525`
    Tcp(SocketAddr),
    /// `unix:smtp.sock`; given relative to `data_dir`.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Of TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[[listen]] role`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Known networks send without a login; TLS where the client wants it.
    #[default]
    Relay,
    /// Everybody logs in (RFC 6409 §4.3), after STARTTLS.
    Submission,
    /// The same, with TLS from the first byte (RFC 8314 §3.3).
    Submissions,
}

/// `[tls]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// PEM file: our certificate and those that lead to its root. Default `None`: no TLS.
    pub certificate: Option<PathBuf>,
    /// PEM file: its private key. Default `None`: in the file of the certificate.
    pub key: Option<PathBuf>,
}

/// `[http]`: where programs hand over mail by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Where; `None`: nowhere. Default `None`.
    pub listen: Option<SocketAddr>,
    /// With TLS from the first byte and the certificate of `[tls]`. Default false.
    pub tls: bool,
    /// Connections in all. Default 200.
    pub connections: usize,
    /// Of these, those of one client address. Default 50.
    pub connections_per_address: usize,
    /// How long a client may take to send a whole request. Default 2 min.
    pub request_timeout: Duration,
    /// `recipients` of one request. Default 1,000.
    pub recipients: usize,
    /// Bytes of memory, and about as many on disk, for what is known of `Idempotency-Key`. Default
    /// 64 MiB.
    pub keys_memory: u64,
}

/// `[relay]`
#[derive(Clone, Debug, Default)]
pub struct Relay {
    /// Clients that may send to anyone; all others may send to no one.
    pub networks: Networks,
    /// The field by which web servers say whose a message is, in lower case; empty: none. Default
    /// none.
    pub tenant_header: String,
    /// The web servers that are believed. Default none.
    pub tenant_header_from: Networks,
}

/// `[limits]`: what one client, one session and one message may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Bytes of one message (SIZE, RFC 1870). Default 50 MiB.
    pub message_size: u64,
    /// Recipients of one message (RFC 9422 RCPTMAX). Default 1,000.
    pub recipients: usize,
    /// Bytes of a line of the message with its CRLF. Default 100 KiB: RFC 5321 §4.5.3.1.6 allows
    /// 1,000, but newsletter tools write longer ones, and the bytes are relayed untouched.
    pub line_length: usize,
    /// Bytes of the header section. Default 256 KiB.
    pub header_size: usize,
    /// `Received:` fields before a loop is assumed (RFC 5321 §6.3). Default 100.
    pub hops: usize,
    /// Commands in one session. Default 100,000.
    pub commands: u32,
    /// Replies 4xx and 5xx to commands in one session before it ends. Default 20.
    pub errors: u32,
    /// Messages in one session (RFC 9422 MAILMAX). Default 10,000.
    pub messages: u32,
    /// Sessions in all. Default 1,000.
    pub sessions: usize,
    /// Sessions of one client address. Default 200.
    pub sessions_per_address: usize,
    /// New sessions of one client in `[relay] networks`. Default any.
    pub session_rate: Option<Rate>,
    /// Of all sessions, those of clients outside of them. Default 100.
    pub strangers: usize,
    /// New sessions of one such client. Default 600 a minute.
    pub stranger_rate: Option<Rate>,
    /// Bytes of memory for large messages in all sessions together: half for those that come in,
    /// half for those that are worked on. Default 256 MiB.
    pub memory: u64,
    /// Bytes of disk for what comes in and has no place in memory. Default 1 GiB.
    pub disk: u64,
    /// Wait for a command (RFC 5321 §4.5.3.2.7). Default 5 min.
    pub command_timeout: Duration,
    /// Wait for the next block of data (§4.5.3.2.5). Default 3 min.
    pub data_timeout: Duration,
    /// Longest time a message may take from DATA to its end. Default 1 h.
    pub message_timeout: Duration,
}

/// `[watch]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// What becomes of newsletters without a header. Default bulk.
    pub newsletters: Newsletters,
    /// What makes one: 50 recipients in 5 min.
    pub sense: SenseRules,
    /// What becomes of a burst. Default suspend.
    pub bursts: Bursts,
    /// What makes one.
    pub fuse: FuseRules,
    /// Who is told by mail. Default nobody.
    pub alert_to: Option<Mailbox>,
    /// Where alerts are posted as JSON; empty: nowhere. Default nowhere.
    pub alert_url: String,
}

/// `[watch] newsletters`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Newsletters {
    /// They take the bulk lane.
    #[default]
    Bulk,
    /// They wait there until somebody has looked.
    Hold,
    /// They are not looked for.
    Off,
}

/// `[watch] bursts`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bursts {
    /// The tenant's mail waits until somebody has looked.
    #[default]
    Suspend,
    /// Somebody is told.
    Alert,
    /// They are not looked for.
    Off,
}

/// `[lanes.*]`
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    /// `[lanes.bulk] headers, strip`
    pub rules: Rules,
    /// `[lanes.bulk] gather`: how long a newsletter message may wait for company. Default 30 s.
    pub gather: Duration,
    /// Names of the sources that mail of a lane may use; none: all. Default none.
    pub sources: ByLane<Vec<String>>,
}
