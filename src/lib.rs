//! A durable job server in one binary whose counts are exact.
//!
//! The map. Imports point to the right only, never sideways; a test checks it:
//!
//! ```text
//! main ─> cli ─> daemon ─> server │ worker │ sweeper ─> store ─> metrics ─> tally
//!      ─> job │ client ─> backoff ─> clock ─> config ─> fuzzing
//! ```

pub mod backoff;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
#[cfg(any(test, fuzzing))]
mod fuzzing;
pub mod job;
pub mod metrics;
pub mod server;
pub mod store;
pub mod sweeper;
pub mod tally;
pub mod worker;
