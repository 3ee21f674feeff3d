//! Operations that share a commit: each is judged by what the ones before it did, and none by what
//! becomes of another.

use rusqlite::Connection;
use tallyd::job::{Outcome, State};
use tallyd::metrics::RestValue;
use tallyd::store::{
    Action, Finish, JobId, Lease, LeaseAnswer, NewJob, StoreError, Unique, UniqueUntil,
};
use tallyd::tally::Count;
use tokio::task::JoinSet;

use crate::bed::{Bed, claim, job, policy_of_a};

/// Keeps the writer busy until it is dropped: what is asked meanwhile shares the next commit.
struct Held(Connection);

impl Held {
    fn new(bed: &Bed) -> Self {
        let other = Connection::open(bed.file()).expect("another program can open the file");
        other.execute_batch("BEGIN IMMEDIATE").expect("nobody writes");
        Self(other)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").expect("it was begun");
    }
}

/// How many commits there were that changed anything.
fn commits(bed: &Bed) -> u64 {
    let snapshot = bed.metrics.snapshot();
    let family = snapshot.rest.iter().find(|f| f.name == "tallyd_store_commit_operations");
    match &family.expect("it is exported").samples[0].value {
        RestValue::Histogram(cut) => cut.count,
        RestValue::Number(_) => panic!("it is a histogram"),
    }
}

/// Holds the writer up by another question until all that is `asked` was handed over.
async fn in_one_commit<R>(bed: &Bed, asked: impl Future<Output = R>) -> R {
    let before = commits(bed);
    let held = Held::new(bed);
    let first = tokio::spawn({
        let store = bed.store.clone();
        async move { store.set_paused("other", false).await }
    });
    tokio::task::yield_now().await;
    // This runtime has one thread: after two rounds each task has handed its operation over.
    let mut asked = std::pin::pin!(asked);
    for _ in 0..2 {
        tokio::select! {
            biased;
            _ = &mut asked => panic!("nothing is answered while the store is held"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(held);
    let answers = asked.await;
    assert_eq!(first.await.expect("it ends"), Err(StoreError::NoSuchQueue("other".to_owned())));
    assert_eq!(commits(bed), before + 1, "all of it was one commit");
    answers
}

/// The answers to creates that were handed over one after the other.
async fn create_all(bed: &Bed, jobs: Vec<NewJob>) -> Vec<Result<JobId, StoreError>> {
    let mut creates = JoinSet::new();
    for (index, job) in jobs.into_iter().enumerate() {
        let store = bed.store.clone();
        creates.spawn(async move { (index, store.create(job).await.map(|made| made.job.id)) });
    }
    let mut answers = creates.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[tokio::test]
async fn limits_count_what_the_same_commit_has_added() {
    let bed = Bed::with(|config| {
        policy_of_a(config).max_depth = Some(10);
        config.max_queues = 4;
        config.max_pairs = 3;
    });
    let jobs = (0..50).map(|_| job("a", "k")).collect();
    let answers = in_one_commit(&bed, create_all(&bed, jobs)).await;
    let full = |depth| StoreError::QueueFull { queue: "a".to_owned(), depth, limit: 10 };
    assert!(answers[..10].iter().all(Result::is_ok), "{answers:?}");
    assert!(answers[10..].iter().all(|answer| *answer == Err(full(10))), "{answers:?}");

    let jobs = (0..6).map(|number| job(&format!("q{number}"), "k")).collect();
    let answers = in_one_commit(&bed, create_all(&bed, jobs)).await;
    let made = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(made, 3, "with `a` there are four queues: {answers:?}");
    assert_eq!(bed.count("__other__", "__other__", Count::Created), 1, "and three pairs");
    assert_eq!(bed.mismatch().await, 0);
}

#[tokio::test]
async fn one_key_makes_one_job_in_a_commit_too() {
    let bed = Bed::new();
    let unique = || Unique { key: "key".to_owned(), until: UniqueUntil::Gone };
    let jobs = (0..20).map(|_| NewJob { unique: Some(unique()), ..job("a", "k") }).collect();
    let answers = in_one_commit(&bed, create_all(&bed, jobs)).await;
    let first = answers[0].clone().expect("created");
    assert!(answers.iter().all(|answer| *answer == Ok(first)), "{answers:?}");
    assert_eq!(bed.count("a", "k", Count::Created), 1);
}

#[tokio::test]
async fn a_refusal_leaves_the_others_of_its_commit_alone() {
    let bed = Bed::with_policy(|policy| policy.max_depth = Some(3));
    let running = bed.create(job("a", "k")).await.id;
    let lease = bed.claim_one("a").await.lease;
    let finish = |lease| Finish { lease, outcome: Outcome::Completed, result: None, error: None };
    let invented = Lease { secret: [7; 16], ..lease };
    let store = &bed.store;
    let all = async {
        tokio::join!(
            store.create(job("a", "k")),
            store.act(running, Action::Discard),
            store.create_batch(vec![job("a", "k"), job("a", "k"), job("a", "k")]),
            store.finish(vec![finish(invented), finish(lease), finish(lease)]),
            store.act(running, Action::Cancel),
            store.claim(claim(&["a"], 5), std::time::Duration::ZERO),
            store.forget("a"),
        )
    };
    let (created, discarded, batch, finished, cancelled, claimed, forgotten) =
        in_one_commit(&bed, all).await;
    let created = created.expect("there is room").job.id;
    assert!(matches!(discarded, Err(StoreError::InvalidTransition(_))), "{discarded:?}");
    assert!(matches!(batch, Err(StoreError::InBatch { index: 2, .. })), "{batch:?}");
    let answers = [LeaseAnswer::LeaseLost, LeaseAnswer::Ok, LeaseAnswer::Ok];
    assert_eq!(finished.expect("answered"), answers);
    assert!(matches!(cancelled, Err(StoreError::InvalidTransition(_))), "{cancelled:?}");
    let claimed: Vec<_> = claimed.expect("answered").jobs.iter().map(|job| job.job.id).collect();
    assert_eq!(claimed, [created], "nothing of the batch is there");
    assert_eq!(forgotten, Err(StoreError::QueueConfigured("a".to_owned())));
    assert_eq!(bed.state(running).await, State::Completed);
    assert_eq!(bed.count("a", "k", Count::Created), 2);
    assert_eq!(bed.leases_lost("a"), 1);
    assert_eq!(bed.mismatch().await, 0);
}
