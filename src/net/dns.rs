//! Where mail for a domain goes (RFC 5321 §5.1): MX, or the domain's own addresses, and the hosts'
//! addresses.
//!
//! # Invariants
//! * Only a certain "no" is final: NXDOMAIN, or no record where all questions were answered.
//!   SERVFAIL, a time-out or a broken answer never fails mail.
//! * No address is given that mail must not be led to by a stranger's DNS, unless the configuration
//!   allows it.
//! * At most `hosts_max` hosts are asked for and as many addresses given, whatever the domain's
//!   owner publishes.
//!
//! Answers are cached by hickory-resolver, by TTL within the configured bounds.

use crate::base::address::Domain;
use crate::base::network::is_private;
use crate::base::text::printable;
use crate::config::Config;
use crate::policy::site::{MxHost, Resolution};
use hickory_proto::rr::{RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tokio::task::JoinSet;

/// How often a server is asked before another is, or none.
const ATTEMPTS: usize = 2;
/// Questions under way at one server.
const ACTIVE_MAX: usize = 1_024;

/// Asks DNS.
pub struct Resolver {
    resolver: TokioResolver,
    hostname: Domain,
    /// Our own listeners where others could reach them.
    own: Vec<SocketAddr>,
    port: u16,
    allow_private: bool,
    hosts_max: usize,
}

/// Why there is no answer.
enum Nothing {
    /// There is none.
    No,
    /// Not now.
    NotNow(String),
}

impl Resolver {
    /// A resolver by the configuration's `[dns]` and `[delivery]`.
    ///
    /// # Errors
    /// The machine's own resolver settings cannot be used.
    pub fn new(config: &Config) -> Result<Self, String> {
        let wrong = |error: NetError| format!("cannot set up DNS: {error}");
        let mut builder = if config.dns.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(wrong)?
        } else {
            let servers = config.dns.servers.iter().map(name_server).collect();
            let servers = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
        };
        set_options(builder.options_mut(), config);
        Ok(Self {
            resolver: builder.build().map_err(wrong)?,
            hostname: config.hostname.clone(),
            own: config.listen.iter().filter_map(|l| l.address.tcp()).collect(),
            port: config.delivery.port,
            allow_private: config.delivery.allow_private,
            hosts_max: config.delivery.hosts_max,
        })
    }

    /// Where mail for `domain` goes.
    pub async fn resolve(&self, domain: &Domain) -> Resolution {
        if let Some(address) = domain.literal() {
            let host = MxHost { preference: 0, name: domain.to_string(), addresses: vec![address] };
            return if self.is_own(&host) { Resolution::Loop } else { self.allowed(vec![host]) };
        }
        let Ok(name) = idna::domain_to_ascii(domain.as_str()) else {
            return Resolution::NoSuchDomain;
        };
        let mut hosts = match self.mx(&name).await {
            Ok(hosts) if hosts.iter().all(|(_, name)| name.is_empty()) => {
                return Resolution::NullMx;
            }
            // Beside real hosts a null MX means nothing (RFC 7505 §3).
            Ok(hosts) => hosts.into_iter().filter(|(_, name)| !name.is_empty()).collect(),
            // No MX: the domain itself is its host (RFC 5321 §5.1).
            Err(Nothing::No) => vec![(0, name)],
            Err(Nothing::NotNow(why)) => return Resolution::Temporary(why),
        };
        hosts.sort();
        // A host that is named twice counts at its best preference.
        let mut seen = HashSet::new();
        hosts.retain(|(_, name)| seen.insert(name.clone()));
        // By name first: our own entry may be far down, or have no address that can be seen here.
        let own = hosts.iter().find(|(_, name)| name == self.hostname.as_str()).map(|own| own.0);
        hosts.retain(|(preference, _)| own.is_none_or(|own| *preference < own));
        if hosts.is_empty() {
            return Resolution::Loop;
        }
        hosts.truncate(self.hosts_max);
        let (mut found, mut trouble) = self.addresses(hosts).await;
        found.sort_by(|a, b| (a.preference, &a.name).cmp(&(b.preference, &b.name)));
        if let Some(own) = found.iter().find(|host| self.is_own(host)).map(|host| host.preference) {
            // We are one of its hosts: only better ones are of use, or mail would go round.
            found.retain(|host| host.preference < own);
            if found.is_empty() {
                return trouble.pop().map_or(Resolution::Loop, Resolution::Temporary);
            }
        }
        if found.is_empty() {
            return trouble.pop().map_or(Resolution::NoSuchDomain, Resolution::Temporary);
        }
        match self.allowed(found) {
            // A host that could not be asked for may be one that can be reached.
            Resolution::Forbidden(all) => {
                trouble.pop().map_or(Resolution::Forbidden(all), Resolution::Temporary)
            }
            other => other,
        }
    }

    /// MX hosts with their preference; an empty name stands for the null MX (RFC 7505).
    async fn mx(&self, name: &str) -> Result<Vec<(u16, String)>, Nothing> {
        let answer = self.ask(name, RecordType::MX).await?;
        // Behind a CNAME the answer holds more than MX records.
        let hosts: Vec<_> = answer
            .iter()
            .filter_map(|data| match data {
                RData::MX(mx) => Some((mx.preference, plain(&mx.exchange.to_string()))),
                _ => None,
            })
            .collect();
        if hosts.is_empty() { Err(Nothing::No) } else { Ok(hosts) }
    }

    /// The hosts that have addresses, and what went wrong with others.
    async fn addresses(&self, hosts: Vec<(u16, String)>) -> (Vec<MxHost>, Vec<String>) {
        let mut questions = JoinSet::new();
        for (preference, name) in hosts {
            for kind in [RecordType::A, RecordType::AAAA] {
                let (resolver, name) = (self.resolver.clone(), name.clone());
                questions.spawn(async move {
                    let answer = ask(&resolver, &name, kind).await;
                    (preference, name, answer)
                });
            }
        }
        let (mut found, mut trouble): (Vec<MxHost>, Vec<String>) = (Vec::new(), Vec::new());
        while let Some(Ok((preference, name, answer))) = questions.join_next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(Nothing::No) => continue,
                Err(Nothing::NotNow(why)) => {
                    trouble.push(why);
                    continue;
                }
            };
            let addresses = answer.iter().filter_map(|data| match data {
                RData::A(a) => Some(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0).to_canonical()),
                _ => None,
            });
            match found.iter_mut().find(|host| host.name == name) {
                Some(host) => host.addresses.extend(addresses),
                None => found.push(MxHost { preference, name, addresses: addresses.collect() }),
            }
        }
        for host in &mut found {
            host.addresses.sort_unstable();
            host.addresses.dedup();
        }
        found.retain(|host| !host.addresses.is_empty());
        (found, trouble)
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, Nothing> {
        ask(&self.resolver, name, kind).await
    }

    /// By name, or by the address and port of a listener that others can reach.
    fn is_own(&self, host: &MxHost) -> bool {
        let is_at = |own: &SocketAddr| {
            own.port() == self.port
                && !own.ip().is_loopback()
                && host.addresses.iter().any(|address| {
                    *address == own.ip()
                        || own.ip().is_unspecified() && is_of_this_machine(*address)
                })
        };
        host.name == self.hostname.as_str() || self.own.iter().any(is_at)
    }

    /// Leaves out addresses that must not be connected to, and those beyond the most.
    fn allowed(&self, mut hosts: Vec<MxHost>) -> Resolution {
        let mut left = self.hosts_max;
        let mut forbidden = Vec::new();
        for host in &mut hosts {
            host.addresses.retain(|address| {
                let ok = self.allow_private || !is_private(*address);
                if !ok {
                    forbidden.push(address.to_string());
                }
                ok
            });
            host.addresses.truncate(left);
            left -= host.addresses.len();
        }
        hosts.retain(|host| !host.addresses.is_empty());
        if hosts.is_empty() {
            Resolution::Forbidden(forbidden.join(", "))
        } else {
            Resolution::Hosts(hosts)
        }
    }
}

async fn ask(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Vec<RData>, Nothing> {
    // The final dot: never a name below one of ours.
    match resolver.lookup(format!("{name}."), kind).await {
        Ok(answer) => Ok(answer.answers().iter().map(|record| record.data.clone()).collect()),
        Err(error) if error.is_nx_domain() || error.is_no_records_found() => Err(Nothing::No),
        Err(error) => {
            let why = format!("{kind} of {name}: {error}");
            Err(Nothing::NotNow(printable(why.as_bytes(), 200)))
        }
    }
}

/// Only an address of the machine itself can be bound to.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn set_options(options: &mut ResolverOpts, config: &Config) {
    options.timeout = config.dns.timeout;
    options.attempts = ATTEMPTS;
    options.cache_size = config.dns.cache_size as u64;
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = ACTIVE_MAX;
    options.positive_min_ttl = Some(config.dns.cache_ttl_min);
    options.negative_min_ttl = Some(config.dns.cache_ttl_min);
    options.positive_max_ttl = Some(config.dns.cache_ttl_max);
    options.negative_max_ttl = Some(config.dns.cache_ttl_max);
}

/// In lower case, without the final dot.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
