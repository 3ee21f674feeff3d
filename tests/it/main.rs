//! One binary for all tests that need more than one module; each file is named by what it promises.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod config;
mod crash;
mod drain;
mod exec;
mod faults;
mod first_start;
mod fixture;
mod oracle;
mod processes;
mod readme;
mod running;
mod scrape;
mod serve;

mod strace;
mod tidy;
