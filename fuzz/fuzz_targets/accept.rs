//! The headers of a scrape: `Accept` and `Accept-Encoding`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tallyd::server::fuzzing::accept(bytes));
