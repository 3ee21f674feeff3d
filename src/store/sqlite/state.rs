//! What the writer knows without asking the file: the ledger, the queues, and what the batch
//! under way has changed in them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::kept::{
    first_ready, load_ledger, load_queues, load_totals, write_queue, write_row, write_totals,
};
use super::rows::Core;
use super::steps::Step;
use super::sweep::PassedOver;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::job::{Change, State as JobState};
use crate::store::{JobId, StoreError};
use crate::tally::{
    Counts, Ledger, OTHER, QueueCounts, QueueDelta, Recount, RowId, TallyDelta, Totals,
};

/// The number of a queue's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct QueueId(pub(super) i64);

/// How many queues outside the configuration get series of their own.
const UNCONFIGURED_WITH_SERIES: usize = 100;

/// How many priorities there are.
pub(super) const PRIORITIES: usize = 10;

/// One queue.
pub(super) struct QueueState {
    pub(super) name: Arc<str>,
    /// Whether it has series of its own; decided once, so that no counter is split or joined.
    pub(super) has_series: bool,
    pub(super) paused: bool,
    pub(super) counts: QueueCounts,
    /// The `run_at` of the first ready job of each priority.
    pub(super) heads: [Option<i64>; PRIORITIES],
    /// No completed, cancelled or dead job is past its retention before.
    pub(super) prune_at: Timestamp,
    pub(super) passed_over: PassedOver,
}

impl QueueState {
    pub(super) fn oldest_ready(&self) -> Option<Timestamp> {
        self.heads.iter().flatten().min().copied().map(Timestamp)
    }
}

/// Ledger, queues and totals as they will be when the batch is committed.
pub(super) struct State {
    pub(super) identity: Arc<str>,
    pub(super) ledger: Ledger,
    pub(super) queues: HashMap<QueueId, QueueState>,
    pub(super) by_name: HashMap<Arc<str>, QueueId>,
    pub(super) recount: Option<Recount>,
    totals: Totals,
    /// The greatest key of a job that was removed: no later job may have one below it.
    pub(super) greatest_removed: i64,
    config: Arc<Config>,
    /// What the log will tell of the batch.
    pub(super) steps: Vec<Step>,
    /// Jobs that have ended since the last were pruned, and the queue that was pruned last.
    pub(super) ended_since_pruned: usize,
    pub(super) pruned_last: QueueId,
    batch: Batch,
    /// How running attempts of the daemon's own workers learn that they were ended.
    revocations: HashMap<JobId, CancellationToken>,
}

/// What a batch has changed.
#[derive(Default)]
struct Batch {
    new_rows: Vec<RowId>,
    rows: HashMap<RowId, Counts>,
    queues: HashMap<QueueId, QueueDelta>,
    stale_heads: BTreeSet<(QueueId, u8)>,
    totals: Totals,
    removed_greatest: bool,
    forgotten: Vec<(Arc<str>, Vec<RowId>)>,
    ready: Vec<QueueId>,
    due: Option<Timestamp>,
    /// Attempts of the daemon's own workers that began (with a token) or ended, in order.
    own_attempts: Vec<(JobId, Option<CancellationToken>)>,
}

impl State {
    /// Reads all of it from the file.
    pub(super) fn load(connection: &Connection, config: &Arc<Config>) -> rusqlite::Result<Self> {
        let (identity, totals, greatest_removed) = load_totals(connection)?;
        let mut state = Self {
            identity,
            ledger: load_ledger(connection)?,
            queues: HashMap::new(),
            by_name: HashMap::new(),
            recount: None,
            totals,
            greatest_removed,
            config: config.clone(),
            steps: Vec::new(),
            ended_since_pruned: 0,
            pruned_last: QueueId(0),
            batch: Batch::default(),
            revocations: HashMap::new(),
        };
        for (id, mut queue) in load_queues(connection)? {
            queue.has_series |= config.queues.contains_key(&*queue.name);
            if queue.counts.stored(JobState::Ready) > 0 {
                for priority in 0..PRIORITIES {
                    queue.heads[priority] = first_ready(connection, id, priority as u8)?;
                }
            }
            state.by_name.insert(queue.name.clone(), id);
            state.queues.insert(id, queue);
        }
        Ok(state)
    }

