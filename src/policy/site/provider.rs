//! Receivers that serve many domains under MX names of one operator, and the limits they are known
//! to welcome.
//!
//! Limits come from the receivers' own postmaster pages where they publish any; `[sites."NAME"]`
//! overrides them.

use super::Rate;
use super::setting::{LimitKey, Value};
use crate::base::address::is_below;
use std::time::Duration;

/// One operator.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    /// The site's name, and the key of its section under `[sites]`.
    pub name: &'static str,
    /// Other names its section may go by: domains it serves.
    pub aliases: &'static [&'static str],
    /// Its MX hosts end in one of these.
    pub mx_suffixes: &'static [&'static str],
    /// Its hosts are several sites, by region, and what is stated holds for each.
    pub regional: bool,
    /// What it states; the rest is as for all.
    limits: &'static [(LimitKey, Stated)],
}

/// A value that can be written down here.
#[derive(Clone, Copy, Debug)]
enum Stated {
    Count(u32),
    Rates(&'static [Rate]),
}

const fn connections(count: u32) -> (LimitKey, Stated) {
    (LimitKey::Connections, Stated::Count(count))
}

const fn deliveries(per_connection: u32) -> (LimitKey, Stated) {
    (LimitKey::DeliveriesPerConnection, Stated::Count(per_connection))
}

const fn rate(rates: &'static [Rate]) -> (LimitKey, Stated) {
    (LimitKey::Rate, Stated::Rates(rates))
}

/// In the order they are tried.
pub const PROVIDERS: &[Provider] = &[
    Provider {
        name: "gmail.com",
        aliases: &["google.com", "googlemail.com"],
        mx_suffixes: &["google.com", "googlemail.com", "smtp.goog"],
        regional: false,
        limits: &[connections(10), deliveries(50)],
    },
    Provider {
        name: "yahoo.com",
        aliases: &["aol.com", "ymail.com"],
        mx_suffixes: &["yahoodns.net"],
        regional: false,
        limits: &[connections(10), deliveries(20)],
    },
    Provider {
        name: "yahoo.co.jp",
        aliases: &["ymail.ne.jp"],
        mx_suffixes: &["mail.yahoo.co.jp"],
        regional: false,
        limits: &[
            connections(2),
            deliveries(20),
            rate(&[Rate { count: 10, per: Duration::from_secs(1) }]),
        ],
    },
    Provider {
        name: "outlook.com",
        aliases: &["hotmail.com", "live.com", "msn.com"],
        mx_suffixes: &["olc.protection.outlook.com"],
        regional: false,
        limits: &[connections(5), deliveries(50)],
    },
    Provider {
        name: "office365",
        aliases: &["protection.outlook.com"],
        mx_suffixes: &["mail.protection.outlook.com", "mx.microsoft"],
        regional: false,
        limits: &[connections(10), deliveries(50)],
    },
    Provider {
        name: "icloud.com",
        aliases: &["me.com", "mac.com"],
        mx_suffixes: &["mail.icloud.com"],
        regional: false,
        limits: &[connections(10), deliveries(5)],
    },
    Provider {
        name: "gmx.net",
        aliases: &["web.de", "gmx.de", "gmx.com"],
        mx_suffixes: &["gmx.net", "web.de"],
        regional: false,
        limits: &[connections(4), deliveries(20)],
    },
    Provider {
        name: "mail.com",
        aliases: &["email.com"],
        mx_suffixes: &["mail.com"],
        regional: false,
        limits: &[deliveries(100)],
    },
    Provider {
        name: "t-online.de",
        aliases: &["magenta.de"],
        mx_suffixes: &["t-online.de"],
        regional: false,
        limits: &[connections(3), deliveries(20)],
    },
    Provider {
        name: "orange.fr",
        aliases: &["wanadoo.fr"],
        mx_suffixes: &["orange.fr", "wanadoo.fr"],
        regional: false,
        limits: &[connections(2), deliveries(100)],
    },
    Provider {
        name: "kpnmail.nl",
        aliases: &["kpn.com", "planet.nl", "hetnet.nl"],
        mx_suffixes: &["kpnmail.nl"],
        regional: false,
        limits: &[connections(10), deliveries(10)],
    },
    Provider {
        name: "comcast.net",
        aliases: &["xfinity.com"],
        mx_suffixes: &["comcast.net"],
        regional: false,
        limits: &[connections(25), deliveries(1_000)],
    },
    Provider {
        name: "netvigator.com",
        aliases: &[],
        mx_suffixes: &["netvigator.com"],
        regional: false,
        limits: &[connections(5), deliveries(10)],
    },
    Provider {
        name: "qq.com",
        aliases: &["foxmail.com"],
        mx_suffixes: &["qq.com"],
        regional: false,
        limits: &[connections(4), deliveries(8)],
    },
    Provider {
        name: "163.com",
        aliases: &["126.com", "yeah.net"],
        mx_suffixes: &["mxmail.netease.com"],
        regional: false,
        limits: &[connections(4), deliveries(7)],
    },
    Provider {
        name: "barracuda",
        aliases: &["barracudanetworks.com"],
        mx_suffixes: &["barracudanetworks.com"],
        regional: false,
        limits: &[connections(10), deliveries(15)],
    },
    Provider {
        name: "mimecast",
        aliases: &["mimecast.com"],
        mx_suffixes: &["mimecast.com", "mimecast.co.za", "mimecast-offshore.com"],
        regional: true,
        limits: &[connections(10), deliveries(100)],
    },
];

impl Provider {
    /// The operator of this MX host.
    #[must_use]
    pub fn of_host(host: &str) -> Option<&'static Self> {
        PROVIDERS.iter().find(|p| p.mx_suffixes.iter().any(|suffix| is_below(host, suffix)))
    }

