//! One binary for all tests that need more than one module; each file is named by what it promises.

mod bed;
mod config;
mod life;
mod model;
mod store;
mod tidy;
