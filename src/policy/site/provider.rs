//! Receivers that serve many domains under MX names of one operator, and the limits they are known
//! to welcome.
//!
//! Limits come from the receivers' own postmaster pages where they publish any; `[sites."NAME"]`
//! overrides them.

use super::{Limits, Rate, SiteRule};

/// One operator.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    /// The site's name, and the key of its section under `[sites]`.
    pub name: &'static str,
    /// Other names its section may go by: domains it serves.
    pub aliases: &'static [&'static str],
    /// Its MX hosts end in one of these.
    pub mx_suffixes: &'static [&'static str],
    /// Connections, deliveries per connection.
    limits: (u32, u32),
}

/// In the order they are tried.
pub const PROVIDERS: &[Provider] = &[
    Provider {
        name: "gmail.com",
        aliases: &["google.com", "googlemail.com"],
        mx_suffixes: &["google.com", "googlemail.com", "smtp.goog"],
        limits: (10, 50),
    },
    Provider {
        name: "yahoo.com",
        aliases: &["aol.com", "ymail.com"],
        mx_suffixes: &["yahoodns.net"],
        limits: (10, 20),
    },
    Provider {
        name: "outlook.com",
        aliases: &["hotmail.com", "live.com", "msn.com"],
        mx_suffixes: &["olc.protection.outlook.com"],
        limits: (5, 50),
    },
    Provider {
        name: "office365",
        aliases: &["protection.outlook.com"],
        mx_suffixes: &["mail.protection.outlook.com", "mx.microsoft"],
        limits: (10, 50),
    },
    Provider {
        name: "icloud.com",
        aliases: &["me.com", "mac.com"],
        mx_suffixes: &["mail.icloud.com"],
        limits: (10, 5),
    },
    Provider {
        name: "gmx.net",
        aliases: &["web.de", "gmx.de", "gmx.com"],
        mx_suffixes: &["gmx.net", "web.de"],
        limits: (4, 20),
    },
    Provider {
        name: "orange.fr",
        aliases: &["wanadoo.fr"],
        mx_suffixes: &["orange.fr", "wanadoo.fr"],
        limits: (2, 100),
    },
    Provider {
        name: "comcast.net",
        aliases: &["xfinity.com"],
        mx_suffixes: &["comcast.net"],
        limits: (25, 1_000),
    },
];

/// True where `host` is `suffix` or a name below it.
#[must_use]
pub fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Provider {
    /// The operator of this MX host.
    #[must_use]
    pub fn of_host(host: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|p| p.mx_suffixes.iter().any(|suffix| is_below(host, suffix)))
    }

    /// True where a section `[sites."name"]` means this provider.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// What holds for a site: its rule over its provider over the default.
#[must_use]
pub fn limits(default: &Limits, provider: Option<&Provider>, rule: Option<&SiteRule>) -> Limits {
    let mut limits = default.clone();
    if let Some(provider) = provider {
        (limits.connections, limits.deliveries_per_connection) = provider.limits;
    }
    let Some(rule) = rule else { return settled(limits) };
    let set = |value: &mut u32, given: Option<u32>| *value = given.unwrap_or(*value);
    set(&mut limits.connections, rule.connections);
    set(&mut limits.reserved_for_direct, rule.reserved_for_direct);
    set(&mut limits.deliveries_per_connection, rule.deliveries_per_connection);
    set(&mut limits.recipients_per_transaction, rule.recipients_per_transaction);
    let set = |rates: &mut Vec<Rate>, given: &Option<Vec<Rate>>| {
        if let Some(given) = given {
            rates.clone_from(given);
        }
    };
    set(&mut limits.rates, &rule.rates);
    set(&mut limits.connection_rates, &rule.connection_rates);
    settled(limits)
}

/// Bulk mail keeps at least one connection, whatever the three sources add up to.
fn settled(mut limits: Limits) -> Limits {
    limits.reserved_for_direct =
        limits.reserved_for_direct.min(limits.connections.saturating_sub(1));
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_end_at_a_label() {
        assert!(is_below("mx1.google.com", "google.com"));
        assert!(is_below("google.com", "google.com"));
        assert!(!is_below("mx.notgoogle.com", "google.com"));
    }

    #[test]
    fn each_provider_is_found_by_its_own_hosts() {
        for (host, name) in [
            ("aspmx.l.google.com", "gmail.com"),
            ("mta5.am0.yahoodns.net", "yahoo.com"),
            ("outlook-com.olc.protection.outlook.com", "outlook.com"),
            ("example-com.mail.protection.outlook.com", "office365"),
            ("mx01.mail.icloud.com", "icloud.com"),
            ("mx00.emig.gmx.net", "gmx.net"),
            ("smtp-in.orange.fr", "orange.fr"),
            ("mx1a1.comcast.net", "comcast.net"),
        ] {
            assert_eq!(Provider::of_host(host).map(|p| p.name), Some(name), "{host}");
        }
        assert!(Provider::of_host("mx.example.com").is_none());
    }

    #[test]
    fn a_rule_wins_over_the_provider_and_that_over_the_default() {
        let default = Limits {
            connections: 7,
            reserved_for_direct: 2,
            deliveries_per_connection: 70,
            recipients_per_transaction: 100,
            rates: Vec::new(),
            connection_rates: Vec::new(),
        };
        let google = Provider::of_host("aspmx.l.google.com");
        assert_eq!(limits(&default, None, None), default);
        assert_eq!(limits(&default, google, None).connections, 10);
        let rule = SiteRule { connections: Some(1), ..SiteRule::default() };
        let got = limits(&default, google, Some(&rule));
        assert_eq!(
            (got.connections, got.reserved_for_direct, got.deliveries_per_connection),
            (1, 0, 50)
        );
    }
}
