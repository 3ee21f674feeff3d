//! Everything that goes through the writer: what is asked, what is answered, and to whom.

use super::handover::Call;
use super::sqlite::{BackupStep, Engine, Mark};
use super::*;
use crate::job::Outcome;

/// The most that the row of a new job takes, with its places in the indexes.
const ROW_BYTES: usize = 512;

/// What its unique key takes.
const KEY_BYTES: usize = 4_096;

impl<A, R> Call<A, R> {
    /// Applies the operation and keeps what to answer; an error concerns the whole batch.
    pub(super) fn apply(
        &mut self,
        apply: impl FnOnce(&A) -> Result<R, Failure>,
    ) -> Result<(), Failure> {
        self.answer = Some(match apply(&self.ask) {
            Ok(answer) => Ok(answer),
            Err(Failure::Refused(error)) => Err(error),
            Err(failure) => return Err(failure),
        });
        Ok(())
    }
}

/// Why an operation was not applied.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may not be; the rest of the batch goes on.
    Refused(StoreError),
    /// There is no room on the disk.
    Full,
    /// Another program writes to the file; nothing was changed.
    Busy,
    /// The engine cannot go on.
    Fatal(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<crate::job::InvalidTransition> for Failure {
    fn from(error: crate::job::InvalidTransition) -> Self {
        Self::Refused(error.into())
    }
}

/// Everything that goes through the writer.
pub(super) enum Operation {
    Create(Call<NewJob, Created>),
    CreateBatch(Call<Vec<NewJob>, BatchCreated>),
    /// Whether it waits until there is a job.
    Claim(Call<Claim, Claimed>, bool),
    Finish(Call<Vec<Finish>, Vec<LeaseAnswer>>),
    Renew(Call<Renewal, Vec<LeaseAnswer>>),
    Act(Call<(JobId, Action), Job>),
    Bulk(Call<Bulk, BulkStep>),
    SetPaused(Call<(String, bool), Queue>),
    Forget(Call<String, ()>),
    Queues(Call<Option<String>, Vec<Queue>>),
    Sweep(Call<Sweep, Swept>),
    Recount(Call<(), Recounted>),
    Backup(Call<BackupStep, Mark>),
    Ping(Call<(), ()>),
    StopWaiting(Call<(), ()>),
    Close(Call<(), ()>),
    /// Stands in a batch where a claim was that waits now.
    Parked,
}

impl Operation {
    /// About how many jobs it touches.
    pub(super) fn jobs(&self) -> usize {
        match self {
            Self::CreateBatch(call) => call.ask.len(),
            Self::Claim(call, _) => call.ask.max,
            Self::Finish(call) => call.ask.len(),
            Self::Renew(call) => call.ask.leases.len(),
            Self::Bulk(_) | Self::Sweep(_) => 500,
            _ => 1,
        }
    }

    /// About how many bytes it brings.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Create(call) => call.ask.payload.len(),
            Self::CreateBatch(call) => call.ask.iter().map(|job| job.payload.len()).sum(),
            Self::Finish(call) => call.ask.iter().map(Finish::bytes).sum(),
            _ => 0,
        }
    }

    /// About how many bytes its new jobs bring to the log: what they hold, their rows, and a page of
    /// the index of keys, in which they lie far apart.
    pub(super) fn brings(&self) -> usize {
        let brings = |job: &NewJob| {
            job.payload.len() + ROW_BYTES + job.unique.as_ref().map_or(0, |_| KEY_BYTES)
        };
        match self {
            Self::Create(call) => brings(&call.ask),
            Self::CreateBatch(call) => call.ask.iter().map(brings).sum(),
            _ => 0,
        }
    }

    pub(super) fn apply(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        match self {
            Self::Create(call) => call.apply(|job| engine.create(job)),
            Self::CreateBatch(call) => call.apply(|jobs| engine.create_batch(jobs)),
            Self::Claim(call, _) => call.apply(|claim| engine.claim(claim)),
            Self::Finish(call) => call.apply(|finishes| engine.finish(finishes)),
            Self::Renew(call) => call.apply(|renewal| engine.renew(renewal)),
            Self::Act(call) => call.apply(|(id, action)| engine.act(*id, *action)),
            Self::Bulk(call) => call.apply(|bulk| engine.act_on_many(bulk)),
            Self::SetPaused(call) => {
                call.apply(|(queue, paused)| engine.set_paused(queue, *paused))
            }
            Self::Forget(call) => call.apply(|queue| engine.forget(queue)),
            Self::Queues(call) => call.apply(|name| engine.queues(name.as_deref())),
            Self::Sweep(call) => call.apply(|sweep| engine.sweep(sweep)),
            Self::Recount(call) => call.apply(|()| engine.recount()),
            Self::Backup(call) => call.apply(|step| engine.backup_step(*step)),
            Self::Ping(call) | Self::StopWaiting(call) | Self::Close(call) => {
                call.apply(|()| Ok(()))
            }
            Self::Parked => Ok(()),
        }
    }

    pub(super) fn refuse(&mut self, error: StoreError) {
        match self {
            Self::Create(call) => call.refuse(error),
            Self::CreateBatch(call) => call.refuse(error),
            Self::Claim(call, _) => call.refuse(error),
            Self::Finish(call) => call.refuse(error),
            Self::Renew(call) => call.refuse(error),
            Self::Act(call) => call.refuse(error),
            Self::Bulk(call) => call.refuse(error),
            Self::SetPaused(call) => call.refuse(error),
            Self::Forget(call) => call.refuse(error),
            Self::Queues(call) => call.refuse(error),
            Self::Sweep(call) => call.refuse(error),
            Self::Recount(call) => call.refuse(error),
            Self::Backup(call) => call.refuse(error),
            Self::Ping(call) | Self::StopWaiting(call) | Self::Close(call) => call.refuse(error),
            Self::Parked => {}
        }
    }

    /// Sends the answer; a caller who has gone needs none, but leases must not be left with it: not
    /// those that it was given, nor those that it could not give back.
    pub(super) fn deliver(self, given_back: &mut Vec<Lease>) {
        match self {
            Self::Create(call) => drop(call.deliver()),
            Self::CreateBatch(call) => drop(call.deliver()),
            Self::Claim(call, _) => {
                given_back.extend(call.deliver().into_iter().flat_map(|claimed| claimed.leases()));
            }
            Self::Finish(call) => {
                if call.is_abandoned() && matches!(call.answer, Some(Err(_))) {
                    let is_release =
                        |finish: &&Finish| matches!(finish.outcome, Outcome::Released { .. });
                    given_back
                        .extend(call.ask.iter().filter(is_release).map(|finish| finish.lease));
                }
                drop(call.deliver());
            }
            Self::Renew(call) => drop(call.deliver()),
            Self::Act(call) => drop(call.deliver()),
            Self::Bulk(call) => drop(call.deliver()),
            Self::SetPaused(call) => drop(call.deliver()),
            Self::Forget(call) => drop(call.deliver()),
            Self::Queues(call) => drop(call.deliver()),
            Self::Sweep(call) => drop(call.deliver()),
            Self::Recount(call) => drop(call.deliver()),
            Self::Backup(call) => drop(call.deliver()),
            Self::Ping(call) | Self::StopWaiting(call) | Self::Close(call) => drop(call.deliver()),
            Self::Parked => {}
        }
    }
}
