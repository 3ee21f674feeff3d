//! One binary for all tests that need more than one module; each file is named by what it promises.
//!
//! Tests that break things on purpose, and run long, are in `tests/torture`.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod backup;
mod bad_input;
mod bed;
mod bench;
mod between;
mod call;
mod catalogue;
mod client;
mod command_line;
mod commands;
mod config;
mod container;
mod create_file;
mod crowds;
mod dashboard;
mod demo;
mod drain;
mod exact;
mod example;
mod exec;
mod exec_user;
mod exposition;
/// `tests/torture` uses the rest of it.
#[allow(dead_code)]
mod fixture;
mod formats;
mod generated;
mod hostile;
mod http;
mod kubernetes;
mod leases;
mod life;
mod limits;
mod long_poll;
mod model;
#[allow(dead_code)]
mod mount;
mod openapi;
mod packaging;
mod permissions;
mod processes;
mod prometheus;
mod push;
mod readme;
mod receiver;
mod refusals;
mod rules;
mod running;
mod sample_workers;
mod secrets;
mod series;
mod serve;
mod slow;
mod stalls;
mod start;
mod steps;
mod store;
/// `tests/torture` uses the rest of it.
#[allow(dead_code)]
mod stored;
#[allow(dead_code)]
mod strace;
mod systemd;
mod tampered;
mod tidy;
mod tls;
mod tokens;
mod tools;
mod unique;
