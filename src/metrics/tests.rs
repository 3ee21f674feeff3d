//! The snapshot, its text and the registry say the same, whatever the labels are.

use std::panic::{AssertUnwindSafe, catch_unwind};

use prometheus::{Encoder, TextEncoder};
use uuid::Uuid;

use super::*;
use crate::job::State;
use crate::tally::{Counts, OTHER, Observation, QueueCounts, QueueDelta, RowId};

pub(super) fn observation(seconds: f64, job: u128) -> Observation {
    let trace = (job == 8).then_some(0xabc);
    Observation { seconds, at: Timestamp(1_500), job: Uuid::from_u128(job), trace }
}

/// Metrics that have published one job each of these pairs, with something in every family.
pub(super) fn published(pairs: &[(&str, &str)]) -> Metrics {
    let mut config = Config::default();
    config.defaults.max_depth = Some(9);
    let metrics = Metrics::new(Arc::new(config));
    let mut delta = TallyDelta::default();
    for (index, (queue, kind)) in pairs.iter().enumerate() {
        let id = RowId(index as i64 + 1);
        let mut counts = Counts::default();
        (0..=index).for_each(|_| counts.record_created(State::Ready));
        delta.new_rows.push((id, (*queue).into(), (*kind).into()));
        delta.rows.push((id, counts));
        let queue_delta = QueueDelta {
            counts: QueueCounts { leases_lost: 1, duplicates: 2, ..QueueCounts::default() },
            has_series: true,
            paused: index == 0,
            oldest_ready: Some(Timestamp(1_500 + index as i64)),
            waits: vec![observation(0.5, 7), observation(90_000.0, 8)],
            durations: vec![(id, observation(0.25, 9))],
        };
        delta.queues.push(((*queue).into(), queue_delta));
    }
    delta.totals.promoted = 3;
    metrics.publish(&delta, 2, 0.01);
    metrics.http_request("/v1/jobs/{id}", "GET", 200, 0.002);
    metrics.rejected(Rejected::QueueFull);
    metrics
}

/// The sample lines of an exposition in order of their text, without what moves by itself.
fn samples(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_"));
    let mut lines: Vec<String> = lines.map(sorted_labels).collect();
    lines.sort();
    lines
}

/// The encoders order labels differently, which means nothing.
fn sorted_labels(line: &str) -> String {
    let Some((name, rest)) = line.split_once('{') else { return line.to_owned() };
    let (labels, value) = rest.rsplit_once('}').expect("labels end");
    let mut labels: Vec<&str> =
        labels.split("\",").map(|label| label.trim_end_matches('"')).collect();
    labels.sort_unstable();
    format!("{name}{{{}}}{value}", labels.join(","))
}

#[test]
fn the_registry_and_the_snapshot_agree() {
    let metrics = published(&[("a", "bc"), ("ab", "c"), ("emails", OTHER)]);
    let mut gathered = Vec::new();
    TextEncoder::new().encode(&metrics.gather(), &mut gathered).expect("memory takes it");
    let gathered = String::from_utf8(gathered).expect("text");
    let written = metrics.snapshot().to_text();
    assert!(samples(&written).len() > 200, "{written}");
    assert_eq!(samples(&written), samples(&gathered));
}

#[test]
fn pairs_that_look_alike_are_kept_apart() {
    let metrics = published(&[("a", "bc"), ("ab", "c")]);
    let snapshot = metrics.snapshot();
    let created: Vec<_> = snapshot
        .rows
        .iter()
        .map(|row| (&*row.queue, &*row.kind, row.counts[crate::tally::Count::Created]))
        .collect();
    assert_eq!(created, [("a", "bc", 1), ("ab", "c", 2)]);
    let text = snapshot.to_text();
    assert!(text.contains("tallyd_jobs_created_total{queue=\"a\",kind=\"bc\"} 1\n"));
    assert!(text.contains("tallyd_jobs_created_total{queue=\"ab\",kind=\"c\"} 2\n"));
}

