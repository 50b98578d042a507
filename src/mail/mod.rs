//! Layer 1: what a message is made of. Pure: bytes and values only.

pub mod dsn;
pub mod envelope;
pub mod header;
pub mod lines;
pub mod message;
