//! Comparing the ledger with the jobs themselves, while both go on changing.
//!
//! A recount walks the jobs in the order of their keys, in steps. What changes behind its cursor
//! between two steps is added as it changes, so that at the end it knows the present counts, and
//! any difference from the ledger is a mistake and not a matter of timing.

use std::collections::HashMap;
use std::hash::Hash;

use super::{Ledger, QueueCounts, RowId};
use crate::job::State;

type Stored = [i64; State::ALL.len()];

/// Where a job is counted: its row of the ledger, and the number of its queue.
pub type Place = (RowId, i64);

/// One pass over the jobs.
#[derive(Debug, Default)]
pub struct Recount {
    cursor: i64,
    rows: HashMap<RowId, Stored>,
    queues: HashMap<i64, Stored>,
}

impl Recount {
    /// The greatest key that has been counted.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Counts the next job of the walk.
    pub fn visit(&mut self, key: i64, place: Place, state: State) {
        self.cursor = key;
        self.add(place, state, 1);
    }

    /// Passes over a job that cannot be read, and is counted nowhere.
    pub fn skip(&mut self, key: i64) {
        self.cursor = key;
    }

    fn add(&mut self, (row, queue): Place, state: State, jobs: i64) {
        self.rows.entry(row).or_default()[state as usize] += jobs;
        self.queues.entry(queue).or_default()[state as usize] += jobs;
    }

    /// Follows a change of a job: from one state (none if it is new) to another (none if it is gone).
    pub fn follow(&mut self, key: i64, place: Place, from: Option<State>, to: Option<State>) {
        if key > self.cursor {
            return;
        }
        if let Some(from) = from {
            self.add(place, from, -1);
        }
        if let Some(to) = to {
            self.add(place, to, 1);
        }
    }

    /// How many jobs the ledger, or the counts of the queues, have too many or too few over all
    /// states: the greater of the two, since a job that changed unseen is missing from both.
    pub fn mismatch<'c>(
        &self,
        ledger: &Ledger,
        queues: impl Iterator<Item = (i64, &'c QueueCounts)>,
    ) -> i64 {
        let rows = ledger.iter().map(|(id, row)| (id, State::ALL.map(|s| row.counts.stored(s))));
        let queues = queues.map(|(id, counts)| (id, counts.stored));
        difference(&self.rows, rows).max(difference(&self.queues, queues))
    }
}

/// By how much what was found differs from what is counted; what is not counted counts as 0.
fn difference<K: Hash + Eq>(
    found: &HashMap<K, Stored>,
    counted: impl Iterator<Item = (K, Stored)>,
) -> i64 {
    let size = |stored: &Stored| stored.iter().map(|jobs| jobs.abs()).sum::<i64>();
    let mut left: i64 = found.values().map(size).sum();
    let mut differs = 0;
    for (key, mut counted) in counted {
        if let Some(found) = found.get(&key) {
            left -= size(found);
            counted.iter_mut().zip(found).for_each(|(counted, found)| *counted -= found);
        }
        differs += size(&counted);
    }
    differs + left
}
