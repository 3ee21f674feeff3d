//! What a start makes of what the last process left, after a clean stop and after a crash.

use std::time::Duration;

use tallyd::clock::Clock;
use tallyd::job::{AttemptResult, State};
use tallyd::store::{Action, LeaseAnswer, NewJob, StoreError};
use tallyd::tally::Count;

use crate::bed::{BEGIN, Bed, FAILED_FOR_GOOD, claim, job, later, open, own_claim, policy_of_a};

/// F14: so a job that takes the daemon down with it dies.
#[tokio::test]
async fn attempts_that_a_crash_cut_off_use_up_a_try_and_wait_their_backoff() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    let poison = bed.create(NewJob { max_attempts: Some(1), ..job("a", "k") }).await.id;
    let leases: Vec<_> = bed.claim(own_claim("a", 2)).await.iter().map(|l| l.lease).collect();
    let bed = bed.crash().await;
    let job = bed.job(id).await;
    assert_eq!((job.state, job.failures), (State::Retrying, 1));
    assert_eq!(job.run_at, bed.now().after(Duration::from_secs(5)));
    assert_eq!(job.last_error.expect("a failure").outcome, AttemptResult::LeaseExpired);
    assert_eq!(bed.state(poison).await, State::Dead, "a job that kills its runner ends");
    assert_eq!(bed.complete(leases[0]).await, LeaseAnswer::LeaseLost);
    assert_eq!(bed.count("a", "k", Count::EndedLeaseExpired), 2);
    assert_eq!(bed.count("a", "k", Count::Started), 2);
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn outside_leases_have_their_full_duration_again() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    let lease = bed.claim_one("a").await.lease;
    bed.advance_secs(3_600); // most of it while nobody could renew
    let bed = bed.crash().await;
    assert_eq!(bed.state(id).await, State::Running);
    assert_eq!(bed.job(id).await.expires_at, Some(bed.now().after(Duration::from_secs(60))));
    bed.advance_secs(59);
    assert_eq!(bed.sweep().await.expired, 0);
    bed.advance_secs(1);
    assert_eq!(bed.sweep().await.expired, 1);
    assert_eq!(bed.complete(lease).await, LeaseAnswer::LeaseLost);
}

#[tokio::test]
async fn an_outside_worker_finishes_what_it_claimed_before_the_restart() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    let lease = bed.claim_one("a").await.lease;
    let bed = bed.restart().await;
    assert_eq!(bed.renew(lease, None).await, LeaseAnswer::Ok);
    let bed = bed.crash().await;
    assert_eq!(bed.complete(lease).await, LeaseAnswer::Ok);
    let bed = bed.restart().await;
    assert_eq!(bed.complete(lease).await, LeaseAnswer::Ok, "the answer may have been lost");
    assert_eq!(bed.state(id).await, State::Completed);
}

#[tokio::test]
async fn the_timeout_goes_on_across_a_restart() {
    let bed = Bed::new(); // 5 minutes
    let id = bed.create(job("a", "k")).await.id;
    let lease = bed.claim_one("a").await.lease;
    bed.advance_secs(200);
    let bed = bed.restart().await;
    bed.advance_secs(50);
    bed.renew(lease, None).await;
    assert_eq!(bed.job(id).await.expires_at, Some(bed.now().after(Duration::from_secs(50))));
    bed.advance_secs(50);
    bed.sweep().await;
    let error = bed.job(id).await.last_error.expect("a failure");
    assert_eq!(error.outcome, AttemptResult::TimedOut);
}

/// F6: nothing is counted again by a start.
#[tokio::test]
async fn counts_continue_across_stops_and_crashes() {
    let bed = Bed::new();
    for _ in 0..5 {
        bed.create(job("a", "k")).await;
    }
    bed.create(later(1)).await;
    let leases = bed.claim(claim(&["a"], 3)).await;
    bed.complete(leases[0].lease).await;
    bed.fail(leases[1].lease).await;
    bed.advance_secs(2);
    bed.sweep().await;
    let before = bed.metrics.snapshot();
    let bed = bed.crash().await;
    let crashed = bed.metrics.snapshot();
    let bed = bed.restart().await;
    let restarted = bed.metrics.snapshot();
    for after in [crashed, restarted] {
        let counts = |cut: &tallyd::metrics::Snapshot| {
            cut.rows.iter().map(|row| (row.kind.clone(), row.counts)).collect::<Vec<_>>()
        };
        assert_eq!(counts(&after), counts(&before));
        assert_eq!(after.totals, before.totals);
    }
    assert_eq!(bed.count("a", "k", Count::Created), 6);
}

