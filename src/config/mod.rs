//! Layer 3: the configuration: declared keys, a strict reader, checked values.
//!
//! A file is read in two steps: the defaults, written as TOML from the declarations in `keys`, then
//! the file itself on top, by the same reader. So config.toml, the defaults and the reader cannot
//! disagree.
//!
//! # Invariants
//! * A [`Config`] is whole: every value is in range, paths are resolved, and values that depend on
//!   each other fit.
//! * All problems of a file are reported at once, each with its place and a remedy.
//!
//! # Absent
//! Environment variables, includes, interpolation: what the file says is what holds.

mod auth;
mod check;
mod keys;
mod problem;
mod read;
mod receive;
mod reference;
mod rules;
mod show;
#[cfg(test)]
pub(crate) mod tests;
pub mod unit;
pub mod users;
mod value;

pub use auth::{Auth, PlainText};
pub use problem::{ConfigErrors, ConfigProblem};
pub use receive::{
    Bursts, Http, Lanes, Listen, ListenAddress, Newsletters, ReceiveLimits, Relay, Role, ServerTls,
    Watch,
};
pub use reference::reference;
pub use show::{Explained, Origin, Setting};

pub use crate::policy::site::Sites;

use crate::base::address::Domain;
use crate::mail::message::ByLane;
use crate::policy::quota::DomainRule;
use crate::policy::retry::Schedule;
use crate::policy::rules::Rules as ReplyRules;
use crate::policy::site::setting::LimitKey;
use crate::policy::site::{Limits, Rate};
use crate::policy::source::{SourceRule, Sources};
use crate::policy::tenant::Register;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A checked configuration. One field per section of config.toml.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name in banner, EHLO, Received and Message-ID. Default: the machine's host name.
    pub hostname: Domain,
    /// Where the queue lives; given relative to the config file's folder.
    pub data_dir: PathBuf,
    /// SMTP listeners; at least one.
    pub listen: Vec<Listen>,
    /// The certificate that clients are shown.
    pub tls: ServerTls,
    /// Where programs hand over mail by HTTP.
    pub http: Http,
    /// Who may relay.
    pub relay: Relay,
    /// Users who log in.
    pub auth: Auth,
    /// What the receiving side allows.
    pub limits: ReceiveLimits,
    /// The two lanes.
    pub lanes: Lanes,
    /// Hosting customers.
    pub tenants: Register,
    /// What is watched in their mail.
    pub watch: Watch,
    /// Resolver.
    pub dns: Dns,
    /// The delivering side.
    pub delivery: Delivery,
    /// Addresses that mail is sent from, and which mail may use which.
    pub sources: Sources,
    /// `[sources]` as the file has them, which `sources` is made of.
    source_rules: Vec<SourceRule>,
    /// Limits of sites.
    pub sites: Sites,
    /// Limits of single domains.
    pub domains: Vec<DomainRule>,
    /// `[[rules]]` and the built-in ones: what receivers' refusals lead to.
    pub rules: ReplyRules,
    /// `[[rules]]` as the file has them, which `rules` is made of.
    rule_drafts: Vec<rules::Draft>,
    /// Retry schedules.
    pub retry: Retry,
    /// Control socket.
    pub control: Control,
    /// The queue's engine.
    pub store: Store,
    /// Logging.
    pub log: Log,
}

