//! Layer 1: both ends of the protocol (RFC 5321) as state machines: bytes in, bytes and events out.

pub mod client;
pub mod command;
pub mod data;
pub mod proxied;
pub mod reply;
pub mod sasl;
pub mod server;