    /// What it states of this limit.
    pub(super) fn get(&self, key: LimitKey) -> Option<Value> {
        let (_, stated) = self.limits.iter().find(|(stated, _)| *stated == key)?;
        Some(match stated {
            Stated::Count(count) => Value::Count(*count),
            Stated::Rates(rates) => Value::Rates(rates.to_vec()),
        })
    }

    /// True where a section `[sites."name"]` means this provider.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::site::setting::Setting;

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
            ("mx00.mail.com", "mail.com"),
            ("eu-smtp-inbound-1.mimecast.com", "mimecast"),
            ("za-smtp-inbound-2.mimecast.co.za", "mimecast"),
            ("mx.kpnmail.nl", "kpnmail.nl"),
            ("d12345a.ess.barracudanetworks.com", "barracuda"),
            ("mx1.netvigator.com", "netvigator.com"),
            ("mx3.qq.com", "qq.com"),
            ("163mx01.mxmail.netease.com", "163.com"),
            ("mx5.mail.yahoo.co.jp", "yahoo.co.jp"),
            ("mx03.t-online.de", "t-online.de"),
        ] {
            assert_eq!(Provider::of_host(host).map(|p| p.name), Some(name), "{host}");
        }
        for host in ["mx.example.com", "mx.gmail.com", "mx.notqq.com", "mail.com.example"] {
            assert!(Provider::of_host(host).is_none(), "{host}");
        }
    }

    #[test]
    fn no_name_means_two_and_all_that_is_stated_is_in_range() {
        let mut names: Vec<&str> = Vec::new();
        for provider in PROVIDERS {
            names.extend([provider.name].iter().chain(provider.aliases));
            for (key, _) in provider.limits {
                let value = provider.get(*key).unwrap();
                assert_eq!(Setting::new(*key, value).map(|s| s.key()), Ok(*key));
            }
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let japan = Provider::of_host("mx1.mail.yahoo.co.jp").unwrap();
        assert_eq!(japan.get(LimitKey::Rate).unwrap().to_string(), "10/s");
    }
}
