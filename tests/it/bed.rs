//! What the tests of the store stand on: an open store in a directory of its own, by a clock that
//! stands still.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tallyd::clock::{Clock, Timestamp};
use tallyd::config::{BackoffPolicy, Config, Policy, QueueConfig};
use tallyd::job::{Outcome, State};
use tallyd::metrics::Metrics;
use tallyd::store::{
    Claim, Claimed, Created, Filter, Finish, Job, JobId, Lease, LeaseAnswer, LeasedJob, NewJob,
    OpenError, Recounted, Renewal, Start, Store, StoreError, Sweep, Swept, Unique, UniqueUntil,
};
use tallyd::tally::Count;
use tempfile::TempDir;

/// Where the clock of a test begins.
pub(crate) const BEGIN: Timestamp = Timestamp(1_700_000_000_000);

/// Opens the store under test. Another engine joins here, chosen by the configuration.
pub(crate) fn open(config: &Config, clock: &Clock) -> Result<(Store, Arc<Metrics>), OpenError> {
    let config = Arc::new(config.clone());
    let metrics = Arc::new(Metrics::new(config.clone()));
    Ok((Store::open(config, clock.clone(), metrics.clone())?, metrics))
}

/// A directory in memory where there is one: a sync costs nothing there, and nothing is tested
/// here that a power cut could undo.
pub(crate) fn directory() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    let place = if in_memory.is_dir() { in_memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).expect("a temporary directory")
}

/// An open store with what belongs to it.
pub(crate) struct Bed {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    directory: TempDir,
}

/// The configuration of a test: queue `a` is configured, delays have no jitter.
pub(crate) fn config(directory: &Path, change: impl FnOnce(&mut Config)) -> Config {
    let backoff = BackoffPolicy { jitter: 0.0, ..BackoffPolicy::default() };
    let defaults = Policy { backoff, ..Policy::default() };
    let mut config = Config { data: directory.join("t.db"), defaults, ..Config::default() };
    config.queues = [("a".to_owned(), QueueConfig::leased(config.defaults.clone()))].into();
    change(&mut config);
    config
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = directory();
        let config = config(directory.path(), change);
        let clock = Clock::manual(BEGIN);
        let (store, metrics) = open(&config, &clock).expect("a new store opens");
        Self { store, metrics, clock, config, directory }
    }

    /// With other rules for queue `a`.
    pub(crate) fn with_policy(change: impl FnOnce(&mut Policy)) -> Self {
        Self::with(|config| change(policy_of_a(config)))
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.config.data.clone()
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Closes the store and opens it again, its clock's ticks at 0 and wall time as it was.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    pub(crate) async fn restart_with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        self.store.close().await.expect("it closes");
        change(&mut self.config);
        self.clock = Clock::manual(self.clock.now());
        let (store, metrics) = open(&self.config, &self.clock).expect("it opens again");
        Self { store, metrics, ..self }
    }

    /// Opens what a crash at this moment leaves: a copy of the file and its log.
    pub(crate) async fn crash(mut self) -> Self {
        let names = ["t.db", "copy.db"].map(|name| self.path().join(name));
        let other = names.into_iter().find(|name| *name != self.file()).expect("one is free");
        copy_store(&self.file(), &other);
        self.store.close().await.expect("it closes");
        self.config.data = other;
        self.clock = Clock::manual(self.clock.now());
        let (store, metrics) = open(&self.config, &self.clock).expect("the copy opens");
        Self { store, metrics, ..self }
    }

    pub(crate) fn advance_secs(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn create(&self, job: NewJob) -> Job {
        let created = self.store.create(job).await.expect("created");
        assert!(!created.duplicate);
        created.job
    }

    pub(crate) async fn try_create(&self, job: NewJob) -> Result<Created, StoreError> {
        self.store.create(job).await
    }

    /// Claims at once.
    pub(crate) async fn claim(&self, claim: Claim) -> Vec<LeasedJob> {
        self.store.claim(claim, Duration::ZERO).await.expect("a claim answers").jobs
    }

    /// Claims the one job that is ready.
    pub(crate) async fn claim_one(&self, queue: &str) -> LeasedJob {
        let mut jobs = self.claim(claim(&[queue], 10)).await;
        assert_eq!(jobs.len(), 1, "one job is ready");
        jobs.remove(0)
    }

    pub(crate) async fn finish(&self, lease: Lease, outcome: Outcome) -> LeaseAnswer {
        let finish = Finish { lease, outcome, result: None, error: None };
        self.store.finish(vec![finish]).await.expect("a finish answers")[0]
    }

    pub(crate) async fn fail(&self, lease: Lease) -> LeaseAnswer {
        self.finish(lease, FAILED).await
    }

    pub(crate) async fn complete(&self, lease: Lease) -> LeaseAnswer {
        self.finish(lease, Outcome::Completed).await
    }

    pub(crate) async fn renew(&self, lease: Lease, duration: Option<Duration>) -> LeaseAnswer {
        let renewal = Renewal { leases: vec![lease], duration };
        self.store.renew(renewal).await.expect("a renewal answers")[0]
    }

    pub(crate) async fn job(&self, id: JobId) -> Job {
        self.store.job(id).await.expect("the job is stored")
    }

    pub(crate) async fn state(&self, id: JobId) -> State {
        self.job(id).await.state
    }

    pub(crate) async fn list(&self) -> Vec<Job> {
        let filter = Filter { limit: 500, ..Filter::default() };
        self.store.list(filter).await.expect("a page").jobs
    }

    /// Sweeps until one whole tick finds nothing to do.
    pub(crate) async fn sweep(&self) -> Swept {
        let mut all = Swept::default();
        loop {
            let tick = self.tick().await;
            all.promoted += tick.promoted;
            all.expired += tick.expired;
            all.pruned += tick.pruned;
            all.passed_over = tick.passed_over;
            if tick.promoted + tick.expired + tick.pruned == 0 {
                return all;
            }
        }
    }

    /// One tick of the sweeper, in as many steps as it takes.
    pub(crate) async fn tick(&self) -> Swept {
        let mut all = Swept::default();
        let mut sweep = Sweep::default();
        for _ in 0..1_000 {
            let swept = self.store.sweep(sweep).await.expect("a sweep answers");
            all.promoted += swept.promoted;
            all.expired += swept.expired;
            all.pruned += swept.pruned;
            all.passed_over += swept.passed_over;
            let Some(next) = swept.next else { return all };
            sweep = next;
        }
        panic!("a tick does not end");
    }

    /// What a whole recount finds.
    pub(crate) async fn mismatch(&self) -> i64 {
        loop {
            match self.store.recount().await.expect("a recount answers") {
                Recounted::Going => {}
                Recounted::Done(mismatch) => return mismatch,
            }
        }
    }

    /// A count of the row (queue, kind), zero if there is none; the identities hold in every row.
    pub(crate) fn count(&self, queue: &str, kind: &str, count: Count) -> i64 {
        let snapshot = self.metrics.snapshot();
        for row in &snapshot.rows {
            row.counts.check().expect("the identities hold");
        }
        let mut rows = snapshot.rows.iter();
        let row = rows.find(|row| &*row.queue == queue && &*row.kind == kind);
        row.map_or(0, |row| row.counts[count])
    }

    /// Leases lost in a queue, or in `__other__`.
    pub(crate) fn leases_lost(&self, queue: &str) -> u64 {
        let queues = self.metrics.snapshot().queues;
        queues.iter().find(|cut| &*cut.queue == queue).expect("it has series").leases_lost
    }
}

