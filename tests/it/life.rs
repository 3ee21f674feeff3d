//! The life of a job: every state by every event, against the table of the design.

use std::time::Duration;

use tallyd::clock::Timestamp;
use tallyd::job::{
    self, AttemptResult, Event, Facts, InvalidTransition, Mark, Outcome, State, apply,
};

const NOW: Timestamp = Timestamp(1_000_000);
const RUN_AT: Timestamp = Timestamp(900_000);
const BACKOFF: Duration = Duration::from_secs(5);
const ZERO: Duration = Duration::ZERO;

/// The events of the table's columns.
const EVENTS: [(&str, Event); 14] = [
    ("promote", Event::Promote),
    ("claim", Event::Claim),
    ("completed", Event::End(Outcome::Completed)),
    ("failed", Event::End(Outcome::Failed { permanent: false, retry_in: ZERO })),
    ("permanent", Event::End(Outcome::Failed { permanent: true, retry_in: ZERO })),
    ("timed out", Event::End(Outcome::TimedOut)),
    ("expired", Event::End(Outcome::LeaseExpired)),
    ("cut off", Event::End(Outcome::CutOff)),
    ("released", Event::End(Outcome::Released { retry_in: ZERO })),
    ("released for 9 s", Event::End(Outcome::Released { retry_in: Duration::from_secs(9) })),
    ("cancel", Event::Cancel),
    ("requeue", Event::Requeue),
    ("discard", Event::Discard),
    ("prune", Event::Prune),
];

/// Where each event leads; `-` where it cannot happen, `gone` where the job is removed.
#[rustfmt::skip]
const TABLE: [(State, [&str; 14]); 7] = [
    //                   promote  claim      completed    failed      permanent timed out   expired  cut off     released rel. for 9 s cancel       requeue  discard prune
    (State::Scheduled, ["ready", "-",       "-",         "-",        "-",    "-",        "-",     "-",        "-",     "-",         "cancelled", "-",     "-",    "-"]),
    (State::Ready,     ["-",     "running", "-",         "-",        "-",    "-",        "-",     "-",        "-",     "-",         "cancelled", "-",     "-",    "-"]),
    (State::Retrying,  ["ready", "-",       "-",         "-",        "-",    "-",        "-",     "-",        "-",     "-",         "cancelled", "-",     "-",    "-"]),
    (State::Running,   ["-",     "-",       "completed", "retrying", "dead", "retrying", "ready", "retrying", "ready", "scheduled", "cancelled", "-",     "-",    "-"]),
    (State::Completed, ["-",     "-",       "-",         "-",        "-",    "-",        "-",     "-",        "-",     "-",         "-",         "-",     "-",    "gone"]),
    (State::Cancelled, ["-",     "-",       "-",         "-",        "-",    "-",        "-",     "-",        "-",     "-",         "-",         "-",     "-",    "gone"]),
    (State::Dead,      ["-",     "-",       "-",         "-",        "-",    "-",        "-",     "-",        "-",     "-",         "-",         "ready", "gone", "gone"]),
];

type Effect = (State, &'static str, i64, u32, Option<AttemptResult>, Option<Mark>);

/// What else changes, for a job with one failure: run_at, failures, how the attempt ended, the mark.
#[rustfmt::skip]
const EFFECTS: [Effect; 23] = {
    use AttemptResult as R;
    use State as S;
    const WAS: i64 = RUN_AT.0;
    const AT: i64 = NOW.0;
    [
        (S::Scheduled, "promote",          WAS,        1, None,                   None),
        (S::Retrying,  "promote",          WAS,        1, None,                   None),
        (S::Ready,     "claim",            WAS,        1, None,                   None),
        (S::Running,   "completed",        WAS,        1, Some(R::Completed),     None),
        (S::Running,   "failed",           AT + 5_000, 2, Some(R::Failed),        Some(Mark::Retried)),
        (S::Running,   "permanent",        WAS,        2, Some(R::Failed),        Some(Mark::Died)),
        (S::Running,   "timed out",        AT + 5_000, 2, Some(R::TimedOut),      Some(Mark::Retried)),
        (S::Running,   "expired",          AT,         2, Some(R::LeaseExpired),  Some(Mark::Retried)),
        (S::Running,   "cut off",          AT + 5_000, 2, Some(R::LeaseExpired),  Some(Mark::Retried)),
        (S::Running,   "released",         AT,         1, Some(R::Released),      None),
        (S::Running,   "released for 9 s", AT + 9_000, 1, Some(R::Released),      None),
        (S::Scheduled, "cancel",           WAS,        1, None,                   None),
        (S::Ready,     "cancel",           WAS,        1, None,                   None),
        (S::Retrying,  "cancel",           WAS,        1, None,                   None),
        (S::Running,   "cancel",           WAS,        1, Some(R::Cancelled),     None),
        (S::Dead,      "requeue",          AT,         0, None,                   Some(Mark::Requeued)),
        (S::Dead,      "discard",          WAS,        1, None,                   Some(Mark::Discarded)),
        (S::Dead,      "prune",            WAS,        1, None,                   Some(Mark::Discarded)),
        (S::Completed, "prune",            WAS,        1, None,                   Some(Mark::Pruned)),
        (S::Cancelled, "prune",            WAS,        1, None,                   Some(Mark::Pruned)),
        // The same with the last try: see `without_a_try_left`.
        (S::Running,   "failed at last",   WAS,        2, Some(R::Failed),        Some(Mark::Died)),
        (S::Running,   "timed out at last", WAS,       2, Some(R::TimedOut),      Some(Mark::Died)),
        (S::Running,   "expired at last",  WAS,        2, Some(R::LeaseExpired),  Some(Mark::Died)),
    ]
};

fn job_in(state: State, max_attempts: u32) -> Facts {
    Facts { state, run_at: RUN_AT, failures: 1, max_attempts }
}

fn event_named(name: &str) -> Event {
    EVENTS.into_iter().find(|(known, _)| *known == name).expect("a column of the table").1
}

#[test]
fn every_state_by_every_event_is_as_the_table_says() {
    let states: Vec<State> = TABLE.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, State::ALL);
    for (state, row) in TABLE {
        for ((name, event), wanted) in EVENTS.into_iter().zip(row) {
            let found = match apply(&job_in(state, 3), event, NOW, BACKOFF) {
                Err(error) => {
                    assert_eq!(error, InvalidTransition { state, event });
                    "-"
                }
                Ok(change) => {
                    assert_eq!(change.from, state);
                    change.to.map_or("gone", State::name)
                }
            };
            assert_eq!(found, wanted, "{state:?} by {name}");
        }
    }
}

