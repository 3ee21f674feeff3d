//! Queues and lists as operators see them.

use tallyd::clock::Timestamp;
use tallyd::job::State;
use tallyd::store::{Filter, Job, JobId, StoreError};

use crate::bed::{Bed, FAILED_FOR_GOOD, claim, job, later};

#[tokio::test]
async fn a_queue_says_how_many_jobs_are_where() {
    let bed = Bed::new();
    let first = bed.create(job("a", "k")).await;
    bed.advance_secs(5);
    for _ in 0..2 {
        bed.create(job("a", "k")).await;
    }
    bed.create(later(9)).await;
    let queue = bed.store.queue("a").await.expect("configured");
    assert_eq!(queue.jobs, [1, 3, 0, 0, 0, 0, 0], "{:?}", State::ALL);
    assert_eq!((queue.oldest_ready_at, queue.paused), (Some(first.run_at), false));
    bed.finish(bed.claim(claim(&["a"], 1)).await[0].lease, FAILED_FOR_GOOD).await;
    let queue = bed.store.queue("a").await.expect("configured");
    assert_eq!(queue.jobs, [1, 2, 0, 0, 0, 0, 1]);
    assert_eq!(queue.oldest_ready_at, Some(bed.now()));
    bed.claim(claim(&["a"], 9)).await;
    assert_eq!(bed.store.queue("a").await.expect("configured").oldest_ready_at, None);
}

#[tokio::test]
async fn a_queue_is_forgotten_only_if_nobody_needs_it() {
    let bed = Bed::with(|config| config.defaults.max_completed = 0);
    bed.create(job("b", "k")).await;
    let refusal = bed.store.forget("b").await.expect_err("it has a job");
    assert_eq!(refusal, StoreError::QueueNotEmpty { queue: "b".to_owned(), jobs: 1 });
    bed.complete(bed.claim_one("b").await.lease).await;
    bed.sweep().await;
    bed.store.forget("b").await.expect("nothing is left of it");
    let gone = StoreError::NoSuchQueue("b".to_owned());
    assert_eq!(bed.store.forget("b").await, Err(gone.clone()));
    assert_eq!(bed.store.set_paused("b", true).await, Err(gone));
    let refusal = bed.store.forget("a").await.expect_err("it is configured");
    assert_eq!(refusal, StoreError::QueueConfigured("a".to_owned()));
    let cut = bed.metrics.snapshot();
    assert!(cut.rows.iter().all(|row| &*row.queue != "b"), "its series are gone");
    assert!(cut.queues.iter().all(|queue| &*queue.queue != "b"));
}

/// All pages of a filter, and how many there were.
async fn pages(bed: &Bed, filter: Filter) -> (Vec<JobId>, usize) {
    let (mut ids, mut pages, mut cursor) = (Vec::new(), 0, None);
    loop {
        let page = bed.store.list(Filter { cursor, ..filter.clone() }).await.expect("a page");
        assert!(page.jobs.len() <= filter.limit);
        ids.extend(page.jobs.iter().map(|job: &Job| job.id));
        pages += 1;
        cursor = page.next_cursor;
        if cursor.is_none() {
            return (ids, pages);
        }
    }
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered_page_by_page() {
    let bed = Bed::new();
    let mut all = Vec::new();
    for index in 0..30 {
        let queue = if index % 3 == 0 { "b" } else { "a" };
        let kind = if index % 2 == 0 { "even" } else { "odd" };
        all.push(bed.create(job(queue, kind)).await.id);
    }
    for leased in bed.claim(claim(&["a"], 5)).await {
        bed.complete(leased.lease).await;
    }
    all.reverse();
    let by = |limit| Filter { limit, ..Filter::default() };
    assert_eq!(pages(&bed, by(500)).await, (all.clone(), 1));
    let (ids, many) = pages(&bed, by(7)).await;
    assert_eq!((ids, many), (all.clone(), 5));
    let queue = Some("b".to_owned());
    assert_eq!(pages(&bed, Filter { queue, ..by(3) }).await.0.len(), 10);
    let kind = Some("odd".to_owned());
    let odd = pages(&bed, Filter { kind: kind.clone(), ..by(4) }).await.0;
    assert_eq!(odd, all.iter().copied().step_by(2).collect::<Vec<_>>());
    let state = Some(State::Completed);
    assert_eq!(pages(&bed, Filter { state, ..by(2) }).await.0.len(), 5);
    let both = Filter { state, kind, queue: Some("a".to_owned()), ..by(9) };
    assert_eq!(pages(&bed, both).await.0.len(), 3);
    let unknown = Filter { queue: Some("c".to_owned()), ..by(9) };
    assert_eq!(pages(&bed, unknown).await, (vec![], 1));
}

#[tokio::test]
async fn a_page_that_looked_at_enough_jobs_is_short_and_goes_on() {
    let bed = Bed::new();
    let first = bed.create(job("b", "k")).await.id;
    for _ in 0..3 {
        bed.store.create_batch(vec![job("a", "k"); 10_000]).await.expect("created");
    }
    let filter = Filter { queue: Some("b".to_owned()), limit: 10, ..Filter::default() };
    let page = bed.store.list(filter.clone()).await.expect("a page");
    assert!(page.jobs.is_empty() && page.next_cursor.is_some(), "it gives up, but not the list");
    assert_eq!(pages(&bed, filter).await, (vec![first], 2));
}

/// Whoever asks for a page and hangs up must not take the connection with them.
#[tokio::test]
async fn readings_that_nobody_waits_for_do_no_harm() {
    let bed = Bed::new();
    bed.store.create_batch(vec![job("a", "k"); 5_000]).await.expect("created");
    let filter = Filter { state: Some(State::Dead), limit: 10, ..Filter::default() };
    for _ in 0..100 {
        let list = std::pin::pin!(bed.store.list(filter.clone()));
        tokio::select! {
            biased;
            _ = list => {}
            () = std::future::ready(()) => {} // gone after the first look
        }
    }
    for _ in 0..10 {
        let read = tokio::join!(bed.store.list(filter.clone()), bed.store.list(filter.clone()));
        assert!(read.0.is_ok() && read.1.is_ok(), "{:?} {:?}", read.0, read.1);
    }
}

#[tokio::test]
async fn the_time_of_the_next_sweep_is_known() {
    let bed = Bed::new();
    let mut due = bed.store.due();
    assert_eq!(*due.borrow_and_update(), None);
    bed.create(later(50)).await;
    let at = |seconds: i64| Some(Timestamp(crate::bed::BEGIN.0 + seconds * 1_000));
    assert_eq!(*due.borrow_and_update(), at(50));
    bed.create(later(70)).await;
    assert!(!due.has_changed().expect("open"), "what comes later wakes nobody");
    bed.create(later(20)).await;
    assert_eq!(*due.borrow_and_update(), at(20));
    bed.create(job("a", "k")).await;
    bed.claim_one("a").await;
    assert_eq!(*due.borrow_and_update(), at(20), "the lease ends at 60 s");
    bed.advance_secs(20);
    bed.sweep().await;
    assert_eq!(*due.borrow(), at(50));
    assert!(!due.has_changed().expect("open"), "who has swept need not be woken");
    bed.advance_secs(30);
    bed.sweep().await;
    assert_eq!(*due.borrow(), at(60));
}
