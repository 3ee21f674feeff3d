//! What goes into the store and what comes out: plain data.

use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{BackupError, JobId, Lease};
use crate::clock::{Stopwatch, Timestamp};
use crate::config::Policy;
use crate::job::{AttemptResult, InvalidTransition, Outcome, State};

/// A job as its creator describes it; names, sizes and numbers are within their limits.
#[derive(Clone, PartialEq)]
pub struct NewJob {
    /// The queue; made when first used.
    pub queue: String,
    /// What sort of work.
    pub kind: String,
    /// JSON text, stored byte for byte.
    pub payload: Bytes,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// When it may run.
    pub start: Start,
    /// How many failures make it dead; the queue's if absent.
    pub max_attempts: Option<u32>,
    /// How long an attempt may take, zero = as long as it likes; the queue's if absent.
    pub timeout: Option<Duration>,
    /// Makes the create idempotent within the queue.
    pub unique: Option<Unique>,
    /// The trace it belongs to, as W3C Trace Context writes it.
    pub traceparent: Option<String>,
}

/// When a new job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// At this time; one in the past counts as now.
    At(Timestamp),
    /// So long after it is created.
    After(Duration),
}

/// A unique key and how long its job holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// At most 200 bytes.
    pub key: String,
    /// What ends the hold.
    pub until: UniqueUntil,
}

/// What ends a job's hold on its unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueUntil {
    /// The job's row is removed.
    Gone,
    /// The job is completed, cancelled or dead.
    Done,
}

/// A stored job.
#[derive(Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its queue.
    pub queue: String,
    /// What sort of work.
    pub kind: String,
    /// Where it is in its life.
    pub state: State,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// JSON text; absent in lists.
    pub payload: Option<Bytes>,
    /// How often it was claimed.
    pub attempt: u32,
    /// The failures since it was created or requeued.
    pub failures: u32,
    /// How many failures make it dead: its own number, else its queue's.
    pub max_attempts: u32,
    /// How long an attempt may take: its own, else its queue's; none = as long as it likes.
    pub timeout: Option<Duration>,
    /// Its unique key, even when it does not hold it any more.
    pub unique_key: Option<String>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it may run, or could.
    pub run_at: Timestamp,
    /// When it was last claimed.
    pub claimed_at: Option<Timestamp>,
    /// When it was completed, cancelled or died.
    pub ended_at: Option<Timestamp>,
    /// When its lease ends unless it is renewed; only while it runs.
    pub expires_at: Option<Timestamp>,
    /// Who claimed it last.
    pub worker: Option<String>,
    /// The last end of an attempt that used up a try.
    pub last_error: Option<LastError>,
    /// JSON text that its worker left; absent in lists.
    pub result: Option<Bytes>,
}

impl Job {
    /// A job as it is created, under the policy of its queue.
    pub fn created(
        id: JobId,
        job: NewJob,
        state: State,
        run_at: Timestamp,
        created_at: Timestamp,
        policy: &Policy,
    ) -> Self {
        Self {
            id,
            queue: job.queue,
            kind: job.kind,
            state,
            priority: job.priority,
            payload: Some(job.payload),
            attempt: 0,
            failures: 0,
            max_attempts: job.max_attempts.unwrap_or(policy.max_attempts),
            timeout: job
                .timeout
                .map_or(policy.timeout, |own| Some(own).filter(|own| !own.is_zero())),
            unique_key: job.unique.map(|unique| unique.key),
            traceparent: job.traceparent,
            created_at,
            run_at,
            claimed_at: None,
            ended_at: None,
            expires_at: None,
            worker: None,
            last_error: None,
            result: None,
        }
    }
}

/// The last end of an attempt that used up a try.
#[derive(Clone, PartialEq, Eq)]
pub struct LastError {
    /// The attempt's number.
    pub attempt: u32,
    /// When it ended.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: AttemptResult,
    /// What its worker said, or what the daemon saw.
    pub message: String,
}

