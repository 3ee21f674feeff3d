//! The sign of life that a supervisor waits for: given only while the writer of the store answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::systemd::Notifier;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::tally::Count;

/// Gives signs of life, at least one within `watchdog` while all is well.
pub(super) struct Pulse {
    pub(super) store: Store,
    pub(super) metrics: Arc<Metrics>,
    pub(super) notifier: Notifier,
    /// How long the supervisor waits for one. The writer has half of it for its answer, and a
    /// quarter lies between an answer and the next question.
    pub(super) watchdog: Duration,
    pub(super) address: SocketAddr,
    /// Cancelled when the drain begins.
    pub(super) draining: CancellationToken,
}

impl Pulse {
    /// Gives signs until `stop`, or until nothing can be stored any more.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.beat()).await;
    }

    async fn beat(&self) {
        let mut is_silent = false;
        loop {
            let answer = timeout(self.watchdog / 2, self.store.ping()).await;
            match answer {
                Ok(Err(StoreError::Stopped(_))) => return,
                // Refused for now is an answer: the writer does what it can.
                Ok(_) => {
                    if std::mem::take(&mut is_silent) {
                        info!(event = "writer_answers", "the store's writer answers again");
                    }
                    self.notifier.alive(&self.state()).await;
                    sleep(self.watchdog / 4).await;
                }
                Err(_) if is_silent => {}
                Err(_) => {
                    is_silent = true;
                    let within_ms = (self.watchdog / 2).as_millis() as u64;
                    warn!(event = "writer_silent", within_ms, "no signs of life until it answers");
                    self.metrics.store_error();
                    self.notifier.state("the store's writer does not answer").await;
                }
            }
        }
    }

    fn state(&self) -> String {
        let cut = self.metrics.snapshot();
        let sum = |count| cut.rows.iter().map(|row| row.counts[count]).sum::<i64>();
        let (ready, running, dead) = (sum(Count::Ready), sum(Count::Running), sum(Count::Dead));
        let doing = if self.draining.is_cancelled() { "draining" } else { "serving" };
        format!("{doing} on {}; {ready} ready, {running} running, {dead} dead", self.address)
    }
}