    /// The same as it stands in the file, for after a batch was undone.
    pub(super) fn reload(
        &self,
        connection: &Connection,
        config: &Arc<Config>,
    ) -> rusqlite::Result<Self> {
        let mut state =
            Self { revocations: self.revocations.clone(), ..Self::load(connection, config)? };
        // Claims that wait may not have been served; those that can be, are by the next batch.
        let has_ready = |queue: &QueueState| queue.counts.stored(JobState::Ready) > 0;
        let ready = state.queues.iter().filter(|(_, queue)| has_ready(queue)).map(|(id, _)| *id);
        state.batch.ready = ready.collect();
        Ok(state)
    }

    /// Everything as one delta, to begin the metrics with.
    pub(super) fn as_delta(&self) -> TallyDelta {
        let mut rows: Vec<_> = self.ledger.iter().collect();
        rows.sort_by_key(|(id, _)| *id);
        let mut queues: Vec<_> = self.queues.iter().collect();
        queues.sort_by_key(|(id, _)| **id);
        TallyDelta {
            new_rows: rows
                .iter()
                .map(|(id, row)| (*id, row.queue.clone(), row.kind.clone()))
                .collect(),
            rows: rows.iter().map(|(id, row)| (*id, row.counts)).collect(),
            queues: queues
                .into_iter()
                .map(|(_, queue)| {
                    let delta = QueueDelta {
                        counts: queue.counts,
                        has_series: queue.has_series,
                        paused: queue.paused,
                        oldest_ready: queue.oldest_ready(),
                        ..QueueDelta::default()
                    };
                    (queue.name.clone(), delta)
                })
                .collect(),
            forgotten: Vec::new(),
            totals: self.totals,
        }
    }

    pub(super) fn queue_named(&self, name: &str) -> Option<QueueId> {
        self.by_name.get(name).copied()
    }

    pub(super) fn queue(&self, id: QueueId) -> Result<&QueueState, StoreError> {
        self.queues.get(&id).ok_or_else(|| StoreError::Damaged {
            key: 0,
            why: format!("there is no queue number {}", id.0),
        })
    }

    /// Takes in a queue whose row was just made.
    pub(super) fn add_queue(&mut self, id: QueueId, name: &str) {
        let name: Arc<str> = Arc::from(name);
        self.by_name.insert(name.clone(), id);
        let is_configured = |name: &str| self.config.queues.contains_key(name);
        let beside = |queue: &&QueueState| queue.has_series && !is_configured(&queue.name);
        let has_series = is_configured(&name)
            || self.queues.values().filter(beside).count() < UNCONFIGURED_WITH_SERIES;
        let queue = QueueState {
            name,
            has_series,
            paused: false,
            counts: QueueCounts::default(),
            heads: [None; PRIORITIES],
            prune_at: Timestamp::MAX,
            passed_over: PassedOver::default(),
        };
        self.queues.insert(id, queue);
        self.touch(id);
    }

    /// Drops a queue that has no jobs, and its rows of the ledger.
    pub(super) fn remove_queue(&mut self, id: QueueId) -> Vec<RowId> {
        let Some(queue) = self.queues.remove(&id) else { return Vec::new() };
        self.by_name.remove(&queue.name);
        let rows = self.ledger.rows_of(&queue.name);
        for row in &rows {
            self.ledger.remove(*row);
            self.batch.rows.remove(row);
        }
        self.batch.new_rows.retain(|row| !rows.contains(row));
        self.batch.queues.remove(&id);
        self.batch.stale_heads.retain(|(queue, _)| *queue != id);
        self.batch.forgotten.push((queue.name, rows.clone()));
        rows
    }

    /// The row that counts new jobs of this pair.
    pub(super) fn choose_row(&mut self, queue: &str, kind: &str, config: &Config) -> RowId {
        let id = self.ledger.choose(queue, kind, config.max_pairs);
        if let Some(row) = self.ledger.get(id)
            && row.counts == Counts::default()
            && !self.batch.rows.contains_key(&id)
        {
            self.batch.new_rows.push(id);
            self.batch.rows.insert(id, Counts::default());
        }
        id
    }

