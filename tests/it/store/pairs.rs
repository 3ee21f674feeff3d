//! Rows of the ledger: one for each pair, so many and no more, and none ever merges.

use tallyd::config::QueueConfig;
use tallyd::job::State;
use tallyd::store::{NewJob, UniqueUntil};
use tallyd::tally::Count;

use crate::bed::{Bed, job, policy_of_a, unique};

/// Queue, kind and jobs created of each row that has counted any.
fn rows(bed: &Bed) -> Vec<(String, String, i64)> {
    let rows = bed.metrics.snapshot().rows.into_iter();
    let mut rows: Vec<_> = rows
        .map(|row| (row.queue.to_string(), row.kind.to_string(), row.counts[Count::Created]))
        .collect();
    rows.sort();
    rows
}

fn row(queue: &str, kind: &str, created: i64) -> (String, String, i64) {
    (queue.to_owned(), kind.to_owned(), created)
}

#[tokio::test]
async fn pairs_beyond_the_limit_are_counted_together() {
    let bed = Bed::with(|config| config.max_pairs = 2);
    for (queue, kind) in [("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("c", "y"), ("a", "x")] {
        bed.create(job(queue, kind)).await;
    }
    let wanted = [
        row("__other__", "__other__", 2),
        row("a", "__other__", 1),
        row("a", "x", 2),
        row("a", "y", 1),
    ];
    assert_eq!(rows(&bed), wanted);
    assert_eq!(bed.metrics.snapshot().totals.overflow_jobs, 3);
    let bed = bed.crash().await;
    assert_eq!(rows(&bed), wanted);
    assert_eq!(bed.metrics.snapshot().totals.overflow_jobs, 3);
    assert_eq!(bed.mismatch().await, 0);
}

/// A job is counted for ever where it was created, whatever the limit becomes.
#[tokio::test]
async fn another_limit_moves_no_job_to_another_row() {
    let bed = Bed::with(|config| config.max_pairs = 1);
    bed.create(job("a", "x")).await;
    bed.create(job("a", "y")).await;
    bed.create(job("b", "y")).await;
    let bed = bed.restart_with(|config| config.max_pairs = 10).await;
    bed.create(job("a", "y")).await;
    bed.create(job("b", "y")).await;
    for queue in ["a", "b"] {
        for leased in bed.claim(crate::bed::claim(&[queue], 10)).await {
            bed.complete(leased.lease).await;
        }
    }
    let completed = |queue, kind| bed.count(queue, kind, Count::Completed);
    assert_eq!((completed("a", "y"), completed("a", "__other__")), (1, 1));
    assert_eq!((completed("b", "y"), completed("__other__", "__other__")), (1, 1));
    let bed = bed.restart_with(|config| config.max_pairs = 1).await;
    bed.create(job("a", "y")).await;
    bed.create(job("a", "z")).await;
    assert_eq!(bed.count("a", "y", Count::Created), 2, "a pair keeps its row");
    assert_eq!(bed.count("a", "__other__", Count::Created), 2);
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn pairs_whose_names_run_together_alike_are_kept_apart() {
    let bed = Bed::new();
    bed.create(job("a", "bc")).await;
    bed.create(job("ab", "c")).await;
    bed.create(job("ab", "c")).await;
    assert_eq!(rows(&bed), [row("a", "bc", 1), row("ab", "c", 2)]);
}

#[tokio::test]
async fn configured_kinds_count_from_the_start_at_zero() {
    let kinds = vec!["welcome".to_owned(), "receipt".to_owned()];
    let bed = Bed::with(|config| {
        config.queues.get_mut("a").expect("configured").kinds = kinds;
    });
    let wanted = [row("a", "receipt", 0), row("a", "welcome", 0)];
    assert_eq!(rows(&bed), wanted);
    let bed = bed.restart().await;
    assert_eq!(rows(&bed), wanted);
}

#[tokio::test]
async fn a_forgotten_queue_frees_its_rows() {
    let bed = Bed::with(|config| {
        config.max_pairs = 2;
        config.defaults.max_completed = 0;
        policy_of_a(config).max_completed = 0;
    });
    bed.create(job("a", "x")).await;
    bed.create(job("b", "x")).await;
    bed.complete(bed.claim_one("b").await.lease).await;
    bed.sweep().await;
    bed.store.forget("b").await.expect("it is empty and not configured");
    assert_eq!(rows(&bed), [row("a", "x", 1)]);
    bed.create(job("c", "x")).await;
    assert_eq!(rows(&bed), [row("a", "x", 1), row("c", "x", 1)]);
    assert_eq!(bed.store.queue("c").await.expect("new").jobs[State::Ready as usize], 1);
    assert_eq!(bed.mismatch().await, 0);
}

/// What the last of many queues has counted under `__other__` stays there once it is configured.
#[tokio::test]
async fn a_queue_that_gets_series_of_its_own_counts_nothing_twice() {
    let bed = Bed::new();
    for number in 0..101 {
        bed.create(job(&format!("q{number}"), "k")).await;
    }
    let last = NewJob { queue: "q100".to_owned(), ..unique("key", UniqueUntil::Gone) };
    for _ in 0..3 {
        bed.try_create(last.clone()).await.expect("created, or a duplicate");
    }
    let duplicates = |bed: &Bed| {
        let queues = bed.metrics.snapshot().queues.into_iter();
        let mut counted: Vec<_> = queues
            .filter(|queue| queue.duplicates > 0)
            .map(|queue| (queue.queue.to_string(), queue.duplicates))
            .collect();
        counted.sort();
        counted
    };
    assert_eq!(duplicates(&bed), [("__other__".to_owned(), 2)]);
    let bed = bed
        .restart_with(|config| {
            let policy = config.defaults.clone();
            config.queues.insert("q100".to_owned(), QueueConfig::leased(policy));
        })
        .await;
    assert_eq!(duplicates(&bed), [("__other__".to_owned(), 2)]);
    bed.try_create(last).await.expect("a duplicate");
    assert_eq!(duplicates(&bed), [("__other__".to_owned(), 2), ("q100".to_owned(), 1)]);
}
