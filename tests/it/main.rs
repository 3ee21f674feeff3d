//! Tests of the real binary, one module per promise.

mod config;
