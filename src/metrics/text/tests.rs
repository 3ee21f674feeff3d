//! Both formats say the same, each in its own way, and cost no more memory than they should.

use std::collections::BTreeSet;

use allocation_counter::measure;

use super::*;
use crate::metrics::catalogue::{OPERATIONS, SECONDS};
use crate::metrics::tests::{observation, published};
use crate::tally::{QueueDelta, TallyDelta};

fn both(pairs: &[(&str, &str)]) -> [String; 2] {
    let snapshot = published(pairs).snapshot();
    [Format::Text, Format::OpenMetrics].map(|format| snapshot.encode(format, |_| true))
}

/// The samples of an exposition, without what OpenMetrics alone has.
fn samples(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let plain = lines.map(|line| line.split(" # ").next().expect("a part").replace(".0\"}", "\"}"));
    plain.collect()
}

#[test]
fn both_formats_carry_the_same_samples() {
    let [text, open_metrics] = both(&[("a", "bc"), ("emails", "welcome")]);
    assert!(samples(&text).len() > 200);
    assert_eq!(samples(&text), samples(&open_metrics));
    let count = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(count(&text), count(&open_metrics));
}

#[test]
fn families_of_open_metrics_have_the_names_of_its_standard() {
    let [text, open_metrics] = both(&[("a", "k")]);
    assert!(text.contains("# TYPE tallyd_jobs_created_total counter\n"));
    assert!(open_metrics.contains("# HELP tallyd_jobs_created Jobs created.\n"));
    assert!(open_metrics.contains("# TYPE tallyd_jobs_created counter\n"));
    assert!(open_metrics.contains("\ntallyd_jobs_created_total{queue=\"a\",kind=\"k\"} 1\n"));
    assert!(open_metrics.contains("# TYPE tallyd_job_wait_seconds histogram\n"));
    assert!(open_metrics.ends_with("\n# EOF\n") && !text.contains("EOF"));
    let counters = CATALOGUE.iter().filter(|metric| metric.kind == Type::Counter);
    assert!(counters.into_iter().all(|metric| metric.name.ends_with("_total")));
}

#[test]
fn bounds_are_canonical_in_open_metrics() {
    let [text, open_metrics] = both(&[("a", "k")]);
    let bounds = |text: &str| -> Vec<String> {
        let buckets = text.lines().filter_map(|line| line.strip_prefix("tallyd_job_wait_seconds_"));
        let bounds = buckets.filter(|line| line.contains("{queue=\"a\"")).filter_map(|line| {
            Some(line.split_once("le=\"")?.1.split_once('"').expect("it ends").0.to_owned())
        });
        bounds.collect()
    };
    assert_eq!(bounds(&text)[..4], ["0.001", "0.0025", "0.005", "0.01"]);
    assert_eq!(
        bounds(&text)[7..],
        ["1", "2.5", "10", "60", "300", "1800", "7200", "21600", "86400", "+Inf"]
    );
    assert_eq!(bounds(&open_metrics)[..4], ["0.001", "0.0025", "0.005", "0.01"]);
    assert_eq!(
        bounds(&open_metrics)[7..],
        ["1.0", "2.5", "10.0", "60.0", "300.0", "1800.0", "7200.0", "21600.0", "86400.0", "+Inf"]
    );
    // Beyond, canonical numbers are written with an exponent.
    assert!(SECONDS.iter().chain(OPERATIONS).all(|bound| (1e-4..1e6).contains(bound)));
}

#[test]
fn buckets_show_the_job_that_they_counted_last() {
    let metrics = published(&[("a", "k")]);
    let again = QueueDelta {
        has_series: true,
        waits: vec![observation(0.9, 77), observation(1.0, 78)],
        ..QueueDelta::default()
    };
    let delta = TallyDelta { queues: vec![("a".into(), again)], ..TallyDelta::default() };
    metrics.publish(&delta, 1, 0.01);
    let snapshot = metrics.snapshot();
    let open_metrics = snapshot.encode(Format::OpenMetrics, |_| true);
    let lines: Vec<_> = open_metrics.lines().filter_map(|line| line.split_once(" # ")).collect();
    let job = |number: u128| format!("00000000-0000-0000-0000-{number:012x}");
    let bucket = |of: &str, bound: &str, count: u32| {
        format!("tallyd_{of}_seconds_bucket{{queue=\"a\",le=\"{bound}\"}} {count}")
    };
    let (last, traced) = (job(78), format!("{}\",trace_id=\"{:032x}", job(8), 0xabc));
    let expected = [
        (bucket("job_wait", "1.0", 3), format!("{{job_id=\"{last}\"}} 1 1.5")),
        (bucket("job_wait", "+Inf", 4), format!("{{job_id=\"{traced}\"}} 90000 1.5")),
        (bucket("attempt_duration", "0.25", 1), format!("{{job_id=\"{}\"}} 0.25 1.5", job(9))),
    ];
    let expected: Vec<_> = expected.iter().map(|(line, of)| (&**line, &**of)).collect();
    assert_eq!(lines, expected);
    assert!(traced.len() + "job_id=\"\"".len() <= 128, "the most that a parser must take");
    assert!(!snapshot.to_text().contains(" # "));
}

