//! The life of a job: pure decisions, without clock, I/O or randomness.
//!
//! ```text
//!             run_at in the future
//!  create ───────────────────────────> scheduled
//!    │                                     │ due (sweeper)
//!    v             claim                   v
//!  ready ────────────────────> running   ready
//!    ^                            │
//!    │        due (sweeper)       │
//!    ├──────────── retrying <─────┤ failed or timed out, tries left; cut off by a crash
//!    ├────────────────────────────┤ lease expired, tries left
//!    ├────────────────────────────┤ released: no try used up (scheduled if asked to wait)
//!    │                            ├ completed ──> completed     (final)
//!    ├─── requeue ──── dead <─────┘ failed, timed out or lease expired, no tries left; or permanent
//!                        └─ discard ──> gone, counted
//!  cancel: scheduled, ready, retrying, running ──> cancelled     (final)
//!  prune:  completed, cancelled ──> gone; dead ──> gone, counted as discarded
//! ```

use std::time::Duration;

use crate::clock::Timestamp;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Waits for its `run_at`; has not failed since it was created or requeued, or was given back.
    Scheduled,
    /// Waits for a worker.
    Ready,
    /// Waits for its backoff to pass after a failure.
    Retrying,
    /// Leased to a worker.
    Running,
    /// Done; final.
    Completed,
    /// Ended by an operator or its creator; final.
    Cancelled,
    /// Out of tries, or failed for good; waits for an operator or its retention to end.
    Dead,
}

impl State {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Ready,
        Self::Retrying,
        Self::Running,
        Self::Completed,
        Self::Cancelled,
        Self::Dead,
    ];

    /// The name in answers, labels and SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Retrying => "retrying",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether a job in this state runs no more by itself.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Dead)
    }
}

/// How an attempt ended, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptResult {
    /// The work is done.
    Completed,
    /// The worker said that it failed.
    Failed,
    /// It took longer than its timeout.
    TimedOut,
    /// Its lease ran out, or the daemon that ran it crashed.
    LeaseExpired,
    /// Given back without using up a try.
    Released,
    /// The job was cancelled under it.
    Cancelled,
}

impl AttemptResult {
    /// All results, in the order of the metric catalogue.
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::Failed,
        Self::TimedOut,
        Self::LeaseExpired,
        Self::Released,
        Self::Cancelled,
    ];

    /// The name in answers, labels and SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::LeaseExpired => "lease_expired",
            Self::Released => "released",
            Self::Cancelled => "cancelled",
        }
    }

    /// The result of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.name() == name)
    }
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Completed,
    /// The work failed; `retry_in` is a lower bound on the wait, `permanent` rules out a retry.
    Failed {
        /// Another attempt would fail as well.
        permanent: bool,
        /// The least time until the next attempt.
        retry_in: Duration,
    },
    /// It took longer than its timeout.
    TimedOut,
    /// Its worker stopped renewing.
    LeaseExpired,
    /// The daemon that ran it crashed; it waits its backoff, in case it was the culprit.
    CutOff,
    /// Given back, by a drain or by its worker: no try used up.
    Released {
        /// The time until it may run again.
        retry_in: Duration,
    },
}

impl Outcome {
    /// What the end is counted as.
    pub fn result(self) -> AttemptResult {
        match self {
            Self::Completed => AttemptResult::Completed,
            Self::Failed { .. } => AttemptResult::Failed,
            Self::TimedOut => AttemptResult::TimedOut,
            Self::LeaseExpired | Self::CutOff => AttemptResult::LeaseExpired,
            Self::Released { .. } => AttemptResult::Released,
        }
    }
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its `run_at` has come.
    Promote,
    /// A worker takes it.
    Claim,
    /// Its attempt ends.
    End(Outcome),
    /// It shall not run any more.
    Cancel,
    /// An operator puts it back.
    Requeue,
    /// An operator removes it.
    Discard,
    /// Retention removes it.
    Prune,
}

impl Event {
    /// What has been done to a job to which it happened, for messages.
    fn done(self) -> &'static str {
        match self {
            Self::Promote => "promoted",
            Self::Claim => "claimed",
            Self::End(_) => "finished",
            Self::Cancel => "cancelled",
            Self::Requeue => "requeued",
            Self::Discard => "discarded",
            Self::Prune => "pruned",
        }
    }

    /// The states in which it may happen.
    pub fn allowed_in(self) -> &'static [State] {
        match self {
            Self::Promote => &[State::Scheduled, State::Retrying],
            Self::Claim => &[State::Ready],
            Self::End(_) => &[State::Running],
            Self::Cancel => &[State::Scheduled, State::Ready, State::Retrying, State::Running],
            Self::Requeue | Self::Discard => &[State::Dead],
            Self::Prune => &[State::Completed, State::Cancelled, State::Dead],
        }
    }
}

