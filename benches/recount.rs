//! How long a step of the background recount keeps the writer from others, with as many pairs as may
//! be configured: `cargo bench --bench recount`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use tallyd::clock::Clock;
use tallyd::config::Config;
use tallyd::metrics::Metrics;
use tallyd::store::{NewJob, Recounted, Start, Store};
use tokio::runtime::Runtime;

/// The most pairs that may have counts of their own.
const PAIRS: usize = 10_000;

/// A job of each pair, in a hundred queues.
fn jobs() -> Vec<NewJob> {
    let job = |number: usize| NewJob {
        queue: format!("queue-{}", number % 100),
        kind: format!("kind-{number}"),
        payload: Bytes::from_static(b"{}"),
        priority: 5,
        start: Start::Now,
        max_attempts: None,
        timeout: None,
        unique: None,
        traceparent: None,
    };
    (0..PAIRS).map(job).collect()
}

fn recount(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("tallyd.db");
    let config = Arc::new(Config { data, max_pairs: PAIRS, ..Config::default() });
    let metrics = Arc::new(Metrics::new(config.clone()));
    let store = Store::open(config, Clock::system(), metrics).expect("a new store opens");
    let runtime = Runtime::new().expect("it starts");
    runtime.block_on(store.create_batch(jobs())).expect("they are created");
    // One pass: what its steps and its end took.
    let pass = || {
        let (mut steps, mut count) = (Duration::ZERO, 0);
        loop {
            let started = Instant::now();
            let recounted = runtime.block_on(store.recount()).expect("it counts");
            match recounted {
                Recounted::Going => steps += started.elapsed(),
                Recounted::Done(mismatch) => {
                    assert_eq!(mismatch, 0);
                    return (steps / count, started.elapsed());
                }
            }
            count += 1;
        }
    };
    criterion.bench_function("a step of a recount", |bencher| {
        bencher.iter_custom(|passes| (0..passes).map(|_| pass().0).sum());
    });
    criterion.bench_function("its end, with 10,000 pairs", |bencher| {
        bencher.iter_custom(|passes| (0..passes).map(|_| pass().1).sum());
    });
    runtime.block_on(store.close()).expect("it closes");
}

criterion_group!(benches, recount);
criterion_main!(benches);
