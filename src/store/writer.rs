//! Group commit: many operations, one transaction, one sync.
//!
//! ```text
//! callers ──> bounded channel ──> writer thread: begin, apply each, ledger, commit (sync)
//!    ^                                  │
//!    └──────── answers <── publish <────┘      meanwhile the next batch gathers in the channel
//! ```
//!
//! The writer takes all that is waiting, up to [`MAX_OPERATIONS`] or [`MAX_JOBS`], and does not
//! wait for more. A refusal concerns its own operation only and leaves nothing behind, since every
//! operation checks before it changes. A full disk rolls the batch back; all but its creates are
//! applied once more from the reserve. Any other failure stops the store for good: nothing is
//! published, every caller gets an error, and the daemon ends.

use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::parked::Parked;
use super::sqlite::Engine;
use super::*;
use crate::clock::Stopwatch;
use crate::job::Outcome;
use crate::metrics::Metrics;

/// The most operations that may wait, and that one transaction takes.
const MAX_OPERATIONS: usize = 1_024;

/// The most jobs that one transaction touches, so that no caller waits for a batch of seconds.
/// One operation may exceed it by itself: a batch of 10,000 creates is one.
const MAX_JOBS: usize = 10_000;

type Reply<R> = oneshot::Sender<Result<R, StoreError>>;

/// What a caller asks, what it will be told, and where to.
pub(super) struct Call<A, R> {
    pub(super) ask: A,
    pub(super) answer: Option<Result<R, StoreError>>,
    reply: Reply<R>,
}

impl<A, R> Call<A, R> {
    pub(super) fn new(ask: A) -> (Self, oneshot::Receiver<Result<R, StoreError>>) {
        let (reply, receiver) = oneshot::channel();
        (Self { ask, answer: None, reply }, receiver)
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Applies the operation and keeps what to answer; an error concerns the whole batch.
    fn apply(&mut self, apply: impl FnOnce(&A) -> Result<R, Failure>) -> Result<(), Failure> {
        self.answer = Some(match apply(&self.ask) {
            Ok(answer) => Ok(answer),
            Err(Failure::Refused(error)) => Err(error),
            Err(failure) => return Err(failure),
        });
        Ok(())
    }

    fn refuse(&mut self, error: StoreError) {
        self.answer = Some(Err(error));
    }

    /// Sends the answer; gives it back if nobody waits for it.
    fn deliver(self) -> Option<R> {
        let answer = self.answer.expect("every operation of a batch was applied or refused");
        self.reply.send(answer).err().and_then(Result::ok)
    }
}

/// Why an operation was not applied.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may not be; the rest of the batch goes on.
    Refused(StoreError),
    /// There is no room on the disk.
    Full,
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
    StopWaiting(Call<(), ()>),
    Close(Call<(), ()>),
    /// What is left of a claim that waits now.
    Parked,
}

impl Operation {
    /// About how many jobs it touches.
    fn jobs(&self) -> usize {
        match self {
            Self::CreateBatch(call) => call.ask.len(),
            Self::Claim(call, _) => call.ask.max,
            Self::Finish(call) => call.ask.len(),
            Self::Renew(call) => call.ask.leases.len(),
            Self::Bulk(_) | Self::Sweep(_) => 500,
            _ => 1,
        }
    }

    /// Whether it is a claim that has found nothing and shall wait.
    fn waits_on(&self) -> bool {
        let Self::Claim(call, true) = self else { return false };
        matches!(&call.answer, Some(Ok(claimed)) if claimed.jobs.is_empty())
    }

    fn is_create(&self) -> bool {
        matches!(self, Self::Create(_) | Self::CreateBatch(_))
    }

    fn apply(&mut self, engine: &mut Engine) -> Result<(), Failure> {
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
            Self::StopWaiting(call) | Self::Close(call) => call.apply(|()| Ok(())),
            Self::Parked => Ok(()),
        }
    }

    fn refuse(&mut self, error: StoreError) {
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
            Self::StopWaiting(call) | Self::Close(call) => call.refuse(error),
            Self::Parked => {}
        }
    }

    /// Sends the answer; a caller who has gone needs none, but leases must not be left with it.
    fn deliver(self, given_back: &mut Vec<Lease>) {
        match self {
            Self::Create(call) => drop(call.deliver()),
            Self::CreateBatch(call) => drop(call.deliver()),
            Self::Claim(call, _) => {
                given_back.extend(call.deliver().into_iter().flat_map(|claimed| claimed.leases()));
            }
            Self::Finish(call) => drop(call.deliver()),
            Self::Renew(call) => drop(call.deliver()),
            Self::Act(call) => drop(call.deliver()),
            Self::Bulk(call) => drop(call.deliver()),
            Self::SetPaused(call) => drop(call.deliver()),
            Self::Forget(call) => drop(call.deliver()),
            Self::Queues(call) => drop(call.deliver()),
            Self::Sweep(call) => drop(call.deliver()),
            Self::Recount(call) => drop(call.deliver()),
            Self::StopWaiting(call) | Self::Close(call) => drop(call.deliver()),
            Self::Parked => {}
        }
    }
}

