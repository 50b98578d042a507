//! Layer 4: names and sockets: where mail for a domain goes, and how to get there.

pub mod balancer;
pub mod dial;
pub mod dns;
pub mod listen;
pub mod tls;
pub mod unix;
pub mod webhook;
