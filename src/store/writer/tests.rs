//! A commit that fails, seen by those who wait for it and by who scrapes.

use bytes::Bytes;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;

fn job() -> NewJob {
    NewJob {
        queue: "q".to_owned(),
        kind: "k".to_owned(),
        payload: Bytes::from_static(b"1"),
        priority: 5,
        start: Start::Now,
        max_attempts: None,
        timeout: None,
        unique: None,
        traceparent: None,
    }
}

/// F7: its sync is the last step of a commit; one that fails there has changed pages and counts.
#[tokio::test]
async fn a_commit_that_fails_is_neither_published_nor_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = Config { data: directory.path().join("t.db"), ..Config::default() };
    config.queues.clear();
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(config.clone()));
    let (due, _) = watch::channel(None);
    let clock = Clock::manual(Timestamp(1_700_000_000_000));
    let (mut engine, _readers) =
        sqlite::open(config, clock, metrics.clone(), due).expect("it opens");
    engine.fail_commits();
    let writer = Writer::start(engine, metrics.clone()).expect("it starts");
    for round in 1..=2 {
        let create = || writer.call(job(), Operation::Create);
        let (one, two, three) = tokio::join!(create(), create(), create());
        for answer in [one, two, three] {
            assert!(matches!(answer, Err(StoreError::Stopped(_))), "round {round}: {answer:?}");
        }
        assert!(writer.failure().is_some(), "the daemon is told");
        assert!(metrics.snapshot().rows.is_empty(), "it was published");
    }
}
