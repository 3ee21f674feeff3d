//! The body of a create of many jobs, as an array and as lines.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tallyd::server::fuzzing::batch(bytes));
