//! The sweeper: has the store promote what is due, expire leases, prune and recount.
//!
//! It wakes when something is due, and at least once a second. It does not look at kinds or
//! configuration: what is due, the store decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Recounted, Store, StoreError, Sweep};

/// The longest time between two ticks.
const TICK: Duration = Duration::from_secs(1);

/// The shortest, so that jobs due one after the other share a tick; a fifth of what is promised.
const LEAST_TICK: Duration = Duration::from_millis(20);

/// How long from the end of a recount to the next, so that an idle daemon spends next to nothing
/// on it.
const BETWEEN_RECOUNTS: Duration = Duration::from_secs(600);

/// Sweeps until it is stopped, or the store is.
pub struct Sweeper {
    store: Store,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// When the recount takes its next step.
    recount_at: Instant,
}

impl Sweeper {
    /// A sweeper of this store; the first recount begins at once.
    pub fn new(store: Store, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { store, metrics, clock, recount_at: Instant::now() }
    }

    /// Sweeps until `stop`; an error says that the store has stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut due = self.store.due();
        loop {
            due.mark_unchanged();
            let least = Instant::now() + LEAST_TICK;
            let due_in = match self.tick(&stop).await {
                Ok(true) => (*due.borrow()).map_or(TICK, |at| at.since(self.clock.now()).min(TICK)),
                Ok(false) => Duration::ZERO,
                Err(error @ StoreError::Stopped(_)) => return Err(error),
                Err(error) => {
                    warn!(event = "sweep_failed", %error, "will sweep again in a second");
                    TICK
                }
            };
            let wake = Instant::now() + due_in;
            tokio::select! {
                () = sleep_until(wake) => {}
                Ok(()) = due.changed() => {}
                () = stop.cancelled() => return Ok(()),
            }
            tokio::select! {
                () = sleep_until(least) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Everything that is due now, as far as a tick may take: the next one begins with what the store
    /// looks after once in a tick, and must never be far. Answers whether all was seen.
    async fn tick(&mut self, stop: &CancellationToken) -> Result<bool, StoreError> {
        let ends = Instant::now() + TICK;
        let mut next = Some(Sweep::default());
        while let Some(sweep) = next {
            if Instant::now() >= ends {
                break;
            }
            let swept = self.store.sweep(sweep).await?;
            if swept.promoted + swept.expired + swept.pruned > 0 {
                let (promoted, expired, pruned) = (swept.promoted, swept.expired, swept.pruned);
                debug!(event = "swept", promoted, expired, pruned);
            }
            next = swept.next.filter(|_| !stop.is_cancelled());
        }
        self.recount().await?;
        self.metrics.set_sweeper_last_run(self.clock.now());
        Ok(next.is_none())
    }

    async fn recount(&mut self) -> Result<(), StoreError> {
        if Instant::now() < self.recount_at {
            return Ok(());
        }
        if let Recounted::Done(mismatch) = self.store.recount().await? {
            info!(event = "recounted", mismatch);
            self.recount_at = Instant::now() + BETWEEN_RECOUNTS;
        } else {
            self.recount_at = Instant::now() + TICK;
        }
        Ok(())
    }
}
