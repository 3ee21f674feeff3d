//! The daemon's own workers: how an attempt runs.

pub mod exec;
