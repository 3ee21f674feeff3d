//! One binary for all tests that need more than one module; each file is named by what it promises.

mod config;
mod life;
mod tidy;
