//! A configuration and the file of tokens beside it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tallyd::config::fuzzing::config(bytes));
