//! How long a commit and a scrape hold the lock that they share, with 10,000 series and more:
//! `cargo bench --bench cut`.
//!
//! A scrape reads under the lock and encodes outside it, so `snapshot` is the longest that a scrape
//! can hold up a commit, and `publish` the longest that a commit holds up a scrape.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tallyd::config::Config;
use tallyd::job::State;
use tallyd::metrics::Metrics;
use tallyd::tally::{Counts, QueueDelta, RowId, TallyDelta};

/// The queues that have series of their own, and the kinds in each: the limit of pairs.
const QUEUES: i64 = 100;
const KINDS: i64 = 5;

/// What a commit of so many creates in one pair changes.
fn creates(row: i64, queue: &str, jobs: usize) -> TallyDelta {
    let mut counts = Counts::default();
    (0..jobs).for_each(|_| counts.record_created(State::Ready));
    let queue_delta = QueueDelta { has_series: true, ..QueueDelta::default() };
    TallyDelta {
        rows: vec![(RowId(row), counts)],
        queues: vec![(queue.into(), queue_delta)],
        ..TallyDelta::default()
    }
}

/// Metrics in which every pair that may have series has them.
fn full() -> Metrics {
    let metrics = Metrics::new(Arc::new(Config::default()));
    for queue in 0..QUEUES {
        let name = format!("queue-{queue}");
        for kind in 0..KINDS {
            let row = queue * KINDS + kind + 1;
            let mut delta = creates(row, &name, 1);
            delta.new_rows =
                vec![(RowId(row), name.as_str().into(), format!("kind-{kind}").into())];
            metrics.publish(&delta, 1, 0.001);
        }
    }
    metrics
}

fn cut(criterion: &mut Criterion) {
    let metrics = full();
    let text = metrics.snapshot().to_text();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series > 10_000, "there are {series} series only");
    println!("{series} series");
    criterion.bench_function("snapshot", |bencher| bencher.iter(|| black_box(metrics.snapshot())));
    let batch = creates(7, "queue-1", 64);
    criterion.bench_function("publish 64 creates", |bencher| {
        bencher.iter(|| metrics.publish(black_box(&batch), 64, 0.001));
    });
    let snapshot = metrics.snapshot();
    criterion.bench_function("encode, outside the lock", |bencher| {
        bencher.iter(|| black_box(snapshot.to_text()));
    });
}

criterion_group!(benches, cut);
criterion_main!(benches);