impl Config {
    /// Reads and checks a file, and the users file that it names.
    ///
    /// # Errors
    /// All that is wrong with it; else with the users.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Self::explain(path).map(|explained| explained.config)
    }

    /// Sections and keys in which another differs so that it takes a restart to change them: those
    /// that sockets, the queue and what is in use were made of.
    #[must_use]
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        // Of a new field it is to be said which it is.
        let Self {
            hostname,
            data_dir,
            listen,
            http,
            limits,
            dns,
            delivery,
            sources,
            control,
            store,
            log,
            // These follow while the node runs.
            tls: _,
            relay: _,
            auth: _,
            lanes: _,
            tenants: _,
            watch: _,
            sites: _,
            domains: _,
            rules: _,
            retry: _,
            // What others here are made of.
            source_rules: _,
            rule_drafts: _,
        } = self;
        let differs = [
            ("hostname", *hostname != other.hostname),
            ("data_dir", *data_dir != other.data_dir),
            ("[[listen]]", *listen != other.listen),
            ("[http]", *http != other.http),
            ("[limits]", *limits != other.limits),
            ("[dns]", *dns != other.dns),
            ("[delivery]", *delivery != other.delivery),
            ("[sources], or which mail uses them", *sources != other.sources),
            ("[control]", *control != other.control),
            ("[store]", *store != other.store),
            ("[log]", *log != other.log),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// Reads and checks a file, and says where each value comes from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn explain(path: &Path) -> Result<Explained, ConfigErrors> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| ConfigErrors::whole(&name, format!("cannot read it: {error}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ConfigErrors::whole(&name, "is not UTF-8 text".to_string()))?;
        let place = Place { name, dir: folder_of(path), machine: machine_name() };
        let mut explained = Self::parse(&text, &place)?;
        let auth = &mut explained.config.auth;
        auth.users = Arc::new(users::load(&auth.file)?);
        Ok(explained)
    }

    /// Checks a text that stands at `place`. Pure.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, place: &Place) -> Result<Explained, ConfigErrors> {
        let hostname = Domain::parse(&place.machine).or_else(|_| Domain::parse("localhost"));
        let hostname = hostname.map_err(|e| ConfigErrors::whole(&place.name, e.to_string()))?;
        let mut config = Self::blank(hostname);
        let defaults = reference();
        let (_, problems) = read::read(&defaults, &mut config);
        if !problems.is_empty() {
            return Err(ConfigErrors::new("built-in defaults", &defaults, &problems));
        }
        let (blocks, mut problems) = read::read(text, &mut config);
        config.fit(&blocks, &place.dir);
        config.note_lines(&blocks, text);
        problems.extend(misfits(&mut config, &blocks));
        if problems.is_empty() {
            Ok(Explained::new(config, blocks, text))
        } else {
            problems.sort_by_key(|problem| problem.at);
            Err(ConfigErrors::new(&place.name, text, &problems))
        }
    }

    /// What the defaults are read onto: every value is set by one of them, but the machine's own
    /// name.
    fn blank(hostname: Domain) -> Self {
        let schedule = || Schedule {
            waits: Vec::new(),
            jitter: 0.0,
            expire: Duration::ZERO,
            delay_notice: None,
        };
        Self {
            sources: Sources::new(&[], &ByLane::default(), &[], &hostname),
            source_rules: Vec::new(),
            hostname,
            data_dir: PathBuf::new(),
            listen: Vec::new(),
            tls: ServerTls::default(),
            http: Http::default(),
            relay: Relay::default(),
            auth: Auth::default(),
            limits: ReceiveLimits::default(),
            lanes: Lanes::default(),
            tenants: Register::default(),
            watch: Watch::default(),
            dns: Dns::default(),
            delivery: Delivery::default(),
            sites: Sites {
                default: Limits {
                    connections: 0,
                    reserved_for_direct: 0,
                    connections_per_source: 0,
                    deliveries_per_connection: 0,
                    recipients_per_transaction: 0,
                    rates: Vec::new(),
                    rates_per_source: Vec::new(),
                    connection_rates: Vec::new(),
                    connection_rates_per_source: Vec::new(),
                },
                default_lines: Vec::new(),
                rules: Vec::new(),
            },
            domains: Vec::new(),
            rules: ReplyRules::default(),
            rule_drafts: Vec::new(),
            retry: Retry { direct: schedule(), bulk: schedule() },
            control: Control::default(),
            store: Store {
                engine: Engine::Sqlite,
                free_space_min: 0,
                size_max: 0,
                compress: false,
            },
            log: Log::default(),
        }
    }

    /// Each tenant's share against others.
    #[must_use]
    pub fn weights(&self) -> HashMap<String, u32> {
        self.tenants.iter().map(|tenant| (tenant.name.clone(), tenant.weight)).collect()
    }

    /// Resolves paths, and fits what depends on several keys of the file.
    fn fit(&mut self, blocks: &[read::Block], dir: &Path) {
        let Self { source_rules, lanes, tenants, hostname, .. } = self;
        self.sources = Sources::new(source_rules, &lanes.sources, tenants, hostname);
        self.data_dir = dir.join(&self.data_dir);
        self.auth.file = dir.join(&self.auth.file);
        self.control.socket = self.data_dir.join(&self.control.socket);
        for listen in &mut self.listen {
            if let ListenAddress::Unix(path) = &mut listen.address {
                *path = self.data_dir.join(&path);
            }
        }
        for file in [&mut self.tls.certificate, &mut self.tls.key].into_iter().flatten() {
            *file = dir.join(&file);
        }
        let mut given =
            blocks.iter().filter(|b| b.section.name == "sites.default").flat_map(|b| &b.given);
        let limits = &mut self.sites.default;
        if !given.any(|given| given.name == "reserved_for_direct") {
            let most = limits.connections.saturating_sub(1);
            limits.reserved_for_direct = limits.reserved_for_direct.min(most);
        }
    }

    /// Remembers where the limits of sites and domains stand in the file.
    fn note_lines(&mut self, blocks: &[read::Block], text: &str) {
        let of = |name: &'static str| blocks.iter().filter(move |b| b.section.name == name);
        self.sites.default_lines = of("sites.default").flat_map(|b| lines(b, text)).collect();
        for (rule, block) in self.sites.rules.iter_mut().zip(of("sites")) {
            rule.lines = lines(block, text);
        }
        for (rule, block) in self.domains.iter_mut().zip(of("domains")) {
            rule.lines = lines(block, text);
        }
    }
}

/// The lines of a block's limits.
fn lines(block: &read::Block, text: &str) -> Vec<(LimitKey, usize)> {
    let line = |given: &read::Given| {
        Some((LimitKey::parse(given.name).ok()?, problem::position(text, given.at).0))
    };
    block.given.iter().filter_map(line).collect()
}

