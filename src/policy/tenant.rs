//! Whose message it is.

use crate::base::network::Networks;

/// A tenant from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRule {
    /// Its name.
    pub name: String,
    /// Clients in these networks are its own.
    pub networks: Networks,
    /// Reverse-paths at these domains, or below them, are its own; lower case.
    pub sender_domains: Vec<String>,
    /// Its share against other tenants at the same site; 1 to 1,000.
    pub weight: u32,
}
