//! Creating jobs: unique keys first, then limits, then the rows.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row};

use super::Engine;
use super::rows::{Core, key_until_name, trace_of};
use super::state::QueueId;
use crate::clock::{Timestamp, millis};
use crate::job::{State, created};
use crate::store::operation::Failure;
use crate::store::{BatchCreated, Created, Job, JobId, NewJob, Start, StoreError, Unique};
use crate::tally::QueueCounts;

/// What a create will do, decided before any is done.
enum Plan {
    Insert,
    /// The key is held by a stored job.
    Existing(QueueId, JobId),
    /// The key is held by an earlier job of the same batch.
    SameAs(usize),
}

impl Engine {
    /// Creates a job, or finds the one that holds its unique key.
    pub(in crate::store) fn create(&mut self, job: &NewJob) -> Result<Created, Failure> {
        let jobs = std::slice::from_ref(job);
        let plan = self.plan(jobs).map_err(|(_, failure)| failure)?.remove(0);
        match plan {
            Plan::Insert => Ok(Created { job: self.insert(job)?, duplicate: false }),
            Plan::SameAs(_) => unreachable!("nothing is before the first"),
            Plan::Existing(queue, id) => {
                let job = self.whole_job(id.key())?;
                self.count_duplicate(queue);
                Ok(Created { job, duplicate: true })
            }
        }
    }

    /// Creates all jobs or none.
    pub(in crate::store) fn create_batch(
        &mut self,
        jobs: &[NewJob],
    ) -> Result<BatchCreated, Failure> {
        let plans = self.plan(jobs).map_err(|(index, failure)| match failure {
            Failure::Refused(error @ (StoreError::DiskFull | StoreError::Busy)) => error.into(),
            Failure::Refused(error) => StoreError::InBatch { index, error: error.into() }.into(),
            failure => failure,
        })?;
        let mut done = BatchCreated { ids: Vec::with_capacity(jobs.len()), duplicates: Vec::new() };
        for (index, (job, plan)) in jobs.iter().zip(plans).enumerate() {
            let id = match plan {
                Plan::Insert => self.insert_row(job)?.0.id,
                Plan::Existing(queue, id) => {
                    self.count_duplicate(queue);
                    done.duplicates.push(index);
                    id
                }
                Plan::SameAs(earlier) => {
                    let queue = self.state.queue_named(&job.queue);
                    self.count_duplicate(queue.expect("the earlier job has made it"));
                    done.duplicates.push(index);
                    done.ids[earlier]
                }
            };
            done.ids.push(id);
        }
        Ok(done)
    }

    /// Looks up unique keys and checks limits for all of them together; changes nothing.
    fn plan(&self, jobs: &[NewJob]) -> Result<Vec<Plan>, (usize, Failure)> {
        let mut keys: HashMap<(&str, &str), usize> = HashMap::new();
        let mut added: HashMap<&str, u64> = HashMap::new();
        let mut new_queues = 0;
        let mut plans = Vec::with_capacity(jobs.len());
        for (index, job) in jobs.iter().enumerate() {
            let failed = |failure| (index, failure);
            let queue = self.state.queue_named(&job.queue);
            if let Some(unique) = &job.unique {
                if let Some(holder) = self.holder(queue, unique).map_err(failed)? {
                    plans.push(holder);
                    continue;
                }
                if let Some(earlier) = keys.get(&(&*job.queue, &*unique.key)) {
                    plans.push(Plan::SameAs(*earlier));
                    continue;
                }
                keys.insert((&job.queue, &unique.key), index);
            }
            let count = added.entry(&job.queue).or_default();
            if queue.is_none() && *count == 0 {
                new_queues += 1;
                self.check_new_queue(&job.queue, new_queues)
                    .map_err(|error| failed(error.into()))?;
            }
            *count += 1;
            if let Some(error) = self.refuses_creates() {
                return Err(failed(error.into()));
            }
            self.check_depth(queue, job, *count).map_err(|error| failed(error.into()))?;
            plans.push(Plan::Insert);
        }
        Ok(plans)
    }

    fn holder(&self, queue: Option<QueueId>, unique: &Unique) -> Result<Option<Plan>, Failure> {
        let Some(queue) = queue else { return Ok(None) };
        Ok(self.key_holder(queue, &unique.key)?.map(|id| Plan::Existing(queue, id)))
    }

    /// The job that holds a unique key.
    pub(super) fn key_holder(&self, queue: QueueId, key: &str) -> rusqlite::Result<Option<JobId>> {
        let mut select = self.connection.prepare_cached(
            "SELECT id, tail FROM jobs WHERE queue = ? AND unique_key = ? AND key_held = 1",
        )?;
        let id = |row: &Row<'_>| Ok(JobId::new(row.get(0)?, row.get::<_, i64>(1)? as u64));
        select.query_row((queue.0, key), id).optional()
    }

