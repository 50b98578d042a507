//! Bulkhead: an SMTP relay with two lanes and a disk-backed queue.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod deliver;
pub mod mail;
pub mod net;
pub mod node;
pub mod observe;
pub mod policy;
pub mod receive;
pub mod smtp;
pub mod store;
