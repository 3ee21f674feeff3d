//! How long a commit and a scrape hold the lock that they share, with 10,000 series and more:
//! `cargo bench --bench cut`.
//!
//! A scrape reads under the lock and encodes outside it, so `snapshot` is the longest that a scrape
//! can hold up a commit, and `publish` the longest that a commit holds up a scrape. Beside them, what
//! the prometheus crate's own way would take, all of `gather` under the lock.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use prometheus::{Encoder, TextEncoder};
use tallyd::clock::Timestamp;
use tallyd::config::Config;
use tallyd::job::State;
use tallyd::metrics::{Format, Metrics};
use tallyd::tally::{Counts, Observation, QueueDelta, RowId, TallyDelta};
use uuid::Uuid;

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

/// Attempts of every length, so that each bucket shows one.
fn of_every_length(row: i64) -> Vec<(RowId, Observation)> {
    let seconds = (0..32).map(|power| 0.0005 * 2f64.powi(power));
    let of = |seconds| {
        let job = Uuid::from_u128(row as u128);
        Observation { seconds, at: Timestamp::MAX, job, trace: Some(u128::MAX) }
    };
    seconds.map(|seconds| (RowId(row), of(seconds))).collect()
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
            delta.queues[0].1.durations = of_every_length(row);
            delta.queues[0].1.waits = of_every_length(row).into_iter().map(|(_, o)| o).collect();
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
    for format in [Format::Text, Format::OpenMetrics] {
        criterion.bench_function(&format!("encode as {format:?}, outside the lock"), |bencher| {
            bencher.iter(|| black_box(snapshot.encode(format, |_| true)));
        });
    }
    criterion.bench_function("gather of the prometheus crate", |bencher| {
        bencher.iter(|| black_box(metrics.gather()));
    });
    let families = metrics.gather();
    criterion.bench_function("TextEncoder of the prometheus crate", |bencher| {
        bencher.iter(|| {
            let mut text = Vec::new();
            TextEncoder::new().encode(&families, &mut text).expect("memory takes it");
            black_box(text)
        });
    });
}

criterion_group!(benches, cut);
criterion_main!(benches);
