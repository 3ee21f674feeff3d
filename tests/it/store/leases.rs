//! Leases: who may end an attempt, until when, and what everybody else is told.

use std::time::Duration;

use bytes::Bytes;
use tallyd::clock::Timestamp;
use tallyd::job::{AttemptResult, Outcome, State};
use tallyd::store::LeaseAnswer::{Cancelled, LeaseLost, Ok};
use tallyd::store::{Action, Claim, Finish, JobId, Lease, NewJob};
use tallyd::tally::Count;

use crate::bed::{Bed, FAILED, FAILED_FOR_GOOD, RELEASED, claim, job, own_claim};

const DAY_MS: i64 = 86_400_000;

/// A job of queue `a`, claimed.
async fn running(bed: &Bed) -> (JobId, Lease) {
    let id = bed.create(job("a", "k")).await.id;
    (id, bed.claim_one("a").await.lease)
}

#[tokio::test]
async fn release_expiry_and_requeue_set_run_at_to_now() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    bed.advance_secs(10);
    bed.finish(lease, RELEASED).await;
    assert_eq!((bed.job(id).await.run_at, bed.state(id).await), (bed.now(), State::Ready));
    bed.claim_one("a").await;
    bed.advance_secs(70);
    assert_eq!(bed.sweep().await.expired, 1);
    assert_eq!((bed.job(id).await.run_at, bed.state(id).await), (bed.now(), State::Ready));
    bed.finish(bed.claim_one("a").await.lease, FAILED_FOR_GOOD).await;
    bed.advance_secs(10);
    let requeued = bed.store.act(id, Action::Requeue).await.expect("it is dead");
    assert_eq!((requeued.run_at, requeued.failures, requeued.attempt), (bed.now(), 0, 3));
}

/// F1: an expiry is guarded by the lease as a finish is.
#[tokio::test]
async fn a_lease_holds_until_the_sweeper_expires_it() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    bed.advance_secs(600);
    assert_eq!(bed.complete(lease).await, Ok, "late, but nobody has taken the job away");
    assert_eq!(bed.sweep().await.expired, 0);
    assert_eq!(bed.state(id).await, State::Completed);
}

/// F1, F12: nothing late has an effect.
#[tokio::test]
async fn a_finish_after_the_expiry_is_lost_and_counted() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    bed.advance_secs(59);
    assert_eq!(bed.sweep().await.expired, 0);
    bed.advance_secs(1);
    assert_eq!(bed.sweep().await.expired, 1);
    let expired = bed.job(id).await;
    assert_eq!((expired.state, expired.failures), (State::Ready, 1), "ready at once");
    let error = expired.last_error.expect("a try was used up");
    assert_eq!((error.attempt, error.outcome), (1, AttemptResult::LeaseExpired));
    for _ in 0..2 {
        assert_eq!(bed.complete(lease).await, LeaseLost);
    }
    assert_eq!(bed.renew(lease, None).await, LeaseLost);
    assert_eq!(bed.leases_lost("a"), 3);
    assert_eq!(bed.count("a", "k", Count::Completed), 0);
    assert_eq!(bed.count("a", "k", Count::EndedLeaseExpired), 1);
}

#[tokio::test]
async fn the_lease_of_an_earlier_attempt_cannot_end_a_later_one() {
    let bed = Bed::new();
    let (id, first) = running(&bed).await;
    bed.finish(first, RELEASED).await;
    let second = bed.claim_one("a").await.lease;
    assert_eq!(bed.complete(first).await, LeaseLost);
    assert_eq!(bed.finish(first, RELEASED).await, LeaseLost, "even what it has said before");
    assert_eq!(bed.state(id).await, State::Running);
    assert_eq!(bed.complete(second).await, Ok);
}

#[tokio::test]
async fn invented_leases_are_lost_and_counted_where_they_belong() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    let forged = Lease { secret: [0; 16], ..lease };
    assert_eq!(bed.complete(forged).await, LeaseLost);
    let same_key = JobId::new(id.key(), (id.tail() ^ 1).unsigned_abs());
    assert_eq!(bed.complete(Lease { job: same_key, ..lease }).await, LeaseLost);
    let nobody = JobId::new(id.key() + 1, 0);
    assert_eq!(bed.renew(Lease { job: nobody, ..lease }, None).await, LeaseLost);
    assert_eq!((bed.leases_lost("a"), bed.leases_lost("__other__")), (1, 2));
    assert_eq!(bed.state(id).await, State::Running);
    let bed = bed.crash().await;
    assert_eq!((bed.leases_lost("a"), bed.leases_lost("__other__")), (1, 2));
}

