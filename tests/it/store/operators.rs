//! What operators do: cancel, requeue, discard, one job or many.

use tallyd::job::{Event, InvalidTransition, State};
use tallyd::store::{Action, Bulk, BulkDone, JobId, NewJob, StoreError};
use tallyd::tally::Count;

use crate::bed::{Bed, FAILED_FOR_GOOD, claim, job, later};

fn bulk(action: Action) -> Bulk {
    Bulk { queue: "a".to_owned(), action, kind: None, before: None, limit: 10_000, from: None }
}

/// One job of queue `a` in each state.
async fn one_in_each_state(bed: &Bed) -> Vec<(State, JobId)> {
    let mut ids = Vec::new();
    for state in [State::Completed, State::Dead, State::Cancelled, State::Retrying, State::Running]
    {
        let id = bed.create(job("a", "k")).await.id;
        ids.push((state, id));
        let lease = bed.claim_one("a").await.lease;
        match state {
            State::Completed => drop(bed.complete(lease).await),
            State::Dead => drop(bed.finish(lease, FAILED_FOR_GOOD).await),
            State::Cancelled => drop(bed.store.act(id, Action::Cancel).await.expect("cancelled")),
            State::Retrying => drop(bed.fail(lease).await),
            _ => {}
        }
    }
    ids.push((State::Ready, bed.create(job("a", "k")).await.id));
    ids.push((State::Scheduled, bed.create(later(100)).await.id));
    for (state, id) in &ids {
        assert_eq!(bed.state(*id).await, *state);
    }
    ids
}

#[tokio::test]
async fn every_action_works_in_its_states_and_is_refused_in_all_others() {
    let allowed = [
        (Action::Cancel, Event::Cancel, "scheduled ready retrying running"),
        (Action::Requeue, Event::Requeue, "dead"),
        (Action::Discard, Event::Discard, "dead"),
    ];
    for (action, event, states) in allowed {
        let bed = Bed::new();
        for (state, id) in one_in_each_state(&bed).await {
            let acted = bed.store.act(id, action).await;
            if states.contains(state.name()) {
                acted.expect("its state allows it");
                continue;
            }
            let refusal = InvalidTransition { state, event };
            assert_eq!(acted, Err(StoreError::InvalidTransition(refusal)));
            assert_eq!(bed.state(id).await, state, "nothing was changed");
        }
        assert_eq!(bed.mismatch().await, 0);
        assert_eq!(bed.count("a", "k", Count::Created), 7);
    }
}

#[tokio::test]
async fn jobs_that_are_not_there_are_not_acted_on() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    bed.finish(bed.claim_one("a").await.lease, FAILED_FOR_GOOD).await;
    bed.store.act(id, Action::Discard).await.expect("it is dead");
    for action in [Action::Cancel, Action::Requeue, Action::Discard] {
        assert_eq!(bed.store.act(id, action).await, Err(StoreError::NoSuchJob(id)));
    }
    assert_eq!(bed.count("a", "k", Count::Discarded), 1);
}

#[tokio::test]
async fn a_queue_is_cancelled_in_all_states_at_once() {
    let bed = Bed::new();
    let other = bed.create(job("b", "k")).await.id;
    let ids = one_in_each_state(&bed).await;
    let done = bed.store.act_on_many(bulk(Action::Cancel)).await;
    assert_eq!(done, Ok(BulkDone { count: 4, more: false }));
    for (before, id) in ids {
        let state = bed.state(id).await;
        let stays = matches!(before, State::Completed | State::Dead);
        assert_eq!(state, if stays { before } else { State::Cancelled });
    }
    assert_eq!(bed.state(other).await, State::Ready, "other queues are left alone");
    assert_eq!(bed.count("a", "k", Count::EndedCancelled), 2);
}

#[tokio::test]
async fn kind_time_and_number_choose_among_many() {
    let bed = Bed::new();
    for _ in 0..3 {
        bed.create(job("a", "old")).await;
    }
    bed.advance_secs(10);
    let middle = bed.now();
    for _ in 0..4 {
        bed.create(job("a", "new")).await;
        bed.create(job("a", "old")).await;
    }
    for leased in bed.claim(claim(&["a"], 100)).await {
        bed.finish(leased.lease, FAILED_FOR_GOOD).await;
    }
    let old = Bulk { kind: Some("old".to_owned()), before: Some(middle), ..bulk(Action::Requeue) };
    let done = bed.store.act_on_many(old.clone()).await.expect("it answers");
    assert_eq!(done, BulkDone { count: 3, more: false });
    let some = Bulk { kind: Some("new".to_owned()), limit: 3, ..bulk(Action::Discard) };
    let done = bed.store.act_on_many(some.clone()).await.expect("it answers");
    assert_eq!(done, BulkDone { count: 3, more: true });
    let done = bed.store.act_on_many(some).await.expect("it answers");
    assert_eq!(done, BulkDone { count: 1, more: false });
    assert_eq!(bed.count("a", "new", Count::Discarded), 4);
    assert_eq!(bed.count("a", "old", Count::Requeued), 3);
    assert_eq!(bed.count("a", "old", Count::Dead), 4);
}

#[tokio::test]
async fn more_than_one_transaction_holds_is_done_in_steps() {
    let bed = Bed::new();
    let many = |count| vec![NewJob { priority: 1, ..job("a", "k") }; count];
    bed.store.create_batch(many(2_500)).await.expect("created");
    let limited = Bulk { limit: 1_700, ..bulk(Action::Cancel) };
    let done = bed.store.act_on_many(limited).await.expect("it answers");
    assert_eq!(done, BulkDone { count: 1_700, more: true });
    let done = bed.store.act_on_many(bulk(Action::Cancel)).await.expect("it answers");
    assert_eq!(done, BulkDone { count: 800, more: false });
    assert_eq!(bed.count("a", "k", Count::Cancelled), 2_500);
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn many_of_an_unknown_queue_are_refused() {
    let bed = Bed::new();
    let nowhere = Bulk { queue: "b".to_owned(), ..bulk(Action::Cancel) };
    let refused = bed.store.act_on_many(nowhere).await;
    assert_eq!(refused, Err(StoreError::NoSuchQueue("b".to_owned())));
}
