//! The facade over the stored jobs: what each operation promises, whatever engine is behind it.
//!
//! Every method that changes something answers after the sync that covers the change. A change
//! once handed over is finished even if its caller goes away. See `store/writer.rs` for how many callers
//! share one sync, and `store/sqlite.rs` for what is on disk.

mod backup;
mod handover;
mod id;
#[cfg(test)]
mod interleavings;
mod open_error;
mod operation;
mod parked;
mod served;
mod shown;
mod sqlite;
mod sync {
    pub(super) use tokio::sync::{mpsc, oneshot, watch};
}
mod types;
mod writer;

pub use backup::{Backup, BackupError};
pub use id::{JobId, Lease};
pub use open_error::OpenError;
pub use types::*;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::metrics::Metrics;
use backup::Backups;
use handover::{Call, Pending};
use operation::Operation;
use sqlite::Readers;
use std::sync::Arc;
use writer::Writer;

/// The bytes that one transaction brings or gives out: a quarter of what the log may hold. One
/// operation may exceed it by itself.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// The most jobs that one transaction touches, so that no caller waits for a batch of seconds.
/// One operation may exceed it by itself: a batch of 10,000 creates is one.
const MAX_BATCH_JOBS: usize = 10_000;

/// A handle on the open store; clones share it.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Readers,
    backups: Arc<Backups>,
    due: watch::Receiver<Option<Timestamp>>,
    identity: Arc<str>,
    mark: Arc<str>,
}

impl Store {
    /// Locks, opens, migrates and recovers the store that the configuration names.
    ///
    /// Attempts of the daemon's own workers that a crash cut off have used up a try when this
    /// returns; leases of outside workers have their full duration again.
    pub fn open(
        config: Arc<Config>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let (due_sender, due) = watch::channel(None);
        let (engine, readers) =
            sqlite::open(config.clone(), clock.clone(), metrics.clone(), due_sender)?;
        let (identity, mark) = (engine.identity(), engine.mark());
        let backups = Arc::new(Backups::new(&engine, &config, clock, metrics.clone()));
        let writer = Writer::start(engine, metrics)?;
        Ok(Self { writer, readers, backups, due, identity, mark })
    }

    /// The UUID that the store was given when it was made.
    pub fn identity(&self) -> Arc<str> {
        self.identity.clone()
    }

    /// What marks the processes that work for this store: its UUID and where it lies, since a copy
    /// has the same UUID.
    pub fn mark(&self) -> Arc<str> {
        self.mark.clone()
    }

    /// Creates a job, or answers with the one that holds its unique key.
    pub async fn create(&self, job: NewJob) -> Result<Created, StoreError> {
        self.writer.call(job, Operation::Create).await
    }

    /// Creates all jobs or none; an error carries the index of the job it is about.
    pub async fn create_batch(&self, jobs: Vec<NewJob>) -> Result<BatchCreated, StoreError> {
        self.writer.call(jobs, Operation::CreateBatch).await
    }

    /// One job with payload and result.
    pub async fn job(&self, id: JobId) -> Result<Job, StoreError> {
        self.readers.job(id).await?.ok_or(StoreError::NoSuchJob(id))
    }

    /// One page of jobs, newest first, without payloads and results.
    pub async fn list(&self, filter: Filter) -> Result<Page, StoreError> {
        self.readers.list(filter).await
    }

    /// Leases up to `max` ready jobs of the first queues that have any, now or within `wait`.
    ///
    /// Who drops the future gives back what was leased for it.
    pub async fn claim(&self, claim: Claim, wait: Duration) -> Result<Claimed, StoreError> {
        let deadline = Instant::now() + wait;
        let (call, answer) = Call::new(claim);
        let give_back = |claimed: Claimed| self.writer.give_back(claimed.leases());
        let mut pending = Pending::new(answer, give_back);
        self.writer.send(Operation::Claim(call, !wait.is_zero())).await?;
        if wait.is_zero() {
            return (&mut pending.answer).await.unwrap_or(Err(self.writer.stopped()));
        }
        match timeout_at(deadline, &mut pending.answer).await {
            Ok(answer) => answer.unwrap_or(Err(self.writer.stopped())),
            Err(_) => pending.end_wait().unwrap_or(Ok(Claimed::default())),
        }
    }

    /// Ends attempts, each if its lease still stands; answers in order.
    pub async fn finish(&self, finishes: Vec<Finish>) -> Result<Vec<LeaseAnswer>, StoreError> {
        self.writer.call(finishes, Operation::Finish).await
    }