/// The answer to a create.
#[derive(Debug, Clone, PartialEq)]
pub struct Created {
    /// The new job, or the one that holds the unique key.
    pub job: Job,
    /// Whether nothing was created.
    pub duplicate: bool,
}

/// The answer to a batch of creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchCreated {
    /// In the order of the batch.
    pub ids: Vec<JobId>,
    /// The indexes of those that existed already.
    pub duplicates: Vec<usize>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this queue only.
    pub queue: Option<String>,
    /// Of this kind only.
    pub kind: Option<String>,
    /// In this state only.
    pub state: Option<State>,
    /// At most so many.
    pub limit: usize,
    /// Behind the page that gave this cursor.
    pub cursor: Option<i64>,
}

/// One page of jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Newest first.
    pub jobs: Vec<Job>,
    /// Where the next page begins; none ends the list.
    pub next_cursor: Option<i64>,
}

/// What a worker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Searched in this order.
    pub queues: Vec<String>,
    /// At most so many jobs.
    pub max: usize,
    /// At most about so many bytes of payloads and texts, but at least one job.
    pub max_bytes: usize,
    /// How long the leases last; the queue's lease if absent.
    pub duration: Option<Duration>,
    /// Who asks.
    pub worker: Option<String>,
    /// Whether it is a worker of the daemon itself, which ends its attempts at their timeout.
    pub own: bool,
}

/// The jobs that a claim took.
#[derive(Debug, Default)]
pub struct Claimed {
    /// In the order in which they should run.
    pub jobs: Vec<LeasedJob>,
}

impl Claimed {
    /// The leases alone.
    pub fn leases(&self) -> Vec<Lease> {
        self.jobs.iter().map(|leased| leased.lease).collect()
    }
}

/// A job with the right to run its attempt.
#[derive(Debug)]
pub struct LeasedJob {
    /// The right to end the attempt.
    pub lease: Lease,
    /// How long it lasts from each renewal.
    pub duration: Duration,
    /// The job, running.
    pub job: Job,
    /// Runs since it was claimed.
    pub claimed: Stopwatch,
    /// Cancelled when the attempt was ended by somebody else; never for outside workers.
    pub revoked: CancellationToken,
}

/// The end of an attempt, as its worker reports it.
#[derive(Clone, PartialEq)]
pub struct Finish {
    /// The right to end it.
    pub lease: Lease,
    /// How it ended.
    pub outcome: Outcome,
    /// JSON text to keep with a completed job.
    pub result: Option<Bytes>,
    /// What went wrong, to keep with a failure.
    pub error: Option<String>,
}

/// Leases to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Which.
    pub leases: Vec<Lease>,
    /// How long they shall last from now; as long as the last time if absent.
    pub duration: Option<Duration>,
}

/// What became of a finish or a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// It was applied, now or when it was first sent.
    Ok,
    /// The lease does not stand any more, or never did.
    LeaseLost,
    /// The job was cancelled.
    Cancelled,
}

/// What an operator does to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It shall not run any more.
    Cancel,
    /// A dead job is put back.
    Requeue,
    /// A dead job is removed.
    Discard,
}

/// Many jobs of a queue to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bulk {
    /// The queue.
    pub queue: String,
    /// What to do.
    pub action: Action,
    /// Only jobs of this kind.
    pub kind: Option<String>,
    /// Only jobs created before.
    pub before: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
    /// Where the last step stopped.
    pub from: Option<BulkCursor>,
}

/// Where a step over many jobs stopped; only the store reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkCursor {
    pub(super) part: usize,
    pub(super) at: [i64; 3],
}

/// What one step over many jobs did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkStep {
    /// Jobs acted on.
    pub count: usize,
    /// Where to go on, if there may be more.
    pub next: Option<BulkCursor>,
}

/// What acting on many jobs did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkDone {
    /// Jobs acted on.
    pub count: usize,
    /// Whether there may be more.
    pub more: bool,
}