#[test]
fn label_values_are_escaped_in_both_formats() {
    for text in both(&[("q\"\\\nü{}=,", "k")]) {
        let escaped = "tallyd_jobs_created_total{queue=\"q\\\"\\\\\\nü{}=,\",kind=\"k\"} 1\n";
        assert!(text.contains(escaped), "{text}");
    }
}

#[test]
fn help_is_escaped_as_each_format_wants_it() {
    const ODD: Metric = Metric { help: "a \"b\"\\\nc", ..catalogue::PAIRS };
    let help = |format| {
        let mut writer = Writer { out: String::new(), format };
        writer.header(&ODD);
        writer.out
    };
    let kind = "# TYPE tallyd_pairs gauge\n";
    assert_eq!(help(Format::Text), format!("# HELP tallyd_pairs a \"b\"\\\\\\nc\n{kind}"));
    let quoted = format!("# HELP tallyd_pairs a \\\"b\\\"\\\\\\nc\n{kind}");
    assert_eq!(help(Format::OpenMetrics), quoted);
}

#[test]
fn label_pairs_that_look_alike_stay_apart_in_both_formats() {
    for text in both(&[("a", "bc"), ("ab", "c")]) {
        assert!(text.contains("tallyd_jobs_created_total{queue=\"a\",kind=\"bc\"} 1\n"));
        assert!(text.contains("tallyd_jobs_created_total{queue=\"ab\",kind=\"c\"} 2\n"));
    }
}

#[test]
fn a_family_is_written_alone_under_any_of_its_names() {
    let snapshot = published(&[("a", "k")]).snapshot();
    let families = |name: &str| {
        let text = snapshot.encode(Format::OpenMetrics, |metric| metric.is_called(name));
        let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        lines.map(|line| line.split(' ').next().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    for name in ["tallyd_jobs_created", "tallyd_jobs_created_total"] {
        assert_eq!(families(name), ["tallyd_jobs_created"]);
    }
    for end in ["", "_bucket", "_sum", "_count"] {
        assert_eq!(families(&format!("tallyd_job_wait_seconds{end}")), ["tallyd_job_wait_seconds"]);
    }
    for none in ["", "tallyd_job", "tallyd_jobs_", "tallyd_jobs_total", "tallyd_jobs_bucket", "up"]
    {
        assert_eq!(families(none), [""; 0], "{none}");
    }
    assert_eq!(families("tallyd_jobs"), ["tallyd_jobs"]);
}

#[test]
fn a_scrape_of_ten_thousand_series_allocates_less_than_four_times_its_size() {
    for length in [8, 32, 128] {
        let name = |number| format!("{number:0>length$}");
        let names: Vec<_> = (0..500).map(|number| (name(number / 5), name(number))).collect();
        let pairs: Vec<_> = names.iter().map(|(queue, kind)| (&**queue, &**kind)).collect();
        let metrics = published(&pairs);
        for format in [Format::Text, Format::OpenMetrics] {
            let mut text = String::new();
            let used = measure(|| text = metrics.snapshot().encode(format, |_| true));
            let series = text.lines().filter(|line| !line.starts_with('#')).count();
            assert!(series > 10_000, "{series} series");
            let size = text.len() as u64;
            let of = format!("{format:?} with names of {length}: {} for {size}", used.bytes_total);
            assert!(used.bytes_total <= 4 * size, "{of}");
            assert_eq!(text.capacity(), text.len(), "{of}");
            println!("{of}");
        }
    }
}
