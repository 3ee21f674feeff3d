//! What operators do to one job: cancel, requeue, discard.

use std::time::Duration;

use tracing::warn;

use super::Engine;
use super::rows::{Core, damaged};
use super::state::check_row;
use crate::job::{self, Change, Event, State};
use crate::store::operation::Failure;
use crate::store::{Action, Job, JobId, StoreError};

/// The most damaged rows that are reported: more say nothing new.
const MOST_REPORTED: usize = 1_000;

impl Action {
    pub(super) fn event(self) -> Event {
        match self {
            Self::Cancel => Event::Cancel,
            Self::Requeue => Event::Requeue,
            Self::Discard => Event::Discard,
        }
    }
}

impl Engine {
    /// Acts on one job; answers with the job as it is then, or as it was before it was removed.
    pub(in crate::store) fn act(&mut self, id: JobId, action: Action) -> Result<Job, Failure> {
        let core = self.find(id)?;
        let core = core.ok_or(StoreError::NoSuchJob(id))?;
        if self.refuses_claims() {
            return Err(StoreError::Busy.into());
        }
        let job = self.whole_job(id.key())?;
        self.act_on(&core, action, job.unique_key.as_deref())?;
        match action {
            Action::Discard => Ok(job),
            Action::Cancel | Action::Requeue => self.whole_job(id.key()),
        }
    }

    /// Checks and applies an action to a job that was just read.
    pub(super) fn act_on(
        &mut self,
        core: &Core,
        action: Action,
        unique_key: Option<&str>,
    ) -> Result<(), Failure> {
        check_row(&self.state, core)?;
        let now = self.clock.now();
        let policy = self.config.policy(&self.state.queue(core.queue)?.name);
        let change = job::apply(&core.facts(policy), action.event(), now, Duration::ZERO)?;
        let mut core = core.clone();
        if action == Action::Requeue
            && let Some(key) = unique_key
        {
            self.take_key_back(&mut core, key)?;
        }
        let applied = match change.to {
            Some(_) => self.change(&core, &change, now)?,
            None => self.remove(&core, &change)?,
        };
        assert!(applied, "a job that was read in this transaction is not what it was");
        Ok(())
    }

    /// A job that runs again holds its key again, unless another job has taken it since.
    fn take_key_back(&self, core: &mut Core, key: &str) -> Result<(), Failure> {
        match self.key_holder(core.queue, key)? {
            Some(holder) if holder != core.id => {
                Err(StoreError::UniqueKeyHeld { key: key.to_owned(), holder }.into())
            }
            _ => {
                core.key_held = true;
                Ok(())
            }
        }
    }

    /// Removes a job with all that belongs to it, and counts it; false if it is not what it was.
    pub(super) fn remove(&mut self, core: &Core, change: &Change) -> Result<bool, Failure> {
        assert_ne!(core.state, State::Running, "a running job must be ended first");
        let key = core.id.key();
        let mut delete =
            self.connection.prepare_cached("DELETE FROM jobs WHERE id = ? AND state = ?")?;
        let removed = delete.execute((key, core.state.name()))? == 1;
        drop(delete);
        if removed {
            for statement in [
                "DELETE FROM payloads WHERE id = ?",
                "DELETE FROM results WHERE id = ?",
                "DELETE FROM errors WHERE id = ?",
            ] {
                self.connection.prepare_cached(statement)?.execute([key])?;
            }
            self.state.record(core, change);
            self.state.tell_changed(core, change, 0);
        }
        Ok(removed)
    }

    /// The part of a stored job that decisions need.
    pub(super) fn core(&self, key: i64) -> Result<Core, Failure> {
        let core = Core::load(&self.connection, key).map_err(|error| self.failure(key, error))?;
        let why = || "an index names it, and it is not there".to_owned();
        Ok(core.ok_or_else(|| StoreError::Damaged { key, why: why() })?)
    }

    /// Tells the operator once of a row that cannot be handled; what lies behind it goes on.
    pub(super) fn report_damage(&self, key: i64, error: &StoreError) {
        let mut reported = self.reported.borrow_mut();
        if reported.len() < MOST_REPORTED && reported.insert(key) {
            warn!(event = "row_passed_over", key, %error, "a damaged row is passed over");
            self.metrics.store_error();
        }
    }

    /// A failure to read one row concerns that row, unless it is the engine's.
    pub(super) fn failure(&self, key: i64, error: rusqlite::Error) -> Failure {
        damaged(key, &error).map_or_else(|| error.into(), Failure::Refused)
    }
}