/// A queue as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Whether claims are stopped.
    pub paused: bool,
    /// Jobs stored, by state in the order of [`State::ALL`].
    pub jobs: [i64; State::ALL.len()],
    /// The `run_at` of the ready job that has waited longest.
    pub oldest_ready_at: Option<Timestamp>,
}

/// How far one sweep may go, and where the last one of the same tick stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Due jobs at or before this (run_at, key) were seen in this tick.
    pub due_after: Option<(i64, i64)>,
    /// Leases at or before this (end, key) were seen in this tick.
    pub leases_after: Option<(i64, i64)>,
    /// The tick has begun before; what it could not prune is passed over.
    pub under_way: bool,
}

impl Sweep {
    /// Whether it begins a tick.
    pub fn is_first_step(&self) -> bool {
        *self == Self::default()
    }
}

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs made ready.
    pub promoted: usize,
    /// Attempts ended.
    pub expired: usize,
    /// Jobs removed.
    pub pruned: usize,
    /// Rows that could not be handled and were passed over.
    pub passed_over: usize,
    /// Where the next sweep of this tick goes on; none if all was seen.
    pub next: Option<Sweep>,
}

/// What one step of the recount found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recounted {
    /// There are more jobs to count.
    Going,
    /// The pass is over: so many jobs are missing from the ledger or from the store.
    Done(i64),
}

/// Why an operation was refused or could not be done. Nothing was changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// No such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// No such queue.
    #[error("there is no queue {0:?}")]
    NoSuchQueue(String),
    /// Queues must be configured, and this one is not.
    #[error("queue {0:?} is not configured, and strict_queues is on")]
    UnconfiguredQueue(String),
    /// One queue more than allowed.
    #[error("queue {queue:?} would be one more than max_queues = {limit} allows")]
    TooManyQueues {
        /// The new queue.
        queue: String,
        /// The limit.
        limit: usize,
    },
    /// The queue's waiting jobs have reached its `max_depth`.
    #[error("queue {queue:?} is full: {depth} jobs wait, its max_depth is {limit}")]
    QueueFull {
        /// The queue.
        queue: String,
        /// Jobs that wait.
        depth: i64,
        /// The limit.
        limit: u64,
    },
    /// The job's state does not allow it.
    #[error(transparent)]
    InvalidTransition(#[from] InvalidTransition),
    /// Another job has taken the unique key since.
    #[error("its unique key {key:?} is held by job {holder} now")]
    UniqueKeyHeld {
        /// The key.
        key: String,
        /// Who holds it.
        holder: JobId,
    },
    /// The queue cannot be forgotten.
    #[error("queue {queue:?} still has {jobs} jobs")]
    QueueNotEmpty {
        /// The queue.
        queue: String,
        /// Jobs of any state that are stored.
        jobs: i64,
    },
    /// The queue cannot be forgotten.
    #[error("queue {0:?} is configured; remove it from the configuration first")]
    QueueConfigured(String),
    /// One of a batch was refused.
    #[error("job {index}: {error}")]
    InBatch {
        /// Its index.
        index: usize,
        /// Why.
        error: Box<StoreError>,
    },
    /// No backup was written.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// No room on the file system of the store.
    #[error("the disk of the store is full; free space, or let jobs finish")]
    DiskFull,
    /// Another program holds the store's file: it writes to it, or it reads and the log has reached
    /// its limit.
    #[error("another program holds the store's file; try again later")]
    Busy,
    /// The job's row contradicts itself or the ledger: somebody else has changed the file.
    #[error("the row of job {key:#x} is damaged: {why}")]
    Damaged {
        /// The key of the row, as far as it is known.
        key: i64,
        /// What is wrong.
        why: String,
    },
    /// The file could not be read.
    #[error("the store cannot be read: {0}")]
    Unreadable(String),
    /// A listing took longer than it may.
    #[error("reading took longer than {0:?}; ask for less")]
    TooSlow(Duration),
    /// The store has failed or is closed.
    #[error("the store has stopped: {0}")]
    Stopped(String),
}
