//! Changes that were decided on a job as it is not any more: the guards in the statements
//! themselves let none of them through, whatever was checked before.

use std::time::Duration;

use super::rows::Core;
use super::tests::Traced;
use super::*;
use crate::job::{self, Event, Outcome, State as JobState};
use crate::store::{Action, Start};

fn core(traced: &Traced, id: JobId) -> Core {
    traced.engine.find(id).expect("read").expect("it is there")
}

/// A running job as its first attempt knew it, which now is running for the second time.
fn outdated() -> (Traced, Core) {
    let mut traced = Traced::new();
    let id = traced.create(None, Start::Now);
    let first = traced.claim(false);
    let outdated = core(&traced, id);
    traced.finish(first, Outcome::Released { retry_in: Duration::ZERO });
    traced.claim(false);
    (traced, outdated)
}

/// F1: a sweeper that updates by id revives what has ended.
#[test]
fn what_has_ended_is_not_promoted_by_a_sweep_that_saw_it_wait() {
    let mut traced = Traced::new();
    let id = traced.create(None, Start::After(Duration::from_secs(1)));
    let waiting = core(&traced, id);
    traced.commit(|engine| engine.act(id, Action::Cancel)).expect("cancelled");
    let now = traced.engine.clock.now();
    let facts = waiting.facts(traced.engine.config.policy("q"));
    let promoted = job::apply(&facts, Event::Promote, now, Duration::ZERO).expect("it waited");
    let changed = traced.commit(|engine| engine.change(&waiting, &promoted, now));
    assert!(!changed.expect("refused without an error"), "it was revived");
    assert_eq!(core(&traced, id).state, JobState::Cancelled);
}

/// F1: nor does an expiry end an attempt that has begun since.
#[test]
fn the_expiry_of_an_earlier_lease_does_not_end_a_later_attempt() {
    let (mut traced, outdated) = outdated();
    let expired = Outcome::LeaseExpired;
    let ended = traced.commit(|engine| engine.end_attempt(&outdated, expired, "too late"));
    assert!(!ended.expect("refused without an error"), "the later attempt was ended");
    let now = core(&traced, outdated.id);
    assert_eq!((now.state, now.attempt, now.failures), (JobState::Running, 2, 0));
}

#[test]
fn an_earlier_lease_does_not_lengthen_a_later_one() {
    let (mut traced, outdated) = outdated();
    let before = core(&traced, outdated.id).lease_tick;
    let hour = Duration::from_secs(3_600);
    let renewed = traced.commit(|engine| engine.extend(&outdated, hour));
    assert!(!renewed.expect("refused without an error"), "the later lease was renewed");
    assert_eq!(core(&traced, outdated.id).lease_tick, before);
}
