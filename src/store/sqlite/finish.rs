//! Ending attempts, by their workers or by the daemon; renewing leases.

use std::time::Duration;

use super::Engine;
use super::rows::Core;
use super::state::check_row;
use crate::backoff;
use crate::clock::Timestamp;
use crate::job::{self, AttemptResult, Change, Event, Outcome, State};
use crate::store::operation::Failure;
use crate::store::{Finish, JobId, Lease, LeaseAnswer, Renewal, UniqueUntil};
use crate::tally::{QueueCounts, Totals};

impl Engine {
    /// Ends attempts, each if its lease still stands.
    pub(in crate::store) fn finish(
        &mut self,
        finishes: &[Finish],
    ) -> Result<Vec<LeaseAnswer>, Failure> {
        let bytes = finishes.iter().map(Finish::bytes).sum();
        self.checkpointer.quota().take(finishes.len(), bytes)?;
        let answers = finishes.iter().map(|finish| {
            let answer = self.finish_one(finish);
            self.lost_if_damaged(finish.lease.job, answer)
        });
        answers.collect()
    }

    fn finish_one(&mut self, finish: &Finish) -> Result<LeaseAnswer, Failure> {
        let found = self.find(finish.lease.job)?;
        let Some(core) = holder_of(found.as_ref(), &finish.lease) else {
            return self.lease_lost(found.as_ref());
        };
        if core.state == State::Running {
            check_row(&self.state, core)?;
            let error = finish.error.as_deref().unwrap_or("the worker gave no reason");
            if self.end_attempt(core, finish.outcome, error)? {
                if let Some(result) = &finish.result
                    && finish.outcome == Outcome::Completed
                {
                    self.keep_result(core, result)?;
                }
                return Ok(LeaseAnswer::Ok);
            }
        } else if core.outcome == Some(finish.outcome.result()) {
            return Ok(LeaseAnswer::Ok); // its first answer was lost on the way
        } else if core.state == State::Cancelled {
            return Ok(LeaseAnswer::Cancelled);
        }
        self.lease_lost(Some(core))
    }

    /// Makes leases last longer.
    pub(in crate::store) fn renew(
        &mut self,
        renewal: &Renewal,
    ) -> Result<Vec<LeaseAnswer>, Failure> {
        self.checkpointer.quota().take(renewal.leases.len(), 0)?;
        let answers = renewal.leases.iter().map(|lease| {
            let answer = self.renew_one(lease, renewal.duration);
            self.lost_if_damaged(lease.job, answer)
        });
        answers.collect()
    }

    fn renew_one(
        &mut self,
        lease: &Lease,
        duration: Option<Duration>,
    ) -> Result<LeaseAnswer, Failure> {
        let found = self.find(lease.job)?;
        let Some(core) = holder_of(found.as_ref(), lease) else {
            return self.lease_lost(found.as_ref());
        };
        if core.state == State::Running {
            let last = Duration::from_millis(core.lease_ms.unwrap_or(0).unsigned_abs());
            if self.extend(core, duration.unwrap_or(last))? {
                return Ok(LeaseAnswer::Ok);
            }
        } else if core.state == State::Cancelled {
            return Ok(LeaseAnswer::Cancelled);
        }
        self.lease_lost(Some(core))
    }

    /// The part of a job that decisions need; none if only the key is right.
    pub(super) fn find(&self, id: JobId) -> Result<Option<Core>, Failure> {
        Core::find(&self.connection, id).map_err(|error| self.failure(id.key(), error))
    }

    /// A lease on a damaged row is lost, and those beside it in the same call are not.
    fn lost_if_damaged(
        &mut self,
        id: JobId,
        answer: Result<LeaseAnswer, Failure>,
    ) -> Result<LeaseAnswer, Failure> {
        match answer {
            Err(Failure::Refused(error)) => {
                self.report_damage(id.key(), &error);
                self.lease_lost(None)
            }
            answer => answer,
        }
    }

    fn lease_lost(&mut self, core: Option<&Core>) -> Result<LeaseAnswer, Failure> {
        match core {
            Some(core) => {
                self.state.queue(core.queue)?;
                let counts = QueueCounts { leases_lost: 1, ..QueueCounts::default() };
                self.state.add_to_queue(core.queue, &counts);
            }
            None => self.state.count(&Totals { leases_lost_elsewhere: 1, ..Totals::default() }),
        }
        Ok(LeaseAnswer::LeaseLost)
    }

    /// Ends the attempt of a running job; false if its lease does not stand.
    pub(super) fn end_attempt(
        &mut self,
        core: &Core,
        outcome: Outcome,
        error: &str,
    ) -> Result<bool, Failure> {
        let now = self.clock.now();
        let policy = self.config.policy(&self.state.queue(core.queue)?.name);
        let failures = core.failures.saturating_add(1);
        let backoff = backoff::delay(&policy.backoff, failures, rand::random());
        let change = job::apply(&core.facts(policy), Event::End(outcome), now, backoff)?;
        if !self.change(core, &change, now)? {
            return Ok(false);
        }
        if change.failures > core.failures {
            self.keep_error(core, outcome.result(), error, now)?;
        }
        Ok(true)
    }

    /// Writes and counts a change of a job that stays; false if it is not what it was.
    ///
    /// The one statement for every change but a claim: guarded by the state, and by the lease
    /// while it is running.
    pub(super) fn change(
        &mut self,
        core: &Core,
        change: &Change,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let to = change.to.expect("a job that is gone is removed, not changed");
        let ended_at = to.is_ended().then_some(now.0);
        let key_held =
            core.key_held && !(to.is_ended() && core.key_until == Some(UniqueUntil::Done));
        let mut update = self.connection.prepare_cached(
            "UPDATE jobs SET state = ?4, run_at = ?5, failures = ?6, ended_at = ?7, \
             outcome = coalesce(?8, outcome), key_held = ?9, own = 0, lease_tick = NULL, \
             timeout_tick = NULL, expires_at = NULL \
             WHERE id = ?1 AND state = ?2 AND (state <> 'running' OR lease = ?3)",
        )?;
        let changed = update.execute((
            core.id.key(),
            core.state.name(),
            core.lease,
            to.name(),
            change.run_at.0,
            change.failures,
            ended_at,
            change.ended.map(AttemptResult::name),
            key_held,
        ))?;
        drop(update);
        if changed == 0 {
            return Ok(false);
        }
        self.state.record(core, change);
        let ms = core.claimed_tick.map_or(0, |claimed| (self.clock.tick().0 - claimed).max(0));
        if change.ended.is_some() {
            self.state.note_duration(core, ms as f64 / 1e3, now);
        }
        self.state.tell_changed(core, change, ms);
        if to.is_ended() {
            self.note_retention(core, to, now)?;
        }
        Ok(true)
    }

    fn keep_result(&self, core: &Core, result: &[u8]) -> rusqlite::Result<()> {
        let mut insert = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO results (id, body) VALUES (?, ?)")?;
        insert.execute((core.id.key(), result)).map(drop)
    }

    fn keep_error(
        &self,
        core: &Core,
        result: AttemptResult,
        text: &str,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(
            "INSERT OR REPLACE INTO errors (id, attempt, at, outcome, message) \
             VALUES (?, ?, ?, ?, ?)",
        )?;
        insert.execute((core.id.key(), core.attempt, now.0, result.name(), text)).map(drop)
    }
}

/// The job, if this is the last lease that was given out for it.
fn holder_of<'c>(core: Option<&'c Core>, lease: &Lease) -> Option<&'c Core> {
    core.filter(|core| core.lease.as_ref() == Some(&lease.secret))
}
