//! Layer 6: the admin API of a node on a Unix socket.
//!
//! # Protocol
//! The client sends one JSON object a line, at most [`REQUEST_MAX`] bytes; the node answers each with JSON
//! objects, one a line, of which the last is `{"done":…}` or `{"error":"…"}`. Then the next request may come.
//! ```text
//! → {"verb":"summary","lane":"bulk","sites_max":50}
//! ← {"summary":{"node":"web-mx1","total":{…},"sites":[…],…}}
//! ← {"done":{"count":1,"leased":0}}
//! → {"verb":"list","filter":{"domains":["example.com"]},"site":null}
//! ← {"delivery":{…}}            one for each that matches
//! ← {"progress":{…}}            in between, when nothing was found for a while
//! ← {"done":{"count":17,"leased":0}}
//! → {"verb":"show","message":"1RW7M2Q80A3F"}
//! ← {"message":{…}} {"delivery":{…}} … {"done":{"count":2,"leased":0}}     count 0: no such message
//! → {"verb":"change","action":"hold","filter":{"tenant":"c1842"}}          hold, release, retry, delete
//! ← {"progress":{"count":4000,"leased":3}} … {"done":{"count":81233,"leased":20}}
//! → {"verb":"hold_all"}         what is queued and what is to come
//! → {"verb":"release_all"}      ends that, and releases what was held singly
//! ```
//! Words, states and filters are those of [`crate::store`]; times are milliseconds since 1970, keys that hold
//! one end in `_ms`. `filter` fields that are absent match everything. `site` stands for the domains that the
//! node has found there; for a domain whose site is not known yet, its own name stands.
//!
//! # Invariants
//! * Memory is bounded: requests by [`REQUEST_MAX`], clients by [`server::CLIENTS_MAX`], answers by pages.
//! * A client that goes away, or does not read, ends its own work and nobody else's.
//! * Only the node's user can connect: the socket is never there with other rights than 0600.

pub mod api;
pub mod client;
pub mod protocol;
pub mod server;
pub mod socket;
pub mod summary;
#[cfg(test)]
mod tests;

pub use api::Api;
pub use protocol::REQUEST_MAX;
pub use server::{serve, serve_one};
pub use socket::{ControlSocket, SocketError, bind};
