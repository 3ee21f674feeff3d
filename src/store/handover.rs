//! How callers and the writer meet: questions go over a bounded channel, each has one answer, and
//! when the writer ends nobody is left waiting.
//!
//! `interleavings` compiles this file once more, with channels on the primitives of loom.

use super::sync::{mpsc, oneshot, watch};
use crate::store::StoreError;

/// Where an answer comes.
pub(super) type Answer<R> = oneshot::Receiver<Result<R, StoreError>>;

/// What a caller asks, what it will be told, and where to.
pub(super) struct Call<A, R> {
    pub(super) ask: A,
    pub(super) answer: Option<Result<R, StoreError>>,
    reply: oneshot::Sender<Result<R, StoreError>>,
}

impl<A, R> Call<A, R> {
    pub(super) fn new(ask: A) -> (Self, Answer<R>) {
        let (reply, receiver) = oneshot::channel();
        (Self { ask, answer: None, reply }, receiver)
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    pub(super) fn refuse(&mut self, error: StoreError) {
        self.answer = Some(Err(error));
    }

    /// Sends the answer; gives it back if nobody waits for it.
    pub(super) fn deliver(self) -> Option<R> {
        let answer = self.answer.expect("every operation of a batch was applied or refused");
        self.reply.send(answer).err().and_then(Result::ok)
    }
}

/// An answer under way that must not be lost: what is answered to a caller who has gone is given
/// back.
pub(super) struct Pending<R, G: FnMut(R)> {
    pub(super) answer: Answer<R>,
    give_back: G,
}

impl<R, G: FnMut(R)> Pending<R, G> {
    pub(super) fn new(answer: Answer<R>, give_back: G) -> Self {
        Self { answer, give_back }
    }

    /// Waits no longer: what has been answered by now, if anything.
    pub(super) fn end_wait(&mut self) -> Option<Result<R, StoreError>> {
        // Nothing can be sent once it is closed; what was sent before is taken.
        self.answer.close();
        self.answer.try_recv().ok()
    }
}

impl<R, G: FnMut(R)> Drop for Pending<R, G> {
    fn drop(&mut self) {
        if let Some(Ok(answer)) = self.end_wait() {
            (self.give_back)(answer);
        }
    }
}

/// How the store has ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    Closed,
    Failed(String),
}

/// What is known when the writer is gone without having said why.
pub(super) const PANICKED: &str = "its writer has ended unexpectedly";

/// The callers' end; clones share it.
pub(super) struct Callers<O> {
    pub(super) operations: mpsc::Sender<O>,
    pub(super) end: watch::Receiver<Option<End>>,
}

impl<O> Clone for Callers<O> {
    fn clone(&self) -> Self {
        Self { operations: self.operations.clone(), end: self.end.clone() }
    }
}

/// The writer's end.
pub(super) struct Operations<O> {
    pub(super) receiver: mpsc::Receiver<O>,
    pub(super) end: watch::Sender<Option<End>>,
}

/// Both ends; at most so many operations wait.
pub(super) fn channel<O>(most: usize) -> (Callers<O>, Operations<O>) {
    let (operations, receiver) = mpsc::channel(most);
    let (end_sender, end) = watch::channel(None);
    (Callers { operations, end }, Operations { receiver, end: end_sender })
}

impl<O> Callers<O> {
    /// Hands over a question and waits for its answer.
    pub(super) async fn call<A, R>(
        &self,
        ask: A,
        operation: impl FnOnce(Call<A, R>) -> O,
    ) -> Result<R, StoreError> {
        let (call, answer) = Call::new(ask);
        self.send(operation(call)).await?;
        answer.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    pub(super) async fn send(&self, operation: O) -> Result<(), StoreError> {
        self.operations.send(operation).await.map_err(|_| self.stopped())
    }

    /// Why nothing can be stored any more.
    pub(super) fn stopped(&self) -> StoreError {
        StoreError::Stopped(self.failure().unwrap_or_else(|| "it is closed".into()))
    }

    /// Why nothing can be stored any more, if the store has failed.
    pub(super) fn failure(&self) -> Option<String> {
        match &*self.end.borrow() {
            Some(End::Failed(reason)) => Some(reason.clone()),
            Some(End::Closed) => None,
            None => self.end.has_changed().is_err().then(|| PANICKED.to_owned()),
        }
    }
}

impl<O> Operations<O> {
    /// Waits for an operation; none when nobody can send any more.
    pub(super) fn wait(&mut self) -> Option<O> {
        self.receiver.blocking_recv()
    }

    /// Takes an operation that is there already.
    pub(super) fn take(&mut self) -> Option<O> {
        self.receiver.try_recv().ok()
    }

    /// Takes no more: says why, and hands what is `left` and what still comes to `refuse`, so that each
    /// caller is told.
    pub(super) fn end(mut self, end: End, left: impl Iterator<Item = O>, refuse: impl FnMut(O)) {
        // Before the callers are told, so that the daemon is on its way out when they are.
        self.end.send_replace(Some(end));
        self.receiver.close();
        // A caller may have its place in the channel and be about to use it: only waiting finds what
        // it hands over.
        left.chain(std::iter::from_fn(|| self.receiver.blocking_recv())).for_each(refuse);
    }
}