    /// Counts a new job.
    pub(super) fn record_created(&mut self, job: &Core, due: bool) {
        let mut counts = Counts::default();
        counts.record_created(job.state);
        self.add_to_row(job.ledger, &counts);
        let mut queue = QueueCounts::default();
        queue.record_created(job.state);
        self.add_to_queue(job.queue, &queue);
        if self.ledger.get(job.ledger).is_some_and(|row| !row.is_own()) {
            self.count(&Totals { overflow_jobs: 1, ..Totals::default() });
        }
        self.follow(job, None, Some(job.state));
        if due {
            self.note_due(job.run_at);
        } else {
            self.note_ready(job.queue, job.priority, job.run_at);
        }
    }

    /// Counts what became of a job.
    pub(super) fn record(&mut self, job: &Core, change: &Change) {
        let mut counts = Counts::default();
        counts.record(change);
        self.add_to_row(job.ledger, &counts);
        let mut queue = QueueCounts::default();
        queue.record(change);
        self.add_to_queue(job.queue, &queue);
        self.follow(job, Some(change.from), change.to);
        if change.to.is_none() && job.id.key() > self.greatest_removed {
            self.greatest_removed = job.id.key();
            self.batch.removed_greatest = true;
        }
        if change.from == JobState::Ready {
            self.note_taken(job.queue, job.priority, job.run_at);
        }
        match change.to {
            Some(JobState::Ready) => self.note_ready(job.queue, job.priority, change.run_at),
            Some(JobState::Scheduled | JobState::Retrying) => self.note_due(change.run_at),
            _ => {}
        }
        if change.ended.is_some() && job.own {
            self.batch.own_attempts.push((job.id, None));
        }
    }

    fn follow(&mut self, job: &Core, from: Option<JobState>, to: Option<JobState>) {
        if let Some(recount) = &mut self.recount {
            recount.follow(job.id.key(), (job.ledger, job.queue.0), from, to);
        }
    }

    fn add_to_row(&mut self, id: RowId, counts: &Counts) {
        let row = self.ledger.get_mut(id).expect("checked before the change");
        row.counts.add(counts);
        self.batch.rows.entry(id).or_default().add(counts);
    }

    /// What the batch has changed in a queue.
    fn touch(&mut self, id: QueueId) -> &mut QueueDelta {
        self.batch.queues.entry(id).or_default()
    }

    pub(super) fn add_to_queue(&mut self, id: QueueId, counts: &QueueCounts) {
        let mut counts = *counts;
        let queue = self.queues.get_mut(&id).expect("checked before the change");
        if !queue.has_series && counts.leases_lost + counts.duplicates > 0 {
            // Only there, or they would count twice once the queue has series.
            self.totals_elsewhere(&mut counts);
        }
        let queue = self.queues.get_mut(&id).expect("checked before the change");
        queue.counts.add(&counts);
        self.touch(id).counts.add(&counts);
    }

    /// Moves what a queue without series counts to the totals.
    fn totals_elsewhere(&mut self, counts: &mut QueueCounts) {
        let totals = Totals {
            leases_lost_elsewhere: std::mem::take(&mut counts.leases_lost),
            duplicates_elsewhere: std::mem::take(&mut counts.duplicates),
            ..Totals::default()
        };
        self.count(&totals);
    }

    pub(super) fn set_paused(&mut self, id: QueueId, paused: bool) {
        self.queues.get_mut(&id).expect("checked before the change").paused = paused;
        self.touch(id);
        if !paused {
            self.batch.ready.push(id);
        }
    }

    pub(super) fn count(&mut self, totals: &Totals) {
        self.totals.add(totals);
        self.batch.totals.add(totals);
    }

    /// Notes how long a job has waited for its claim.
    pub(super) fn note_wait(&mut self, job: &Core, seconds: f64, now: Timestamp) {
        self.touch(job.queue).waits.push(job.observation(seconds, now));
    }

    /// Notes how long an attempt took.
    pub(super) fn note_duration(&mut self, job: &Core, seconds: f64, now: Timestamp) {
        self.touch(job.queue).durations.push((job.ledger, job.observation(seconds, now)));
    }