    /// Makes leases last for their duration, or the given one, from now; answers in order. While claims are
    /// refused since the log is too long, this is written only if their duration changes.
    pub async fn renew(&self, renewal: Renewal) -> Result<Vec<LeaseAnswer>, StoreError> {
        self.writer.call(renewal, Operation::Renew).await
    }

    /// Cancels, requeues or discards one job; answers with the job as it is then, or was last.
    pub async fn act(&self, id: JobId, action: Action) -> Result<Job, StoreError> {
        self.writer.call((id, action), Operation::Act).await
    }

    /// Does so to many jobs of a queue, in bounded transactions. An error that comes after some were
    /// acted on ends the walk, which may be gone on with.
    pub async fn act_on_many(&self, mut bulk: Bulk) -> Result<BulkDone, StoreError> {
        let mut done = BulkDone::default();
        while done.count < bulk.limit {
            let mut step = bulk.clone();
            step.limit = bulk.limit - done.count;
            let stepped = match self.writer.call(step, Operation::Bulk).await {
                Err(_) if done.count > 0 => return Ok(BulkDone { more: true, ..done }),
                stepped => stepped?,
            };
            done.count += stepped.count;
            done.more = stepped.next.is_some();
            match stepped.next {
                Some(next) => bulk.from = Some(next),
                None => break,
            }
        }
        Ok(done)
    }

    /// Stops claims from a queue, or allows them again; durable.
    pub async fn set_paused(&self, queue: &str, paused: bool) -> Result<Queue, StoreError> {
        self.writer.call((queue.to_owned(), paused), Operation::SetPaused).await
    }

    /// Forgets a queue that has no jobs and is not configured.
    pub async fn forget(&self, queue: &str) -> Result<(), StoreError> {
        self.writer.call(queue.to_owned(), Operation::Forget).await
    }

    /// All queues by name.
    pub async fn queues(&self) -> Result<Vec<Queue>, StoreError> {
        self.writer.call(None, Operation::Queues).await
    }

    /// One queue.
    pub async fn queue(&self, name: &str) -> Result<Queue, StoreError> {
        let queues = self.writer.call(Some(name.to_owned()), Operation::Queues).await?;
        queues.into_iter().next().ok_or_else(|| StoreError::NoSuchQueue(name.to_owned()))
    }

    /// Promotes what is due, expires leases and prunes, each in one bounded batch.
    pub async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        self.writer.call(sweep, Operation::Sweep).await
    }

    /// Compares a bounded number of jobs with the ledger; answers whether the pass is over.
    pub async fn recount(&self) -> Result<Recounted, StoreError> {
        self.writer.call((), Operation::Recount).await
    }

    /// Writes a copy of the store, as it is at one moment before the answer, into `backup_dir`,
    /// while everything else goes on.
    ///
    /// One at a time. It goes on if its caller goes away. What there is of a copy that fails is
    /// removed.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        let (backups, writer) = (self.backups.clone(), self.writer.clone());
        let written = tokio::spawn(async move { backups.write(&writer).await }).await;
        written.unwrap_or_else(|panic| Err(BackupError::Failed(panic.to_string()).into()))
    }

    /// When the next scheduled or retrying job is due or lease ends, as far as it is known; changes wake the sweeper.
    pub fn due(&self) -> watch::Receiver<Option<Timestamp>> {
        self.due.clone()
    }

    /// Answers once the writer has come to it; it changes nothing, and an error is an answer too.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.writer.call((), Operation::Ping).await
    }

    /// Why nothing can be stored any more, if the store has failed.
    pub fn failure(&self) -> Option<String> {
        self.writer.failure()
    }

    /// Resolves when the store has failed and nothing can be stored any more, with the reason; never
    /// if it is closed in order.
    pub async fn failed(&self) -> String {
        self.writer.failed().await
    }

    /// Answers waiting claims with nothing; later claims do not wait. Gives up a backup that is
    /// being written.
    pub async fn stop_waiting(&self) -> Result<(), StoreError> {
        self.backups.stop();
        self.writer.call((), Operation::StopWaiting).await
    }

    /// Finishes what was handed over, then closes the files.
    pub async fn close(&self) -> Result<(), StoreError> {
        // Before the writer, whose connection can only put the log away if it is the last.
        self.backups.close().await;
        self.readers.close().await;
        self.writer.close().await
    }
}
