//! Unique keys: a create that is repeated creates nothing.

use tallyd::job::State;
use tallyd::store::UniqueUntil::{Done, Gone};
use tallyd::store::{Action, NewJob, StoreError};
use tallyd::tally::Count;

use crate::bed::{Bed, FAILED_FOR_GOOD, job, unique};

fn duplicates(bed: &Bed) -> u64 {
    let queues = bed.metrics.snapshot().queues;
    queues.iter().find(|cut| &*cut.queue == "a").expect("it is configured").duplicates
}

/// F19: whoever saw no answer asks again with the key.
#[tokio::test]
async fn a_repeated_create_is_answered_with_the_first_job_as_it_is_now() {
    let bed = Bed::new();
    let first = bed.create(unique("u", Gone)).await;
    let leased = bed.claim_one("a").await;
    let again = bed.try_create(unique("u", Gone)).await.expect("answered");
    assert!(again.duplicate);
    assert_eq!((again.job.id, again.job.state), (first.id, State::Running));
    bed.complete(leased.lease).await;
    let again = bed.try_create(unique("u", Done)).await.expect("answered");
    assert_eq!((again.duplicate, again.job.state), (true, State::Completed));
    assert_eq!((duplicates(&bed), bed.count("a", "k", Count::Created)), (2, 1));
    let bed = bed.crash().await;
    assert!(bed.try_create(unique("u", Gone)).await.expect("answered").duplicate);
    assert_eq!(duplicates(&bed), 3, "counted on, across the crash");
}

#[tokio::test]
async fn until_gone_means_until_the_row_is_removed() {
    let bed = Bed::with_policy(|policy| policy.max_completed = 0);
    bed.create(unique("u", Gone)).await;
    bed.complete(bed.claim_one("a").await.lease).await;
    assert!(bed.try_create(unique("u", Gone)).await.expect("answered").duplicate);
    assert_eq!(bed.sweep().await.pruned, 1);
    bed.create(unique("u", Gone)).await;
}

#[tokio::test]
async fn until_done_means_until_the_job_has_ended() {
    let bed = Bed::new();
    for end in [State::Completed, State::Dead, State::Cancelled] {
        let id = bed.create(unique("u", Done)).await.id;
        let leased = bed.claim_one("a").await;
        assert!(bed.try_create(unique("u", Done)).await.expect("answered").duplicate);
        match end {
            State::Completed => drop(bed.complete(leased.lease).await),
            State::Dead => drop(bed.finish(leased.lease, FAILED_FOR_GOOD).await),
            _ => drop(bed.store.act(id, Action::Cancel).await.expect("cancelled")),
        }
        assert_eq!(bed.state(id).await, end);
    }
    bed.create(unique("u", Done)).await;
}

#[tokio::test]
async fn a_failed_job_that_will_run_again_still_holds_its_key() {
    let bed = Bed::new();
    bed.create(unique("u", Done)).await;
    bed.fail(bed.claim_one("a").await.lease).await;
    let again = bed.try_create(unique("u", Done)).await.expect("answered");
    assert_eq!((again.duplicate, again.job.state), (true, State::Retrying));
}

#[tokio::test]
async fn keys_of_other_queues_are_other_keys() {
    let bed = Bed::new();
    bed.create(unique("u", Gone)).await;
    bed.create(NewJob { queue: "b".to_owned(), ..unique("u", Gone) }).await;
    bed.create(unique("v", Gone)).await;
}

#[tokio::test]
async fn keys_count_inside_one_batch_too() {
    let bed = Bed::new();
    let stored = bed.create(unique("old", Gone)).await.id;
    let batch = vec![
        unique("u", Done),
        job("a", "k"),
        unique("u", Gone),
        unique("old", Gone),
        NewJob { queue: "b".to_owned(), ..unique("u", Gone) },
    ];
    let created = bed.store.create_batch(batch.clone()).await.expect("created");
    assert_eq!(created.duplicates, [2, 3]);
    assert_eq!(created.ids[2], created.ids[0]);
    assert_eq!(created.ids[3], stored);
    assert_eq!(bed.list().await.len(), 4);
    let again = bed.store.create_batch(batch).await.expect("answered");
    assert_eq!(again.duplicates, [0, 2, 3, 4], "all but the one without a key");
    assert_eq!(duplicates(&bed), 5);
}

#[tokio::test]
async fn keys_are_looked_up_before_any_limit() {
    let bed = Bed::with_policy(|policy| policy.max_depth = Some(1));
    bed.create(unique("u", Gone)).await;
    assert!(bed.try_create(job("a", "k")).await.is_err(), "the queue is full");
    assert!(bed.try_create(unique("u", Gone)).await.expect("not refused").duplicate);
    let batch = vec![unique("u", Gone); 3];
    assert_eq!(bed.store.create_batch(batch).await.expect("not refused").duplicates, [0, 1, 2]);
}

#[tokio::test]
async fn a_dead_job_whose_key_was_taken_since_is_not_requeued() {
    let bed = Bed::new();
    let dead = bed.create(unique("u", Done)).await.id;
    bed.finish(bed.claim_one("a").await.lease, FAILED_FOR_GOOD).await;
    let holder = bed.create(unique("u", Done)).await.id;
    let refused = bed.store.act(dead, Action::Requeue).await;
    assert_eq!(refused, Err(StoreError::UniqueKeyHeld { key: "u".to_owned(), holder }));
    assert_eq!(bed.state(dead).await, State::Dead);
    bed.store.act(holder, Action::Cancel).await.expect("cancelled");
    bed.store.act(dead, Action::Requeue).await.expect("the key is free again");
    let again = bed.try_create(unique("u", Done)).await.expect("answered");
    assert_eq!((again.duplicate, again.job.id), (true, dead), "it holds its key again");
}
