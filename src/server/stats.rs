//! `GET /v1/stats`: one cut of the counts as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::deadline::Haste;
use super::error::ApiError;
use super::held::Held;
use super::scrapes::{Cut, Reader};
use super::{Shared, json};
use crate::job::AttemptResult;
use crate::metrics::{QueueCut, Snapshot};
use crate::tally::{Count, Counts};

/// One consistent reading of all counts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stats")]
pub(super) struct StatsView<'a> {
    /// Of all queues together.
    #[serde(flatten)]
    all: CountsView,
    /// Jobs created under __other__ since the limit of pairs was reached.
    pairs_overflow_jobs: u64,
    /// What the sweeper did.
    sweeper: SweeperView,
    /// By name; "__other__" is what has no counts of its own.
    queues: BTreeMap<&'a str, CountsView>,
}

/// The counts of jobs and attempts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Counts")]
struct CountsView {
    jobs_created: i64,
    jobs_completed: i64,
    /// Attempts ended failed, timed out or with their lease.
    jobs_failed: i64,
    /// Failures that left the job alive.
    jobs_retried: i64,
    /// Jobs running now.
    jobs_in_progress: i64,
    jobs_cancelled: i64,
    jobs_discarded: i64,
    /// Entries into dead.
    jobs_died: i64,
    jobs_requeued: i64,
    /// Jobs scheduled now.
    jobs_scheduled: i64,
    /// Jobs ready now.
    jobs_ready: i64,
    /// Jobs retrying now.
    jobs_retrying: i64,
    /// Jobs dead now.
    jobs_dead: i64,
    attempts_started: i64,
    /// By result.
    attempts_ended: BTreeMap<&'static str, i64>,
    /// Finishes and renewals refused because their lease was lost.
    leases_lost: u64,
    /// Creates answered with an existing job.
    duplicates: u64,
}

/// What is counted of a queue, or of all.
#[derive(Default)]
struct Sum {
    counts: Counts,
    leases_lost: u64,
    duplicates: u64,
}

impl Sum {
    fn add(&mut self, queue: &QueueCut) {
        self.leases_lost += queue.leases_lost;
        self.duplicates += queue.duplicates;
    }
}

/// The jobs that the sweeper handled.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SweeperCounts")]
struct SweeperView {
    promoted: u64,
    expired: u64,
    pruned: u64,
}

impl From<&Sum> for CountsView {
    fn from(sum: &Sum) -> Self {
        let counts = &sum.counts;
        let ended = |result: AttemptResult| counts[Count::ended(result)];
        let failures =
            [AttemptResult::Failed, AttemptResult::TimedOut, AttemptResult::LeaseExpired];
        Self {
            jobs_created: counts[Count::Created],
            jobs_completed: counts[Count::Completed],
            jobs_failed: failures.into_iter().map(ended).sum(),
            jobs_retried: counts[Count::Retried],
            jobs_in_progress: counts[Count::Running],
            jobs_cancelled: counts[Count::Cancelled],
            jobs_discarded: counts[Count::Discarded],
            jobs_died: counts[Count::Died],
            jobs_requeued: counts[Count::Requeued],
            jobs_scheduled: counts[Count::Scheduled],
            jobs_ready: counts[Count::Ready],
            jobs_retrying: counts[Count::Retrying],
            jobs_dead: counts[Count::Dead],
            attempts_started: counts[Count::Started],
            attempts_ended: AttemptResult::ALL
                .into_iter()
                .map(|result| (result.name(), ended(result)))
                .collect(),
            leases_lost: sum.leases_lost,
            duplicates: sum.duplicates,
        }
    }
}

impl<'a> StatsView<'a> {
    /// Sums what is counted by queue and kind, by queue and altogether.
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut queues = BTreeMap::<&str, Sum>::new();
        let mut all = Sum::default();
        for row in &snapshot.rows {
            queues.entry(&row.queue).or_default().counts.add(&row.counts);
            all.counts.add(&row.counts);
        }
        for queue in &snapshot.queues {
            queues.entry(&queue.queue).or_default().add(queue);
            all.add(queue);
        }
        Self {
            all: (&all).into(),
            pairs_overflow_jobs: snapshot.totals.overflow_jobs,
            sweeper: SweeperView {
                promoted: snapshot.totals.promoted,
                expired: snapshot.totals.expired,
                pruned: snapshot.totals.pruned,
            },
            queues: queues.iter().map(|(queue, sum)| (*queue, sum.into())).collect(),
        }
    }
}

/// `GET /v1/stats`
pub(super) async fn show(
    State(api): State<Shared>,
    haste: Option<Extension<Haste>>,
) -> Result<Response, ApiError> {
    haste.iter().for_each(|haste| haste.make());
    let write = async |cut: Arc<Cut>| {
        cut.statistics(|snapshot| json::text(&StatsView::new(snapshot)).into()).await
    };
    let haste = haste.as_deref();
    let (text, place) = api.scrapes.answer(Reader::Stats, haste, &api.metrics, write).await?;
    Ok(([(CONTENT_TYPE, json::JSON)], Held::around(text.into(), place, drop)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::metrics::{Metrics, RowCut};

    #[test]
    fn rows_are_summed_by_queue_and_altogether() {
        let mut counts = Counts::default();
        counts[Count::Created] = 3;
        counts[Count::EndedFailed] = 1;
        counts[Count::EndedTimedOut] = 2;
        counts[Count::EndedLeaseExpired] = 4;
        counts[Count::Running] = 5;
        let row = |queue: &str| RowCut {
            queue: queue.into(),
            kind: "k".into(),
            counts,
            attempt_seconds: 0.0,
        };
        let mut snapshot = Metrics::new(Arc::new(Config::default())).snapshot();
        snapshot.rows = vec![row("a"), row("a"), row("b")];
        snapshot.totals.pruned = 9;
        snapshot.totals.overflow_jobs = 8;
        snapshot.queues[0].leases_lost = 2;
        let first = snapshot.queues[0].queue.to_string();
        let view = serde_json::to_value(StatsView::new(&snapshot)).expect("serializes");
        assert_eq!(view["jobs_created"], 9);
        assert_eq!(view["jobs_failed"], 21);
        assert_eq!(view["jobs_in_progress"], 15);
        assert_eq!(view["attempts_ended"]["timed_out"], 6);
        assert_eq!(view["leases_lost"], 2);
        assert_eq!(view["queues"]["a"]["jobs_created"], 6);
        assert_eq!(view["queues"]["b"]["jobs_failed"], 7);
        assert_eq!(view["queues"][first]["leases_lost"], 2);
        assert_eq!(view["sweeper"]["pruned"], 9);
        assert_eq!(view["pairs_overflow_jobs"], 8);
    }
}
