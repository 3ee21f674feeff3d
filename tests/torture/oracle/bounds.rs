//! What a daemon may take: time until what was cut off goes on, memory, and room for its log.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Entry;
use crate::fixture::{MOST_WAL_BYTES, Scrape};

/// Five times what the daemon has in memory under the loads of these tests.
const MOST_MEMORY_BYTES: u64 = 256 << 20;

/// How long after the end of a dead worker's lease its job is claimable.
const PROMISED: Duration = Duration::from_secs(1);

/// With this attempt at the earliest a job of these tests may be dead, and be put back at any time.
const MAY_BE_LAST: u64 = 4;

/// A bound that is promised is asserted with so many times its value.
pub const LENIENCE: u32 = 5;

/// The limits that a scrape shows to be exceeded.
pub(super) fn exceeded(scrape: &Scrape) -> Vec<String> {
    let limits = [
        ("process_resident_memory_bytes", MOST_MEMORY_BYTES),
        ("tallyd_store_wal_size_bytes", MOST_WAL_BYTES),
    ];
    let exceeded = limits.into_iter().filter(|(name, most)| scrape.value(name) > *most as f64);
    exceeded.map(|(name, most)| format!("{name} is over {most}: {}", scrape.value(name))).collect()
}

/// After so long, from when it was given out, a job is claimable whose worker has vanished.
pub fn most_until_claimable(lease: Duration) -> Duration {
    lease + PROMISED * LENIENCE
}

/// A brief lease that nobody has ended.
struct Open<'j> {
    attempt: u64,
    lease: &'j str,
    lasts: Duration,
    from: Duration,
}

/// Jobs that were given out again too long after the lease of a worker that had vanished, if there
/// was always somebody who waited for them, and nothing else was ready. A lease runs from when it
/// was given out or renewed, or from the start of the daemon after that; `starts` are when it served.
pub fn late_recoveries(journal: &[Entry], starts: &[Duration]) -> Vec<String> {
    let mut late = Vec::new();
    let mut open: BTreeMap<&str, Open<'_>> = BTreeMap::new();
    for entry in journal {
        match entry {
            Entry::Leased { id, lease, brief, at, attempt, .. } => {
                if let Some(earlier) = open.remove(&**id) {
                    late.extend(earlier.lateness(*at, starts, *attempt, id));
                }
                if let Some(lasts) = *brief {
                    open.insert(id, Open { attempt: *attempt, lease, lasts, from: *at });
                }
            }
            Entry::Renewed { lease, answer, at } if answer == "ok" => {
                let renewed = open.values_mut().find(|one| one.lease == lease);
                renewed.into_iter().for_each(|one| one.from = *at);
            }
            Entry::Ended { lease, answer, .. } if answer == "ok" => {
                open.retain(|_, one| one.lease != lease);
            }
            _ => {}
        }
    }
    late
}

impl Open<'_> {
    /// What is wrong if the next attempt was given out at this time.
    fn lateness(
        &self,
        at: Duration,
        starts: &[Duration],
        attempt: u64,
        id: &str,
    ) -> Option<String> {
        let started = starts.iter().filter(|start| **start < at).max();
        let from = started.map_or(self.from, |started| self.from.max(*started));
        let took = at.saturating_sub(from);
        let is_late = self.attempt < MAY_BE_LAST && took > most_until_claimable(self.lasts);
        is_late.then(|| {
            format!("attempt {attempt} of {id} came {took:?} after a lease of {:?}", self.lasts)
        })
    }
}
