//! The ledger of counts and its identities: pure arithmetic, stored and published by others.
//!
//! A [`Row`] counts the jobs of one (queue, kind). Three identities hold in every committed state,
//! for every row:
//!
//! ```text
//! I1  created = scheduled + ready + retrying + running + dead + completed + cancelled + discarded
//! I2  attempts started = running + attempts ended (all results)
//! I3  ended(completed) = completed;  ended(failed + timed_out + lease_expired) = retried + died
//! ```

mod ledger;
mod recount;

pub use ledger::{Ledger, Row, RowId};
pub use recount::{Place, Recount};

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::job::{AttemptResult, Change, Mark, State};

/// The label that stands for everything beyond a limit; no queue or kind can be called so.
pub const OTHER: &str = "__other__";

/// What a row counts: 19 series, and how many ended jobs were pruned since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Jobs created.
    Created,
    /// Jobs completed.
    Completed,
    /// Jobs cancelled.
    Cancelled,
    /// Dead jobs removed by an operator or by retention.
    Discarded,
    /// Failures that left the job alive.
    Retried,
    /// Entries into dead.
    Died,
    /// Dead jobs put back.
    Requeued,
    /// Jobs scheduled now.
    Scheduled,
    /// Jobs ready now.
    Ready,
    /// Jobs retrying now.
    Retrying,
    /// Jobs running now.
    Running,
    /// Jobs dead now.
    Dead,
    /// Attempts started.
    Started,
    /// Attempts ended completed.
    EndedCompleted,
    /// Attempts ended failed.
    EndedFailed,
    /// Attempts ended timed out.
    EndedTimedOut,
    /// Attempts ended with their lease.
    EndedLeaseExpired,
    /// Attempts given back.
    EndedReleased,
    /// Attempts ended by a cancel.
    EndedCancelled,
    /// Completed jobs removed by retention.
    PrunedCompleted,
    /// Cancelled jobs removed by retention.
    PrunedCancelled,
}

