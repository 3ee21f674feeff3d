//! Comparing the ledger with the jobs themselves, while both go on changing.
//!
//! A recount walks the jobs in the order of their keys, in steps. What changes behind its cursor
//! between two steps is added as it changes, so that at the end it knows the present counts, and
//! any difference from the ledger is a mistake and not a matter of timing.

use std::collections::HashMap;

use super::{Ledger, RowId};
use crate::job::State;

type Stored = [i64; State::ALL.len()];

/// One pass over the jobs.
#[derive(Debug, Default)]
pub struct Recount {
    cursor: i64,
    rows: HashMap<RowId, Stored>,
}

impl Recount {
    /// The greatest key that has been counted.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// Counts the next job of the walk.
    pub fn visit(&mut self, key: i64, row: RowId, state: State) {
        self.cursor = key;
        self.rows.entry(row).or_default()[state as usize] += 1;
    }

    /// Follows a change of a job: from one state (none if it is new) to another (none if it is gone).
    pub fn follow(&mut self, key: i64, row: RowId, from: Option<State>, to: Option<State>) {
        if key > self.cursor {
            return;
        }
        let stored = self.rows.entry(row).or_default();
        if let Some(from) = from {
            stored[from as usize] -= 1;
        }
        if let Some(to) = to {
            stored[to as usize] += 1;
        }
    }

    /// How many jobs the ledger has too many or too few, over all rows and states.
    pub fn mismatch(&self, ledger: &Ledger) -> i64 {
        let none = Stored::default();
        let mut mismatch = 0;
        for (id, row) in ledger.iter() {
            let stored = self.rows.get(&id).unwrap_or(&none);
            for state in State::ALL {
                mismatch += (row.counts.stored(state) - stored[state as usize]).abs();
            }
        }
        for (id, stored) in &self.rows {
            if ledger.get(*id).is_none() {
                mismatch += stored.iter().map(|count| count.abs()).sum::<i64>();
            }
        }
        mismatch
    }
}
