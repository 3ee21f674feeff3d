//! Claiming: which jobs, how many, and what is said of them.

use std::time::Duration;

use bytes::Bytes;
use tallyd::job::State;
use tallyd::store::{Claim, NewJob};
use tallyd::tally::Count;

use crate::bed::{Bed, RELEASED, claim, job, own_claim};

#[tokio::test]
async fn queues_are_searched_in_the_order_of_the_claim() {
    let bed = Bed::new();
    for queue in ["a", "b", "c", "a"] {
        bed.create(NewJob { priority: if queue == "c" { 0 } else { 5 }, ..job(queue, "k") }).await;
    }
    let claimed = bed.claim(claim(&["b", "unknown", "a"], 2)).await;
    let queues: Vec<_> = claimed.iter().map(|leased| leased.job.queue.as_str()).collect();
    assert_eq!(queues, ["b", "a"]);
    assert_eq!(bed.claim(claim(&["b", "unknown"], 2)).await.len(), 0);
    assert_eq!(bed.claim(claim(&["c", "a"], 9)).await.len(), 2);
}

#[tokio::test]
async fn a_claim_says_what_the_job_is_now() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    bed.advance_secs(3);
    let ask = Claim { duration: Some(Duration::from_secs(20)), ..claim(&["a"], 1) };
    let leased = bed.claim(ask).await.remove(0);
    assert_eq!(leased.duration, Duration::from_secs(20));
    assert_eq!(leased.job.state, State::Running);
    assert_eq!((leased.job.attempt, leased.job.failures), (1, 0));
    assert_eq!(leased.job.claimed_at, Some(bed.now()));
    assert_eq!(leased.job.expires_at, Some(bed.now().after(Duration::from_secs(20))));
    assert_eq!(leased.job.worker.as_deref(), Some("w"));
    assert_eq!(bed.job(id).await, leased.job, "and so it is stored");
    let cut = bed.metrics.snapshot();
    let queue = cut.queues.iter().find(|queue| &*queue.queue == "a").expect("it is configured");
    assert_eq!((queue.wait.count, queue.wait.sum), (1, 3.0), "it waited for 3 s");
    assert_eq!(queue.oldest_ready, None);
}

#[tokio::test]
async fn every_claim_raises_the_attempt_and_none_lowers_it() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    for attempt in 1..=3 {
        let leased = bed.claim_one("a").await;
        assert_eq!(leased.job.attempt, attempt);
        bed.finish(leased.lease, RELEASED).await;
    }
    assert_eq!(bed.count("a", "k", Count::Started), 3);
    assert_eq!(bed.count("a", "k", Count::EndedReleased), 3);
}

#[tokio::test]
async fn what_a_claim_gets_is_bounded_but_one_job_always_comes() {
    let bed = Bed::new();
    for _ in 0..4 {
        bed.create(NewJob { payload: Bytes::from(vec![b'1'; 100_000]), ..job("a", "k") }).await;
    }
    bed.create(job("b", "k")).await;
    let ask = |max_bytes| Claim { max_bytes, ..claim(&["a", "b"], 9) };
    assert_eq!(bed.claim(ask(1)).await.len(), 1);
    assert_eq!(bed.claim(ask(299_000)).await.len(), 2);
    let rest = bed.claim(ask(110_000)).await;
    assert_eq!(rest.len(), 2, "a large one of one queue and a small one of the next");
    assert_eq!(bed.count("a", "k", Count::Running), 4);
}

#[tokio::test]
async fn a_paused_queue_gives_out_nothing_and_goes_on_otherwise() {
    let bed = Bed::new();
    bed.create(job("a", "k")).await;
    let running = bed.claim_one("a").await;
    bed.create(job("a", "k")).await;
    bed.create(crate::bed::later(1)).await;
    assert!(bed.store.set_paused("a", true).await.expect("known").paused);
    assert_eq!(bed.claim(claim(&["a"], 9)).await.len(), 0);
    bed.advance_secs(2);
    assert_eq!(bed.sweep().await.promoted, 1, "promotion goes on");
    bed.complete(running.lease).await;
    assert!(!bed.store.set_paused("a", false).await.expect("known").paused);
    assert_eq!(bed.claim(claim(&["a"], 9)).await.len(), 2);
}

#[tokio::test]
async fn an_own_worker_is_told_when_its_attempt_is_ended_by_others() {
    let bed = Bed::new();
    let id = bed.create(job("a", "k")).await.id;
    bed.create(job("a", "k")).await;
    let own = bed.claim(own_claim("a", 2)).await;
    assert!(!own[0].revoked.is_cancelled());
    bed.store.act(id, tallyd::store::Action::Cancel).await.expect("cancelled");
    assert!(own[0].revoked.is_cancelled(), "before the answer to the cancel");
    assert!(!own[1].revoked.is_cancelled());
    bed.advance_secs(61);
    assert_eq!(bed.sweep().await.expired, 1);
    assert!(own[1].revoked.is_cancelled());
}
