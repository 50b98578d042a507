//! The journal: what was promised, in the order in which it was.

mod disk;
mod files;
mod frame;
mod record;
mod scan;
