//! The orders in which callers and the writer can meet, tried by loom: who goes away, and a writer
//! that fails or is closed, included.
//!
//! With two threads these are all orders; with three, all in which a thread that could go on stands
//! back for another at most [`TURNS`] times.

mod channels;
#[expect(clippy::duplicate_mod, reason = "with other channels")]
#[expect(dead_code, reason = "the operations of the store use more of it")]
#[path = "handover.rs"]
mod handover;

mod sync {
    pub(super) use super::channels::{mpsc, oneshot, watch};
}

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use loom::thread;

use self::channels::block_on;
use self::handover::{Call, Callers, End, Operations, Pending};
use super::StoreError;

/// What the writer is asked here: to lease a job, which is a number, or to take it back.
enum Operation {
    Claim(Call<(), usize>),
    GiveBack(usize),
}

/// What is on disk and published: which jobs were leased, and which were given back. Only the writer
/// changes it, so that its lock needs no watching.
#[derive(Clone, Default)]
struct Stored(Arc<Mutex<(usize, Vec<usize>)>>);

impl Stored {
    fn lease(&self) -> usize {
        let mut stored = self.0.lock().unwrap();
        stored.0 += 1;
        stored.0
    }

    fn take_back(&self, leases: impl IntoIterator<Item = usize>) {
        self.0.lock().unwrap().1.extend(leases);
    }
}

/// How many batches the writer commits before it ends, and how it does.
type Ends = Option<(usize, fn(Operations<Operation>, Vec<Operation>))>;

/// The writer: gathers, commits, answers, until it ends, or nobody is left.
fn write(mut operations: Operations<Operation>, stored: &Stored, ends: Ends) {
    let mut batches = 0;
    while let Some(first) = operations.wait() {
        let mut batch = vec![first];
        batch.extend(std::iter::from_fn(|| operations.take()));
        if let Some((after, end)) = ends
            && batches == after
        {
            return end(operations, batch);
        }
        batches += 1;
        for operation in &mut batch {
            match operation {
                Operation::Claim(call) => call.answer = Some(Ok(stored.lease())),
                Operation::GiveBack(lease) => stored.take_back([*lease]),
            }
        }
        for operation in batch {
            if let Operation::Claim(call) = operation {
                stored.take_back(call.deliver());
            }
        }
    }
}

const REASON: &str = "the disk is gone";

fn refuse(operation: Operation) {
    if let Operation::Claim(mut call) = operation {
        call.refuse(StoreError::Stopped(REASON.into()));
        assert_eq!(call.deliver(), None, "there was nothing to give back");
    }
}

fn fail(operations: Operations<Operation>, batch: Vec<Operation>) {
    operations.end(End::Failed(REASON.into()), batch.into_iter(), refuse);
}

fn close(operations: Operations<Operation>, batch: Vec<Operation>) {
    operations.end(End::Closed, batch.into_iter(), refuse);
}

/// Claims and waits for the answer.
fn claim(callers: &Callers<Operation>) -> Result<usize, StoreError> {
    block_on(callers.call((), Operation::Claim))
}

/// Claims, and goes away at any time after it was handed over; tells what it was answered by then.
fn claim_and_go(callers: &Callers<Operation>) -> Option<usize> {
    let (call, answer) = Call::new(());
    // As in the store, what it cannot take goes back through the channel.
    let give_back = |lease| callers.operations.try_send(Operation::GiveBack(lease));
    let mut pending = Pending::new(answer, give_back);
    block_on(callers.send(Operation::Claim(call))).ok()?;
    let mut answer = pin!(&mut pending.answer);
    let looked = block_on(poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))));
    match looked {
        Poll::Ready(answer) => answer.ok()?.ok(),
        Poll::Pending => None,
    }
}

/// Every lease was given out to somebody who has it, or was given back once.
fn check_leases(stored: &Stored, mut held: Vec<usize>) {
    let (leased, given_back) = &*stored.0.lock().unwrap();
    held.extend(given_back);
    held.sort_unstable();
    assert_eq!(held, Vec::from_iter(1..=*leased), "leases that are held, or were given back");
}

const TURNS: usize = 2;

/// Two threads and no bound, or three.
fn in_every_order(threads: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = (threads > 2).then_some(TURNS);
    model.check(check);
}

/// One goes away, by `go`, at any time, beside another, if there is one, who waits for its answer.
fn who_goes_away(threads: usize, go: fn(&Callers<Operation>) -> Option<usize>) {
    in_every_order(threads, move || {
        let (callers, operations) = handover::channel(2);
        let (callers, stored) = (Arc::new(callers), Stored::default());
        let waits = (threads > 2).then(|| {
            let callers = callers.clone();
            thread::spawn(move || claim(&callers).expect("it is answered"))
        });
        let goes = thread::spawn(move || go(&callers));
        write(operations, &stored, None);
        let mut held: Vec<_> = goes.join().unwrap().into_iter().collect();
        held.extend(waits.map(|waits| waits.join().unwrap()));
        check_leases(&stored, held);
    });
}