impl Count {
    /// All counts with the names of their columns, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 21] = [
        (Self::Created, "created"),
        (Self::Completed, "completed"),
        (Self::Cancelled, "cancelled"),
        (Self::Discarded, "discarded"),
        (Self::Retried, "retried"),
        (Self::Died, "died"),
        (Self::Requeued, "requeued"),
        (Self::Scheduled, "scheduled"),
        (Self::Ready, "ready"),
        (Self::Retrying, "retrying"),
        (Self::Running, "running"),
        (Self::Dead, "dead"),
        (Self::Started, "started"),
        (Self::EndedCompleted, "ended_completed"),
        (Self::EndedFailed, "ended_failed"),
        (Self::EndedTimedOut, "ended_timed_out"),
        (Self::EndedLeaseExpired, "ended_lease_expired"),
        (Self::EndedReleased, "ended_released"),
        (Self::EndedCancelled, "ended_cancelled"),
        (Self::PrunedCompleted, "pruned_completed"),
        (Self::PrunedCancelled, "pruned_cancelled"),
    ];

    /// The count of attempts that ended so.
    pub fn ended(result: AttemptResult) -> Self {
        match result {
            AttemptResult::Completed => Self::EndedCompleted,
            AttemptResult::Failed => Self::EndedFailed,
            AttemptResult::TimedOut => Self::EndedTimedOut,
            AttemptResult::LeaseExpired => Self::EndedLeaseExpired,
            AttemptResult::Released => Self::EndedReleased,
            AttemptResult::Cancelled => Self::EndedCancelled,
        }
    }

    /// The level or total of jobs that are, or came, into a state.
    pub fn of(state: State) -> Self {
        match state {
            State::Scheduled => Self::Scheduled,
            State::Ready => Self::Ready,
            State::Retrying => Self::Retrying,
            State::Running => Self::Running,
            State::Dead => Self::Dead,
            State::Completed => Self::Completed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// The counts of one row, or what a batch adds to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([i64; Count::ALL.len()]);

impl Index<Count> for Counts {
    type Output = i64;

    fn index(&self, count: Count) -> &i64 {
        &self.0[count as usize]
    }
}

impl IndexMut<Count> for Counts {
    fn index_mut(&mut self, count: Count) -> &mut i64 {
        &mut self.0[count as usize]
    }
}

/// An identity that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{identity} is broken: {left} != {right}")]
pub struct BrokenIdentity {
    /// Which one, with its terms.
    pub identity: &'static str,
    /// Its left side.
    pub left: i64,
    /// Its right side.
    pub right: i64,
}

impl Counts {
    /// Counts from numbers in the order of [`Count::ALL`].
    pub fn from_array(counts: [i64; Count::ALL.len()]) -> Self {
        Self(counts)
    }

    /// The numbers in the order of [`Count::ALL`].
    pub fn as_array(&self) -> &[i64; Count::ALL.len()] {
        &self.0
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Counts a new job.
    pub fn record_created(&mut self, state: State) {
        self[Count::Created] += 1;
        self[Count::of(state)] += 1;
    }

    /// Counts what became of a job: levels, totals, the attempt, all from the one change.
    pub fn record(&mut self, change: &Change) {
        if !matches!(change.from, State::Completed | State::Cancelled) {
            self[Count::of(change.from)] -= 1;
        }
        if let Some(to) = change.to {
            self[Count::of(to)] += 1;
        }
        if change.to == Some(State::Running) {
            self[Count::Started] += 1;
        }
        if let Some(result) = change.ended {
            self[Count::ended(result)] += 1;
        }
        match change.mark {
            Some(Mark::Retried) => self[Count::Retried] += 1,
            Some(Mark::Died) => self[Count::Died] += 1,
            Some(Mark::Requeued) => self[Count::Requeued] += 1,
            Some(Mark::Discarded) => self[Count::Discarded] += 1,
            Some(Mark::Pruned) if change.from == State::Completed => {
                self[Count::PrunedCompleted] += 1;
            }
            Some(Mark::Pruned) => self[Count::PrunedCancelled] += 1,
            None => {}
        }
    }

    /// How many jobs in this state the store should hold for this row.
    pub fn stored(&self, state: State) -> i64 {
        match state {
            State::Completed => self[Count::Completed] - self[Count::PrunedCompleted],
            State::Cancelled => self[Count::Cancelled] - self[Count::PrunedCancelled],
            level => self[Count::of(level)],
        }
    }

    /// Checks I1, I2 and I3.
    pub fn check(&self) -> Result<(), BrokenIdentity> {
        use Count as C;
        let sum = |counts: &[Count]| counts.iter().map(|count| self[*count]).sum::<i64>();
        let levels = [C::Scheduled, C::Ready, C::Retrying, C::Running, C::Dead];
        let gone = sum(&[C::Completed, C::Cancelled, C::Discarded]);
        let ended = AttemptResult::ALL.map(Count::ended);
        let failed = sum(&[C::EndedFailed, C::EndedTimedOut, C::EndedLeaseExpired]);
        let identities = [
            ("I1 created = levels + completed + cancelled + discarded", self[C::Created], {
                sum(&levels) + gone
            }),
            ("I2 started = running + ended", self[C::Started], self[C::Running] + sum(&ended)),
            ("I3 ended(completed) = completed", self[C::EndedCompleted], self[C::Completed]),
            ("I3 ended(failed) = retried + died", failed, sum(&[C::Retried, C::Died])),
        ];
        for (identity, left, right) in identities {
            if left != right {
                return Err(BrokenIdentity { identity, left, right });
            }
        }
        Ok(())
    }
}

/// What is counted for one queue, whatever rows its jobs count under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Jobs stored now, by state in the order of [`State::ALL`].
    pub stored: [i64; State::ALL.len()],
    /// Finishes and renewals refused because their lease was lost.
    pub leases_lost: i64,
    /// Creates answered with an existing job.
    pub duplicates: i64,
}

impl QueueCounts {
    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.stored.iter_mut().zip(other.stored) {
            *mine += theirs;
        }
        self.leases_lost += other.leases_lost;
        self.duplicates += other.duplicates;
    }

    /// Counts a new job.
    pub fn record_created(&mut self, state: State) {
        self.stored[state as usize] += 1;
    }

    /// Counts what became of a job.
    pub fn record(&mut self, change: &Change) {
        self.stored[change.from as usize] -= 1;
        if let Some(to) = change.to {
            self.stored[to as usize] += 1;
        }
    }

    /// Jobs stored now in this state.
    pub fn stored(&self, state: State) -> i64 {
        self.stored[state as usize]
    }

    /// Jobs that wait: what `max_depth` limits.
    pub fn depth(&self) -> i64 {
        self.stored(State::Scheduled) + self.stored(State::Ready) + self.stored(State::Retrying)
    }
}

/// What is counted for the whole store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that the sweeper made ready.
    pub promoted: i64,
    /// Attempts that the sweeper ended.
    pub expired: i64,
    /// Jobs that the sweeper removed.
    pub pruned: i64,
    /// Jobs created under [`OTHER`].
    pub overflow_jobs: i64,
    /// Lost leases of jobs that do not exist, or of queues without series of their own.
    pub leases_lost_elsewhere: i64,
    /// Duplicates of queues without series of their own.
    pub duplicates_elsewhere: i64,
}

impl Totals {
    /// Adds other totals.
    pub fn add(&mut self, other: &Self) {
        self.promoted += other.promoted;
        self.expired += other.expired;
        self.pruned += other.pruned;
        self.overflow_jobs += other.overflow_jobs;
        self.leases_lost_elsewhere += other.leases_lost_elsewhere;
        self.duplicates_elsewhere += other.duplicates_elsewhere;
    }
}

/// What one queue looks like after a batch, and what the batch added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueDelta {
    /// What the batch added to its counts.
    pub counts: QueueCounts,
    /// Whether it has series of its own; the others count under [`OTHER`], in the totals.
    pub has_series: bool,
    /// Whether claims are stopped.
    pub paused: bool,
    /// The `run_at` of the ready job that has waited longest.
    pub oldest_ready: Option<Timestamp>,
    /// From `run_at` to claim, one for each attempt that started.
    pub waits: Vec<Observation>,
    /// The row, and from claim to end, one for each attempt that ended.
    pub durations: Vec<(RowId, Observation)>,
}

/// How long something took that a histogram counts, and for whom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Seconds that it took.
    pub seconds: f64,
    /// When it ended.
    pub at: Timestamp,
    /// The id of its job.
    pub job: Uuid,
    /// The trace that the job belongs to: 128 bits.
    pub trace: Option<u128>,
}

/// Everything that one committed batch changed in the counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TallyDelta {
    /// Rows that are new, with their labels.
    pub new_rows: Vec<(RowId, Arc<str>, Arc<str>)>,
    /// What was added to rows.
    pub rows: Vec<(RowId, Counts)>,
    /// Queues that changed.
    pub queues: Vec<(Arc<str>, QueueDelta)>,
    /// A queue that was forgotten, with its rows.
    pub forgotten: Vec<(Arc<str>, Vec<RowId>)>,
    /// What was added to the totals.
    pub totals: Totals,
}

#[cfg(test)]
mod tests;
