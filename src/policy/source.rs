//! Sources: the addresses that mail is sent from, each under a name of its own, and which mail may
//! use which.
//!
//! A *pool* is a set of sources any of which will do. Mail has the pool of its tenant, where the
//! configuration gives that one, else that of its lane, else all sources. A configuration without
//! sources has one, whose address the system chooses.
//!
//! # Invariants
//! * A pool has at least one source; equal pools compare as equal.
//! * A [`SourceId`] is the place of a source in its [`Sources`], and stays.

use crate::base::address::Domain;
use crate::mail::message::{ByLane, Lane};
use crate::policy::tenant::TenantRule;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The one that is there where the configuration names none.
pub const UNNAMED: &str = "default";

/// Which source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its place.
    pub id: SourceId,
    /// In logs and on the command line.
    pub name: String,
    /// At most one of each family; none: the system chooses.
    pub addresses: Vec<IpAddr>,
    /// What it says in EHLO; should resolve to its addresses, and back.
    pub hostname: Domain,
}

impl Source {
    /// The address to connect to `receiver` from; `None` where the system chooses.
    #[must_use]
    pub fn address_for(&self, receiver: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == receiver.is_ipv4())
    }

    /// True where it has an address of the receiver's family.
    #[must_use]
    pub fn reaches(&self, receiver: IpAddr) -> bool {
        self.addresses.is_empty() || self.address_for(receiver).is_some()
    }
}

/// Some sources, in their order. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool(Arc<[SourceId]>);

impl Pool {
    fn new(mut ids: Vec<SourceId>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }

    /// True where this is one of them.
    #[must_use]
    pub fn has(&self, source: SourceId) -> bool {
        self.0.binary_search(&source).is_ok()
    }

    /// Each of them.
    pub fn ids(&self) -> impl Iterator<Item = SourceId> + Clone + '_ {
        self.0.iter().copied()
    }
}

/// `[sources.NAME]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRule {
    /// Its name.
    pub name: String,
    /// One of a family.
    pub addresses: Vec<IpAddr>,
    /// `None`: the node's.
    pub hostname: Option<Domain>,
}

/// All sources, and which mail they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    all: Vec<Arc<Source>>,
    lanes: ByLane<Pool>,
    tenants: HashMap<String, Pool>,
}

impl Sources {
    /// Those of the configuration; an empty list of names stands for all. Names that nobody has are
    /// left out here and refused by the configuration's checks.
    #[must_use]
    pub fn new(
        rules: &[SourceRule],
        lanes: &ByLane<Vec<String>>,
        tenants: &[TenantRule],
        hostname: &Domain,
    ) -> Self {
        let unnamed = [SourceRule { name: UNNAMED.to_string(), ..SourceRule::default() }];
        let rules = if rules.is_empty() { &unnamed } else { rules };
        let source = |(n, rule): (u16, &SourceRule)| {
            let (name, addresses) = (rule.name.clone(), rule.addresses.clone());
            let hostname = rule.hostname.as_ref().unwrap_or(hostname).clone();
            Arc::new(Source { id: SourceId(n), name, addresses, hostname })
        };
        let all: Vec<Arc<Source>> = (0..).zip(rules).map(source).collect();
        let every = Pool::new(all.iter().map(|source| source.id).collect());
        let pool = |names: &[String]| {
            let named = all.iter().filter(|source| names.contains(&source.name));
            let ids: Vec<SourceId> = named.map(|source| source.id).collect();
            if ids.is_empty() { every.clone() } else { Pool::new(ids) }
        };
        let own = tenants.iter().filter(|tenant| !tenant.sources.is_empty());
        let tenants = own.map(|tenant| (tenant.name.clone(), pool(&tenant.sources))).collect();
        let lanes = ByLane { direct: pool(&lanes.direct), bulk: pool(&lanes.bulk) };
        Self { all, lanes, tenants }
    }

    /// What the mail of this lane and tenant may use.
    #[must_use]
    pub fn pool(&self, lane: Lane, tenant: &str) -> &Pool {
        self.tenants.get(tenant).unwrap_or_else(|| self.lanes.of(lane))
    }

    /// The source of this number.
    #[must_use]
    pub fn get(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.all.get(usize::from(id.0))
    }

    /// The members of a pool.
    pub fn of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a Arc<Source>> + Clone {
        pool.ids().filter_map(|id| self.get(id))
    }

    /// All of them; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Source>> + Clone {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, addresses: &[&str]) -> SourceRule {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        SourceRule { name: name.into(), addresses, hostname: None }
    }

    fn tenant(name: &str, sources: &[&str]) -> TenantRule {
        let sources = sources.iter().map(|s| (*s).to_string()).collect();
        TenantRule { name: name.into(), sources, ..TenantRule::default() }
    }

    #[test]
    fn mail_has_the_pool_of_its_tenant_else_of_its_lane_else_all() {
        let host = Domain::parse("relay.example").unwrap();
        let rules = [rule("a", &["192.0.2.1"]), rule("b", &["192.0.2.2"]), rule("c", &[])];
        let lanes = ByLane { direct: Vec::new(), bulk: vec!["c".into(), "b".into()] };
        let sources = Sources::new(&rules, &lanes, &[tenant("own", &["a"])], &host);
        let names = |lane, tenant| -> String {
            let pool = sources.pool(lane, tenant);
            sources.of(pool).map(|source| source.name.as_str()).collect()
        };
        assert_eq!(names(Lane::Direct, "any"), "abc");
        assert_eq!(names(Lane::Bulk, "any"), "bc");
        assert_eq!(
            (names(Lane::Bulk, "own"), names(Lane::Direct, "own")),
            ("a".into(), "a".into())
        );
        let pool = sources.pool(Lane::Bulk, "any");
        assert!(pool.has(SourceId(2)) && !pool.has(SourceId(0)));
    }

    #[test]
    fn without_any_there_is_one_whose_address_the_system_chooses() {
        let host = Domain::parse("relay.example").unwrap();
        let sources = Sources::new(&[], &ByLane::default(), &[], &host);
        let all: Vec<_> = sources.iter().collect();
        assert_eq!((all.len(), all[0].name.as_str(), &all[0].hostname), (1, UNNAMED, &host));
        let receiver = "2001:db8::9".parse().unwrap();
        assert!(all[0].reaches(receiver) && all[0].address_for(receiver).is_none());
    }

    #[test]
    fn a_receiver_is_reached_by_its_family() {
        let host = Domain::parse("relay.example").unwrap();
        let rules = [rule("a", &["192.0.2.1", "2001:db8::1"]), rule("b", &["192.0.2.2"])];
        let sources = Sources::new(&rules, &ByLane::default(), &[], &host);
        let receiver: IpAddr = "2001:db8::9".parse().unwrap();
        let reaches: Vec<bool> = sources.iter().map(|source| source.reaches(receiver)).collect();
        assert_eq!(reaches, [true, false]);
        let from = sources.iter().next().unwrap().address_for(receiver);
        assert_eq!(from, Some("2001:db8::1".parse().unwrap()));
    }
}
