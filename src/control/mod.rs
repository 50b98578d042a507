//! Layer 6: the admin API of a node on a Unix socket.
//!
//! # Protocol
//! The client sends one JSON object a line, at most [`REQUEST_MAX`] bytes. The node answers each
//! with JSON objects, one a line, of which the last is `{"done":…}` or `{"error":"…"}`; then comes
//! the next request.
//! ```text
//! → {"verb":"summary","lane":"bulk","sites_max":50}
//! ← {"summary":{"node":"web-mx1","total":{…},"sites":[…],…}}
//! ← {"done":{"count":1,"leased":0}}
//!
//! → {"verb":"list","filter":{"domains":["example.com"]},"site":null}
//! ← {"delivery":{…}}             for each that matches
//! ← {"progress":{…}}             in between, when nothing was found for a while
//! ← {"done":{"count":17,"leased":0}}
//!
//! → {"verb":"show","message":"1RW7M2Q80A3F"}
//! ← {"message":{…}}              then {"delivery":{…}} for each of its recipients
//! ← {"done":{"count":2,"leased":0}}              no message and a count of 0: not in the queue
//!
//! → {"verb":"change","action":"hold","filter":{"tenant":"c1842"}}
//! ← {"progress":{"count":4000,"leased":3}}       now and then
//! ← {"done":{"count":81233,"leased":20}}         changed; on a connection and left alone
//! → {"verb":"why","what":"ann@example.com"}      or a message id, a domain, a site, a tenant
//! ← {"why":{"about":…,"sentence":…,"chain":[["lane","bulk, since: …"],…],"remedy":…}}
//! ← {"done":{"count":1,"leased":0}}              a count of 0: nothing of that is queued
//!
//! → {"verb":"tenants","name":"shop"}       no name: all of them
//! ← {"tenant":{"name":"shop","terms":["may_send_as = shop.test"],"queued":{…},"known":{…},…}}
//! → {"verb":"blocks"}            ← {"block":{"who":"192.0.2.7","until_ms":…,"repeated":1}}
//! → {"verb":"unblock","who":"192.0.2.7"}
//!
//! → {"verb":"hold_all"}          what is queued and what is to come
//! → {"verb":"release_all"}       ends that; the count: what a filter still holds
//!
//! → {"verb":"limits","site":"gmail.com"}
//! ← {"limits":{"site":"gmail.com","in_use":true,"limits":[{"key":"connections","value":10,
//!              "source":{"from":"provider","name":"gmail.com"}},…],…}}
//! → {"verb":"orders"}            what was ordered and holds now
//! ← {"throttle":{"site":"gmail.com","key":"rate","value":["100/s"],"since_ms":…,"until_ms":…}}
//! ← {"suspension":{"tenant":"c1842","reason":"list bought","since_ms":…,"until_ms":null}}
//! → {"verb":"throttle_set","site":"gmail.com","settings":[{"key":"rate","value":["100/s"]}],
//!    "for_ms":7200000}           answers {"throttle":…} for each
//! → {"verb":"throttle_clear","site":"gmail.com","keys":["rate"]}     no keys: all of its
//! → {"verb":"suspend","tenant":"c1842","reason":"list bought"}       or site, campaign, lane
//! → {"verb":"resume","tenant":"c1842"}                               of exactly that
//! ```
//! Actions are `hold`, `release`, `retry`, `delete`. Words, states and filters are those of
//! [`crate::store`]; a filter's absent fields match everything. Keys that end in `_ms` hold times
//! in milliseconds since 1970, but `oldest_ms`, which is an age. `site` stands for the domains that
//! the node has found there; for a domain whose site is not known yet, its own name stands. Limits
//! and suspensions name a site as sections of the configuration do: by its name, a domain that it
//! serves, a suffix of its MX hosts' names. A rate's value is a list, empty for no limit. Without
//! `for_ms` an order stands until it is taken back. The answer comes when the order is on disk and
//! holds.
//!
//! # Invariants
//! * Memory is bounded: requests by [`REQUEST_MAX`], clients by [`server::CLIENTS_MAX`], answers by
//!   pages.
//! * A client that goes away, or does not read, ends its own work and nobody else's.
//! * Only the node's user can connect: the socket is never there with other rights than 0600.

pub mod api;
pub mod client;
pub mod orders;
pub mod outlook;
pub mod protocol;
pub mod reception;
pub mod server;
pub mod small_file;
pub mod summary;
#[cfg(test)]
pub(crate) mod tests;
pub mod why;

pub use api::Api;
pub use orders::Desk;
pub use protocol::REQUEST_MAX;
pub use reception::Reception;
pub use server::{serve, serve_one};