/// A failure that may be retried.
pub(crate) const FAILED: Outcome = Outcome::Failed { permanent: false, retry_in: Duration::ZERO };

/// A failure that may not.
pub(crate) const FAILED_FOR_GOOD: Outcome =
    Outcome::Failed { permanent: true, retry_in: Duration::ZERO };

pub(crate) const RELEASED: Outcome = Outcome::Released { retry_in: Duration::ZERO };

/// The rules of queue `a`.
pub(crate) fn policy_of_a(config: &mut Config) -> &mut Policy {
    &mut config.queues.get_mut("a").expect("it is configured").policy
}

/// A job of queue and kind as simple as it can be.
pub(crate) fn job(queue: &str, kind: &str) -> NewJob {
    NewJob {
        queue: queue.to_owned(),
        kind: kind.to_owned(),
        payload: Bytes::from_static(b"null"),
        priority: 5,
        start: Start::Now,
        max_attempts: None,
        timeout: None,
        unique: None,
        traceparent: None,
    }
}

/// A job of queue `a` with a unique key.
pub(crate) fn unique(key: &str, until: UniqueUntil) -> NewJob {
    NewJob { unique: Some(Unique { key: key.to_owned(), until }), ..job("a", "k") }
}

/// A job of queue `a` that may run after so many seconds.
pub(crate) fn later(seconds: u64) -> NewJob {
    NewJob { start: Start::After(Duration::from_secs(seconds)), ..job("a", "k") }
}

/// An outside worker's claim.
pub(crate) fn claim(queues: &[&str], max: usize) -> Claim {
    Claim {
        queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        max,
        max_bytes: usize::MAX,
        duration: None,
        worker: Some("w".to_owned()),
        own: false,
    }
}

/// A claim of the daemon's own workers.
pub(crate) fn own_claim(queue: &str, max: usize) -> Claim {
    Claim { own: true, ..claim(&[queue], max) }
}

/// Their ids.
pub(crate) fn ids(claimed: &Claimed) -> Vec<JobId> {
    claimed.jobs.iter().map(|leased| leased.job.id).collect()
}

/// Copies the file of a store with its log, as a crash would leave them.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    for suffix in ["-wal", "-shm"] {
        match fs::remove_file(beside(to, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    fs::copy(from, to).expect("the file can be copied");
    let log = beside(from, "-wal");
    if log.exists() {
        fs::copy(log, beside(to, "-wal")).expect("the log can be copied");
    }
}

pub(crate) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
