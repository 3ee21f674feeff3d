//! Creating: what is kept, in which order it runs, and what is refused.

use std::time::Duration;

use bytes::Bytes;
use tallyd::clock::Timestamp;
use tallyd::job::State;
use tallyd::metrics::RestValue;
use tallyd::store::{NewJob, Start, StoreError};
use tallyd::tally::Count;

use crate::bed::{Bed, claim, job, later, policy_of_a};

fn at(time: Timestamp) -> NewJob {
    NewJob { start: Start::At(time), ..job("a", "k") }
}

#[tokio::test]
async fn everything_that_the_creator_set_is_kept_byte_for_byte() {
    let bed = Bed::new();
    let payload = Bytes::from_static(b"{ \"a\":1.50,\n\t\"\\u00e9\": \"\xc3\xa9\" , \"a\": 2e0 }");
    let new = NewJob {
        payload: payload.clone(),
        priority: 3,
        max_attempts: Some(7),
        timeout: Some(Duration::from_millis(1_500)),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        ..job("a", "k")
    };
    let created = bed.create(new.clone()).await;
    let bed = bed.crash().await;
    let read = bed.job(created.id).await;
    assert_eq!(read, created, "the answer is what is stored");
    assert_eq!(read.payload, Some(payload));
    assert_eq!((read.priority, read.max_attempts), (3, 7));
    assert_eq!(read.timeout, new.timeout);
    assert_eq!(read.traceparent, new.traceparent);
    assert_eq!(bed.claim_one("a").await.job.payload, read.payload);
}

#[tokio::test]
async fn what_the_creator_left_out_follows_the_queue() {
    let bed = Bed::with_policy(|policy| policy.max_attempts = 4);
    let id = bed.create(job("a", "k")).await.id;
    assert_eq!(bed.job(id).await.max_attempts, 4);
    let bed = bed
        .restart_with(|config| {
            policy_of_a(config).max_attempts = 9;
            policy_of_a(config).timeout = None;
        })
        .await;
    let read = bed.job(id).await;
    assert_eq!((read.max_attempts, read.timeout), (9, None));
}

#[tokio::test]
async fn jobs_run_by_priority_then_run_at_then_id() {
    let bed = Bed::new();
    let mut made = Vec::new();
    for (priority, seconds) in [(5, 2), (9, 0), (5, 1), (0, 3), (5, 1)] {
        let start = Start::After(Duration::from_secs(seconds));
        made.push(bed.create(NewJob { priority, start, ..job("a", "k") }).await.id);
    }
    bed.advance_secs(10);
    bed.sweep().await;
    let order: Vec<_> =
        bed.claim(claim(&["a"], 10)).await.iter().map(|leased| leased.job.id).collect();
    assert_eq!(order, [3, 2, 4, 0, 1].map(|index| made[index]));
}

#[tokio::test]
async fn a_start_in_the_past_counts_as_now() {
    let bed = Bed::new();
    let now = bed.now();
    let old = bed.create(at(Timestamp(now.0 - 86_400_000))).await;
    assert_eq!((old.state, old.run_at), (State::Ready, now));
    bed.advance_secs(1);
    let young = bed.create(job("a", "k")).await;
    assert_eq!(bed.claim(claim(&["a"], 1)).await[0].job.id, old.id, "it does not jump the queue");
    assert_eq!(young.run_at, bed.now());
    let future = bed.create(at(Timestamp(now.0 + 5_000))).await;
    assert_eq!((future.state, future.run_at), (State::Scheduled, Timestamp(now.0 + 5_000)));
}

