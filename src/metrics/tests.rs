//! The two ways to read the metrics agree, and neither can be confused by names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prometheus::{Encoder, TextEncoder};

use super::*;
use crate::clock::Timestamp;
use crate::config::{ExecConfig, Policy, QueueConfig, Runner};
use crate::tally::{Count, Counts, OTHER, QueueCounts, QueueDelta, RowId, TallyDelta, Totals};

/// Names that an encoder could stumble over; the server would refuse most of them.
const HOSTILE: [&str; 5] = ["a\"b", "back\\slash", "new\nline", "é\u{1f980}", "a,kind=\"k\""];

fn config() -> Config {
    let policy = Policy { max_depth: Some(7), ..Policy::default() };
    let command = ExecConfig { command: vec!["true".into()], env: BTreeMap::new(), dir: None };
    let exec = QueueConfig { runner: Runner::Exec(command), ..QueueConfig::leased(policy) };
    let mut config = Config::default();
    config.queues.insert("configured".into(), exec);
    config
}

fn metrics() -> Metrics {
    Metrics::new(Arc::new(config()))
}

fn name(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn counts(seed: i64) -> Counts {
    let mut counts = Counts::default();
    for (index, (count, _)) in Count::ALL.iter().enumerate() {
        counts[*count] = seed * 100 + index as i64;
    }
    counts
}

fn queue_delta(seed: i64) -> QueueDelta {
    QueueDelta {
        counts: QueueCounts { leases_lost: seed, duplicates: seed + 1, ..<_>::default() },
        paused: seed % 2 == 0,
        oldest_ready: (seed % 3 != 0).then_some(Timestamp(1_700_000_000_123 + seed)),
        waits: vec![0.0005, 0.1, 3.5 * seed as f64, 1e6],
        durations: vec![(RowId(seed), 0.25), (RowId(seed), 1e-9)],
    }
}

/// A batch with a row and a queue for each of these (queue, kind).
fn batch(pairs: &[(&str, &str)]) -> TallyDelta {
    let mut delta = TallyDelta::default();
    for (index, (queue, kind)) in pairs.iter().enumerate() {
        let seed = index as i64 + 1;
        delta.new_rows.push((RowId(seed), name(queue), name(kind)));
        delta.rows.push((RowId(seed), counts(seed)));
        if *queue != OTHER {
            delta.queues.push((name(queue), queue_delta(seed)));
        }
    }
    delta.totals =
        Totals { promoted: 1, expired: 2, pruned: 3, overflow_jobs: 4, leases_lost_elsewhere: 5 };
    delta
}

/// Everything that a daemon can do to its metrics.
fn used() -> Metrics {
    let metrics = metrics();
    let mut pairs = vec![("configured", "k"), ("a", "bc"), ("ab", "c"), (OTHER, OTHER)];
    pairs.extend(HOSTILE.map(|text| (text, text)));
    metrics.publish(&batch(&pairs), 17, 0.003);
    for (reason, _) in Rejected::ALL {
        metrics.rejected(reason);
    }
    metrics.store_error();
    metrics.set_store_files(StoreFiles { size_bytes: 1 << 40, wal_bytes: 3, free_bytes: u64::MAX });
    metrics.set_sweeper_last_run(Timestamp(1_700_000_000_456));
    metrics.set_tally_mismatch(-2);
    for route in ["/v1/jobs/{id}", "odd\"\\\nroute"] {
        metrics.http_request(route, "GET", 200, 0.02);
        metrics.http_request(route, "other", 404, 90_000.0);
    }
    std::mem::forget(metrics.http_connection());
    metrics
}

/// The samples of a text: their names with labels in the order of their names, and their values.
///
/// What the process itself says changes between two readings; of that only the names count.
fn samples(text: &str) -> BTreeMap<(String, Vec<String>), String> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = split_labels(labels.strip_suffix('}').expect("labels end"));
        labels.sort();
        let value: f64 = value.parse().expect("a number");
        let value = if name.starts_with("process_") { "?".into() } else { value.to_string() };
        let before = samples.insert((name.to_owned(), labels), value);
        assert!(before.is_none(), "{line} comes twice");
    }
    samples
}