/// The callers' end of the writer.
#[derive(Clone)]
pub(super) struct Writer {
    operations: mpsc::Sender<Operation>,
    failure: watch::Receiver<Option<String>>,
}

impl Writer {
    /// Starts the writer thread.
    pub(super) fn start(engine: Engine, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let (operations, receiver) = mpsc::channel(MAX_OPERATIONS);
        let (failure_sender, failure) = watch::channel(None);
        let file = engine.file().to_owned();
        let writing = Writing {
            engine,
            metrics,
            receiver,
            failure: failure_sender,
            parked: Some(Parked::default()),
            given_back: Vec::new(),
        };
        let spawned =
            thread::Builder::new().name("tallyd-writer".into()).spawn(move || writing.run());
        spawned.map_err(|source| OpenError::Io { doing: "start the writer of", file, source })?;
        Ok(Self { operations, failure })
    }

    /// Hands over a question and waits for its answer.
    pub(super) async fn call<A, R>(
        &self,
        ask: A,
        operation: impl FnOnce(Call<A, R>) -> Operation,
    ) -> Result<R, StoreError> {
        let (call, answer) = Call::new(ask);
        self.send(operation(call)).await?;
        answer.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    pub(super) async fn send(&self, operation: Operation) -> Result<(), StoreError> {
        self.operations.send(operation).await.map_err(|_| self.stopped())
    }

    /// Releases leases whose caller has gone, before anything that is called after this.
    pub(super) fn give_back(&self, leases: Vec<Lease>) {
        let (call, _) = Call::new(released(&leases));
        // Without an answer: if the store has stopped, the leases expire.
        let Err(TrySendError::Full(operation)) = self.operations.try_send(Operation::Finish(call))
        else {
            return;
        };
        let writer = self.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(writer.send(operation).await) });
        }
    }

    /// Finishes what was handed over before, then closes the engine.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.call((), Operation::Close).await
    }

    /// Why nothing can be stored any more.
    pub(super) fn stopped(&self) -> StoreError {
        let reason = self.failure.borrow().clone();
        StoreError::Stopped(reason.unwrap_or_else(|| "it is closed".into()))
    }

    /// Resolves with the reason when the writer has failed or ended.
    pub(super) async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its writer has ended".into(),
        }
    }
}

/// The writer thread's own.
struct Writing {
    engine: Engine,
    metrics: Arc<Metrics>,
    receiver: mpsc::Receiver<Operation>,
    failure: watch::Sender<Option<String>>,
    /// Claims that wait for a job; none once claims do not wait any more.
    parked: Option<Parked>,
    /// Leases of callers who had gone when their answer came.
    given_back: Vec<Lease>,
}