#[tokio::test]
async fn a_batch_is_created_whole_or_not_at_all() {
    let bed = Bed::with_policy(|policy| policy.max_depth = Some(3));
    bed.create(job("a", "k")).await;
    let batch = vec![job("b", "k"), job("a", "k"), job("a", "k"), job("a", "k"), job("b", "k")];
    let error = bed.store.create_batch(batch.clone()).await.expect_err("one is too much");
    assert_eq!(error.to_string(), "job 3: queue \"a\" is full: 3 jobs wait, its max_depth is 3");
    assert!(matches!(error, StoreError::InBatch { index: 3, .. }), "{error:?}");
    assert_eq!(bed.list().await.len(), 1);
    assert_eq!(bed.store.queue("b").await, Err(StoreError::NoSuchQueue("b".to_owned())));
    let created = bed.store.create_batch(batch[..3].to_vec()).await.expect("there is room");
    assert_eq!(created.ids.len(), 3);
    assert!(created.ids.is_sorted(), "in order");
    assert_eq!(bed.count("a", "k", Count::Created), 3);
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn depth_counts_what_waits_and_not_what_runs() {
    let bed = Bed::with_policy(|policy| policy.max_depth = Some(3));
    for new in [job("a", "k"), later(9), job("a", "k")] {
        bed.create(new).await;
    }
    let full = || StoreError::QueueFull { queue: "a".to_owned(), depth: 3, limit: 3 };
    assert_eq!(bed.try_create(job("a", "k")).await, Err(full()));
    let claimed = bed.claim(claim(&["a"], 1)).await;
    bed.create(job("a", "k")).await;
    assert_eq!(bed.try_create(job("a", "k")).await, Err(full()));
    bed.fail(claimed[0].lease).await;
    assert!(bed.try_create(job("a", "k")).await.is_err(), "a retrying job waits as well");
    bed.create(job("b", "k")).await;
}

#[tokio::test]
async fn queues_are_made_when_first_used_up_to_their_limit() {
    let bed = Bed::with(|config| config.max_queues = 3);
    bed.create(job("b", "k")).await;
    let batch = vec![job("c", "k"), job("c", "k"), job("d", "k")];
    let error = bed.store.create_batch(batch).await.expect_err("d would be the fourth");
    let StoreError::InBatch { index: 2, error } = error else { panic!("{error:?}") };
    assert_eq!(*error, StoreError::TooManyQueues { queue: "d".to_owned(), limit: 3 });
    bed.create(job("c", "k")).await;
    assert!(bed.try_create(job("d", "k")).await.is_err());
    bed.create(job("b", "k")).await;
}

#[tokio::test]
async fn strict_queues_refuse_what_is_not_configured() {
    let bed = Bed::with(|config| config.strict_queues = true);
    bed.create(job("a", "k")).await;
    let refused = bed.try_create(job("b", "k")).await;
    assert_eq!(refused, Err(StoreError::UnconfiguredQueue("b".to_owned())));
}

#[tokio::test]
async fn ids_ascend_though_the_clock_goes_back() {
    let bed = Bed::new();
    let first = bed.create(job("a", "k")).await;
    bed.clock.jump(Timestamp(bed.now().0 - 86_400_000));
    let second = bed.create(job("a", "k")).await;
    let bed = bed.restart().await;
    let third = bed.create(job("a", "k")).await;
    assert!(first.id < second.id && second.id < third.id);
    assert_eq!(second.created_at, Timestamp(first.created_at.0 - 86_400_000), "as the clock says");
    assert_eq!(bed.list().await[0].id, third.id, "newest first");
}

/// Many callers at once share transactions: there are far fewer commits than operations.
#[tokio::test]
async fn concurrent_creates_share_commits() {
    let bed = Bed::new();
    let creates = (0..1_000).map(|_| {
        let store = bed.store.clone();
        tokio::spawn(async move { store.create(job("a", "k")).await })
    });
    for create in creates.collect::<Vec<_>>() {
        create.await.expect("no panic").expect("created");
    }
    assert_eq!(bed.count("a", "k", Count::Created), 1_000);
    let rest = bed.metrics.snapshot().rest;
    let family = rest.iter().find(|family| family.name == "tallyd_store_commit_operations");
    let RestValue::Histogram(operations) = &family.expect("the histogram").samples[0].value else {
        panic!("it is a histogram")
    };
    assert_eq!(operations.sum, 1_000.0);
    assert!(operations.count < 500, "{} commits for 1,000 operations", operations.count);
}
