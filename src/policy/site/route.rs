//! Which of a domain's addresses to try, in which order (RFC 5321 §5.1, RFC 8305).

use super::MxHost;
use crate::base::random::Rng;
use crate::policy::source::Source;
use std::net::IpAddr;
use std::sync::Arc;

/// Where a domain's mail goes: its MX hosts, and all their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// By preference.
    pub hosts: Vec<MxHost>,
    /// Sorted, each once. Domains with the same addresses share connections.
    pub addresses: Arc<[IpAddr]>,
}

impl Route {
    /// The route over these hosts.
    #[must_use]
    pub fn new(hosts: Vec<MxHost>) -> Self {
        let mut addresses: Vec<IpAddr> =
            hosts.iter().flat_map(|h| h.addresses.iter().copied()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { hosts, addresses: addresses.into() }
    }

    /// True where its mail may go over a connection to `address`.
    #[must_use]
    pub fn serves(&self, address: IpAddr) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }
}

/// One address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Name of the MX host.
    pub host: String,
    /// Its preference: the lower goes first.
    pub preference: u16,
    /// Its address.
    pub address: IpAddr,
}

/// At most `most` addresses that `source` reaches: hosts by preference, in random order among
/// equals; a host's address families in turns, so that one broken family costs one attempt and not
/// all of them.
#[must_use]
pub fn hops(hosts: &[MxHost], source: &Source, most: usize, rng: &mut Rng) -> Vec<Hop> {
    let mut order: Vec<(u16, u32, &MxHost)> =
        hosts.iter().map(|host| (host.preference, rng.u32(..), host)).collect();
    order.sort_by_key(|(preference, random, _)| (*preference, *random));
    let mut all = Vec::new();
    for (preference, _, host) in order {
        let (mut v6, mut v4): (Vec<IpAddr>, Vec<IpAddr>) =
            host.addresses.iter().filter(|ip| source.reaches(**ip)).partition(|ip| ip.is_ipv6());
        rng.shuffle(&mut v6);
        rng.shuffle(&mut v4);
        let longest = v6.len().max(v4.len());
        let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
        for _ in 0..longest {
            for address in [v6.next(), v4.next()].into_iter().flatten() {
                all.push(Hop { host: host.name.clone(), preference, address });
            }
        }
    }
    all.truncate(most);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Domain;
    use crate::base::random::from_seed;
    use crate::policy::source::SourceId;
    use proptest::prelude::*;

    fn host(preference: u16, name: &str, addresses: &[&str]) -> MxHost {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        MxHost { preference, name: name.into(), addresses }
    }

    fn source(addresses: &[&str]) -> Source {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let hostname = Domain::parse("relay.test").unwrap();
        Source { id: SourceId(0), name: "mx1".into(), addresses, hostname }
    }

    fn any() -> Source {
        source(&[])
    }

    #[test]
    fn a_source_tries_its_own_family_alone() {
        let hosts = [host(10, "a", &["192.0.2.1", "2001:db8::1"]), host(20, "b", &["192.0.2.2"])];
        let got = hops(&hosts, &source(&["198.51.100.1"]), 9, &mut from_seed(1));
        assert_eq!(got.iter().map(|h| h.host.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(got.iter().all(|hop| hop.address.is_ipv4()));
        assert!(hops(&hosts[1..], &source(&["2001:db8::9"]), 9, &mut from_seed(1)).is_empty());
    }

    #[test]
    fn families_of_a_host_take_turns() {
        let hosts = [host(10, "a", &["192.0.2.1", "192.0.2.2", "2001:db8::1"])];
        let got = hops(&hosts, &any(), 9, &mut from_seed(1));
        assert_eq!(
            got.iter().map(|h| h.address.is_ipv6()).collect::<Vec<_>>(),
            [true, false, false]
        );
    }

    proptest! {
        #[test]
        fn preference_rules_and_nothing_is_left_out(seed: u64, most in 1usize..9) {
            let hosts = [
                host(20, "c", &["192.0.2.5"]),
                host(10, "a", &["192.0.2.1", "2001:db8::1"]),
                host(10, "b", &["192.0.2.3"]),
            ];
            let got = hops(&hosts, &any(), most, &mut from_seed(seed));
            prop_assert_eq!(got.len(), most.min(4));
            prop_assert!(got.iter().take(3).all(|h| h.host != "c"));
            let route = Route::new(hosts.to_vec());
            prop_assert!(got.iter().all(|h| route.serves(h.address)));
        }

        #[test]
        fn equals_come_first_equally_often(seed: u64) {
            let hosts = [host(10, "a", &["192.0.2.1"]), host(10, "b", &["192.0.2.3"])];
            let mut rng = from_seed(seed);
            let mut first = || hops(&hosts, &any(), 1, &mut rng).remove(0);
            let first = (0..400).filter(|_| first().host == "a").count();
            prop_assert!((100..300).contains(&first), "{first} of 400");
        }
    }
}