/// Where a configuration text stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// As errors name it.
    pub name: String,
    /// The folder that relative paths start at.
    pub dir: PathBuf,
    /// The machine's host name, for a `hostname` that is not set.
    pub machine: String,
}

/// What does not fit together, where its own values could be read. Rules that do are put together.
fn misfits(config: &mut Config, blocks: &[read::Block]) -> Vec<value::Problem> {
    let mut found = check::misfits(config);
    // A rule that could not be read may be what stands before another one.
    if !blocks.iter().any(|block| block.section.name == "rules" && block.troubled) {
        match rules::build(&config.rule_drafts) {
            Ok(rules) => config.rules = rules,
            Err(more) => found.extend(more),
        }
    }
    let place = |misfit: check::Misfit| {
        let block = blocks.iter().filter(|b| b.section.name == misfit.section).nth(misfit.number);
        let given = |name: &&&str| block.and_then(|b| b.given.iter().find(|g| g.name == **name));
        let name = misfit.keys.iter().find(|name| given(name).is_some()).or(misfit.keys.first());
        let at = name.and_then(|name| given(&name)).map(|given| given.at);
        let at = at.or(block.map(|b| b.at)).unwrap_or(0);
        let header = block.map_or_else(|| format!("[{}]", misfit.section), |b| b.header.clone());
        let name = name.map(|name| format!("{name} ")).unwrap_or_default();
        let text = format!("{header} {name}{}", misfit.text);
        (!block.is_some_and(|b| b.troubled)).then_some(value::Problem { at, text })
    };
    found.into_iter().filter_map(place).collect()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The kernel's name for this machine; empty where it does not tell.
pub(crate) fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map(|name| name.trim().to_string()).unwrap_or_default()
}

/// `[dns]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Resolvers with port; empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer. Default 5 s.
    pub timeout: Duration,
    /// Longest time an answer is kept whatever its TTL. Default 1 h.
    pub cache_ttl_max: Duration,
    /// Shortest time, whatever its TTL; at most `cache_ttl_max`. Default 10 s: a TTL of 0 must not
    /// mean one query per message.
    pub cache_ttl_min: Duration,
    /// Names kept. Default 100,000.
    pub cache_size: usize,
}

/// `[delivery]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Port of the receiving hosts. Default 25.
    pub port: u16,
    /// Deliver to loopback and private addresses. Default false.
    pub allow_private: bool,
    /// Connections in all. Default 1,000.
    pub connections: usize,
    /// What is learned of a site leaves it so many. Default 1.
    pub learned_connections_min: u32,
    /// A complaint does not force a rate below this. Default 60/h.
    pub learned_rate_min: Option<Rate>,
    /// Wait for TCP. Default 30 s.
    pub connect_timeout: Duration,
    /// Wait for the greeting (RFC 5321 §4.5.3.2.1). Default 5 min.
    pub greeting_timeout: Duration,
    /// Wait for the reply to EHLO, MAIL, RCPT, RSET (§4.5.3.2.2, .3). Default 5 min.
    pub command_timeout: Duration,
    /// Wait for the reply to DATA (§4.5.3.2.4). Default 2 min.
    pub data_timeout: Duration,
    /// Wait until a block of the message is taken (§4.5.3.2.5). Default 3 min.
    pub block_timeout: Duration,
    /// Wait for the reply to the last dot (§4.5.3.2.6, RFC 1047). Default 10 min.
    pub dot_timeout: Duration,
    /// One transaction in all. Default 1 h.
    pub transaction_timeout: Duration,
    /// How long an unused connection is kept. Default 10 s.
    pub idle_timeout: Duration,
    /// STARTTLS. Default opportunistic.
    pub tls: Tls,
    /// Addresses tried in one attempt. Default 20.
    pub hosts_max: usize,
    /// Bytes of messages on their way out that are kept in memory. Default 256 MiB.
    pub memory: u64,
    /// How long a node that is stopped lets transactions end. Default 30 s.
    pub shutdown_timeout: Duration,
}

/// `[delivery] tls`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Never.
    Off,
    /// Where offered, without checking the certificate (RFC 7435).
    #[default]
    Opportunistic,
}

/// `[retry.direct]`, `[retry.bulk]`. Direct mail: 30 s, 2, 5, 10, 20, 40 min, then 1 h; given up
/// after 5 d. Bulk mail: 10, 20, 40 min, 1, 2, 4 h; given up after 2 d.
pub type Retry = ByLane<Schedule>;

/// `[control]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Unix socket; given relative to `data_dir`. Default `control.sock`.
    pub socket: PathBuf,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Default `sqlite`.
    pub engine: Engine,
    /// Free space below which new mail is refused with 452. Default 256 MiB.
    pub free_space_min: u64,
    /// Space that the queue takes at most; 0: no limit. Default 0.
    pub size_max: u64,
    /// Messages are kept compressed. Default no.
    pub compress: bool,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// `format = "json"`: one object a line; else text for people. Default text.
    pub json: bool,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter. Default `info`.
    pub level: String,
}
