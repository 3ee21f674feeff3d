//! Claims that wait: what wakes them, in which order, and what ends the wait.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tallyd::store::{Action, Claim, Claimed, JobId, StoreError};
use tallyd::tally::Count;

use crate::bed::{Bed, FAILED_FOR_GOOD, RELEASED, claim, ids, job, later};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(300);

type Waiting<'s> = Pin<Box<dyn Future<Output = Result<Claimed, StoreError>> + 's>>;

/// A claim that was handed over, before anything that the test does next, and waits.
async fn waiting(bed: &Bed, claim: Claim) -> Waiting<'_> {
    let mut claim: Waiting<'_> = Box::pin(bed.store.claim(claim, LONG));
    poll_fn(|context| {
        assert!(claim.as_mut().poll(context).is_pending(), "nothing is ready yet");
        Poll::Ready(())
    })
    .await;
    claim
}

async fn got(claim: Waiting<'_>) -> Vec<JobId> {
    ids(&claim.await.expect("a claim answers"))
}

#[tokio::test]
async fn a_new_job_ends_the_wait() {
    let bed = Bed::new();
    let claim = waiting(&bed, claim(&["a"], 1)).await;
    let id = bed.create(job("a", "k")).await.id;
    assert_eq!(got(claim).await, [id]);
}

#[tokio::test]
async fn a_promotion_ends_the_wait() {
    let bed = Bed::new();
    let id = bed.create(later(1)).await.id;
    let claim = waiting(&bed, claim(&["a"], 1)).await;
    bed.advance_secs(1);
    bed.sweep().await;
    assert_eq!(got(claim).await, [id]);
}

#[tokio::test]
async fn a_release_an_expiry_and_a_requeue_end_the_wait() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    let leased = bed.claim_one("a").await;
    let ask = claim(&["a"], 1);
    let released = waiting(&bed, ask.clone()).await;
    bed.finish(leased.lease, RELEASED).await;
    assert_eq!(got(released).await, [id]);
    let expired = waiting(&bed, ask.clone()).await;
    bed.advance_secs(61);
    bed.sweep().await;
    let leased = expired.await.expect("it answers").jobs.remove(0);
    assert_eq!(leased.job.failures, 1);
    bed.finish(leased.lease, FAILED_FOR_GOOD).await;
    let requeued = waiting(&bed, ask).await;
    bed.store.act(id, Action::Requeue).await.expect("it is dead");
    assert_eq!(got(requeued).await, [id]);
}

#[tokio::test]
async fn the_end_of_a_pause_ends_the_wait() {
    let bed = Bed::new();
    bed.store.set_paused("a", true).await.expect("known");
    let id = bed.create(job("a", "k")).await.id;
    let claim = waiting(&bed, claim(&["a"], 1)).await;
    bed.store.set_paused("a", false).await.expect("known");
    assert_eq!(got(claim).await, [id]);
}

#[tokio::test]
async fn a_wait_for_an_unknown_queue_ends_when_it_is_made() {
    let bed = Bed::new();
    let claim = waiting(&bed, claim(&["new"], 1)).await;
    let id = bed.create(job("new", "k")).await.id;
    assert_eq!(got(claim).await, [id]);
}

#[tokio::test]
async fn who_has_waited_longest_comes_first() {
    let bed = Bed::new();
    let first = waiting(&bed, claim(&["b", "a"], 1)).await;
    let second = waiting(&bed, claim(&["a"], 1)).await;
    let third = waiting(&bed, claim(&["a"], 1)).await;
    let batch = bed.store.create_batch(vec![job("a", "k"); 2]).await.expect("created").ids;
    assert_eq!(got(first).await, [batch[0]]);
    assert_eq!(got(second).await, [batch[1]]);
    let last = bed.create(job("a", "k")).await.id;
    assert_eq!(got(third).await, [last]);
}