#[tokio::test]
async fn a_repeated_finish_is_answered_again_and_counted_once() {
    let bed = Bed::new();
    for outcome in [Outcome::Completed, FAILED, RELEASED, FAILED_FOR_GOOD] {
        let (_, lease) = running(&bed).await;
        for _ in 0..3 {
            assert_eq!(bed.finish(lease, outcome).await, Ok, "{outcome:?}");
        }
        bed.advance_secs(6);
        bed.sweep().await; // until the next round nothing may be ready
        for leased in bed.claim(claim(&["a"], 9)).await {
            bed.finish(leased.lease, FAILED_FOR_GOOD).await;
        }
    }
    assert_eq!(bed.count("a", "k", Count::Completed), 1);
    assert_eq!(bed.count("a", "k", Count::EndedReleased), 1);
    assert_eq!(bed.count("a", "k", Count::Died), 3);
    assert_eq!(bed.leases_lost("a"), 0);
    let (_, lease) = running(&bed).await;
    bed.complete(lease).await;
    assert_eq!(bed.finish(lease, FAILED).await, LeaseLost, "another outcome is no repetition");
}

#[tokio::test]
async fn one_call_may_finish_the_same_lease_twice() {
    let bed = Bed::new();
    let (_, lease) = running(&bed).await;
    let finish = Finish { lease, outcome: Outcome::Completed, result: None, error: None };
    let answers = bed.store.finish(vec![finish.clone(), finish]).await.expect("it answers");
    assert_eq!(answers, [Ok, Ok]);
    assert_eq!(bed.count("a", "k", Count::Completed), 1);
}

#[tokio::test]
async fn who_works_on_a_cancelled_job_is_told_so() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    let job = bed.store.act(id, Action::Cancel).await.expect("running jobs can be cancelled");
    assert_eq!(
        (job.state, job.expires_at, job.ended_at),
        (State::Cancelled, None, Some(bed.now()))
    );
    assert_eq!(bed.renew(lease, None).await, Cancelled);
    assert_eq!(bed.complete(lease).await, Cancelled);
    assert_eq!(bed.fail(lease).await, Cancelled);
    assert_eq!(bed.leases_lost("a"), 0);
    assert_eq!(bed.count("a", "k", Count::EndedCancelled), 1);
    assert_eq!(bed.count("a", "k", Count::Completed), 0);
}

#[tokio::test]
async fn renewals_lengthen_a_lease_but_never_past_the_timeout() {
    let bed = Bed::with_policy(|policy| policy.timeout = Some(Duration::from_secs(100)));
    let (id, lease) = running(&bed).await;
    let claimed_at = bed.now();
    bed.advance_secs(50);
    assert_eq!(bed.renew(lease, Some(Duration::from_secs(20))).await, Ok);
    assert_eq!(bed.job(id).await.expires_at, Some(bed.now().after(Duration::from_secs(20))));
    bed.advance_secs(10);
    assert_eq!(bed.renew(lease, None).await, Ok);
    assert_eq!(bed.job(id).await.expires_at, Some(bed.now().after(Duration::from_secs(20))));
    assert_eq!(bed.renew(lease, Some(Duration::from_secs(600))).await, Ok);
    let end = claimed_at.after(Duration::from_secs(100));
    assert_eq!(bed.job(id).await.expires_at, Some(end));
    bed.advance_secs(39);
    assert_eq!(bed.sweep().await.expired, 0);
    bed.advance_secs(1);
    assert_eq!(bed.sweep().await.expired, 1);
    let ended = bed.job(id).await;
    assert_eq!(ended.last_error.expect("a failure").outcome, AttemptResult::TimedOut);
    assert_eq!(ended.run_at, bed.now().after(Duration::from_secs(5)), "it waits its backoff");
    assert_eq!(bed.renew(lease, None).await, LeaseLost);
}

#[tokio::test]
async fn a_lease_is_never_longer_than_the_timeout() {
    let bed = Bed::new();
    let id =
        bed.create(NewJob { timeout: Some(Duration::from_secs(10)), ..job("a", "k") }).await.id;
    bed.claim_one("a").await;
    let end = bed.now().after(Duration::from_secs(10));
    assert_eq!(bed.job(id).await.expires_at, Some(end));
    let bed = bed.crash().await;
    assert_eq!(bed.job(id).await.expires_at, Some(end), "not even after a restart");
}

#[tokio::test]
async fn without_a_timeout_an_attempt_may_be_renewed_for_ever() {
    let bed = Bed::new();
    bed.create(NewJob { timeout: Some(Duration::ZERO), ..job("a", "k") }).await;
    let lease = bed.claim_one("a").await.lease;
    for _ in 0..100 {
        bed.advance_secs(59);
        assert_eq!(bed.renew(lease, None).await, Ok);
        assert_eq!(bed.sweep().await.expired, 0);
    }
}

