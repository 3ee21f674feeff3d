//! Group commit: many operations, one transaction, one sync.
//!
//! ```text
//! callers ──> bounded channel ──> writer thread: begin, apply each, ledger, commit (sync)
//!    ^                                  │
//!    └──────── answers <── publish <────┘      meanwhile the next batch gathers in the channel
//! ```
//!
//! The writer takes all that is waiting, up to [`MAX_OPERATIONS`], [`MAX_BATCH_JOBS`] or [`MAX_BATCH_BYTES`], and does not
//! wait for more. Waiting was tried: `wrk -t1 -c64` (256) posting 200-byte jobs, four variants in
//! turns, medians of three:
//!
//! ```text
//! wait for more     none          50 µs         100 µs        200 µs
//! creates, ratio    1.00 (1.00)   0.90 (1.04)   0.93 (1.07)   0.94 (1.10)
//! in a commit       23 (27)       34 (56)       36 (58)       37 (60)
//! p99, ms           10 (21)       8 (19)        9 (19)        8 (17)
//! ```
//!
//! Fuller commits gain little where many callers fill them anyway, and a lone caller would pay the
//! whole wait each time.
//!
//! A refusal concerns its own operation only and leaves nothing behind, since every
//! operation checks before it changes. A full disk rolls the batch back; all but its creates are
//! applied once more from the reserve. Any other failure stops the store for good: nothing is
//! published, every caller gets an error, and the daemon ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc::error::TrySendError;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use super::handover::{self, Call, Callers, End, Operations, PANICKED};
use super::operation::{Failure, Operation};
use super::parked::Parked;
use super::served::Served;
use super::sqlite::Engine;
use super::*;
use crate::clock::Stopwatch;
use crate::job::Outcome;
use crate::metrics::Metrics;

/// The most operations that may wait, and that one transaction takes.
const MAX_OPERATIONS: usize = 1_024;

/// The callers' end of the writer.
#[derive(Clone)]
pub(super) struct Writer {
    callers: Callers<Operation>,
    /// Leases on their way back.
    giving_back: TaskTracker,
}

impl Writer {
    /// Starts the writer thread.
    pub(super) fn start(engine: Engine, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let (callers, operations) = handover::channel(MAX_OPERATIONS);
        let file = engine.file().to_owned();
        let writing = Writing {
            engine,
            metrics,
            operations,
            parked: Some(Parked::default()),
            given_back: Vec::new(),
            held_over: VecDeque::new(),
            served_all: true,
            was_refused: false,
        };
        let spawned =
            thread::Builder::new().name("tallyd-writer".into()).spawn(move || writing.run());
        spawned.map_err(|source| OpenError::Io { doing: "start the writer of", file, source })?;
        Ok(Self { callers, giving_back: TaskTracker::new() })
    }

    /// Hands over a question and waits for its answer.
    pub(super) async fn call<A, R>(
        &self,
        ask: A,
        operation: impl FnOnce(Call<A, R>) -> Operation,
    ) -> Result<R, StoreError> {
        self.callers.call(ask, operation).await
    }

    pub(super) async fn send(&self, operation: Operation) -> Result<(), StoreError> {
        self.callers.send(operation).await
    }

    /// Releases leases whose caller has gone.
    pub(super) fn give_back(&self, leases: Vec<Lease>) {
        let (call, _) = Call::new(released(&leases));
        let writer = self.clone();
        let operation = match self.callers.operations.try_send(Operation::Finish(call)) {
            Err(TrySendError::Full(operation)) => operation,
            // If the store has stopped, the leases expire.
            Ok(()) | Err(TrySendError::Closed(_)) => return,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let sent = async move { drop(writer.send(operation).await) };
            self.giving_back.spawn_on(sent, &runtime);
        }
    }

    /// Finishes what was handed over before, then closes the engine.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        self.giving_back.close();
        self.giving_back.wait().await;
        self.call((), Operation::Close).await
    }

    /// Why nothing can be stored any more.
    pub(super) fn stopped(&self) -> StoreError {
        self.callers.stopped()
    }

    /// Why nothing can be stored any more, if the store has failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.callers.failure()
    }

    /// Resolves with the reason when the store has failed; never if it is closed in order.
    pub(super) async fn failed(&self) -> String {
        let mut end = self.callers.end.clone();
        let end = end.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(End::Failed(reason))) => reason,
            Ok(_) => std::future::pending().await,
            Err(_) => PANICKED.to_owned(),
        }
    }
}