    /// Notes when something has to be swept.
    pub(super) fn note_due(&mut self, at: Timestamp) {
        self.batch.due = Some(self.batch.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn take_due(&mut self) -> Option<Timestamp> {
        self.batch.due.take()
    }

    fn note_ready(&mut self, id: QueueId, priority: u8, run_at: Timestamp) {
        let queue = self.queues.get_mut(&id).expect("checked before the change");
        let head = &mut queue.heads[usize::from(priority)];
        *head = Some(head.map_or(run_at.0, |head| head.min(run_at.0)));
        if self.batch.ready.last() != Some(&id) {
            self.batch.ready.push(id);
        }
    }

    fn note_taken(&mut self, id: QueueId, priority: u8, run_at: Timestamp) {
        let queue = self.queues.get(&id).expect("checked before the change");
        if queue.heads[usize::from(priority)] == Some(run_at.0) {
            self.batch.stale_heads.insert((id, priority));
        }
    }

    pub(super) fn note_ready_again(&mut self, queue: &str) {
        self.batch.ready.extend(self.queue_named(queue));
    }

    pub(super) fn take_ready(&mut self) -> Vec<Arc<str>> {
        let mut ready = std::mem::take(&mut self.batch.ready);
        ready.sort_unstable();
        ready.dedup();
        ready.iter().filter_map(|id| self.queues.get(id)).map(|queue| queue.name.clone()).collect()
    }

    /// Lets an attempt of the daemon's own workers know when it is ended by somebody else.
    pub(super) fn grant(&mut self, id: JobId, revoked: CancellationToken) {
        self.batch.own_attempts.push((id, Some(revoked)));
    }

    /// After the commit: tells attempts that were ended, also those that ended by themselves.
    pub(super) fn revoke(&mut self) {
        for (id, begun) in std::mem::take(&mut self.batch.own_attempts) {
            let before = match begun {
                Some(revoked) => self.revocations.insert(id, revoked),
                None => self.revocations.remove(&id),
            };
            if let Some(before) = before {
                before.cancel();
            }
        }
    }

    /// Looks up the first ready jobs of queues that have lost theirs.
    pub(super) fn refresh_heads(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for (id, priority) in std::mem::take(&mut self.batch.stale_heads) {
            if let Some(queue) = self.queues.get_mut(&id) {
                queue.heads[usize::from(priority)] = first_ready(connection, id, priority)?;
            }
        }
        Ok(())
    }

    /// Writes what the batch changed, and answers with what to publish once it is committed.
    pub(super) fn settle(&mut self, connection: &Connection) -> rusqlite::Result<TallyDelta> {
        self.refresh_heads(connection)?;
        let mut delta = TallyDelta {
            forgotten: std::mem::take(&mut self.batch.forgotten),
            totals: std::mem::take(&mut self.batch.totals),
            ..TallyDelta::default()
        };
        for id in std::mem::take(&mut self.batch.new_rows) {
            let row = self.ledger.get(id).expect("a new row is in the ledger");
            delta.new_rows.push((id, row.queue.clone(), row.kind.clone()));
        }
        for (id, counts) in std::mem::take(&mut self.batch.rows) {
            write_row(
                connection,
                id,
                self.ledger.get(id).expect("a changed row is in the ledger"),
            )?;
            delta.rows.push((id, counts));
        }
        let mut changed: Vec<_> = std::mem::take(&mut self.batch.queues).into_iter().collect();
        changed.sort_unstable_by_key(|(id, _)| *id);
        for (id, mut change) in changed {
            let queue = self.queues.get(&id).expect("a changed queue is known");
            write_queue(connection, id, queue)?;
            change.paused = queue.paused;
            change.has_series = queue.has_series;
            change.oldest_ready = queue.oldest_ready();
            delta.queues.push((queue.name.clone(), change));
        }
        if std::mem::take(&mut self.batch.removed_greatest) || delta.totals != Totals::default() {
            write_totals(connection, &self.totals, self.greatest_removed)?;
        }
        Ok(delta)
    }
}

/// The row of the ledger must exist before a change is counted there.
pub(super) fn check_row(state: &State, job: &Core) -> Result<(), StoreError> {
    state.queue(job.queue)?;
    if state.ledger.get(job.ledger).is_none() {
        let why = format!("the ledger has no row {}, nor {OTHER}", job.ledger.0);
        return Err(StoreError::Damaged { key: job.id.key(), why });
    }
    Ok(())
}
