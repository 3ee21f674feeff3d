//! One binary for all tests that need more than one module; each file is named by what it promises.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod bed;
mod config;
mod exec;
mod fixture;
mod life;
mod model;
mod readme;
mod serve;
mod store;
mod tidy;
