//! Counts under any names, in both formats and back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tallyd::metrics::fuzzing::exposition(bytes));
