//! One binary for all tests that need more than one module; each file is named by what it promises.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod bad_input;
mod bed;
mod call;
mod config;
mod crash;
mod drain;
mod exec;
mod exposition;
mod faults;
mod first_start;
mod fixture;
mod http;
mod journal;
mod leases;
mod life;
mod limits;
mod long_poll;
mod model;
mod openapi;
mod oracle;
mod processes;
mod readme;
mod recovery;
mod refusals;
mod running;
mod scrape;
mod serve;
mod start;
mod steps;
mod store;
mod strace;
mod tidy;
mod tools;
mod unique;
