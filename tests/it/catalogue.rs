//! The catalogue of metrics is the one that was promised: names, types, labels, what survives.

use std::process::Command;

use serde_json::Value;

/// Name, type, labels, and where it is kept; section 6 of the design, written down once more, so
/// that no change of the code goes unnoticed by those whose dashboards read it.
const PROMISED: &[(&str, &str, &[&str], Option<&str>)] = &[
    ("tallyd_jobs_created_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs_completed_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs_cancelled_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs_discarded_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs_retried_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs_died_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs_requeued_total", "counter", PAIR, LEDGER),
    ("tallyd_jobs", "gauge", &["queue", "kind", "state"], LEDGER),
    ("tallyd_attempts_started_total", "counter", PAIR, LEDGER),
    ("tallyd_attempts_ended_total", "counter", &["queue", "kind", "result"], LEDGER),
    ("tallyd_attempt_seconds_total", "counter", PAIR, None),
    ("tallyd_leases_lost_total", "counter", &["queue"], LEDGER),
    ("tallyd_duplicates_total", "counter", &["queue"], LEDGER),
    ("tallyd_sweeper_jobs_total", "counter", &["action"], LEDGER),
    ("tallyd_job_wait_seconds", "histogram", &["queue"], None),
    ("tallyd_attempt_duration_seconds", "histogram", &["queue"], None),
    ("tallyd_queue_oldest_ready_timestamp_seconds", "gauge", &["queue"], None),
    ("tallyd_queue_paused", "gauge", &["queue"], None),
    ("tallyd_queue_workers_limit", "gauge", &["queue"], None),
    ("tallyd_queue_workers_busy", "gauge", &["queue"], None),
    ("tallyd_queue_depth_limit", "gauge", &["queue"], None),
    ("tallyd_rejected_total", "counter", &["reason"], None),
    ("tallyd_sweeper_last_run_timestamp_seconds", "gauge", &[], None),
    ("tallyd_store_commit_duration_seconds", "histogram", &[], None),
    ("tallyd_store_commit_operations", "histogram", &[], None),
    ("tallyd_store_errors_total", "counter", &[], None),
    ("tallyd_store_size_bytes", "gauge", &[], None),
    ("tallyd_store_wal_size_bytes", "gauge", &[], None),
    ("tallyd_store_free_bytes", "gauge", &[], None),
    ("tallyd_http_requests_total", "counter", &["route", "method", "code"], None),
    ("tallyd_http_request_duration_seconds", "histogram", &["route"], None),
    ("tallyd_http_connections", "gauge", &[], None),
    ("tallyd_tally_mismatch", "gauge", &[], None),
    ("tallyd_pairs", "gauge", &[], None),
    ("tallyd_pairs_limit", "gauge", &[], None),
    ("tallyd_pairs_overflow_jobs_total", "counter", &[], LEDGER),
    ("tallyd_build_info", "gauge", &["version", "revision"], None),
    ("process_cpu_seconds_total", "counter", &[], None),
    ("process_open_fds", "gauge", &[], None),
    ("process_max_fds", "gauge", &[], None),
    ("process_virtual_memory_bytes", "gauge", &[], None),
    ("process_resident_memory_bytes", "gauge", &[], None),
    ("process_start_time_seconds", "gauge", &[], None),
    ("process_threads", "gauge", &[], None),
];

const PAIR: &[&str] = &["queue", "kind"];

const LEDGER: Option<&str> = Some("ledger");

fn metrics(flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    let output = command.arg("metrics").args(flags).output().expect("it runs");
    assert!(output.status.success(), "{flags:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn the_catalogue_is_the_one_of_the_design() {
    let catalogue: Vec<Value> = serde_json::from_str(&metrics(&["--json"])).expect("JSON");
    let text = |metric: &Value, key: &str| metric[key].as_str().map(str::to_owned);
    let told: Vec<_> = catalogue
        .iter()
        .map(|metric| {
            let labels = metric["labels"].as_array().expect("a list").iter();
            let labels: Vec<_> = labels.map(|label| label.as_str().expect("a name")).collect();
            let (name, kind) = (text(metric, "name"), text(metric, "type"));
            (name.expect("a name"), kind.expect("a type"), labels, text(metric, "kept"))
        })
        .collect();
    let promised = PROMISED.iter().map(|(name, kind, labels, kept)| {
        ((*name).to_owned(), (*kind).to_owned(), labels.to_vec(), kept.map(str::to_owned))
    });
    assert_eq!(told, promised.collect::<Vec<_>>());
    for metric in &catalogue {
        assert!(text(metric, "help").is_some_and(|help| help.ends_with('.')), "{metric}");
    }
}

#[test]
fn people_are_shown_every_metric() {
    let shown = metrics(&[]);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 2 * PROMISED.len(), "two lines each:\n{shown}");
    for ((name, kind, labels, kept), lines) in PROMISED.iter().zip(lines.chunks(2)) {
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let kept = kept.map_or("", |_| ", kept in the ledger");
        assert_eq!(lines[0], format!("{name}{labels} ({kind}{kept})"));
        assert!(lines[1].starts_with("    ") && lines[1].ends_with('.'), "{}", lines[1]);
    }
}
