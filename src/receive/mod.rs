//! Layer 5: the receiving side: listeners, sessions, HTTP, and the way of a message into the store.

mod door;
mod hold;
pub mod http;
mod intake;
mod listener;
pub mod logins;
mod patience;
mod session;
pub mod tenants;
#[cfg(test)]
mod tests;

pub use intake::{Ingress, Parts};
