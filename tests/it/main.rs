//! The tests that need more than one module, by promise.

#![allow(clippy::unwrap_used)]

mod exec;
