//! What the log tells of jobs: one line a step, written once the step is committed.
//!
//! Steps are told at debug, failures at warn. The end of an attempt of the daemon's own workers is
//! told by them, who know what happened; here only if they did not report it.

use std::sync::Arc;

use tracing::{Level, debug, enabled, warn};

use super::rows::Core;
use super::state::State;
use crate::job::{AttemptResult, Change, Mark, State as JobState};
use crate::store::JobId;

/// One step of one job.
pub(super) struct Step {
    job_id: JobId,
    queue: Arc<str>,
    /// The kind that it counts under.
    kind: Arc<str>,
    attempt: u32,
    what: What,
}

enum What {
    Created(JobState),
    Started {
        worker: Option<String>,
    },
    Ended {
        outcome: AttemptResult,
        state: JobState,
        duration_ms: i64,
    },
    /// Anything else, by the name of its event.
    Other(&'static str),
}

impl State {
    /// A job was created.
    pub(super) fn tell_created(&mut self, job: &Core) {
        self.tell(job, job.attempt, false, || What::Created(job.state));
    }

    /// Its next attempt has started.
    pub(super) fn tell_started(&mut self, job: &Core, worker: Option<&String>) {
        self.tell(job, job.attempt + 1, false, || What::Started { worker: worker.cloned() });
    }

    /// Anything else became of it; if its attempt ended, after so long.
    pub(super) fn tell_changed(&mut self, job: &Core, change: &Change, duration_ms: i64) {
        let is_told_by_worker = job.own && change.ended != Some(AttemptResult::LeaseExpired);
        let other = match (change.mark, change.to) {
            (_, Some(JobState::Cancelled)) => What::Other("job_cancelled"),
            (Some(Mark::Requeued), _) => What::Other("job_requeued"),
            (Some(Mark::Discarded), _) => What::Other("job_discarded"),
            (Some(Mark::Pruned), _) => What::Other("job_pruned"),
            (_, to) => match (change.ended, to) {
                (Some(_), _) if is_told_by_worker => return,
                (Some(outcome), Some(state)) => What::Ended { outcome, state, duration_ms },
                _ => What::Other("job_promoted"),
            },
        };
        let is_failure = matches!(&other, What::Ended { outcome, .. } if uses_up_a_try(*outcome));
        self.tell(job, job.attempt, is_failure, || other);
    }

    fn tell(&mut self, job: &Core, attempt: u32, is_failure: bool, what: impl FnOnce() -> What) {
        if !is_failure && !enabled!(Level::DEBUG) {
            return;
        }
        let (Ok(queue), Some(row)) = (self.queue(job.queue), self.ledger.get(job.ledger)) else {
            return; // it was forgotten since, with its queue
        };
        let (queue, kind) = (queue.name.clone(), row.kind.clone());
        self.steps.push(Step { job_id: job.id, queue, kind, attempt, what: what() });
    }

    /// Writes the lines of a batch that was committed.
    pub(super) fn write_steps(&mut self) {
        self.steps.drain(..).for_each(|step| step.write());
    }
}

impl Step {
    fn write(self) {
        let Self { job_id, queue, kind, attempt, what } = self;
        let queue = &*queue;
        let kind = &*kind;
        match what {
            What::Created(state) => {
                debug!(event = "job_created", %job_id, queue, kind, state = state.name());
            }
            What::Started { worker } => {
                debug!(event = "attempt_started", %job_id, queue, kind, attempt, worker);
            }
            What::Ended { outcome, state, duration_ms } if uses_up_a_try(outcome) => {
                let (outcome, state) = (outcome.name(), state.name());
                warn!(event = "attempt_failed", %job_id, queue, kind, attempt, duration_ms, outcome, state);
            }
            What::Ended { outcome, state, duration_ms } => {
                let (outcome, state) = (outcome.name(), state.name());
                debug!(event = "attempt_ended", %job_id, queue, kind, attempt, duration_ms, outcome, state);
            }
            What::Other(event) => debug!(event, %job_id, queue, kind, attempt),
        }
    }
}

fn uses_up_a_try(outcome: AttemptResult) -> bool {
    use AttemptResult::{Failed, LeaseExpired, TimedOut};
    matches!(outcome, Failed | TimedOut | LeaseExpired)
}
