//! One binary for all tests that need more than one module; each file is named by what it promises.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod bad_input;
mod bed;
mod call;
mod config;
mod exec;
mod exposition;
mod fixture;
mod http;
mod leases;
mod life;
mod limits;
mod long_poll;
mod model;
mod openapi;
mod readme;
mod refusals;
mod serve;
mod start;
mod store;
mod tidy;
mod tools;
mod unique;
