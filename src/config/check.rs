//! What no key can tell alone: values that must fit each other.

use super::{Config, ListenAddress, Role};
use crate::mail::message::Lane;
use crate::policy::retry::Schedule;
use crate::policy::site::Limits;
use crate::policy::tenant::{EVERYBODY, TenantRule};
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

/// Longest path of the control socket in bytes: `sun_path` without its final NUL, less what the
/// folder adds in which the socket is made before it is renamed to its place.
const SOCKET_PATH_MAX: usize = 107 - "/./s".len();

/// Values that do not fit each other.
pub(super) struct Misfit {
    /// The section's declared name.
    pub(super) section: &'static str,
    /// Which occurrence of it, from 0.
    pub(super) number: usize,
    /// The keys concerned; the first that the file has is where the problem is shown.
    pub(super) keys: &'static [&'static str],
    /// What follows the key's name.
    pub(super) text: String,
}

/// All misfits of a configuration whose values are each in range.
pub(super) fn misfits(config: &Config) -> Vec<Misfit> {
    let mut found = Vec::new();
    listeners(config, &mut found);
    if config.tls.key.is_some() && config.tls.certificate.is_none() {
        let text = "is of no use without `certificate`".to_string();
        found.push(Misfit { section: "tls", number: 0, keys: &["key"], text });
    }
    if config.limits.disk < config.limits.message_size {
        let text = "is less than message_size: such a message could not come in".to_string();
        found.push(Misfit { section: "limits", number: 0, keys: &["disk", "message_size"], text });
    }
    http(config, &mut found);
    tenants(config, &mut found);
    sources(config, &mut found);
    pools(config, &mut found);
    sites(config, &mut found);
    domains(config, &mut found);
    retry("retry.direct", &config.retry.direct, &mut found);
    retry("retry.bulk", &config.retry.bulk, &mut found);
    if config.dns.cache_ttl_min > config.dns.cache_ttl_max {
        let text = "is more than cache_ttl_max".to_string();
        found.push(Misfit {
            section: "dns",
            number: 0,
            keys: &["cache_ttl_min", "cache_ttl_max"],
            text,
        });
    }
    let length = config.control.socket.as_os_str().as_bytes().len();
    if length > SOCKET_PATH_MAX {
        let text = format!(
            "is a path of {length} bytes with its folder, and may have {SOCKET_PATH_MAX}; \
             give a shorter one"
        );
        found.push(Misfit { section: "control", number: 0, keys: &["socket"], text });
    }
    found
}

fn listeners(config: &Config, found: &mut Vec<Misfit>) {
    if config.listen.is_empty() {
        let text = "is empty; a node needs at least one [[listen]]".to_string();
        found.push(Misfit { section: "listen", number: 0, keys: &[], text });
    }
    for (number, listen) in config.listen.iter().enumerate() {
        let earlier = config.listen.iter().take(number);
        // Port 0 is a free port of the system's choice, each time another.
        let is_free = listen.address.tcp().is_some_and(|address| address.port() == 0);
        let mut misfit = |keys, text| {
            found.push(Misfit { section: "listen", number, keys, text });
        };
        if !is_free && earlier.clone().any(|l| l.address == listen.address) {
            let text = format!("= \"{}\" is there twice; remove one [[listen]]", listen.address);
            misfit(&["address"], text);
        }
        match (&listen.address, listen.role) {
            (_, Role::Relay) => {}
            (ListenAddress::Unix(_), _) => {
                let text = "must be \"relay\": who may open a Unix socket needs no login";
                misfit(&["role"], text.into());
            }
            (ListenAddress::Tcp(_), _) if config.tls.certificate.is_none() => {
                misfit(&["role"], "wants a certificate; give [tls] certificate".into());
            }
            (ListenAddress::Tcp(_), _) => {}
        }
    }
}

fn http(config: &Config, found: &mut Vec<Misfit>) {
    let Some(address) = config.http.listen else { return };
    let mut misfit = |keys, text: &str| {
        found.push(Misfit { section: "http", number: 0, keys, text: text.to_string() });
    };
    if config.http.tls && config.tls.certificate.is_none() {
        misfit(&["tls"], "wants a certificate; give [tls] certificate");
    }
    if !config.http.tls && !address.ip().to_canonical().is_loopback() {
        let text = "is no loopback address, and tokens would be read on the way; give tls = true";
        misfit(&["listen"], text);
    }
    if config.listen.iter().any(|l| l.address.tcp() == Some(address) && address.port() != 0) {
        misfit(&["listen"], "is that of a [[listen]], too; take another port");
    }
}

