//! Which row counts a job, and the bound on rows.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Counts, OTHER};

/// The number of a row; a job's row in the store carries it for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub i64);

/// The counts of one (queue, kind).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The queue's name, or [`OTHER`].
    pub queue: Arc<str>,
    /// The kind's name, or [`OTHER`].
    pub kind: Arc<str>,
    /// What has been counted.
    pub counts: Counts,
}

impl Row {
    /// Whether it counts a pair of its own, as opposed to everything beyond the limit.
    pub fn is_own(&self) -> bool {
        &*self.kind != OTHER
    }
}

/// All rows, in memory. Rows never merge; those of a forgotten queue are removed with it.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    rows: HashMap<RowId, Row>,
    by_queue: HashMap<Arc<str>, HashMap<Arc<str>, RowId>>,
    own: usize,
    last: i64,
}

impl Ledger {
    /// Takes in a stored row.
    pub fn insert(&mut self, id: RowId, row: Row) {
        self.own += usize::from(row.is_own());
        self.last = self.last.max(id.0);
        let kinds = self.by_queue.entry(row.queue.clone()).or_default();
        kinds.insert(row.kind.clone(), id);
        self.rows.insert(id, row);
    }

    /// The row that counts new jobs of this pair: its own, else that of the queue's other kinds,
    /// else that of all other queues; made if it is new. At most `max_pairs` rows are pairs' own.
    pub fn choose(&mut self, queue: &str, kind: &str, max_pairs: usize) -> RowId {
        let kinds = self.by_queue.get(queue);
        if let Some(id) = kinds.and_then(|kinds| kinds.get(kind)) {
            return *id;
        }
        if self.own < max_pairs {
            return self.add(queue, kind);
        }
        let queue = if kinds.is_some() { queue } else { OTHER };
        let other = self.by_queue.get(queue).and_then(|kinds| kinds.get(OTHER));
        other.copied().unwrap_or_else(|| self.add(queue, OTHER))
    }

    fn add(&mut self, queue: &str, kind: &str) -> RowId {
        let id = RowId(self.last + 1);
        let queue = match self.by_queue.get_key_value(queue) {
            Some((known, _)) => known.clone(),
            None => Arc::from(queue),
        };
        self.insert(id, Row { queue, kind: Arc::from(kind), counts: Counts::default() });
        id
    }

    /// Takes a row out, so that a batch that failed leaves none behind.
    pub fn remove(&mut self, id: RowId) -> Option<Row> {
        let row = self.rows.remove(&id)?;
        self.own -= usize::from(row.is_own());
        if let Some(kinds) = self.by_queue.get_mut(&row.queue) {
            kinds.remove(&row.kind);
            if kinds.is_empty() {
                self.by_queue.remove(&row.queue);
            }
        }
        Some(row)
    }

    /// One row.
    pub fn get(&self, id: RowId) -> Option<&Row> {
        self.rows.get(&id)
    }

    /// One row, to count.
    pub fn get_mut(&mut self, id: RowId) -> Option<&mut Row> {
        self.rows.get_mut(&id)
    }

    /// All rows in no order.
    pub fn iter(&self) -> impl Iterator<Item = (RowId, &Row)> {
        self.rows.iter().map(|(id, row)| (*id, row))
    }

    /// The rows of one queue.
    pub fn rows_of(&self, queue: &str) -> Vec<RowId> {
        self.by_queue.get(queue).map_or_else(Vec::new, |kinds| kinds.values().copied().collect())
    }

    /// How many rows are pairs' own.
    pub fn own(&self) -> usize {
        self.own
    }
}
