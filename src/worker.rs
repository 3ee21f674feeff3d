//! The worker pool: claims jobs of queues that have a runner, runs them, renews, finishes.
//!
//! ```text
//! one loop a queue: free slots ──> claim as many ──> an attempt each ──> finish, slot free
//!                                                        ├── renews its lease at each third
//!                                                        └── ends its work when interrupted:
//!                                                            cancel, lease lost, drain
//! ```

pub mod exec;

mod attempt;
mod ended;
mod http;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::attempt::{Attempt, Next};
use self::exec::Spawner;
pub use self::http::PushError;
use self::http::Pusher;
use self::http::lookup::Lookups;
use crate::clock::Clock;
use crate::config::{self, Config, ExecConfig, QueueConfig};
use crate::metrics::Metrics;
use crate::store::{Claim, LeasedJob, Store, StoreError};

/// The name under which the daemon's own workers claim.
const WORKER: &str = "tallyd";

/// The most payload that one claim takes into memory.
const CLAIM_BYTES: usize = 16 << 20;

/// How long a claim waits for a job before it is made again; long, since it is woken by one.
const CLAIM_WAIT: Duration = Duration::from_secs(600);

/// How long to wait after a claim that failed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// What all loops and attempts share.
struct Shared {
    store: Store,
    metrics: Arc<Metrics>,
    /// No attempt may begin any more.
    claiming: CancellationToken,
    /// Attempts must end now, and release their jobs.
    interrupt: CancellationToken,
    /// How many attempts have not been able to renew their lease by two thirds of it.
    late_renewals: watch::Sender<usize>,
}

/// The loops of all queues that have a runner, and their attempts.
pub struct Workers {
    loops: TaskTracker,
    attempts: TaskTracker,
    /// Cancelled by a loop, or a spawner, that ends although it must not.
    died: CancellationToken,
}

impl Workers {
    /// Starts to claim and run; `claiming` stops the former, `interrupt` the latter.
    pub fn start(
        store: &Store,
        config: &Config,
        metrics: &Arc<Metrics>,
        claiming: &CancellationToken,
        interrupt: &CancellationToken,
        clock: &Clock,
    ) -> Result<Self, StartError> {
        let workers = Self {
            loops: TaskTracker::new(),
            attempts: TaskTracker::new(),
            died: CancellationToken::new(),
        };
        let shared = Arc::new(Shared {
            store: store.clone(),
            metrics: metrics.clone(),
            claiming: claiming.clone(),
            interrupt: interrupt.clone(),
            late_renewals: watch::channel(0).0,
        });
        let lookups = Lookups::new();
        for (name, queue) in &config.queues {
            let Some(runner) = Runner::of(queue, &lookups, clock)? else { continue };
            let queue = Queue {
                name: name.as_str().into(),
                runner,
                slots: Arc::new(Semaphore::new(queue.concurrency as usize)),
                shared: shared.clone(),
                attempts: workers.attempts.clone(),
            };
            let ends = workers.died.clone().drop_guard();
            workers.loops.spawn(async move {
                let runner_died = queue.runner.died();
                tokio::select! {
                    () = Arc::new(queue).run() => drop(ends.disarm()),
                    () = runner_died.cancelled() => {}
                }
            });
        }
        workers.loops.close();
        workers.attempts.close();
        Ok(workers)
    }

    /// Resolves when a part that must not end has ended, with its name.
    pub async fn died(&self) -> &'static str {
        self.died.cancelled().await;
        "worker loop of a queue"
    }

    /// How many attempts run now.
    pub fn running(&self) -> usize {
        self.attempts.len()
    }

    /// Resolves when claiming has stopped and no attempt runs any more.
    pub async fn wait(&self) {
        self.loops.wait().await;
        self.attempts.wait().await;
    }
}

/// What runs the attempts of a queue.
enum Runner {
    /// Each queue has a spawner of its own: a program on a dead file server must not hold up others.
    Exec(ExecConfig, Spawner),
    Http(Pusher),
}