/// Splits at the commas between quoted values.
fn split_labels(labels: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for character in labels.chars() {
        if character == ',' && !quoted {
            all.push(String::new());
            continue;
        }
        quoted ^= character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        all.last_mut().expect("there is one").push(character);
    }
    all.retain(|label| !label.is_empty());
    all
}

fn gathered(metrics: &Metrics) -> String {
    let mut text = Vec::new();
    TextEncoder::new().encode(&metrics.gather(), &mut text).expect("it can be encoded");
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn the_registry_and_the_snapshot_agree_sample_for_sample() {
    for metrics in [metrics(), used()] {
        let (one, other) = (gathered(&metrics), metrics.snapshot().to_text());
        let (one, other) = (samples(&one), samples(&other));
        for (series, value) in &one {
            assert_eq!(other.get(series), Some(value), "{series:?} of the registry");
        }
        assert_eq!(one.len(), other.len(), "and the snapshot has no others");
    }
}

#[test]
fn both_describe_the_families_alike() {
    let metrics = used();
    let comments = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(comments(&gathered(&metrics)), comments(&metrics.snapshot().to_text()));
}

#[test]
fn a_used_daemon_exports_the_catalogue_and_nothing_else() {
    let text = used().snapshot().to_text();
    let exported: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let described = |metric: &Metric| format!("{} {}", metric.name, metric.kind.name());
    assert_eq!(exported, CATALOGUE.iter().map(described).collect::<Vec<_>>());
    for (name, labels) in samples(&text).into_keys() {
        let base = |suffix| name.strip_suffix(suffix).unwrap_or(&name);
        let metric = CATALOGUE.iter().find(|metric| {
            metric.name == name
                || metric.kind == Type::Histogram
                    && ["_bucket", "_sum", "_count"].map(base).contains(&metric.name)
        });
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        let mut wanted: Vec<_> = metric.labels.to_vec();
        wanted.extend(name.ends_with("_bucket").then_some("le"));
        wanted.sort_unstable();
        let names: Vec<_> =
            labels.iter().map(|label| label.split('=').next().unwrap_or_default()).collect();
        assert_eq!(names, wanted, "labels of {name}");
    }
}

#[test]
fn pairs_whose_names_run_together_alike_are_series_of_their_own() {
    let text = used().snapshot().to_text();
    for line in [
        "tallyd_jobs_created_total{queue=\"a\",kind=\"bc\"} 200",
        "tallyd_jobs_created_total{queue=\"ab\",kind=\"c\"} 300",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    assert_eq!(
        samples(&text).keys().filter(|(name, _)| name == "tallyd_jobs_died_total").count(),
        9
    );
}

#[test]
fn label_values_are_escaped_and_nothing_else_is() {
    let text = used().snapshot().to_text();
    let created = |label: &str| format!("tallyd_jobs_created_total{{queue={label},kind={label}}} ");
    for label in
        ["\"a\\\"b\"", "\"back\\\\slash\"", "\"new\\nline\"", "\"é🦀\"", "\"a,kind=\\\"k\\\"\""]
    {
        let series = created(label);
        assert_eq!(text.matches(&series).count(), 1, "{series}");
    }
    assert!(
        text.lines().all(|line| line.starts_with('#') || line.starts_with(char::is_alphabetic))
    );
}

#[test]
fn all_nineteen_series_of_a_pair_come_with_its_first_job() {
    let metrics = metrics();
    let mut delta = TallyDelta::default();
    delta.new_rows.push((RowId(1), name("q"), name("k")));
    metrics.publish(&delta, 1, 0.0);
    let text = metrics.snapshot().to_text();
    let of_pair = text.lines().filter(|line| line.contains("queue=\"q\",kind=\"k\""));
    let lines: Vec<_> = of_pair.filter(|line| !line.contains("attempt_seconds")).collect();
    assert_eq!(lines.len(), 19, "{lines:#?}");
    assert!(lines.iter().all(|line| line.ends_with(" 0")));
}

#[test]
fn a_gauge_that_says_nothing_is_absent() {
    let metrics = metrics();
    let ready = QueueDelta { oldest_ready: Some(Timestamp(1_500)), ..QueueDelta::default() };
    let oldest = |queue: &str, delta: &QueueDelta| {
        let queues = vec![(name(queue), delta.clone())];
        metrics.publish(&TallyDelta { queues, ..TallyDelta::default() }, 1, 0.0);
        let text = metrics.snapshot().to_text();
        assert_eq!(samples(&gathered(&metrics)).len(), samples(&text).len());
        text.lines().find(|line| line.starts_with("tallyd_queue_oldest")).map(str::to_owned)
    };
    let series = "tallyd_queue_oldest_ready_timestamp_seconds{queue=\"q\"} 1.5";
    assert_eq!(oldest("q", &ready).as_deref(), Some(series));
    assert_eq!(oldest("q", &QueueDelta::default()), None);
    let limits = |queue: &str| {
        let text = metrics.snapshot().to_text();
        let series = format!("tallyd_queue_depth_limit{{queue=\"{queue}\"}}");
        text.lines().find_map(|line| line.strip_prefix(&series)).map(str::to_owned)
    };
    assert_eq!(oldest("configured", &QueueDelta::default()), None);
    assert_eq!((limits("configured").as_deref(), limits("q")), (Some(" 7"), None));
}

#[test]
fn queues_beyond_the_first_hundred_share_their_series() {
    let metrics = metrics();
    let queue = |number: usize| name(&format!("q{number}"));
    let publish = |number: usize, lost: i64, ready: Option<i64>| {
        let counts = QueueCounts { leases_lost: lost, ..QueueCounts::default() };
        let oldest_ready = ready.map(Timestamp);
        let delta = QueueDelta { counts, oldest_ready, ..QueueDelta::default() };
        let queues = vec![(queue(number), delta)];
        metrics.publish(&TallyDelta { queues, ..TallyDelta::default() }, 1, 0.0);
    };
    for number in 0..103 {
        publish(number, 1, Some(number as i64 * 1_000));
    }
    let cut = |metrics: &Metrics, queue: &str| {
        metrics.snapshot().queues.into_iter().find(|cut| &*cut.queue == queue)
    };
    assert_eq!(metrics.snapshot().queues.len(), 101);
    assert!(cut(&metrics, "q99").is_some() && cut(&metrics, "q100").is_none());
    let other = cut(&metrics, OTHER).expect("always there");
    assert_eq!((other.leases_lost, other.oldest_ready), (3, Some(100.0)));
    publish(100, 1, None);
    publish(50, 1, None);
    let other = cut(&metrics, OTHER).expect("always there");
    assert_eq!((other.leases_lost, other.oldest_ready), (4, Some(101.0)));
    assert_eq!(cut(&metrics, "q50").map(|cut| cut.leases_lost), Some(2));
    let configured = vec![(name("configured"), QueueDelta::default())];
    metrics.publish(&TallyDelta { queues: configured, ..TallyDelta::default() }, 1, 0.0);
    assert!(cut(&metrics, "configured").is_some(), "configured queues are not among the hundred");
}

#[test]
fn a_forgotten_queue_takes_its_series_along() {
    let metrics = metrics();
    metrics.publish(&batch(&[("q", "k"), ("r", "k")]), 1, 0.0);
    let forgotten = vec![(name("q"), vec![RowId(1)])];
    metrics.publish(&TallyDelta { forgotten, ..TallyDelta::default() }, 1, 0.0);
    let text = metrics.snapshot().to_text();
    assert!(!text.contains("queue=\"q\"") && text.contains("queue=\"r\""));
    assert_eq!(samples(&gathered(&metrics)).len(), samples(&text).len());
    metrics.publish(&batch(&[("q", "k")]), 1, 0.0);
    let again = metrics.snapshot();
    let row = again.rows.iter().find(|row| &*row.queue == "q").expect("made again");
    assert_eq!(row.counts[Count::Created], 100, "from the start");
}

#[test]
fn a_snapshot_does_not_change_any_more() {
    let metrics = used();
    let before = metrics.snapshot();
    let (copy, text) = (before.clone(), before.to_text());
    metrics.publish(&batch(&[("configured", "k")]), 3, 0.5);
    metrics.store_error();
    assert_eq!(before, copy);
    assert_eq!(before.to_text(), text);
    assert_ne!(metrics.snapshot().to_text(), text);
}

#[test]
fn counters_begin_with_what_the_ledger_holds() {
    let metrics = metrics();
    metrics.restore(&batch(&[("q", "k"), (OTHER, OTHER)]));
    let cut = metrics.snapshot();
    assert_eq!(cut.rows[0].counts[Count::EndedFailed], 100 + Count::EndedFailed as i64);
    assert_eq!(cut.rows[0].counts[Count::PrunedCompleted], 0, "it has no series");
    assert_eq!((cut.totals.promoted, cut.totals.overflow_jobs), (1, 4));
    let lost = |queue: &str| cut.queues.iter().find(|q| &*q.queue == queue).map(|q| q.leases_lost);
    assert_eq!((lost("q"), lost(OTHER)), (Some(1), Some(5)));
    let value = |name: &str| {
        let family = cut.rest.iter().find(|family| family.name == name).expect("a family");
        family.samples[0].value.clone()
    };
    assert_eq!(value("tallyd_pairs"), RestValue::Number(1.0));
    assert_eq!(value("tallyd_pairs_limit"), RestValue::Number(500.0));
}

/// No reading mixes two batches, however many are published and read at once.
#[test]
fn every_reading_is_one_cut() {
    let metrics = metrics();
    metrics.publish(&batch(&[("q", "k"), ("r", "k")]), 1, 0.0);
    let mut both = TallyDelta::default();
    let mut one_more = Counts::default();
    for (count, _) in Count::ALL {
        one_more[count] = 1;
    }
    both.rows = vec![(RowId(1), one_more), (RowId(2), one_more)];
    both.totals.promoted = 1;
    std::thread::scope(|scope| {
        let publishing = scope.spawn(|| (0..2_000).for_each(|_| metrics.publish(&both, 1, 0.0)));
        while !publishing.is_finished() {
            let cut = metrics.snapshot();
            let promoted = cut.totals.promoted.cast_signed();
            for (row, base) in cut.rows.iter().zip([99, 199]) {
                assert_eq!(row.counts[Count::Created], base + promoted);
                let died = base + promoted + Count::Died as i64;
                assert_eq!(row.counts[Count::Died], died);
            }
        }
    });
    let text = gathered(&metrics);
    assert!(text.contains("tallyd_jobs_created_total{kind=\"k\",queue=\"q\"} 2100"));
}

#[test]
fn histograms_clamp_nothing_from_a_millisecond_to_a_day() {
    let metrics = used();
    let cut = metrics.snapshot();
    let wait = &cut.queues.iter().find(|cut| &*cut.queue == "a").expect("published").wait;
    let bounds: Vec<_> = wait.buckets.iter().map(|(bound, _)| *bound).collect();
    assert_eq!((bounds[0], bounds[bounds.len() - 1]), (0.001, 86_400.0));
    assert!(bounds.is_sorted() && bounds.len() == 16);
    assert_eq!((wait.count, wait.buckets[0].1, wait.buckets[15].1), (4, 1, 3));
    let sum = 0.0005 + 0.1 + 7.0 + 1e6;
    assert!((wait.sum - sum).abs() < 1e-6);
    assert_eq!(Duration::from_secs(86_400).as_secs_f64(), bounds[15]);
}
