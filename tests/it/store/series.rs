//! Series by queue: configured queues and the first 100 others have their own, the rest shares.

use tallyd::metrics::QueueCut;
use tallyd::store::{LeaseAnswer, NewJob, Unique, UniqueUntil};

use crate::bed::{Bed, RELEASED, job};

/// How many queues outside the configuration have series of their own.
const OWN: usize = 100;

fn name(number: usize) -> String {
    format!("q{number:03}")
}

/// The queues that have series, sorted.
fn with_series(bed: &Bed) -> Vec<String> {
    let queues = bed.metrics.snapshot().queues;
    let mut names: Vec<_> = queues.iter().map(|queue| queue.queue.to_string()).collect();
    names.sort();
    names
}

/// The series that the queues share which have none of their own.
fn shared(bed: &Bed) -> QueueCut {
    let queues = bed.metrics.snapshot().queues.into_iter();
    let mut shared: Vec<_> = queues.filter(|queue| &*queue.queue == "__other__").collect();
    assert_eq!(shared.len(), 1);
    shared.remove(0)
}

/// A job of each of these queues, one a second; none is older than those before.
async fn create_in(bed: &Bed, numbers: std::ops::Range<usize>) {
    for number in numbers {
        bed.create(job(&name(number), "k")).await;
        bed.advance_secs(1);
    }
}

/// The queue `a` is configured.
fn expected(own: impl Iterator<Item = usize>) -> Vec<String> {
    let fixed = ["__other__", "a"].map(str::to_owned).into_iter();
    fixed.chain(own.map(name)).collect()
}

#[tokio::test]
async fn the_first_hundred_queues_have_series_and_the_others_share() {
    let bed = Bed::new();
    create_in(&bed, 0..OWN).await;
    let begin = bed.now();
    assert_eq!(shared(&bed).oldest_ready, None);
    create_in(&bed, OWN..OWN + 2).await;
    assert_eq!(with_series(&bed), expected(0..OWN));
    assert_eq!(shared(&bed).oldest_ready, Some(begin.seconds()), "the oldest of both");

    let [first, second] = [name(OWN), name(OWN + 1)];
    let lease = bed.claim_one(&first).await.lease;
    assert_eq!(shared(&bed).oldest_ready, Some(begin.seconds() + 1.0), "one is left");
    bed.finish(lease, RELEASED).await;
    let again = bed.claim_one(&first).await.lease;
    assert_eq!(bed.complete(lease).await, LeaseAnswer::LeaseLost);
    assert_eq!(bed.complete(again).await, LeaseAnswer::Ok);
    let key = Unique { key: "u".to_owned(), until: UniqueUntil::Gone };
    let unique = NewJob { unique: Some(key), ..job(&second, "k") };
    bed.create(unique.clone()).await;
    assert!(bed.try_create(unique).await.expect("answered").duplicate);
    bed.store.set_paused(&second, true).await.expect("it is there");

    let cut = shared(&bed);
    assert_eq!((cut.leases_lost, cut.duplicates), (1, 1));
    assert_eq!((cut.wait.count, cut.duration.count), (2, 2));
    assert_eq!((cut.paused, cut.workers_limit, cut.depth_limit), (0, 0, None));
    let own =
        bed.metrics.snapshot().queues.into_iter().filter(|queue| &*queue.queue != "__other__");
    assert!(own.map(|queue| queue.leases_lost + queue.duplicates).all(|count| count == 0));

    let bed = bed.restart().await.crash().await;
    assert_eq!(with_series(&bed), expected(0..OWN), "decided once");
    let cut = shared(&bed);
    assert_eq!((cut.leases_lost, cut.duplicates), (1, 1), "kept in the ledger");
    assert_eq!(cut.oldest_ready, Some(begin.seconds() + 1.0));
}

#[tokio::test]
async fn a_forgotten_queue_makes_way_for_new_ones_only() {
    let bed = Bed::with(|config| config.defaults.max_completed = 0);
    create_in(&bed, 0..OWN + 1).await;
    bed.complete(bed.claim_one(&name(0)).await.lease).await;
    bed.sweep().await;
    bed.store.forget(&name(0)).await.expect("it is empty and not configured");
    create_in(&bed, OWN + 1..OWN + 3).await;
    let own = (1..OWN).chain([OWN + 1]);
    assert_eq!(with_series(&bed), expected(own), "no counter is split: what shares goes on so");
}