/// Why a queue's runner could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no thread for its commands.
    #[error("cannot start a thread for commands")]
    Spawner(#[from] io::Error),
    /// Its pushes cannot be prepared.
    #[error(transparent)]
    Push(#[from] PushError),
}

impl Runner {
    /// The runner of a queue, if the daemon has to run its jobs.
    fn of(
        queue: &QueueConfig,
        lookups: &Lookups,
        clock: &Clock,
    ) -> Result<Option<Self>, StartError> {
        Ok(match &queue.runner {
            config::Runner::Lease => None,
            config::Runner::Exec(exec) => {
                let spawner = Spawner::start(tokio::runtime::Handle::current())?;
                Some(Self::Exec(exec.clone(), spawner))
            }
            config::Runner::Http(http) => {
                Some(Self::Http(Pusher::new(http, queue.concurrency, lookups, clock.clone())?))
            }
        })
    }

    /// What is cancelled if it ends although it must not.
    fn died(&self) -> CancellationToken {
        match self {
            Self::Exec(_, spawner) => spawner.died(),
            Self::Http(_) => CancellationToken::new(),
        }
    }
}

/// One queue with a runner.
struct Queue {
    name: Arc<str>,
    runner: Runner,
    slots: Arc<Semaphore>,
    shared: Arc<Shared>,
    attempts: TaskTracker,
}

impl Queue {
    /// Claims and starts attempts until claiming is stopped.
    async fn run(self: Arc<Self>) {
        let claiming = self.shared.claiming.clone();
        while let Some(claimed) = claiming.run_until_cancelled(self.claim()).await {
            match claimed {
                Ok(jobs) => jobs.into_iter().for_each(|(leased, slot)| self.begin(leased, slot)),
                Err(StoreError::Stopped(_)) if self.shared.store.failure().is_some() => {
                    return claiming.cancelled().await; // the daemon sees it
                }
                Err(error) => {
                    warn!(event = "claim_failed", queue = &*self.name, %error);
                    claiming.run_until_cancelled(tokio::time::sleep(PAUSE_AFTER_ERROR)).await;
                }
            }
        }
    }

    /// Waits for a free slot, then for jobs, as many as there are free slots.
    async fn claim(&self) -> Result<Vec<(LeasedJob, OwnedSemaphorePermit)>, StoreError> {
        let first = self.slots.clone().acquire_owned().await;
        let mut slots = vec![first.expect("the semaphore is never closed")];
        while let Ok(slot) = self.slots.clone().try_acquire_owned() {
            slots.push(slot);
        }
        // Who cannot renew should not take on more.
        let mut late = self.shared.late_renewals.subscribe();
        late.wait_for(|late| *late == 0).await.expect("its sender is shared");
        let claim = Claim {
            queues: vec![self.name.to_string()],
            max: slots.len(),
            max_bytes: CLAIM_BYTES,
            duration: None,
            worker: Some(WORKER.to_owned()),
            own: true,
        };
        let claimed = tokio::select! {
            claimed = self.shared.store.claim(claim, CLAIM_WAIT) => claimed?,
            _ = late.wait_for(|late| *late > 0) => return Ok(Vec::new()),
        };
        Ok(claimed.jobs.into_iter().zip(slots).collect())
    }

    fn begin(self: &Arc<Self>, leased: LeasedJob, slot: OwnedSemaphorePermit) {
        let queue = self.clone();
        self.attempts.spawn(async move {
            let busy = Busy::new(&queue);
            let attempt = Attempt::new(&queue.shared, leased);
            if attempt.run(&queue.runner).await == Next::Pause {
                // The machine lacks something: the next job would fare no better.
                let pause = tokio::time::sleep(PAUSE_AFTER_ERROR);
                queue.shared.claiming.run_until_cancelled(pause).await;
            }
            drop(busy); // before somebody else is
            drop(slot);
        });
    }
}

/// Stands for an attempt in the count of those that run.
struct Busy<'q>(&'q Queue);

impl<'q> Busy<'q> {
    fn new(queue: &'q Queue) -> Self {
        queue.shared.metrics.add_workers_busy(&queue.name, 1);
        Self(queue)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.shared.metrics.add_workers_busy(&self.0.name, -1);
    }
}
