//! Retention: what has ended is kept so long and so many, and counted when it goes.

use std::time::Duration;

use rusqlite::Connection;
use tallyd::job::{Outcome, State};
use tallyd::store::{Action, Finish, JobId, LeasedJob, StoreError, Sweep};
use tallyd::tally::Count;

use crate::bed::{Bed, FAILED_FOR_GOOD, claim, job};

/// A job of queue `a` that has ended in this state.
async fn ended(bed: &Bed, state: State) -> JobId {
    let id = bed.create(job("a", "k")).await.id;
    match state {
        State::Cancelled => drop(bed.store.act(id, Action::Cancel).await.expect("it is ready")),
        State::Dead => drop(bed.finish(bed.claim_one("a").await.lease, FAILED_FOR_GOOD).await),
        _ => drop(bed.complete(bed.claim_one("a").await.lease).await),
    }
    id
}

async fn is_stored(bed: &Bed, id: JobId) -> bool {
    match bed.store.job(id).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, StoreError::NoSuchJob(id));
            false
        }
    }
}

#[tokio::test]
async fn completed_and_cancelled_jobs_are_kept_for_their_time() {
    let bed = Bed::with_policy(|policy| policy.keep_completed = Duration::from_secs(100));
    let completed = ended(&bed, State::Completed).await;
    bed.advance_secs(50);
    let cancelled = ended(&bed, State::Cancelled).await;
    let dead = ended(&bed, State::Dead).await;
    bed.advance_secs(49);
    assert_eq!(bed.sweep().await.pruned, 0);
    bed.advance_secs(1);
    assert_eq!(bed.sweep().await.pruned, 1);
    assert!(!is_stored(&bed, completed).await && is_stored(&bed, cancelled).await);
    bed.advance_secs(50);
    assert_eq!(bed.sweep().await.pruned, 1);
    assert!(!is_stored(&bed, cancelled).await && is_stored(&bed, dead).await);
    assert_eq!(bed.count("a", "k", Count::Completed), 1, "its count stays");
    assert_eq!(bed.count("a", "k", Count::Cancelled), 1);
    assert_eq!(bed.metrics.snapshot().totals.pruned, 2);
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn completed_and_cancelled_jobs_are_kept_up_to_their_number_together() {
    let bed = Bed::with_policy(|policy| policy.max_completed = 2);
    let mut ids = Vec::new();
    for state in [State::Completed, State::Cancelled, State::Completed, State::Cancelled] {
        ids.push(ended(&bed, state).await);
        bed.advance_secs(1);
    }
    ended(&bed, State::Dead).await;
    assert_eq!(bed.sweep().await.pruned, 2);
    assert!(!is_stored(&bed, ids[1]).await && is_stored(&bed, ids[2]).await, "the oldest go first");
}

/// F15: dead jobs do not stay for ever.
#[tokio::test]
async fn dead_jobs_are_kept_by_age_and_number_and_counted_as_discarded() {
    let bed = Bed::with_policy(|policy| {
        policy.keep_dead = Duration::from_secs(100);
        policy.max_dead = Some(2);
    });
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(ended(&bed, State::Dead).await);
        bed.advance_secs(10);
    }
    assert_eq!(bed.sweep().await.pruned, 1);
    assert!(!is_stored(&bed, ids[0]).await);
    bed.advance_secs(80);
    assert_eq!(bed.sweep().await.pruned, 1);
    assert!(!is_stored(&bed, ids[1]).await && is_stored(&bed, ids[2]).await);
    assert_eq!(bed.count("a", "k", Count::Discarded), 2);
    assert_eq!(bed.count("a", "k", Count::Died), 3);
    assert_eq!(bed.count("a", "k", Count::Dead), 1);
}

#[tokio::test]
async fn more_than_one_step_can_remove_goes_in_one_tick() {
    let bed = Bed::with_policy(|policy| policy.max_completed = 10);
    let ids = bed.store.create_batch(vec![job("a", "k"); 1_000]).await.expect("created").ids;
    for id in ids {
        bed.store.act(id, Action::Cancel).await.expect("it is ready");
    }
    assert_eq!(bed.tick().await.pruned, 990);
    assert_eq!(bed.tick().await.pruned, 0);
}

#[tokio::test]
async fn nothing_of_a_removed_job_stays_behind() {
    let bed = Bed::with_policy(|policy| {
        policy.max_completed = 0;
        policy.max_dead = Some(0);
    });
    ended(&bed, State::Completed).await;
    ended(&bed, State::Dead).await;
    bed.sweep().await;
    let file = Connection::open(bed.file()).expect("it can be read beside the server");
    for table in ["jobs", "payloads", "results", "errors"] {
        let count = format!("SELECT count(*) FROM {table}");
        let rows: i64 = file.query_row(&count, [], |row| row.get(0)).expect("a table");
        assert_eq!(rows, 0, "{table}");
    }
}

/// More ends in one queue than one sweep prunes, each time.
#[tokio::test]
async fn a_busy_queue_starves_no_other_of_pruning() {
    let bed = Bed::with(|config| {
        config.defaults.max_completed = 0;
        config.defaults.max_dead = Some(0);
        config.queues.clear();
    });
    bed.create(job("a", "dead")).await;
    bed.finish(bed.claim_one("a").await.lease, FAILED_FOR_GOOD).await;
    for queue in ["b", "c"] {
        bed.create(job(queue, "k")).await;
        bed.complete(bed.claim_one(queue).await.lease).await;
    }
    let mut sweep = Sweep::default();
    for _ in 0..4 {
        bed.store.create_batch((0..5_000).map(|_| job("a", "k")).collect()).await.expect("created");
        let claimed = bed.claim(claim(&["a"], 5_000)).await;
        let done = |leased: &LeasedJob| Finish {
            lease: leased.lease,
            outcome: Outcome::Completed,
            result: None,
            error: None,
        };
        bed.store.finish(claimed.iter().map(done).collect()).await.expect("finished");
        sweep = bed.store.sweep(sweep).await.expect("swept").next.unwrap_or_default();
    }
    let stored = |queue: &str| [Count::Completed, Count::Dead].map(|c| bed.count(queue, "k", c));
    for queue in ["b", "c"] {
        let kept = bed.store.queue(queue).await.expect("known").jobs;
        assert_eq!(kept.iter().sum::<i64>(), 0, "{queue}: {:?}", stored(queue));
    }
    assert_eq!(bed.count("a", "dead", Count::Dead), 0, "nor do ended jobs starve dead ones");
    let kept = bed.store.queue("a").await.expect("known").jobs.iter().sum::<i64>();
    assert!(kept < 8_000, "pruning keeps up: {kept} are kept");
}
