//! `GET /v1/stats`: one cut of the counts as JSON.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Shared, json};
use crate::job::AttemptResult;
use crate::tally::{Count, Counts, Totals};

/// One consistent reading of all counts.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Stats")]
pub(super) struct StatsView<'a> {
    /// Of all queues together.
    #[serde(flatten)]
    all: CountsView,
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
}

/// The jobs that the sweeper handled.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SweeperCounts")]
struct SweeperView {
    promoted: i64,
    expired: i64,
    pruned: i64,
}

impl From<&Counts> for CountsView {
    fn from(counts: &Counts) -> Self {
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
        }
    }
}

impl<'a> StatsView<'a> {
    /// Sums rows, each of a queue and a kind, by queue and altogether.
    fn new(rows: impl Iterator<Item = (&'a str, &'a Counts)>, totals: &Totals) -> Self {
        let mut queues = BTreeMap::<&str, Counts>::new();
        let mut all = Counts::default();
        for (queue, counts) in rows {
            queues.entry(queue).or_default().add(counts);
            all.add(counts);
        }
        Self {
            all: (&all).into(),
            sweeper: SweeperView {
                promoted: totals.promoted,
                expired: totals.expired,
                pruned: totals.pruned,
            },
            queues: queues.iter().map(|(queue, counts)| (*queue, counts.into())).collect(),
        }
    }
}

/// `GET /v1/stats`
pub(super) async fn show(State(api): State<Shared>) -> Response {
    let snapshot = api.metrics.snapshot();
    let rows = snapshot.rows.iter().map(|row| (&*row.queue, &row.counts));
    json::answer(StatusCode::OK, &StatsView::new(rows, &snapshot.totals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_summed_by_queue_and_altogether() {
        let mut counts = Counts::default();
        counts[Count::Created] = 3;
        counts[Count::EndedFailed] = 1;
        counts[Count::EndedTimedOut] = 2;
        counts[Count::EndedLeaseExpired] = 4;
        counts[Count::Running] = 5;
        let rows = [("a", &counts), ("a", &counts), ("b", &counts)];
        let totals = Totals { pruned: 9, ..Totals::default() };
        let view = serde_json::to_value(StatsView::new(rows.into_iter(), &totals));
        let view = view.expect("serializes");
        assert_eq!(view["jobs_created"], 9);
        assert_eq!(view["jobs_failed"], 21);
        assert_eq!(view["jobs_in_progress"], 15);
        assert_eq!(view["attempts_ended"]["timed_out"], 6);
        assert_eq!(view["queues"]["a"]["jobs_created"], 6);
        assert_eq!(view["queues"]["b"]["jobs_failed"], 7);
        assert_eq!(view["sweeper"]["pruned"], 9);
    }
}