impl Writing {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(MAX_OPERATIONS);
        while self.gather(&mut batch) {
            let closing =
                batch.iter().position(|operation| matches!(operation, Operation::Close(_)));
            let close = closing.map(|index| batch.split_off(index));
            if let Err(reason) = self.commit(&mut batch) {
                return self.fail(&reason, batch.drain(..).chain(close.into_iter().flatten()));
            }
            if let Some(close) = close {
                batch.extend(self.take_given_back());
                if !batch.is_empty()
                    && let Err(reason) = self.commit(&mut batch)
                {
                    return self.fail(&reason, batch.drain(..).chain(close));
                }
                return self.close(close);
            }
        }
        // Every handle is gone: nobody is left to answer.
        drop(self.engine.close());
    }

    /// Waits for an operation and takes what else is there; false when nobody can send any more.
    fn gather(&mut self, batch: &mut Vec<Operation>) -> bool {
        if let Some(release) = self.take_given_back() {
            batch.push(release);
        } else if let Some(operation) = self.receiver.blocking_recv() {
            batch.push(operation);
        } else {
            return false;
        }
        let mut jobs: usize = batch.iter().map(Operation::jobs).sum();
        while batch.len() < MAX_OPERATIONS && jobs < MAX_JOBS {
            let Ok(operation) = self.receiver.try_recv() else { break };
            jobs += operation.jobs();
            batch.push(operation);
        }
        true
    }

    /// The release of what was leased to callers who had gone.
    fn take_given_back(&mut self) -> Option<Operation> {
        let leases = std::mem::take(&mut self.given_back);
        (!leases.is_empty()).then(|| Operation::Finish(Call::new(released(&leases)).0))
    }

    /// Applies, commits, publishes and answers a batch; an error is the reason to stop the store.
    fn commit(&mut self, batch: &mut Vec<Operation>) -> Result<(), String> {
        let mut served = Vec::new();
        match self.attempt(batch, &mut served) {
            Ok(()) => {}
            Err(Failure::Full) => {
                self.put_back(&mut served);
                self.attempt_from_reserve(batch, &mut served)?;
            }
            Err(Failure::Fatal(reason)) => return Err(reason),
            Err(Failure::Refused(error)) => return Err(error.to_string()),
        }
        for operation in batch.drain(..) {
            operation.deliver(&mut self.given_back);
        }
        for (_, call) in served {
            let undelivered = call.deliver();
            self.given_back.extend(undelivered.into_iter().flat_map(|claimed| claimed.leases()));
        }
        Ok(())
    }

    /// One transaction: nothing of it is left if it fails.
    fn attempt(
        &mut self,
        batch: &mut [Operation],
        served: &mut Vec<(u64, Call<Claim, Claimed>)>,
    ) -> Result<(), Failure> {
        let operations = batch.len();
        let started = Stopwatch::start();
        self.engine.begin()?;
        for operation in batch.iter_mut() {
            if operation.is_create()
                && let Some(error) = self.engine.refuses_creates()
            {
                operation.refuse(error);
                continue;
            }
            if matches!(operation, Operation::Claim(..)) {
                self.serve_parked(served)?; // who has waited longer comes first
            }
            operation.apply(&mut self.engine)?;
            if operation.waits_on()
                && let Some(parked) = &mut self.parked
                && let Operation::Claim(call, _) = std::mem::replace(operation, Operation::Parked)
            {
                parked.park(call); // at once: the rest of the batch may make a job ready
            }
        }
        self.serve_parked(served)?;
        if let Some(published) = self.engine.commit()? {
            self.metrics.publish(&published, operations, started.seconds());
        }
        self.engine.after_commit();
        if batch.iter().any(|operation| matches!(operation, Operation::StopWaiting(_))) {
            self.stop_waiting(served);
        }
        Ok(())
    }

    /// The same once more without its creates, after the reserve was given up.
    fn attempt_from_reserve(
        &mut self,
        batch: &mut [Operation],
        served: &mut Vec<(u64, Call<Claim, Claimed>)>,
    ) -> Result<(), String> {
        warn!(event = "disk_full", "the disk is full; refusing creates, using the reserve");
        self.metrics.store_error();
        self.engine.roll_back()?;
        self.engine.give_up_reserve();
        match self.attempt(batch, served) {
            Ok(()) => Ok(()),
            Err(Failure::Full) => {
                self.put_back(served);
                self.engine.roll_back()?;
                batch.iter_mut().for_each(|operation| operation.refuse(StoreError::DiskFull));
                Ok(())
            }
            Err(Failure::Fatal(reason)) => Err(reason),
            Err(Failure::Refused(error)) => Err(error.to_string()),
        }
    }

    /// Gives jobs that became ready to the claims that wait for them, the longest first.
    fn serve_parked(
        &mut self,
        served: &mut Vec<(u64, Call<Claim, Claimed>)>,
    ) -> Result<(), Failure> {
        let ready = self.engine.take_ready();
        let Some(parked) = &mut self.parked else { return Ok(()) };
        for queue in ready {
            while let Some((number, mut call)) = parked.next(&queue) {
                call.apply(|claim| self.engine.claim(claim))?;
                if matches!(&call.answer, Some(Ok(claimed)) if claimed.jobs.is_empty()) {
                    parked.put_back(number, call);
                    break;
                }
                served.push((number, call));
            }
        }
        Ok(())
    }

    fn put_back(&mut self, served: &mut Vec<(u64, Call<Claim, Claimed>)>) {
        if let Some(parked) = &mut self.parked {
            served.drain(..).rev().for_each(|(number, call)| parked.put_back(number, call));
        }
    }

    fn stop_waiting(&mut self, served: &mut Vec<(u64, Call<Claim, Claimed>)>) {
        let Some(parked) = self.parked.take() else { return };
        for (number, mut call) in parked.into_calls() {
            call.answer = Some(Ok(Claimed::default()));
            served.push((number, call));
        }
    }

    fn close(self, close: Vec<Operation>) {
        let Self { engine, mut receiver, parked, .. } = self;
        drop(parked);
        let closed = engine.close();
        receiver.close();
        let mut none = Vec::new();
        let late = std::iter::from_fn(|| receiver.try_recv().ok());
        for mut operation in close.into_iter().chain(late) {
            operation.refuse(StoreError::Stopped("it is closed".into()));
            if let Operation::Close(call) = &mut operation {
                call.answer = Some(closed.clone().map_err(StoreError::Stopped));
            }
            operation.deliver(&mut none);
        }
    }

    /// Fail-stop: every caller learns that its change may be lost, and nothing is published.
    fn fail(mut self, reason: &str, batch: impl Iterator<Item = Operation>) {
        error!(event = "store_failed", reason, "the store has failed and stops");
        self.metrics.store_error();
        // Before the callers are told, so that the daemon is on its way out when they are.
        self.failure.send_replace(Some(reason.to_owned()));
        self.receiver.close();
        let late = std::iter::from_fn(|| self.receiver.try_recv().ok());
        for mut operation in batch.chain(late) {
            operation.refuse(StoreError::Stopped(reason.to_owned()));
            operation.deliver(&mut self.given_back);
        }
    }
}

fn released(leases: &[Lease]) -> Vec<Finish> {
    let outcome = Outcome::Released { retry_in: Duration::ZERO };
    leases
        .iter()
        .map(|lease| Finish { lease: *lease, outcome, result: None, error: None })
        .collect()
}