#[test]
fn nothing_is_read_after_a_panic_while_publishing() {
    let metrics = published(&[("a", "k")]);
    let row = |id| (RowId(id), Counts::default());
    let delta = TallyDelta { rows: vec![row(1), row(99)], ..TallyDelta::default() };
    let broken = AssertUnwindSafe(|| metrics.publish(&delta, 1, 0.01));
    assert!(catch_unwind(broken).is_err(), "there is no row 99");
    let read = AssertUnwindSafe(|| metrics.snapshot());
    assert!(catch_unwind(read).is_err(), "half of a batch was read");
}

#[test]
fn a_snapshot_stays_as_it_was_read() {
    let metrics = published(&[("a", "k")]);
    let before = metrics.snapshot();
    let copy = before.clone();
    let mut delta = TallyDelta::default();
    let mut counts = Counts::default();
    counts.record_created(State::Ready);
    delta.rows.push((RowId(1), counts));
    metrics.publish(&delta, 1, 0.01);
    assert_eq!(before, copy);
    let created = |snapshot: &Snapshot| snapshot.rows[0].counts[crate::tally::Count::Created];
    assert_eq!((created(&before), created(&metrics.snapshot())), (1, 2));
}

#[test]
fn queues_without_series_of_their_own_count_under_other() {
    let metrics = published(&[("a", "k")]);
    let queue = |oldest| QueueDelta { oldest_ready: oldest, ..QueueDelta::default() };
    let delta = TallyDelta {
        queues: vec![
            ("x".into(), queue(Some(Timestamp(9_000)))),
            ("y".into(), queue(Some(Timestamp(4_000)))),
        ],
        totals: crate::tally::Totals {
            leases_lost_elsewhere: 5,
            duplicates_elsewhere: 6,
            ..Default::default()
        },
        ..TallyDelta::default()
    };
    metrics.publish(&delta, 1, 0.01);
    let snapshot = metrics.snapshot();
    let other = snapshot.queues.last().expect("it is always there");
    assert_eq!((&*other.queue, other.leases_lost, other.duplicates), (OTHER, 5, 6));
    assert_eq!(other.oldest_ready, Some(4.0));
    assert!(!snapshot.queues.iter().any(|queue| ["x", "y"].contains(&&*queue.queue)));
}

#[test]
fn a_forgotten_queue_takes_its_series_along() {
    let metrics = published(&[("a", "k"), ("b", "k")]);
    let forgotten = vec![("a".into(), vec![RowId(1)])];
    metrics.publish(&TallyDelta { forgotten, ..TallyDelta::default() }, 1, 0.01);
    let text = metrics.snapshot().to_text();
    assert!(!text.contains("queue=\"a\""), "{text}");
    assert!(text.contains("tallyd_jobs_created_total{queue=\"b\",kind=\"k\"} 2\n"));
    assert!(text.contains("tallyd_pairs 1\n"));
}

#[test]
fn the_registry_was_told_of_every_family_of_the_projection() {
    let metrics = published(&[("a", "k")]);
    let collected = metrics.projection.cut(Projection::collect);
    let collected: Vec<_> = collected.iter().map(|family| family.name().to_owned()).collect();
    let mut described: Vec<_> =
        projection::descriptions().iter().map(|described| described.fq_name.clone()).collect();
    described.sort();
    assert_eq!(collected, described);
}

#[test]
fn processor_time_is_told_in_parts_of_seconds() {
    let metrics = published(&[("a", "k")]);
    let seconds = || {
        let text = metrics.snapshot().to_text();
        let value = text.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        value.expect("it is exported").parse::<f64>().expect("a number")
    };
    let before = seconds();
    assert!(before > 0.0 && before < seconds(), "writing it took some");
}

#[test]
fn everything_written_is_in_the_catalogue() {
    let text = published(&[("a", "k")]).snapshot().to_text();
    let typed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let known: Vec<String> =
        CATALOGUE.iter().map(|metric| format!("{} {}", metric.name, metric.kind.name())).collect();
    assert_eq!(typed, known, "each family once, in the order of the catalogue");
}