fn tenants(config: &Config, found: &mut Vec<Misfit>) {
    let (mut names, mut tokens) = (HashSet::new(), HashMap::new());
    for (number, tenant) in config.tenants.iter().enumerate() {
        if !names.insert(&tenant.name) {
            let text = format!("= {:?} is there twice; a tenant has one [[tenants]]", tenant.name);
            found.push(Misfit { section: "tenants", number, keys: &["name"], text });
        }
        let others = |token| *tokens.entry(token).or_insert(number) != number;
        if tenant.tokens.iter().map(others).fold(false, |any, one| any | one) {
            let text = "has a token that another tenant has; each has its own".to_string();
            found.push(Misfit { section: "tenants", number, keys: &["tokens"], text });
        }
        if tenant.name == EVERYBODY {
            let blank = TenantRule::default();
            let of_one: [(&'static [&'static str], bool); 7] = [
                (&["networks"], tenant.networks != blank.networks),
                (&["certificates"], tenant.certificates != blank.certificates),
                (&["tokens"], tenant.tokens != blank.tokens),
                (&["sender_domains"], tenant.sender_domains != blank.sender_domains),
                (&["weight"], tenant.weight != blank.weight),
                (&["rate"], tenant.rates != blank.rates),
                (&["sources"], tenant.sources != blank.sources),
            ];
            for (keys, _) in of_one.into_iter().filter(|(_, given)| *given) {
                let text = "is for one tenant; give it an entry with its name".to_string();
                found.push(Misfit { section: "tenants", number, keys, text });
            }
        }
    }
}

/// At most one address of each family, and each address once: limits by source are limits by
/// address.
fn sources(config: &Config, found: &mut Vec<Misfit>) {
    for (number, rule) in config.source_rules.iter().enumerate() {
        let mut misfit = |text: String| {
            found.push(Misfit { section: "sources", number, keys: &["addresses"], text });
        };
        let of_family = |v4| rule.addresses.iter().filter(|a| a.is_ipv4() == v4).count();
        if rule.addresses.is_empty() || of_family(true) > 1 || of_family(false) > 1 {
            misfit(
                "must be one address, or one of each family; others are sources of their own"
                    .into(),
            );
        }
        for (n, address) in rule.addresses.iter().enumerate() {
            let earlier =
                config.source_rules.iter().take(number).find(|s| s.addresses.contains(address));
            if let Some(other) = earlier {
                misfit(format!("{address} is that of source {:?} already; remove one", other.name));
            } else if rule.addresses.iter().take(n).any(|a| a == address) {
                misfit(format!("{address} is there twice; remove one"));
            }
        }
    }
}

/// Mail is sent from sources that there are.
fn pools(config: &Config, found: &mut Vec<Misfit>) {
    let lanes = [("lanes.direct", Lane::Direct), ("lanes.bulk", Lane::Bulk)];
    let of_lanes = lanes.map(|(section, lane)| (section, 0, config.lanes.sources.of(lane)));
    let of_tenants = config.tenants.iter().enumerate().map(|(n, t)| ("tenants", n, &t.sources));
    for (section, number, names) in of_lanes.into_iter().chain(of_tenants) {
        let is_known = |name: &&String| config.source_rules.iter().any(|rule| rule.name == **name);
        for name in names.iter().filter(|name| !is_known(name)) {
            let known = config.source_rules.iter().map(|rule| rule.name.as_str());
            let known: Vec<&str> = known.collect();
            let text = if known.is_empty() {
                format!("names {name:?}, and there is no [sources.{name}]")
            } else {
                format!("names {name:?}, which is no source; there are {}", known.join(", "))
            };
            found.push(Misfit { section, number, keys: &["sources"], text });
        }
    }
}

fn sites(config: &Config, found: &mut Vec<Misfit>) {
    let default = &config.sites.default;
    reserved("sites.default", 0, default, found);
    for (number, rule) in config.sites.rules.iter().enumerate() {
        let connections = rule.connections.unwrap_or(default.connections);
        // What is not given follows the number of connections.
        let reserved_for_direct = rule.reserved_for_direct.unwrap_or(0);
        reserved(
            "sites",
            number,
            &Limits { connections, reserved_for_direct, ..default.clone() },
            found,
        );
        let mut earlier = config.sites.rules.iter().take(number);
        if earlier.any(|other| other.name == rule.name) {
            let keys = &["connections", "reserved_for_direct", "rate", "connection_rate"];
            let text = "is of a site that has another section, in other letters".to_string();
            found.push(Misfit { section: "sites", number, keys, text });
        }
    }
}

fn domains(config: &Config, found: &mut Vec<Misfit>) {
    for (number, rule) in config.domains.iter().enumerate() {
        let mut earlier = config.domains.iter().take(number);
        if earlier.any(|other| other.name == rule.name) {
            let keys = &["rate", "recipients_per_transaction"];
            let text = "is of a domain that has another section, in other letters".to_string();
            found.push(Misfit { section: "domains", number, keys, text });
        }
    }
}

fn reserved(section: &'static str, number: usize, limits: &Limits, found: &mut Vec<Misfit>) {
    if limits.connections > 1 && limits.reserved_for_direct >= limits.connections {
        let text = format!(
            "= {} leaves none of {} connections to newsletters; must be less than `connections`",
            limits.reserved_for_direct, limits.connections
        );
        let keys = &["reserved_for_direct", "connections"];
        found.push(Misfit { section, number, keys, text });
    }
}

fn retry(section: &'static str, schedule: &Schedule, found: &mut Vec<Misfit>) {
    if schedule.waits.first().is_some_and(|first| *first >= schedule.expire) {
        let text =
            "is not more than the first of `waits`: mail would be given up before its first \
                    retry"
                .to_string();
        found.push(Misfit { section, number: 0, keys: &["expire", "waits"], text });
    }
}
