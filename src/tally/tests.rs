//! Every path of eight steps keeps the identities; rows are bounded; recounts follow.

use std::time::Duration;

use super::*;
use crate::job::{self, Event, Facts, Outcome};

const ZERO: Duration = Duration::ZERO;

/// Every event that can happen to a job, with every outcome of an attempt.
pub(crate) fn every_event() -> Vec<Event> {
    let outcomes = [
        Outcome::Completed,
        Outcome::Failed { permanent: false, retry_in: ZERO },
        Outcome::Failed { permanent: true, retry_in: ZERO },
        Outcome::TimedOut,
        Outcome::LeaseExpired,
        Outcome::CutOff,
        Outcome::Released { retry_in: ZERO },
        Outcome::Released { retry_in: Duration::from_secs(9) },
    ];
    let others =
        [Event::Promote, Event::Claim, Event::Cancel, Event::Requeue, Event::Discard, Event::Prune];
    outcomes.map(Event::End).into_iter().chain(others).collect()
}

#[test]
fn counts_are_numbered_in_the_order_of_their_list() {
    for (index, (count, _)) in Count::ALL.iter().enumerate() {
        assert_eq!(*count as usize, index);
    }
    for (index, state) in State::ALL.iter().enumerate() {
        assert_eq!(*state as usize, index);
    }
}

/// From every state by every event, to a depth of eight: the identities hold at each step.
#[test]
fn identities_hold_along_every_path() {
    fn walk(facts: Facts, counts: Counts, queue: QueueCounts, depth: u32, seen: &mut usize) {
        counts.check().expect("the identities hold");
        assert_eq!(queue.stored(facts.state), 1);
        assert_eq!(counts.stored(facts.state), 1);
        if depth == 0 {
            return;
        }
        for event in every_event() {
            let Ok(change) = job::apply(&facts, event, Timestamp(5), ZERO) else { continue };
            *seen += 1;
            let (mut counts, mut queue) = (counts, queue);
            counts.record(&change);
            queue.record(&change);
            match change.to {
                None => {
                    counts.check().expect("the identities hold when the job is gone");
                    assert_eq!(queue, QueueCounts::default());
                }
                Some(state) => {
                    let facts = Facts { state, failures: change.failures, ..facts };
                    walk(facts, counts, queue, depth - 1, seen);
                }
            }
        }
    }
    let mut seen = 0;
    for state in [State::Ready, State::Scheduled] {
        let (mut counts, mut queue) = (Counts::default(), QueueCounts::default());
        counts.record_created(state);
        queue.record_created(state);
        let facts = Facts { state, run_at: Timestamp(0), failures: 0, max_attempts: 3 };
        walk(facts, counts, queue, 8, &mut seen);
    }
    assert!(seen > 1_000, "only {seen} steps were taken");
}

#[test]
fn each_broken_identity_is_named() {
    let mut counts = Counts::default();
    counts.record_created(State::Ready);
    for (count, identity) in [
        (Count::Created, "I1"),
        (Count::Discarded, "I1"),
        (Count::Started, "I2"),
        (Count::EndedReleased, "I2"),
        (Count::Retried, "I3"),
    ] {
        let mut wrong = counts;
        wrong[count] += 1;
        let error = wrong.check().expect_err("one number is wrong");
        assert!(error.identity.starts_with(identity), "{error}");
    }
}

#[test]
fn pairs_beyond_the_limit_share_a_row() {
    let mut ledger = Ledger::default();
    let first = ledger.choose("a", "x", 2);
    let second = ledger.choose("a", "y", 2);
    let other_kind = ledger.choose("a", "z", 2);
    let other_queue = ledger.choose("b", "x", 2);
    assert_eq!(ledger.choose("a", "w", 2), other_kind);
    assert_eq!(ledger.choose("c", "x", 2), other_queue);
    assert_eq!(ledger.choose("a", "y", 0), second, "a pair keeps its row under a smaller limit");
    let labels = |id| ledger.get(id).map(|row| (&*row.queue, &*row.kind));
    assert_eq!(labels(first), Some(("a", "x")));
    assert_eq!(labels(other_kind), Some(("a", OTHER)));
    assert_eq!(labels(other_queue), Some((OTHER, OTHER)));
    assert_eq!(ledger.own(), 2);
}

#[test]
fn a_removed_row_frees_its_place() {
    let mut ledger = Ledger::default();
    let first = ledger.choose("a", "x", 1);
    ledger.remove(first);
    assert_eq!(ledger.own(), 0);
    assert_eq!(ledger.rows_of("a"), vec![]);
    let second = ledger.choose("b", "y", 1);
    assert!(ledger.get(second).is_some_and(Row::is_own));
    assert_ne!(first, second, "numbers are not used again");
}

#[test]
fn pairs_whose_names_run_together_alike_are_kept_apart() {
    let mut ledger = Ledger::default();
    assert_ne!(ledger.choose("a", "bc", 9), ledger.choose("ab", "c", 9));
}

#[test]
fn a_recount_follows_what_changes_behind_its_cursor() {
    let mut ledger = Ledger::default();
    let row = ledger.choose("a", "x", 9);
    let mut recount = Recount::default();
    let mut queue = QueueCounts::default();
    let place = (row, 7);
    let counts = &mut ledger.get_mut(row).expect("just made").counts;
    for _ in 1..=3 {
        counts.record_created(State::Ready);
        queue.record_created(State::Ready);
    }
    recount.visit(1, place, State::Ready);
    recount.visit(2, place, State::Ready);
    let facts = Facts { state: State::Ready, run_at: Timestamp(0), failures: 0, max_attempts: 1 };
    let change = job::apply(&facts, Event::Claim, Timestamp(0), ZERO).expect("ready");
    counts.record(&change);
    queue.record(&change);
    recount.follow(1, place, Some(State::Ready), Some(State::Running)); // behind
    counts.record(&change);
    queue.record(&change);
    recount.follow(3, place, Some(State::Ready), Some(State::Running)); // ahead: visited as it is now
    recount.visit(3, place, State::Running);
    assert_eq!(recount.mismatch(&ledger, [(7, &queue)].into_iter()), 0);
    assert_eq!(recount.mismatch(&ledger, [].into_iter()), 3, "a queue that is missing is noticed");
    queue.stored[State::Dead as usize] += 1;
    let counted = || [(7, &queue)].into_iter();
    assert_eq!(recount.mismatch(&ledger, counted()), 1, "one too many in a queue is noticed");
    recount.visit(4, place, State::Dead);
    assert_eq!(recount.mismatch(&ledger, counted()), 1, "a job that nobody counted is noticed");
}
