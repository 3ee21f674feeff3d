//! What a daemon may take: time until what was cut off goes on, memory, and room for its log.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Entry;
use crate::fixture::{MOST_WAL_BYTES, Scrape};

/// Five times what the daemon has in memory under the loads of these tests.
const MOST_MEMORY_BYTES: u64 = 256 << 20;

/// How long after the end of a dead worker's lease its job is claimable.
const PROMISED: Duration = Duration::from_secs(1);

/// A bound that is promised is asserted with so many times its value.
const LENIENCE: u32 = 5;

/// The limits that a scrape shows to be exceeded.
pub(super) fn exceeded(scrape: &Scrape) -> Vec<String> {
    let limits = [
        ("process_resident_memory_bytes", MOST_MEMORY_BYTES),
        ("tallyd_store_wal_size_bytes", MOST_WAL_BYTES),
    ];
    let exceeded = limits.into_iter().filter(|(name, most)| scrape.value(name) > *most as f64);
    exceeded.map(|(name, most)| format!("{name} is over {most}: {}", scrape.value(name))).collect()
}

/// Jobs that were given out again too long after the lease of a worker that had vanished, if there
/// was always somebody who waited for them, and nothing else was ready. A lease runs from when it
/// was given out, or from the start of the daemon after that; `starts` are when it served.
pub fn late_recoveries(journal: &[Entry], starts: &[Duration]) -> Vec<String> {
    let mut late = Vec::new();
    let mut vanished: BTreeMap<&str, (Duration, Duration)> = BTreeMap::new();
    for entry in journal {
        let Entry::Leased { id, brief: Some(lease), at, attempt, .. } = entry else { continue };
        let Some((given, lease)) = vanished.insert(id, (*at, *lease)) else { continue };
        let started = starts.iter().filter(|start| *start < at).max();
        let took = at.saturating_sub(started.map_or(given, |started| given.max(*started)));
        if took > lease + PROMISED * LENIENCE {
            late.push(format!(
                "attempt {attempt} of {id} came {took:?} after a lease of {lease:?}"
            ));
        }
    }
    late
}
