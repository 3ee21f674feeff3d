//! The counts on paper.

use std::collections::BTreeMap;

use super::{Answer, CONFIGURED, Paper};

/// What one row has counted, by the names that the ledger's columns have.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) queue: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) counts: BTreeMap<&'static str, i64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) promoted: usize,
    pub(crate) expired: usize,
    pub(crate) pruned: usize,
    pub(crate) overflow_jobs: i64,
    pub(crate) leases_lost_elsewhere: i64,
}

const OTHER: &str = "__other__";

impl Paper {
    /// Counts something that happened to a job.
    pub(super) fn count(&mut self, job: usize, what: &'static str) {
        let row = self.rows.get_mut(&self.jobs[job].row).expect("a job has a row");
        *row.counts.entry(what).or_default() += 1;
    }

    /// Everything that a row shows: what it has counted, and its jobs by state.
    pub(crate) fn counts_of(&self, row: usize) -> BTreeMap<&'static str, i64> {
        let mut counts = self.rows[&row].counts.clone();
        for (_, job) in self.stored().filter(|(_, job)| job.row == row) {
            if !matches!(job.state, "completed" | "cancelled") {
                *counts.entry(job.state).or_default() += 1;
            }
        }
        counts
    }

    fn row_of(&self, queue: &str, kind: &str) -> Option<usize> {
        let mut rows = self.rows.iter();
        rows.find(|(_, row)| row.queue == queue && row.kind == kind).map(|(id, _)| *id)
    }

    pub(super) fn choose_row(&mut self, queue: &'static str, kind: &'static str) -> usize {
        if let Some(row) = self.row_of(queue, kind) {
            return row;
        }
        let pairs = self.rows.values().filter(|row| row.kind != OTHER).count();
        let has_rows = self.rows.values().any(|row| row.queue == queue);
        let (queue, kind) = match (pairs < self.max_pairs, has_rows) {
            (true, _) => (queue, kind),
            (false, true) => (queue, OTHER),
            (false, false) => (OTHER, OTHER),
        };
        self.row_of(queue, kind).unwrap_or_else(|| {
            self.next_row += 1;
            self.rows.insert(self.next_row, Row { queue, kind, counts: BTreeMap::new() });
            self.next_row
        })
    }

    pub(super) fn forget(&mut self, queue: &'static str) -> Answer {
        if !self.queues.contains_key(queue) {
            Answer::Refused("no such queue")
        } else if CONFIGURED.contains(&queue) {
            Answer::Refused("configured")
        } else if self.jobs_of(queue).next().is_some() {
            Answer::Refused("not empty")
        } else {
            self.queues.remove(queue);
            self.rows.retain(|_, row| row.queue != queue);
            Answer::Done(1)
        }
    }

    /// What a start makes of what is stored.
    pub(super) fn start(&mut self, max_pairs: usize) {
        self.max_pairs = max_pairs;
        self.tick = 0;
        for queue in CONFIGURED {
            self.queues.entry(queue).or_default();
        }
        self.choose_row("main", "a");
        for index in 0..self.jobs.len() {
            if self.jobs[index].state == "running" {
                self.recover(index);
            }
        }
        let unused: Vec<_> =
            self.queues.iter().filter(|(_, queue)| !queue.paused).map(|(name, _)| *name).collect();
        for queue in unused {
            self.forget(queue); // those with jobs and those configured stay
        }
    }
}