#[tokio::test]
async fn a_pause_is_durable() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    bed.store.set_paused("a", true).await.expect("known");
    let bed = bed.crash().await;
    assert!(bed.store.queue("a").await.expect("known").paused);
    assert_eq!(bed.claim(claim(&["a"], 1)).await.len(), 0);
    let paused = |bed: &Bed| bed.metrics.snapshot().queues[0].paused;
    assert_eq!(paused(&bed), 1);
    bed.store.set_paused("a", false).await.expect("known");
    assert_eq!(paused(&bed), 0);
    let bed = bed.crash().await;
    assert_eq!(bed.claim(claim(&["a"], 1)).await.len(), 1);
}

#[tokio::test]
async fn queues_that_nobody_needs_are_forgotten_at_the_start() {
    let bed = Bed::with(|config| config.defaults.max_completed = 0);
    for queue in ["empty", "paused", "used"] {
        bed.create(job(queue, "k")).await;
    }
    for queue in ["empty", "paused"] {
        bed.complete(bed.claim_one(queue).await.lease).await;
    }
    bed.store.set_paused("paused", true).await.expect("known");
    bed.sweep().await;
    let bed = bed.restart().await;
    let queues = bed.store.queues().await.expect("the queues");
    let names: Vec<_> = queues.into_iter().map(|queue| queue.name).collect();
    assert_eq!(names, ["a", "paused", "used"]);
    let gone = bed.store.queue("empty").await;
    assert_eq!(gone, Err(StoreError::NoSuchQueue("empty".to_owned())));
    assert_eq!(bed.count("empty", "k", Count::Created), 0);
    assert_eq!(bed.count("paused", "k", Count::Created), 1, "with what it has counted");
}

/// F3: the sweeper does not ask what is configured.
#[tokio::test]
async fn a_queue_taken_out_of_the_file_lives_on_with_its_jobs_and_the_defaults() {
    let bed = Bed::with_policy(|policy| policy.max_attempts = 2);
    let id = bed.create(job("a", "k")).await.id;
    let bed = bed.restart_with(|config| drop(config.queues.remove("a"))).await;
    assert_eq!(bed.job(id).await.max_attempts, 25);
    assert_eq!(bed.claim(claim(&["a"], 1)).await.len(), 1);
    bed.advance_secs(61);
    assert_eq!(bed.sweep().await.expired, 1);
}

#[tokio::test]
async fn rules_that_changed_apply_to_jobs_that_are_stored() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    let lease = bed.claim_one("a").await.lease;
    let bed = bed.restart_with(|config| policy_of_a(config).max_attempts = 1).await;
    bed.fail(lease).await;
    assert_eq!(bed.state(id).await, State::Dead);
    let bed = bed.restart_with(|config| policy_of_a(config).keep_dead = Duration::ZERO).await;
    assert_eq!(bed.sweep().await.pruned, 1);
}

#[tokio::test]
async fn the_store_keeps_its_identity() {
    let bed = Bed::new();
    let identity = bed.store.identity();
    let bed = bed.restart().await;
    assert_eq!(bed.store.identity(), identity);
    assert_ne!(Bed::new().store.identity(), identity);
}

#[tokio::test]
async fn ids_ascend_although_the_newest_job_was_removed_and_the_clock_went_back() {
    let mut bed = Bed::new();
    bed.create(job("other", "k")).await;
    bed.advance_secs(3_600);
    let removed = bed.create(job("a", "k")).await.id;
    bed.finish(bed.claim_one("a").await.lease, FAILED_FOR_GOOD).await;
    bed.store.act(removed, Action::Discard).await.expect("it is dead");
    bed.store.close().await.expect("it closes");
    (bed.store, bed.metrics) = open(&bed.config, &Clock::manual(BEGIN)).expect("it opens again");
    let next = bed.create(job("a", "k")).await.id;
    assert!(next > removed, "{next} is not behind {removed}");
}