/// The writer thread's own.
struct Writing {
    engine: Engine,
    metrics: Arc<Metrics>,
    operations: Operations<Operation>,
    /// Claims that wait for a job; none once claims do not wait any more.
    parked: Option<Parked>,
    /// Leases of callers who had gone when their answer came.
    given_back: Vec<Lease>,
    /// Operations that would have made the last batch too large.
    held_over: VecDeque<Operation>,
    /// Whether no claim that waits can be served before something else happens.
    served_all: bool,
    /// Whether the last batch was refused as a whole.
    was_refused: bool,
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
                if let Err(reason) = self.give_back_last() {
                    return self.fail(&reason, close.into_iter());
                }
                return self.close(close);
            }
        }
        // Every handle is gone: nobody is left to answer.
        drop(self.engine.close());
    }

    /// Waits for an operation and takes what else is there; false when nobody can send any more.
    fn gather(&mut self, batch: &mut Vec<Operation>) -> bool {
        // After a refusal, what the writer has to do by itself waits for somebody else's operation.
        let has_own = !self.given_back.is_empty() || !self.served_all;
        if self.held_over.is_empty() && (self.was_refused || !has_own) {
            let Some(operation) = self.operations.wait() else { return false };
            self.held_over.push_back(operation);
        }
        if !self.given_back.is_empty() {
            let (call, _) = Call::new(released(&std::mem::take(&mut self.given_back)));
            batch.push(Operation::Finish(call));
        }
        let mut jobs: usize = batch.iter().map(Operation::jobs).sum();
        let mut bytes: usize = batch.iter().map(Operation::bytes).sum();
        while batch.len() < MAX_OPERATIONS && jobs < MAX_BATCH_JOBS {
            let next = self.held_over.pop_front().or_else(|| self.operations.take());
            let Some(operation) = next else { break };
            if bytes > 0 && bytes + operation.bytes() > MAX_BATCH_BYTES {
                self.held_over.push_front(operation);
                break;
            }
            jobs += operation.jobs();
            bytes += operation.bytes();
            batch.push(operation);
        }
        true
    }

    /// Applies, commits, publishes and answers a batch; an error is the reason to stop the store.
    fn commit(&mut self, batch: &mut Vec<Operation>) -> Result<(), String> {
        let mut served = Served::default();
        self.was_refused = false;
        match self.attempt(batch, &mut served) {
            Ok(()) => {}
            Err(Failure::Full) => {
                self.put_back(&mut served);
                self.attempt_from_reserve(batch, &mut served)?;
            }
            Err(Failure::Busy) => self.refuse(batch, &StoreError::Busy),
            Err(Failure::Fatal(reason)) => {
                self.put_back(&mut served); // to be told with all others
                return Err(reason);
            }
            Err(Failure::Refused(error)) => return Err(error.to_string()),
        }
        for operation in batch.drain(..) {
            operation.deliver(&mut self.given_back);
        }
        for (_, call) in served.calls {
            let undelivered = call.deliver();
            self.given_back.extend(undelivered.into_iter().flat_map(|claimed| claimed.leases()));
        }
        Ok(())
    }

    /// One transaction: nothing of it is left if it fails.
    fn attempt(&mut self, batch: &mut [Operation], served: &mut Served) -> Result<(), Failure> {
        let operations = batch.len();
        let started = Stopwatch::start();
        self.engine.begin(batch.iter().map(Operation::brings).sum())?;
        for operation in batch.iter_mut() {
            if matches!(operation, Operation::Claim(..)) {
                self.serve_parked(served)?; // who has waited longer comes first
                if served.is_too_much() {
                    let claim = std::mem::replace(operation, Operation::Parked);
                    self.held_over.push_back(claim);
                    continue;
                }
            }
            operation.apply(&mut self.engine)?;
            if let Operation::Claim(call, _) = operation {
                served.count(call);
            }
            self.park_if_empty(operation);
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

    /// Releases what callers who had gone were given by the last batch.
    fn give_back_last(&mut self) -> Result<(), String> {
        if self.given_back.is_empty() {
            return Ok(());
        }
        let (call, _) = Call::new(released(&std::mem::take(&mut self.given_back)));
        self.commit(&mut vec![Operation::Finish(call)])
    }

    /// The same once more without its creates, after the reserve was given up.
    fn attempt_from_reserve(
        &mut self,
        batch: &mut [Operation],
        served: &mut Served,
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
                self.refuse(batch, &StoreError::DiskFull);
                Ok(())
            }
            Err(Failure::Busy) => {
                self.refuse(batch, &StoreError::Busy);
                Ok(())
            }
            Err(Failure::Fatal(reason)) => Err(reason),
            Err(Failure::Refused(error)) => Err(error.to_string()),
        }
    }

    /// Refuses a batch as a whole, of which nothing was changed.
    fn refuse(&mut self, batch: &mut [Operation], error: &StoreError) {
        self.was_refused = true;
        self.metrics.store_error();
        if batch.iter().any(|operation| matches!(operation, Operation::Backup(_))) {
            self.engine.end_backup(); // it cannot ask for its end if that is refused as well
        }
        batch.iter_mut().for_each(|operation| operation.refuse(error.clone()));
    }

    /// Gives jobs that became ready to the claims that wait for them, the longest first, as many
    /// as one transaction should touch.
    fn serve_parked(&mut self, served: &mut Served) -> Result<(), Failure> {
        let ready = self.engine.take_ready();
        self.served_all = true;
        let Some(parked) = &mut self.parked else { return Ok(()) };
        for queue in ready {
            loop {
                if served.is_too_much() {
                    self.engine.note_ready(&queue);
                    self.served_all = false;
                    break;
                }
                let Some((number, mut call)) = parked.next(&queue) else { break };
                if let Err(failure) = call.apply(|claim| self.engine.claim(claim)) {
                    parked.put_back(number, call);
                    return Err(failure);
                }
                if matches!(&call.answer, Some(Ok(claimed)) if claimed.jobs.is_empty()) {
                    parked.put_back(number, call);
                    break;
                }
                served.count(&call);
                served.calls.push((number, call));
            }
        }
        Ok(())
    }

    /// Lets the claims wait on that a batch has served which is undone now.
    fn put_back(&mut self, served: &mut Served) {
        let undone = std::mem::take(served);
        if let Some(parked) = &mut self.parked {
            for (number, mut call) in undone.calls.into_iter().rev() {
                call.answer = None;
                parked.put_back(number, call);
            }
        }
    }

    /// Lets a claim wait that has found nothing, at once, so that the next operation of the batch
    /// can already give it a job. If the batch fails it waits all the same: it has changed nothing.
    fn park_if_empty(&mut self, operation: &mut Operation) {
        let found_nothing = matches!(
            operation,
            Operation::Claim(Call { answer: Some(Ok(claimed)), .. }, true) if claimed.jobs.is_empty()
        );
        if let Some(parked) = &mut self.parked
            && found_nothing
            && let Operation::Claim(mut call, _) = std::mem::replace(operation, Operation::Parked)
        {
            call.answer = None;
            parked.park(call);
        }
    }

    fn stop_waiting(&mut self, served: &mut Served) {
        let Some(parked) = self.parked.take() else { return };
        for (number, mut call) in parked.into_calls() {
            call.answer = Some(Ok(Claimed::default()));
            served.calls.push((number, call));
        }
    }

    fn close(self, close: Vec<Operation>) {
        let Self { engine, operations, parked, held_over, .. } = self;
        drop(parked);
        let closed = engine.close();
        let mut none = Vec::new();
        operations.end(End::Closed, close.into_iter().chain(held_over), |mut operation| {
            operation.refuse(StoreError::Stopped("it is closed".into()));
            if let Operation::Close(call) = &mut operation {
                call.answer = Some(closed.clone().map_err(StoreError::Stopped));
            }
            operation.deliver(&mut none);
        });
    }

    /// Fail-stop: every caller learns that its change may be lost, and nothing is published.
    fn fail(self, reason: &str, batch: impl Iterator<Item = Operation>) {
        error!(event = "store_failed", reason, "the store has failed and stops");
        self.metrics.store_error();
        let Self { operations, parked, held_over, mut given_back, .. } = self;
        let parked = parked.into_iter().flat_map(Parked::into_calls);
        let parked = parked.map(|(_, call)| Operation::Claim(call, true));
        let left = batch.chain(held_over).chain(parked);
        operations.end(End::Failed(reason.to_owned()), left, |mut operation| {
            operation.refuse(StoreError::Stopped(reason.to_owned()));
            operation.deliver(&mut given_back);
        });
    }
}

fn released(leases: &[Lease]) -> Vec<Finish> {
    let outcome = Outcome::Released { retry_in: Duration::ZERO };
    leases
        .iter()
        .map(|lease| Finish { lease: *lease, outcome, result: None, error: None })
        .collect()
}

#[cfg(test)]
mod tests;
