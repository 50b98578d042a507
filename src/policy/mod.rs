//! Layer 2: every decision, as pure functions and state machines. Time and randomness are
//! arguments.

pub mod allowance;
pub mod author;
pub mod classify;
pub mod credential;
pub mod feedback;
pub mod forecast;
pub mod fuse;
pub mod guard;
mod lru;
pub mod orders;
pub mod paces;
pub mod quota;
pub mod retry;
pub mod rules;
pub mod schedule;
pub mod sense;
pub mod shares;
pub mod site;
pub mod source;
mod tally;
pub mod tenant;
pub mod throttle;
pub mod users;
pub mod verdict;