#[test]
fn the_lease_of_a_caller_who_goes_away_is_given_back_once() {
    who_goes_away(2, claim_and_go);
    who_goes_away(3, claim_and_go);
}

/// The controls: a caller who only goes, and one who looks before it closes, keep a lease.
#[test]
#[should_panic(expected = "leases that are held")]
fn a_caller_who_gives_nothing_back_is_seen() {
    who_goes_away(2, |callers| {
        let (call, answer) = Call::new(());
        block_on(callers.send(Operation::Claim(call))).ok()?;
        drop(answer);
        None
    });
}

#[test]
#[should_panic(expected = "leases that are held")]
fn a_caller_who_looks_before_it_closes_is_seen() {
    who_goes_away(2, |callers| {
        let (call, mut answer) = Call::new(());
        block_on(callers.send(Operation::Claim(call))).ok()?;
        let answered = answer.try_recv();
        answer.close();
        answered.ok()?.ok()
    });
}

/// Claims so often, and checks each answer: once the store has ended there is nothing but errors, and
/// whoever is told that it has failed can see that it has.
fn claim_until_ended(callers: &Callers<Operation>, times: usize, has_failed: bool) -> Vec<usize> {
    let mut held = Vec::new();
    let mut is_ended = false;
    for _ in 0..times {
        match claim(callers) {
            Ok(lease) => {
                assert!(!is_ended, "acknowledged after the end");
                held.push(lease);
            }
            Err(error) => {
                is_ended = true;
                let failure = callers.failure();
                assert_eq!(failure.is_some(), has_failed, "told before it is known: {error:?}");
            }
        }
    }
    held
}

/// The writer ends by `end` when it has gathered a first batch, or a second, while one claims twice, or
/// two once. There is room for one operation, so that one of two may wait for it.
fn the_writer_ends(
    threads: usize,
    has_failed: bool,
    end: fn(Operations<Operation>, Vec<Operation>),
) {
    for batches in 0..2 {
        in_every_order(threads, move || {
            let (callers, operations) = handover::channel(1);
            let (callers, stored) = (Arc::new(callers), Stored::default());
            let claimer = |_| {
                let (callers, times) = (callers.clone(), if threads > 2 { 1 } else { 2 });
                thread::spawn(move || claim_until_ended(&callers, times, has_failed))
            };
            let claimers: Vec<_> = (1..threads).map(claimer).collect();
            drop(callers);
            write(operations, &stored, Some((batches, end)));
            let held = claimers.into_iter().flat_map(|claimer| claimer.join().unwrap());
            check_leases(&stored, held.collect());
        });
    }
}

#[test]
fn everybody_is_told_when_the_writer_fails_and_nothing_is_acknowledged_then() {
    the_writer_ends(2, true, fail);
    the_writer_ends(3, true, fail);
}

#[test]
fn everybody_is_told_when_the_store_is_closed() {
    the_writer_ends(2, false, close);
    the_writer_ends(3, false, close);
}

/// The controls: a writer that only takes what is there leaves somebody waiting for ever, one that
/// tells its callers first is not known to have failed, and one that answers first has nothing stored.
#[test]
#[should_panic(expected = "deadlock")]
fn a_writer_that_does_not_wait_for_those_about_to_send_is_seen() {
    the_writer_ends(3, true, |mut operations, batch| {
        operations.end.send_replace(Some(End::Failed(REASON.into())));
        operations.receiver.close();
        let late = std::iter::from_fn(|| operations.receiver.try_recv().ok());
        batch.into_iter().chain(late).for_each(refuse);
    });
}

#[test]
#[should_panic(expected = "told before it is known")]
fn a_writer_that_tells_before_it_says_that_it_has_failed_is_seen() {
    the_writer_ends(2, true, |operations, batch| {
        batch.into_iter().for_each(refuse);
        fail(operations, Vec::new());
    });
}

#[test]
#[should_panic(expected = "leases that are held")]
fn a_writer_that_answers_before_it_has_stored_is_seen() {
    the_writer_ends(2, true, |operations, batch| {
        for operation in batch {
            if let Operation::Claim(mut call) = operation {
                call.answer = Some(Ok(1));
                call.deliver();
            }
        }
        fail(operations, Vec::new());
    });
}

/// What the model rests on, of tokio's own channel: who has a place when it is closed may still use
/// it, taking what is there misses that, and waiting does not.
#[test]
fn a_place_in_the_channel_outlives_its_close() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let place = sender.try_reserve().expect("there is one");
    receiver.close();
    assert!(receiver.try_recv().is_err(), "nothing is there yet");
    place.send(1);
    assert_eq!((receiver.blocking_recv(), receiver.blocking_recv()), (Some(1), None));
}