#[tokio::test]
async fn an_own_worker_ends_its_attempt_at_the_timeout_itself() {
    let bed = Bed::with_policy(|policy| policy.timeout = Some(Duration::from_secs(10)));
    bed.create(job("a", "k")).await;
    let lease = bed.claim(own_claim("a", 1)).await[0].lease;
    bed.advance_secs(30);
    assert_eq!(bed.renew(lease, None).await, Ok);
    bed.advance_secs(50);
    assert_eq!(bed.sweep().await.expired, 0, "it renews until its command is gone");
    assert_eq!(bed.finish(lease, Outcome::TimedOut).await, Ok);
    assert_eq!(bed.count("a", "k", Count::EndedTimedOut), 1);
}

/// F11: leases end by monotonic time.
#[tokio::test]
async fn a_jump_of_the_wall_clock_expires_nothing_and_keeps_nothing_alive() {
    for jump in [DAY_MS, -DAY_MS] {
        let bed = Bed::new();
        running(&bed).await;
        bed.clock.jump(Timestamp(bed.now().0 + jump));
        bed.advance_secs(59);
        assert_eq!(bed.sweep().await.expired, 0, "{jump}");
        bed.advance_secs(1);
        assert_eq!(bed.sweep().await.expired, 1, "{jump}");
    }
}

#[tokio::test]
async fn results_and_errors_are_kept_with_the_job() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    let error = Some("no\nroute".to_owned());
    let failed = Finish { lease, outcome: FAILED, result: None, error };
    bed.store.finish(vec![failed]).await.expect("it answers");
    let job = bed.job(id).await;
    let error = job.last_error.expect("it failed");
    assert_eq!((error.attempt, error.at, error.message.as_str()), (1, bed.now(), "no\nroute"));
    assert_eq!((job.state, job.result), (State::Retrying, None));
    bed.advance_secs(5);
    bed.sweep().await;
    let lease = bed.claim_one("a").await.lease;
    let result = Some(Bytes::from_static(b"[1, 2 ]"));
    let done = Finish { lease, outcome: Outcome::Completed, result: result.clone(), error: None };
    bed.store.finish(vec![done]).await.expect("it answers");
    let job = bed.job(id).await;
    assert_eq!((job.result, job.failures), (result, 1));
    assert_eq!(job.last_error.expect("kept").attempt, 1);
    assert!(bed.list().await[0].result.is_none(), "lists leave out payload and result");
    assert!(bed.list().await[0].payload.is_none());
}

#[tokio::test]
async fn failures_back_off_and_the_last_is_death() {
    let bed = Bed::with_policy(|policy| policy.max_attempts = 3);
    let (id, mut lease) = running(&bed).await;
    for seconds in [5, 10] {
        bed.fail(lease).await;
        let job = bed.job(id).await;
        assert_eq!(job.run_at, bed.now().after(Duration::from_secs(seconds)));
        bed.advance_secs(seconds - 1);
        assert_eq!(bed.sweep().await.promoted, 0);
        bed.advance_secs(1);
        assert_eq!(bed.sweep().await.promoted, 1);
        lease = bed.claim_one("a").await.lease;
    }
    bed.fail(lease).await;
    assert_eq!((bed.state(id).await, bed.job(id).await.failures), (State::Dead, 3));
    assert_eq!(bed.count("a", "k", Count::Retried), 2);
    assert_eq!(bed.count("a", "k", Count::Died), 1);
}

#[tokio::test]
async fn a_worker_may_ask_for_more_time_than_the_backoff() {
    let bed = Bed::new();
    let (id, lease) = running(&bed).await;
    let retry_in = Duration::from_secs(40);
    bed.finish(lease, Outcome::Failed { permanent: false, retry_in }).await;
    assert_eq!(bed.job(id).await.run_at, bed.now().after(retry_in));
    bed.advance_secs(40);
    bed.sweep().await;
    bed.finish(bed.claim_one("a").await.lease, Outcome::Released { retry_in }).await;
    let released = bed.job(id).await;
    assert_eq!((released.state, released.failures), (State::Scheduled, 1));
    assert_eq!(released.run_at, bed.now().after(retry_in));
}

#[tokio::test]
async fn attempts_are_timed_from_claim_to_end() {
    let bed = Bed::new();
    let (_, lease) = running(&bed).await;
    bed.advance_secs(7);
    bed.clock.jump(Timestamp(bed.now().0 - DAY_MS));
    bed.complete(lease).await;
    let cut = bed.metrics.snapshot();
    let queue = cut.queues.iter().find(|queue| &*queue.queue == "a").expect("configured");
    assert_eq!((queue.duration.count, queue.duration.sum), (1, 7.0));
    let row = cut.rows.iter().find(|row| &*row.kind == "k").expect("a row");
    assert_eq!(row.attempt_seconds, 7.0);
}

#[tokio::test]
async fn a_claim_may_ask_for_another_duration() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    let ask = Claim { duration: Some(Duration::from_secs(5)), ..claim(&["a"], 1) };
    bed.claim(ask).await;
    bed.advance_secs(5);
    assert_eq!(bed.sweep().await.expired, 1);
}