/// What the decisions need to know of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Where it is.
    pub state: State,
    /// When it may run, or could.
    pub run_at: Timestamp,
    /// The attempts that used up a try since it was created or requeued.
    pub failures: u32,
    /// How many of these make it dead.
    pub max_attempts: u32,
}

/// What becomes of a job: everything that an event changes, for the store and for the tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Where it was.
    pub from: State,
    /// Where it is now; none if it is gone.
    pub to: Option<State>,
    /// When it may run, or could.
    pub run_at: Timestamp,
    /// The failures it has now.
    pub failures: u32,
    /// How its attempt ended, if one did.
    pub ended: Option<AttemptResult>,
    /// What is counted beside the states and the attempt.
    pub mark: Option<Mark>,
}

/// An event that has a counter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A failure left the job alive.
    Retried,
    /// The job entered dead.
    Died,
    /// A dead job was put back.
    Requeued,
    /// A dead job was removed.
    Discarded,
    /// A completed or cancelled job was removed.
    Pruned,
}

/// The state does not allow the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {} job cannot be {}", .state.name(), .event.done())]
pub struct InvalidTransition {
    /// Where the job is.
    pub state: State,
    /// What should have happened to it.
    pub event: Event,
}

/// The first state of a job, and its effective `run_at`: one in the past counts as now.
pub fn created(run_at: Option<Timestamp>, now: Timestamp) -> (State, Timestamp) {
    match run_at {
        Some(run_at) if run_at > now => (State::Scheduled, run_at),
        _ => (State::Ready, now),
    }
}

/// What `event` makes of a job, or that it cannot happen now.
///
/// `backoff` is the delay that [`crate::backoff::delay`] gives for `failures + 1`; events other
/// than the end of an attempt ignore it.
pub fn apply(
    job: &Facts,
    event: Event,
    now: Timestamp,
    backoff: Duration,
) -> Result<Change, InvalidTransition> {
    if !event.allowed_in().contains(&job.state) {
        return Err(InvalidTransition { state: job.state, event });
    }
    let stay = Change {
        from: job.state,
        to: None,
        run_at: job.run_at,
        failures: job.failures,
        ended: None,
        mark: None,
    };
    Ok(match event {
        Event::Promote => Change { to: Some(State::Ready), ..stay },
        Event::Claim => Change { to: Some(State::Running), ..stay },
        Event::End(outcome) => end(job, outcome, now, backoff, stay),
        Event::Cancel => {
            let ended = (job.state == State::Running).then_some(AttemptResult::Cancelled);
            Change { to: Some(State::Cancelled), ended, ..stay }
        }
        Event::Requeue => Change {
            to: Some(State::Ready),
            run_at: now,
            failures: 0,
            mark: Some(Mark::Requeued),
            ..stay
        },
        Event::Discard => Change { mark: Some(Mark::Discarded), ..stay },
        Event::Prune if job.state == State::Dead => Change { mark: Some(Mark::Discarded), ..stay },
        Event::Prune => Change { mark: Some(Mark::Pruned), ..stay },
    })
}

/// What the end of its attempt makes of a running job.
fn end(job: &Facts, outcome: Outcome, now: Timestamp, backoff: Duration, stay: Change) -> Change {
    let ended = Change { ended: Some(outcome.result()), ..stay };
    let failures = job.failures.saturating_add(1);
    let tries_left = failures < job.max_attempts;
    let retry =
        |to, run_at| Change { to: Some(to), run_at, failures, mark: Some(Mark::Retried), ..ended };
    match outcome {
        Outcome::Completed => Change { to: Some(State::Completed), ..ended },
        Outcome::Released { retry_in } if retry_in.is_zero() => {
            Change { to: Some(State::Ready), run_at: now, ..ended }
        }
        Outcome::Released { retry_in } => {
            Change { to: Some(State::Scheduled), run_at: now.after(retry_in), ..ended }
        }
        Outcome::Failed { permanent: false, retry_in } if tries_left => {
            retry(State::Retrying, now.after(retry_in.max(backoff)))
        }
        Outcome::TimedOut | Outcome::CutOff if tries_left => {
            retry(State::Retrying, now.after(backoff))
        }
        // Its worker is gone, and the job has waited a whole lease already.
        Outcome::LeaseExpired if tries_left => retry(State::Ready, now),
        Outcome::Failed { .. } | Outcome::TimedOut | Outcome::CutOff | Outcome::LeaseExpired => {
            Change { to: Some(State::Dead), failures, mark: Some(Mark::Died), ..ended }
        }
    }
}