#[tokio::test]
async fn a_waiting_claim_takes_its_queues_in_order_and_all_that_came() {
    let bed = Bed::new();
    let claim = waiting(&bed, claim(&["b", "a"], 3)).await;
    let batch = vec![job("a", "k"), job("b", "k"), job("a", "k"), job("a", "k")];
    let ids = bed.store.create_batch(batch).await.expect("created").ids;
    assert_eq!(got(claim).await, [ids[1], ids[0], ids[2]]);
}

#[tokio::test]
async fn who_waits_comes_before_who_asks_now() {
    let bed = Bed::new();
    let first = waiting(&bed, claim(&["a"], 1)).await;
    // Handed over together, so that both may be in one batch.
    let (created, second) = tokio::join!(
        bed.store.create(job("a", "k")),
        bed.store.claim(claim(&["a"], 1), Duration::ZERO),
    );
    assert_eq!(got(first).await, [created.expect("created").job.id]);
    assert_eq!(second.expect("it answers").jobs.len(), 0);
}

/// A claim and the job that it waits for may be applied in one transaction, in either order.
#[tokio::test]
async fn a_job_that_comes_together_with_a_claim_is_not_missed() {
    let bed = Bed::new();
    for _ in 0..300 {
        let claim = bed.store.claim(claim(&["a"], 1), LONG);
        let both = async { tokio::join!(claim, bed.store.create(job("a", "k"))) };
        let (claimed, created) =
            tokio::time::timeout(LONG / 10, both).await.expect("the claim is woken");
        let id = created.expect("created").job.id;
        assert_eq!(ids(&claimed.expect("it answers")), [id]);
    }
}

#[tokio::test]
async fn a_wait_that_is_over_answers_with_nothing() {
    let bed = Bed::new();
    let wait = Duration::from_millis(5);
    assert_eq!(bed.store.claim(claim(&["a"], 1), wait).await.expect("it answers").jobs.len(), 0);
    bed.create(job("a", "k")).await;
    bed.claim_one("a").await;
    assert_eq!(bed.count("a", "k", Count::Started), 1, "nothing was leased to who had gone");
}

#[tokio::test]
async fn jobs_leased_to_a_caller_who_has_gone_are_released() {
    let bed = Bed::new();
    for round in 1..=50 {
        let claim = waiting(&bed, claim(&["a"], 1)).await;
        let id = bed.create(job("a", "k")).await.id;
        drop(claim); // whether or not the answer has come by now
        let leased = bed.claim_one("a").await;
        assert_eq!((leased.job.id, leased.job.attempt), (id, 2));
        assert_eq!(leased.job.failures, 0, "it used up no try");
        bed.complete(leased.lease).await;
        assert_eq!(bed.count("a", "k", Count::EndedReleased), round);
    }
}

#[tokio::test]
async fn a_claim_given_up_before_the_close_uses_up_no_try() {
    let mut bed = Bed::new();
    for _ in 0..20 {
        let mut own = claim(&["a"], 1);
        own.own = true;
        let claim = waiting(&bed, own).await;
        let id = bed.create(job("a", "k")).await.id;
        drop(claim);
        bed = bed.restart().await;
        assert_eq!(bed.job(id).await.failures, 0);
        bed.complete(bed.claim_one("a").await.lease).await;
    }
}

#[tokio::test]
async fn a_drain_ends_all_waits_and_allows_no_new_ones() {
    let bed = Bed::new();
    let one = waiting(&bed, claim(&["a"], 1)).await;
    let other = waiting(&bed, claim(&["b", "c"], 1)).await;
    bed.store.stop_waiting().await.expect("it answers");
    assert_eq!(got(one).await, []);
    assert_eq!(got(other).await, []);
    assert_eq!(got(Box::pin(bed.store.claim(claim(&["a"], 1), LONG))).await, []);
    bed.create(job("a", "k")).await;
    assert_eq!(bed.claim(claim(&["a"], 1)).await.len(), 1, "what is ready can still be claimed");
}

#[tokio::test]
async fn the_close_of_the_store_ends_waits_with_an_error() {
    let bed = Bed::new();
    let claim = waiting(&bed, claim(&["a"], 1)).await;
    bed.store.close().await.expect("it closes");
    assert!(matches!(claim.await, Err(StoreError::Stopped(_))));
}
