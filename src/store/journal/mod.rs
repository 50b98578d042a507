//! The journal: what was promised, in the order in which it was. SQLite is the queue's state behind
//! it.
//!
//! ```text
//! accept, settle ─▶ journal thread: leases and names in memory, records, ONE sync, answers
//!                        │ the same jobs, in order, each with the place where its record ends
//!                        ▼
//! claim, change ──▶ index thread: rows in SQLite, committed now and then with the place reached
//! bodies ─────────▶ reader threads: by position, from the segment's file
//! ```
//! # How the parts are to fit (not joined to the engine yet)
//! * *Order.* The journal thread hands a job to the index thread before it changes leases and
//!   backlog in memory and answers. So a claim that could see the change comes behind it. The index
//!   thread serves claims in order with jobs, never ahead of them.
//! * *A lease that is being settled* stays in place, marked, until the job was handed over: a claim
//!   that is ahead of the job still finds the delivery leased.
//! * *Direct mail costs no row*: the index thread keeps messages born leased aside until its next
//!   commit (a second at most); one that is settled by then is forgotten, both of it.
//! * *Place reached*: written in the transaction that holds all that came before it, and nothing
//!   after it; so a replay from there never meets its own rows.
//! * *The index is not synced* (WAL, synchronous=NORMAL): segments are given up only behind the
//!   place that was in the last checkpoint.
//! * *A ring*: segments are given up oldest first; what lives in the oldest is written again at the
//!   front with its state, in small slices. So whatever is in the journal, what became of it is in
//!   it too, and a rebuild is exact.
//! * *Operators' changes*: the index thread finds a slice, the journal thread records it, the index
//!   thread carries it out, passing over what was leased meanwhile.

mod disk;
mod files;
mod frame;
mod record;
mod scan;
