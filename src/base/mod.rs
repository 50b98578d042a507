//! Layer 0: time, randomness, ids and addresses. Knows nothing of mail transport.

pub mod address;
pub mod id;
pub mod live;
pub mod network;
pub mod random;
pub mod text;
pub mod time;
