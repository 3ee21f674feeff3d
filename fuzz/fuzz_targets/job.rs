//! The body of a create of one job.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tallyd::server::fuzzing::job(bytes));
