//! Layer 1: both ends of the protocol (RFC 5321) as state machines: bytes in, bytes and events out.

pub mod reply;
pub mod client;