#[test]
fn every_allowed_event_has_the_effects_of_the_list() {
    let allowed = TABLE.iter().flat_map(|(_, row)| row).filter(|cell| **cell != "-").count();
    let listed = EFFECTS.iter().filter(|effect| !effect.1.ends_with("at last")).count();
    assert_eq!(allowed, listed, "the list leaves none out");
    for (state, name, run_at, failures, ended, mark) in EFFECTS {
        let (event, max_attempts) = match name.strip_suffix(" at last") {
            Some(event) => (event_named(event), 2),
            None => (event_named(name), 3),
        };
        let change = apply(&job_in(state, max_attempts), event, NOW, BACKOFF).expect("allowed");
        assert_eq!(change.run_at, Timestamp(run_at), "run_at of {state:?} by {name}");
        assert_eq!(change.failures, failures, "failures of {state:?} by {name}");
        assert_eq!(change.ended, ended, "the end of the attempt, {state:?} by {name}");
        assert_eq!(change.mark, mark, "the mark of {state:?} by {name}");
    }
}

#[test]
fn without_a_try_left_every_failure_is_death_and_nothing_else_is() {
    for (name, event) in EVENTS {
        let Event::End(outcome) = event else { continue };
        let last = apply(&job_in(State::Running, 2), event, NOW, BACKOFF).expect("running");
        let uses_up_a_try = !matches!(outcome, Outcome::Completed | Outcome::Released { .. });
        assert_eq!(last.to == Some(State::Dead), uses_up_a_try, "{name}");
        assert_eq!(last.failures, if uses_up_a_try { 2 } else { 1 }, "{name}");
    }
}

#[test]
fn a_job_with_more_failures_than_tries_dies_at_its_next() {
    // The queue's max_attempts was lowered while the job waited.
    let job = Facts { failures: 9, ..job_in(State::Running, 3) };
    let change = apply(&job, event_named("timed out"), NOW, BACKOFF).expect("running");
    assert_eq!((change.to, change.failures), (Some(State::Dead), 10));
}

#[test]
fn a_wish_to_wait_is_a_lower_bound_on_the_backoff() {
    let failed = |seconds| {
        let retry_in = Duration::from_secs(seconds);
        let event = Event::End(Outcome::Failed { permanent: false, retry_in });
        apply(&job_in(State::Running, 3), event, NOW, BACKOFF).expect("running").run_at
    };
    assert_eq!(failed(4), NOW.after(BACKOFF));
    assert_eq!(failed(6), NOW.after(Duration::from_secs(6)));
}

#[test]
fn a_start_in_the_past_is_now() {
    let created = |at: Option<i64>| job::created(at.map(Timestamp), NOW);
    assert_eq!(created(None), (State::Ready, NOW));
    assert_eq!(created(Some(NOW.0 - 1)), (State::Ready, NOW));
    assert_eq!(created(Some(NOW.0)), (State::Ready, NOW));
    assert_eq!(created(Some(NOW.0 + 1)), (State::Scheduled, Timestamp(NOW.0 + 1)));
}

#[test]
fn a_refusal_says_what_cannot_be_done() {
    let refusals = [
        (State::Completed, Event::Requeue, "a completed job cannot be requeued"),
        (State::Dead, Event::Cancel, "a dead job cannot be cancelled"),
        (State::Running, Event::Discard, "a running job cannot be discarded"),
        (State::Running, Event::Promote, "a running job cannot be promoted"),
        (State::Scheduled, Event::Claim, "a scheduled job cannot be claimed"),
        (State::Ready, Event::End(Outcome::Completed), "a ready job cannot be finished"),
        (State::Ready, Event::Prune, "a ready job cannot be pruned"),
    ];
    for (state, event, message) in refusals {
        let error = apply(&job_in(state, 3), event, NOW, BACKOFF).expect_err("not allowed");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn names_are_read_back() {
    for state in State::ALL {
        assert_eq!(State::named(state.name()), Some(state));
    }
    for result in AttemptResult::ALL {
        assert_eq!(AttemptResult::named(result.name()), Some(result));
    }
    assert_eq!(State::named("__other__"), None);
    assert_eq!(AttemptResult::named("cut_off"), None);
}