    fn check_new_queue(&self, queue: &str, new: usize) -> Result<(), StoreError> {
        if self.config.strict_queues {
            return Err(StoreError::UnconfiguredQueue(queue.to_owned()));
        }
        let limit = self.config.max_queues;
        if self.state.queues.len() + new > limit {
            return Err(StoreError::TooManyQueues { queue: queue.to_owned(), limit });
        }
        Ok(())
    }

    /// Whether there is room for the last of `added` jobs.
    fn check_depth(
        &self,
        queue: Option<QueueId>,
        job: &NewJob,
        added: u64,
    ) -> Result<(), StoreError> {
        let Some(limit) = self.config.policy(&job.queue).max_depth else { return Ok(()) };
        let depth = match queue {
            Some(queue) => self.state.queue(queue)?.counts.depth(),
            None => 0,
        };
        let depth = depth.saturating_add_unsigned(added - 1);
        if depth >= i64::try_from(limit).unwrap_or(i64::MAX) {
            return Err(StoreError::QueueFull { queue: job.queue.clone(), depth, limit });
        }
        Ok(())
    }

    fn count_duplicate(&mut self, queue: QueueId) {
        let counts = QueueCounts { duplicates: 1, ..QueueCounts::default() };
        self.state.add_to_queue(queue, &counts);
    }

    /// The queue of that name; made if it is new.
    pub(super) fn queue_or_new(&mut self, name: &str) -> rusqlite::Result<QueueId> {
        if let Some(id) = self.state.queue_named(name) {
            return Ok(id);
        }
        self.connection.prepare_cached("INSERT INTO queues (name) VALUES (?)")?.execute([name])?;
        let id = QueueId(self.connection.last_insert_rowid());
        self.state.add_queue(id, name);
        Ok(id)
    }

    fn insert(&mut self, job: &NewJob) -> Result<Job, Failure> {
        let (core, created_at) = self.insert_row(job)?;
        let policy = self.config.policy(&job.queue);
        Ok(Job::created(core.id, job.clone(), core.state, core.run_at, created_at, policy))
    }

    /// Writes and counts a new job; answers with when it was created as well.
    fn insert_row(&mut self, job: &NewJob) -> Result<(Core, Timestamp), Failure> {
        let now = self.clock.now();
        let queue = self.queue_or_new(&job.queue)?;
        let ledger = self.state.choose_row(&job.queue, &job.kind, &self.config);
        let id = self.next_id(now);
        let start = match job.start {
            Start::Now => None,
            Start::At(at) => Some(at),
            Start::After(delay) => Some(now.after(delay)),
        };
        let (state, run_at) = created(start, now);
        let core = Core {
            id,
            queue,
            ledger,
            state,
            priority: job.priority,
            run_at,
            attempt: 0,
            failures: 0,
            max_attempts: job.max_attempts,
            timeout_ms: job.timeout.map(|timeout| millis(timeout).unsigned_abs()),
            lease: None,
            own: false,
            lease_ms: None,
            lease_tick: None,
            timeout_tick: None,
            claimed_tick: None,
            outcome: None,
            key_until: job.unique.as_ref().map(|unique| unique.until),
            key_held: job.unique.is_some(),
            trace: job.traceparent.as_deref().and_then(trace_of),
        };
        self.write_new(job, &core, now)?;
        self.state.record_created(&core, state == State::Scheduled);
        self.state.tell_created(&core);
        Ok((core, now))
    }

    fn write_new(&self, job: &NewJob, core: &Core, created_at: Timestamp) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO jobs (id, tail, queue, ledger, state, priority, run_at, created_at, \
             max_attempts, timeout_ms, key_until, key_held, kind, unique_key, traceparent) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        insert.execute((
            core.id.key(),
            core.id.tail(),
            core.queue.0,
            core.ledger.0,
            core.state.name(),
            core.priority,
            core.run_at.0,
            created_at.0,
            core.max_attempts,
            core.timeout_ms.map(u64::cast_signed),
            core.key_until.map(key_until_name),
            core.key_held,
            &job.kind,
            job.unique.as_ref().map(|unique| &unique.key),
            &job.traceparent,
        ))?;
        let mut insert =
            self.connection.prepare_cached("INSERT INTO payloads (id, body) VALUES (?, ?)")?;
        insert.execute((core.id.key(), &job.payload[..]))?;
        Ok(())
    }
}
